// GetDrift: one page of what an agent holds, beside the record, and what a repair makes of it.

#ifndef VIOMMU_SERVER_API_DRIFT_H_
#define VIOMMU_SERVER_API_DRIFT_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/commit/core.h"
#include "server/fleet/drift.h"
#include "viommu/v1/agent_service.pb.h"
#include "viommu/v1/operations_service.pb.h"

namespace viommu::server {

// What to ask the host's agent. Any thread. INVALID_FIELD, PAGE_TOKEN_INVALID, HOST_NOT_FOUND.
absl::StatusOr<v1::InspectCall> AskForDrift(const CommitCore& core, const v1::GetDriftRequest& request);

// What the agent cannot mend by itself: where its journal is not what is recorded.
struct ToTell {
  std::vector<Compared> anew;        // records that it goes by something else than
  std::vector<std::string> unknown;  // uids that it holds and that are no record's
};

// The page that `reply` to `call` makes, compared with the record as it is now. Any thread.
//   INTERNAL, PROTOCOL_VIOLATION: the reply is not in order.
absl::StatusOr<ToTell> FillDrift(const CommitCore& core, const v1::GetDriftRequest& request,
                                 const v1::InspectCall& call, const v1::InspectReply& reply,
                                 v1::GetDriftResponse* response);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_DRIFT_H_
