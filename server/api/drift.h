// GetDrift: one page of what an agent holds, beside the record.

#ifndef VIOMMU_SERVER_API_DRIFT_H_
#define VIOMMU_SERVER_API_DRIFT_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/commit/core.h"
#include "viommu/v1/agent_service.pb.h"
#include "viommu/v1/operations_service.pb.h"

namespace viommu::server {

// What to ask the host's agent. Any thread. INVALID_FIELD, PAGE_TOKEN_INVALID, HOST_NOT_FOUND.
absl::StatusOr<v1::InspectCall> AskForDrift(const CommitCore& core, const v1::GetDriftRequest& request);

// The page that `reply` to `call` makes, compared with the record as it is now. Any thread.
//   INTERNAL, PROTOCOL_VIOLATION: the reply is not in order.
absl::Status FillDrift(const CommitCore& core, const v1::GetDriftRequest& request, const v1::InspectCall& call,
                       const v1::InspectReply& reply, v1::GetDriftResponse* response);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_DRIFT_H_
