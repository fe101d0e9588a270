// How a store on RocksDB is created, checked and opened.
//
// RocksDB would create what is missing, and write while it finds out that something is damaged. So an existing store is
// first opened for reading only, all of it is checked, and only then it is opened in earnest.

#ifndef VIOMMU_SERVER_STORE_ROCKSDB_OPEN_H_
#define VIOMMU_SERVER_STORE_ROCKSDB_OPEN_H_

#include <rocksdb/db.h>
#include <rocksdb/listener.h>

#include <array>
#include <iterator>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/store/rocksdb_options.h"
#include "server/store/rocksdb_wal_guard.h"
#include "server/store/store.h"

namespace viommu::server {

// The column family of a key space.
const char* ColumnFamilyName(KeySpace space);

struct OpenedRocksDb {
  // RocksDB keeps a pointer to it.
  std::unique_ptr<RocksDbWalGuard> wal_guard;
  std::unique_ptr<rocksdb::DB> db;
  // By key space, then RocksDB's default column family. To be given back to the database before it is closed.
  std::array<rocksdb::ColumnFamilyHandle*, std::size(kKeySpaces) + 1> handles{};
};

// As RocksDbStore::Open.
absl::StatusOr<OpenedRocksDb> OpenRocksDb(const std::string& path, const RocksDbOptions& options,
                                          std::shared_ptr<rocksdb::EventListener> listener);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_STORE_ROCKSDB_OPEN_H_
