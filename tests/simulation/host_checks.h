// What must hold on a host at any time, after everything has settled, and when its agent has ended.
//
// Not thread-safe.

#ifndef VIOMMU_TESTS_SIMULATION_HOST_CHECKS_H_
#define VIOMMU_TESTS_SIMULATION_HOST_CHECKS_H_

#include <cstdint>
#include <string>
#include <tuple>

#include "tests/simulation/agent_process.h"
#include "tests/simulation/checker.h"
#include "tests/simulation/host_state.h"

namespace viommu::simulation {

class HostChecks {
 public:
  // Both must outlive it.
  HostChecks(Checker& checker, const HostState& host) : checker_(checker), host_(host) {}

  // Against `timeline`, the store that counts. `agent`: null while there is none.
  void Check(const Timeline& timeline, const AgentProcess* agent);
  // What is on the host must be exactly what is recorded.
  void CheckSettled(const Timeline& timeline);
  // No agent runs: nothing of its work may be left.
  void CheckLeftovers();

 private:
  // What Check last looked at: nothing new, nothing to check.
  using Looked = std::tuple<uint64_t, int64_t, int64_t, uint64_t, uint64_t, bool>;
  Looked Look(const Timeline& timeline, const AgentProcess* agent) const;
  // Whatever the record says: devices reach the memory of whom they are bound for, while he lets them.
  void CheckReached();
  // Whether a VM's context, one of whose devices reaches the VM's memory, has a hardware queue.
  bool QueueLiesIn(const std::string& vm) const;

  Checker& checker_;
  const HostState& host_;
  Looked looked_;
};

}  // namespace viommu::simulation

#endif  // VIOMMU_TESTS_SIMULATION_HOST_CHECKS_H_
