// How RocksDB is set up for this store: small, bounded, distrustful.

#ifndef VIOMMU_SERVER_STORE_ROCKSDB_TUNING_H_
#define VIOMMU_SERVER_STORE_ROCKSDB_TUNING_H_

#include <rocksdb/cache.h>
#include <rocksdb/env.h>
#include <rocksdb/options.h>
#include <rocksdb/wal_filter.h>

#include <memory>

#include "server/store/rocksdb_options.h"

namespace viommu::server {

// `env` and `wal_filter` must outlive the database.
rocksdb::DBOptions DatabaseOptions(const RocksDbOptions& options, rocksdb::Env* env, rocksdb::WalFilter* wal_filter);

// Of every column family.
rocksdb::ColumnFamilyOptions FamilyOptions(const RocksDbOptions& options,
                                           const std::shared_ptr<rocksdb::Cache>& block_cache);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_STORE_ROCKSDB_TUNING_H_
