// All sessions: who is connected for which host, what concerns whom, when what is due.
//
// Thread rules: thread-safe. A thread of its own (Start) serves the clock and the sessions that the writer's thread
// made ready; without Start the caller does, with Tick and RunReady, and everything happens on the callers' threads.
//
// Life: Shutdown first, then stop the gRPC server and the writer, then destroy this.

#ifndef VIOMMU_SERVER_SYNC_AGENT_SESSIONS_H_
#define VIOMMU_SERVER_SYNC_AGENT_SESSIONS_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "server/commit/command.h"
#include "server/commit/core.h"
#include "server/sync/agent_session.h"
#include "server/sync/hello_memory.h"
#include "server/sync/sessions.h"
#include "server/sync/sync_slots.h"

namespace viommu::server {

class AgentSessions final : public Sessions {
 public:
  // Hands a command to the writer, as Committer::Submit does. Must not call Done from within.
  using Submit = std::function<absl::Status(Command*)>;

  // `core` and `clock` must outlive the sessions, which must be one of the core's listeners.
  AgentSessions(CommitCore& core, Submit submit, const Clock& clock, const Options& options);
  // Shuts down, if Shutdown was not called.
  ~AgentSessions() override;

  // Begins to serve the clock and what is ready on a thread of its own.
  void Start();

  // Ends every session with SHUTTING_DOWN, and returns when all streams are gone, or `deadline` has passed and what was
  // left was broken off (and given another second). No host is marked as disconnected: the next start gives the agents
  // time to come back. New streams are refused from now on.
  void Shutdown(std::chrono::milliseconds deadline);

  // An agent opened `stream`. May call the stream from within.
  std::shared_ptr<AgentSession> Open(AgentStream* stream, Peer peer);

  // --- As Sessions promises.

  void OnCommit(const std::vector<ChangeSetPtr>& sets) override;
  void Invalidate(const std::string& host, const std::string& target_uid, const std::vector<v1::Command>& commands,
                  std::chrono::system_clock::time_point deadline, InvalidateCallback done) override;
  void Inspect(const std::string& host, const v1::InspectCall& call, std::chrono::system_clock::time_point deadline,
               InspectCallback done) override;
  void TearDown(const std::string& host, const std::vector<std::string>& uids) override;
  Stats stats() const override;
  std::optional<Info> Find(const std::string& host) const override;
  std::vector<v1::SmmuUsage> UsageOf(const std::string& host) const override;

  // --- What the thread does.

  // Serves the clock. Call it every Options::tick_interval.
  void Tick();
  // Drives the sessions that are ready; false when there were none.
  bool RunReady();

  // --- For the sessions and their commands.

  const Clock& clock() const { return clock_; }
  const Identity& identity() const { return core_.identity(); }
  const SessionCore::Limits& limits() const { return limits_; }
  // Every change up to this revision has been told to the sessions.
  int64_t followed() const { return followed_.load(std::memory_order_acquire); }
  // How long an agent may be silent, with as many hosts as there are now.
  std::chrono::milliseconds Lease() const;
  // Lets the session have the hello's host, in place of an older one of the same agent, and has the hello judged.
  absl::Status Admit(const std::shared_ptr<AgentSession>& session, v1::Hello hello);
  // Takes `results` only when it returns OK.
  absl::Status JudgeResults(const std::shared_ptr<AgentSession>& session, const std::string& host,
                            v1::Results& results);
  Difference DifferenceOf(const std::string& host, const SessionCore::HeldItems& held) const;
  std::vector<RecordPtr> Fetch(const DesiredWork& work) const;
  bool WantSlot(const AgentSession& session) { return slots_.Want(session.id()); }
  void ReleaseSlot(const AgentSession& session);
  // The session is over; `host` is empty when it never said hello.
  void Ended(const AgentSession& session, const std::string& host, const absl::Status& why);
  // Its stream is gone.
  void Gone(const AgentSession& session);
  void MakeReady(const std::vector<std::shared_ptr<AgentSession>>& sessions);
  void DepartureJudged(const std::string& host, int64_t departure, const absl::Status& status);

 private:
  struct Connected {
    std::shared_ptr<AgentSession> session;
    std::string agent_id;
  };

  // A host to be recorded as disconnected.
  struct Departure {
    int64_t number = 0;
    v1::ErrorReason reason = v1::ERROR_REASON_UNSPECIFIED;
    std::string message;
    bool submitted = false;
  };
  static constexpr int64_t kMaxDeparturesInFlight = 256;  // commands

  std::shared_ptr<AgentSession> SessionOf(const std::string& host) const;
  absl::Status CheckClaim(const v1::Hello& hello, const Connected* present) const ABSL_SHARED_LOCKS_REQUIRED(hosts_mu_);
  void Depart(const std::string& host, v1::ErrorReason reason, std::string message)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(hosts_mu_);
  void SubmitDepartures() ABSL_EXCLUSIVE_LOCKS_REQUIRED(hosts_mu_);
  void GiveUpOnAbsent();
  std::vector<std::shared_ptr<AgentSession>> AllSessions() const;
  bool WaitUntilGone(std::chrono::milliseconds timeout);
  void Run();

  CommitCore& core_;
  const Submit submit_;
  const Clock& clock_;
  const Options options_;
  const SessionCore::Limits limits_;
  const MonotonicTime started_;
  SyncSlots slots_;
  HelloMemory hello_memory_;
  std::atomic<int64_t> followed_;
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> grace_over_ = false;

  // Order of locks: hosts_mu_, then a session's own. Nothing of a session is called under the other mutexes.
  mutable SharedMutex hosts_mu_;
  absl::flat_hash_map<std::string, Connected> hosts_ ABSL_GUARDED_BY(hosts_mu_);
  absl::btree_map<std::string, Departure> departures_ ABSL_GUARDED_BY(hosts_mu_);
  int64_t last_departure_ ABSL_GUARDED_BY(hosts_mu_) = 0;
  int64_t departures_in_flight_ ABSL_GUARDED_BY(hosts_mu_) = 0;

  mutable Mutex sessions_mu_;
  CondVar gone_;
  absl::btree_map<int64_t, std::shared_ptr<AgentSession>> sessions_ ABSL_GUARDED_BY(sessions_mu_);  // by id
  int64_t last_id_ ABSL_GUARDED_BY(sessions_mu_) = 0;
  std::map<v1::ErrorReason, int64_t> ended_ ABSL_GUARDED_BY(sessions_mu_);

  Mutex ready_mu_;
  CondVar work_;
  std::vector<std::shared_ptr<AgentSession>> ready_ ABSL_GUARDED_BY(ready_mu_);
  bool stop_thread_ ABSL_GUARDED_BY(ready_mu_) = false;
  std::thread thread_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_SYNC_AGENT_SESSIONS_H_
