// The work and the invalidations of a host, for tests of the session.

#ifndef VIOMMU_AGENT_SESSION_TESTING_H_
#define VIOMMU_AGENT_SESSION_TESTING_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "agent/session/host_work.h"
#include "common/error.h"
#include "common/mutex.h"

namespace viommu::agent {

// Answers APPLIED to everything. Thread-safe.
class FakeWork : public HostWork {
 public:
  void FillHello(v1::Hello& hello) override {
    hello.set_agent_id("agent");
    hello.set_cluster_id("cluster");
  }
  absl::Status BeginSession(const v1::Welcome& welcome) override {
    MutexLock lock(mu_);
    if (welcome.cluster_id() != "cluster") {
      return Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_CLUSTER_MISMATCH).Message("not my cluster");
    }
    log_.push_back("begin");
    return absl::OkStatus();
  }
  void EndSession() override {
    MutexLock lock(mu_);
    log_.push_back("end");
    results_.clear_items();
  }
  absl::Status Accept(const v1::Desired& desired) override {
    MutexLock lock(mu_);
    if (!accept_.ok()) return accept_;
    for (const auto& item : desired.items()) {
      auto* result = results_.add_items();
      result->set_uid(item.viommu().uid());
      result->set_generation(item.viommu().generation());
      result->set_outcome(v1::OUTCOME_APPLIED);
    }
    results_.set_nonce(desired.nonce());
    return absl::OkStatus();
  }
  bool TakeResults(int max, v1::Results& results) override {
    MutexLock lock(mu_);
    if (results_.items_size() == 0) return false;
    results.set_nonce(results_.nonce());
    while (results_.items_size() > 0 && results.items_size() < max) {
      *results.add_items() = results_.items(results_.items_size() - 1);
      results_.mutable_items()->RemoveLast();
    }
    return true;
  }
  void Inspect(const v1::InspectCall& call, v1::InspectReply& reply) override {
    reply.set_call_id(call.call_id());
    reply.add_strays("after " + call.after_uid());
  }
  int64_t revision() override { return 42; }

  void FailAccept(absl::Status status) {
    MutexLock lock(mu_);
    accept_ = std::move(status);
  }
  std::vector<std::string> log() {
    MutexLock lock(mu_);
    return log_;
  }

 private:
  Mutex mu_;
  absl::Status accept_ ABSL_GUARDED_BY(mu_);
  v1::Results results_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> log_ ABSL_GUARDED_BY(mu_);
};

// Remembers calls, up to `room`. Thread-safe.
class FakeCalls : public InvalidateCalls {
 public:
  explicit FakeCalls(size_t room = 100) : room_(room) {}
  bool Submit(int64_t session, const v1::InvalidateCall& call) override {
    MutexLock lock(mu_);
    if (calls_.size() == room_) return false;
    calls_.emplace_back(session, call);
    return true;
  }
  std::vector<std::pair<int64_t, v1::InvalidateCall>> calls() {
    MutexLock lock(mu_);
    return calls_;
  }

 private:
  const size_t room_;
  Mutex mu_;
  std::vector<std::pair<int64_t, v1::InvalidateCall>> calls_ ABSL_GUARDED_BY(mu_);
};

inline v1::ConnectResponse WelcomeMessage(int64_t lease_ms = 9000) {
  v1::ConnectResponse message;
  auto* welcome = message.mutable_welcome();
  welcome->set_cluster_id("cluster");
  welcome->set_store_incarnation("store");
  welcome->set_epoch(3);
  welcome->set_revision(1000);
  welcome->mutable_lease()->set_seconds(lease_ms / 1000);
  welcome->mutable_lease()->set_nanos(static_cast<int32_t>(lease_ms % 1000 * 1'000'000));
  return message;
}

inline v1::ConnectResponse HeartbeatMessage(int64_t epoch = 3) {
  v1::ConnectResponse message;
  message.mutable_heartbeat()->set_epoch(epoch);
  return message;
}

// One viommu "u<i>" for each of `count`, and the sync mark.
inline v1::ConnectResponse DesiredMessage(int count, int64_t nonce = 1) {
  v1::ConnectResponse message;
  message.mutable_desired()->set_nonce(nonce);
  message.mutable_desired()->set_epoch(3);
  message.mutable_desired()->set_sync_mark(true);
  for (int i = 0; i < count; ++i) {
    auto* viommu = message.mutable_desired()->add_items()->mutable_viommu();
    viommu->set_uid("u" + std::to_string(i));
    viommu->set_generation(7);
  }
  return message;
}

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SESSION_TESTING_H_
