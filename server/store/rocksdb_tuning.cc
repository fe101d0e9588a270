#include "server/store/rocksdb_tuning.h"

#include <rocksdb/convenience.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "server/store/rocksdb_logger.h"

namespace viommu::server {
namespace {

constexpr size_t kBackgroundSyncBytes = size_t{1} << 20;
constexpr uint64_t kTableFileBytes = uint64_t{16} << 20;
constexpr uint64_t kPeriodicCompactionSeconds = 24 * 3600;
constexpr double kBloomBitsPerKey = 10;

}  // namespace

rocksdb::DBOptions DatabaseOptions(const RocksDbOptions& options, rocksdb::Env* env, rocksdb::WalFilter* wal_filter) {
  rocksdb::DBOptions db;
  db.env = env;
  db.wal_filter = wal_filter;
  // Never guess: what cannot be read is an error.
  db.paranoid_checks = true;
  db.track_and_verify_wals_in_manifest = true;
  db.verify_sst_unique_id_in_manifest = true;
  // Every write reaches the operating system at once, so that it outlives the process.
  db.manual_wal_flush = false;
  db.max_total_wal_size = options.max_wal_bytes;
  db.db_write_buffer_size = options.write_buffer_bytes;
  db.max_open_files = options.max_open_files;
  db.max_background_jobs = 2;
  // Failed writes are retried by Recover alone, so that it never finds RocksDB half way through doing the same.
  db.max_bgerror_resume_count = 0;
  db.bytes_per_sync = kBackgroundSyncBytes;
  db.info_log = std::make_shared<RocksDbLogger>();
  db.stats_dump_period_sec = 0;
  db.stats_persist_period_sec = 0;
  return db;
}

rocksdb::ColumnFamilyOptions FamilyOptions(const RocksDbOptions& options,
                                           const std::shared_ptr<rocksdb::Cache>& block_cache) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = block_cache;
  table.cache_index_and_filter_blocks = true;
  table.pin_l0_filter_and_index_blocks_in_cache = true;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(kBloomBitsPerKey));
  table.format_version = 5;

  rocksdb::ColumnFamilyOptions family;
  family.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  family.write_buffer_size = options.write_buffer_bytes / 4;
  family.max_write_buffer_number = 3;
  family.target_file_size_base = kTableFileBytes;
  family.level_compaction_dynamic_level_bytes = true;
  // Deleted ranges (old changes, expired requests) give their space back in time even when little is written.
  family.periodic_compaction_seconds = kPeriodicCompactionSeconds;
  family.force_consistency_checks = true;
  family.paranoid_file_checks = true;
  const std::vector<rocksdb::CompressionType> supported = rocksdb::GetSupportedCompressions();
  const bool lz4 = std::find(supported.begin(), supported.end(), rocksdb::kLZ4Compression) != supported.end();
  family.compression = lz4 ? rocksdb::kLZ4Compression : rocksdb::kNoCompression;
  return family;
}

}  // namespace viommu::server
