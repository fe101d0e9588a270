// The store on RocksDB. Its files, and what people should know of them, are described in docs/store-format.md.
//
// A key space is a column family; a Commit is one write to the write-ahead log, synced if asked for. Opening checks
// everything before it writes anything: a store that is damaged, incomplete, of a newer format or in use is refused and
// left as it is. What loss of power may take away is a tail of the log that was never synced.
//
// Thread-safe.

#ifndef VIOMMU_SERVER_STORE_ROCKSDB_STORE_H_
#define VIOMMU_SERVER_STORE_ROCKSDB_STORE_H_

#include <rocksdb/write_batch.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "server/store/rocksdb_options.h"
#include "server/store/store.h"

namespace viommu::server {

class OpenRocksDb;
class RocksDbBackups;

struct RocksDbStats {
  uint64_t commits = 0;  // that returned OK
  uint64_t synced_commits = 0;
  uint64_t commit_records = 0;
  uint64_t commit_bytes = 0;
  uint64_t failed_commits = 0;
  uint64_t recoveries = 0;         // Recover calls that returned OK
  uint64_t background_errors = 0;  // of flushes and compactions too
  uint64_t write_stalls = 0;       // times that RocksDB began to slow down or stop writes

  uint64_t wal_bytes = 0;
  uint64_t sst_bytes = 0;
  uint64_t memtable_bytes = 0;
  uint64_t block_cache_bytes = 0;
  uint64_t pending_compaction_bytes = 0;
  bool write_stopped = false;
};

class RocksDbStore final : public Store {
 public:
  // Opens the store in the folder `path`; creates it if the folder is not there or empty. Errors name the path, the
  // file where there is one, and the way out:
  //   FAILED_PRECONDITION: in use by another server; of a newer format; the folder has files that are no store.
  //   DATA_LOSS: damaged or incomplete.
  //   RESOURCE_EXHAUSTED: no space left.
  //   UNAVAILABLE: the file system fails otherwise.
  static absl::StatusOr<std::unique_ptr<RocksDbStore>> Open(const std::string& path, const RocksDbOptions& options);
  // Opens a store that no server runs on, to read it: Commit and Recover are not for it. Everything is checked, and
  // nothing is written but the lock file, which keeps servers away meanwhile. Errors as Open.
  static absl::StatusOr<std::unique_ptr<RocksDbStore>> OpenForReading(const std::string& path);
  // No other call may be under way.
  ~RocksDbStore() override;

  // UNAVAILABLE, STORE_UNAVAILABLE: not taken; nor is any other until Recover has returned OK.
  absl::Status Commit(const Batch& batch, Durability durability) override;
  // Closes the files and opens them again: after a failed write that is the only way to know their state. Meanwhile Get
  // and Scan return UNAVAILABLE. OK means that a synced write has succeeded, and that the batch that failed is gone for
  // good. Does nothing as long as there is obviously no room on the disk.
  absl::Status Recover() override;
  absl::StatusOr<std::optional<std::string>> Get(KeySpace space, std::string_view key) const override;
  // Visits the keys as they were at the time of the call.
  absl::Status Scan(KeySpace space, std::string_view begin, std::string_view end,
                    absl::FunctionRef<bool(std::string_view key, std::string_view value)> visit) const override;
  absl::StatusOr<std::vector<BackupInfo>> Backup(const std::string& folder, const std::string& metadata,
                                                 size_t keep) override;
  void StopBackups() override;
  absl::StatusOr<std::vector<BackupInfo>> ListBackups(const std::string& folder) const override;
  std::string Describe() const override;

  // OK, or why commits fail or background work has stopped.
  absl::Status health() const;
  RocksDbStats stats() const;

  // Median of the synced writes that opening made; nullopt when it made none.
  std::optional<std::chrono::nanoseconds> fsync_p50() const { return fsync_p50_; }

 private:
  class Listener;
  struct Counters {
    std::atomic<uint64_t> commits{0};
    std::atomic<uint64_t> synced_commits{0};
    std::atomic<uint64_t> commit_records{0};
    std::atomic<uint64_t> commit_bytes{0};
    std::atomic<uint64_t> failed_commits{0};
    std::atomic<uint64_t> recoveries{0};
  };

  RocksDbStore(std::string path, const RocksDbOptions& options);

  // Counts one reader while it lives.
  class Reading;

  absl::Status Write(const Batch& batch, Durability durability) ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);
  // Makes `status` the answer to commits until it is OK; returns it.
  absl::Status SetFailure(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);
  absl::Status Reopen() ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mu_);

  const std::string path_;
  const RocksDbOptions options_;
  rocksdb::Env* const env_;
  const std::shared_ptr<Listener> listener_;
  std::optional<std::chrono::nanoseconds> fsync_p50_;

  // Held during a write, and by whoever changes open_. Taken before the others.
  Mutex commit_mu_;
  // Of the last write that succeeded, when one has failed.
  uint64_t last_sequence_ ABSL_GUARDED_BY(commit_mu_) = 0;
  rocksdb::WriteBatch writes_ ABSL_GUARDED_BY(commit_mu_);  // the last, whose memory the next one has

  mutable Mutex open_mu_;
  mutable CondVar no_readers_;
  mutable int readers_ ABSL_GUARDED_BY(open_mu_) = 0;
  std::unique_ptr<OpenRocksDb> open_ ABSL_GUARDED_BY(open_mu_);  // nullptr while it is opened again, or that failed

  RocksDbBackups* backups_ ABSL_GUARDED_BY(open_mu_) = nullptr;  // at work
  bool backups_stopped_ ABSL_GUARDED_BY(open_mu_) = false;

  mutable Mutex failure_mu_;
  absl::Status failure_ ABSL_GUARDED_BY(failure_mu_);  // why commits are refused

  Counters counters_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_STORE_ROCKSDB_STORE_H_
