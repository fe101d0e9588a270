// Promise 5, and what answers of hosts do otherwise.

#include <gtest/gtest.h>

#include <string>

#include "server/fleet/test_fleet.h"

namespace viommu::server {
namespace {

class ResultsTest : public FleetTest {
 protected:
  ResultsTest() { Accepted(SetVdevId("v", device0_, 8)); }

  // The answer is taken without an error, and changes nothing.
  void Ignored(const v1::ItemResult& result, const std::string& host = kGrace) {
    const int64_t revision = fleet_.revision();
    const absl::Status status = fleet_.Answer(host, result);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(fleet_.revision(), revision) << result.ShortDebugString();
  }

  const std::string device0_ = DeviceOf(kGrace, 0);
};

TEST_F(ResultsTest, OutcomesBecomeStates) {
  const v1::Vdevice pending = fleet_.vdevice("v", 8);
  ASSERT_TRUE(fleet_.Answer(pending, v1::OUTCOME_FAILED).ok());
  v1::Vdevice vdevice = fleet_.vdevice("v", 8);
  EXPECT_EQ(vdevice.state(), v1::STATE_FAILED);
  EXPECT_EQ(vdevice.state_reason().reason(), "BACKEND_FAILED");
  EXPECT_EQ(vdevice.state_reason().error_number(), 5);
  EXPECT_EQ(vdevice.observed_generation(), pending.generation());
  EXPECT_EQ(vdevice.generation(), pending.generation());
  EXPECT_EQ(vdevice.etag(), pending.etag());
  EXPECT_EQ(vdevice.revision(), fleet_.revision());
  ASSERT_TRUE(fleet_.Answer(pending, v1::OUTCOME_DORMANT).ok());
  EXPECT_EQ(fleet_.vdevice("v", 8).state(), v1::STATE_DORMANT);
  ASSERT_TRUE(fleet_.Answer(pending, v1::OUTCOME_APPLIED).ok());
  vdevice = fleet_.vdevice("v", 8);
  EXPECT_EQ(vdevice.state(), v1::STATE_READY);
  EXPECT_FALSE(vdevice.has_state_reason());
}

TEST_F(ResultsTest, LongReasonsAreCut) {
  v1::ItemResult result = ResultFor(fleet_.vdevice("v", 8), v1::OUTCOME_FAILED);
  result.mutable_reason()->set_message(std::string(kMaxReasonBytes + 1, 'm'));
  result.mutable_reason()->set_reason(std::string(kMaxReportedTextBytes + 1, 'R'));
  ASSERT_TRUE(fleet_.Answer(kGrace, result).ok());
  EXPECT_EQ(fleet_.vdevice("v", 8).state_reason().message().size(), kMaxReasonBytes);
  EXPECT_EQ(fleet_.vdevice("v", 8).state_reason().reason().size(), kMaxReportedTextBytes);
  Ignored(result);
}

TEST_F(ResultsTest, RepeatsChangeNothing) {
  for (const v1::Outcome outcome : {v1::OUTCOME_FAILED, v1::OUTCOME_DORMANT, v1::OUTCOME_APPLIED}) {
    const v1::ItemResult result = ResultFor(fleet_.vdevice("v", 8), outcome);
    ASSERT_TRUE(fleet_.Answer(kGrace, result).ok());
    Ignored(result);
  }
}

TEST_F(ResultsTest, AVmidIsTakenOver) {
  v1::ItemResult result = ResultFor(fleet_.viommu("v"), v1::OUTCOME_APPLIED);
  result.set_vmid(42);
  ASSERT_TRUE(fleet_.Answer(kGrace, result).ok());
  EXPECT_EQ(fleet_.viommu("v").vmid(), 42u);
  Ignored(result);
  result.set_vmid(43);
  ASSERT_TRUE(fleet_.Answer(kGrace, result).ok());
  EXPECT_EQ(fleet_.viommu("v").vmid(), 43u);
}

// Promise 5.
TEST_F(ResultsTest, WhatIsLateChangesNothing) {
  const v1::Vdevice first = fleet_.vdevice("v", 8);
  Accepted(CreateNested("v", "n"));
  Accepted(AttachDevice("v", "n", device0_));
  Ignored(ResultFor(first, v1::OUTCOME_APPLIED));
  Ignored(ResultFor(first, v1::OUTCOME_FAILED));
  v1::ItemResult future = ResultFor(fleet_.vdevice("v", 8), v1::OUTCOME_APPLIED);
  future.set_generation(future.generation() + 1);
  Ignored(future);
}

// Promise 5.
TEST_F(ResultsTest, WhatIsReleasedDoesNotComeBack) {
  const v1::Vdevice first = fleet_.vdevice("v", 8);
  Accepted(UnsetVdevId("v", 8));
  const v1::Vdevice deleting = fleet_.vdevice("v", 8);
  Ignored(ResultFor(first, v1::OUTCOME_APPLIED));
  Ignored(ResultFor(deleting, v1::OUTCOME_APPLIED));
  Ignored(ResultFor(deleting, v1::OUTCOME_DORMANT));
  Ignored(ResultFor(first, v1::OUTCOME_RELEASED));
  ASSERT_TRUE(fleet_.Answer(deleting, v1::OUTCOME_RELEASED).ok());
  for (const v1::Outcome outcome :
       {v1::OUTCOME_APPLIED, v1::OUTCOME_DORMANT, v1::OUTCOME_FAILED, v1::OUTCOME_RELEASED}) {
    Ignored(ResultFor(first, outcome));
    Ignored(ResultFor(deleting, outcome));
  }
  EXPECT_EQ(fleet_.tables().size(Kind::kVdevice), 0);
}

// Promise 5.
TEST_F(ResultsTest, ALateReleaseDoesNotTouchTheNextOfThatName) {
  Accepted(UnsetVdevId("v", 8));
  const v1::Vdevice old = fleet_.vdevice("v", 8);
  ASSERT_TRUE(fleet_.Answer(old, v1::OUTCOME_RELEASED).ok());
  Accepted(SetVdevId("v", device0_, 8));
  Ignored(ResultFor(old, v1::OUTCOME_RELEASED));
  EXPECT_GT(fleet_.vdevice("v", 8).generation(), old.generation());
  Accepted(UnsetVdevId("v", 8));
  Ignored(ResultFor(old, v1::OUTCOME_RELEASED));
  EXPECT_EQ(fleet_.device(device0_).state(), v1::DEVICE_STATE_RELEASING);
}

TEST_F(ResultsTest, AReleaseOfWhatShouldBeThereChangesNothing) {
  Ignored(ResultFor(fleet_.vdevice("v", 8), v1::OUTCOME_RELEASED));
  Ignored(ResultFor(fleet_.viommu("v"), v1::OUTCOME_RELEASED));
}

TEST_F(ResultsTest, WhatIsUnknownChangesNothing) {
  v1::ItemResult result = ResultFor(fleet_.vdevice("v", 8), v1::OUTCOME_APPLIED);
  result.set_uid("another");
  Ignored(result);
  for (const char* name : {"", "viommus/nobody", "viommus/v/vdevices/77", "hosts/grace", "rubbish/x"}) {
    result.set_name(name);
    Ignored(result);
  }
  Ignored(ResultFor(fleet_.vdevice("v", 8), v1::OUTCOME_UNSPECIFIED));
  Ignored(ResultFor(fleet_.vdevice("v", 8), static_cast<v1::Outcome>(99)));
}

TEST_F(ResultsTest, AHostAnswersForItselfOnly) {
  const int64_t revision = fleet_.revision();
  const absl::Status status = fleet_.Answer(kSmall, ResultFor(fleet_.vdevice("v", 8), v1::OUTCOME_APPLIED));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_PROTOCOL_VIOLATION);
  EXPECT_EQ(fleet_.revision(), revision);
}

}  // namespace
}  // namespace viommu::server
