#include "server/sync/session_core.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "server/sync/session_core_fixture.h"

namespace viommu::server {
namespace {

using std::chrono::milliseconds;
using Phase = SessionCore::Phase;

// --- Beginning.

TEST_F(SessionCoreTest, HelloThenWelcomeThenSyncMark) {
  Open();
  EXPECT_TRUE(reading_);
  SayHello();
  EXPECT_EQ(hellos_, 1);
  EXPECT_FALSE(reading_) << "nothing is to be read before the hello is recorded";
  EXPECT_EQ(writing_, nullptr);
  Judge(absl::OkStatus(), 5);
  ASSERT_NE(writing_, nullptr);
  EXPECT_EQ(writing_->welcome().cluster_id(), "cluster");
  EXPECT_EQ(writing_->welcome().store_incarnation(), "store");
  EXPECT_EQ(writing_->welcome().epoch(), 7);
  EXPECT_EQ(writing_->welcome().lease().seconds(), 9);
  EXPECT_EQ(writing_->welcome().revision(), 5);
  EXPECT_TRUE(reading_);
  Write();
  ASSERT_NE(writing_, nullptr);
  EXPECT_TRUE(writing_->desired().sync_mark());
  EXPECT_EQ(writing_->desired().items_size(), 0);
  EXPECT_EQ(writing_->desired().nonce(), 1);
  EXPECT_EQ(writing_->desired().epoch(), 7);
  EXPECT_EQ(core_->phase(), Phase::kSyncing);
  Write();
  EXPECT_EQ(core_->phase(), Phase::kFollowing);
  EXPECT_EQ(writing_, nullptr);
  EXPECT_EQ(slots_wanted_, 0) << "an empty difference needs no slot";
}

TEST_F(SessionCoreTest, RemembersTheUsageOfSmmusThatTheHelloNamed) {
  Connect();
  EXPECT_TRUE(core_->usage().empty());
  const auto say = [this](const std::vector<const char*>& smmus) {
    v1::ConnectRequest message;
    message.mutable_heartbeat()->set_epoch(7);
    for (const char* smmu : smmus) message.mutable_heartbeat()->add_smmus()->set_name(smmu);
    Say(std::move(message));
  };
  say({"hosts/h/smmus/x", "hosts/h/smmus/b"});
  ASSERT_EQ(core_->usage().size(), 1u) << "x is not there";
  EXPECT_EQ(core_->usage()[0].name(), "hosts/h/smmus/b");
  say({"hosts/h/smmus/a", "hosts/h/smmus/a", "hosts/h/smmus/a"});
  EXPECT_EQ(core_->usage().size(), 2u) << "as many as there are SMMUs, however many are told";
  say({});
  EXPECT_TRUE(core_->usage().empty()) << "the last one counts";
}

TEST_F(SessionCoreTest, AnythingBeforeTheHelloIsAViolation) {
  Open();
  SayHeartbeat();
  ExpectViolation();
  EXPECT_EQ(hellos_, 0);
}

TEST_F(SessionCoreTest, ASecondHelloIsAViolation) {
  Connect();
  SayHello();
  ExpectViolation();
  EXPECT_EQ(hellos_, 1);
}

TEST_F(SessionCoreTest, AMessageWithoutContentIsAViolation) {
  Connect();
  Say(v1::ConnectRequest());
  ExpectViolation();
}

TEST_F(SessionCoreTest, ARefusedHelloEndsTheSessionWithTheReason) {
  Open();
  SayHello();
  Judge(Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_STORE_UNAVAILABLE).Message("no"));
  ExpectFinished(absl::StatusCode::kUnavailable, v1::ERROR_REASON_STORE_UNAVAILABLE);
  EXPECT_TRUE(written_.empty());
}

TEST_F(SessionCoreTest, NoHelloInTime) {
  Open();
  Advance(limits_.hello_timeout - milliseconds(1));
  EXPECT_FALSE(finished_);
  Advance(milliseconds(1));
  ExpectFinished(absl::StatusCode::kUnavailable, v1::ERROR_REASON_LEASE_EXPIRED);
}

TEST_F(SessionCoreTest, TheDifferenceWaitsForASlotAndGivesItBackAfterTheMark) {
  free_slots_ = false;
  Open();
  Change("viommus/a");
  difference_.changed = {{Kind::kViommu, "viommus/a"}};
  difference_.unknown_uids = {"zombie"};
  SayHello();
  Judge();
  Write();
  EXPECT_EQ(slots_wanted_, 1);
  EXPECT_EQ(core_->phase(), Phase::kWaiting);
  EXPECT_EQ(writing_, nullptr) << "only the welcome goes out without a slot";
  Change("viommus/b");
  Run();
  EXPECT_EQ(writing_, nullptr);
  Advance(kLease / 3);
  ASSERT_NE(writing_, nullptr) << "those who wait hear a heartbeat";
  EXPECT_TRUE(writing_->has_heartbeat());
  Write();
  SayHeartbeat();
  core_->SlotGranted();
  Run();
  ASSERT_NE(writing_, nullptr);
  EXPECT_EQ(writing_->desired().items_size(), 2);
  EXPECT_EQ(writing_->desired().unknown_uids_size(), 1);
  EXPECT_TRUE(writing_->desired().sync_mark());
  EXPECT_EQ(slots_released_, 0);
  Write();
  EXPECT_EQ(slots_released_, 1);
  EXPECT_EQ(core_->phase(), Phase::kFollowing);
}

TEST_F(SessionCoreTest, ASessionThatEndsGivesItsSlotBack) {
  free_slots_ = false;
  Open();
  difference_.unknown_uids = {"zombie"};
  SayHello();
  Judge();
  Write();
  reading_ = false;
  core_->StreamEnded();
  Run();
  EXPECT_EQ(slots_released_, 1);
  EXPECT_TRUE(finished_);
}

// --- Following.

TEST_F(SessionCoreTest, AThousandChangesWhileAWriteIsPendingAreOneItem) {
  Connect();
  Change("viommus/first");
  Run();
  ASSERT_NE(writing_, nullptr);
  for (int i = 0; i < 1000; ++i) {
    Change("viommus/a");
    Run();
  }
  EXPECT_EQ(core_->pending(), 1u);
  WriteAll();
  EXPECT_EQ(Sent(), (Names{"viommus/first", "viommus/a"}));
  EXPECT_EQ(written_.back().desired().items(0).viommu().generation(), followed_) << "the latest state is sent";
}

TEST_F(SessionCoreTest, AReaderThatNeverReadsCostsTheNamesAlone) {
  Connect();
  for (int i = 0; i < 100'000; ++i) {
    Change("viommus/v" + std::to_string(i % 50));
    Run();
  }
  EXPECT_EQ(core_->pending(), 50u);
  EXPECT_EQ(core_->phase(), Phase::kFollowing);
  // What is torn down without the agent's word has no record, so it has a limit of its own.
  for (size_t i = 0; i <= limits_.max_unknown_uids; ++i) {
    core_->Changed(Concern::kTearDown, {Kind::kViommu, "viommus/gone"}, "uid" + std::to_string(i), ++followed_);
  }
  Run();
  WriteAll();
  ExpectFinished(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED);
  ExpectDetails(finish_);
  EXPECT_EQ(core_->pending(), 0u);
}

TEST_F(SessionCoreTest, WhatIsForgottenIsNotSentAndWhatIsTornDownIsUnknown) {
  Connect();
  Change("viommus/first");
  Run();
  Change("viommus/a");
  Change("viommus/b");
  core_->Changed(Concern::kForget, {Kind::kViommu, "viommus/a"}, "uid-a", ++followed_);
  core_->Changed(Concern::kTearDown, {Kind::kViommu, "viommus/b"}, "uid-b", ++followed_);
  WriteAll();
  EXPECT_EQ(Sent(), Names{"viommus/first"});
  ASSERT_EQ(written_.back().desired().unknown_uids_size(), 1);
  EXPECT_EQ(written_.back().desired().unknown_uids(0), "uid-b");
}

TEST_F(SessionCoreTest, LongListsGoInBoundedMessagesEachResourceOnce) {
  Connect();
  Change("viommus/first");
  Run();
  std::set<std::string> expected = {"viommus/first"};
  for (int i = 0; i < 3000; ++i) {
    const std::string name = "viommus/v" + std::to_string(i);
    Change(name, 100);
    expected.insert(name);
  }
  WriteAll();
  const Names sent = Sent();
  EXPECT_EQ(sent.size(), expected.size()) << "none twice";
  EXPECT_EQ(std::set<std::string>(sent.begin(), sent.end()), expected);
  EXPECT_GT(written_.size(), 5u);
  for (const v1::ConnectResponse& message : written_) EXPECT_LE(message.ByteSizeLong(), limits_.max_message_bytes);
}

TEST_F(SessionCoreTest, ARevisionIsPromisedOnlyWithTheLastPiece) {
  Connect();
  Change("viommus/first");
  Run();
  const int64_t promised = writing_->desired().revision();
  EXPECT_EQ(promised, followed_);
  for (int i = 0; i < 3000; ++i) Change("viommus/v" + std::to_string(i), 100);
  WriteAll();
  for (size_t i = 0; i + 1 < written_.size(); ++i) EXPECT_EQ(written_[i].desired().revision(), promised) << i;
  EXPECT_EQ(written_.back().desired().revision(), followed_);
  for (size_t i = 0; i < written_.size(); ++i) {
    EXPECT_EQ(written_[i].desired().nonce(), static_cast<int64_t>(i) + 2) << "1 was the sync mark";
  }
}

TEST_F(SessionCoreTest, NothingWaitsForEverBehindResourcesThatKeepChanging) {
  limits_.max_message_bytes = 2048;
  Connect();
  Change("viommus/z");
  Change("viommus/first");
  for (int i = 0; i < 40; ++i) Change("viommus/busy" + std::to_string(i), 200);
  Run();
  int messages = 0;
  while (writing_ != nullptr && ++messages < 20) {
    Write();
    for (int i = 0; i < 40; ++i) Change("viommus/busy" + std::to_string(i), 200);
  }
  const Names sent = Sent();
  EXPECT_EQ(std::count(sent.begin(), sent.end(), "viommus/z"), 1);
}

// --- Results.

TEST_F(SessionCoreTest, ResultsAreHandedToTheWriterAndReadingStopsWhenItLagsBehind) {
  Connect();
  Change("viommus/a");
  Run();
  Write();
  for (size_t i = 0; i < limits_.max_results; ++i) SayResult(2, "uid" + std::to_string(i));
  ASSERT_EQ(results_.size(), limits_.max_results);
  EXPECT_EQ(results_[0].items(0).uid(), "uid0");
  EXPECT_FALSE(reading_);
  // The agent's silence is our doing, so the lease does not run out.
  Advance(kLease * 2);
  WriteAll();
  Advance(kLease * 2);
  WriteAll();
  EXPECT_FALSE(finished_);
  JudgeResults();
  EXPECT_TRUE(reading_);
  Advance(kLease - milliseconds(1));
  WriteAll();
  EXPECT_FALSE(finished_) << "a full lease from now on";
  SayHeartbeat();
}

TEST_F(SessionCoreTest, ResultsThatTheWriterDidNotTakeAreOfferedAgainInOrder) {
  Connect();
  SayResult(1, "a");
  core_->ResultsNotTaken(std::exchange(results_, {})[0], now_);
  Run();
  SayResult(1, "b");
  EXPECT_TRUE(results_.empty());
  EXPECT_LE(core_->NextDue(), now_ + limits_.retry_delay);
  Advance(limits_.retry_delay);
  ASSERT_EQ(results_.size(), 2u);
  EXPECT_EQ(results_[0].items(0).uid(), "a");
  EXPECT_EQ(results_[1].items(0).uid(), "b");
}

TEST_F(SessionCoreTest, RefusedResultsAreAViolation) {
  Connect();
  SayResult(1, "a");
  JudgeResults(absl::PermissionDeniedError("not yours"));
  ExpectViolation();
}

TEST_F(SessionCoreTest, ResultsThatTheStoreDidNotTakeBringTheAgentBackLater) {
  Connect();
  SayResult(1, "a");
  JudgeResults(Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_STORE_UNAVAILABLE).Message("full"));
  ExpectFinished(absl::StatusCode::kUnavailable, v1::ERROR_REASON_STORE_UNAVAILABLE);
}

