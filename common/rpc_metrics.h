// Counts and times every RPC of a gRPC server, by method and code.
//
// Exports
//   <prefix>_rpcs_total{method, code}   finished RPCs; method is "viommu.v1.FleetService/GetHost", code is "OK"…
//   <prefix>_rpc_seconds{method}        from the arrival of an RPC to its status; of a stream that is its whole life
//   <prefix>_rpcs_in_flight             RPCs that have no status yet
//   <prefix>_rpc_unsent_bytes           answers of unary RPCs that their callers have not taken yet
//
// It bounds the last of these, too: a caller may ask much and, by HTTP/2's flow control, take nothing, and gRPC's quota
// does not count what it keeps for him. While there is too much, methods that change nothing answer RESOURCE_EXHAUSTED,
// OVERLOADED.
//
// It is an interceptor: it sees every service of the server, also those that gRPC itself answers (health, reflection),
// which are counted under "other", as are methods that do not exist here. It costs two reads of the clock, one look-up
// and four relaxed atomic additions per RPC, and no lock.

#ifndef VIOMMU_COMMON_RPC_METRICS_H_
#define VIOMMU_COMMON_RPC_METRICS_H_

#include <grpcpp/server_builder.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/metrics.h"

namespace viommu {

// Whether a method of our services only reads, by the verb of its name (Get…, List…, Find…, Compare…): its answer may
// be refused when it has been worked out already. A test sees to it that there is no other kind of reading method. What
// GetDrift repairs on request is mended once more when it is asked for again.
bool ChangesNothing(std::string_view method);

// Before builder.BuildAndStart(). It takes the builder's only slot for interceptors. `services` are full names
// ("viommu.v1. FleetService") of generated services that are linked in; any other name is a mistake in the program and
// ends it. `max_unsent_bytes` may be exceeded by the answer that each thread is about to give, and by those about
// changes.
void InstallRpcMetrics(grpc::ServerBuilder& builder, std::shared_ptr<MetricSet> metrics, std::string_view prefix,
                       const std::vector<std::string>& services,
                       uint64_t max_unsent_bytes = std::numeric_limits<int64_t>::max());

}  // namespace viommu

#endif  // VIOMMU_COMMON_RPC_METRICS_H_
