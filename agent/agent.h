// The agent's parts, put together.
//
//   Backend ◀── Reconciler (journal) ◀── Driver ◀── SessionClient ◀──▶ server
//      ▲                │ targets
//      └── Invalidator ◀┴── LocalServer (VMMs), InvalidateWorkers (the server's calls)
//                Driver ◀── HandoverServer (VMMs: guests' memory, hardware queues)
//                GuestEvents (read in turns) ◀── LocalServer, HandoverServer
//
// They are made from left to right and end from right to left.

#ifndef VIOMMU_AGENT_AGENT_H_
#define VIOMMU_AGENT_AGENT_H_

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "agent/agent_metrics.h"
#include "agent/backend.h"
#include "agent/config.h"
#include "agent/local/event_lister.h"
#include "agent/local/handover.h"
#include "agent/local/handover_server.h"
#include "agent/local/invalidate_workers.h"
#include "agent/local/invalidator.h"
#include "agent/local/local_server.h"
#include "agent/local/local_service.h"
#include "agent/local/vmms.h"
#include "agent/reconcile/driver.h"
#include "agent/reconcile/guest_events.h"
#include "agent/reconcile/journal.h"
#include "agent/reconcile/targets.h"
#include "agent/session/client.h"
#include "agent/session/hello.h"
#include "agent/smmuv3/iommufd/fd_store.h"
#include "common/metrics.h"

namespace viommu::agent {

class Agent {
 public:
  // For tests: what is to stand between the agent and its backend.
  using WrapBackend = std::function<std::unique_ptr<Backend>(std::unique_ptr<Backend>)>;

  // Starts everything. Errors name the part and the way out.
  static absl::StatusOr<std::unique_ptr<Agent>> Start(const AgentConfig& config, const WrapBackend& wrap = nullptr);
  ~Agent();

  // Ends the session and the local service; calls that run have `grace` to end. What is held stays in the journal. The
  // host's objects are there until the agent is destroyed. Then, as with any end of its process, those that systemd's
  // store keeps stay as they are, and the others end: the next agent makes them anew from the journal (docs/adr/0008).
  // Idempotent.
  void Stop(std::chrono::milliseconds grace);

  // One line for people. Takes the reconciler's lock, so it also shows that the agent is alive.
  std::string StatusLine();

  // Where /metrics is served; empty when nowhere.
  std::string metrics_address() const { return exporter_ == nullptr ? "" : exporter_->address().ToString(); }
  Driver& driver() { return *driver_; }

 private:
  explicit Agent(const AgentConfig& config);

  absl::Status Init(const WrapBackend& wrap);
  absl::Status MakeSession();
  absl::Status StartLocal();
  void FillStatus(v1::GetAgentStatusResponse& status);

  const AgentConfig config_;
  const WallTime start_time_;
  HostFacts facts_;
  Targets targets_;
  AgentMetrics metrics_;
  std::unique_ptr<GuestEvents> events_;
  Vmms vmms_{RealClock()};
  std::unique_ptr<FdStore> fd_store_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<Driver> driver_;
  std::unique_ptr<Invalidator> invalidator_;
  std::unique_ptr<InvalidateWorkers> workers_;
  std::unique_ptr<SessionClient> client_;
  std::unique_ptr<EventLister> event_lister_;
  std::unique_ptr<LocalServiceImpl> local_service_;
  std::unique_ptr<LocalServer> local_server_;
  std::unique_ptr<Handover> handover_;
  std::unique_ptr<HandoverServer> handover_server_;
  std::unique_ptr<MetricsExporter> exporter_;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_AGENT_H_
