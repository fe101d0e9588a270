// Rules of nested domains and of what is attached to them.

#include <gtest/gtest.h>

#include <string>

#include "server/fleet/test_fleet.h"

namespace viommu::server {
namespace {

using absl::StatusCode;

class NestedRulesTest : public FleetTest {
 protected:
  NestedRulesTest() {
    Accepted(SetVdevId("v", device0_, 8));
    Accepted(CreateNested("v", "n"));
  }
  static v1::CreateNestedDomainRequest Translate(uint64_t word0, uint64_t word1) {
    v1::CreateNestedDomainRequest request = CreateNested("v", "t");
    v1::Vste& vste = *request.mutable_nested_domain()->mutable_config()->mutable_translate();
    vste.set_word0(word0);
    vste.set_word1(word1);
    return request;
  }
  std::string RuleOf(uint64_t word0, uint64_t word1) {
    return MetaOf(Refused(Translate(word0, word1), StatusCode::kInvalidArgument, v1::ERROR_REASON_VSTE_INVALID),
                  "rule");
  }

  const std::string device0_ = DeviceOf(kGrace, 0);
  const std::string nested_ = "viommus/v/nestedDomains/n";
};

TEST_F(NestedRulesTest, ANewOneIsPendingAndKnowsItsVm) {
  const v1::NestedDomain nested = fleet_.nested("v", "n");
  EXPECT_EQ(nested.state(), v1::STATE_PENDING);
  EXPECT_EQ(nested.viommu(), "viommus/v");
  EXPECT_EQ(nested.host(), kGrace);
  EXPECT_EQ(nested.vm(), "vm");
  EXPECT_TRUE(nested.config().has_bypass());
}

TEST_F(NestedRulesTest, WhatIsMissingOrTaken) {
  Refused(CreateNested("v", "n"), StatusCode::kAlreadyExists, v1::ERROR_REASON_NAME_TAKEN);
  Refused(CreateNested("nobody", "n"), StatusCode::kNotFound, v1::ERROR_REASON_VIOMMU_NOT_FOUND);
  Refused(CreateNested("v", "N"), StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  v1::CreateNestedDomainRequest request = CreateNested("v", "m");
  request.mutable_nested_domain()->clear_config();
  Refused(request, StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  request.clear_nested_domain();
  Refused(request, StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  Refused(DeleteNested("v", "nobody"), StatusCode::kNotFound, v1::ERROR_REASON_NESTED_DOMAIN_NOT_FOUND);
  Refused(AttachDevice("v", "nobody", device0_), StatusCode::kNotFound, v1::ERROR_REASON_NESTED_DOMAIN_NOT_FOUND);
  Refused(AttachDevice("v", "n", DeviceOf(kGrace, 9)), StatusCode::kNotFound, v1::ERROR_REASON_DEVICE_NOT_FOUND);
  Refused(DetachDevice("v", 77), StatusCode::kNotFound, v1::ERROR_REASON_VDEVICE_NOT_FOUND);
  Accepted(DeleteViommu("v", true));
  Refused(CreateNested("v", "m"), StatusCode::kFailedPrecondition, v1::ERROR_REASON_BEING_DELETED);
}

// Each rule of Linux for a vSTE (arm_smmu_validate_vste() in drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3-iommufd.c).
TEST_F(NestedRulesTest, AVsteBreaksNoRule) {
  constexpr uint64_t kStage1 = 1 | 5 << 1;
  EXPECT_EQ(RuleOf(kStage1 | uint64_t{1} << 52, 0), "RESERVED_WORD0");
  EXPECT_EQ(RuleOf(kStage1, 1 << 8), "RESERVED_WORD1");
  EXPECT_EQ(RuleOf(1 | 6 << 1, 0), "CONFIG_STAGE2");
  EXPECT_EQ(RuleOf(1 | 7 << 1, 0), "CONFIG_STAGE2");
  for (const uint64_t config : {1, 2, 3}) EXPECT_EQ(RuleOf(1 | config << 1, 0), "CONFIG_RESERVED");
  EXPECT_EQ(RuleOf(kStage1, uint64_t{2} << 28), "EATS");
  EXPECT_EQ(RuleOf(kStage1, uint64_t{3} << 28), "EATS");
  Accepted(Translate(kStage1 | 0x12345640, uint64_t{1} << 28 | 0xff));
}

// Without V the entry is an abort, whatever else is in it.
TEST_F(NestedRulesTest, OfAnInvalidVsteNothingElseIsLookedAt) { Accepted(Translate(~uint64_t{1}, ~uint64_t{0})); }

TEST_F(NestedRulesTest, AttachIsAChangeOfTheVdevice) {
  ASSERT_TRUE(fleet_.Answer(fleet_.vdevice("v", 8), v1::OUTCOME_APPLIED).ok());
  const auto response = fleet_.Do(AttachDevice("v", "n", device0_));
  ASSERT_TRUE(response.ok()) << response.status();
  const v1::Vdevice vdevice = fleet_.vdevice("v", 8);
  EXPECT_EQ(response->vdevice().ShortDebugString(), vdevice.ShortDebugString());
  EXPECT_EQ(vdevice.nested_domain(), nested_);
  EXPECT_EQ(vdevice.generation(), fleet_.revision());
  EXPECT_EQ(vdevice.state(), v1::STATE_PENDING);
  const int64_t revision = fleet_.revision();
  Accepted(AttachDevice("v", "n", device0_));
  EXPECT_EQ(fleet_.revision(), revision) << "attaching to what it is attached to changes nothing";
  Accepted(CreateNested("v", "n2"));
  Accepted(AttachDevice("v", "n2", device0_));
  EXPECT_EQ(fleet_.tables().Count(Relation::kNestedVdevices, nested_), 0);
  Accepted(DetachDevice("v", 8));
  EXPECT_EQ(fleet_.vdevice("v", 8).nested_domain(), "");
  const int64_t detached = fleet_.revision();
  Accepted(DetachDevice("v", 8));
  EXPECT_EQ(fleet_.revision(), detached);
}

TEST_F(NestedRulesTest, ADeviceWithoutAVdeviceInTheViommuIsNotAttached) {
  Accepted(CreateViommu("v2", SmmuOf(kGrace, 0), "s"));
  Accepted(CreateNested("v2", "n"));
  Refused(AttachDevice("v", "n", DeviceOf(kGrace, 1)), StatusCode::kFailedPrecondition,
          v1::ERROR_REASON_DEVICE_NOT_IN_VIOMMU);
  const absl::Status status = Refused(AttachDevice("v2", "n", device0_), StatusCode::kFailedPrecondition,
                                      v1::ERROR_REASON_DEVICE_NOT_IN_VIOMMU);
  EXPECT_EQ(MetaOf(status, "holder"), "viommus/v/vdevices/8");
  Accepted(UnsetVdevId("v", 8));
  Refused(AttachDevice("v", "n", device0_), StatusCode::kFailedPrecondition, v1::ERROR_REASON_DEVICE_NOT_IN_VIOMMU);
}

TEST_F(NestedRulesTest, TheEtagIsThatOfTheVdevice) {
  auto attach = AttachDevice("v", "n", device0_);
  attach.set_etag("stale");
  Refused(attach, StatusCode::kAborted, v1::ERROR_REASON_ETAG_MISMATCH);
  attach.set_etag(fleet_.vdevice("v", 8).etag());
  Accepted(attach);
  auto detach = DetachDevice("v", 8);
  detach.set_etag(attach.etag());
  Refused(detach, StatusCode::kAborted, v1::ERROR_REASON_ETAG_MISMATCH);
}

TEST_F(NestedRulesTest, ItIsNotDeletedWhileSomethingIsAttached) {
  Accepted(AttachDevice("v", "n", device0_));
  const absl::Status status =
      Refused(DeleteNested("v", "n"), StatusCode::kFailedPrecondition, v1::ERROR_REASON_HAS_CHILDREN);
  EXPECT_EQ(MetaOf(status, "children"), "viommus/v/vdevices/8");
  Accepted(DetachDevice("v", 8));
  Accepted(DeleteNested("v", "n"));
  Refused(AttachDevice("v", "n", device0_), StatusCode::kFailedPrecondition, v1::ERROR_REASON_BEING_DELETED);
  Accepted(DeleteNested("v", "n"));
  ASSERT_TRUE(fleet_.Answer(fleet_.nested("v", "n"), v1::OUTCOME_RELEASED).ok());
  Accepted(CreateNested("v", "n"));
}

}  // namespace
}  // namespace viommu::server
