// The operations service: draining and forgetting hosts, planning, quotas.

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "common/fake_clock.h"
#include "server/api/drain_keeper.h"
#include "server/api/test_service.h"

namespace viommu::server {
namespace {

using absl::StatusCode;

template <typename Request>
Request About(const std::string& name) {
  Request request;
  request.set_name(name);
  return request;
}

v1::DrainHostRequest Drain(int64_t seconds = 0, bool evict = false) {
  auto request = About<v1::DrainHostRequest>(kGrace);
  if (seconds != 0) request.mutable_timeout()->set_seconds(seconds);
  request.set_evict(evict);
  return request;
}

class OperationsTest : public FleetServiceTest {
 protected:
  OperationsTest() : FleetServiceTest(8, 4, clock_) {
    MakeViommu();
    Do(SetVdevId("v", DeviceOf(kGrace, 0), 1));
  }

  v1::DrainProgress Progress() { return Do(About<v1::GetDrainRequest>(kGrace)).progress(); }

  static inline FakeClock clock_;
};

TEST_F(OperationsTest, ADrainSaysWhatIsLeftAndWhy) {
  EXPECT_FALSE(Progress().has_drain());
  Do(Drain(60));
  v1::DrainProgress progress = Progress();
  EXPECT_TRUE(progress.has_drain());
  EXPECT_EQ(progress.stage2_domains(), 1);
  EXPECT_EQ(progress.viommus(), 1);
  EXPECT_EQ(progress.vdevices(), 1);
  EXPECT_EQ(progress.vms(), 1);
  EXPECT_EQ(progress.deleting(), 0);
  EXPECT_FALSE(progress.empty());
  ASSERT_EQ(progress.remaining_size(), 1);
  EXPECT_EQ(progress.remaining(0).name(), "viommus/v");
  EXPECT_NE(progress.remaining(0).why().find("in use"), std::string::npos);
  Do(DeleteStage2("s", /*cascade=*/true));
  progress = Progress();
  EXPECT_EQ(progress.deleting(), 1);
  EXPECT_NE(progress.remaining(0).why().find("waits for the host"), std::string::npos);
}

TEST_F(OperationsTest, AStage2WithoutViommusIsNamedToo) {
  Do(CreateStage2("empty", kGrace, "", "vm2"));
  const v1::DrainProgress progress = Progress();
  ASSERT_EQ(progress.remaining_size(), 2);
  EXPECT_EQ(progress.remaining(0).name(), "stage2Domains/empty");
  EXPECT_EQ(progress.vms(), 2);
}

TEST_F(OperationsTest, AWatchOfADrainFollowsItToItsEnd) {
  Do(Drain());
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  v1::WatchDrainRequest request;
  request.set_name(kGrace);
  const auto stream = operations_stub_->WatchDrain(&context, request);
  v1::WatchDrainResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.progress().viommus(), 1);
  Do(DeleteStage2("s", /*cascade=*/true));
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.progress().deleting(), 1);
  Answer(*Recorded<v1::Vdevice>("viommus/v/vdevices/1"), v1::OUTCOME_RELEASED);
  Answer(*Recorded<v1::Viommu>("viommus/v"), v1::OUTCOME_RELEASED);
  Answer(*Recorded<v1::Stage2Domain>("stage2Domains/s"), v1::OUTCOME_RELEASED);
  bool empty = false;
  while (stream->Read(&response)) empty = response.progress().empty();
  EXPECT_TRUE(empty) << response.ShortDebugString();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(OperationsTest, AWatchOfADrainEndsWhenItIsAborted) {
  Do(Drain());
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  v1::WatchDrainRequest request;
  request.set_name(kGrace);
  const auto stream = operations_stub_->WatchDrain(&context, request);
  v1::WatchDrainResponse response;
  ASSERT_TRUE(stream->Read(&response));
  Do(About<v1::AbortDrainRequest>(kGrace));
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_FALSE(response.progress().has_drain());
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(OperationsTest, AWatchOfNothingIsRefused) {
  grpc::ClientContext context;
  v1::WatchDrainRequest request;
  request.set_name("hosts/nowhere");
  const auto stream = operations_stub_->WatchDrain(&context, request);
  v1::WatchDrainResponse response;
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(ReasonOf(FromGrpcStatus(stream->Finish())), v1::ERROR_REASON_HOST_NOT_FOUND);
}

TEST_F(OperationsTest, AtItsDeadlineADrainEvictsOnce) {
  DrainKeeper keeper(*core_, [this](Command* command) { return committer_->Submit(command); });
  Do(Drain(60, /*evict=*/true));
  keeper.Tick(clock_.Now());
  const auto settle = [this] {
    // What was submitted before this is over when this is.
    EXPECT_TRUE(FunctionCommand::Run(*committer_, [](const Context&, Draft&) { return absl::OkStatus(); }).ok());
  };
  settle();
  EXPECT_EQ(Recorded<v1::Viommu>("viommus/v")->state(), v1::STATE_PENDING) << "too early";
  clock_.Advance(std::chrono::seconds(61));
  keeper.Tick(clock_.Now());
  settle();
  EXPECT_EQ(Recorded<v1::Viommu>("viommus/v")->state(), v1::STATE_DELETING);
  EXPECT_TRUE(Recorded<v1::Host>(kGrace)->drain().has_evict_time());
  const int64_t revision = core_->revision();
  keeper.Tick(clock_.Now());
  settle();
  EXPECT_EQ(core_->revision(), revision);
}

TEST_F(OperationsTest, WithoutEvictADeadlineOnlyIsLate) {
  DrainKeeper keeper(*core_, [this](Command* command) { return committer_->Submit(command); });
  Do(Drain(60));
  clock_.Advance(std::chrono::seconds(61));
  const int64_t revision = core_->revision();
  keeper.Tick(clock_.Now());
  EXPECT_EQ(core_->revision(), revision);
  EXPECT_NE(Progress().remaining(0).why().find("past the deadline"), std::string::npos);
}

TEST_F(OperationsTest, ForgettingIsSafeToRepeat) {
  EXPECT_TRUE(FunctionCommand::Run(*committer_, [](const Context& context, Draft& draft) {
                return JudgeDisconnect(kGrace, v1::ERROR_REASON_LEASE_EXPIRED, "silence", context, draft);
              }).ok());
  Refused(About<v1::ForgetHostRequest>(kGrace), StatusCode::kFailedPrecondition, v1::ERROR_REASON_HAS_CHILDREN);
  auto forget = About<v1::ForgetHostRequest>(kGrace);
  forget.set_declare_dead(true);
  forget.set_request_id(NewUuid());
  const auto first = Do(forget);
  EXPECT_EQ(first.vdevices(), 1);
  EXPECT_EQ(Do(forget).revision(), first.revision());
  forget.clear_request_id();
  Refused(forget, StatusCode::kNotFound, v1::ERROR_REASON_HOST_NOT_FOUND);
}

TEST_F(OperationsTest, EvictingOnlyJudgedChangesNothing) {
  auto evict = About<v1::EvictHostRequest>(kGrace);
  evict.set_validate_only(true);
  EXPECT_EQ(Do(evict).deleted(), 3);
  EXPECT_EQ(Recorded<v1::Viommu>("viommus/v")->state(), v1::STATE_PENDING);
}

TEST_F(OperationsTest, PlacementsAndRefusals) {
  v1::FindPlacementRequest request;
  request.add_devices()->set_count(2);
  const auto found = Do(request);
  EXPECT_EQ(found.hosts(), 2);
  EXPECT_FALSE(found.placements().empty());
  EXPECT_FALSE(found.refusals().empty());
  Refused(v1::FindPlacementRequest(), StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  request.set_host("hosts/nowhere");
  Refused(request, StatusCode::kNotFound, v1::ERROR_REASON_HOST_NOT_FOUND);
}

TEST_F(OperationsTest, Comparisons) {
  v1::CompareHostsRequest request;
  request.set_source("viommus/v");
  request.set_target(kSmall);
  const auto answer = Do(request);
  ASSERT_EQ(answer.comparisons_size(), 2);
  EXPECT_EQ(answer.comparisons(0).source(), SmmuOf(kGrace, 0));
  request.set_source(kGrace);
  request.set_target(SmmuOf(kSmall, 1));
  EXPECT_EQ(Do(request).comparisons_size(), 2);
  request.set_target(SmmuOf(kSmall, 7));
  Refused(request, StatusCode::kNotFound, v1::ERROR_REASON_SMMU_NOT_FOUND);
  request.set_target("viommus/v");
  Refused(request, StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  request.set_source("viommus/none");
  Refused(request, StatusCode::kNotFound, v1::ERROR_REASON_VIOMMU_NOT_FOUND);
}

TEST_F(OperationsTest, WhatIsNotOfferedSaysSo) {
  v1::GetDriftRequest drift;
  drift.set_host(kGrace);
  Refused(drift, StatusCode::kUnimplemented, v1::ERROR_REASON_NOT_OFFERED);
}

TEST_F(OperationsTest, QuotasComeWithWhatIsUsed) {
  auto stage2 = CreateStage2("owned", kGrace);
  (*stage2.mutable_stage2_domain()->mutable_labels())["owner"] = "acme";
  Do(stage2);
  Do(CreateViommu("o", SmmuOf(kGrace, 1), "owned"));
  v1::SetQuotaRequest set;
  set.mutable_quota()->set_name("quotas/acme");
  set.mutable_quota()->set_max_viommus(1);
  EXPECT_EQ(Do(set).quota().usage().viommus(), 1);
  EXPECT_EQ(Do(About<v1::GetQuotaRequest>("quotas/acme")).quota().usage().viommus(), 1);
  ASSERT_EQ(Do(v1::ListQuotasRequest()).quotas_size(), 1);
  Refused(CreateViommu("o2", SmmuOf(kGrace, 1), "owned"), StatusCode::kResourceExhausted,
          v1::ERROR_REASON_QUOTA_EXCEEDED);
  Do(About<v1::DeleteQuotaRequest>("quotas/acme"));
  Refused(About<v1::GetQuotaRequest>("quotas/acme"), StatusCode::kNotFound, v1::ERROR_REASON_QUOTA_NOT_FOUND);
}

}  // namespace
}  // namespace viommu::server
