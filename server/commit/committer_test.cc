#include "server/commit/committer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
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

// Keeps the writer busy until it is let go.
struct SlowCommand {
  void AwaitJudge() { judging.wait(false); }
  void Go() {
    go.store(true);
    go.notify_all();
  }

  std::atomic<bool> judging = false;
  std::atomic<bool> go = false;
  TestCommand command{[this](const Context&, Draft&) {
    judging.store(true);
    judging.notify_all();
    go.wait(false);
    return absl::OkStatus();
  }};
};

TEST_F(CommitterTest, AFullQueueRefusesAndTakesNothing) {
  Committer committer(*core_, {.max_queue_commands = 2, .max_batch_commands = 1});
  SlowCommand slow;
  ASSERT_TRUE(committer.Submit(&slow.command).ok());
  slow.AwaitJudge();
  TestCommand a(PutHost("hosts/a"));
  TestCommand b(PutHost("hosts/b"));
  TestCommand c(PutHost("hosts/c"));
  EXPECT_TRUE(committer.Submit(&a).ok());
  EXPECT_TRUE(committer.Submit(&b).ok());
  const absl::Status full = committer.Submit(&c);
  EXPECT_EQ(ReasonOf(full), v1::ERROR_REASON_OVERLOADED);
  EXPECT_GT(DetailOf<google::rpc::RetryInfo>(full).retry_delay().nanos(), 0) << full;
  slow.Go();
  committer.Stop();
  EXPECT_TRUE(a.done && b.done);
  EXPECT_FALSE(c.done);
}

TEST_F(CommitterTest, AQueueIsAlsoFullOfBytes) {
  SlowCommand slow, again;
  TestCommand a(PutHost("hosts/a")), b(PutHost("hosts/b")), c(PutHost("hosts/c"));
  TestCommand d(PutHost("hosts/d")), e(PutHost("hosts/e"));
  slow.command.bytes = 1000;  // alone: taken whatever its length
  a.bytes = 60;
  b.bytes = 41;
  c.bytes = 40;
  d.bytes = 1;
  e.bytes = 99;
  Committer committer(*core_, {.max_queue_bytes = 100, .max_batch_commands = 2});
  ASSERT_TRUE(committer.Submit(&slow.command).ok());
  slow.AwaitJudge();
  EXPECT_TRUE(committer.Submit(&a).ok()) << "what is being carried out does not wait any more";
  const absl::Status refused = committer.Submit(&b);
  EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_OVERLOADED);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  const absl::Status taken = committer.Submit(&c);
  slow.Go();
  ASSERT_TRUE(taken.ok()) << taken;
  c.done.wait(false);
  EXPECT_TRUE(a.done);
  EXPECT_FALSE(b.done);
  // Nothing waits: there is room for as much again.
  ASSERT_TRUE(committer.Submit(&again.command).ok());
  again.AwaitJudge();
  EXPECT_TRUE(committer.Submit(&d).ok());
  EXPECT_TRUE(committer.Submit(&e).ok());
  EXPECT_EQ(ReasonOf(committer.Submit(&b)), v1::ERROR_REASON_OVERLOADED);
  again.Go();
  committer.Stop();
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

// It is looked for under the name that the caller knows; only its device knows under which one it goes now.
TEST_F(CommitterTest, AWaiterFindsWhatWasRenamedTwice) {
  Waiters waiters(*core_);
  core_->AddListener(&waiters);
  const auto put = [](uint64_t vdev_id, std::optional<uint64_t> previous, v1::State state) {
    return [=](const Context&, Draft& draft) {
      const auto name = [](uint64_t id) { return "viommus/v/vdevices/" + std::to_string(id); };
      v1::Vdevice vdevice;
      vdevice.set_name(name(vdev_id));
      vdevice.set_uid("u");
      vdevice.set_device("hosts/a/devices/0000:01:00.0");
      vdevice.set_viommu("viommus/v");
      vdevice.set_generation(static_cast<int64_t>(vdev_id));
      vdevice.set_observed_generation(state == v1::STATE_READY ? vdevice.generation() : 0);
      vdevice.set_state(state);
      for (uint64_t id = 1; id < vdev_id; ++id) {
        if (draft.Find<v1::Vdevice>(name(id)) != nullptr) draft.Erase(Kind::kVdevice, name(id));
      }
      if (previous.has_value()) vdevice.set_previous_vdev_id(*previous);
      v1::Device device;
      device.set_name(vdevice.device());
      device.set_owner(vdevice.name());
      draft.Put(std::move(device));
      draft.Put(std::move(vdevice));
      return absl::OkStatus();
    };
  };
  TestCommand(put(1, std::nullopt, v1::STATE_PENDING)).RunOn(*core_).IgnoreError();
  const RecordPtr seen = core_->Read(
      [](const Tables& tables, int64_t) { return tables.FindRecord(Kind::kVdevice, "viommus/v/vdevices/1"); });
  TestCommand(put(2, 1, v1::STATE_PENDING)).RunOn(*core_).IgnoreError();
  TestCommand(put(3, 2, v1::STATE_PENDING)).RunOn(*core_).IgnoreError();
  std::vector<std::string> names;
  waiters.Add(Kind::kVdevice, seen, [&](const RecordPtr& record, int64_t) {
    names.push_back(static_cast<const v1::Vdevice&>(*record).name());
  });
  EXPECT_TRUE(names.empty()) << "the host has not answered";
  TestCommand(put(3, std::nullopt, v1::STATE_READY)).RunOn(*core_).IgnoreError();
  EXPECT_EQ(names, (std::vector<std::string>{"viommus/v/vdevices/3"}));
  waiters.Add(Kind::kVdevice, seen, [&](const RecordPtr& record, int64_t) {
    names.push_back(static_cast<const v1::Vdevice&>(*record).name());
  });
  EXPECT_EQ(names.size(), 2u) << "settled already, under its third name";
}

