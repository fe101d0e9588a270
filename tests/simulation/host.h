// A host of the simulated fleet: the machine (SMMUs, disk, boot id), which outlives its agent, the agent's process
// (agent_process.h), what may happen to both, and what must hold on it (host_checks.h).
//
// Not thread-safe.

#ifndef VIOMMU_TESTS_SIMULATION_HOST_H_
#define VIOMMU_TESTS_SIMULATION_HOST_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "agent/reconcile/held_state.h"
#include "agent/reconcile/resource.h"
#include "tests/simulation/agent_process.h"
#include "tests/simulation/checker.h"
#include "tests/simulation/disk.h"
#include "tests/simulation/host_checks.h"
#include "tests/simulation/host_state.h"
#include "tests/simulation/machine.h"
#include "tests/simulation/scheduler.h"
#include "tests/simulation/server_process.h"

namespace viommu::simulation {

class Host {
 public:
  Host(const Surroundings& surroundings, std::string name, const Machine::Hardware& hardware);

  // --- What may happen to it.

  void StartAgent();
  // kill -9.
  void KillAgent();
  // Power: the agent and everything that was not synced are gone, the SMMUs are as new, and the boot id is another one.
  void Reboot();
  // The process stands still (a stopped or starved machine) and goes on later with whatever it was doing.
  void PauseAgent(nanoseconds how_long);
  // The operator ends the agent, moves its state directory away and starts it again (docs/store-format.md).
  void StartOver();
  // Somebody works on the agent's objects behind its back: takes some away, detaches devices, leaves others there.
  void TamperWithObjects();
  // The agent ends, and its journal loses a bit: something that it holds says something else at the same generation.
  void DamageJournal();
  // The report of drift shows nothing any more.
  void JournalIsMended() { host_.journal_damaged = false; }
  bool journal_damaged() const { return host_.journal_damaged; }
  // The operator has the agent mend what differs (viommuctl drift --repair), in pages of a few.
  void MendDrift();
  // Objects that are not as the agent believes, of one that runs.
  uint64_t drift() const;
  // A VMM gives its VM up and is started again: devices lose the guest's memory, and get it back.
  void RestartVmm();
  // A guest's driver invalidates: what of it reaches the SMMU must be all of its own and nobody else's.
  void InvalidateForGuest();
  // The same through a command queue of its own.
  void UseHwQueue();
  void BreakLink();
  void HalfOpenLink(bool to_server, bool to_agent);
  // Another machine has answered for its name: this one is switched off at once, and what its journal says may be old.
  void Fence();
  // So, and nobody switched it off: what is on it means nothing until everything has settled.
  void Doubt() { host_.doubted = true; }

  // --- How it is.

  const std::string& name() const { return host_.name; }  // "hosts/h1"
  AgentDisk& disk() { return host_.disk; }
  SimulatedClock& clock() { return host_.clock; }
  Machine& machine() { return *host_.machine; }
  bool running() const { return process_ != nullptr; }
  // Whether every VMM has handed its guest's memory over.
  bool has_all_memory() const;
  // The id of its agent; empty while it does not run.
  std::string agent_id() const;
  // Whether `server` has it connected, and has heard of it within the last `within`.
  bool ConnectedTo(const ServerProcess& server, nanoseconds within) const;
  // Called when its hello has arrived at the server: whether it is to be refused.
  void set_on_hello(std::function<bool(v1::Hello&)> on_hello) { host_.on_hello = std::move(on_hello); }
  void set_on_welcome(std::function<void()> on_welcome) { host_.on_welcome = std::move(on_welcome); }
  // Why its last session was refused, until one begins: ERROR_REASON_UNSPECIFIED when it was not.
  v1::ErrorReason refused() const { return host_.refused; }
  // Whether all that it knows of what came after `revision` of `timeline` is that something was released.
  bool OnlyAReleaseTells(int64_t timeline, int64_t revision) const;

  // Checks what must hold on the host against `timeline`, the store that counts.
  void Check(const Timeline& timeline);
  // After everything has settled: what is on the host must be exactly what is recorded.
  void CheckSettled(const Timeline& timeline);
  // Ends the agent for good: nothing of its work may be left.
  void CheckEnd();

 private:
  void Forget();
  // What the agent holds of that kind, and has made.
  std::vector<const agent::HeldItem*> Made(agent::ItemKind kind) const;

  const Surroundings around_;
  Scheduler& scheduler_;
  HostState host_;
  HostChecks checks_;
  std::unique_ptr<AgentProcess> process_;
};

}  // namespace viommu::simulation

#endif  // VIOMMU_TESTS_SIMULATION_HOST_H_
