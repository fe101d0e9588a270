#include "server/commit/core.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/fake_clock.h"
#include "server/commit/test_command.h"
#include "server/store/memory_store.h"

namespace viommu::server {
namespace {

class Recorder final : public Listener {
 public:
  void OnCommit(const std::vector<ChangeSetPtr>& sets) override {
    for (const ChangeSetPtr& set : sets) revisions.push_back(set->revision);
  }
  std::vector<int64_t> revisions;
};

class CoreTest : public testing::Test {
 protected:
  std::unique_ptr<CommitCore> Open(Store& store, std::string boot_id = "boot-1", std::string cluster_id = "") {
    auto core = TryOpen(store, std::move(boot_id), std::move(cluster_id));
    EXPECT_TRUE(core.ok()) << core.status();
    return core.ok() ? *std::move(core) : nullptr;
  }

  absl::StatusOr<std::unique_ptr<CommitCore>> TryOpen(Store& store, std::string boot_id, std::string cluster_id) {
    CommitCore::Options options = options_;
    options.boot_id = std::move(boot_id);
    options.cluster_id = std::move(cluster_id);
    return CommitCore::Open(
        store, clock_, [this] { return "uid-" + std::to_string(++uids_); }, options);
  }

  static bool Has(const CommitCore& core, const std::string& host) {
    return core.Read([&](const Tables& tables, int64_t) { return tables.Find<v1::Host>(host) != nullptr; });
  }

