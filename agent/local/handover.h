// What the handover socket's requests come to: the reconciler keeps guests' memory and hardware queues.

#ifndef VIOMMU_AGENT_LOCAL_HANDOVER_H_
#define VIOMMU_AGENT_LOCAL_HANDOVER_H_

#include <atomic>
#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "agent/local/event_lister.h"
#include "agent/local/handover_server.h"
#include "agent/local/vmms.h"
#include "agent/reconcile/driver.h"
#include "agent/reconcile/vm_memory.h"
#include "common/mutex.h"

namespace viommu::agent {

// Thread-safe. A connection is the owner of what it maps and opens. VMMs of different users, unless one is root or the
// agent's own, cannot have to do with the same VM: who hands memory of it over first has it.
class Handover final : public HandoverHandler {
 public:
  static constexpr size_t kMaxVmBytes = 128;  // length of a VM's name, as at the server

  // All must outlive it.
  Handover(Driver& driver, Vmms& vmms, EventLister& events) : driver_(driver), vmms_(vmms), events_(events) {}

  // From now on connections end because the agent does, and not because their VMMs do.
  void Leave() { leaving_ = true; }

  void Opened(Connection connection, const ucred& peer) override;
  absl::Status Map(Connection connection, const v1::MapMemory& request, FileDescriptor file) override;
  absl::StatusOr<uint64_t> Unmap(Connection connection, const v1::UnmapMemory& request) override;
  absl::StatusOr<HwQueue> OpenHwQueue(Connection connection, const std::string& name) override;
  absl::StatusOr<v1::ListGuestEventsResponse> ListGuestEvents(Connection connection,
                                                              const v1::ListGuestEventsRequest& request) override;
  void Closed(Connection connection) override;

 private:
  VmMemory::User UserOf(Connection connection) ABSL_LOCKS_EXCLUDED(mu_);

  Driver& driver_;
  Vmms& vmms_;
  EventLister& events_;
  std::atomic<bool> leaving_{false};
  Mutex mu_;
  std::map<Connection, VmMemory::User> users_ ABSL_GUARDED_BY(mu_);
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_LOCAL_HANDOVER_H_
