// What a guest that runs on one SMMU would find different on another. Pure.

#ifndef VIOMMU_SERVER_FLEET_COMPARISON_H_
#define VIOMMU_SERVER_FLEET_COMPARISON_H_

#include <memory>

#include "server/fleet/view.h"
#include "viommu/v1/operations_service.pb.h"

namespace viommu::server {

inline constexpr int kMaxComparisons = 1024;  // in one CompareHosts

// Field by field. `viommu`: the one that would move, or null; with one, hardware queues count only if it has the type
// that needs them, and `view` is asked whether there is room for it at the target.
v1::Comparison CompareSmmus(const View& view, const v1::Host& source_host, const v1::Smmu& source,
                            const v1::Host& target_host, const v1::Smmu& target, const v1::Viommu* viommu);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_FLEET_COMPARISON_H_
