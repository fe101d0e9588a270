// Rules of draining, evicting and forgetting hosts: promise 1 when a host is lost.

#include <gtest/gtest.h>

#include <string>

#include "server/fleet/test_fleet.h"

namespace viommu::server {
namespace {

using absl::StatusCode;

template <typename Request>
Request About(const std::string& host) {
  Request request;
  request.set_name(host);
  return request;
}

v1::DrainHostRequest Drain(int64_t seconds, bool evict = false) {
  auto request = About<v1::DrainHostRequest>(kGrace);
  if (seconds != 0) request.mutable_timeout()->set_seconds(seconds);
  request.set_evict(evict);
  return request;
}

v1::ForgetHostRequest Forget(bool declare_dead) {
  auto request = About<v1::ForgetHostRequest>(kGrace);
  request.set_declare_dead(declare_dead);
  return request;
}

class HostEndRulesTest : public FleetTest {
 protected:
  HostEndRulesTest() { Accepted(SetVdevId("v", DeviceOf(kGrace, 0), 1)); }
};

TEST_F(HostEndRulesTest, ADrainCordonsAndIsRecorded) {
  Accepted(Drain(60, /*evict=*/true));
  const v1::Host host = fleet_.host(kGrace);
  EXPECT_TRUE(host.cordoned());
  ASSERT_TRUE(host.has_drain());
  EXPECT_EQ(host.drain().deadline().seconds() - host.drain().start_time().seconds(), 60);
  EXPECT_TRUE(host.drain().evict());
  Refused(CreateStage2("s2", kGrace), StatusCode::kFailedPrecondition, v1::ERROR_REASON_HOST_CORDONED);
  EXPECT_EQ(fleet_.vdevice("v", 1).state(), v1::STATE_PENDING) << "what is there stays";
}

TEST_F(HostEndRulesTest, AnotherDrainMovesTheDeadlineAndKeepsTheStart) {
  Accepted(Drain(60));
  const auto start = fleet_.host(kGrace).drain().start_time();
  Accepted(Drain(0));
  EXPECT_EQ(fleet_.host(kGrace).drain().start_time().seconds(), start.seconds());
  EXPECT_FALSE(fleet_.host(kGrace).drain().has_deadline());
}

TEST_F(HostEndRulesTest, ADrainSurvivesAHello) {
  Accepted(Drain(60));
  ASSERT_TRUE(fleet_.Disconnect(kGrace).ok());
  ASSERT_TRUE(fleet_.Hello(GraceHello()).ok());
  EXPECT_TRUE(fleet_.host(kGrace).has_drain());
}

TEST_F(HostEndRulesTest, WhatADrainMayNotBe) {
  Refused(Drain(0, /*evict=*/true), StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  Refused(Drain(-1), StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  Refused(Drain(int64_t{kMaxDrainHours} * 3600), StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  auto stale = Drain(60);
  stale.set_etag("old");
  Refused(stale, StatusCode::kAborted, v1::ERROR_REASON_ETAG_MISMATCH);
  Refused(About<v1::DrainHostRequest>("hosts/nowhere"), StatusCode::kNotFound, v1::ERROR_REASON_HOST_NOT_FOUND);
}

TEST_F(HostEndRulesTest, AnAbortedDrainLeavesTheCordonUnlessAskedOtherwise) {
  Accepted(Drain(60));
  Accepted(About<v1::AbortDrainRequest>(kGrace));
  EXPECT_FALSE(fleet_.host(kGrace).has_drain());
  EXPECT_TRUE(fleet_.host(kGrace).cordoned());
  auto open = About<v1::AbortDrainRequest>(kGrace);
  open.set_uncordon(true);
  Accepted(open);
  EXPECT_FALSE(fleet_.host(kGrace).cordoned());
  const int64_t revision = fleet_.revision();
  Accepted(open);
  EXPECT_EQ(fleet_.revision(), revision) << "nothing left to change";
}

TEST_F(HostEndRulesTest, UncordoningEndsADrain) {
  Accepted(Drain(60));
  Accepted(About<v1::UncordonHostRequest>(kGrace));
  EXPECT_FALSE(fleet_.host(kGrace).has_drain());
}

// Promise 1: an evicted host's devices stay held until it confirms.
TEST_F(HostEndRulesTest, EvictingDeletesEverythingAndFreesNothing) {
  ASSERT_TRUE(fleet_.Disconnect(kGrace).ok());
  Accepted(Drain(60, /*evict=*/true));
  const auto evicted = fleet_.Do(About<v1::EvictHostRequest>(kGrace));
  ASSERT_TRUE(evicted.ok()) << evicted.status();
  EXPECT_EQ(evicted->deleted(), 3) << "the stage-2 domain, the viommu, the vdevice";
  EXPECT_TRUE(evicted->host().drain().has_evict_time());
  EXPECT_EQ(fleet_.stage2("s").state(), v1::STATE_DELETING);
  EXPECT_EQ(fleet_.vdevice("v", 1).state(), v1::STATE_DELETING);
  EXPECT_EQ(fleet_.device(DeviceOf(kGrace, 0)).state(), v1::DEVICE_STATE_RELEASING);
  Refused(Forget(/*declare_dead=*/false), StatusCode::kFailedPrecondition, v1::ERROR_REASON_HAS_CHILDREN);

  // The host is back and confirms.
  ASSERT_TRUE(fleet_.Hello(GraceHello()).ok());
  ASSERT_TRUE(fleet_.Answer(fleet_.vdevice("v", 1), v1::OUTCOME_RELEASED).ok());
  EXPECT_EQ(fleet_.device(DeviceOf(kGrace, 0)).state(), v1::DEVICE_STATE_FREE);
  ASSERT_TRUE(fleet_.Answer(fleet_.viommu("v"), v1::OUTCOME_RELEASED).ok());
  ASSERT_TRUE(fleet_.Answer(fleet_.stage2("s"), v1::OUTCOME_RELEASED).ok());
  ASSERT_TRUE(fleet_.Disconnect(kGrace).ok());
  Accepted(Forget(/*declare_dead=*/false));
  EXPECT_EQ(fleet_.host(kGrace).name(), "");
}

TEST_F(HostEndRulesTest, EvictingTwiceChangesNothingTheSecondTime) {
  Accepted(About<v1::EvictHostRequest>(kGrace));
  const int64_t revision = fleet_.revision();
  const auto again = fleet_.Do(About<v1::EvictHostRequest>(kGrace));
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->deleted(), 0);
  EXPECT_EQ(fleet_.revision(), revision);
}

TEST_F(HostEndRulesTest, AConnectedHostIsNotForgotten) {
  Refused(Forget(/*declare_dead=*/true), StatusCode::kFailedPrecondition, v1::ERROR_REASON_HOST_CONNECTED);
}

TEST_F(HostEndRulesTest, ADeadHostGoesWithAllItHas) {
  Accepted(CreateNested("v", "n"));
  Accepted(CreateStage2("s2", kGrace, "", "other"));
  ASSERT_TRUE(fleet_.Disconnect(kGrace).ok());
  Refused(Forget(/*declare_dead=*/false), StatusCode::kFailedPrecondition, v1::ERROR_REASON_HAS_CHILDREN);
  EXPECT_EQ(MetaOf(refusal_, "count"), "2");
  const auto forgotten = fleet_.Do(Forget(/*declare_dead=*/true));
  ASSERT_TRUE(forgotten.ok()) << forgotten.status();
  EXPECT_EQ(forgotten->stage2_domains(), 2);
  EXPECT_EQ(forgotten->viommus(), 1);
  EXPECT_EQ(forgotten->vdevices(), 1);
  EXPECT_EQ(forgotten->vms(), 2);
  for (const Kind kind : {Kind::kDevice, Kind::kVdevice, Kind::kNestedDomain, Kind::kViommu, Kind::kStage2Domain}) {
    fleet_.tables().ScanRecords(kind, "", "", [](const RecordPtr& record) {
      EXPECT_NE(record->ShortDebugString().find("small"), std::string::npos) << record->ShortDebugString();
      return true;
    });
  }
  EXPECT_EQ(fleet_.tables().Find<v1::Host>(kGrace), nullptr);
}

// Promise 5: what the dead host still says when it is back brings nothing back.
TEST_F(HostEndRulesTest, AForgottenHostThatComesBackHasNothing) {
  const v1::Vdevice before = fleet_.vdevice("v", 1);
  ASSERT_TRUE(fleet_.Disconnect(kGrace).ok());
  Accepted(Forget(/*declare_dead=*/true));
  ASSERT_TRUE(fleet_.Hello(GraceHello()).ok());
  EXPECT_EQ(fleet_.device(DeviceOf(kGrace, 0)).state(), v1::DEVICE_STATE_FREE);
  ASSERT_TRUE(fleet_.Answer(before, v1::OUTCOME_APPLIED).ok());
  EXPECT_FALSE(fleet_.Has(before));
  Accepted(CreateStage2("s", kGrace));
  Accepted(CreateViommu("v", SmmuOf(kGrace, 0), "s"));
  Accepted(SetVdevId("v", DeviceOf(kGrace, 0), 1));
  EXPECT_GT(fleet_.vdevice("v", 1).generation(), before.generation());
  EXPECT_NE(fleet_.vdevice("v", 1).uid(), before.uid());
}

}  // namespace
}  // namespace viommu::server
