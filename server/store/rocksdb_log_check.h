// Tells how one of RocksDB's logs ends, and whether it is damaged before that.
//
// RocksDB takes an unfinished record at the end of a log for a write that was cut short, and a run of zeros for space
// that was never used. Both can as well be damage (a length that was altered, a sector that was lost) with good records
// behind it, and then RocksDB would leave those out without a word. On the other hand a file system may, after loss of
// power, have the new length of a file and zeros where the last data should be; to RocksDB that is a wrong checksum.
//
// The manifest and the write-ahead log have the same form: blocks of 32 KiB with fragments of records, each with a
// CRC-32C over type and content, its length and its type.

#ifndef VIOMMU_SERVER_STORE_ROCKSDB_LOG_CHECK_H_
#define VIOMMU_SERVER_STORE_ROCKSDB_LOG_CHECK_H_

#include <cstdint>
#include <string_view>

namespace viommu::server {

enum class LogEnd {
  kWhole,    // with the last byte of a record
  kCut,      // in the middle of a record: there are no more bytes
  kZeroed,   // in the middle or after the end of a record: there are only zeros
  kDamaged,  // not an end: intact fragments follow, or it is unlike a write that was cut short
};

struct LogCheck {
  LogEnd end;
  uint64_t offset;  // behind the last fragment in order
};

LogCheck CheckLog(std::string_view log);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_STORE_ROCKSDB_LOG_CHECK_H_
