// Names of resources in requests: whether they are names, and what to say when there is nothing of that name.

#ifndef VIOMMU_SERVER_API_LOOKUP_H_
#define VIOMMU_SERVER_API_LOOKUP_H_

#include <string_view>

#include "absl/status/status.h"
#include "server/fleet/view.h"

namespace viommu::server {

// INVALID_FIELD unless `name` can be the name of a resource of that kind.
absl::Status CheckName(std::string_view field, Kind kind, std::string_view name);
absl::Status CheckSmmuName(std::string_view field, std::string_view name);

// NOT_FOUND with the kind's reason.
absl::Status NotFound(Kind kind, std::string_view name);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_LOOKUP_H_
