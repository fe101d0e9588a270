// The emulated backend: a host's SMMUs in this process, behind the seam that Linux's iommufd fits, too.
//
// Between the seam and the emulated hardware (agent/smmuv3/emulator) it does what iommufd and the arm-smmu-v3 driver of
// Linux do: object tables and who blocks whom, VMIDs, checks of what guests write, their commands rewritten, stream
// table entries. In which points it behaves like which kernel is the inventory's Personality.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_EMULATED_BACKEND_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_EMULATED_BACKEND_H_

#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "agent/backend.h"
#include "agent/smmuv3/emulator/smmu.h"
#include "agent/smmuv3/spec/ste.h"
#include "agent/smmuv3/vsmmu/emulated_dma.h"
#include "agent/smmuv3/vsmmu/host.h"
#include "agent/smmuv3/vsmmu/inventory.h"

namespace viommu::agent {

class EmulatedBackend final : public Backend {
 public:
  // InvalidArgument when the inventory makes no sense (ValidateInventory()), or has StreamIDs beyond what Linux's
  // stream tables hold; ResourceExhausted when there is no memory.
  static absl::StatusOr<std::unique_ptr<EmulatedBackend>> Create(EmulatedInventory inventory);

  absl::StatusOr<Inventory> Discover() override;
  Capabilities GetCapabilities() const override;
  absl::StatusOr<std::unique_ptr<Context>> OpenContext() override;
  std::vector<SmmuStats> GetStats() const override;
  DeviceDma* device_dma() override { return &dma_; }

  // The call of `op` after `skip` further ones, in any context, fails with `error_number` and does nothing. Asked for
  // again for the same op, the later wish counts.
  void FailNext(BackendOp op, int error_number, uint32_t skip = 0) { host_->FailNext(op, error_number, skip); }

  // The allocation of memory for tables or files after `skip` further ones fails with ENOMEM; the second takes that
  // wish back, and says whether it had not come to pass.
  void FailNextAllocation(uint32_t skip) { host_->memory().FailNext(skip); }
  bool CancelAllocationFailure() { return host_->memory().CancelFailure(); }
  // What is held in the host's memory: tables of everybody, and guests' files.
  HostMemoryStats GetMemoryStats() const { return host_->memory().GetStats(); }

  // The hardware, to watch its counters or pause it; null when there is no such SMMU. Lives as long as the
  // backend.
  smmuv3::EmulatedSmmu* FindSmmu(std::string_view name);
  // Has the SMMUs carry out what waits in guests' queues, where they have no threads (SmmuOptions::own_thread).
  void RunHwQueues();
  // A stream table entry as it is in memory; abort where there is none.
  smmuv3::RawSte ReadSte(std::string_view smmu, uint32_t sid);

 private:
  explicit EmulatedBackend(std::unique_ptr<Host> host) : host_(std::move(host)), dma_(host_.get()) {}

  const std::unique_ptr<Host> host_;
  EmulatedDma dma_;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_EMULATED_BACKEND_H_
