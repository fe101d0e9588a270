// A host of the simulated fleet: the machine (SMMUs, disk, boot id), which outlives its agent, and the agent's process.
//
// The agent's session, reconciler and journal are the program's own, and the SMMUs are the emulated backend's
// (machine.h). What agent.cc, client.cc and driver.cc do around them with threads and gRPC is done here with events;
// the waits between connections are shorter than the program's.

#ifndef VIOMMU_TESTS_SIMULATION_HOST_H_
#define VIOMMU_TESTS_SIMULATION_HOST_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>

#include "absl/status/status.h"
#include "agent/reconcile/journal.h"
#include "agent/reconcile/reconciler.h"
#include "agent/reconcile/targets.h"
#include "agent/session/host_work.h"
#include "agent/session/session.h"
#include "tests/simulation/checker.h"
#include "tests/simulation/disk.h"
#include "tests/simulation/machine.h"
#include "tests/simulation/network.h"
#include "tests/simulation/scheduler.h"
#include "tests/simulation/server_process.h"

namespace viommu::simulation {

class Host {
 public:
  // Finds a server for a connection; nullptr when none can be reached.
  using FindServer = std::function<ServerProcess*()>;

  // Everything must outlive the host.
  Host(Scheduler& scheduler, Checker& checker, const Weather& weather, FindServer find_server, std::string name,
       const Machine::Hardware& hardware);
  ~Host();

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
  // The operator has the agent mend what differs (viommuctl drift --repair), in pages of a few.
  void MendDrift();
  // Objects that are not as the agent believes, of one that runs.
  uint64_t drift() const;
  // A VMM gives its VM up and is started again: devices lose the guest's memory, and get it back.
  void RestartVmm();
  // A guest's driver invalidates: what of it reaches the SMMU must be all of its own and nobody else's.
  void InvalidateForGuest();
  void BreakLink();
  void HalfOpenLink(bool to_server, bool to_agent);
  // Another machine has answered for its name: this one is switched off at once, and what its journal says may be old.
  void Fence();
  // So, and nobody switched it off: what is on it means nothing until everything has settled.
  void Doubt() { doubted_ = true; }

  // --- How it is.

  const std::string& name() const { return name_; }  // "hosts/h1"
  AgentDisk& disk() { return disk_; }
  SimulatedClock& clock() { return clock_; }
  Machine& machine() { return *machine_; }
  bool running() const { return process_ != nullptr; }
  // Whether every VMM has handed its guest's memory over.
  bool has_all_memory() const;
  // The id of its agent; empty while it does not run.
  std::string agent_id() const;
  // Whether `server` has it connected, and has heard of it within the last `within`.
  bool ConnectedTo(const ServerProcess& server, nanoseconds within) const;
  // Called when its hello has arrived at the server: whether it is to be refused.
  void set_on_hello(std::function<bool(v1::Hello&)> on_hello) { on_hello_ = std::move(on_hello); }
  void set_on_welcome(std::function<void()> on_welcome) { on_welcome_ = std::move(on_welcome); }
  // Why its last session was refused, until one begins: ERROR_REASON_UNSPECIFIED when it was not.
  v1::ErrorReason refused() const { return refused_; }
  // Whether all that it knows of what came after `revision` of `timeline` is that something was released.
  bool OnlyAReleaseTells(int64_t timeline, int64_t revision) const;

  // Checks what must hold on the host against `timeline`, the store that counts.
  void Check(const Timeline& timeline);
  // After everything has settled: what is on the host must be exactly what is recorded.
  void CheckSettled(const Timeline& timeline);
  // Ends the agent for good: nothing of its work may be left.
  void CheckEnd();

 private:
  struct Process;

  // What of a store's history the agent has obeyed.
  struct Memory {
    int64_t timeline = 0;
    int64_t revision = 0;    // that it was told
    int64_t generation = 0;  // the newest that it holds
    int64_t released = 0;    // the newest release that it has taken on
    int64_t epoch = 0;
  };

  absl::Status Open();
  void After(nanoseconds delay, std::function<void()> event);
  void Connect();
  void Hear(const v1::ConnectResponse& message);
  void Pump();
  void Work();
  // VMMs hand over their guests' memory, where they have not yet.
  void HandMemoryOver();
  void EndSession(const absl::Status& why);
  bool EndIfCrashed();
  void Forget();
  bool Obeys(const Timeline& timeline) const;
  // What Check last looked at: nothing new, nothing to check.
  using Looked = std::tuple<uint64_t, int64_t, int64_t, uint64_t, uint64_t, bool>;
  Looked Look(const Timeline& timeline) const;
  // The vdevice of a forgotten host that still has the device, here; nullptr: none.
  const agent::HeldItem* ForgottenHolder(const Timeline& timeline, const std::string& device) const;
  // Whatever the record says: devices reach the memory of whom they are bound for, while he lets them.
  void CheckReached();
  void CheckLeftovers();
  void CheckInvalidations(const agent::HeldItem& viommu);
  // The server has promised that everything up to `revision` was sent.
  void CheckTold(int64_t revision);
  void CheckRefusal(v1::ErrorReason reason);
  // Takes note of what the journal has kept.
  void Remember();
  void RememberReleases(const v1::Desired& desired);

  Scheduler& scheduler_;
  Checker& checker_;
  const Weather& weather_;
  const FindServer find_server_;
  const std::string name_;
  SimulatedClock clock_;
  AgentDisk disk_;
  std::unique_ptr<Machine> machine_;
  std::string boot_id_;
  bool synced_this_boot_ = false;
  std::set<std::string> lent_;  // VMs whose memory devices may reach
  Memory memory_;
  v1::ErrorReason refused_ = v1::ERROR_REASON_UNSPECIFIED;
  Looked looked_;
  bool outdated_ = false;  // its journal may have what another machine has released
  bool doubted_ = false;
  bool foreign_ioas_ = false;  // one may have the id of the agent's, which was taken away
  std::function<bool(v1::Hello&)> on_hello_;
  std::function<void()> on_welcome_;
  std::unique_ptr<Process> process_;
};

}  // namespace viommu::simulation

#endif  // VIOMMU_TESTS_SIMULATION_HOST_H_
