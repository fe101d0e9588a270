// Page tokens: where the next page of a query begins.
//
// A token holds the last name of its page and a digest of that, of the query and of the store, so that a token of
// another query, of another store or of somebody's invention is refused. It is not a secret and grants nothing.

#ifndef VIOMMU_SERVER_API_PAGE_TOKEN_H_
#define VIOMMU_SERVER_API_PAGE_TOKEN_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace viommu::server {

// `query`: QueryDigest of the request. `store`: incarnation of the store.
std::string MakePageToken(std::string_view store, std::string_view query, std::string_view last_name);

// The last name of the page before; "" for an empty token: the first page. PAGE_TOKEN_INVALID.
absl::StatusOr<std::string> ReadPageToken(std::string_view store, std::string_view query, std::string_view token);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_PAGE_TOKEN_H_