TEST_F(SessionCoreTest, ResultsOfMessagesThatWereNotSentAreAViolation) {
  Connect();
  SayResult(2, "a");
  ExpectViolation();
  EXPECT_TRUE(results_.empty());
}

TEST_F(SessionCoreTest, ResultsAboutNothingAreAViolation) {
  Connect();
  v1::ConnectRequest message;
  message.mutable_results()->add_items()->set_uid("uid");
  Say(std::move(message));
  ExpectViolation();
}

TEST_F(SessionCoreTest, MoreResultsThanOneMessageMayHaveAreAViolation) {
  Connect();
  v1::ConnectRequest message;
  const auto add = [&message] {
    v1::ItemResult& item = *message.mutable_results()->add_items();
    item.set_uid("uid");
    item.set_name("viommus/v");
    item.set_outcome(v1::OUTCOME_APPLIED);
  };
  for (int i = 0; i < limits_.max_result_items; ++i) add();
  Say(message);
  ASSERT_EQ(results_.size(), 1u);
  EXPECT_EQ(results_[0].items_size(), 1024);
  add();
  Say(message);
  ExpectViolation();
  EXPECT_EQ(results_.size(), 1u) << "none of it is judged";
}

TEST_F(SessionCoreTest, ResultsWithoutItemsOnlyAcknowledge) {
  Connect();
  Change("viommus/a");
  Run();
  Write();
  EXPECT_GT(core_->Lag(followed_), 0);
  SayResult(2, "");
  EXPECT_TRUE(results_.empty());
  EXPECT_EQ(core_->Lag(followed_), 0);
}

