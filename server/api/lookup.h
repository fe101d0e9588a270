// What all requests are checked for: their length, the names in them, and that there is something of that name.

#ifndef VIOMMU_SERVER_API_LOOKUP_H_
#define VIOMMU_SERVER_API_LOOKUP_H_

#include <string_view>

#include "absl/status/status.h"
#include "server/fleet/view.h"

namespace viommu::server {

// INVALID_FIELD unless `name` can be the name of a resource of that kind.
absl::Status CheckName(std::string_view field, Kind kind, std::string_view name);
absl::Status CheckSmmuName(std::string_view field, std::string_view name);

// LIMIT_EXCEEDED: the list `field` is longer than `limit`.
absl::Status TooMany(std::string_view field, int limit);

// LIMIT_EXCEEDED when it is longer than kMaxRequestBytes: the listener may take longer messages for agents' sake.
absl::Status CheckRequestSize(const google::protobuf::Message& request);

// NOT_FOUND with the kind's reason.
absl::Status NotFound(Kind kind, std::string_view name);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_LOOKUP_H_
