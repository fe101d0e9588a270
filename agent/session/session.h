// The agent's end of one connection to the server: what to say, and when to give up. Pure: no threads, gRPC or clock.
//
//   hello → welcome → (desired → results …, heartbeats, invalidations and inspections both ways) → end
//
// Not thread-safe. session/client.h gives it a stream and a thread.

#ifndef VIOMMU_AGENT_SESSION_SESSION_H_
#define VIOMMU_AGENT_SESSION_SESSION_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "agent/reconcile/backoff.h"
#include "agent/session/host_work.h"
#include "common/clock.h"
#include "viommu/v1/agent_service.pb.h"
#include "viommu/v1/local_service.pb.h"

namespace viommu::agent {

class Session {
 public:
  static constexpr uint32_t kProtocolVersion = 1;
  static constexpr int kMaxResultsPerMessage = 1000;
  static constexpr std::chrono::seconds kWelcomeTimeout{10};
  static constexpr std::chrono::milliseconds kMinLease{100};

  // Both must outlive it. `hello`: the host and its devices; the rest is filled in. `number` tells this session's
  // invalidations from those of earlier ones. `random` spreads the signs of life; `fill_heartbeat`, if any, adds what
  // is in use to each of them.
  Session(int64_t number, v1::Hello hello, HostWork& work, InvalidateCalls& calls, MonotonicTime now,
          RandomSource random, std::function<void(v1::Heartbeat&)> fill_heartbeat = nullptr);
  // Ends the session at the work, too.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // A message came. An error ends the connection:
  //   FAILED_PRECONDITION with CLUSTER_MISMATCH, STORE_INCARNATION_MISMATCH or STALE_EPOCH: not a server to obey
  //   INVALID_ARGUMENT with PROTOCOL_VIOLATION
  //   anything else: commands could not be taken; the server sends them again in the next session
  absl::Status Receive(const v1::ConnectResponse& message, MonotonicTime now);

  // An invalidation of this session was carried out.
  void AddReply(v1::InvalidateReply reply) { *replies_.emplace_back().mutable_invalidate_reply() = std::move(reply); }

  // What to write next, if anything. To be asked whenever the stream is free and something happened: a message was
  // received, results are there, Deadline() was reached.
  std::optional<v1::ConnectRequest> Next(MonotonicTime now);

  // When Next() or Check() should be asked again at the latest.
  MonotonicTime Deadline() const;
  // When Check() will fail if nothing is heard until then.
  MonotonicTime SilenceDeadline() const { return heard_ + lease_; }

  // DEADLINE_EXCEEDED (LEASE_EXPIRED) when the server has been silent for too long.
  absl::Status Check(MonotonicTime now) const;

  // Whether the session was in sync and has lasted for a lease: then server and agent get along.
  bool HasLasted(MonotonicTime now) const { return state_ == v1::SESSION_STATE_SYNCED && now - welcomed_at_ >= lease_; }

  v1::SessionState state() const { return state_; }
  int64_t number() const { return number_; }

 private:
  absl::Status Welcomed(const v1::Welcome& welcome);
  // At most a third of the lease, and up to a quarter of that less: agents that were welcomed together drift apart.
  std::chrono::nanoseconds HeartbeatInterval() const;

  const int64_t number_;
  HostWork& work_;
  InvalidateCalls& calls_;
  const RandomSource random_;
  const std::function<void(v1::Heartbeat&)> fill_heartbeat_;
  std::optional<v1::ConnectRequest> hello_;  // until it was written
  std::deque<v1::ConnectRequest> replies_;   // to invalidate and inspect calls; kMaxReplies, and calls under way
  int inspections_ = 0;                      // answers to inspect calls among them
  bool welcomed_ = false;
  v1::SessionState state_ = v1::SESSION_STATE_CONNECTING;
  int64_t epoch_ = 0;
  std::chrono::nanoseconds lease_ = kWelcomeTimeout;
  MonotonicTime welcomed_at_{};
  MonotonicTime heard_;      // last
  MonotonicTime heartbeat_;  // due
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SESSION_SESSION_H_
