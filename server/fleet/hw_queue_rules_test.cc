// Rules of hardware queues.

#include <gtest/gtest.h>

#include <string>

#include "server/fleet/test_fleet.h"

namespace viommu::server {
namespace {

using absl::StatusCode;

// "q" is a viommu with hardware queues.
class HwQueueRulesTest : public FleetTest {
 protected:
  HwQueueRulesTest() { Accepted(CreateViommu("q", SmmuOf(kGrace, 0), "s", v1::VIOMMU_TYPE_TEGRA241_CMDQV)); }
};

TEST_F(HwQueueRulesTest, ANewOneIsPendingAndKnowsItsVm) {
  Accepted(CreateHwQueue("q", 0, 0x20000, 0x1000));
  const v1::HwQueue queue = fleet_.hw_queue("q", 0);
  EXPECT_EQ(queue.state(), v1::STATE_PENDING);
  EXPECT_EQ(queue.viommu(), "viommus/q");
  EXPECT_EQ(queue.host(), kGrace);
  EXPECT_EQ(queue.vm(), "vm");
  EXPECT_EQ(queue.nesting_parent_iova(), 0x20000U);
  EXPECT_EQ(queue.length_bytes(), 0x1000U);
}

TEST_F(HwQueueRulesTest, WhatIsMissingOrTaken) {
  Accepted(CreateHwQueue("q", 0));
  Refused(CreateHwQueue("q", 0), StatusCode::kAlreadyExists, v1::ERROR_REASON_NAME_TAKEN);
  Refused(CreateHwQueue("nobody", 0), StatusCode::kNotFound, v1::ERROR_REASON_VIOMMU_NOT_FOUND);
  Refused(DeleteHwQueue("q", 1), StatusCode::kNotFound, v1::ERROR_REASON_HW_QUEUE_NOT_FOUND);
  v1::CreateHwQueueRequest request = CreateHwQueue("q", 1);
  request.clear_hw_queue();
  Refused(request, StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  Accepted(DeleteViommu("q", true));
  Refused(CreateHwQueue("q", 1), StatusCode::kFailedPrecondition, v1::ERROR_REASON_BEING_DELETED);
}

TEST_F(HwQueueRulesTest, OnlyAViommuOfTheTypeHasAny) {
  const absl::Status& status =
      Refused(CreateHwQueue("v", 0), StatusCode::kFailedPrecondition, v1::ERROR_REASON_SMMU_INCAPABLE);
  EXPECT_EQ(MetaOf(status, "smmu"), SmmuOf(kGrace, 0)) << "the hint names it";
}

TEST_F(HwQueueRulesTest, AnInterfaceHasSoManyQueues) {
  Accepted(CreateHwQueue("q", 0));
  Accepted(CreateHwQueue("q", 1));
  const absl::Status& status =
      Refused(CreateHwQueue("q", 2), StatusCode::kResourceExhausted, v1::ERROR_REASON_HW_QUEUE_EXHAUSTED);
  EXPECT_EQ(MetaOf(status, "total"), "2");
}

TEST_F(HwQueueRulesTest, TheMemoryMustFit) {
  const auto refused = [&](uint64_t iova, uint64_t length) {
    Refused(CreateHwQueue("q", 0, iova, length), StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  };
  refused(0, 0);
  refused(0, 16);
  refused(0, 96);
  refused(0, 0x2000);  // more than IDR1.CMDQS says
  refused(0x800, 0x1000);
  Accepted(CreateHwQueue("q", 0, 0, 32));
  Accepted(CreateHwQueue("q", 1, ~uint64_t{0xfff}, 0x1000));
}

TEST_F(HwQueueRulesTest, TheyComeAndGoInOrder) {
  Refused(CreateHwQueue("q", 1), StatusCode::kFailedPrecondition, v1::ERROR_REASON_HW_QUEUE_ORDER);
  Accepted(CreateHwQueue("q", 0));
  Accepted(CreateHwQueue("q", 1));
  const absl::Status& status =
      Refused(DeleteHwQueue("q", 0), StatusCode::kFailedPrecondition, v1::ERROR_REASON_HW_QUEUE_ORDER);
  EXPECT_EQ(MetaOf(status, "other"), "viommus/q/hwQueues/1");
  v1::DeleteHwQueueRequest guarded = DeleteHwQueue("q", 1);
  guarded.set_etag("stale");
  Refused(guarded, StatusCode::kAborted, v1::ERROR_REASON_ETAG_MISMATCH);
  guarded.set_etag(fleet_.hw_queue("q", 1).etag());
  Accepted(guarded);
  Accepted(DeleteHwQueue("q", 0));
  // The lower one is on its way out: nothing new can stand on it, and its index is free when its host says so.
  Refused(CreateHwQueue("q", 0), StatusCode::kAlreadyExists, v1::ERROR_REASON_NAME_TAKEN);
  ASSERT_TRUE(fleet_.Answer(fleet_.hw_queue("q", 1), v1::OUTCOME_RELEASED).ok());
  Refused(CreateHwQueue("q", 1), StatusCode::kFailedPrecondition, v1::ERROR_REASON_HW_QUEUE_ORDER);
  ASSERT_TRUE(fleet_.Answer(fleet_.hw_queue("q", 0), v1::OUTCOME_RELEASED).ok());
  Accepted(CreateHwQueue("q", 0));
}

TEST_F(HwQueueRulesTest, TheyStandInTheWayOfTheirViommuAndGoWithItsCascade) {
  Accepted(CreateHwQueue("q", 0));
  const absl::Status status =
      Refused(DeleteViommu("q"), StatusCode::kFailedPrecondition, v1::ERROR_REASON_HAS_CHILDREN);
  EXPECT_EQ(MetaOf(status, "children"), "viommus/q/hwQueues/0");
  Accepted(DeleteViommu("q", true));
  EXPECT_EQ(fleet_.hw_queue("q", 0).state(), v1::STATE_DELETING);
  ASSERT_TRUE(fleet_.Answer(fleet_.viommu("q"), v1::OUTCOME_RELEASED).ok());
  EXPECT_TRUE(fleet_.Has(fleet_.viommu("q"))) << "its queue is not confirmed";
  ASSERT_TRUE(fleet_.Answer(fleet_.hw_queue("q", 0), v1::OUTCOME_RELEASED).ok());
  EXPECT_FALSE(fleet_.tables().Find<v1::Viommu>("viommus/q"));
}

TEST_F(HwQueueRulesTest, WhatTheHostNoLongerHasIsAppliedAnew) {
  Accepted(CreateHwQueue("q", 0));
  ASSERT_TRUE(fleet_.Answer(fleet_.hw_queue("q", 0), v1::OUTCOME_APPLIED).ok());
  EXPECT_EQ(fleet_.hw_queue("q", 0).state(), v1::STATE_READY);
  ASSERT_TRUE(fleet_.Hello(GraceHello()).ok());
  EXPECT_EQ(fleet_.hw_queue("q", 0).state(), v1::STATE_PENDING);
}

}  // namespace
}  // namespace viommu::server
