#include "agent/session/hello.h"

#include <gtest/gtest.h>

#include "agent/reconcile/fake_backend.h"

namespace viommu::agent {
namespace {

TEST(HelloTest, TellsTheHostAndItsDevices) {
  FakeBackend backend;
  Inventory inventory = backend.Discover().value();
  inventory.labels = {{"rack", "r1"}, {"zone", "z1"}};
  inventory.smmus[1].hw_queue = HwQueueInventory{.vintfs = 8, .queues_per_vintf = 2, .sid_slots = 16};
  inventory.devices[0].labels = {{"model", "gpu"}};
  const v1::Hello hello = MakeHello({.name = "hosts/h1", .boot_id = "boot", .labels = {{"zone", "z2"}}}, inventory,
                                    backend.GetCapabilities());
  EXPECT_EQ(hello.host().name(), "hosts/h1");
  EXPECT_EQ(hello.host().boot_id(), "boot");
  EXPECT_EQ(hello.host().labels().at("rack"), "r1");
  EXPECT_EQ(hello.host().labels().at("zone"), "z2") << "the agent's own configuration wins";
  EXPECT_EQ(hello.host().backend(), "fake");
  EXPECT_EQ(hello.host().stage2_sharing(), v1::STAGE2_SHARING_SHARED);
  EXPECT_TRUE(hello.host().invalidate_by_nested_domain());
  ASSERT_EQ(hello.host().smmus_size(), 2);
  EXPECT_EQ(hello.host().smmus(0).name(), "hosts/h1/smmus/s0");
  EXPECT_EQ(hello.host().smmus(0).idr_size(), 6);
  EXPECT_EQ(hello.host().smmus(0).vmid_bits(), 16u);
  EXPECT_FALSE(hello.host().smmus(0).has_hw_queue());
  EXPECT_EQ(hello.host().smmus(1).hw_queue().sid_slots(), 16u);
  ASSERT_EQ(hello.devices_size(), 8);
  EXPECT_EQ(hello.devices(0).name(), "hosts/h1/devices/0000:01:00.0");
  EXPECT_EQ(hello.devices(0).smmu(), "hosts/h1/smmus/s0");
  EXPECT_EQ(hello.devices(0).stream_id(), 0x100u);
  EXPECT_EQ(hello.devices(0).labels().at("model"), "gpu");
}

TEST(HelloTest, TellsWhatIsInUseWhereTheBackendCanTell) {
  SmmuStats known;
  known.smmu = "s0";
  known.vmids_used = 3;
  known.vmids_total = 255;
  SmmuStats unknown;
  unknown.smmu = "s1";
  v1::Heartbeat heartbeat;
  FillUsage({.name = "hosts/h1", .boot_id = "boot", .labels = {}}, {known, unknown}, heartbeat);
  ASSERT_EQ(heartbeat.smmus_size(), 1);
  EXPECT_EQ(heartbeat.smmus(0).name(), "hosts/h1/smmus/s0");
  EXPECT_EQ(heartbeat.smmus(0).vmids_used(), 3u);
  EXPECT_EQ(heartbeat.smmus(0).vmids_total(), 255u);
}

}  // namespace
}  // namespace viommu::agent
