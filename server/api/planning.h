// FindPlacement and CompareHosts over the whole record, a host at a time, so that the writer never waits long.

#ifndef VIOMMU_SERVER_API_PLANNING_H_
#define VIOMMU_SERVER_API_PLANNING_H_

#include "absl/status/status.h"
#include "server/commit/core.h"
#include "viommu/v1/operations_service.pb.h"

namespace viommu::server {

// Any thread. INVALID_FIELD, LIMIT_EXCEEDED, HOST_NOT_FOUND, STAGE2_DOMAIN_NOT_FOUND, HOST_MISMATCH.
absl::Status FindPlacement(const CommitCore& core, const v1::FindPlacementRequest& request,
                           v1::FindPlacementResponse* response);

// Any thread. INVALID_FIELD, LIMIT_EXCEEDED, HOST_NOT_FOUND, SMMU_NOT_FOUND, VIOMMU_NOT_FOUND.
absl::Status CompareHosts(const CommitCore& core, const v1::CompareHostsRequest& request,
                          v1::CompareHostsResponse* response);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_PLANNING_H_
