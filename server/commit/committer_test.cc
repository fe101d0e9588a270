#include "server/commit/committer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "common/clock.h"
#include "common/error.h"
#include "server/commit/test_command.h"
#include "server/commit/waiters.h"
#include "server/store/memory_store.h"

namespace viommu::server {
namespace {

class CommitterTest : public testing::Test {
 protected:
  CommitterTest() {
    CommitCore::Options options;
    options.boot_id = "boot";
    core_ = *CommitCore::Open(
        store_, RealClock(), [this] { return "uid-" + std::to_string(++uids_); }, options);
  }

  MemoryStore store_;
  std::atomic<int> uids_ = 0;
  std::unique_ptr<CommitCore> core_;
};

TEST_F(CommitterTest, ManyCallersGetDistinctRevisionsAndShareBatches) {
  constexpr int kCallers = 8;
  constexpr int kCalls = 200;
  Committer committer(*core_, {});
  std::vector<std::vector<int64_t>> revisions(kCallers);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (int call = 0; call < kCalls; ++call) {
        TestCommand command(PutHost("hosts/h" + std::to_string(caller) + "-" + std::to_string(call)));
        ASSERT_TRUE(committer.Submit(&command).ok());
        command.done.wait(false);
        ASSERT_TRUE(command.status.ok());
        revisions[static_cast<size_t>(caller)].push_back(command.revision);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  committer.Stop();
  std::set<int64_t> all;
  for (const auto& of_caller : revisions) {
    EXPECT_TRUE(std::is_sorted(of_caller.begin(), of_caller.end()));
    all.insert(of_caller.begin(), of_caller.end());
  }
  EXPECT_EQ(all.size(), static_cast<size_t>(kCallers * kCalls));
  EXPECT_EQ(*all.rbegin(), kCallers * kCalls);
  EXPECT_EQ(core_->Read([](const Tables& tables, int64_t) { return tables.size(Kind::kHost); }), kCallers * kCalls);
}

TEST_F(CommitterTest, AFullQueueRefusesAndTakesNothing) {
  Committer committer(*core_, {.max_queue_commands = 2, .max_batch_commands = 1});
  std::atomic<bool> judging = false;
  std::atomic<bool> go = false;
  TestCommand slow([&](const Context&, Draft&) {
    judging.store(true);
    judging.notify_all();
    go.wait(false);
    return absl::OkStatus();
  });
  ASSERT_TRUE(committer.Submit(&slow).ok());
  judging.wait(false);
  TestCommand a(PutHost("hosts/a"));
  TestCommand b(PutHost("hosts/b"));
  TestCommand c(PutHost("hosts/c"));
  EXPECT_TRUE(committer.Submit(&a).ok());
  EXPECT_TRUE(committer.Submit(&b).ok());
  EXPECT_EQ(ReasonOf(committer.Submit(&c)), v1::ERROR_REASON_OVERLOADED);
  go.store(true);
  go.notify_all();
  committer.Stop();
  EXPECT_TRUE(a.done && b.done);
  EXPECT_FALSE(c.done);
}

TEST_F(CommitterTest, StopCarriesOutWhatWasTaken) {
  auto committer = std::make_unique<Committer>(*core_, Committer::Options());
  std::vector<std::unique_ptr<TestCommand>> commands;
  for (int i = 0; i < 100; ++i) {
    commands.push_back(std::make_unique<TestCommand>(PutHost("hosts/h" + std::to_string(i))));
    ASSERT_TRUE(committer->Submit(commands.back().get()).ok());
  }
  committer->Stop();
  for (const auto& command : commands) EXPECT_TRUE(command->done && command->status.ok());
  TestCommand late(PutHost("hosts/late"));
  EXPECT_EQ(ReasonOf(committer->Submit(&late)), v1::ERROR_REASON_SHUTTING_DOWN);
}

// --- Waiters.

TestCommand::Body PutViommu(const std::string& uid, int64_t generation, int64_t observed, v1::State state) {
  return [=](const Context&, Draft& draft) {
    v1::Viommu viommu;
    viommu.set_name("viommus/v");
    viommu.set_uid(uid);
    viommu.set_generation(generation);
    viommu.set_observed_generation(observed);
    viommu.set_state(state);
    draft.Put(std::move(viommu));
    return absl::OkStatus();
  };
}

RecordPtr SeenViommu(int64_t generation) {
  auto viommu = std::make_shared<v1::Viommu>();
  viommu->set_name("viommus/v");
  viommu->set_uid("u");
  viommu->set_generation(generation);
  return viommu;
}

TEST_F(CommitterTest, AWaiterIsCalledWhenTheHostHasAnsweredItsGeneration) {
  Waiters waiters(*core_);
  core_->AddListener(&waiters);
  TestCommand(PutViommu("u", 5, 0, v1::STATE_PENDING)).RunOn(*core_).IgnoreError();
  v1::State state = v1::STATE_UNSPECIFIED;
  waiters.Add(Kind::kViommu, SeenViommu(5),
              [&](const RecordPtr& record, int64_t) { state = static_cast<const v1::Viommu&>(*record).state(); });
  TestCommand(PutViommu("u", 5, 4, v1::STATE_READY)).RunOn(*core_).IgnoreError();
  EXPECT_EQ(state, v1::STATE_UNSPECIFIED) << "that answer was about an older generation";
  TestCommand(PutViommu("u", 5, 5, v1::STATE_FAILED)).RunOn(*core_).IgnoreError();
  EXPECT_EQ(state, v1::STATE_FAILED);
  EXPECT_EQ(waiters.count(), 0);
}

TEST_F(CommitterTest, AWaiterIsCalledAtOnceWhenItIsSettledOrGone) {
  Waiters waiters(*core_);
  core_->AddListener(&waiters);
  int calls = 0;
  const auto count = [&](const RecordPtr&, int64_t) { ++calls; };
  waiters.Add(Kind::kViommu, SeenViommu(1), count);
  EXPECT_EQ(calls, 1) << "it is not there";
  TestCommand(PutViommu("u", 5, 5, v1::STATE_DORMANT)).RunOn(*core_).IgnoreError();
  waiters.Add(Kind::kViommu, SeenViommu(5), count);
  EXPECT_EQ(calls, 2);
}

TEST_F(CommitterTest, AWaiterForADeletionIsCalledWhenItIsGone) {
  Waiters waiters(*core_);
  core_->AddListener(&waiters);
  TestCommand(PutViommu("u", 5, 5, v1::STATE_DELETING)).RunOn(*core_).IgnoreError();
  int calls = 0;
  waiters.Add(Kind::kViommu, SeenViommu(5), [&](const RecordPtr&, int64_t) { ++calls; });
  EXPECT_EQ(calls, 0);
  TestCommand([](const Context&, Draft& draft) {
    draft.Erase(Kind::kViommu, "viommus/v");
    return absl::OkStatus();
  })
      .RunOn(*core_)
      .IgnoreError();
  EXPECT_EQ(calls, 1);
}

TEST_F(CommitterTest, ACancelledWaiterIsNotCalled) {
  Waiters waiters(*core_);
  core_->AddListener(&waiters);
  TestCommand(PutViommu("u", 5, 0, v1::STATE_PENDING)).RunOn(*core_).IgnoreError();
  int calls = 0;
  const int64_t id = waiters.Add(Kind::kViommu, SeenViommu(5), [&](const RecordPtr&, int64_t) { ++calls; });
  EXPECT_TRUE(waiters.Cancel(id));
  EXPECT_FALSE(waiters.Cancel(id));
  TestCommand(PutViommu("u", 5, 5, v1::STATE_READY)).RunOn(*core_).IgnoreError();
  EXPECT_EQ(calls, 0);
}

}  // namespace
}  // namespace viommu::server
