// Callers of the fleet service: one that changes things and tries again until it has an answer, and one that watches.
//
// The network loses, delays and repeats their calls: each try travels alone, so an earlier one may arrive after a later
// one, or after its answer was given.

#ifndef VIOMMU_TESTS_SIMULATION_CLIENT_H_
#define VIOMMU_TESTS_SIMULATION_CLIENT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/fleet/view.h"
#include "tests/simulation/checker.h"
#include "tests/simulation/network.h"
#include "tests/simulation/scheduler.h"
#include "tests/simulation/server_process.h"

namespace viommu::simulation {

class Client {
 public:
  using FindServer = std::function<ServerProcess*()>;

  // `lost`: the share of calls, and of answers, that never arrive; may change. `operations`: the share of an operator's
  // calls among those that it makes up: drains, lost hosts, quotas.
  Client(Scheduler& scheduler, const Weather& weather, const double& lost, double operations, FindServer find_server,
         std::string name)
      : scheduler_(scheduler),
        weather_(weather),
        lost_(lost),
        operations_(operations),
        find_server_(std::move(find_server)),
        name_(std::move(name)) {}

  void Start() { Think(); }
  // No new changes; what was asked for is still tried again.
  void Quiesce() { quiet_ = true; }
  bool idle() const { return quiet_ && request_ == nullptr; }
  // A request of an operator's; of one that is idle.
  void Detach(const std::string& vdevice);
  void Unset(const std::string& vdevice);
  // What it waits for, for people.
  std::string Pending() const { return request_ == nullptr ? "" : request_->method + " " + request_->id; }
  uint64_t answered() const { return answered_; }

 private:
  void Think();
  std::shared_ptr<const Request> Choose(const Timeline& timeline);
  // Of the stage 2s, one is there.
  std::shared_ptr<const Request> CreateViommu(const Timeline& timeline, const std::string& id, bool wait);
  std::shared_ptr<const Request> ChooseHwQueue(const Timeline& timeline, const std::string& id, bool wait);
  std::shared_ptr<const Request> ChooseOperation(const Timeline& timeline, const std::string& id);
  // Of one that is idle.
  void Ask(std::shared_ptr<const Request> request);
  void Try();
  void Send(const std::shared_ptr<const Request>& request);
  void Hear(const std::shared_ptr<const Request>& request, const absl::Status& status);

  Scheduler& scheduler_;
  const Weather& weather_;
  const double& lost_;
  const double operations_;
  const FindServer find_server_;
  const std::string name_;
  bool quiet_ = false;
  std::shared_ptr<const Request> request_;               // under way
  std::vector<std::shared_ptr<const Request>> history_;  // some that were answered with OK
  uint64_t tries_ = 0;
  uint64_t answered_ = 0;
  int next_id_ = 0;
};

// Follows the whole record through watches that break, and compares what it sees with what was published.
class Watcher {
 public:
  Watcher(Scheduler& scheduler, Checker& checker, const Weather& weather, Client::FindServer find_server)
      : scheduler_(scheduler), checker_(checker), weather_(weather), find_server_(std::move(find_server)) {}

  void Start() { Open(); }
  int64_t revision() const { return revision_; }
  uint64_t changes() const { return changes_; }

 private:
  struct Watch;

  void Open();
  void Serve(ServerProcess* server, const std::shared_ptr<Watch>& watch);
  void Send(const std::shared_ptr<Watch>& watch, const v1::WatchResponse& message);
  void Hear(const Watch& watch, const v1::WatchResponse& message);
  void Compare(const Watch& watch, int64_t revision);
  void Refused(const absl::Status& status);

  Scheduler& scheduler_;
  Checker& checker_;
  const Weather& weather_;
  const Client::FindServer find_server_;
  int64_t watches_ = 0;
  // What it knows: up to which revision, where that came from, and the record's hash with all that went into it.
  int64_t revision_ = 0;
  std::string origin_;
  bool complete_ = false;  // the sync mark was there
  uint64_t hash_ = 0;
  std::map<std::pair<server::Kind, std::string>, uint64_t> resources_;
  uint64_t changes_ = 0;
};

}  // namespace viommu::simulation

#endif  // VIOMMU_TESTS_SIMULATION_CLIENT_H_
