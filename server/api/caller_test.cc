#include "server/api/caller.h"

#include <gtest/gtest.h>

namespace viommu::server {
namespace {

TEST(CallerTest, IsTheFirstNameInTheCertificate) {
  PeerIdentity identity;
  identity.authenticated = true;
  identity.common_name = "alice";
  EXPECT_EQ(CallerName(identity, "ipv4:10.0.0.1:5"), "CN=alice");
  identity.dns_names = {"alice.example", "other.example"};
  EXPECT_EQ(CallerName(identity, "ipv4:10.0.0.1:5"), "alice.example");
  identity.uris = {"spiffe://example/alice"};
  EXPECT_EQ(CallerName(identity, "ipv4:10.0.0.1:5"), "spiffe://example/alice");
}

TEST(CallerTest, IsToldByTheListenerWithoutACertificate) {
  EXPECT_EQ(CallerName({}, "unix:/run/viommu.sock"), "unix");
  EXPECT_EQ(CallerName({}, "unix:"), "unix");
  EXPECT_EQ(CallerName({}, "ipv4:127.0.0.1:5"), "loopback");
  EXPECT_EQ(CallerName({}, "ipv6:[::1]:5"), "loopback");
  EXPECT_EQ(CallerName({}, "ipv6:%5B::1%5D:5"), "loopback");
  EXPECT_EQ(CallerName({}, "ipv4:10.0.0.1:5"), "anonymous");
  EXPECT_EQ(CallerName({}, "ipv6:[::11]:5"), "anonymous");
}

}  // namespace
}  // namespace viommu::server
