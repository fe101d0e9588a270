// Rules of quotas.

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "server/fleet/test_fleet.h"

namespace viommu::server {
namespace {

using absl::StatusCode;

v1::SetQuotaRequest SetQuota(const std::string& owner, std::optional<uint64_t> viommus,
                             std::optional<uint64_t> vdevices) {
  v1::SetQuotaRequest request;
  request.mutable_quota()->set_name(QuotaName(owner));
  if (viommus.has_value()) request.mutable_quota()->set_max_viommus(*viommus);
  if (vdevices.has_value()) request.mutable_quota()->set_max_vdevices(*vdevices);
  return request;
}

v1::DeleteQuotaRequest DeleteQuota(const std::string& owner) {
  v1::DeleteQuotaRequest request;
  request.set_name(QuotaName(owner));
  return request;
}

// Stage-2 domain "a" is of the owner acme.
class QuotaRulesTest : public FleetTest {
 protected:
  QuotaRulesTest() { Accepted(Owned("a", "acme")); }

  static v1::CreateStage2DomainRequest Owned(const std::string& id, const std::string& owner) {
    auto request = CreateStage2(id, kGrace);
    (*request.mutable_stage2_domain()->mutable_labels())["owner"] = owner;
    return request;
  }

  v1::Quota quota(const std::string& owner) const {
    const auto found = fleet_.tables().Find<v1::Quota>(QuotaName(owner));
    return found == nullptr ? v1::Quota() : WithUsage(*found, fleet_.tables());
  }
};

TEST_F(QuotaRulesTest, ViommusBeyondItAreRefusedAndNameIt) {
  Accepted(SetQuota("acme", 1, std::nullopt));
  Accepted(CreateViommu("a1", SmmuOf(kGrace, 0), "a"));
  Refused(CreateViommu("a2", SmmuOf(kGrace, 1), "a"), StatusCode::kResourceExhausted, v1::ERROR_REASON_QUOTA_EXCEEDED);
  EXPECT_EQ(MetaOf(refusal_, "owner"), "acme");
  EXPECT_EQ(MetaOf(refusal_, "quota"), "quotas/acme");
  EXPECT_EQ(MetaOf(refusal_, "used"), "1");
  EXPECT_EQ(MetaOf(refusal_, "total"), "1");
  Accepted(CreateViommu("free", SmmuOf(kGrace, 1), "s"));  // nobody's
  Accepted(SetQuota("acme", 2, std::nullopt));
  Accepted(CreateViommu("a2", SmmuOf(kGrace, 1), "a"));
  EXPECT_EQ(quota("acme").usage().viommus(), 2);
}

TEST_F(QuotaRulesTest, VdevicesCountUntilTheirReleaseIsConfirmed) {
  Accepted(SetQuota("acme", std::nullopt, 1));
  Accepted(CreateViommu("a1", SmmuOf(kGrace, 0), "a"));
  Accepted(SetVdevId("a1", DeviceOf(kGrace, 0), 1));
  EXPECT_EQ(fleet_.vdevice("a1", 1).owner(), "acme");
  Refused(SetVdevId("a1", DeviceOf(kGrace, 1), 2), StatusCode::kResourceExhausted, v1::ERROR_REASON_QUOTA_EXCEEDED);
  Accepted(RebindVdevId("a1", 1, 3));
  Accepted(UnsetVdevId("a1", 3));
  Refused(SetVdevId("a1", DeviceOf(kGrace, 1), 2), StatusCode::kResourceExhausted, v1::ERROR_REASON_QUOTA_EXCEEDED);
  ASSERT_TRUE(fleet_.Answer(fleet_.vdevice("a1", 3), v1::OUTCOME_RELEASED).ok());
  Accepted(SetVdevId("a1", DeviceOf(kGrace, 1), 2));
  EXPECT_EQ(quota("acme").usage().vdevices(), 1);
}

TEST_F(QuotaRulesTest, ABatchIsWithinItOrRefusedWhole) {
  Accepted(SetQuota("acme", std::nullopt, 1));
  Accepted(CreateViommu("a1", SmmuOf(kGrace, 0), "a"));
  v1::BatchSetVdevIdsRequest batch;
  batch.set_viommu(ViommuName("a1"));
  for (int i = 0; i < 2; ++i) {
    auto* assignment = batch.add_assignments();
    assignment->set_device(DeviceOf(kGrace, i));
    assignment->set_vdev_id(static_cast<uint64_t>(i));
  }
  Refused(batch, StatusCode::kResourceExhausted, v1::ERROR_REASON_QUOTA_EXCEEDED);
  EXPECT_EQ(fleet_.device(DeviceOf(kGrace, 0)).owner(), "");
}

TEST_F(QuotaRulesTest, TheDefaultHoldsForEachOwnerWithoutItsOwn) {
  Accepted(SetQuota("default", 1, std::nullopt));
  Accepted(Owned("b", "beta"));
  Accepted(CreateViommu("a1", SmmuOf(kGrace, 0), "a"));
  Accepted(CreateViommu("b1", SmmuOf(kGrace, 0), "b"));
  Refused(CreateViommu("b2", SmmuOf(kGrace, 1), "b"), StatusCode::kResourceExhausted, v1::ERROR_REASON_QUOTA_EXCEEDED);
  EXPECT_EQ(MetaOf(refusal_, "quota"), "quotas/default");
  Accepted(SetQuota("beta", std::nullopt, std::nullopt));  // its own, without limits
  Accepted(CreateViommu("b2", SmmuOf(kGrace, 1), "b"));
  EXPECT_FALSE(quota("default").has_usage());
}

TEST_F(QuotaRulesTest, WhatIsThereStaysWhenItIsLowered) {
  Accepted(CreateViommu("a1", SmmuOf(kGrace, 0), "a"));
  Accepted(SetQuota("acme", 0, 0));
  EXPECT_EQ(quota("acme").usage().viommus(), 1);
  Refused(SetVdevId("a1", DeviceOf(kGrace, 0), 1), StatusCode::kResourceExhausted, v1::ERROR_REASON_QUOTA_EXCEEDED);
  Accepted(DeleteQuota("acme"));
  Accepted(SetVdevId("a1", DeviceOf(kGrace, 0), 1));
}

TEST_F(QuotaRulesTest, SettingTheSameAgainChangesNothing) {
  Accepted(SetQuota("acme", 1, 2));
  const int64_t revision = fleet_.revision();
  Accepted(SetQuota("acme", 1, 2));
  EXPECT_EQ(fleet_.revision(), revision);
}

TEST_F(QuotaRulesTest, NamesAndEtags) {
  Refused(SetQuota("", 1, 1), StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  Refused(SetQuota("a/b", 1, 1), StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  Refused(v1::SetQuotaRequest(), StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  Refused(DeleteQuota("nobody"), StatusCode::kNotFound, v1::ERROR_REASON_QUOTA_NOT_FOUND);
  Refused(Owned("c", "no owner/at all"), StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  Accepted(SetQuota("acme", 1, 1));
  auto stale = SetQuota("acme", 2, 2);
  stale.set_etag("old");
  Refused(stale, StatusCode::kAborted, v1::ERROR_REASON_ETAG_MISMATCH);
  auto gone = SetQuota("nobody", 2, 2);
  gone.set_etag("old");
  Refused(gone, StatusCode::kNotFound, v1::ERROR_REASON_QUOTA_NOT_FOUND);
}

}  // namespace
}  // namespace viommu::server
