// Decides which records of the write-ahead log count when a store is opened.
//
// RocksDB replays every intact record of every log, and that is too much in two cases:
//   - A write failed although its record had reached the log. When the store is opened to recover from that, the record
//     must not count: its sequence number is above that of the last write that succeeded. Should it be met later again,
//     its sequence number has been given to another write in the meantime.
//   - Loss of power took the unsynced tail of one log but not what was written to the next one. The sequence numbers
//   have
//     a gap, and what comes after it was never synced: a sync covers all logs before it.
// So the logs are read twice: a first pass (opening for reading) takes notes, after it Decide says what counts, and the
// second pass (opening in earnest) applies that.
//
// Not thread-safe: RocksDB opens on one thread.

#ifndef VIOMMU_SERVER_STORE_ROCKSDB_WAL_GUARD_H_
#define VIOMMU_SERVER_STORE_ROCKSDB_WAL_GUARD_H_

#include <rocksdb/wal_filter.h>
#include <rocksdb/write_batch.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace viommu::server {

class RocksDbWalGuard final : public rocksdb::WalFilter {
 public:
  // Ends the first pass. Records with writes above `last_sequence` do not count.
  void Decide(uint64_t last_sequence);

  // Records that do not count, by reason; after Decide.
  size_t failed() const { return failed_; }
  size_t after_gap() const { return after_gap_; }

  const char* Name() const override { return "viommu.WalGuard"; }
  WalProcessingOption LogRecordFound(unsigned long long log_number, const std::string& log_file_name,
                                     const rocksdb::WriteBatch& batch, rocksdb::WriteBatch* new_batch,
                                     bool* batch_changed) override;

 private:
  struct Record {
    uint64_t sequence;  // of its first write
    uint32_t count;     // of its writes
    bool counts = true;
  };

  std::vector<Record> records_;  // in the order of the logs; those without writes are left out
  bool decided_ = false;
  size_t next_ = 0;  // second pass: the next record
  size_t failed_ = 0;
  size_t after_gap_ = 0;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_STORE_ROCKSDB_WAL_GUARD_H_
