#include "server/commit/core.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "common/fake_clock.h"
#include "server/commit/codec.h"
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

TEST_F(CoreTest, OfSeveralChangesInABatchTheLastIsTheRecordAndAllAreInTheLog) {
  auto core = Open(store_);
  TestCommand first(PutHost("hosts/b", "boot-1"));
  TestCommand other(PutHost("hosts/a"));
  TestCommand second(PutHost("hosts/b", "boot-2"));
  TestCommand gone([](const Context&, Draft& draft) {
    draft.Erase(Kind::kHost, "hosts/a");
    return absl::OkStatus();
  });
  std::vector<Command*> batch = {&first, &other, &second, &gone};
  core->Run(batch);
  const auto sets = core->log().ReadAfter(0, 10);
  ASSERT_TRUE(sets.ok());
  ASSERT_EQ(sets->size(), 4u);
  EXPECT_EQ(static_cast<const v1::Host&>(*(*sets)[0]->changes[0].after).boot_id(), "boot-1");
  EXPECT_EQ(static_cast<const v1::Host&>(*(*sets)[2]->changes[0].after).boot_id(), "boot-2");
  core.reset();
  core = Open(store_);
  EXPECT_FALSE(Has(*core, "hosts/a"));
  EXPECT_EQ(core->Read([](const Tables& tables, int64_t) { return tables.Find<v1::Host>("hosts/b")->boot_id(); }),
            "boot-2");
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
  EXPECT_NE(a.status.message().find("same request_id"), std::string::npos) << "it may be there after a restart";
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

// At any rate of changes: each answer makes room for itself, ticks or not.
TEST_F(CoreTest, RequestIdsAreBoundedInNumberAndLength) {
  constexpr int kRequests = 100;
  const auto kept = [this] {
    int count = 0;
    EXPECT_TRUE(store_
                    .Scan(KeySpace::kRequests, "", "",
                          [&count](std::string_view, std::string_view) {
                            ++count;
                            return true;
                          })
                    .ok());
    return count;
  };
  const auto fill = [](CommitCore& core, int first) {
    for (int i = first; i < first + kRequests; ++i) {
      TestCommand command(PutHost("hosts/a", std::to_string(i)));
      command.request_id = "id-" + std::to_string(i);
      command.response = std::string(100, 'r');
      ASSERT_TRUE(command.RunOn(core).ok());
    }
  };
  options_.requests.max_entries = 10;
  auto core = Open(store_);
  fill(*core, 0);
  EXPECT_EQ(kept(), 10);
  TestCommand newest(PutHost("hosts/a"));
  newest.request_id = "id-99";
  EXPECT_TRUE(newest.RunOn(*core).ok());
  EXPECT_EQ(newest.judged, 0);
  TestCommand oldest(PutHost("hosts/a"));
  oldest.request_id = "id-89";
  EXPECT_TRUE(oldest.RunOn(*core).ok());
  EXPECT_EQ(oldest.judged, 1) << "forgotten";

  options_.requests.max_entries = 1000;
  options_.requests.max_bytes = 1000;
  core = Open(store_);
  fill(*core, kRequests);
  EXPECT_GT(kept(), 4);
  EXPECT_LE(kept(), 9) << "of more than 100 bytes each";

  // One batch that brings more than there is room for is made up for by the next ones.
  options_.requests.max_entries = 10;
  options_.requests.max_bytes = 1 << 20;
  core = Open(store_);
  std::vector<std::unique_ptr<TestCommand>> commands;
  std::vector<Command*> batch;
  for (int i = 0; i < kRequests; ++i) {
    commands.push_back(std::make_unique<TestCommand>(PutHost("hosts/a", "b" + std::to_string(i))));
    commands.back()->request_id = "batch-" + std::to_string(i);
    batch.push_back(commands.back().get());
  }
  ASSERT_EQ(core->Run(batch).size(), batch.size());
  EXPECT_GT(kept(), 10);
  fill(*core, 2 * kRequests);
  EXPECT_EQ(kept(), 10);
}

// However many commands wait, what goes to the store at once is bounded.
TEST_F(CoreTest, ABatchEndsWhenItHasEnoughChangesOrBytes) {
  const auto run = [&](CommitCore& core, const std::string& name, int count) {
    std::vector<std::unique_ptr<TestCommand>> commands;
    std::vector<Command*> batch;
    for (int i = 0; i < count; ++i) {
      commands.push_back(std::make_unique<TestCommand>(PutHost("hosts/" + name + std::to_string(i))));
      batch.push_back(commands.back().get());
    }
    const size_t done = core.Run(batch).size();
    for (size_t i = 0; i < commands.size(); ++i) EXPECT_EQ(commands[i]->judged, i < done ? 1 : 0) << i;
    return done;
  };
  options_.max_batch_changes = 3;
  auto core = Open(store_);
  EXPECT_EQ(run(*core, "a", 5), 3u);
  EXPECT_EQ(core->revision(), 3);
  EXPECT_TRUE(Has(*core, "hosts/a2"));
  EXPECT_FALSE(Has(*core, "hosts/a3"));
  options_.max_batch_bytes = 1;
  core = Open(store_);
  EXPECT_EQ(run(*core, "b", 5), 1u) << "at least one";
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

// Promise 9: whoever was told something by the newer state can tell, however far the copy has got.
TEST_F(CoreTest, AnOlderCopyOfTheStoreIsToldFromIt) {
  auto core = Open(store_);
  const auto put = [](CommitCore& at, const std::string& name) {
    ASSERT_TRUE(TestCommand(PutHost(name)).RunOn(at).ok());
  };
  put(*core, "hosts/a");
  const Identity told_by = core->identity();
  const std::unique_ptr<MemoryStore> copy = store_.AfterPowerLoss();
  put(*core, "hosts/b");
  const int64_t told = core->revision();
  EXPECT_TRUE(core->starts().Told(told_by.epoch, told_by.start_id, told, core->revision()));
  core = Open(store_);
  EXPECT_TRUE(core->starts().Told(told_by.epoch, told_by.start_id, told, core->revision()));
  const Identity later = core->identity();

  auto restored = Open(*copy);
  EXPECT_EQ(restored->identity().store_incarnation, told_by.store_incarnation);
  for (const char* name : {"hosts/c", "hosts/d", "hosts/e"}) put(*restored, name);
  ASSERT_GT(restored->revision(), told);
  EXPECT_FALSE(restored->starts().Told(told_by.epoch, told_by.start_id, told, restored->revision()));
  EXPECT_EQ(restored->identity().epoch, later.epoch);
  EXPECT_FALSE(restored->starts().Told(later.epoch, later.start_id, told, restored->revision()));
  restored = Open(*copy);
  EXPECT_FALSE(restored->starts().Told(told_by.epoch, told_by.start_id, told, restored->revision()));
  EXPECT_FALSE(restored->starts().Told(later.epoch, later.start_id, told, restored->revision()));
}

// A copy that was made while the server ran is opened as after a loss of power. What the newer state recorded then lies
// in what is skipped.
TEST_F(CoreTest, WhatIsSkippedAfterALossOfPowerWasNeverRecorded) {
  auto core = Open(store_);
  ASSERT_TRUE(TestCommand(PutHost("hosts/a")).RunOn(*core).ok());
  const Identity told_by = core->identity();
  const std::unique_ptr<MemoryStore> after = store_.AfterPowerLoss();
  core = Open(*after, "boot-2");
  EXPECT_TRUE(core->starts().Told(told_by.epoch, told_by.start_id, 2, core->revision())) << "told, and lost";
  EXPECT_FALSE(core->starts().Recorded(2));
  EXPECT_TRUE(core->starts().Recorded(1));
  EXPECT_TRUE(core->starts().Recorded(core->revision() + 1));
}

TEST_F(CoreTest, ARecordWithoutAnIdentityIsNoNewStore) {
  for (const KeySpace space : {KeySpace::kResources, KeySpace::kChanges, KeySpace::kRequests}) {
    MemoryStore store;
    Batch batch;
    batch.Put(space, "key", "value");
    ASSERT_TRUE(store.Commit(batch, Durability::kSynced).ok());
    const auto core = TryOpen(store, "boot-1", "");
    EXPECT_EQ(ReasonOf(core.status()), v1::ERROR_REASON_STORE_DAMAGED) << core.status();
    EXPECT_FALSE(store.Get(KeySpace::kMeta, kMetaIncarnation)->has_value()) << "left as it is";
  }
}

// Whatever a recovery brings back must be what the tables were read from.
TEST_F(CoreTest, AnotherStoreAfterARecoveryIsNotWrittenTo) {
  for (const bool other_store : {false, true}) {
    MemoryStore store;
    auto core = Open(store);
    ASSERT_TRUE(TestCommand(PutHost("hosts/a")).RunOn(*core).ok());
    Batch swap;
    if (other_store) {
      swap.Put(KeySpace::kMeta, std::string(kMetaIncarnation), "other");
    } else {
      swap.Put(KeySpace::kMeta, std::string(kMetaRevision), EncodeNumber(0));
    }
    ASSERT_TRUE(store.Commit(swap, Durability::kSynced).ok());
    store.FailCommits(absl::ResourceExhaustedError("disk full"));
    EXPECT_FALSE(TestCommand(PutHost("hosts/b")).RunOn(*core).ok());
    store.AllowRecovery();
    core->Tick();
    EXPECT_EQ(ReasonOf(core->writable()), v1::ERROR_REASON_STORE_DAMAGED) << core->writable();
    TestCommand again(PutHost("hosts/b"));
    EXPECT_EQ(ReasonOf(again.RunOn(*core)), v1::ERROR_REASON_STORE_DAMAGED);
    EXPECT_EQ(again.judged, 0);
  }
}

TEST_F(CoreTest, ARecordThatBreaksAPromiseIsRefusedWithItsName) {
  const auto refused = [this](const v1::Device& device, const std::string& key, const std::string& what) {
    MemoryStore store;
    auto core = Open(store);
    ASSERT_TRUE(TestCommand(PutHost("hosts/a")).RunOn(*core).ok());
    core.reset();
    Batch batch;
    batch.Put(KeySpace::kResources, key, device.SerializeAsString());
    ASSERT_TRUE(store.Commit(batch, Durability::kSynced).ok());
    const auto opened = TryOpen(store, "boot-1", "");
    EXPECT_EQ(ReasonOf(opened.status()), v1::ERROR_REASON_STORE_DAMAGED);
    EXPECT_NE(opened.status().message().find(what), std::string::npos) << opened.status();
  };
  v1::Device device;
  device.set_name("hosts/a/devices/0000:01:00.0");
  device.set_uid("u");
  device.set_state(v1::DEVICE_STATE_ASSIGNED);
  device.set_owner("viommus/v/vdevices/1");
  refused(device, ResourceKey(Kind::kDevice, device.name()), device.owner());
  device.clear_owner();
  refused(device, ResourceKey(Kind::kDevice, "hosts/a/devices/0000:02:00.0"), "0000:02:00.0");
  refused(device, ResourceKey(Kind::kDevice, ""), "under the name");
  refused(device, ResourceKey(static_cast<Kind>(77), device.name()), "cannot be read");
}

TEST_F(CoreTest, ADamagedAnswerIsToldAsSuch) {
  auto core = Open(store_);
  TestCommand first(PutHost("hosts/a"));
  first.request_id = "id-1";
  ASSERT_TRUE(first.RunOn(*core).ok());
  Batch damage;
  damage.Put(KeySpace::kRequests, "id-1", "\xff\xff\xff");
  ASSERT_TRUE(store_.Commit(damage, Durability::kSynced).ok());
  TestCommand repeat(PutHost("hosts/a"));
  repeat.request_id = "id-1";
  EXPECT_EQ(ReasonOf(repeat.RunOn(*core)), v1::ERROR_REASON_STORE_DAMAGED);
  EXPECT_EQ(ReasonOf(TryOpen(store_, "boot-1", "").status()), v1::ERROR_REASON_STORE_DAMAGED);
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
