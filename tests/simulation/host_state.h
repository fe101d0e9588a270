// What there is of a simulated host, and what is known of it: shared by the agent's process, whoever lets something
// happen to the host, and the checks.

#ifndef VIOMMU_TESTS_SIMULATION_HOST_STATE_H_
#define VIOMMU_TESTS_SIMULATION_HOST_STATE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "server/fleet/view.h"
#include "tests/simulation/checker.h"
#include "tests/simulation/disk.h"
#include "tests/simulation/machine.h"
#include "tests/simulation/network.h"
#include "tests/simulation/scheduler.h"
#include "tests/simulation/server_process.h"
#include "viommu/v1/agent_service.pb.h"
#include "viommu/v1/errors.pb.h"

namespace viommu::simulation {

// Finds a server for a connection; nullptr when none can be reached.
using FindServer = std::function<ServerProcess*()>;

// On an agent's disk.
inline constexpr char kStateDirectory[] = "state";

// The rest of the world, as a host sees it. Everything must outlive the host.
struct Surroundings {
  Scheduler& scheduler;
  Checker& checker;
  const Weather& weather;
  const FindServer find_server;
};

// Whether agents are sent records of that kind.
bool IsForHosts(server::Kind kind);

struct HostState {
  // What of a store's history its agents have obeyed.
  struct Obeyed {
    int64_t timeline = 0;
    int64_t revision = 0;    // that it was told
    int64_t generation = 0;  // the newest that it holds
    int64_t released = 0;    // the newest release that it has taken on
    int64_t epoch = 0;
  };

  HostState(Scheduler& scheduler, std::string host_name, const Machine::Hardware& hardware)
      : name(std::move(host_name)),
        clock(scheduler),
        disk(scheduler),
        machine(std::make_unique<Machine>(hardware)),
        boot_id(scheduler.random.Uuid()) {}

  // Whether its agent may obey `timeline`: what its agents have obeyed is a part of that store's past.
  bool MayObey(const Checker& checker, const Timeline& timeline) const;

  const std::string name;  // "hosts/h1"
  SimulatedClock clock;
  AgentDisk disk;
  std::unique_ptr<Machine> machine;  // of this boot
  std::string boot_id;
  Obeyed obeyed;
  bool synced_this_boot = false;  // the server has told it everything
  std::set<std::string> lent;     // VMs whose memory devices may reach
  std::set<std::string> leaving;  // VMs whose memory nobody lends any more, while hardware queues lie in it
  // Why its last session was refused, until one begins: ERROR_REASON_UNSPECIFIED when it was not.
  v1::ErrorReason refused = v1::ERROR_REASON_UNSPECIFIED;
  bool outdated = false;         // its journal may have what another machine has released
  bool doubted = false;          // what is on it means nothing until everything has settled
  bool journal_damaged = false;  // it may differ from the record at the same generation
  bool foreign_ioas = false;     // one may have the id of the agent's, which was taken away
  // Called when its hello has arrived at the server: whether it is to be refused.
  std::function<bool(v1::Hello&)> on_hello;
  std::function<void()> on_welcome;
};

}  // namespace viommu::simulation

#endif  // VIOMMU_TESTS_SIMULATION_HOST_STATE_H_
