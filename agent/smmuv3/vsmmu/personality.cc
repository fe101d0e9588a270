#include "agent/smmuv3/vsmmu/personality.h"

namespace viommu::agent {

Personality Strict() { return {.name = "strict"}; }

Personality Linux72() {
  return {.name = "linux-7.2",
          .stage2_sharing = Stage2Sharing::kPerSmmu,
          .vmid_owner = VmidOwner::kStage2,
          .invalidate_by_nested = false,
          .exact_handled = false,
          .no_memory_handled_none = false,
          .empty_invalidate = false,
          .check_command_fields = false,
          .bound_device_is_busy = false,
          .check_virt_id = false};
}

}  // namespace viommu::agent
