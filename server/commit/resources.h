// Reads the resources of a store. Any thread.

#ifndef VIOMMU_SERVER_COMMIT_RESOURCES_H_
#define VIOMMU_SERVER_COMMIT_RESOURCES_H_

#include <string_view>

#include "absl/status/status.h"
#include "server/fleet/tables.h"
#include "server/store/store.h"

namespace viommu::server {

// DATA_LOSS, STORE_DAMAGED: `what` is wrong in the store.
absl::Status DamagedStore(const Store& store, std::string_view what);

// Reads every resource into `tables`, which are empty, and checks that together they keep the promises of the record
// (CheckInvariants). DATA_LOSS, STORE_DAMAGED.
absl::Status LoadResources(const Store& store, Tables& tables);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_COMMIT_RESOURCES_H_
