// Lists of vdev_ids for `set vdev-ids`: DEVICE=VDEV_ID [KEY=VALUE...], one a line.

#ifndef VIOMMU_CLI_VDEV_ID_LIST_H_
#define VIOMMU_CLI_VDEV_ID_LIST_H_

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "viommu/v1/fleet_service.pb.h"

namespace viommu::cli {

// Largest list that is read, in bytes.
inline constexpr size_t kMaxVdevIdListBytes = 1 << 20;

// "a/0000:01:00.0=0x10 tier=gold". `where` begins the errors.
absl::StatusOr<v1::VdevIdAssignment> ParseVdevIdAssignment(std::string_view text, std::string_view where);

// A whole file; errors name its line. Empty lines and what follows a # are left out.
absl::StatusOr<std::vector<v1::VdevIdAssignment>> ParseVdevIdList(std::string_view text, std::string_view file);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_VDEV_ID_LIST_H_