TEST_F(SessionCoreTest, LagCountsFromTheFirstChangeThatIsNotAnswered) {
  Connect();
  followed_ = 1000;  // of other hosts
  EXPECT_EQ(core_->Lag(followed_), 0);
  Change("viommus/a");  // 1001
  Run();
  followed_ += 10;
  EXPECT_EQ(core_->Lag(followed_), 11);
  Change("viommus/b");  // 1012
  Write();              // a; b is being written
  SayResult(2, "uid-viommus/a");
  EXPECT_EQ(core_->Lag(followed_), 11) << "up to 1001 is answered";
  Write();
  SayResult(3, "uid-viommus/b");
  EXPECT_EQ(core_->Lag(followed_), 0);
}

// --- Leases and heartbeats.

TEST_F(SessionCoreTest, SilenceForALeaseEndsTheSession) {
  Connect();
  Advance(kLease - milliseconds(1));
  WriteAll();
  SayHeartbeat();
  Advance(kLease - milliseconds(1));
  WriteAll();
  EXPECT_FALSE(finished_);
  EXPECT_LE(core_->NextDue(), now_ + milliseconds(1));
  EXPECT_FALSE(core_->LeaseRanOut(now_));
  Advance(milliseconds(1));
  WriteAll();
  ExpectFinished(absl::StatusCode::kUnavailable, v1::ERROR_REASON_LEASE_EXPIRED);
}

