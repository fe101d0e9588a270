// Checks a store that no server runs on: every record can be read, together they keep the promises of the record, the
// change log and the audit log have no gap.

#ifndef VIOMMU_SERVER_COMMIT_VERIFY_H_
#define VIOMMU_SERVER_COMMIT_VERIFY_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "server/store/store.h"

namespace viommu::server {

// What was found to be right.
struct Verified {
  std::string cluster_id;
  std::string store_incarnation;
  int64_t epoch = 0;
  int64_t revision = 0;
  int64_t resources = 0;
  int64_t changes = 0;
  int64_t requests = 0;
  int64_t audit_entries = 0;
};

// Reads all of it, and writes nothing. DATA_LOSS, STORE_DAMAGED with what is wrong.
absl::StatusOr<Verified> VerifyRecord(const Store& store);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_COMMIT_VERIFY_H_
