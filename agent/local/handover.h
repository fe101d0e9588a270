// What the handover socket's requests come to: the reconciler keeps guests' memory and hardware queues.

#ifndef VIOMMU_AGENT_LOCAL_HANDOVER_H_
#define VIOMMU_AGENT_LOCAL_HANDOVER_H_

#include <string>

#include "agent/local/handover_server.h"
#include "agent/reconcile/driver.h"

namespace viommu::agent {

// Thread-safe. A connection is the owner of what it maps and opens.
class Handover final : public HandoverHandler {
 public:
  static constexpr size_t kMaxVmBytes = 128;  // length of a VM's name, as at the server

  // `driver` must outlive it.
  explicit Handover(Driver& driver) : driver_(driver) {}

  absl::Status Map(Connection connection, const v1::MapMemory& request, FileDescriptor file) override;
  absl::StatusOr<uint64_t> Unmap(Connection connection, const v1::UnmapMemory& request) override;
  absl::StatusOr<HwQueue> OpenHwQueue(Connection connection, const std::string& name) override;
  void Closed(Connection connection) override;

 private:
  Driver& driver_;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_LOCAL_HANDOVER_H_
