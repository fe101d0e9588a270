// Batches whose effects tell which of them a store has seen: writes as the server's, and the check that goes with them.

#ifndef VIOMMU_SERVER_STORE_TESTING_NUMBERED_BATCHES_H_
#define VIOMMU_SERVER_STORE_TESTING_NUMBERED_BATCHES_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/store/store.h"

namespace viommu::server {

// The batch with the number `number` (from 1 on): sets the revision, one resource of several, a change and a request,
// deletes a resource and from time to time the older changes. `flavour` goes into the values: two batches of the same
// number and another flavour differ.
Batch NumberedBatch(int64_t number, std::string_view flavour = "");

// What a store holds after the batches 1 to `last`: "<key space>/<key>" to value.
using Contents = std::map<std::string, std::string>;
Contents ContentsAfter(int64_t last, std::string_view flavour = "");

// What the store holds, without its format version.
absl::StatusOr<Contents> ReadContents(const Store& store);

// The number of the last batch that the store has seen, after checking that it holds what the batches 1 to that one
// made of it and nothing else; INTERNAL if not.
absl::StatusOr<int64_t> LastBatch(const Store& store, std::string_view flavour = "");

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_STORE_TESTING_NUMBERED_BATCHES_H_
