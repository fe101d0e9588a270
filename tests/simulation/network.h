// The streams between agents and servers, as gRPC would carry them.
//
// Within one stream messages keep their order and none is repeated: TCP and HTTP/2 promise that, and so does this. What
// the network may do is delay them, lose everything from some moment on (a cut, which each end notices in its own
// time), or lose it without either end noticing (half open, until a lease runs out). Streams know nothing of each
// other: what an agent's earlier stream still carries may arrive after a later stream has begun. That is where
// reordering and repetition come from, besides calls that clients send again (client.h).
//
// Not thread-safe.

#ifndef VIOMMU_TESTS_SIMULATION_NETWORK_H_
#define VIOMMU_TESTS_SIMULATION_NETWORK_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "server/sync/agent_session.h"
#include "server/sync/agent_sessions.h"
#include "tests/simulation/scheduler.h"

namespace viommu::simulation {

// How the network is at the moment; the world changes it.
struct Weather {
  nanoseconds least_delay = std::chrono::microseconds(100);
  nanoseconds most_delay = milliseconds(2);
};

// One stream. Kept alive by both ends and by what is under way.
class Link final : public server::AgentStream, public std::enable_shared_from_this<Link> {
 public:
  // What the agent's end hears. Not called after AgentLeaves.
  struct AgentEnd {
    std::function<void(const v1::ConnectResponse&)> message;
    std::function<void()> can_write;
    std::function<void(const absl::Status&)> ended;
    std::function<void(v1::Hello&)> hello_arrives;  // at the server, which has not judged it yet
  };

  Link(Scheduler& scheduler, const Weather& weather, AgentEnd agent)
      : scheduler_(scheduler),
        weather_(weather),
        agent_(std::move(agent)),
        window_(1 + static_cast<size_t>(scheduler.random.Below(4))) {}

  // --- The agent's end.

  bool agent_can_write() const { return !agent_writing_ && !agent_gone_; }
  void AgentWrites(v1::ConnectRequest message);
  // The agent ends the stream or its process ends: what it wrote before still arrives.
  void AgentLeaves();

  // --- The server's end.

  // The call has arrived at a server.
  void Accept(server::AgentSessions& sessions);
  // The server's process ends. From now on its calls are over at once; with `tells`, the agent hears how the session
  // ended, else that the connection broke.
  void ServerEnds(bool tells);
  bool open_at_server() const { return session_ != nullptr; }

  void Read() override;
  void Write(std::unique_ptr<v1::ConnectResponse> message) override;
  void Cancel() override;
  void Finish(const absl::Status& status) override;

  // --- The network's.

  // Nothing passes any more; each end notices after a delay of its own.
  void Cut();
  // Nothing passes any more, in one direction or both, and nobody notices.
  void GoHalfOpen(bool to_server, bool to_agent);
  // When the server was last handed a message.
  MonotonicTime last_handed() const { return last_handed_; }
  bool over() const { return agent_gone_ && session_ == nullptr; }

 private:
  MonotonicTime Arrival(MonotonicTime& last);
  void ArriveAtServer(std::unique_ptr<v1::ConnectRequest> message);
  void HandToServer();
  void EndForServer();
  void EndForAgent(const absl::Status& status);
  void EndServerWrite(bool ok);
  void LeaveSession();
  void CompleteAgentWrite();

  Scheduler& scheduler_;
  const Weather& weather_;
  AgentEnd agent_;
  const size_t window_;  // messages under way before a write has to wait; with 1, until it has arrived
  std::shared_ptr<server::AgentSession> session_;

  size_t under_way_to_server_ = 0;
  MonotonicTime last_to_server_{};
  bool lost_to_server_ = false;
  std::deque<std::unique_ptr<v1::ConnectRequest>> at_server_;  // arrived, not read
  MonotonicTime last_handed_{};
  bool server_reads_ = false;
  bool end_at_server_ = false;  // the agent's end, or the cut, has arrived
  bool server_ending_ = false;
  bool finished_ = false;
  bool agent_writing_ = false;
  bool agent_gone_ = false;

  size_t under_way_to_agent_ = 0;
  MonotonicTime last_to_agent_{};
  bool lost_to_agent_ = false;
  bool server_writing_ = false;
};

}  // namespace viommu::simulation

#endif  // VIOMMU_TESTS_SIMULATION_NETWORK_H_
