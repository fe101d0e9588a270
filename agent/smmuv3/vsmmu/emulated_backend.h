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
#include <vector>

#include "absl/status/statusor.h"
#include "agent/backend.h"
#include "agent/smmuv3/emulator/smmu.h"
#include "agent/smmuv3/vsmmu/host.h"
#include "agent/smmuv3/vsmmu/inventory.h"

namespace viommu::agent {

class EmulatedBackend final : public Backend {
 public:
  // InvalidArgument when the inventory makes no sense (ValidateInventory()).
  static absl::StatusOr<std::unique_ptr<EmulatedBackend>> Create(EmulatedInventory inventory);

  absl::StatusOr<Inventory> Discover() override;
  Capabilities GetCapabilities() const override;
  absl::StatusOr<std::unique_ptr<Context>> OpenContext() override;
  std::vector<SmmuStats> GetStats() const override;

  // The call of `op` after `skip` further ones, in any context, fails with `error_number` and does nothing. Asked for
  // again for the same op, the later wish counts.
  void FailNext(BackendOp op, int error_number, uint32_t skip = 0) { host_.FailNext(op, error_number, skip); }

  // The hardware, to fill its caches, raise events or pause it; null when there is no such SMMU. Lives as long as the
  // backend.
  smmuv3::EmulatedSmmu* FindSmmu(std::string_view name);

 private:
  explicit EmulatedBackend(EmulatedInventory inventory) : host_(std::move(inventory)) {}

  mutable Host host_;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_EMULATED_BACKEND_H_
