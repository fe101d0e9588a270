// Calls through a session: invalidations and inspections.

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "common/error.h"
#include "server/sync/session_core_fixture.h"

namespace viommu::server {
namespace {

using std::chrono::milliseconds;

// --- Invalidations.

TEST_F(SessionCoreTest, CallsAreSentInOrderAndAnswered) {
  Connect();
  EXPECT_TRUE(Call(milliseconds(1000), 3).ok());
  EXPECT_TRUE(Call(milliseconds(1000)).ok());
  WriteAll();
  ASSERT_EQ(written_.size(), 2u);
  EXPECT_EQ(written_[0].invalidate_call().call_id(), 1);
  EXPECT_EQ(written_[0].invalidate_call().target_uid(), "target");
  EXPECT_EQ(written_[0].invalidate_call().commands_size(), 3);
  SayReply(2, 1);
  SayReply(1, 2);
  ASSERT_EQ(answers_.size(), 2u);
  EXPECT_EQ(answers_[0]->handled(), 1u);
  EXPECT_EQ(answers_[1]->handled(), 2u);
}

TEST_F(SessionCoreTest, NoCallsBeforeTheWelcomeOrAfterTheEnd) {
  Open();
  EXPECT_EQ(ReasonOf(Call(milliseconds(1000))), v1::ERROR_REASON_HOST_DISCONNECTED);
  SayHello();
  EXPECT_EQ(ReasonOf(Call(milliseconds(1000))), v1::ERROR_REASON_HOST_DISCONNECTED);
  Judge();
  EXPECT_TRUE(Call(milliseconds(1000)).ok());
  core_->Close(absl::UnavailableError("bye"));
  Run();
  EXPECT_EQ(ReasonOf(Call(milliseconds(1000))), v1::ERROR_REASON_HOST_DISCONNECTED);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(answers_[0].status()), v1::ERROR_REASON_HOST_DISCONNECTED);
  ExpectDetails(answers_[0].status());
}

TEST_F(SessionCoreTest, CallsEndAtTheirDeadlineAndLateRepliesAreNoHarm) {
  Connect();
  const absl::Status too_late = Call(milliseconds(0));
  EXPECT_EQ(too_late.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReasonOf(too_late), v1::ERROR_REASON_HOST_TIMEOUT);
  EXPECT_TRUE(Call(milliseconds(100)).ok());
  EXPECT_TRUE(Call(milliseconds(50)).ok());
  EXPECT_EQ(core_->NextDue(), now_ + milliseconds(50));
  Advance(milliseconds(50));
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(ReasonOf(answers_[0].status()), v1::ERROR_REASON_HOST_TIMEOUT);
  WriteAll();
  EXPECT_EQ(written_.size(), 1u) << "the second one was given up before it was sent";
  Advance(milliseconds(50));
  EXPECT_EQ(answers_.size(), 2u);
  SayReply(1, 1);
  EXPECT_EQ(answers_.size(), 2u);
  EXPECT_FALSE(finished_);
  EXPECT_TRUE(Call(milliseconds(100)).ok()) << "nothing is left of the others";
}

TEST_F(SessionCoreTest, RepliesToCallsThatWereNotMadeAreAViolation) {
  Connect();
  EXPECT_TRUE(Call(milliseconds(1000)).ok());
  EXPECT_TRUE(Call(milliseconds(1000)).ok());
  SayReply(2, 1);  // being written is the first
  WriteAll();
  ExpectViolation();
}

TEST_F(SessionCoreTest, RepliesThatTellOfMoreThanWasAskedAreAViolation) {
  Connect();
  EXPECT_TRUE(Call(milliseconds(1000), 2).ok());
  WriteAll();
  SayReply(1, 3);
  ExpectViolation();
  EXPECT_EQ(ReasonOf(answers_.at(0).status()), v1::ERROR_REASON_HOST_DISCONNECTED);
}

TEST_F(SessionCoreTest, CallsInFlightAreLimitedInNumberAndBytes) {
  limits_.max_calls = 3;
  limits_.max_call_bytes = 1000;
  Connect();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Call(milliseconds(1000)).ok());
  const absl::Status full = Call(milliseconds(1000));
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(full), v1::ERROR_REASON_OVERLOADED);
  ExpectDetails(full);
  WriteAll();
  for (int i = 1; i <= 3; ++i) SayReply(i, 1);
  EXPECT_EQ(Call(milliseconds(1000), 100).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Call(milliseconds(1000), 10).ok());
  EXPECT_EQ(answers_.size(), 3u);
}

// --- Inspections.

TEST_F(SessionCoreTest, InspectionsAreCallsOfTheirOwnKind) {
  inspects_ = true;
  limits_.max_inspect_calls = 2;
  Connect();
  v1::InspectCall call;
  call.set_after_uid("u");
  std::vector<absl::StatusOr<v1::InspectReply>> replies;
  const auto inspect = [&] {
    Sessions::InspectCallback done = [&](absl::StatusOr<v1::InspectReply> reply) {
      replies.push_back(std::move(reply));
    };
    const absl::Status status = core_->Inspect(call, now_ + milliseconds(1000), done, now_);
    Run();
    return status;
  };
  EXPECT_TRUE(Call(milliseconds(5000)).ok());
  EXPECT_TRUE(inspect().ok());
  EXPECT_TRUE(inspect().ok());
  const absl::Status full = inspect();
  EXPECT_EQ(ReasonOf(full), v1::ERROR_REASON_OVERLOADED);
  ExpectDetails(full);
  EXPECT_TRUE(Call(milliseconds(5000)).ok()) << "which are not held up by it";
  WriteAll();
  ASSERT_TRUE(written_.at(1).has_inspect_call());
  EXPECT_EQ(written_[1].inspect_call().call_id(), 2);
  EXPECT_EQ(written_[1].inspect_call().after_uid(), "u");
  v1::ConnectRequest reply;
  reply.mutable_inspect_reply()->set_call_id(2);
  reply.mutable_inspect_reply()->add_strays("ioas 3");
  Say(reply);
  ASSERT_EQ(replies.size(), 1u);
  EXPECT_EQ(replies[0]->strays(0), "ioas 3");
  EXPECT_TRUE(inspect().ok()) << "there is room again";
  Advance(milliseconds(1000));
  ASSERT_EQ(replies.size(), 3u);
  EXPECT_EQ(ReasonOf(replies[1].status()), v1::ERROR_REASON_HOST_TIMEOUT);
  EXPECT_TRUE(inspect().ok());
  WriteAll();
  reply.mutable_inspect_reply()->set_call_id(1);
  Say(reply);
  ExpectViolation();
  EXPECT_EQ(ReasonOf(replies.at(3).status()), v1::ERROR_REASON_HOST_DISCONNECTED);
}

TEST_F(SessionCoreTest, AnAgentThatDoesNotKnowInspectionsIsNotAsked) {
  Connect();
  Sessions::InspectCallback done = [](absl::StatusOr<v1::InspectReply>) { FAIL(); };
  const absl::Status status = core_->Inspect({}, now_ + milliseconds(1000), done, now_);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_NOT_OFFERED);
  EXPECT_TRUE(core_->Next(followed_, now_).empty());
}

TEST_F(SessionCoreTest, CallsAndChangesTakeTurns) {
  Connect();
  Change("viommus/first");
  Run();
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(Call(milliseconds(1000)).ok());
  Change("viommus/a");
  for (int i = 0; i < 3; ++i) Write();
  const Names sent = Sent();
  EXPECT_EQ(std::count(sent.begin(), sent.end(), "viommus/a"), 1) << "a change waits for one call at most";
}

}  // namespace
}  // namespace viommu::server