  MemoryStore store_;
  FakeClock clock_;
  CommitCore::Options options_;
  int uids_ = 0;
};

TEST_F(CoreTest, EveryAcceptedChangeGetsTheNextRevision) {
  auto core = Open(store_);
  Recorder recorder;
  core->AddListener(&recorder);
  TestCommand a(PutHost("hosts/a"));
  TestCommand refused([](const Context&, Draft&) { return absl::FailedPreconditionError("no"); });
  TestCommand nothing([](const Context&, Draft&) { return absl::OkStatus(); });
  TestCommand b(PutHost("hosts/b"));
  std::vector<Command*> batch = {&a, &refused, &nothing, &b};
  const auto outcomes = core->Run(batch);
  EXPECT_EQ(outcomes[0].revision, 1);
  EXPECT_EQ(outcomes[1].status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(outcomes[2].status.ok());
  EXPECT_EQ(outcomes[2].revision, 1) << "judged at, since it changed nothing";
  EXPECT_EQ(outcomes[3].revision, 2);
  EXPECT_EQ(core->revision(), 2);
  EXPECT_EQ(recorder.revisions, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(core->stats().batches, 1u);
}

TEST_F(CoreTest, ARefusedCommandLeavesNoTraceForTheNextOne) {
  auto core = Open(store_);
  TestCommand refused([](const Context& context, Draft& draft) {
    EXPECT_TRUE(PutHost("hosts/a")(context, draft).ok());
    return absl::FailedPreconditionError("changed its mind");
  });
  bool seen = true;
  TestCommand next([&](const Context&, Draft& draft) {
    seen = draft.Find<v1::Host>("hosts/a") != nullptr;
    return absl::OkStatus();
  });
  std::vector<Command*> batch = {&refused, &next};
  core->Run(batch);
  EXPECT_FALSE(seen);
  EXPECT_FALSE(Has(*core, "hosts/a"));
}

TEST_F(CoreTest, ACommandSeesWhatWasAcceptedBeforeItInTheSameBatch) {
  auto core = Open(store_);
  TestCommand first(PutHost("hosts/a"));
  bool seen = false;
  TestCommand second([&](const Context&, Draft& draft) {
    seen = draft.Find<v1::Host>("hosts/a") != nullptr;
    return absl::OkStatus();
  });
  std::vector<Command*> batch = {&first, &second};
  core->Run(batch);
  EXPECT_TRUE(seen);
}

TEST_F(CoreTest, ValidateOnlyChangesNothing) {
  auto core = Open(store_);
  TestCommand command(PutHost("hosts/a"));
  command.validate_only = true;
  command.request_id = "id";
  EXPECT_TRUE(command.RunOn(*core).ok());
  EXPECT_EQ(core->revision(), 0);
  EXPECT_FALSE(Has(*core, "hosts/a"));
  TestCommand real(PutHost("hosts/a"));
  real.request_id = "id";
  EXPECT_TRUE(real.RunOn(*core).ok());
  EXPECT_EQ(real.judged, 1) << "a judged-only request is no answer to a real one";
}

// Promise 6: if the store does not take it, nothing has changed, and everybody is told.
TEST_F(CoreTest, AFailingStoreChangesNothingAndRefusesUntilItRecovers) {
  auto core = Open(store_);
  Recorder recorder;
  core->AddListener(&recorder);
  store_.FailCommits(absl::ResourceExhaustedError("disk full"));
  TestCommand a(PutHost("hosts/a"));
  EXPECT_EQ(ReasonOf(a.RunOn(*core)), v1::ERROR_REASON_STORE_UNAVAILABLE);
  EXPECT_FALSE(core->writable().ok());
  EXPECT_FALSE(Has(*core, "hosts/a"));
  EXPECT_EQ(core->revision(), 0);
  EXPECT_TRUE(recorder.revisions.empty());
  EXPECT_TRUE(core->log().ReadAfter(0, 10)->empty());

  TestCommand b(PutHost("hosts/b"));
  EXPECT_EQ(ReasonOf(b.RunOn(*core)), v1::ERROR_REASON_STORE_UNAVAILABLE);
  EXPECT_EQ(b.judged, 0) << "while it is broken nothing is tried";
  core->Tick();
  EXPECT_FALSE(core->writable().ok()) << "the cause is still there";

  store_.AllowRecovery();
  core->Tick();
  EXPECT_TRUE(core->writable().ok());
  TestCommand again(PutHost("hosts/a"));
  EXPECT_TRUE(again.RunOn(*core).ok());
  EXPECT_EQ(again.revision, 1);
}

TEST_F(CoreTest, AnswersAreKeptUnderTheirRequestIdAlsoAcrossARestart) {
  auto core = Open(store_);
  TestCommand first(PutHost("hosts/a"));
  first.request_id = "id-1";
  first.fingerprint = "put a";
  first.response = "the answer";
  ASSERT_TRUE(first.RunOn(*core).ok());

  for (int round = 0; round < 2; ++round) {
    TestCommand repeat(PutHost("hosts/a"));
    repeat.request_id = "id-1";
    repeat.fingerprint = "put a";
    EXPECT_TRUE(repeat.RunOn(*core).ok());
    EXPECT_EQ(repeat.judged, 0);
    EXPECT_EQ(repeat.revision, first.revision);
    EXPECT_EQ(repeat.response, "the answer");

    TestCommand other(PutHost("hosts/b"));
    other.request_id = "id-1";
    other.fingerprint = "put b";
    EXPECT_EQ(ReasonOf(other.RunOn(*core)), v1::ERROR_REASON_REQUEST_ID_REUSED);
    EXPECT_FALSE(Has(*core, "hosts/b"));
    core = Open(store_);
  }
}

TEST_F(CoreTest, ARepeatInTheSameBatchIsCarriedOutOnce) {
  auto core = Open(store_);
  TestCommand first(PutHost("hosts/a"));
  TestCommand repeat(PutHost("hosts/a"));
  TestCommand other(PutHost("hosts/b"));
  for (TestCommand* command : {&first, &repeat, &other}) command->request_id = "id-1";
  first.fingerprint = repeat.fingerprint = "put a";
  first.response = "the answer";
  other.fingerprint = "put b";
  std::vector<Command*> batch = {&first, &repeat, &other};
  const auto outcomes = core->Run(batch);
  EXPECT_TRUE(outcomes[1].status.ok());
  EXPECT_EQ(outcomes[1].revision, 1);
  EXPECT_EQ(repeat.judged, 0);
  EXPECT_EQ(repeat.response, "the answer");
  EXPECT_EQ(ReasonOf(outcomes[2].status), v1::ERROR_REASON_REQUEST_ID_REUSED);
  EXPECT_EQ(core->revision(), 1);
}

TEST_F(CoreTest, ARefusedRequestMayBeTriedAgainUnderItsId) {
  auto core = Open(store_);
  TestCommand refused([](const Context&, Draft&) { return absl::FailedPreconditionError("not now"); });
  refused.request_id = "id-1";
  EXPECT_FALSE(refused.RunOn(*core).ok());
  TestCommand later(PutHost("hosts/a"));
  later.request_id = "id-1";
  EXPECT_TRUE(later.RunOn(*core).ok());
  EXPECT_EQ(later.judged, 1);
}

TEST_F(CoreTest, RequestIdsExpireByAge) {
  options_.requests.ttl_s = 60;
  auto core = Open(store_);
  TestCommand first(PutHost("hosts/a"));
  first.request_id = "id-1";
  ASSERT_TRUE(first.RunOn(*core).ok());
  clock_.Advance(std::chrono::seconds(60));
  core->Tick();
  TestCommand repeat(PutHost("hosts/a"));
  repeat.request_id = "id-1";
  EXPECT_TRUE(repeat.RunOn(*core).ok());
  EXPECT_EQ(repeat.judged, 0) << "still kept";
  clock_.Advance(std::chrono::seconds(61));
  core->Tick();
  TestCommand late(PutHost("hosts/a"));
  late.request_id = "id-1";
  EXPECT_TRUE(late.RunOn(*core).ok());
  EXPECT_EQ(late.judged, 1);
}

TEST_F(CoreTest, AReopenedStoreHasEverythingUnderANewEpoch) {
  auto core = Open(store_);
  const Identity identity = core->identity();
  EXPECT_EQ(identity.epoch, 1);
  TestCommand a(PutHost("hosts/a", "x"));
  ASSERT_TRUE(a.RunOn(*core).ok());
  core = Open(store_);
  EXPECT_EQ(core->identity().epoch, 2);
  EXPECT_EQ(core->identity().cluster_id, identity.cluster_id);
  EXPECT_EQ(core->identity().store_incarnation, identity.store_incarnation);
  EXPECT_EQ(core->revision(), 1) << "the same machine and boot: not one revision was lost";
  EXPECT_TRUE(Has(*core, "hosts/a"));
  const auto changes = core->log().ReadAfter(0, 10);
  ASSERT_TRUE(changes.ok());
  ASSERT_EQ(changes->size(), 1u);
  EXPECT_EQ((*changes)[0]->changes[0].name, "hosts/a");
}

// Promise 8: a revision that was lost with the power is not given to another change.
TEST_F(CoreTest, AfterALossOfPowerRevisionsAreSkippedAndWatchesMustListAnew) {
  auto core = Open(store_);
  TestCommand a(PutHost("hosts/a"));
  ASSERT_TRUE(a.RunOn(*core).ok());
  TestCommand buffered(PutHost("hosts/b"));
  buffered.durability = Durability::kBuffered;
  ASSERT_TRUE(buffered.RunOn(*core).ok());
  EXPECT_EQ(buffered.revision, 2);
  const std::unique_ptr<MemoryStore> after = store_.AfterPowerLoss();
  core = Open(*after, "boot-2");
  EXPECT_TRUE(Has(*core, "hosts/a"));
  EXPECT_FALSE(Has(*core, "hosts/b"));
  EXPECT_GT(core->revision(), buffered.revision);
  EXPECT_EQ(ReasonOf(core->log().ReadAfter(buffered.revision, 10).status()), v1::ERROR_REASON_REVISION_COMPACTED);
}

TEST_F(CoreTest, AfterACloseInGoodOrderAnotherBootGoesOnWithoutAGap) {
  auto core = Open(store_);
  TestCommand a(PutHost("hosts/a"));
  ASSERT_TRUE(a.RunOn(*core).ok());
  ASSERT_TRUE(core->Close().ok());
  core = Open(store_, "boot-2");
  EXPECT_EQ(core->revision(), 1);
  EXPECT_TRUE(core->log().ReadAfter(0, 10).ok());
}

TEST_F(CoreTest, AnotherClustersStoreIsRefused) {
  Open(store_, "boot-1", "cluster-a");
  const auto other = TryOpen(store_, "boot-1", "cluster-b");
  EXPECT_EQ(ReasonOf(other.status()), v1::ERROR_REASON_CLUSTER_MISMATCH);
}

TEST_F(CoreTest, ADamagedRecordIsRefused) {
  auto core = Open(store_);
  TestCommand a(PutHost("hosts/a"));
  ASSERT_TRUE(a.RunOn(*core).ok());
  Batch damage;
  damage.Put(KeySpace::kResources, std::string("\x01") + "hosts/a", "\xff\xff\xff");
  ASSERT_TRUE(store_.Commit(damage, Durability::kSynced).ok());
  EXPECT_EQ(TryOpen(store_, "boot-1", "").status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace viommu::server
