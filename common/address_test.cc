#include "common/address.h"

#include <gtest/gtest.h>

#include <string>

namespace viommu {
namespace {

TEST(AddressTest, KnowsWhoCanReachIt) {
  struct Case {
    const char* text;
    AddressReach reach;
  };
  for (const Case& c : {
           Case{"127.0.0.1:7070", AddressReach::kLoopback},
           Case{"127.8.9.10:1", AddressReach::kLoopback},
           Case{"localhost:0", AddressReach::kLoopback},
           Case{"[::1]:7070", AddressReach::kLoopback},
           Case{"0.0.0.0:7070", AddressReach::kNetwork},
           Case{"[::]:7070", AddressReach::kNetwork},
           Case{"128.0.0.1:65535", AddressReach::kNetwork},
           Case{"[fe80::1]:7070", AddressReach::kNetwork},
           Case{"localhost.example:7070", AddressReach::kNetwork},
           Case{"unix:/run/viommu/agent.sock", AddressReach::kUnix},
       }) {
    const auto address = ParseAddress(c.text);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(address->reach, c.reach) << c.text;
    EXPECT_EQ(address->ToString(), c.text);
  }
}

TEST(AddressTest, TakesApart) {
  const Address v6 = ParseAddress("[::1]:7070").value();
  EXPECT_EQ(v6.host, "::1");
  EXPECT_EQ(v6.port, 7070);
  EXPECT_EQ(ParseAddress("unix:/a").value().path, "/a");
}

TEST(AddressTest, RefusesTheRest) {
  for (const std::string& text :
       {std::string(""), std::string("7070"), std::string("host"), std::string("host:"), std::string(":7070"),
        std::string("host:65536"), std::string("host:-1"), std::string("host:80x"), std::string("::1:7070"),
        std::string("[::1:7070"), std::string("[host]:7070"), std::string("unix:"), std::string("unix:run/x.sock"),
        std::string("http://host:80"), "unix:/" + std::string(107, 'x')}) {
    EXPECT_EQ(ParseAddress(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_TRUE(ParseAddress("unix:/" + std::string(106, 'x')).ok());
}

}  // namespace
}  // namespace viommu
