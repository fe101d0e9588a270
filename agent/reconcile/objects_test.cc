#include "agent/reconcile/objects.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace viommu::agent {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

Made VdeviceOf(const std::string& viommu, const std::string& pci_address, ObjectId device) {
  return {.kind = ItemKind::kVdevice,
          .vm = "vm",
          .parent = viommu,
          .pci_address = pci_address,
          .stage2_name = "stage2Domains/s",
          .device = device};
}

TEST(ObjectsTest, KnowsWhoHoldsWhatUntilItIsGone) {
  Objects objects;
  objects.Add("s", {.kind = ItemKind::kStage2Domain, .vm = "vm", .id = 1});
  objects.Add("v", {.kind = ItemKind::kViommu, .vm = "vm", .parent = "s", .id = 2, .vmid = 9});
  objects.Add("n", {.kind = ItemKind::kNestedDomain, .vm = "vm", .parent = "v", .id = 3});
  objects.Add("d", VdeviceOf("v", "0000:01:00.0", 4));
  objects.Add("e", VdeviceOf("v", "0000:01:00.1", 5));
  EXPECT_EQ(objects.size(), 5u);
  EXPECT_EQ(objects.Find("v")->vmid, 9u);
  EXPECT_EQ(objects.Find("x"), nullptr);
  EXPECT_EQ(objects.HolderOf("0000:01:00.1"), "e");
  EXPECT_EQ(objects.HolderOf("0000:01:00.2"), "");
  EXPECT_EQ(objects.OwnerOf("vm", 2), "v");
  EXPECT_EQ(objects.OwnerOf("vm", 5), "e") << "a device is its vdevice's";
  EXPECT_EQ(objects.OwnerOf("vm2", 5), "");
  EXPECT_THAT(objects.BoundToViommu("v"), ElementsAre("d", "e"));
  EXPECT_THAT(objects.BoundToStage2("stage2Domains/s"), ElementsAre("d", "e"));
  EXPECT_THAT(objects.BoundToViommu("w"), IsEmpty());

  EXPECT_EQ(objects.HolderOf("v", 7), "");
  objects.SetVdevice("d", 6, 7);
  EXPECT_EQ(objects.HolderOf("v", 7), "d");
  EXPECT_EQ(objects.HolderOf("w", 7), "");
  objects.SetVdevice("d", 0, 0);
  objects.SetVdevice("d", 8, 9);
  EXPECT_EQ(objects.HolderOf("v", 7), "");
  EXPECT_EQ(objects.HolderOf("v", 9), "d");

  EXPECT_TRUE(objects.SomethingStandsOn("v"));
  EXPECT_FALSE(objects.SomethingStandsOn("n"));
  EXPECT_THAT(objects.StandingOn("v"), ElementsAre("d", "e", "n"));
  EXPECT_THAT(objects.StandingOn("n"), IsEmpty());
  objects.SetAttached("d", "n");
  EXPECT_TRUE(objects.SomethingStandsOn("n"));
  EXPECT_THAT(objects.StandingOn("n"), ElementsAre("d"));
  objects.SetAttached("d", "s");
  EXPECT_FALSE(objects.SomethingStandsOn("n"));

  EXPECT_THAT(objects.StandingOn("s"), ElementsAre("d", "v"));

  objects.Erase("d");  // with all it had
  EXPECT_EQ(objects.HolderOf("v", 9), "");
  EXPECT_EQ(objects.HolderOf("0000:01:00.0"), "");
  EXPECT_THAT(objects.BoundToViommu("v"), ElementsAre("e"));
  EXPECT_TRUE(objects.SomethingStandsOn("s")) << "the viommu";
  for (const char* uid : {"e", "n", "v"}) {
    EXPECT_TRUE(objects.SomethingStandsOn("s"));
    objects.Erase(uid);
  }
  EXPECT_FALSE(objects.SomethingStandsOn("s"));
  EXPECT_TRUE(objects.VmHasObjects("vm"));
  objects.Erase("s");
  EXPECT_FALSE(objects.VmHasObjects("vm"));
  EXPECT_EQ(objects.size(), 0u);
}

}  // namespace
}  // namespace viommu::agent
