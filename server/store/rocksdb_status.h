// RocksDB's statuses in our words.

#ifndef VIOMMU_SERVER_STORE_ROCKSDB_STATUS_H_
#define VIOMMU_SERVER_STORE_ROCKSDB_STATUS_H_

#include <rocksdb/status.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace viommu::server {

// Why the store at `path` cannot be opened or read. `file` is the damaged file where it is known and RocksDB's message
// does not name it.
absl::Status RocksDbReadError(const rocksdb::Status& status, std::string_view path, std::string_view file = "");

// Why a write was not taken: UNAVAILABLE with reason STORE_UNAVAILABLE.
absl::Status RocksDbWriteError(const rocksdb::Status& status, std::string_view path);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_STORE_ROCKSDB_STATUS_H_
