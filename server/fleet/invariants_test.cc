// Each thing that must hold between the records is noticed when it does not.

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "server/fleet/test_fleet.h"

namespace viommu::server {
namespace {

class InvariantsTest : public FleetTest {
 protected:
  InvariantsTest() {
    Accepted(SetVdevId("v", DeviceOf(kGrace, 0), 8));
    Accepted(CreateNested("v", "n"));
    Accepted(AttachDevice("v", "n", DeviceOf(kGrace, 0)));
    Accepted(CreateStage2("p", kSmall, SmmuOf(kSmall, 0)));
  }

  // Breaks one record and expects an error that begins with its name, and says `what`.
  template <typename T>
  void Broken(T record, const std::function<void(T&)>& damage, const std::string& what) {
    Draft draft(fleet_.tables());
    ASSERT_TRUE(CheckInvariants(draft).ok());
    damage(record);
    const std::string name = record.name();
    draft.Put(std::move(record));
    const absl::Status status = CheckInvariants(draft);
    EXPECT_FALSE(status.ok()) << "expected: " << what;
    EXPECT_NE(status.message().find(what), std::string::npos) << status;
  }
  void Missing(Kind kind, const std::string& name, const std::string& what) {
    Draft draft(fleet_.tables());
    draft.Erase(kind, name);
    const absl::Status status = CheckInvariants(draft);
    EXPECT_FALSE(status.ok()) << "expected: " << what;
    EXPECT_NE(status.message().find(what), std::string::npos) << status;
  }
};

TEST_F(InvariantsTest, Common) {
  const v1::Viommu viommu = fleet_.viommu("v");
  Broken<v1::Viommu>(
      viommu, [](auto& r) { r.clear_uid(); }, "has no uid");
  Broken<v1::Viommu>(
      viommu, [](auto& r) { r.set_observed_generation(r.generation() + 1); }, "do not rise");
  Broken<v1::Viommu>(
      viommu, [](auto& r) { r.set_generation(r.revision() + 1); }, "do not rise");
  Broken<v1::Viommu>(
      viommu, [](auto& r) { r.set_name("viommus/NO"); }, "no valid name");
}

TEST_F(InvariantsTest, Devices) {
  const v1::Device taken = fleet_.device(DeviceOf(kGrace, 0));
  const v1::Device free = fleet_.device(DeviceOf(kGrace, 1));
  Broken<v1::Device>(
      taken, [](auto& r) { r.clear_owner(); }, "should be");
  Broken<v1::Device>(
      taken, [](auto& r) { r.set_state(v1::DEVICE_STATE_RELEASING); }, "should be");
  Broken<v1::Device>(
      taken, [](auto& r) { r.set_missing(true); }, "should be");
  Broken<v1::Device>(
      free, [](auto& r) { r.set_owner("viommus/v/vdevices/8"); }, "instead");
  Broken<v1::Device>(
      free, [](auto& r) { r.set_owner("viommus/v/vdevices/9"); }, "is not recorded");
  Broken<v1::Device>(
      free, [](auto& r) { r.set_missing(true); }, "holds nothing");
  Missing(Kind::kHost, kGrace, "has no host");
}

TEST_F(InvariantsTest, Stage2Domains) {
  Broken<v1::Stage2Domain>(
      fleet_.stage2("s"), [](auto& r) { r.set_host("hosts/none"); }, "has no host");
  Broken<v1::Stage2Domain>(
      fleet_.stage2("p"), [](auto& r) { r.set_smmu(SmmuOf(kGrace, 0)); }, "not on its host");
  Broken<v1::Stage2Domain>(
      fleet_.stage2("s"), [](auto& r) { r.set_state(v1::STATE_DELETING); }, "outlives");
  Broken<v1::Stage2Domain>(
      fleet_.stage2("s"), [](auto& r) { r.set_vm("another"); }, "same host and VM");
  Broken<v1::Stage2Domain>(
      fleet_.stage2("p"),
      [](auto& r) {
        r.set_state(v1::STATE_DELETING);
        r.set_observed_generation(r.generation());
      },
      "nothing is left");
}

TEST_F(InvariantsTest, Viommus) {
  const v1::Viommu viommu = fleet_.viommu("v");
  Broken<v1::Viommu>(
      viommu, [](auto& r) { r.set_smmu(SmmuOf(kSmall, 0)); }, "not on its host");
  Broken<v1::Viommu>(
      viommu, [](auto& r) { r.set_stage2_domain("stage2Domains/none"); }, "is not recorded");
  Broken<v1::Viommu>(
      viommu, [](auto& r) { r.set_stage2_domain("stage2Domains/p"); }, "same host and VM");
  Broken<v1::Viommu>(
      viommu, [](auto& r) { r.set_state(v1::STATE_DELETING); }, "outlives");
  Broken<v1::Stage2Domain>(
      fleet_.stage2("s"), [](auto& r) { r.set_smmu(SmmuOf(kGrace, 1)); }, "serves");
  Missing(Kind::kStage2Domain, "stage2Domains/s", "is not recorded");
}

TEST_F(InvariantsTest, Vdevices) {
  const v1::Vdevice vdevice = fleet_.vdevice("v", 8);
  Broken<v1::Vdevice>(
      vdevice, [](auto& r) { r.set_vdev_id(9); }, "its vdev_id is 9");
  Broken<v1::Vdevice>(
      vdevice, [](auto& r) { r.set_device(DeviceOf(kGrace, 1)); }, "instead");
  Broken<v1::Vdevice>(
      vdevice, [](auto& r) { r.set_vm("another"); }, "same host and VM");
  Broken<v1::Device>(
      fleet_.device(DeviceOf(kGrace, 0)), [](auto& r) { r.set_smmu(SmmuOf(kGrace, 1)); }, "is behind");
  Broken<v1::Vdevice>(
      vdevice, [](auto& r) { r.set_viommu("viommus/none"); }, "not recorded or not its own");
  Broken<v1::Vdevice>(
      vdevice, [](auto& r) { r.set_nested_domain("viommus/v/nestedDomains/none"); }, "not there for it");
  Missing(Kind::kNestedDomain, "viommus/v/nestedDomains/n", "not there for it");
  Missing(Kind::kVdevice, "viommus/v/vdevices/8", "is not recorded");
  Missing(Kind::kDevice, DeviceOf(kGrace, 0), "is not recorded");

  // A second one with the same device: promise 1.
  v1::Vdevice twin = vdevice;
  twin.set_vdev_id(9);
  twin.clear_nested_domain();
  Broken<v1::Vdevice>(
      twin, [](auto& r) { r.set_name("viommus/v/vdevices/9"); }, "belongs to 'viommus/v/vdevices/8'");
}

TEST_F(InvariantsTest, ReservedNames) {
  Accepted(SetVdevId("v", DeviceOf(kGrace, 1), 9));
  Broken<v1::Vdevice>(
      fleet_.vdevice("v", 8), [](auto& r) { r.set_previous_vdev_id(9); }, "is taken");
  Accepted(RebindVdevId("v", 9, 10));
  Broken<v1::Vdevice>(
      fleet_.vdevice("v", 8), [](auto& r) { r.set_previous_vdev_id(9); }, "is taken");
}

TEST_F(InvariantsTest, WhatIsDeletingIsNotAttachedTo) {
  Broken<v1::NestedDomain>(
      fleet_.nested("v", "n"), [](auto& r) { r.set_state(v1::STATE_DELETING); }, "not there for it");
  Broken<v1::NestedDomain>(
      fleet_.nested("v", "n"), [](auto& r) { r.clear_config(); }, "has no config");
}

}  // namespace
}  // namespace viommu::server
