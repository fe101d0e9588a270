// Rules of stage-2 domains and viommus: promise 3, and how they end.

#include <gtest/gtest.h>

#include <string>

#include "server/fleet/test_fleet.h"

namespace viommu::server {
namespace {

using absl::StatusCode;

class Stage2RulesTest : public FleetTest {};

TEST_F(Stage2RulesTest, ANewOneIsPending) {
  const auto response = fleet_.Do(CreateStage2("s2", kGrace));
  ASSERT_TRUE(response.ok());
  const v1::Stage2Domain stage2 = fleet_.stage2("s2");
  EXPECT_EQ(response->stage2_domain().ShortDebugString(), stage2.ShortDebugString());
  EXPECT_EQ(stage2.state(), v1::STATE_PENDING);
  EXPECT_EQ(stage2.generation(), fleet_.revision());
  EXPECT_EQ(stage2.host(), kGrace);
  EXPECT_EQ(stage2.vm(), "vm");
}

TEST_F(Stage2RulesTest, FieldsThatAreMissingOrMalformed) {
  Refused(CreateStage2("Bad", kGrace), StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  Refused(CreateStage2("s2", ""), StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  Refused(CreateStage2("s2", kGrace, "smmu0"), StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  Refused(CreateStage2("s2", kGrace, "", ""), StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  Refused(CreateStage2("s2", kGrace, "", std::string(kMaxVmBytes + 1, 'x')), StatusCode::kInvalidArgument,
          v1::ERROR_REASON_INVALID_FIELD);
  v1::CreateStage2DomainRequest empty;
  empty.set_stage2_domain_id("s2");
  Refused(empty, StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
}

TEST_F(Stage2RulesTest, UnknownThings) {
  Refused(CreateStage2("s2", "hosts/nowhere"), StatusCode::kNotFound, v1::ERROR_REASON_HOST_NOT_FOUND);
  Refused(CreateStage2("s2", kGrace, SmmuOf(kGrace, 7)), StatusCode::kNotFound, v1::ERROR_REASON_SMMU_NOT_FOUND);
  Refused(CreateStage2("s2", kGrace, SmmuOf(kSmall, 0)), StatusCode::kFailedPrecondition,
          v1::ERROR_REASON_HOST_MISMATCH);
  Refused(DeleteStage2("nobody"), StatusCode::kNotFound, v1::ERROR_REASON_STAGE2_DOMAIN_NOT_FOUND);
  Refused(CreateStage2("s", kGrace), StatusCode::kAlreadyExists, v1::ERROR_REASON_NAME_TAKEN);
}

TEST_F(Stage2RulesTest, ACordonedHostTakesNone) {
  v1::CordonHostRequest cordon;
  cordon.set_name(kGrace);
  Accepted(cordon);
  Refused(CreateStage2("s2", kGrace), StatusCode::kFailedPrecondition, v1::ERROR_REASON_HOST_CORDONED);
  Refused(CreateViommu("v2", SmmuOf(kGrace, 0), "s"), StatusCode::kFailedPrecondition, v1::ERROR_REASON_HOST_CORDONED);
}

// Promise 3.
TEST_F(Stage2RulesTest, WhereItBelongsToOneSmmuItNamesThat) {
  Refused(CreateStage2("s2", kSmall), StatusCode::kFailedPrecondition, v1::ERROR_REASON_STAGE2_NOT_SHAREABLE);
  Accepted(CreateStage2("s2", kSmall, SmmuOf(kSmall, 0)));
  Refused(CreateViommu("v2", SmmuOf(kSmall, 1), "s2"), StatusCode::kFailedPrecondition,
          v1::ERROR_REASON_STAGE2_NOT_SHAREABLE);
  Accepted(CreateViommu("v2", SmmuOf(kSmall, 0), "s2"));
}

// Promise 3.
TEST_F(Stage2RulesTest, ItTakesAVmidWhereItBelongsToOneSmmu) {
  for (const char* id : {"a", "b", "c"}) Accepted(CreateStage2(id, kSmall, SmmuOf(kSmall, 0)));
  const absl::Status status = Refused(CreateStage2("d", kSmall, SmmuOf(kSmall, 0)), StatusCode::kResourceExhausted,
                                      v1::ERROR_REASON_VMID_EXHAUSTED);
  EXPECT_EQ(MetaOf(status, "used"), "3");
  EXPECT_EQ(MetaOf(status, "total"), "3");
  Accepted(CreateStage2("d", kSmall, SmmuOf(kSmall, 1)));
  for (const char* id : {"v1", "v2", "v3", "v4"}) {
    Accepted(CreateViommu(id, SmmuOf(kSmall, 0), "a"));  // they share its VMID
  }
  Accepted(DeleteStage2("b"));
  Refused(CreateStage2("e", kSmall, SmmuOf(kSmall, 0)), StatusCode::kResourceExhausted,
          v1::ERROR_REASON_VMID_EXHAUSTED);
  ASSERT_TRUE(fleet_.Answer(fleet_.stage2("b"), v1::OUTCOME_RELEASED).ok());
  Accepted(CreateStage2("e", kSmall, SmmuOf(kSmall, 0)));
}

class ViommuRulesTest : public FleetTest {};

TEST_F(ViommuRulesTest, ANewOneTakesHostAndVmFromWhatItStandsOn) {
  const v1::Viommu viommu = fleet_.viommu("v");
  EXPECT_EQ(viommu.state(), v1::STATE_PENDING);
  EXPECT_EQ(viommu.host(), kGrace);
  EXPECT_EQ(viommu.vm(), "vm");
  EXPECT_EQ(viommu.type(), v1::VIOMMU_TYPE_ARM_SMMUV3);
  EXPECT_EQ(viommu.generation(), viommu.revision());
}

TEST_F(ViommuRulesTest, OneStage2ServesSeveralSmmusWhereItIsShared) {
  Accepted(CreateViommu("v2", SmmuOf(kGrace, 1), "s"));
}

TEST_F(ViommuRulesTest, UnknownAndUnfittingThings) {
  Refused(CreateViommu("v2", SmmuOf(kGrace, 7), "s"), StatusCode::kNotFound, v1::ERROR_REASON_SMMU_NOT_FOUND);
  Refused(CreateViommu("v2", SmmuOf("hosts/nowhere", 0), "s"), StatusCode::kNotFound, v1::ERROR_REASON_HOST_NOT_FOUND);
  Refused(CreateViommu("v2", SmmuOf(kGrace, 0), "nobody"), StatusCode::kNotFound,
          v1::ERROR_REASON_STAGE2_DOMAIN_NOT_FOUND);
  Refused(CreateViommu("v2", SmmuOf(kSmall, 0), "s"), StatusCode::kFailedPrecondition, v1::ERROR_REASON_HOST_MISMATCH);
  Refused(CreateViommu("v", SmmuOf(kGrace, 0), "s"), StatusCode::kAlreadyExists, v1::ERROR_REASON_NAME_TAKEN);
  Refused(CreateViommu("-", SmmuOf(kGrace, 0), "s"), StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  Refused(CreateViommu("v2", "smmu0", "s"), StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  Refused(CreateViommu("v2", SmmuOf(kGrace, 0), "s", static_cast<v1::ViommuType>(9)), StatusCode::kInvalidArgument,
          v1::ERROR_REASON_INVALID_FIELD);
}

TEST_F(ViommuRulesTest, AnSmmuWithoutBothStagesTakesNone) {
  v1::Hello hello = GraceHello();
  hello.mutable_host()->mutable_smmus(1)->set_idr(0, 0b01);
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  Refused(CreateViommu("v2", SmmuOf(kGrace, 1), "s"), StatusCode::kFailedPrecondition, v1::ERROR_REASON_SMMU_INCAPABLE);
  hello.mutable_host()->mutable_smmus(1)->set_idr(0, 0b10);
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  Refused(CreateViommu("v2", SmmuOf(kGrace, 1), "s"), StatusCode::kFailedPrecondition, v1::ERROR_REASON_SMMU_INCAPABLE);
}

TEST_F(ViommuRulesTest, HardwareQueuesNeedAnInterface) {
  Refused(CreateViommu("v2", SmmuOf(kGrace, 1), "s", v1::VIOMMU_TYPE_TEGRA241_CMDQV), StatusCode::kFailedPrecondition,
          v1::ERROR_REASON_SMMU_INCAPABLE);
  Accepted(CreateViommu("v2", SmmuOf(kGrace, 0), "s", v1::VIOMMU_TYPE_TEGRA241_CMDQV));
  Refused(CreateViommu("v3", SmmuOf(kGrace, 0), "s", v1::VIOMMU_TYPE_TEGRA241_CMDQV), StatusCode::kResourceExhausted,
          v1::ERROR_REASON_HW_QUEUE_EXHAUSTED);
  Accepted(CreateViommu("v3", SmmuOf(kGrace, 0), "s"));
}

// Promise 3.
TEST_F(ViommuRulesTest, ItTakesAVmidWhereStage2IsShared) {
  v1::Hello hello = GraceHello();
  for (v1::Smmu& smmu : *hello.mutable_host()->mutable_smmus()) smmu.set_vmid_bits(1);
  ASSERT_TRUE(fleet_.Hello(hello).ok());
  const absl::Status status = Refused(CreateViommu("v2", SmmuOf(kGrace, 0), "s"), StatusCode::kResourceExhausted,
                                      v1::ERROR_REASON_VMID_EXHAUSTED);
  EXPECT_EQ(MetaOf(status, "used"), "1");
  EXPECT_EQ(MetaOf(status, "total"), "1");
  Accepted(CreateViommu("v2", SmmuOf(kGrace, 1), "s"));
  Accepted(DeleteViommu("v"));
  Refused(CreateViommu("v3", SmmuOf(kGrace, 0), "s"), StatusCode::kResourceExhausted, v1::ERROR_REASON_VMID_EXHAUSTED);
  ASSERT_TRUE(fleet_.Answer(fleet_.viommu("v"), v1::OUTCOME_RELEASED).ok());
  Accepted(CreateViommu("v3", SmmuOf(kGrace, 0), "s"));
}

TEST_F(ViommuRulesTest, LabelsChangeTheEtagAndNotTheGeneration) {
  const v1::Viommu before = fleet_.viommu("v");
  v1::UpdateViommuLabelsRequest request;
  request.set_name("viommus/v");
  (*request.mutable_labels())["a"] = "b";
  request.set_etag("stale");
  Refused(request, StatusCode::kAborted, v1::ERROR_REASON_ETAG_MISMATCH);
  request.set_etag(before.etag());
  Accepted(request);
  const v1::Viommu after = fleet_.viommu("v");
  EXPECT_EQ(after.labels().at("a"), "b");
  EXPECT_EQ(after.generation(), before.generation());
  EXPECT_NE(after.etag(), before.etag());
  EXPECT_EQ(after.revision(), fleet_.revision());
  request.clear_etag();
  const int64_t revision = fleet_.revision();
  Accepted(request);
  EXPECT_EQ(fleet_.revision(), revision) << "the same labels again change nothing";
  Accepted(DeleteViommu("v"));
  Refused(request, StatusCode::kFailedPrecondition, v1::ERROR_REASON_BEING_DELETED);
}

class DeletionTest : public FleetTest {
 protected:
  DeletionTest() {
    Accepted(SetVdevId("v", DeviceOf(kGrace, 0), 8));
    Accepted(CreateNested("v", "n"));
    Accepted(AttachDevice("v", "n", DeviceOf(kGrace, 0)));
  }
  void Confirm(const auto& record) { EXPECT_TRUE(fleet_.Answer(record, v1::OUTCOME_RELEASED).ok()); }
};

TEST_F(DeletionTest, ChildrenStandInTheWay) {
  const absl::Status viommu =
      Refused(DeleteViommu("v"), StatusCode::kFailedPrecondition, v1::ERROR_REASON_HAS_CHILDREN);
  EXPECT_EQ(MetaOf(viommu, "count"), "2");
  EXPECT_EQ(MetaOf(viommu, "children"), "viommus/v/vdevices/8, viommus/v/nestedDomains/n");
  const absl::Status stage2 =
      Refused(DeleteStage2("s"), StatusCode::kFailedPrecondition, v1::ERROR_REASON_HAS_CHILDREN);
  EXPECT_EQ(MetaOf(stage2, "children"), "viommus/v");
}

TEST_F(DeletionTest, WhatIsOnItsWayOutDoesNotStandInTheWay) {
  Accepted(UnsetVdevId("v", 8));
  Accepted(DeleteNested("v", "n"));
  Accepted(DeleteViommu("v"));
  Accepted(DeleteStage2("s"));
}

TEST_F(DeletionTest, ACascadeIsOneChange) {
  const int64_t revision = fleet_.revision();
  Accepted(DeleteStage2("s", /*cascade=*/true));
  EXPECT_EQ(fleet_.revision(), revision + 1);
  EXPECT_EQ(fleet_.stage2("s").state(), v1::STATE_DELETING);
  EXPECT_EQ(fleet_.viommu("v").state(), v1::STATE_DELETING);
  EXPECT_EQ(fleet_.vdevice("v", 8).state(), v1::STATE_DELETING);
  EXPECT_EQ(fleet_.vdevice("v", 8).nested_domain(), "");
  EXPECT_EQ(fleet_.nested("v", "n").state(), v1::STATE_DELETING);
  EXPECT_EQ(fleet_.device(DeviceOf(kGrace, 0)).state(), v1::DEVICE_STATE_RELEASING);
  EXPECT_EQ(fleet_.vdevice("v", 8).generation(), fleet_.revision());
  Refused(CreateViommu("w", SmmuOf(kGrace, 0), "s"), StatusCode::kFailedPrecondition, v1::ERROR_REASON_BEING_DELETED);
  Refused(CreateStage2("s", kGrace), StatusCode::kAlreadyExists, v1::ERROR_REASON_NAME_TAKEN);
  const int64_t again = fleet_.revision();
  Accepted(DeleteStage2("s", /*cascade=*/true));
  EXPECT_EQ(fleet_.revision(), again) << "deleting what is being deleted changes nothing";
}

TEST_F(DeletionTest, ItEndsInTheOrderOfTheAgent) {
  Accepted(DeleteStage2("s", /*cascade=*/true));
  Confirm(fleet_.vdevice("v", 8));
  Confirm(fleet_.nested("v", "n"));
  EXPECT_TRUE(fleet_.Has(fleet_.viommu("v")));
  Confirm(fleet_.viommu("v"));
  EXPECT_EQ(fleet_.tables().size(Kind::kViommu), 0);
  Confirm(fleet_.stage2("s"));
  EXPECT_EQ(fleet_.tables().size(Kind::kStage2Domain), 0);
  Accepted(CreateStage2("s", kGrace));
}

TEST_F(DeletionTest, AParentConfirmedFirstGoesWithItsLastChild) {
  Accepted(DeleteStage2("s", /*cascade=*/true));
  Confirm(fleet_.stage2("s"));
  EXPECT_EQ(fleet_.stage2("s").observed_generation(), fleet_.stage2("s").generation());
  const int64_t revision = fleet_.revision();
  Confirm(fleet_.stage2("s"));
  EXPECT_EQ(fleet_.revision(), revision) << "a repeated confirmation changes nothing";
  ASSERT_TRUE(fleet_.Answer(fleet_.stage2("s"), v1::OUTCOME_FAILED).ok());
  EXPECT_EQ(fleet_.revision(), revision) << "a failure after the confirmation is an echo";
  Confirm(fleet_.viommu("v"));
  Confirm(fleet_.nested("v", "n"));
  EXPECT_EQ(fleet_.viommu("v").state(), v1::STATE_DELETING);
  Confirm(fleet_.vdevice("v", 8));
  for (const Kind kind : {Kind::kStage2Domain, Kind::kViommu, Kind::kVdevice, Kind::kNestedDomain}) {
    EXPECT_EQ(fleet_.tables().size(kind), 0) << KindName(kind);
  }
  EXPECT_EQ(fleet_.device(DeviceOf(kGrace, 0)).state(), v1::DEVICE_STATE_FREE);
}

TEST_F(DeletionTest, AFailureToDeleteIsNoConfirmation) {
  Accepted(DeleteViommu("v", /*cascade=*/true));
  ASSERT_TRUE(fleet_.Answer(fleet_.viommu("v"), v1::OUTCOME_FAILED).ok());
  EXPECT_EQ(fleet_.viommu("v").state_reason().error_number(), 5);
  Confirm(fleet_.vdevice("v", 8));
  Confirm(fleet_.nested("v", "n"));
  EXPECT_EQ(fleet_.viommu("v").state(), v1::STATE_DELETING) << "the host has not said that it is gone";
  Confirm(fleet_.viommu("v"));
  EXPECT_EQ(fleet_.tables().size(Kind::kViommu), 0);
}

TEST_F(DeletionTest, OneDeletionChangesABoundedNumberOfRecords) {
  v1::CreateNestedDomainRequest request = CreateNested("v", "n");
  for (int i = 0; i < kMaxCascadeRecords; ++i) {
    request.set_nested_domain_id("n" + std::to_string(i));
    ASSERT_TRUE(fleet_.DoUnchecked(request).ok());
  }
  Refused(DeleteViommu("v", /*cascade=*/true), StatusCode::kFailedPrecondition, v1::ERROR_REASON_LIMIT_EXCEEDED);
}

TEST_F(DeletionTest, EtagsGuardDeletions) {
  auto viommu = DeleteViommu("v", true);
  viommu.set_etag("stale");
  Refused(viommu, StatusCode::kAborted, v1::ERROR_REASON_ETAG_MISMATCH);
  auto stage2 = DeleteStage2("s", true);
  stage2.set_etag("stale");
  Refused(stage2, StatusCode::kAborted, v1::ERROR_REASON_ETAG_MISMATCH);
  auto nested = DeleteNested("v", "n");
  nested.set_etag("stale");
  Refused(nested, StatusCode::kAborted, v1::ERROR_REASON_ETAG_MISMATCH);
}

}  // namespace
}  // namespace viommu::server
