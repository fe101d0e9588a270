// Promises 1, 2, 3 and 4: who has a device, and under which guest StreamID.

#include <gtest/gtest.h>

#include <string>

#include "server/fleet/test_fleet.h"

namespace viommu::server {
namespace {

using absl::StatusCode;

class VdeviceRulesTest : public FleetTest {
 protected:
  VdeviceRulesTest() {
    Accepted(CreateViommu("v2", SmmuOf(kGrace, 0), "s"));
    Accepted(SetVdevId("v", device0_, 8));
  }

  const std::string device0_ = DeviceOf(kGrace, 0);
  const std::string device1_ = DeviceOf(kGrace, 1);
};

TEST_F(VdeviceRulesTest, SetRecordsTheVdeviceAndItsDeviceInOneChange) {
  auto request = SetVdevId("v", device1_, 9);
  (*request.mutable_labels())["nic"] = "1";
  const auto response = fleet_.Do(request);
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(fleet_.changes().size(), 2u);
  const v1::Vdevice vdevice = fleet_.vdevice("v", 9);
  EXPECT_EQ(response->vdevice().ShortDebugString(), vdevice.ShortDebugString());
  EXPECT_EQ(vdevice.state(), v1::STATE_PENDING);
  EXPECT_EQ(vdevice.generation(), fleet_.revision());
  EXPECT_EQ(vdevice.revision(), fleet_.revision());
  EXPECT_EQ(vdevice.observed_generation(), 0);
  EXPECT_EQ(vdevice.device(), device1_);
  EXPECT_EQ(vdevice.stream_id(), 0x100u);
  EXPECT_EQ(vdevice.host(), kGrace);
  EXPECT_EQ(vdevice.vm(), "vm");
  EXPECT_EQ(vdevice.labels().at("nic"), "1");
  EXPECT_FALSE(vdevice.uid().empty());
  EXPECT_FALSE(vdevice.etag().empty());
  const v1::Device device = fleet_.device(device1_);
  EXPECT_EQ(device.owner(), vdevice.name());
  EXPECT_EQ(device.state(), v1::DEVICE_STATE_ASSIGNED);
  EXPECT_EQ(device.revision(), fleet_.revision());
}

TEST_F(VdeviceRulesTest, WhatDoesNotExistIsNamed) {
  const absl::Status status =
      Refused(SetVdevId("nobody", device1_, 1), StatusCode::kNotFound, v1::ERROR_REASON_VIOMMU_NOT_FOUND);
  EXPECT_EQ(DetailOf<google::rpc::ResourceInfo>(status).resource_name(), "viommus/nobody");
  EXPECT_EQ(DetailOf<google::rpc::ResourceInfo>(status).resource_type(), "viommu.v1.Viommu");
  Refused(SetVdevId("v", DeviceOf(kGrace, 9), 1), StatusCode::kNotFound, v1::ERROR_REASON_DEVICE_NOT_FOUND);
  Refused(UnsetVdevId("v", 77), StatusCode::kNotFound, v1::ERROR_REASON_VDEVICE_NOT_FOUND);
  Refused(RebindVdevId("v", 77, 78), StatusCode::kNotFound, v1::ERROR_REASON_VDEVICE_NOT_FOUND);
}

TEST_F(VdeviceRulesTest, MalformedFieldsAreNamed) {
  const absl::Status status =
      Refused(SetVdevId("v", "0000:01:00.0", 1), StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  EXPECT_EQ(DetailOf<google::rpc::BadRequest>(status).field_violations(0).field(), "device");
  Refused(SetVdevId("V", device1_, 1), StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  auto labels = SetVdevId("v", device1_, 1);
  (*labels.mutable_labels())[""] = "x";
  Refused(labels, StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  labels.clear_labels();
  (*labels.mutable_labels())["k"] = std::string(kMaxLabelValueBytes + 1, 'x');
  Refused(labels, StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  labels.clear_labels();
  for (int i = 0; i <= kMaxLabels; ++i) (*labels.mutable_labels())["k" + std::to_string(i)] = "";
  Refused(labels, StatusCode::kInvalidArgument, v1::ERROR_REASON_LIMIT_EXCEEDED);
}

// Promise 1.
TEST_F(VdeviceRulesTest, ADeviceIsInOneVdeviceOnly) {
  const absl::Status status =
      Refused(SetVdevId("v2", device0_, 1), StatusCode::kAlreadyExists, v1::ERROR_REASON_DEVICE_TAKEN);
  EXPECT_EQ(MetaOf(status, "holder"), "viommus/v/vdevices/8");
  EXPECT_EQ(DetailOf<google::rpc::ResourceInfo>(status).owner(), "viommus/v/vdevices/8");
  Refused(SetVdevId("v", device0_, 8), StatusCode::kAlreadyExists, v1::ERROR_REASON_DEVICE_TAKEN);
}

// Promise 1.
TEST_F(VdeviceRulesTest, ADeviceIsFreeOnlyWhenItsHostHasConfirmed) {
  Accepted(UnsetVdevId("v", 8));
  const v1::Vdevice deleting = fleet_.vdevice("v", 8);
  EXPECT_EQ(deleting.state(), v1::STATE_DELETING);
  EXPECT_EQ(deleting.generation(), fleet_.revision());
  EXPECT_EQ(fleet_.device(device0_).state(), v1::DEVICE_STATE_RELEASING);
  EXPECT_EQ(fleet_.device(device0_).owner(), deleting.name());
  Refused(SetVdevId("v2", device0_, 1), StatusCode::kAlreadyExists, v1::ERROR_REASON_DEVICE_TAKEN);
  const absl::Status taken =
      Refused(SetVdevId("v", device1_, 8), StatusCode::kAlreadyExists, v1::ERROR_REASON_VDEV_ID_TAKEN);
  EXPECT_EQ(MetaOf(taken, "holder"), deleting.name());

  ASSERT_TRUE(fleet_.Answer(deleting, v1::OUTCOME_FAILED).ok());
  EXPECT_EQ(fleet_.vdevice("v", 8).state(), v1::STATE_DELETING);
  EXPECT_EQ(fleet_.vdevice("v", 8).state_reason().reason(), "BACKEND_FAILED");
  Refused(SetVdevId("v2", device0_, 1), StatusCode::kAlreadyExists, v1::ERROR_REASON_DEVICE_TAKEN);

  ASSERT_TRUE(fleet_.Answer(deleting, v1::OUTCOME_RELEASED).ok());
  EXPECT_FALSE(fleet_.Has(deleting));
  EXPECT_EQ(fleet_.device(device0_).state(), v1::DEVICE_STATE_FREE);
  EXPECT_EQ(fleet_.device(device0_).owner(), "");
  Accepted(SetVdevId("v2", device0_, 1));
}

// Two devices of one IOMMU group, on one SMMU.
v1::Hello GraceHelloWithAGroup() {
  v1::Hello hello = GraceHello();
  for (int i = 0; i < 2; ++i) hello.mutable_devices(i)->set_iommu_group(7);
  return hello;
}

// Promise 3.
TEST_F(VdeviceRulesTest, AnIommuGroupGoesToOneVm) {
  ASSERT_TRUE(fleet_.Hello(GraceHelloWithAGroup()).ok());
  EXPECT_TRUE(fleet_.device(device0_).iommu_group_shared());
  EXPECT_FALSE(fleet_.device(DeviceOf(kGrace, 2)).iommu_group_shared());
  Accepted(CreateStage2("other", kGrace, "", "other-vm"));
  Accepted(CreateViommu("o", SmmuOf(kGrace, 0), "other"));

  const absl::Status status =
      Refused(SetVdevId("o", device1_, 1), StatusCode::kFailedPrecondition, v1::ERROR_REASON_IOMMU_GROUP_TAKEN);
  EXPECT_EQ(MetaOf(status, "holder"), "viommus/v/vdevices/8");
  EXPECT_EQ(DetailOf<google::rpc::ResourceInfo>(status).resource_name(), device0_)
      << "it names the device of the group";
  EXPECT_EQ(DetailOf<google::rpc::ResourceInfo>(status).owner(), "viommus/v/vdevices/8");
  Accepted(SetVdevId("v2", device1_, 1));  // another viommu of the same VM
  Accepted(UnsetVdevId("v2", 1));
  ASSERT_TRUE(fleet_.Answer(fleet_.vdevice("v2", 1), v1::OUTCOME_RELEASED).ok());

  Accepted(UnsetVdevId("v", 8));
  Refused(SetVdevId("o", device1_, 1), StatusCode::kFailedPrecondition, v1::ERROR_REASON_IOMMU_GROUP_TAKEN);
  ASSERT_TRUE(fleet_.Answer(fleet_.vdevice("v", 8), v1::OUTCOME_RELEASED).ok());
  Accepted(SetVdevId("o", device1_, 1));
  Refused(SetVdevId("v", device0_, 8), StatusCode::kFailedPrecondition, v1::ERROR_REASON_IOMMU_GROUP_TAKEN);
}

// Promise 3.
TEST_F(VdeviceRulesTest, AnIommuGroupGoesToOneStage2) {
  ASSERT_TRUE(fleet_.Hello(GraceHelloWithAGroup()).ok());
  Accepted(CreateStage2("second", kGrace, "", fleet_.vdevice("v", 8).vm()));
  Accepted(CreateViommu("s", SmmuOf(kGrace, 0), "second"));
  const absl::Status status =
      Refused(SetVdevId("s", device1_, 1), StatusCode::kFailedPrecondition, v1::ERROR_REASON_IOMMU_GROUP_TAKEN);
  EXPECT_NE(status.message().find("a group is attached to one stage 2"), std::string::npos) << status;
  EXPECT_EQ(MetaOf(status, "holder"), "viommus/v/vdevices/8");
  Accepted(SetVdevId("v2", device1_, 1));
}

// Promise 3.
TEST_F(VdeviceRulesTest, AnIommuGroupGoesToOneVmInABatchToo) {
  ASSERT_TRUE(fleet_.Hello(GraceHelloWithAGroup()).ok());
  Accepted(CreateStage2("other", kGrace, "", "other-vm"));
  Accepted(CreateViommu("o", SmmuOf(kGrace, 0), "other"));
  v1::BatchSetVdevIdsRequest batch;
  batch.set_viommu(ViommuName("o"));
  batch.add_assignments()->set_device(device1_);
  Refused(batch, StatusCode::kFailedPrecondition, v1::ERROR_REASON_IOMMU_GROUP_TAKEN);
}

// Groups may change with a reboot; what is assigned then stays so, and the host refuses what it cannot do.
TEST_F(VdeviceRulesTest, GroupsAreThoseOfTheLastHello) {
  Accepted(CreateStage2("other", kGrace, "", "other-vm"));
  Accepted(CreateViommu("o", SmmuOf(kGrace, 0), "other"));
  Accepted(SetVdevId("o", device1_, 1));
  ASSERT_TRUE(fleet_.Hello(GraceHelloWithAGroup()).ok());
  EXPECT_EQ(fleet_.device(device1_).owner(), "viommus/o/vdevices/1");
  Accepted(UnsetVdevId("o", 1));
  ASSERT_TRUE(fleet_.Answer(fleet_.vdevice("o", 1), v1::OUTCOME_RELEASED).ok());
  Refused(SetVdevId("o", device1_, 1), StatusCode::kFailedPrecondition, v1::ERROR_REASON_IOMMU_GROUP_TAKEN);
  ASSERT_TRUE(fleet_.Hello(GraceHello()).ok());
  EXPECT_FALSE(fleet_.device(device1_).iommu_group_shared());
  Accepted(SetVdevId("o", device1_, 1));
}

// Its number may be another group's by now.
TEST_F(VdeviceRulesTest, AMissingDeviceIsInNoGroup) {
  v1::Hello hello = GraceHelloWithAGroup();
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  v1::Device& third = *hello.add_devices();
  third = hello.devices(1);
  third.set_name(DeviceOf(kGrace, 9));
  hello.mutable_devices()->erase(hello.devices().begin());  // device 0, which "v" has
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  EXPECT_EQ(fleet_.device(device0_).state(), v1::DEVICE_STATE_MISSING);
  Accepted(CreateStage2("other", kGrace, "", "other-vm"));
  Accepted(CreateViommu("o", SmmuOf(kGrace, 0), "other"));
  Accepted(SetVdevId("o", device1_, 1));
}

TEST_F(VdeviceRulesTest, UnsetTwiceIsUnsetOnce) {
  Accepted(UnsetVdevId("v", 8));
  const int64_t revision = fleet_.revision();
  const auto again = fleet_.Do(UnsetVdevId("v", 8));
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->vdevice().generation(), revision);
  EXPECT_EQ(fleet_.revision(), revision);
}

// Promise 2.
TEST_F(VdeviceRulesTest, AVdevIdIsUniqueInItsViommuAlone) {
  const absl::Status status =
      Refused(SetVdevId("v", device1_, 8), StatusCode::kAlreadyExists, v1::ERROR_REASON_VDEV_ID_TAKEN);
  EXPECT_EQ(MetaOf(status, "holder"), "viommus/v/vdevices/8");
  EXPECT_EQ(MetaOf(status, "device"), device0_);
  Accepted(SetVdevId("v2", device1_, 8));
}

// Promise 2.
TEST_F(VdeviceRulesTest, AVdevIdFitsIn32BitsAndInTheStreamIds) {
  Refused(SetVdevId("v", device1_, uint64_t{1} << 32), StatusCode::kInvalidArgument,
          v1::ERROR_REASON_VDEV_ID_OUT_OF_RANGE);
  Refused(SetVdevId("v", device1_, ~uint64_t{0}), StatusCode::kInvalidArgument, v1::ERROR_REASON_VDEV_ID_OUT_OF_RANGE);
  Refused(SetVdevId("v", device1_, 0xffff'ffff), StatusCode::kInvalidArgument, v1::ERROR_REASON_VDEV_ID_TOO_WIDE);
  Refused(SetVdevId("v", device1_, 1 << 24), StatusCode::kInvalidArgument, v1::ERROR_REASON_VDEV_ID_TOO_WIDE);
  Accepted(SetVdevId("v", device1_, (1 << 24) - 1));
}

TEST_F(VdeviceRulesTest, StreamIdsOf32BitsTakeEvery32BitNumber) {
  v1::Hello hello = GraceHello();
  for (v1::Smmu& smmu : *hello.mutable_host()->mutable_smmus()) smmu.set_sid_bits(32);
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  Accepted(SetVdevId("v", device1_, 0xffff'ffff));
}

// Promise 2.
TEST_F(VdeviceRulesTest, HardwareQueuesTakeTwentyBitsAndAFixedNumberOfDevices) {
  Accepted(CreateViommu("hw", SmmuOf(kGrace, 0), "s", v1::VIOMMU_TYPE_TEGRA241_CMDQV));
  Refused(SetVdevId("hw", device1_, 1 << 20), StatusCode::kInvalidArgument, v1::ERROR_REASON_VDEV_ID_TOO_WIDE);
  Accepted(SetVdevId("hw", device1_, (1 << 20) - 1));
  Accepted(UnsetVdevId("v", 8));
  ASSERT_TRUE(fleet_.Answer(fleet_.vdevice("v", 8), v1::OUTCOME_RELEASED).ok());
  const absl::Status status =
      Refused(SetVdevId("hw", device0_, 1), StatusCode::kResourceExhausted, v1::ERROR_REASON_HW_QUEUE_EXHAUSTED);
  EXPECT_EQ(MetaOf(status, "total"), "1");
}

// Promise 3.
TEST_F(VdeviceRulesTest, DeviceAndViommuAreOnOneSmmu) {
  const absl::Status status =
      Refused(SetVdevId("v", DeviceOf(kGrace, 2), 1), StatusCode::kFailedPrecondition, v1::ERROR_REASON_SMMU_MISMATCH);
  EXPECT_EQ(MetaOf(status, "device_smmu"), SmmuOf(kGrace, 1));
  EXPECT_EQ(MetaOf(status, "viommu_smmu"), SmmuOf(kGrace, 0));
  Refused(SetVdevId("v", DeviceOf(kSmall, 0), 1), StatusCode::kFailedPrecondition, v1::ERROR_REASON_HOST_MISMATCH);
}

TEST_F(VdeviceRulesTest, AMissingDeviceIsNotAssigned) {
  v1::Hello hello = GraceHello();
  hello.mutable_devices()->DeleteSubrange(0, 1);
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  EXPECT_EQ(fleet_.device(device0_).state(), v1::DEVICE_STATE_MISSING);
  const auto missing = [&] {
    EXPECT_EQ(fleet_.device(device0_).state(), v1::DEVICE_STATE_MISSING);
    Refused(SetVdevId("v", device0_, 9), StatusCode::kFailedPrecondition, v1::ERROR_REASON_DEVICE_MISSING);
    EXPECT_EQ(MetaOf(refusal_, "device"), device0_);
  };
  missing();
  Accepted(UnsetVdevId("v", 8));
  missing();
  ASSERT_TRUE(fleet_.Answer(fleet_.vdevice("v", 8), v1::OUTCOME_RELEASED).ok());
  Refused(SetVdevId("v", device0_, 9), StatusCode::kNotFound, v1::ERROR_REASON_DEVICE_NOT_FOUND);
}

TEST_F(VdeviceRulesTest, ACordonedHostTakesNoNewOnesAndServesWhatItHas) {
  Accepted(CreateNested("v", "n"));
  v1::CordonHostRequest cordon;
  cordon.set_name(kGrace);
  Accepted(cordon);
  Refused(SetVdevId("v", device1_, 9), StatusCode::kFailedPrecondition, v1::ERROR_REASON_HOST_CORDONED);
  v1::BatchSetVdevIdsRequest batch;
  batch.set_viommu("viommus/v");
  batch.add_assignments()->set_device(device1_);
  Refused(batch, StatusCode::kFailedPrecondition, v1::ERROR_REASON_HOST_CORDONED);
  Accepted(AttachDevice("v", "n", device0_));
  Accepted(RebindVdevId("v", 8, 9));
  Accepted(DetachDevice("v", 9));
  Accepted(CreateNested("v", "n2"));
  Accepted(UnsetVdevId("v", 9));
  v1::UncordonHostRequest uncordon;
  uncordon.set_name(kGrace);
  Accepted(uncordon);
  Accepted(SetVdevId("v", device1_, 10));
}

TEST_F(VdeviceRulesTest, ADisconnectedHostTakesAssignments) {
  ASSERT_TRUE(fleet_.Disconnect(kGrace).ok());
  Accepted(SetVdevId("v", device1_, 9));
}

TEST_F(VdeviceRulesTest, AViommuOnItsWayOutTakesNothing) {
  Accepted(DeleteViommu("v2"));
  Refused(SetVdevId("v2", device1_, 1), StatusCode::kFailedPrecondition, v1::ERROR_REASON_BEING_DELETED);
}

TEST_F(VdeviceRulesTest, AStaleEtagIsRefusedWithTheCurrentOne) {
  auto unset = UnsetVdevId("v", 8);
  unset.set_etag("stale");
  const absl::Status status = Refused(unset, StatusCode::kAborted, v1::ERROR_REASON_ETAG_MISMATCH);
  EXPECT_EQ(MetaOf(status, "etag"), fleet_.vdevice("v", 8).etag());
  auto rebind = RebindVdevId("v", 8, 9);
  rebind.set_etag("stale");
  Refused(rebind, StatusCode::kAborted, v1::ERROR_REASON_ETAG_MISMATCH);
  const std::string etag = fleet_.vdevice("v", 8).etag();
  ASSERT_TRUE(fleet_.Answer(fleet_.vdevice("v", 8), v1::OUTCOME_APPLIED).ok());
  EXPECT_EQ(fleet_.vdevice("v", 8).etag(), etag) << "what a host says does not change the etag";
  rebind.set_etag(etag);
  Accepted(rebind);
  EXPECT_NE(fleet_.vdevice("v", 9).etag(), etag);
}

// ---- Rebind: promise 4 ---------------------------------------------------------------------------------------------

TEST_F(VdeviceRulesTest, ARebindIsOneChange) {
  const v1::Vdevice before = fleet_.vdevice("v", 8);
  ASSERT_TRUE(fleet_.Answer(before, v1::OUTCOME_APPLIED).ok());
  const int64_t revision = fleet_.revision();
  Accepted(RebindVdevId("v", 8, 9));
  EXPECT_EQ(fleet_.revision(), revision + 1);
  EXPECT_EQ(fleet_.changes().size(), 3u) << "the old name, the new name, the device";
  EXPECT_FALSE(fleet_.Has(before));
  const v1::Vdevice after = fleet_.vdevice("v", 9);
  EXPECT_EQ(after.uid(), before.uid());
  EXPECT_EQ(after.vdev_id(), 9u);
  EXPECT_EQ(after.previous_vdev_id(), 8u);
  EXPECT_EQ(after.generation(), fleet_.revision());
  EXPECT_EQ(after.state(), v1::STATE_PENDING);
  EXPECT_EQ(after.create_time().seconds(), before.create_time().seconds());
  EXPECT_EQ(fleet_.device(device0_).owner(), after.name());
}

TEST_F(VdeviceRulesTest, TheOldVdevIdStaysTakenUntilTheHostHasConfirmed) {
  const v1::Vdevice before = fleet_.vdevice("v", 8);
  Accepted(RebindVdevId("v", 8, 9));
  const absl::Status status =
      Refused(SetVdevId("v", device1_, 8), StatusCode::kAlreadyExists, v1::ERROR_REASON_VDEV_ID_TAKEN);
  EXPECT_EQ(MetaOf(status, "holder"), "viommus/v/vdevices/9");
  Refused(RebindVdevId("v", 9, 10), StatusCode::kFailedPrecondition, v1::ERROR_REASON_REBIND_PENDING);

  ASSERT_TRUE(fleet_.Answer(before, v1::OUTCOME_APPLIED).ok());
  EXPECT_TRUE(fleet_.changes().empty()) << "the answer is about the generation before the rebind";
  ASSERT_TRUE(fleet_.Answer(fleet_.vdevice("v", 9), v1::OUTCOME_FAILED).ok());
  EXPECT_EQ(fleet_.vdevice("v", 9).state(), v1::STATE_FAILED);
  Refused(SetVdevId("v", device1_, 8), StatusCode::kAlreadyExists, v1::ERROR_REASON_VDEV_ID_TAKEN);

  ASSERT_TRUE(fleet_.Answer(fleet_.vdevice("v", 9), v1::OUTCOME_APPLIED).ok());
  EXPECT_FALSE(fleet_.vdevice("v", 9).has_previous_vdev_id());
  EXPECT_EQ(fleet_.vdevice("v", 9).state(), v1::STATE_READY);
  Accepted(RebindVdevId("v", 9, 10));
  Accepted(SetVdevId("v", device1_, 8));
}

TEST_F(VdeviceRulesTest, AnAnswerUnderTheOldNameCountsForTheNewGeneration) {
  Accepted(RebindVdevId("v", 8, 9));
  v1::ItemResult result = ResultFor(fleet_.vdevice("v", 9), v1::OUTCOME_APPLIED);
  result.set_name("viommus/v/vdevices/8");
  ASSERT_TRUE(fleet_.Answer(kGrace, result).ok());
  EXPECT_EQ(fleet_.vdevice("v", 9).state(), v1::STATE_READY);
}

TEST_F(VdeviceRulesTest, UnsetDuringARebindHoldsBothVdevIds) {
  Accepted(RebindVdevId("v", 8, 9));
  Accepted(UnsetVdevId("v", 9));
  Refused(SetVdevId("v", device1_, 8), StatusCode::kAlreadyExists, v1::ERROR_REASON_VDEV_ID_TAKEN);
  Refused(SetVdevId("v", device1_, 9), StatusCode::kAlreadyExists, v1::ERROR_REASON_VDEV_ID_TAKEN);
  ASSERT_TRUE(fleet_.Answer(fleet_.vdevice("v", 9), v1::OUTCOME_RELEASED).ok());
  Accepted(SetVdevId("v", device1_, 8));
}

TEST_F(VdeviceRulesTest, ARebindChecksTheNewVdevIdLikeASet) {
  Accepted(SetVdevId("v", device1_, 9));
  Refused(RebindVdevId("v", 8, 8), StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  Refused(RebindVdevId("v", 8, 9), StatusCode::kAlreadyExists, v1::ERROR_REASON_VDEV_ID_TAKEN);
  Refused(RebindVdevId("v", 8, uint64_t{1} << 32), StatusCode::kInvalidArgument, v1::ERROR_REASON_VDEV_ID_OUT_OF_RANGE);
  Refused(RebindVdevId("v", 8, 1 << 24), StatusCode::kInvalidArgument, v1::ERROR_REASON_VDEV_ID_TOO_WIDE);
  Accepted(RebindVdevId("v", 9, 10));
  Refused(RebindVdevId("v", 8, 9), StatusCode::kAlreadyExists, v1::ERROR_REASON_VDEV_ID_TAKEN);
  Accepted(UnsetVdevId("v", 8));
  Refused(RebindVdevId("v", 8, 11), StatusCode::kFailedPrecondition, v1::ERROR_REASON_BEING_DELETED);
}

TEST_F(VdeviceRulesTest, ARebindKeepsTheAttachment) {
  Accepted(CreateNested("v", "n"));
  Accepted(AttachDevice("v", "n", device0_));
  Accepted(RebindVdevId("v", 8, 9));
  EXPECT_EQ(fleet_.vdevice("v", 9).nested_domain(), "viommus/v/nestedDomains/n");
  EXPECT_EQ(fleet_.tables().Children(Relation::kNestedVdevices, "viommus/v/nestedDomains/n"),
            (std::vector<std::string>{"viommus/v/vdevices/9"}));
  Refused(DeleteNested("v", "n"), StatusCode::kFailedPrecondition, v1::ERROR_REASON_HAS_CHILDREN);
}

// ---- Batch ---------------------------------------------------------------------------------------------------------

class BatchTest : public FleetTest {
 protected:
  void Add(const std::string& device, uint64_t vdev_id) {
    v1::VdevIdAssignment& assignment = *batch_.add_assignments();
    assignment.set_device(device);
    assignment.set_vdev_id(vdev_id);
  }
  BatchTest() { batch_.set_viommu("viommus/v"); }
  v1::BatchSetVdevIdsRequest batch_;
};

TEST_F(BatchTest, AllInOneChangeInTheOrderOfTheRequest) {
  Add(DeviceOf(kGrace, 1), 9);
  Add(DeviceOf(kGrace, 0), 8);
  const int64_t revision = fleet_.revision();
  const auto response = fleet_.Do(batch_);
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(fleet_.revision(), revision + 1);
  ASSERT_EQ(response->vdevices_size(), 2);
  EXPECT_EQ(response->vdevices(0).vdev_id(), 9u);
  EXPECT_EQ(response->vdevices(1).vdev_id(), 8u);
  EXPECT_NE(response->vdevices(0).uid(), response->vdevices(1).uid());
}

TEST_F(BatchTest, OrNothingAndTheErrorNamesTheIndex) {
  Add(DeviceOf(kGrace, 0), 8);
  Add(DeviceOf(kGrace, 1), 8);
  const absl::Status taken = Refused(batch_, StatusCode::kAlreadyExists, v1::ERROR_REASON_VDEV_ID_TAKEN);
  EXPECT_EQ(MetaOf(taken, "field"), "assignments[1].vdev_id");
  EXPECT_EQ(fleet_.device(DeviceOf(kGrace, 0)).state(), v1::DEVICE_STATE_FREE);

  batch_.mutable_assignments(1)->set_vdev_id(uint64_t{1} << 40);
  const absl::Status range = Refused(batch_, StatusCode::kInvalidArgument, v1::ERROR_REASON_VDEV_ID_OUT_OF_RANGE);
  EXPECT_EQ(DetailOf<google::rpc::BadRequest>(range).field_violations(0).field(), "assignments[1].vdev_id");

  *batch_.mutable_assignments(1) = batch_.assignments(0);
  batch_.mutable_assignments(1)->set_vdev_id(9);
  const absl::Status device = Refused(batch_, StatusCode::kAlreadyExists, v1::ERROR_REASON_DEVICE_TAKEN);
  EXPECT_EQ(MetaOf(device, "field"), "assignments[1].device");
}

TEST_F(BatchTest, OneTo1024) {
  Refused(batch_, StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  for (int i = 0; i <= kMaxBatchVdevIds; ++i) Add(DeviceOf(kGrace, 0), static_cast<uint64_t>(i));
  Refused(batch_, StatusCode::kInvalidArgument, v1::ERROR_REASON_LIMIT_EXCEEDED);
}

}  // namespace
}  // namespace viommu::server
