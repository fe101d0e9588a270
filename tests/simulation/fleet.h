// What there is in a run: a server and its disk, perhaps a second one, hosts, clients, a watch, and the network between
// them. Whoever lets something happen to them works on this.
//
// Not thread-safe.

#ifndef VIOMMU_TESTS_SIMULATION_FLEET_H_
#define VIOMMU_TESTS_SIMULATION_FLEET_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/simulation/checker.h"
#include "tests/simulation/client.h"
#include "tests/simulation/disk.h"
#include "tests/simulation/host.h"
#include "tests/simulation/network.h"
#include "tests/simulation/scheduler.h"
#include "tests/simulation/server_process.h"

namespace viommu::simulation {

struct Fleet {
  explicit Fleet(uint64_t seed) : scheduler(seed), checker(scheduler), server_clock(scheduler) {}

  // Makes everything and starts it; with `faults`, some devices may never work.
  void Build(bool faults);

  Random& random() { return scheduler.random; }
  bool Often(uint64_t n) { return scheduler.random.OneIn(n); }
  Host& SomeHost() { return *hosts[scheduler.random.Below(hosts.size())]; }

  void StartServer();
  void EndServer();
  // Who answers, where a server that was left for dead still does.
  ServerProcess* SomeServer();
  void RestartServerSoon();
  void RestartAgentSoon(Host& host);
  // `fault` is done again and again, `mean` apart, until the storm is over.
  void Every(nanoseconds mean, std::function<void()> fault);

  Scheduler scheduler;
  Checker checker;
  Weather weather;
  double lost_calls = 0;  // the share of calls, and of answers, that never arrive
  bool storm = false;     // things go wrong

  SimulatedClock server_clock;
  std::string server_boot;
  std::unique_ptr<ServerDisk> disk;
  std::shared_ptr<Timeline> timeline;  // of the store that counts
  std::unique_ptr<ServerProcess> server;

  // A server that was left for dead and runs on a copy of the store.
  std::unique_ptr<ServerDisk> zombie_disk;
  std::unique_ptr<ServerProcess> zombie;

  std::vector<std::unique_ptr<Host>> hosts;
  std::vector<std::unique_ptr<Client>> clients;
  std::optional<Watcher> watcher;
};

}  // namespace viommu::simulation

#endif  // VIOMMU_TESTS_SIMULATION_FLEET_H_
