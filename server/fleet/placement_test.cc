#include "server/fleet/placement.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "server/fleet/test_fleet.h"

namespace viommu::server {
namespace {

class PlacementTest : public FleetTest {
 protected:
  // Looks at both hosts.
  void Find(v1::FindPlacementRequest request) {
    placements_.clear();
    refusals_.clear();
    ASSERT_TRUE(CheckFindPlacement(request).ok()) << CheckFindPlacement(request);
    ASSERT_TRUE(NarrowToStage2(fleet_.tables(), request).ok());
    for (const auto& host : fleet_.tables().Scan<v1::Host>("")) {
      if (!IsCandidate(request, *host)) continue;
      if (const auto refused = RefuseHost(*host); refused.has_value()) {
        refusals_.push_back(*refused);
        continue;
      }
      const auto devices = fleet_.tables().Scan<v1::Device>(DevicePrefix(host->name()));
      PlaceOnHost(fleet_.tables(), request, *host, devices, placements_, refusals_);
    }
    RankPlacements(request, placements_);
  }

  std::string ReasonFor(const std::string& name) const {
    const auto found = std::find_if(refusals_.begin(), refusals_.end(),
                                    [&](const v1::Refusal& refusal) { return refusal.name() == name; });
    return found == refusals_.end() ? "" : found->reason();
  }
  std::vector<std::string> Places() const {
    std::vector<std::string> places;
    for (const v1::Placement& placement : placements_) places.push_back(placement.smmu());
    return places;
  }

