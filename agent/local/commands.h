// Invalidation commands as the API knows them, and as the SMMU does.

#ifndef VIOMMU_AGENT_LOCAL_COMMANDS_H_
#define VIOMMU_AGENT_LOCAL_COMMANDS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/smmuv3/spec/id_registers.h"
#include "agent/smmuv3/spec/words.h"
#include "viommu/v1/errors.pb.h"
#include "viommu/v1/invalidation.pb.h"

namespace viommu::agent {

// The 16 bytes of `command` (IHI 0070, 4.3 to 4.5). `index` is its place in the request, for the message.
//   INVALID_ARGUMENT  INVALID_FIELD: no kind, raw not 16 bytes, or a value wider than its field
absl::StatusOr<smmuv3::RawCommand> ToRaw(const v1::Command& command, size_t index);

struct StopReason {
  v1::ErrorReason reason = v1::ERROR_REASON_BACKEND_FAILED;
  std::string message;
};

// Linux takes commands in groups of at most as many, each followed by one sync (drivers/iommu/arm/arm-smmu-v3,
// CMDQ_BATCH_ENTRIES - 1).
inline constexpr uint32_t kCommandGroup = 63;

// Why a backend stopped with `status` after `handled` of `commands`. Its errno alone does not tell: EIO stands for
// every command that is not acceptable, and the command may be any one of the group that begins there. So the group's
// commands are looked at, with the rules for an SMMU that has `features` and a guest that can name the vdev_ids for
// which `has_vdev_id` is true.
StopReason ExplainStop(std::span<const smmuv3::RawCommand> commands, size_t handled, const absl::Status& status,
                       const smmuv3::Features& features, const std::function<bool(uint32_t)>& has_vdev_id);

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_LOCAL_COMMANDS_H_