TEST_F(CommitterTest, WhatABatchHasNoRoomForIsInTheNextOne) {
  core_ = CommitCore::Open(store_, RealClock(), [] { return std::string("uid"); },
                           {.boot_id = "boot", .max_batch_changes = 3})
              .value();
  auto committer = std::make_unique<Committer>(*core_, Committer::Options());
  std::vector<std::unique_ptr<TestCommand>> commands;
  for (int i = 0; i < 100; ++i) {
    commands.push_back(std::make_unique<TestCommand>(PutHost("hosts/h" + std::to_string(i))));
    ASSERT_TRUE(committer->Submit(commands.back().get()).ok());
  }
  committer->Stop();
  for (size_t i = 0; i < commands.size(); ++i) {
    EXPECT_TRUE(commands[i]->done && commands[i]->status.ok());
    EXPECT_EQ(commands[i]->revision, static_cast<int64_t>(i) + 1) << "in the order of submission";
  }
}

// Readers of the record and of the log, beside the writer: what they see is always whole.
TEST_F(CommitterTest, ReadersSeeWholeRevisionsWhileTheWriterWrites) {
  constexpr int kWrites = 300;
  constexpr int kReaders = 2;
  std::atomic<bool> end = false;
  std::vector<std::thread> readers;
  for (int r = 0; r < kReaders; ++r) {
    readers.emplace_back([&] {
      int64_t followed = 0;
      while (!end.load() || followed < core_->revision()) {
        // Each command changes both hosts alike.
        const auto [a, b] = core_->Read([](const Tables& tables, int64_t) {
          return std::make_pair(tables.Find<v1::Host>("hosts/a"), tables.Find<v1::Host>("hosts/b"));
        });
        ASSERT_EQ(a == nullptr, b == nullptr);
        ASSERT_EQ(a != nullptr ? a->boot_id() : "", b != nullptr ? b->boot_id() : "");
        const absl::Status known = core_->log().ReadAfter(core_->revision(), 1).status();
        ASSERT_TRUE(known.ok()) << known;
        const auto sets = core_->log().ReadAfter(followed, 7);
        ASSERT_TRUE(sets.ok()) << sets.status();
        for (const ChangeSetPtr& set : *sets) {
          ASSERT_EQ(set->revision, ++followed);
          ASSERT_EQ(set->changes.size(), 2u);
        }
      }
    });
  }
  {
    Committer committer(*core_, Committer::Options());
    std::vector<std::unique_ptr<TestCommand>> commands;
    for (int i = 0; i < kWrites; ++i) {
      commands.push_back(std::make_unique<TestCommand>([i](const Context& context, Draft& draft) {
        const std::string boot_id = std::to_string(i);
        return PutHost("hosts/a", boot_id)(context, draft).ok() ? PutHost("hosts/b", boot_id)(context, draft)
                                                                : absl::InternalError("");
      }));
      ASSERT_TRUE(committer.Submit(commands.back().get()).ok());
      if (i % 50 == 0) std::this_thread::yield();
    }
    committer.Stop();
  }
  EXPECT_EQ(core_->revision(), kWrites);
  end.store(true);
  for (std::thread& reader : readers) reader.join();
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
