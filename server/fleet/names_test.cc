#include "server/fleet/names.h"

#include <gtest/gtest.h>

#include <string>

namespace viommu::server {
namespace {

TEST(NamesTest, IdsOfCallers) {
  EXPECT_TRUE(IsId("a"));
  EXPECT_TRUE(IsId("vm-1-smmu0"));
  EXPECT_TRUE(IsId(std::string(63, 'a')));
  for (const std::string& bad : {std::string(), std::string("1a"), std::string("-a"), std::string("A"),
                                 std::string("a_b"), std::string("a/b"), std::string(64, 'a')}) {
    EXPECT_FALSE(IsId(bad)) << bad;
  }
}

TEST(NamesTest, Hosts) {
  EXPECT_TRUE(IsHostName("hosts/rack-1.example.com"));
  EXPECT_TRUE(IsHostName("hosts/10"));
  for (const char* bad : {"", "hosts/", "hosts/a/", "hosts/A", "hosts/-a", "hosts/a.", "host/a", "xhosts/a"}) {
    EXPECT_FALSE(IsHostName(bad)) << bad;
  }
}

TEST(NamesTest, SmmusAndDevices) {
  EXPECT_TRUE(IsSmmuName("hosts/a/smmus/smmu3.0x0000000011000000"));
  EXPECT_FALSE(IsSmmuName("hosts/a/smmus/"));
  EXPECT_FALSE(IsSmmuName("hosts/a/smmus/b/c"));
  EXPECT_FALSE(IsSmmuName("smmus/b"));
  EXPECT_TRUE(IsDeviceName("hosts/a/devices/0000:01:00.0"));
  EXPECT_TRUE(IsDeviceName("hosts/a/devices/10000:ff:1f.7"));
  for (const char* bad : {"0000:01:00.8", "0000:01:20.0", "0000:1:00.0", "000:01:00.0", "0000:01:00", "0000:0G:00.0",
                          "0000:01:00.0x", "000000000:01:00.0", "0000:AB:00.0"}) {
    EXPECT_FALSE(IsDeviceName(std::string("hosts/a/devices/") + bad)) << bad;
  }
}

TEST(NamesTest, VdevIdsAreCanonicalDecimals) {
  EXPECT_TRUE(IsVdeviceName("viommus/v/vdevices/0"));
  EXPECT_TRUE(IsVdeviceName("viommus/v/vdevices/4294967295"));
  for (const char* bad : {"", "00", "01", "-1", "+1", "0x1", "1 ", "18446744073709551616"}) {
    EXPECT_FALSE(IsVdeviceName(std::string("viommus/v/vdevices/") + bad)) << bad;
  }
  EXPECT_EQ(VdeviceName("viommus/v", 256), "viommus/v/vdevices/256");
}

TEST(NamesTest, KindsFollowFromNames) {
  EXPECT_EQ(KindOfName("hosts/a"), Kind::kHost);
  EXPECT_EQ(KindOfName("hosts/a/devices/0000:01:00.0"), Kind::kDevice);
  EXPECT_EQ(KindOfName("stage2Domains/s"), Kind::kStage2Domain);
  EXPECT_EQ(KindOfName("viommus/v"), Kind::kViommu);
  EXPECT_EQ(KindOfName("viommus/v/vdevices/1"), Kind::kVdevice);
  EXPECT_EQ(KindOfName("viommus/v/nestedDomains/n"), Kind::kNestedDomain);
  EXPECT_EQ(KindOfName("hosts/a/smmus/b"), std::nullopt);
  EXPECT_EQ(KindOfName("viommus/v/vdevices/1/x"), std::nullopt);
}

TEST(NamesTest, Parents) {
  EXPECT_EQ(ParentName("hosts/a/smmus/b"), "hosts/a");
  EXPECT_EQ(ParentName("viommus/v/vdevices/1"), "viommus/v");
  EXPECT_EQ(ParentName("viommus/v"), "");
  EXPECT_EQ(ParentName(""), "");
}

}  // namespace
}  // namespace viommu::server
