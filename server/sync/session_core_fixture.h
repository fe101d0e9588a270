// A session core that a test drives by hand.

#ifndef VIOMMU_SERVER_SYNC_SESSION_CORE_FIXTURE_H_
#define VIOMMU_SERVER_SYNC_SESSION_CORE_FIXTURE_H_

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "server/fleet/tables.h"
#include "server/fleet/test_fleet.h"
#include "server/sync/session_core.h"

namespace viommu::server {

inline constexpr std::chrono::milliseconds kLease{9'000};

// Drives a core by hand: does what it says, except that writes, judgements and slots end when the test says so.
class SessionCoreTest : public testing::Test {
 protected:
  SessionCoreTest() { limits_.max_message_bytes = 1 << 16; }

  // --- The agent.

  void Say(v1::ConnectRequest message) {
    ASSERT_TRUE(reading_) << "nobody reads";
    reading_ = false;
    core_->Heard(std::make_unique<v1::ConnectRequest>(std::move(message)), now_);
    Run();
  }
  void SayHello() {
    v1::ConnectRequest message;
    message.mutable_hello()->set_agent_id("agent");
    for (const char* smmu : {"hosts/h/smmus/b", "hosts/h/smmus/a"}) {
      message.mutable_hello()->mutable_host()->add_smmus()->set_name(smmu);
    }
    message.mutable_hello()->set_inspect(inspects_);
    Say(std::move(message));
  }
  void SayHeartbeat(int64_t epoch = 7) {
    v1::ConnectRequest message;
    message.mutable_heartbeat()->set_epoch(epoch);
    Say(std::move(message));
  }
  void SayResult(int64_t nonce, const std::string& uid) {
    v1::ConnectRequest message;
    message.mutable_results()->set_nonce(nonce);
    if (!uid.empty()) {
      v1::ItemResult& item = *message.mutable_results()->add_items();
      item.set_uid(uid);
      item.set_name("viommus/" + uid);
      item.set_outcome(v1::OUTCOME_APPLIED);
    }
    Say(std::move(message));
  }
  void SayReply(int64_t call_id, uint32_t handled) {
    v1::ConnectRequest message;
    message.mutable_invalidate_reply()->set_call_id(call_id);
    message.mutable_invalidate_reply()->mutable_result()->set_handled(handled);
    Say(std::move(message));
  }

  // --- The writer.

  void Judge(const absl::Status& status = absl::OkStatus(), int64_t revision = 1) {
    core_->HelloJudged(status, revision, kLease, {}, now_);
    Run();
  }
  void JudgeResults(const absl::Status& status = absl::OkStatus()) {
    core_->ResultsJudged(status);
    Run();
  }
  // Records a viommu and tells the core.
  void Change(const std::string& name, size_t label_bytes = 0) {
    auto record = std::make_shared<v1::Viommu>();
    record->set_name(name);
    record->set_uid("uid-" + name);
    record->set_generation(++followed_);
    (*record->mutable_labels())["filler"] = std::string(label_bytes, 'x');
    const RecordPtr before = tables_.FindRecord(Kind::kViommu, name);
    tables_.Apply({Kind::kViommu, name, before, record});
    core_->Changed(Concern::kSend, {Kind::kViommu, name}, record->uid(), followed_);
  }

  // --- The driver.

  void Open() {
    core_ = std::make_unique<SessionCore>(limits_, identity_, id_, now_);
    Run();
  }
  // Up to where it follows: everything is written.
  void Connect() {
    Open();
    SayHello();
    Judge();
    WriteAll();
    ASSERT_EQ(core_->phase(), SessionCore::Phase::kFollowing);
    written_.clear();
  }
  void Run() {
    for (;;) {
      SessionCore::Step step = core_->Next(followed_, now_);
      if (step.empty()) return;
      ASSERT_FALSE(finished_) << "nothing may be done after the end";
      if (step.hello != nullptr) ++hellos_;
      for (v1::Results& results : step.results) results_.push_back(std::move(results));
      if (step.compare != nullptr) core_->Compared(std::exchange(difference_, {}));
      if (step.want_slot) {
        ++slots_wanted_;
        if (free_slots_) core_->SlotGranted();
      }
      if (step.release_slot) ++slots_released_;
      if (step.message != nullptr) StartWrite(std::move(step.message));
      if (step.desired.has_value()) {
        const std::vector<RecordPtr> records = FetchRecords(tables_, *step.desired);
        auto message = core_->Built(BuildDesired(std::move(*step.desired), records), now_);
        if (message != nullptr) StartWrite(std::move(message));
      }
      if (step.read) {
        ASSERT_FALSE(reading_);
        reading_ = true;
      }
      if (step.ended) ++ended_;
      for (SessionCore::Answer& answer : step.answers) answer.done(std::move(answer.reply));
      if (step.cancel) ++cancels_;
      if (step.finish.has_value()) {
        ASSERT_EQ(writing_, nullptr) << "finished under a write";
        finished_ = true;
        finish_ = *step.finish;
      }
    }
  }
  void StartWrite(std::unique_ptr<v1::ConnectResponse> message) {
    ASSERT_EQ(writing_, nullptr) << "two writes at once";
    writing_ = std::move(message);
  }
  // The message being written arrives.
  void Write() {
    ASSERT_NE(writing_, nullptr);
    written_.push_back(std::move(*std::exchange(writing_, nullptr)));
    core_->Written(true);
    Run();
  }
  void WriteAll() {
    while (writing_ != nullptr) Write();
  }
  void Advance(std::chrono::milliseconds by) {
    now_ += by;
    core_->Tick(now_);
    Run();
  }
  void ExpectFinished(absl::StatusCode code, v1::ErrorReason reason) {
    EXPECT_TRUE(finished_);
    EXPECT_EQ(finish_.code(), code) << finish_;
    EXPECT_EQ(ReasonName(ReasonOf(finish_)), ReasonName(reason)) << finish_;
    EXPECT_EQ(ended_, 1);
  }
  void ExpectViolation() { ExpectFinished(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_PROTOCOL_VIOLATION); }

  // Names in the Desired messages that arrived.
  std::vector<std::string> Sent() const {
    std::vector<std::string> names;
    for (const v1::ConnectResponse& message : written_) {
      for (const v1::Resource& item : message.desired().items()) names.push_back(item.viommu().name());
    }
    return names;
  }

  absl::Status Call(std::chrono::milliseconds timeout, uint32_t commands = 1) {
    Sessions::InvalidateCallback done = [this](absl::StatusOr<v1::InvalidationResult> result) {
      answers_.push_back(std::move(result));
    };
    v1::Command command;
    command.set_raw("0123456789abcdef");
    const absl::Status status =
        core_->Invalidate("target", std::vector<v1::Command>(commands, command), now_ + timeout, done, now_);
    Run();
    return status;
  }

  using Names = std::vector<std::string>;

  SessionCore::Limits limits_;
  const Identity identity_{"cluster", "store", 7};
  int64_t id_ = 0;
  bool inspects_ = false;  // says so in its hello
  MonotonicTime now_{std::chrono::hours(1)};
  std::unique_ptr<SessionCore> core_;
  Tables tables_;
  int64_t followed_ = 1;
  Difference difference_;
  bool free_slots_ = true;

  bool reading_ = false;
  std::unique_ptr<v1::ConnectResponse> writing_;
  std::vector<v1::ConnectResponse> written_;
  std::vector<v1::Results> results_;
  std::vector<absl::StatusOr<v1::InvalidationResult>> answers_;
  int hellos_ = 0, slots_wanted_ = 0, slots_released_ = 0, ended_ = 0, cancels_ = 0;
  bool finished_ = false;
  absl::Status finish_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_SYNC_SESSION_CORE_FIXTURE_H_
