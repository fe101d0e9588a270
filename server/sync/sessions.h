// The sessions of the connected agents: one per host.
//
// A session learns from the writer which resources of its host changed, remembers only their names (so however fast
// they change, each is sent once, in its latest state), and sends when its stream has room. What the agent answers
// becomes commands to the writer. docs/protocol.md tells what goes over the stream.
//
// Thread-safe.

#ifndef VIOMMU_SERVER_SYNC_SESSIONS_H_
#define VIOMMU_SERVER_SYNC_SESSIONS_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/commit/core.h"
#include "viommu/v1/agent_service.pb.h"
#include "viommu/v1/errors.pb.h"
#include "viommu/v1/invalidation.pb.h"

namespace viommu::server {

// When an agent whose session ended is likely to be back: what callers who need one are told, and an agent that is sent
// away.
inline constexpr std::chrono::milliseconds kReconnectDelay{1'000};

class Sessions : public Listener {
 public:
  struct Options {
    std::chrono::milliseconds min_lease{10'000};  // lease = max(min_lease, hosts / max_heartbeats_per_s * 3)
    int64_t max_heartbeats_per_s = 1000;          // over all agents
    std::chrono::milliseconds start_grace{
        60'000};  // after a start: hosts that were connected have so long to come back
    size_t max_sessions = 20'000;
    size_t max_concurrent_syncs = 64;               // agents that are being sent what they lack after their hello
    size_t max_hello_bytes = size_t{512} << 20;     // held by hellos that are being worked off, of all agents
    size_t max_message_bytes = size_t{1} << 20;     // of one Desired message
    size_t max_results_in_flight = 4;               // messages with results not yet judged, per session
    size_t max_invalidate_calls = 256;              // in flight, per session, with inspect calls
    size_t max_invalidate_bytes = size_t{8} << 20;  // of the calls in flight, per session
    std::chrono::milliseconds tick_interval{100};   // how exact leases, heartbeats and deadlines are
    std::chrono::milliseconds close_grace{5'000};   // for a message being written when its session ends
  };

  struct Stats {
    int64_t connected = 0;
    int64_t synced = 0;             // whose agent has everything recorded
    int64_t pending_resources = 0;  // to be sent, over all sessions
    int64_t max_lag_revisions = 0;  // of the agent furthest behind
    int64_t streams = 0;            // open ones, with those before their hello and those that are ending
    int64_t syncs_active = 0;       // agents that are being sent what they lack
    int64_t syncs_waiting = 0;      // agents that wait for their turn
    int64_t hello_bytes = 0;        // held by hellos that are being worked off
    // Sessions and streams that ended, since the start, by reason; UNSPECIFIED: the agent ended it.
    std::map<v1::ErrorReason, int64_t> ended;
  };

  using InvalidateCallback = std::function<void(absl::StatusOr<v1::InvalidationResult>)>;
  using InspectCallback = std::function<void(absl::StatusOr<v1::InspectReply>)>;

  virtual ~Sessions() = default;

  // One host's session.
  struct Info {
    std::string agent_id;
    std::string peer;  // as the transport names it
    std::chrono::system_clock::time_point since;
    bool synced = false;        // has everything recorded
    int64_t pending = 0;        // resources to be sent
    int64_t lag_revisions = 0;  // how far behind the agent is with what concerns it; 0: it has answered everything
  };

  // Sends invalidations to the agent of `host` and calls `done` once, on any thread: with what the agent answered, or
  //   UNAVAILABLE, HOST_DISCONNECTED: there is no session, or it ended; some may have been carried out.
  //   RESOURCE_EXHAUSTED, OVERLOADED: too many calls in flight for this host.
  //   DEADLINE_EXCEEDED, HOST_TIMEOUT: no answer before `deadline`; they may have been carried out.
  virtual void Invalidate(const std::string& host, const std::string& target_uid,
                          const std::vector<v1::Command>& commands, std::chrono::system_clock::time_point deadline,
                          InvalidateCallback done) = 0;

  // Asks the agent of `host` what it holds, in `call` but for its id; calls `done` as Invalidate does, and with
  //   UNIMPLEMENTED, NOT_OFFERED: the agent does not answer such calls.
  virtual void Inspect(const std::string& host, const v1::InspectCall& call,
                       std::chrono::system_clock::time_point deadline, InspectCallback done) = 0;

  // Tells the agent of `host` that these uids are no record's, as the difference after a hello does. Nothing while
  // there is no session: the next hello brings it up.
  virtual void TearDown(const std::string& host, const std::vector<std::string>& uids) = 0;

  virtual Stats stats() const = 0;

  // The session of hosts/{host}; nullopt while there is none.
  virtual std::optional<Info> Find(const std::string& host) const = 0;

  // What the agent of hosts/{host} last said is in use there; empty while there is none.
  virtual std::vector<v1::SmmuUsage> UsageOf(const std::string& host) const = 0;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_SYNC_SESSIONS_H_
