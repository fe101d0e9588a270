// One life of an agent's process: what agent.cc, client.cc and driver.cc do around the program's own session,
// reconciler and journal with threads and gRPC, done with events; the waits between connections are shorter than the
// program's. VMMs and operators on the host call it directly.
//
// With what it hears it checks that it was told everything, and by whom.
//
// Not thread-safe. What it does ends with it.

#ifndef VIOMMU_TESTS_SIMULATION_AGENT_PROCESS_H_
#define VIOMMU_TESTS_SIMULATION_AGENT_PROCESS_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "agent/reconcile/backoff.h"
#include "agent/reconcile/journal.h"
#include "agent/reconcile/reconciler.h"
#include "agent/reconcile/targets.h"
#include "agent/session/host_work.h"
#include "agent/session/session.h"
#include "tests/simulation/host_state.h"

namespace viommu::simulation {

class AgentProcess {
 public:
  // Everything must outlive it. `on_crash` is called when its disk has crashed under it, and has to destroy it.
  AgentProcess(const Surroundings& surroundings, HostState& host, std::function<void()> on_crash);
  // kill -9.
  ~AgentProcess();

  // Reads the journal and takes over what was kept. Everything else is for a process that was opened.
  absl::Status Open();
  // Begins to work, and to call the server.
  void Begin();
  // Stands still for so long, and goes on later with whatever it was doing.
  void Pause(nanoseconds how_long);

  // A VMM gives its VM up and is started again: devices lose the guest's memory, and get it back.
  void RestartVmm();
  // The operator has it mend what differs (viommuctl drift --repair), in pages of a few.
  void MendDrift();

  // The disk has crashed under it: it says and does nothing more.
  bool dying() const { return dying_; }
  // Whether every VMM has handed its guest's memory over.
  bool has_all_memory() const;
  const agent::HeldState& held() const { return reconciler_->held(); }
  const agent::Journal& journal() const { return *journal_; }
  agent::Reconciler& reconciler() { return *reconciler_; }
  agent::Targets& targets() { return targets_; }
  Link* link() { return link_.get(); }  // null: it has none
  // Whether `server` has it connected, and has heard of it within the last `within`.
  bool ConnectedTo(const ServerProcess& server, nanoseconds within) const;

 private:
  // The session's way to the reconciler, without the driver's thread.
  class DirectWork final : public agent::HostWork {
   public:
    explicit DirectWork(agent::Reconciler& reconciler) : reconciler_(reconciler) {}
    void FillHello(v1::Hello& hello) override { reconciler_.FillHello(hello); }
    absl::Status BeginSession(const v1::Welcome& welcome) override { return reconciler_.BeginSession(welcome); }
    void EndSession() override { reconciler_.EndSession(); }
    absl::Status Accept(const v1::Desired& desired) override { return reconciler_.Accept(desired); }
    bool TakeResults(int max, v1::Results& results) override { return reconciler_.TakeResults(max, results); }
    void Inspect(const v1::InspectCall& call, v1::InspectReply& reply) override { reconciler_.Inspect(call, reply); }
    int64_t revision() override { return reconciler_.revision(); }

   private:
    agent::Reconciler& reconciler_;
  };
  // Invalidations that come through the server are not recorded; guests' own do without (guest_driver.h).
  class NoCalls final : public agent::InvalidateCalls {
   public:
    bool Submit(int64_t, const v1::InvalidateCall&) override { return false; }
  };

  void After(nanoseconds delay, std::function<void()> event);
  bool EndIfCrashed();
  void Connect();
  Link::AgentEnd MakeEnd();
  void EndSession(const absl::Status& why);
  void Hear(const v1::ConnectResponse& message);
  void Pump();
  void Work();
  // VMMs hand over their guests' memory, where they have not yet.
  void HandMemoryOver();
  // Whether a hardware queue of the VM is made.
  bool HasQueue(const std::string& vm) const;
  // The server has promised that everything up to `revision` was sent.
  void CheckTold(int64_t revision);
  void CheckRefusal(v1::ErrorReason reason);
  // Takes note of what the journal has kept.
  void Remember();
  void RememberReleases(const v1::Desired& desired);

  // Members end in the reverse order: the session before the reconciler, whose objects go before the targets.
  const Surroundings& around_;
  Scheduler& scheduler_;
  Checker& checker_;
  HostState& host_;
  const std::function<void()> on_crash_;
  Lifetime life_;
  MonotonicTime paused_until_{};
  agent::Targets targets_;
  std::unique_ptr<agent::Journal> journal_;
  std::unique_ptr<agent::Reconciler> reconciler_;
  std::optional<DirectWork> work_;
  NoCalls calls_;
  std::unique_ptr<agent::Session> session_;
  std::shared_ptr<Link> link_;
  std::shared_ptr<std::shared_ptr<Timeline>> talks_to_;  // set when the call has reached a server
  bool must_be_refused_ = false;
  int64_t sessions_ = 0;
  std::deque<v1::ConnectResponse> inbox_;
  std::set<std::string> handed_over_;    // VMs whose memory it has
  std::map<std::string, int64_t> told_;  // generations by uid: what its hello held, and what it was sent since
  std::optional<absl::Status> ended_;
  bool dying_ = false;
  MonotonicTime work_due_ = MonotonicTime::max();
  MonotonicTime pump_due_ = MonotonicTime::max();
  agent::Backoff after_loss_{milliseconds(100), milliseconds(1500)};
  agent::Backoff after_refusal_{milliseconds(500), milliseconds(3000)};
};

}  // namespace viommu::simulation

#endif  // VIOMMU_TESTS_SIMULATION_AGENT_PROCESS_H_
