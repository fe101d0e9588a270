// One connected agent: a SessionCore, the stream it speaks over, and the mutex between them.
//
// Thread rules: any thread may call anything. Whoever gave the core something to think about also drives it: one thread
// at a time carries out what it says, without holding the mutex, so the stream sees one call after the other and the
// writer's thread never waits for a message to be built. The writer's thread itself never drives; it leaves that to
// AgentSessions' own thread.

#ifndef VIOMMU_SERVER_SYNC_AGENT_SESSION_H_
#define VIOMMU_SERVER_SYNC_AGENT_SESSION_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "server/sync/hello.h"
#include "server/sync/hello_memory.h"
#include "server/sync/session_core.h"

namespace viommu::server {

class AgentSessions;

// The stream as its session sees it; over gRPC in agent_service.cc. Calls come one at a time and must not block; what
// they start ends with a call of the session, on any thread, also from within.
class AgentStream {
 public:
  virtual ~AgentStream() = default;
  // Ends with AgentSession::Heard or StreamEnded. Not again before that.
  virtual void Read() = 0;
  // Ends with AgentSession::Written. Not again before that.
  virtual void Write(std::unique_ptr<v1::ConnectResponse> message) = 0;
  // Breaks the stream off: a write under way ends with Written(false).
  virtual void Cancel() = 0;
  // Tells the agent how the session ended. The last call; ends with AgentSession::Gone. No write is under way.
  virtual void Finish(const absl::Status& status) = 0;
};

class AgentSession final : public std::enable_shared_from_this<AgentSession> {
 public:
  // Made by AgentSessions::Open. `owner` must outlive the session; `stream` lives until Finish.
  AgentSession(AgentSessions& owner, int64_t id, AgentStream* stream, Peer peer);

  // --- From the stream.

  void Heard(std::unique_ptr<v1::ConnectRequest> message);
  void StreamEnded();
  void Written(bool ok);
  // Nothing more will come from the stream, and it may be destroyed.
  void Gone();

  // --- From commands, on the answering thread.

  // `memory`: what `held` takes.
  void HelloJudged(const absl::Status& status, int64_t revision, SessionCore::HeldItems held,
                   HelloMemory::Share memory);
  void ResultsJudged(const absl::Status& status);

  // --- From AgentSessions.

  // Returns whether the session has to be made ready (see AgentSessions::MakeReady), which it says once until
  // ClearReady.
  bool Changed(Concern concern, ResourceKey key, const std::string& uid, int64_t revision);
  bool TearDown(const std::vector<std::string>& uids);
  bool SlotGranted();
  void ClearReady();
  void Invalidate(const std::string& target_uid, const std::vector<v1::Command>& commands, WallTime deadline,
                  Sessions::InvalidateCallback done);
  void Inspect(const v1::InspectCall& call, WallTime deadline, Sessions::InspectCallback done);
  void Close(const absl::Status& status);
  // Closes it if it is not closed, and does not wait for a write that is under way.
  void Abort(const absl::Status& status);
  void Tick(MonotonicTime now);
  // Does what the core says until it has nothing more to say, unless another thread is at it.
  void Drive();

  // --- What is known about it.

  int64_t id() const { return id_; }
  const Peer& peer() const { return peer_; }
  WallTime since() const { return since_; }
  MonotonicTime next_due() const { return MonotonicTime(std::chrono::nanoseconds(next_due_ns_.load())); }
  bool LeaseRanOut(MonotonicTime now) const;
  struct Progress {
    bool welcomed = false;
    bool synced = false;
    size_t pending = 0;
    int64_t lag_revisions = 0;
  };
  Progress progress(int64_t followed) const;
  std::vector<v1::SmmuUsage> usage() const;

 private:
  void Do(SessionCore::Step step);
  MonotonicTime DueAt(WallTime deadline, MonotonicTime now) const;
  void SendDesired(DesiredWork work);
  // Whether it was not ready before.
  bool SetReady() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  AgentSessions& owner_;
  const int64_t id_;
  AgentStream* const stream_;
  const Peer peer_;
  const WallTime since_;

  // hosts/{host} once it is admitted. Of the thread that drives.
  std::string host_;

  mutable Mutex mu_;
  SessionCore core_ ABSL_GUARDED_BY(mu_);
  std::optional<HelloMemory::Share> hello_memory_ ABSL_GUARDED_BY(mu_);  // until what the hello held is dealt with
  bool driven_ ABSL_GUARDED_BY(mu_) = false;
  bool ready_ ABSL_GUARDED_BY(mu_) = false;
  std::atomic<int64_t> next_due_ns_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_SYNC_AGENT_SESSION_H_