  std::vector<v1::Placement> placements_;
  std::vector<v1::Refusal> refusals_;
};

v1::FindPlacementRequest Wishing(int count) {
  v1::FindPlacementRequest request;
  request.add_devices()->set_count(count);
  return request;
}

TEST_F(PlacementTest, EverySmmuIsAPlaceOrHasAReason) {
  Accepted(SetVdevId("v", DeviceOf(kGrace, 0), 1));
  Find(Wishing(2));
  EXPECT_EQ(Places().size() + refusals_.size(), 4U);
  EXPECT_EQ(ReasonFor(SmmuOf(kGrace, 0)), "DEVICE_TAKEN");
  Find(Wishing(3));
  EXPECT_TRUE(placements_.empty());
  EXPECT_EQ(ReasonFor(SmmuOf(kSmall, 1)), "DEVICE_NOT_FOUND");
}

TEST_F(PlacementTest, DevicesOfAGroupThatAnotherVmHasAreNotFree) {
  v1::Hello hello = GraceHello();
  for (int i = 0; i < 2; ++i) hello.mutable_devices(i)->set_iommu_group(7);
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  auto request = Wishing(1);
  request.set_host(kGrace);
  Find(request);
  EXPECT_EQ(Places().size(), 2U);
  Accepted(SetVdevId("v", DeviceOf(kGrace, 0), 1));
  Find(request);
  EXPECT_EQ(Places(), std::vector<std::string>{SmmuOf(kGrace, 1)});
  EXPECT_EQ(ReasonFor(SmmuOf(kGrace, 0)), "IOMMU_GROUP_TAKEN");
  request.set_vm("vm");
  Find(request);
  EXPECT_EQ(Places().size(), 2U) << "it has the group already";
  request = Wishing(2);
  request.set_host(kGrace);
  Find(request);
  EXPECT_EQ(ReasonFor(SmmuOf(kGrace, 0)), "DEVICE_TAKEN") << "whatever its group";
}

// Devices 0 and 1 are a group. A VM has device 0 on one of its two stage-2 domains: device 1 is for that one alone.
TEST_F(PlacementTest, DevicesOfAGroupAreForItsStage2) {
  v1::Hello hello = GraceHello();
  for (int i = 0; i < 2; ++i) hello.mutable_devices(i)->set_iommu_group(7);
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  Accepted(CreateStage2("second", kGrace, "", fleet_.viommu("v").vm()));
  Accepted(CreateViommu("v-second", SmmuOf(kGrace, 0), "second"));
  Accepted(SetVdevId("v-second", DeviceOf(kGrace, 0), 1));
  auto request = Wishing(1);
  request.set_host(kGrace);
  request.set_vm(fleet_.viommu("v").vm());
  Find(request);
  ASSERT_EQ(Places().size(), 2U);
  for (const v1::Placement& placement : placements_) {
    EXPECT_EQ(placement.stage2_domain(), placement.smmu() == SmmuOf(kGrace, 0) ? "stage2Domains/second" : "");
  }
  Refused(SetVdevId("v", DeviceOf(kGrace, 1), 2), absl::StatusCode::kFailedPrecondition,
          v1::ERROR_REASON_IOMMU_GROUP_TAKEN);
  // No viommu can be made on a domain that is on its way out.
  v1::DeleteStage2DomainRequest deletion;
  deletion.set_name("stage2Domains/second");
  deletion.set_cascade(true);
  Accepted(deletion);
  Find(request);
  EXPECT_EQ(Places(), std::vector<std::string>{SmmuOf(kGrace, 1)});
  EXPECT_EQ(ReasonFor(SmmuOf(kGrace, 0)), "IOMMU_GROUP_TAKEN");
}

// What is offered is taken by the rules, and what is refused is refused by them for the same reason.
TEST_F(PlacementTest, OnlyWhatCanBeOnTheStage2ThatIsThere) {
  v1::Hello hello = GraceHello();
  for (int i = 0; i < 2; ++i) hello.mutable_devices(i)->set_iommu_group(7);
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  Accepted(CreateStage2("second", kGrace, "", fleet_.viommu("v").vm()));
  Accepted(CreateViommu("v-second", SmmuOf(kGrace, 0), "second"));
  Accepted(SetVdevId("v", DeviceOf(kGrace, 0), 1));
  auto request = Wishing(1);
  request.set_stage2_domain("stage2Domains/second");
  Find(request);
  EXPECT_EQ(Places(), std::vector<std::string>{SmmuOf(kGrace, 1)});
  EXPECT_EQ(placements_[0].stage2_domain(), "stage2Domains/second");
  ASSERT_EQ(refusals_.size(), 1U) << "other hosts are no part of the question";
  EXPECT_EQ(ReasonFor(SmmuOf(kGrace, 0)), "IOMMU_GROUP_TAKEN");
  EXPECT_NE(refusals_[0].message().find("that is on stage2Domains/s"), std::string::npos) << refusals_[0].message();
  Refused(SetVdevId("v-second", DeviceOf(kGrace, 1), 1), absl::StatusCode::kFailedPrecondition,
          v1::ERROR_REASON_IOMMU_GROUP_TAKEN);
  Accepted(CreateViommu("w", SmmuOf(kGrace, 1), "second"));
  Accepted(SetVdevId("w", placements_[0].devices(0), 1));
  request.set_stage2_domain("stage2Domains/s");
  Find(request);
  EXPECT_EQ(Places().size(), 2U) << "the group is on this one";
  v1::DeleteStage2DomainRequest deletion;
  deletion.set_name("stage2Domains/second");
  deletion.set_cascade(true);
  Accepted(deletion);
  request.set_stage2_domain("stage2Domains/second");
  Find(request);
  EXPECT_TRUE(placements_.empty());
  EXPECT_EQ(ReasonFor(SmmuOf(kGrace, 1)), "BEING_DELETED");
}

TEST_F(PlacementTest, AStage2OfOneSmmuIsForThatOne) {
  Accepted(CreateStage2("one", kSmall, SmmuOf(kSmall, 0)));
  for (int i = 0; i < 2; ++i) Accepted(CreateStage2("more" + std::to_string(i), kSmall, SmmuOf(kSmall, 0)));
  auto request = Wishing(1);
  request.set_stage2_domain("stage2Domains/one");
  Find(request);
  EXPECT_EQ(Places(), std::vector<std::string>{SmmuOf(kSmall, 0)}) << "it has its VMID, the last one";
  EXPECT_EQ(ReasonFor(SmmuOf(kSmall, 1)), "STAGE2_NOT_SHAREABLE");
  Accepted(CreateViommu("one", SmmuOf(kSmall, 0), "one"));
  Refused(CreateViommu("other", SmmuOf(kSmall, 1), "one"), absl::StatusCode::kFailedPrecondition,
          v1::ERROR_REASON_STAGE2_NOT_SHAREABLE);
}

TEST_F(PlacementTest, TheOwnersQuotaOfAStage2Counts) {
  auto owned = CreateStage2("owned", kGrace, "", "theirs");
  (*owned.mutable_stage2_domain()->mutable_labels())["owner"] = "acme";
  Accepted(owned);
  v1::SetQuotaRequest quota;
  quota.mutable_quota()->set_name("quotas/acme");
  quota.mutable_quota()->set_max_viommus(0);
  Accepted(quota);
  auto request = Wishing(1);
  request.set_stage2_domain("stage2Domains/owned");
  Find(request);
  EXPECT_EQ(ReasonFor(SmmuOf(kGrace, 0)), "QUOTA_EXCEEDED");
  quota.mutable_quota()->set_max_viommus(1);
  quota.mutable_quota()->set_max_vdevices(0);
  Accepted(quota);
  Find(request);
  EXPECT_EQ(ReasonFor(SmmuOf(kGrace, 0)), "QUOTA_EXCEEDED");
}

// Two groups on two stage-2 domains: no viommu could have devices of both.
TEST_F(PlacementTest, AllDevicesOfAPlaceAreForOneStage2) {
  v1::Hello hello = GraceHello();
  for (int i = 2; i < 4; ++i) {
    v1::Device& device = *hello.add_devices();
    device = hello.devices(i - 2);
    device.set_name(DeviceOf(kGrace, 4 + i));
    device.set_stream_id(0x1000U + static_cast<uint32_t>(i));
  }
  const int first = hello.devices_size() - 2;
  for (int i = 0; i < 2; ++i) {
    hello.mutable_devices(i)->set_iommu_group(7 + static_cast<uint32_t>(i));
    hello.mutable_devices(first + i)->set_iommu_group(7 + static_cast<uint32_t>(i));
  }
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  Accepted(CreateStage2("second", kGrace, "", fleet_.viommu("v").vm()));
  Accepted(CreateViommu("v-second", SmmuOf(kGrace, 0), "second"));
  Accepted(SetVdevId("v", hello.devices(0).name(), 1));
  Accepted(SetVdevId("v-second", hello.devices(1).name(), 1));
  auto request = Wishing(2);
  request.set_host(kGrace);
  request.set_vm(fleet_.viommu("v").vm());
  Find(request);
  EXPECT_EQ(ReasonFor(SmmuOf(kGrace, 0)), "IOMMU_GROUP_TAKEN");
  request.mutable_devices(0)->set_count(1);
  Find(request);
  EXPECT_EQ(ReasonFor(SmmuOf(kGrace, 0)), "") << "one fits";
}

// The devices were read a moment before the rest.
TEST_F(PlacementTest, ADeviceMayHaveBeenLetGoOfMeanwhile) {
  v1::Hello hello = GraceHello();
  for (int i = 0; i < 2; ++i) hello.mutable_devices(i)->set_iommu_group(7);
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  Accepted(SetVdevId("v", DeviceOf(kGrace, 0), 1));
  const auto before = fleet_.tables().Scan<v1::Device>(DevicePrefix(kGrace));
  Accepted(UnsetVdevId("v", 1));
  ASSERT_TRUE(fleet_.Answer(fleet_.vdevice("v", 1), v1::OUTCOME_RELEASED).ok());
  PlaceOnHost(fleet_.tables(), Wishing(1), *fleet_.tables().Find<v1::Host>(kGrace), before, placements_, refusals_);
  EXPECT_EQ(Places().size(), 2U);
}

TEST_F(PlacementTest, TheTightestFitIsFirst) {
  Accepted(SetVdevId("v", DeviceOf(kGrace, 0), 1));
  Find(Wishing(1));
  ASSERT_EQ(placements_.size(), 4U);
  EXPECT_EQ(placements_[0].smmu(), SmmuOf(kGrace, 0));
  EXPECT_EQ(placements_[0].devices_left(), 0U);
  EXPECT_EQ(placements_[0].devices(0), DeviceOf(kGrace, 1));
  EXPECT_EQ(placements_[1].smmu(), SmmuOf(kSmall, 0)) << "fewer VMIDs left than on grace";
  auto one = Wishing(1);
  one.set_max_placements(1);
  Find(one);
  EXPECT_EQ(placements_.size(), 1U);
}

// Two wishes that the same device could grant: the one that only it grants gets it.
TEST_F(PlacementTest, WishesDoNotTakeWhatAnotherNeeds) {
  v1::Hello hello = GraceHello();
  hello.mutable_devices(0)->set_ats(true);
  (*hello.mutable_devices(0)->mutable_labels())["kind"] = "gpu";
  (*hello.mutable_devices(1)->mutable_labels())["kind"] = "gpu";
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  v1::FindPlacementRequest request;
  (*request.add_devices()->mutable_labels())["kind"] = "gpu";
  request.add_devices()->set_ats(true);
  Find(request);
  ASSERT_EQ(placements_.size(), 1U);
  EXPECT_EQ(placements_[0].devices(0), DeviceOf(kGrace, 1));
  EXPECT_EQ(placements_[0].devices(1), DeviceOf(kGrace, 0));
  request.mutable_devices(1)->set_count(2);
  Find(request);
  EXPECT_TRUE(placements_.empty());
  EXPECT_EQ(ReasonFor(SmmuOf(kGrace, 0)), "DEVICE_NOT_FOUND");
}

// Labels of hosts say where to look: a host without them is neither a place nor refused.
TEST_F(PlacementTest, OnlyHostsWithAllOfTheLabels) {
  v1::Hello grace = GraceHello();
  (*grace.mutable_host()->mutable_labels())["zone"] = "a";
  (*grace.mutable_host()->mutable_labels())["rack"] = "7";
  ASSERT_TRUE(fleet_.Hello(grace).ok());
  v1::Hello small = SmallHello();
  (*small.mutable_host()->mutable_labels())["zone"] = "a";
  ASSERT_TRUE(fleet_.Hello(small).ok());
  auto request = Wishing(1);
  (*request.mutable_host_labels())["zone"] = "a";
  Find(request);
  EXPECT_EQ(Places().size(), 4U);
  (*request.mutable_host_labels())["rack"] = "7";
  Find(request);
  std::vector<std::string> places = Places();
  std::sort(places.begin(), places.end());
  EXPECT_EQ(places, (std::vector{SmmuOf(kGrace, 0), SmmuOf(kGrace, 1)}));
  EXPECT_TRUE(refusals_.empty());
  (*request.mutable_host_labels())["rack"] = "8";
  Find(request);
  EXPECT_TRUE(placements_.empty() && refusals_.empty());
}

TEST_F(PlacementTest, DevicesNeedThePasidsThatAreWished) {
  v1::Hello hello = GraceHello();
  hello.mutable_devices(0)->set_max_pasid_log2(8);
  hello.mutable_devices(2)->set_max_pasid_log2(16);
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  auto request = Wishing(1);
  request.set_host(kGrace);
  request.mutable_devices(0)->set_min_pasid_log2(8);
  Find(request);
  EXPECT_EQ(Places().size(), 2U);
  request.mutable_devices(0)->set_min_pasid_log2(9);
  Find(request);
  ASSERT_EQ(Places(), std::vector{SmmuOf(kGrace, 1)});
  EXPECT_EQ(placements_[0].devices(0), DeviceOf(kGrace, 2));
  EXPECT_EQ(ReasonFor(SmmuOf(kGrace, 0)), "DEVICE_NOT_FOUND");
  request.mutable_devices(0)->set_min_pasid_log2(17);
  Find(request);
  EXPECT_EQ(refusals_.size(), 2U);
}

TEST_F(PlacementTest, HostsThatTakeNothing) {
  v1::CordonHostRequest cordon;
  cordon.set_name(kGrace);
  Accepted(cordon);
  ASSERT_TRUE(fleet_.Disconnect(kSmall).ok());
  Find(Wishing(1));
  EXPECT_TRUE(placements_.empty());
  EXPECT_EQ(ReasonFor(kGrace), "HOST_CORDONED");
  EXPECT_EQ(ReasonFor(kSmall), "HOST_DISCONNECTED");
}

TEST_F(PlacementTest, AHostWithoutViommusSaysWhy) {
  v1::Hello hello = GraceHello();
  v1::Capability& capability = *hello.mutable_host()->add_capabilities();
  capability.set_name("viommu");
  capability.set_reason("neither FWB nor CANWBS");
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  Find(Wishing(1));
  EXPECT_EQ(ReasonFor(kGrace), "SMMU_INCAPABLE");
}

TEST_F(PlacementTest, BudgetsCount) {
  for (int i = 0; i < 3; ++i) Accepted(CreateStage2("x" + std::to_string(i), kSmall, SmmuOf(kSmall, 0)));
  auto request = Wishing(1);
  request.set_max_vdev_id(uint64_t{1} << 24);
  Find(request);
  EXPECT_EQ(ReasonFor(SmmuOf(kSmall, 0)), "VMID_EXHAUSTED");
  EXPECT_EQ(ReasonFor(SmmuOf(kSmall, 1)), "VDEV_ID_TOO_WIDE");
  request = Wishing(2);
  request.set_type(v1::VIOMMU_TYPE_TEGRA241_CMDQV);
  Find(request);
  EXPECT_EQ(ReasonFor(SmmuOf(kGrace, 0)), "HW_QUEUE_EXHAUSTED") << "an interface translates one StreamID";
  EXPECT_EQ(ReasonFor(SmmuOf(kGrace, 1)), "SMMU_INCAPABLE");
  request.mutable_devices(0)->set_count(1);
  Find(request);
  EXPECT_EQ(Places(), std::vector{SmmuOf(kGrace, 0)});
  Accepted(CreateViommu("q", SmmuOf(kGrace, 0), "s", v1::VIOMMU_TYPE_TEGRA241_CMDQV));
  Find(request);
  EXPECT_EQ(ReasonFor(SmmuOf(kGrace, 0)), "HW_QUEUE_EXHAUSTED");
}

// What is said to fit is taken by the rules.
TEST_F(PlacementTest, WhatFitsIsTaken) {
  Find(Wishing(2));
  ASSERT_FALSE(placements_.empty());
  for (const v1::Placement& placement : placements_) {
    const std::string id = "p" + std::to_string(&placement - placements_.data());
    Accepted(CreateStage2(id, std::string(ParentName(placement.smmu())), placement.smmu()));
    Accepted(CreateViommu(id, placement.smmu(), id));
    uint64_t vdev_id = 0;
    for (const std::string& device : placement.devices()) Accepted(SetVdevId(id, device, vdev_id++));
  }
}

TEST_F(PlacementTest, WhatMayNotBeWished) {
  const auto reason = [](const v1::FindPlacementRequest& request) {
    return ReasonName(ReasonOf(CheckFindPlacement(request)));
  };
  EXPECT_EQ(reason(v1::FindPlacementRequest()), "INVALID_FIELD");
  EXPECT_EQ(reason(Wishing(-1)), "INVALID_FIELD");
  EXPECT_EQ(reason(Wishing(kMaxWishedDevices + 1)), "LIMIT_EXCEEDED");
  v1::FindPlacementRequest many;
  for (int i = 0; i <= kMaxDeviceWishes; ++i) many.add_devices();
  EXPECT_EQ(reason(many), "LIMIT_EXCEEDED");
  auto elsewhere = Wishing(1);
  elsewhere.set_host("grace");
  EXPECT_EQ(reason(elsewhere), "INVALID_FIELD");
}

}  // namespace
}  // namespace viommu::server
