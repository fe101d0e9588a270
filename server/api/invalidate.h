// Whether an Invalidate can be sent to a host, and to which.

#ifndef VIOMMU_SERVER_API_INVALIDATE_H_
#define VIOMMU_SERVER_API_INVALIDATE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/commit/core.h"
#include "viommu/v1/fleet_service.pb.h"

namespace viommu::server {

struct InvalidateTarget {
  std::string host;      // hosts/{host}
  std::string uid;       // of the viommu or nested domain
  int64_t revision = 0;  // that this was looked up at
};

// The shape of the request. What a command says is judged by the host, which stops at a bad one.
//   INVALID_ARGUMENT: INVALID_FIELD, LIMIT_EXCEEDED.
absl::Status CheckInvalidate(const v1::InvalidateRequest& request);

// Where it goes, for a request that CheckInvalidate took. The target's kind is told by its name.
//   NOT_FOUND: VIOMMU_NOT_FOUND, NESTED_DOMAIN_NOT_FOUND.
//   FAILED_PRECONDITION: BEING_DELETED, TARGET_NOT_SUPPORTED.
absl::StatusOr<InvalidateTarget> FindInvalidateTarget(const CommitCore& core, const std::string& target);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_INVALIDATE_H_
