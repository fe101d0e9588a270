// RocksDB's notes in the server's own log.
//
// Not in files beside the store, as RocksDB would have it: when the disk is full its notes fail with the rest, and the
// note after that ends the process where RocksDB was built with its assertions, as Debian's is.

#ifndef VIOMMU_SERVER_STORE_ROCKSDB_LOGGER_H_
#define VIOMMU_SERVER_STORE_ROCKSDB_LOGGER_H_

#include <rocksdb/env.h>

#include <cstdarg>

namespace viommu::server {

// Errors and warnings come as warnings and information, the rest for debugging. Thread-safe.
class RocksDbLogger final : public rocksdb::Logger {
 public:
  static constexpr size_t kMaxMessageBytes = 1024;  // what is longer is cut

  RocksDbLogger();

  using rocksdb::Logger::Logv;
  void Logv(const char* format, va_list arguments) override;
  void Logv(rocksdb::InfoLogLevel level, const char* format, va_list arguments) override;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_STORE_ROCKSDB_LOGGER_H_
