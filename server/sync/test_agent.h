// An agent's end of a stream, played by a test on one thread.

#ifndef VIOMMU_SERVER_SYNC_TEST_AGENT_H_
#define VIOMMU_SERVER_SYNC_TEST_AGENT_H_

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/sync/agent_session.h"
#include "server/sync/agent_sessions.h"

namespace viommu::server {

class TestAgent final : public AgentStream {
 public:
  explicit TestAgent(AgentSessions& sessions, Peer peer = {"test:1", false, {}}) {
    session_ = sessions.Open(this, std::move(peer));
    if (finished_.has_value()) session_->Gone();
  }

  // --- What it does.

  void Say(v1::ConnectRequest message) {
    ASSERT_TRUE(reading_) << "the server does not read";
    reading_ = false;
    session_->Heard(std::make_unique<v1::ConnectRequest>(std::move(message)));
  }
  void SayHello(const v1::Hello& hello) {
    v1::ConnectRequest message;
    *message.mutable_hello() = hello;
    Say(std::move(message));
  }
  void SayHeartbeat() {
    v1::ConnectRequest message;
    message.mutable_heartbeat();
    Say(std::move(message));
  }
  void SayResults(std::vector<v1::ItemResult> items) {
    v1::ConnectRequest message;
    message.mutable_results()->set_nonce(last_nonce());
    for (v1::ItemResult& item : items) *message.mutable_results()->add_items() = std::move(item);
    Say(std::move(message));
  }
  // Answers everything that it was sent since the last time.
  void AnswerAll(v1::Outcome outcome = v1::OUTCOME_APPLIED) {
    std::vector<v1::ItemResult> items;
    for (const v1::Resource& item : TakeItems()) {
      v1::ItemResult result;
      const auto fill = [&](const auto& resource) {
        result.set_uid(resource.uid());
        result.set_name(resource.name());
        result.set_generation(resource.generation());
        result.set_outcome(resource.state() == v1::STATE_DELETING ? v1::OUTCOME_RELEASED : outcome);
      };
      if (item.has_stage2_domain()) fill(item.stage2_domain());
      if (item.has_viommu()) fill(item.viommu());
      if (item.has_vdevice()) fill(item.vdevice());
      if (item.has_nested_domain()) fill(item.nested_domain());
      items.push_back(std::move(result));
    }
    if (!items.empty()) SayResults(std::move(items));
  }
  // The connection breaks, or the agent goes away.
  void Leave() {
    reading_ = false;
    session_->StreamEnded();
    if (pending_ != nullptr) EndWrite(false);
  }
  // Writes stay under way until EndWrite.
  void StopReading() { stopped_ = true; }
  void EndWrite(bool ok) {
    std::unique_ptr<v1::ConnectResponse> message = std::move(pending_);
    if (ok) got_.push_back(std::move(*message));
    session_->Written(ok);
  }

  // --- What it sees.

  const std::vector<v1::ConnectResponse>& got() const { return got_; }
  const std::optional<absl::Status>& finished() const { return finished_; }
  bool reading() const { return reading_; }
  bool cancelled() const { return cancelled_; }
  bool writing() const { return pending_ != nullptr; }
  AgentSession& session() const { return *session_; }
  bool welcomed() const { return !got_.empty() && got_[0].has_welcome(); }
  bool synced() const {
    for (const v1::ConnectResponse& message : got_) {
      if (message.desired().sync_mark()) return true;
    }
    return false;
  }
  int64_t last_nonce() const {
    int64_t nonce = 0;
    for (const v1::ConnectResponse& message : got_) nonce = std::max(nonce, message.desired().nonce());
    return nonce;
  }
  // Resources sent since the last call.
  std::vector<v1::Resource> TakeItems() {
    std::vector<v1::Resource> items;
    for (; taken_ < got_.size(); ++taken_) {
      for (const v1::Resource& item : got_[taken_].desired().items()) items.push_back(item);
    }
    return items;
  }

  // --- AgentStream.

  void Read() override {
    ASSERT_FALSE(reading_);
    reading_ = true;
  }
  void Write(std::unique_ptr<v1::ConnectResponse> message) override {
    ASSERT_EQ(pending_, nullptr) << "two writes at once";
    ASSERT_FALSE(finished_.has_value());
    pending_ = std::move(message);
    if (!stopped_) EndWrite(true);
  }
  void Cancel() override { cancelled_ = true; }
  void Finish(const absl::Status& status) override {
    ASSERT_FALSE(finished_.has_value());
    ASSERT_EQ(pending_, nullptr);
    finished_ = status;
    if (session_ == nullptr) return;
    if (std::exchange(reading_, false)) session_->StreamEnded();
    session_->Gone();
  }

 private:
  std::shared_ptr<AgentSession> session_;
  bool reading_ = false;
  bool stopped_ = false;
  bool cancelled_ = false;
  std::unique_ptr<v1::ConnectResponse> pending_;
  std::vector<v1::ConnectResponse> got_;
  size_t taken_ = 0;
  std::optional<absl::Status> finished_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_SYNC_TEST_AGENT_H_