TEST_F(SessionCoreTest, HeartbeatsGoOutEveryThirdOfALeaseUnlessSomethingElseDid) {
  Connect();
  Advance(kLease / 3 - milliseconds(1));
  EXPECT_EQ(writing_, nullptr);
  Change("viommus/a");
  Run();
  WriteAll();
  Advance(kLease / 3 - milliseconds(1));
  EXPECT_EQ(writing_, nullptr) << "a change is a sign of life, too";
  followed_ = 50;
  Advance(milliseconds(1));
  ASSERT_NE(writing_, nullptr);
  EXPECT_EQ(writing_->heartbeat().epoch(), 7);
  EXPECT_EQ(writing_->heartbeat().revision(), 50) << "nothing of this host up to here is left out";
}

TEST_F(SessionCoreTest, SessionsThatBeganTogetherDriftApart) {
  Connect();
  const MonotonicTime first = core_->NextDue();
  EXPECT_EQ(first, now_ + kLease / 3);
  reading_ = false;
  id_ = 32;
  Connect();
  EXPECT_LT(core_->NextDue(), first);
  EXPECT_GE(core_->NextDue(), now_ + kLease / 4);
}

TEST_F(SessionCoreTest, AHeartbeatPromisesNothingThatIsStillToBeSent) {
  Connect();
  Change("viommus/first");
  Run();
  const int64_t promised = writing_->desired().revision();
  Change("viommus/a");
  Advance(kLease / 3);
  Write();
  ASSERT_TRUE(writing_->has_heartbeat());
  EXPECT_EQ(writing_->heartbeat().revision(), promised);
}

