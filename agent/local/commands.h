// Invalidation commands as the API knows them, and as the SMMU does.

#ifndef VIOMMU_AGENT_LOCAL_COMMANDS_H_
#define VIOMMU_AGENT_LOCAL_COMMANDS_H_

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/reconcile/reasons.h"
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

// Why a backend stopped at `command` with `status`. Its errno alone does not tell: EIO stands for every command that is
// not acceptable, so the command itself is looked at, with the rules for an SMMU that has `features`.
StopReason ExplainStop(const smmuv3::RawCommand& command, size_t index, const absl::Status& status,
                       const smmuv3::Features& features);

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_LOCAL_COMMANDS_H_
