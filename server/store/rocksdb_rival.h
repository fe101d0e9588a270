// What benchmarks compare with: RocksDB as it comes, with a thread per writer and its own group commit.

#ifndef VIOMMU_SERVER_STORE_ROCKSDB_RIVAL_H_
#define VIOMMU_SERVER_STORE_ROCKSDB_RIVAL_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace viommu::server {

struct RivalResult {
  int64_t writes = 0;
  double writes_per_s = 0;
  std::chrono::nanoseconds p50{};
  std::chrono::nanoseconds p99{};
};

// Creates a database with RocksDB's own options in the folder `path`, which must not be there, lets `threads` threads
// write synced values of `value_bytes` under new keys of 16 bytes for `duration`, one after the other, and removes the
// folder.
absl::StatusOr<RivalResult> RocksDbSyncedPuts(const std::string& path, int threads, size_t value_bytes,
                                              std::chrono::nanoseconds duration);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_STORE_ROCKSDB_RIVAL_H_
