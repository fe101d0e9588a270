// Backups of a store on RocksDB: a folder of RocksDB's BackupEngine, with every file's checksum. Tables are shared
// between the backups of a folder, so a further one costs what has changed.
//
// Only one process at a time may make backups in a folder. Errors are BACKUP_FAILED and name the folder and the cause.

#ifndef VIOMMU_SERVER_STORE_ROCKSDB_BACKUP_H_
#define VIOMMU_SERVER_STORE_ROCKSDB_BACKUP_H_

#include <rocksdb/db.h>
#include <rocksdb/utilities/backup_engine.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/store/store.h"

namespace viommu::server {

// A folder that backups are made in. Not thread-safe, but Stop.
class RocksDbBackups {
 public:
  // Makes the folder if it is not there.
  static absl::StatusOr<std::unique_ptr<RocksDbBackups>> Open(const std::string& folder);

  // The database may be written to meanwhile: what was written before the call is in it. Deletes all but the newest
  // `keep`; 0: none.
  absl::Status Make(rocksdb::DB& db, const std::string& metadata, size_t keep);
  // Any thread: makes a Make that is under way, and each later one, fail soon.
  void Stop() { engine_->StopBackup(); }

  // Latest first.
  std::vector<BackupInfo> List() const;

 private:
  RocksDbBackups(std::string folder, rocksdb::BackupEngine* engine) : folder_(std::move(folder)), engine_(engine) {}

  const std::string folder_;
  const std::unique_ptr<rocksdb::BackupEngine> engine_;
};

// Puts a backup back into `path`, which must not be there or be empty, after all its checksums were found right.
// `id`: 0 is the latest. Returns the backup.
//   FAILED_PRECONDITION: `path` is not empty. NOT_FOUND: there is no such backup. DATA_LOSS: the backup is damaged.
absl::StatusOr<BackupInfo> RestoreRocksDb(const std::string& folder, int64_t id, const std::string& path);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_STORE_ROCKSDB_BACKUP_H_
