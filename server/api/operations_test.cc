// The operations service: draining and forgetting hosts, planning, quotas.

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "common/fake_clock.h"
#include "server/api/drain_keeper.h"
#include "server/api/test_service.h"
#include "server/fleet/drift.h"

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
  (*request.mutable_host_labels())["zone"] = "nowhere";
  Refused(request, StatusCode::kNotFound, v1::ERROR_REASON_HOST_NOT_FOUND);
  request.set_host(kGrace);
  EXPECT_EQ(Do(request).hosts(), 0) << "it has no such label";
}

TEST_F(OperationsTest, PlacementsOnAStage2ThatIsThere) {
  v1::FindPlacementRequest request;
  request.add_devices();
  request.set_stage2_domain("stage2Domains/s");
  const auto found = Do(request);
  EXPECT_EQ(found.hosts(), 1) << "its own";
  ASSERT_FALSE(found.placements().empty());
  for (const auto& placement : found.placements()) EXPECT_EQ(placement.stage2_domain(), "stage2Domains/s");
  request.set_host(kSmall);
  Refused(request, StatusCode::kFailedPrecondition, v1::ERROR_REASON_HOST_MISMATCH);
  request.set_host(kGrace);
  request.set_vm("somebody-else");
  Refused(request, StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  request.set_stage2_domain("stage2Domains/none");
  Refused(request, StatusCode::kNotFound, v1::ERROR_REASON_STAGE2_DOMAIN_NOT_FOUND);
  request.set_stage2_domain("none");
  Refused(request, StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
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

class DriftTest : public OperationsTest {
 protected:
  DriftTest() { request_.set_host(kGrace); }

  // What the agent says of a resource; `uid`, if any, in place of its own.
  v1::InspectedItem& Held(const v1::Vdevice& vdevice, const std::string& uid = "") {
    v1::InspectedItem& item = *sessions_.inspection->add_items();
    *item.mutable_believed()->mutable_vdevice() = vdevice;
    if (!uid.empty()) item.mutable_believed()->mutable_vdevice()->set_uid(uid);
    item.set_presence(v1::PRESENCE_AS_BELIEVED);
    return item;
  }
  std::vector<std::string> Names(const v1::GetDriftResponse& response) {
    std::vector<std::string> names;
    for (const auto& drift : response.drifts()) names.push_back(drift.name());
    return names;
  }

  v1::GetDriftRequest request_;
};

TEST_F(DriftTest, TheRecordIsHeldAgainstWhatTheAgentSays) {
  const auto vdevice = Recorded<v1::Vdevice>("viommus/v/vdevices/1");
  Answer(*vdevice, v1::OUTCOME_APPLIED);
  Held(*vdevice).set_outcome(v1::OUTCOME_APPLIED);
  sessions_.inspection->mutable_items(0)->set_presence(v1::PRESENCE_MISSING);
  sessions_.inspection->add_strays("ioas 7 in the context of vm1");
  request_.set_repair(true);
  const auto response = Do(request_);
  ASSERT_EQ(sessions_.inspected.size(), 1u);
  EXPECT_EQ(sessions_.inspected[0].first, kGrace);
  EXPECT_TRUE(sessions_.inspected[0].second.repair());
  EXPECT_EQ(sessions_.inspected[0].second.max_items(), 100);
  EXPECT_EQ(response.compared(), 3);
  ASSERT_EQ(response.drifts_size(), 3) << "the agent does not hold the stage 2 and the viommu";
  for (const auto& drift : response.drifts()) {
    const bool lost = drift.name() == vdevice->name();
    EXPECT_EQ(drift.expected(), !lost) << drift.ShortDebugString();
    EXPECT_EQ(drift.fields(0).field(), "presence");
    EXPECT_EQ(drift.fields(0).believed(), lost ? "yes" : "no");
  }
  EXPECT_EQ(response.strays(0), "ioas 7 in the context of vm1");
  EXPECT_FALSE(response.backend_can_tell());
  EXPECT_EQ(response.revision(), core_->revision());
  EXPECT_EQ(response.next_page_token(), "");
}

TEST_F(DriftTest, ARepairIsAudited) {
  const int64_t revision = core_->revision();
  Do(request_);
  request_.set_repair(true);
  Do(request_);
  sessions_.inspection = Error(StatusCode::kUnavailable, v1::ERROR_REASON_HOST_DISCONNECTED).Message("gone");
  EXPECT_FALSE(Call(request_).ok());
  Do(Drain());  // an entry of what changed nothing waits for the next batch
  const auto entries = Do(v1::ListAuditEntriesRequest()).entries();
  ASSERT_GE(entries.size(), 3);
  EXPECT_EQ(entries[1].method(), "GetDrift");
  EXPECT_EQ(entries[1].target(), kGrace);
  EXPECT_EQ(entries[1].reason(), "HOST_DISCONNECTED");
  EXPECT_EQ(entries[2].method(), "GetDrift");
  EXPECT_EQ(entries[2].code(), "OK");
  EXPECT_NE(entries[3].method(), "GetDrift") << "a look alone is not";
  EXPECT_EQ(core_->revision(), revision + 1) << "only the drain has changed the record";
}

// What the agent has in its journal otherwise, at the generation of the record, it takes only from another one.
TEST_F(DriftTest, ARepairTellsAnewWhatTheJournalHasOtherwise) {
  const std::string name = "viommus/v/vdevices/1";
  Answer(*Recorded<v1::Vdevice>(name), v1::OUTCOME_APPLIED);
  const auto before = Recorded<v1::Vdevice>(name);
  Held(*before).set_outcome(v1::OUTCOME_APPLIED);
  sessions_.inspection->mutable_items(0)->mutable_believed()->mutable_vdevice()->set_vdev_id(2);
  Held(*before, "~of-nobody");
  v1::InspectedItem& going = Held(*before, "~on-its-way-out");
  going.mutable_believed()->mutable_vdevice()->set_state(v1::STATE_DELETING);
  const int64_t revision = core_->revision();
  Do(request_);
  EXPECT_EQ(core_->revision(), revision) << "a look changes nothing";
  EXPECT_TRUE(sessions_.torn_down.empty());

  request_.set_repair(true);
  Do(request_);
  const auto after = Recorded<v1::Vdevice>(name);
  EXPECT_EQ(after->generation(), revision + 1);
  EXPECT_EQ(after->state(), v1::STATE_PENDING);
  EXPECT_EQ(after->uid(), before->uid());
  EXPECT_EQ(after->vdev_id(), 1u);
  EXPECT_NE(after->etag(), before->etag());
  ASSERT_EQ(sessions_.torn_down.size(), 1u) << "what is on its way out is told already";
  EXPECT_EQ(sessions_.torn_down[0], std::make_pair(kGrace, std::string("~of-nobody")));
  core_->Read([](const Tables& tables, int64_t) { EXPECT_TRUE(CheckInvariants(tables).ok()); });
  const auto entries = Do(v1::ListAuditEntriesRequest()).entries();
  ASSERT_GE(entries.size(), 1);
  EXPECT_EQ(entries[0].method(), "GetDrift");
  EXPECT_EQ(entries[0].target(), kGrace);
  EXPECT_EQ(entries[0].revision(), after->generation());

  Do(request_);
  EXPECT_EQ(Recorded<v1::Vdevice>(name)->generation(), after->generation()) << "it is told already";
  Answer(*after, v1::OUTCOME_APPLIED);
  Answer(*before, v1::OUTCOME_FAILED);
  EXPECT_EQ(Recorded<v1::Vdevice>(name)->state(), v1::STATE_READY) << "a late answer speaks of another generation";
}

// What has changed since the agent was asked is left alone: its change says all of it.
TEST_F(DriftTest, ARepairLeavesAloneWhatHasChangedSince) {
  const auto vdevice = Recorded<v1::Vdevice>("viommus/v/vdevices/1");
  EXPECT_TRUE(FunctionCommand::Run(*committer_, [&](const Context& context, Draft& draft) {
                DesireAnew({{Kind::kVdevice, vdevice->name(), vdevice->generation() - 1},
                            {Kind::kVdevice, "viommus/v/vdevices/77", 1},
                            {Kind::kHost, kGrace, 1}},
                           context, draft);
                EXPECT_EQ(draft.size(), 0u);
                DesireAnew({{Kind::kVdevice, vdevice->name(), vdevice->generation()}}, context, draft);
                EXPECT_EQ(draft.size(), 1u);
                return absl::OkStatus();
              }).ok());
}

TEST_F(DriftTest, PagesCoverEveryUidOnce) {
  const auto vdevice = Recorded<v1::Vdevice>("viommus/v/vdevices/1");
  // The agent holds a stranger before and one after everything that is recorded.
  Held(*vdevice, "0-before");
  sessions_.inspection->set_more(true);
  sessions_.inspection->add_strays("too early");
  request_.set_page_size(1);
  auto response = Do(request_);
  EXPECT_EQ(response.compared(), 1);
  EXPECT_EQ(response.strays_size(), 0) << "they come with the last page";
  request_.set_page_token(response.next_page_token());
  ASSERT_NE(request_.page_token(), "");
  sessions_.inspection = v1::InspectReply();
  Held(*vdevice, "~after");
  response = Do(request_);
  EXPECT_EQ(sessions_.inspected.back().second.after_uid(), "0-before");
  EXPECT_EQ(response.compared(), 4);
  EXPECT_EQ(response.next_page_token(), "");
  request_.set_repair(true);
  Refused(request_, StatusCode::kInvalidArgument, v1::ERROR_REASON_PAGE_TOKEN_INVALID);
}

TEST_F(DriftTest, WhetherTheBackendCanTell) {
  v1::Hello hello = GraceHello();
  v1::Capability& ability = *hello.mutable_host()->add_capabilities();
  ability.set_name("list_objects");
  ability.set_available(true);
  EXPECT_TRUE(FunctionCommand::Run(*committer_, [&](const Context& context, Draft& draft) {
                return JudgeHello(hello, context, draft);
              }).ok());
  EXPECT_TRUE(Do(request_).backend_can_tell());
}

TEST_F(DriftTest, IsRefusedWithAReason) {
  sessions_.inspection =
      Error(StatusCode::kUnavailable, v1::ERROR_REASON_HOST_DISCONNECTED).Message("gone").RetryAfter(kReconnectDelay);
  Refused(request_, StatusCode::kUnavailable, v1::ERROR_REASON_HOST_DISCONNECTED);
  request_.set_page_size(-1);
  Refused(request_, StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  request_.set_host("hosts/none");
  request_.set_page_size(0);
  Refused(request_, StatusCode::kNotFound, v1::ERROR_REASON_HOST_NOT_FOUND);
  request_.set_host("none");
  Refused(request_, StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
  // An agent that goes round in circles.
  request_.set_host(kGrace);
  sessions_.inspection = v1::InspectReply();
  for (int i = 0; i < 2; ++i) Held(*Recorded<v1::Vdevice>("viommus/v/vdevices/1"));
  Refused(request_, StatusCode::kInternal, v1::ERROR_REASON_PROTOCOL_VIOLATION);
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
