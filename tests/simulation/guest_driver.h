// A guest's driver at work on a host: what it does must reach all of its own and nobody else's.
//
// Not thread-safe.

#ifndef VIOMMU_TESTS_SIMULATION_GUEST_DRIVER_H_
#define VIOMMU_TESTS_SIMULATION_GUEST_DRIVER_H_

#include "agent/reconcile/held_state.h"
#include "tests/simulation/agent_process.h"
#include "tests/simulation/checker.h"
#include "tests/simulation/host_state.h"
#include "tests/simulation/scheduler.h"

namespace viommu::simulation {

class GuestDriver {
 public:
  // Everything must outlive it.
  GuestDriver(Scheduler& scheduler, Checker& checker, const HostState& host, AgentProcess& agent)
      : scheduler_(scheduler), checker_(checker), host_(host), agent_(agent) {}

  // Invalidates everything, and offers commands for all StreamIDs.
  void Invalidate(const agent::HeldItem& viommu);

 private:
  Scheduler& scheduler_;
  Checker& checker_;
  const HostState& host_;
  AgentProcess& agent_;
};

}  // namespace viommu::simulation

#endif  // VIOMMU_TESTS_SIMULATION_GUEST_DRIVER_H_
