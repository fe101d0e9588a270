// How a store on RocksDB is to be run.

#ifndef VIOMMU_SERVER_STORE_ROCKSDB_OPTIONS_H_
#define VIOMMU_SERVER_STORE_ROCKSDB_OPTIONS_H_

#include <chrono>
#include <cstddef>
#include <functional>

namespace rocksdb {
class Env;
}  // namespace rocksdb

namespace viommu::server {

// What one Commit took.
struct CommitSample {
  size_t records = 0;
  size_t bytes = 0;
  bool synced = false;
  bool ok = false;
  std::chrono::nanoseconds total{};
  std::chrono::nanoseconds sync{};  // of this, waiting for stable storage
};

struct RocksDbOptions {
  size_t write_buffer_bytes = size_t{64} << 20;  // of memory for what is not in tables yet, all key spaces together
  size_t block_cache_bytes = size_t{64} << 20;   // of memory for parts of tables
  size_t max_wal_bytes = size_t{128} << 20;      // of write-ahead log, which is what opening has to replay
  int max_open_files = 256;
  // Whether opening reads every table and checks its checksums, at the price of reading the whole store once. What is
  // not checked then is checked when it is read.
  bool verify_on_open = true;
  // Synced writes that measure the disk while opening; 0: none.
  int fsync_probes = 15;
  // Called after every Commit on its thread. May be empty.
  std::function<void(const CommitSample&)> on_commit;
  // The file system; nullptr: the real one. Must outlive the store.
  rocksdb::Env* env = nullptr;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_STORE_ROCKSDB_OPTIONS_H_