TEST_F(SessionCoreTest, AnAgentThatObeysALaterEpochEndsTheSession) {
  Connect();
  SayHeartbeat(6);
  EXPECT_FALSE(finished_);
  SayHeartbeat(8);
  ExpectFinished(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_STALE_EPOCH);
}

TEST_F(SessionCoreTest, AnAgentThatDoesNotReadForALeaseIsLetGo) {
  Connect();
  Change("viommus/a");
  Run();
  for (int i = 0; i < 4; ++i) {
    Advance(kLease / 4);
    if (!finished_ && reading_) SayHeartbeat();
  }
  EXPECT_EQ(core_->phase(), Phase::kClosed);
  EXPECT_EQ(ReasonOf(core_->why()), v1::ERROR_REASON_LEASE_EXPIRED);
  EXPECT_FALSE(finished_) << "the write is still under way";
  Advance(limits_.close_grace - milliseconds(1));
  EXPECT_EQ(cancels_, 0);
  Advance(milliseconds(1));
  EXPECT_EQ(cancels_, 1);
  Advance(limits_.close_grace);
  EXPECT_EQ(cancels_, 1);
  writing_ = nullptr;
  core_->Written(false);
  Run();
  EXPECT_TRUE(finished_);
}

// --- The end.

TEST_F(SessionCoreTest, TheAgentEndsTheStream) {
  Connect();
  reading_ = false;
  core_->StreamEnded();
  Run();
  EXPECT_TRUE(finished_);
  EXPECT_TRUE(finish_.ok()) << finish_;
  EXPECT_EQ(ended_, 1);
  EXPECT_EQ(core_->NextDue(), MonotonicTime::max());
}

TEST_F(SessionCoreTest, ClosingWaitsForTheWriteUnderWay) {
  Connect();
  Change("viommus/a");
  Run();
  core_->Close(Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_SHUTTING_DOWN).Message("bye"));
  Run();
  EXPECT_EQ(ended_, 1);
  EXPECT_FALSE(finished_);
  Write();
  ExpectFinished(absl::StatusCode::kUnavailable, v1::ERROR_REASON_SHUTTING_DOWN);
}

TEST_F(SessionCoreTest, AbortDoesNotWaitForTheWriteUnderWay) {
  Connect();
  Change("viommus/a");
  Run();
  core_->Close(absl::UnavailableError("bye"));
  core_->Abort();
  Run();
  EXPECT_EQ(cancels_, 1);
  writing_ = nullptr;
  core_->Written(false);
  Run();
  EXPECT_TRUE(finished_);
}

TEST_F(SessionCoreTest, WhatComesAfterTheEndIsIgnored) {
  Open();
  SayHello();
  core_->Close(absl::UnavailableError("bye"));
  Run();
  EXPECT_TRUE(finished_);
  Judge();
  Change("viommus/a");
  core_->Compared({});
  core_->SlotGranted();
  core_->Tick(now_ + kLease * 2);
  Run();
  EXPECT_EQ(core_->pending(), 0u);
  EXPECT_EQ(writing_, nullptr);
}

}  // namespace
}  // namespace viommu::server
