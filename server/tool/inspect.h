// Prints what a store holds, one JSON object to a line.

#ifndef VIOMMU_SERVER_TOOL_INSPECT_H_
#define VIOMMU_SERVER_TOOL_INSPECT_H_

#include <cstdint>
#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "server/store/store.h"

namespace viommu::server {

// `what`: "meta", "changes", "audit", a kind in the plural ("hosts", "viommus"), the name of a resource, or empty: all
// resources. Of the logs the latest entries, in their order. At most `limit` lines, and on `note` how many more there
// are. INVALID_ARGUMENT: it is none of these. NOT_FOUND: there is no such resource. DATA_LOSS: something cannot be
// read.
absl::Status Inspect(const Store& store, const std::string& what, int64_t limit, std::ostream& out, std::ostream& note);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_TOOL_INSPECT_H_
