// absl::Status to and from google.rpc.Status, and to and from grpc::Status, whose grpc-status-details-bin trailer
// carries one. Details included.

#ifndef VIOMMU_COMMON_GRPC_ERROR_H_
#define VIOMMU_COMMON_GRPC_ERROR_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "google/rpc/status.pb.h"

namespace viommu {

google::rpc::Status ToWireStatus(const absl::Status& status);

// Details that are not of google.rpc are dropped.
absl::Status FromWireStatus(const google::rpc::Status& wire);

grpc::Status ToGrpcStatus(const absl::Status& status);

// Details that are not of google.rpc are dropped.
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace viommu

#endif  // VIOMMU_COMMON_GRPC_ERROR_H_
