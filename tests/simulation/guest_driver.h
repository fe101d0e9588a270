// A guest's driver at work on a host: what it does must reach all of its own and nobody else's.
//
// Not thread-safe.

#ifndef VIOMMU_TESTS_SIMULATION_GUEST_DRIVER_H_
#define VIOMMU_TESTS_SIMULATION_GUEST_DRIVER_H_

#include <map>
#include <string>

#include "agent/backend.h"
#include "agent/reconcile/held_state.h"
#include "tests/simulation/agent_process.h"
#include "tests/simulation/checker.h"
#include "tests/simulation/host_state.h"
#include "tests/simulation/scheduler.h"

namespace viommu::simulation {

class GuestDriver {
 public:
  // Everything must outlive it.
  GuestDriver(Scheduler& scheduler, Checker& checker, HostState& host, AgentProcess& agent)
      : scheduler_(scheduler), checker_(checker), host_(host), agent_(agent) {}

  // Through the agent invalidates everything, and offers commands for all StreamIDs.
  void Invalidate(const agent::HeldItem& viommu);
  // Through a command queue of its own, if that is made, invalidates what has its ASID.
  void UseQueue(const agent::HeldItem& queue);

 private:
  // Whose memory each device reaches, by translations that are cached from now on; by PCI address.
  std::map<std::string, std::string> FillCaches();
  // After an invalidation of all that the guest of `viommu` has: it has reached that, where the guest's own tables
  // translate, and nothing of other VMs.
  void CheckInvalidated(const v1::Viommu& viommu, const agent::Context& context, agent::ObjectId id,
                        const std::map<std::string, std::string>& before);

  Scheduler& scheduler_;
  Checker& checker_;
  HostState& host_;
  AgentProcess& agent_;
};

}  // namespace viommu::simulation

#endif  // VIOMMU_TESTS_SIMULATION_GUEST_DRIVER_H_
