// One run of viommu-server: the real committer's core, rules, sessions, waiters and watches, with an event queue in the
// place of its threads. What main.cc and gRPC do is done here; everything else is the program's own.
//
// Its writer takes what waits when the disk is free, as the real one: callers share a sync.

#ifndef VIOMMU_TESTS_SIMULATION_SERVER_PROCESS_H_
#define VIOMMU_TESTS_SIMULATION_SERVER_PROCESS_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "server/api/drain_keeper.h"
#include "server/commit/command.h"
#include "server/commit/core.h"
#include "server/commit/waiters.h"
#include "server/sync/agent_sessions.h"
#include "tests/simulation/checker.h"
#include "tests/simulation/disk.h"
#include "tests/simulation/network.h"
#include "tests/simulation/scheduler.h"
#include "viommu/v1/operations_service.pb.h"

namespace viommu::simulation {

// What a caller asks for, whatever the method.
struct Request {
  std::string method;
  std::string id;
  std::string fingerprint;
  bool wait = false;  // until the host has answered
  std::function<absl::StatusOr<Answer>(const server::Context&, server::Draft&)> judge;
  std::function<std::optional<Answer>(std::string_view bytes)> parse;
};

class ServerProcess final : public server::Listener {
 public:
  using Reply = std::function<void(const absl::Status& status, int64_t revision)>;

  struct Options {
    std::string boot_id;
    nanoseconds least_sync = std::chrono::microseconds(100);
    nanoseconds most_sync = milliseconds(1);
  };

  // nullptr: the store could not be opened now (its disk has crashed or is full). A store that is refused for any other
  // reason is a failure. Everything must outlive the process.
  static std::unique_ptr<ServerProcess> Start(Scheduler& scheduler, const Clock& clock, Checker& checker,
                                              ServerDisk& disk, std::shared_ptr<Timeline> timeline,
                                              const Options& options);
  // As by kill -9.
  ~ServerProcess() override;

  // Ends in good order. Nothing but the destructor may follow.
  void Stop();

  // Whether its disk has crashed under it: it has to be destroyed.
  bool crashed() const { return disk_.crashed(); }

  // An agent's stream arrives.
  void Connect(const std::shared_ptr<Link>& link);
  // A change arrives. `reply` is called once, or never.
  void Call(std::shared_ptr<const Request> request, Reply reply);

  // Asks the host's agent for the report of drift, page by page, has it mended (viommuctl drift --repair), and tells
  // how many drifts it shows that are not to be expected. `done` is called once, or never.
  using DriftReply = std::function<void(const absl::StatusOr<int64_t>& drifts)>;
  void RepairDrift(const std::string& host, DriftReply done);

  // The sessions' thread: to be called after anything that the server did.
  void Drive();

  // Runs unless the process has ended before.
  void After(nanoseconds delay, std::function<void()> event) { life_.After(delay, std::move(event)); }

  void set_sync_time(nanoseconds least, nanoseconds most) {
    options_.least_sync = least;
    options_.most_sync = most;
  }
  const server::CommitCore& core() const { return *core_; }
  const Clock& clock() const { return clock_; }
  Timeline& timeline() { return *timeline_; }
  const Timeline& timeline() const { return *timeline_; }
  const std::shared_ptr<Timeline>& timeline_ptr() const { return timeline_; }
  const std::vector<std::shared_ptr<Link>>& links() const { return links_; }
  int64_t waiting() const { return waiters_->count(); }
  server::Sessions::Stats stats() const { return sessions_->stats(); }
  // The agent that is connected for that host; empty: none.
  std::string ConnectedAgent(const std::string& host) const;

  void OnCommit(const std::vector<server::ChangeSetPtr>& sets) override;

 private:
  class Change;
  class DriftRepair;

  ServerProcess(Scheduler& scheduler, const Clock& clock, Checker& checker, ServerDisk& disk,
                std::shared_ptr<Timeline> timeline, Options options);

  absl::Status Open();
  absl::Status Submit(server::Command* command);
  void RepairDriftFrom(const v1::GetDriftRequest& request, int64_t found, const DriftReply& done);
  void Write();
  void Await(std::shared_ptr<const Request> request, Answer answer, size_t next, int64_t revision, Reply reply);
  void TickSessions();
  void TickCore();
  void TickDrains();

  static constexpr size_t kMaxQueue = 64;  // small, so that it is full now and then

  Scheduler& scheduler_;
  const Clock& clock_;
  Checker& checker_;
  ServerDisk& disk_;
  const std::shared_ptr<Timeline> timeline_;
  Options options_;
  Lifetime life_;
  std::unique_ptr<server::CommitCore> core_;
  std::optional<server::Waiters> waiters_;
  std::optional<server::DrainKeeper> drains_;
  std::unique_ptr<server::AgentSessions> sessions_;
  std::vector<std::shared_ptr<Link>> links_;
  std::deque<server::Command*> queue_;
  std::deque<std::pair<server::Command*, server::CommitCore::Outcome>> answers_;
  bool writing_ = false;
};

}  // namespace viommu::simulation

#endif  // VIOMMU_TESTS_SIMULATION_SERVER_PROCESS_H_
