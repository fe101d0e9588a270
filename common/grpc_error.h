// absl::Status to and from grpc::Status, details included (the grpc-status-details-bin trailer carries a
// google.rpc.Status).

#ifndef VIOMMU_COMMON_GRPC_ERROR_H_
#define VIOMMU_COMMON_GRPC_ERROR_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace viommu {

grpc::Status ToGrpcStatus(const absl::Status& status);

// Details that are not of google.rpc are dropped.
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace viommu

#endif  // VIOMMU_COMMON_GRPC_ERROR_H_
