// How a store on RocksDB is created, checked and opened.
//
// RocksDB would create what is missing, and write while it finds out that something is damaged. So an existing store is
// first opened for reading only, all of it is checked, and only then it is opened in earnest.

#ifndef VIOMMU_SERVER_STORE_ROCKSDB_OPEN_H_
#define VIOMMU_SERVER_STORE_ROCKSDB_OPEN_H_

#include <rocksdb/db.h>
#include <rocksdb/listener.h>
#include <rocksdb/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/store/rocksdb_options.h"
#include "server/store/rocksdb_wal_guard.h"
#include "server/store/store.h"

namespace viommu::server {

// The column family of a key space.
const char* ColumnFamilyName(KeySpace space);

// An open database. Its destruction closes it; nobody may be reading or writing then.
class OpenRocksDb {
 public:
  // Opens, creates or refuses, as RocksDbStore::Open.
  static absl::StatusOr<std::unique_ptr<OpenRocksDb>> Open(const std::string& path, const RocksDbOptions& options,
                                                           std::shared_ptr<rocksdb::EventListener> listener);

  // Opens a store that was open before, and creates none. Writes in the log with a sequence number above
  // `last_sequence` are left out, and then gone for good.
  static absl::StatusOr<std::unique_ptr<OpenRocksDb>> Reopen(const std::string& path, const RocksDbOptions& options,
                                                             std::shared_ptr<rocksdb::EventListener> listener,
                                                             rocksdb::SequenceNumber last_sequence);

  // Opens a store that no server runs on, after checking all of it, and writes nothing but its lock file; none can
  // start on it while it is open. Key spaces that an earlier version had not are empty. Errors as RocksDbStore::Open.
  static absl::StatusOr<std::unique_ptr<OpenRocksDb>> OpenForReading(const std::string& path,
                                                                     const RocksDbOptions& options);

  // Takes over what an open database is made of; `handles` by key space, then RocksDB's default column family.
  OpenRocksDb(std::unique_ptr<RocksDbWalGuard> wal_guard, std::unique_ptr<rocksdb::DB> db,
              std::vector<rocksdb::ColumnFamilyHandle*> handles, std::shared_ptr<void> lock = nullptr)
      : lock_(std::move(lock)), wal_guard_(std::move(wal_guard)), db_(std::move(db)), handles_(std::move(handles)) {}
  ~OpenRocksDb();
  OpenRocksDb(const OpenRocksDb&) = delete;
  OpenRocksDb& operator=(const OpenRocksDb&) = delete;

  rocksdb::DB& db() const { return *db_; }
  // nullptr: the store has no such key space.
  rocksdb::ColumnFamilyHandle* handle(KeySpace space) const { return handles_[static_cast<size_t>(space)]; }
  // Of the engine's own column family.
  rocksdb::ColumnFamilyHandle* own_handle() const { return handles_.back(); }

 private:
  const std::shared_ptr<void> lock_;                  // given up last
  const std::unique_ptr<RocksDbWalGuard> wal_guard_;  // RocksDB keeps a pointer to it
  const std::unique_ptr<rocksdb::DB> db_;
  const std::vector<rocksdb::ColumnFamilyHandle*> handles_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_STORE_ROCKSDB_OPEN_H_
