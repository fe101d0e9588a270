// Whose quota something counts against, and whether there is room. Internal to fleet/.

#ifndef VIOMMU_SERVER_FLEET_QUOTA_H_
#define VIOMMU_SERVER_FLEET_QUOTA_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "server/fleet/record.h"
#include "server/fleet/view.h"

namespace viommu::server {

// The label of a stage-2 domain that names the owner of its VM.
inline constexpr char kOwnerLabel[] = "owner";

// INVALID_FIELD when there is such a label and its value can be no owner.
absl::Status CheckOwnerLabel(std::string_view field, const Labels& labels);

// Empty: nobody's.
const std::string& OwnerOf(const v1::Stage2Domain& stage2);

// RESOURCE_EXHAUSTED, QUOTA_EXCEEDED when one more would be beyond the quota of `owner`, or, where it has none, beyond
// quotas/default. An empty owner has no quota.
absl::Status CheckViommuQuota(const View& view, const std::string& owner);
absl::Status CheckVdeviceQuota(const View& view, const std::string& owner);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_FLEET_QUOTA_H_
