#include "server/api/apply_waits.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <string>

#include "common/fake_clock.h"
#include "common/uuid.h"
#include "server/commit/test_command.h"
#include "server/store/memory_store.h"

namespace viommu::server {
namespace {

using std::chrono::seconds;

v1::Stage2Domain Domain(const std::string& id, v1::State state) {
  v1::Stage2Domain domain;
  domain.set_name("stage2Domains/" + id);
  domain.set_uid("uid-" + id);
  domain.set_generation(1);
  domain.set_state(state);
  domain.set_observed_generation(state == v1::STATE_PENDING ? 0 : 1);
  return domain;
}

class ApplyWaitsTest : public testing::Test {
 protected:
  ApplyWaitsTest() { core_->AddListener(&waiters_); }

  void Record(const std::string& id, v1::State state) {
    TestCommand command([&](const Context& context, Draft& draft) {
      auto domain = Domain(id, state);
      domain.set_revision(context.revision);
      draft.Put(std::move(domain));
      return absl::OkStatus();
    });
    EXPECT_TRUE(command.RunOn(*core_).ok());
  }

  static std::vector<RecordPtr> Seen(const std::vector<std::string>& ids) {
    std::vector<RecordPtr> seen;
    for (const auto& id : ids) seen.push_back(std::make_shared<v1::Stage2Domain>(Domain(id, v1::STATE_PENDING)));
    return seen;
  }

  // Starts to wait for `ids`; `*end` is set when it is over.
  int64_t Wait(const std::vector<std::string>& ids, std::atomic<int>* end) {
    const int64_t id = waits_->Reserve(kBytes);
    EXPECT_NE(id, 0);
    waits_->Start(id, kBytes, Kind::kStage2Domain, Seen(ids), clock_.Monotonic() + seconds(10),
                  [end](ApplyWaits::End how, const std::vector<RecordPtr>&, int64_t) {
                    EXPECT_EQ(*end, kOpen) << "once";
                    *end = static_cast<int>(how);
                    end->notify_all();
                  });
    return id;
  }
  static constexpr size_t kBytes = 100;  // that a call holds
  static constexpr int kOpen = -1;
  static void ExpectEnd(std::atomic<int>& end, ApplyWaits::End how) {
    end.wait(kOpen);
    EXPECT_EQ(end, static_cast<int>(how));
  }

  FakeClock clock_;
  MemoryStore store_;
  std::unique_ptr<CommitCore> core_ =
      CommitCore::Open(store_, clock_, NewUuid, {.cluster_id = "test", .boot_id = "boot"}).value();
  Waiters waiters_{*core_};
  std::optional<ApplyWaits> waits_{std::in_place, waiters_, clock_, 64, 64 * kBytes};
};

TEST_F(ApplyWaitsTest, EndsInEveryWay) {
  for (const char* id : {"a", "b", "c", "d", "e"}) Record(id, v1::STATE_PENDING);
  std::array<std::atomic<int>, 4> end{kOpen, kOpen, kOpen, kOpen};
  Wait({"a", "b"}, &end[0]);
  Wait({"c"}, &end[1]);
  const int64_t cancelled = Wait({"d"}, &end[2]);
  Record("b", v1::STATE_READY);
  Record("a", v1::STATE_FAILED);
  ExpectEnd(end[0], ApplyWaits::End::kApplied);
  waits_->Cancel(cancelled);
  ExpectEnd(end[2], ApplyWaits::End::kCancelled);
  waits_->Cancel(cancelled);  // after the end: nothing
  clock_.Advance(seconds(11));
  ExpectEnd(end[1], ApplyWaits::End::kDeadline);
  Wait({"e"}, &end[3]);
  waits_->EndAll();
  ExpectEnd(end[3], ApplyWaits::End::kStopped);
  EXPECT_EQ(waiters_.count(), 0);
  EXPECT_EQ(waits_->count(), 0);
}

TEST_F(ApplyWaitsTest, ACancellationBeforeTheStartCounts) {
  Record("a", v1::STATE_PENDING);
  const int64_t id = waits_->Reserve(kBytes);
  waits_->Cancel(id);
  std::atomic<int> end = kOpen;
  waits_->Start(id, kBytes, Kind::kStage2Domain, Seen({"a"}), clock_.Monotonic() + seconds(10),
                [&](ApplyWaits::End how, const std::vector<RecordPtr>&, int64_t) {
                  end = static_cast<int>(how);
                  end.notify_all();
                });
  ExpectEnd(end, ApplyWaits::End::kCancelled);
}

TEST_F(ApplyWaitsTest, PlacesAreLimited) {
  std::vector<int64_t> places;
  while (const int64_t place = waits_->Reserve(1)) places.push_back(place);
  EXPECT_EQ(places.size(), 64U);
  waits_->Release(places.back());
  EXPECT_NE(waits_->Reserve(1), 0);
}

TEST_F(ApplyWaitsTest, WhatTheyHoldIsLimited) {
  Record("a", v1::STATE_PENDING);
  const int64_t large = waits_->Reserve(64 * kBytes - 1);
  const int64_t last = waits_->Reserve(kBytes);  // one call may go beyond the limit
  EXPECT_NE(last, 0);
  EXPECT_EQ(waits_->Reserve(1), 0);
  waits_->Release(large);
  EXPECT_EQ(waits_->bytes(), kBytes);
  // What is recorded turns out to be longer: that counts.
  std::atomic<int> end = kOpen;
  waits_->Start(last, 64 * kBytes, Kind::kStage2Domain, Seen({"a"}), clock_.Monotonic() + seconds(10),
                [&](ApplyWaits::End how, const std::vector<RecordPtr>&, int64_t) {
                  end = static_cast<int>(how);
                  end.notify_all();
                });
  EXPECT_EQ(waits_->Reserve(1), 0);
  Record("a", v1::STATE_READY);
  ExpectEnd(end, ApplyWaits::End::kApplied);
  EXPECT_EQ(waits_->bytes(), 0U);
}

TEST_F(ApplyWaitsTest, AnswersDeadlinesAndCancellationsMayMeet) {
  constexpr int kRounds = 200;
  for (int i = 0; i < kRounds; ++i) {
    const std::string id = "x" + std::to_string(i);
    Record(id, v1::STATE_PENDING);
    std::atomic<int> end = kOpen;
    const int64_t wait = Wait({id}, &end);
    std::thread canceller([&] { waits_->Cancel(wait); });
    std::thread clock([&] { clock_.Advance(seconds(i % 3 == 0 ? 11 : 0)); });
    Record(id, v1::STATE_READY);
    canceller.join();
    clock.join();
    end.wait(kOpen);
  }
  EXPECT_EQ(waits_->count(), 0);
  EXPECT_EQ(waits_->bytes(), 0U);
  EXPECT_EQ(waiters_.count(), 0);
}

}  // namespace
}  // namespace viommu::server
