#include "server/store/rocksdb_wal_guard.h"

namespace viommu::server {
namespace {

// A record begins with the sequence number of its first write, little-endian.
constexpr size_t kSequenceBytes = 8;

uint64_t SequenceOf(const rocksdb::WriteBatch& batch) {
  uint64_t sequence = 0;
  for (size_t i = kSequenceBytes; i-- > 0;) sequence = sequence << 8 | static_cast<unsigned char>(batch.Data()[i]);
  return sequence;
}

}  // namespace

void RocksDbWalGuard::Decide(uint64_t last_sequence) {
  decided_ = true;
  // From the end: a record counts only if no later one begins at or before its last write.
  uint64_t lowest_later = UINT64_MAX;
  for (size_t i = records_.size(); i-- > 0;) {
    Record& record = records_[i];
    const uint64_t end = record.sequence + record.count;
    if (end > lowest_later || end - 1 > last_sequence) {
      record.counts = false;
      ++failed_;
    }
    if (record.sequence < lowest_later) lowest_later = record.sequence;
  }
  // From the beginning: without a gap.
  const Record* last = nullptr;
  bool gap = false;
  for (Record& record : records_) {
    if (!record.counts) continue;
    gap = gap || (last != nullptr && record.sequence != last->sequence + last->count);
    if (gap) {
      record.counts = false;
      ++after_gap_;
    }
    last = &record;
  }
}

rocksdb::WalFilter::WalProcessingOption RocksDbWalGuard::LogRecordFound(unsigned long long /*log_number*/,
                                                                        const std::string& /*log_file_name*/,
                                                                        const rocksdb::WriteBatch& batch,
                                                                        rocksdb::WriteBatch* /*new_batch*/,
                                                                        bool* /*batch_changed*/) {
  // RocksDB writes empty records of its own.
  if (batch.Data().size() < kSequenceBytes || batch.Count() == 0) return WalProcessingOption::kContinueProcessing;
  if (!decided_) {
    records_.push_back({SequenceOf(batch), batch.Count()});
    return WalProcessingOption::kContinueProcessing;
  }
  // The logs are not what they were in the first pass: somebody else wrote, or the disk reads differently every time.
  if (next_ >= records_.size() || records_[next_].sequence != SequenceOf(batch)) {
    return WalProcessingOption::kCorruptedRecord;
  }
  return records_[next_++].counts ? WalProcessingOption::kContinueProcessing
                                  : WalProcessingOption::kIgnoreCurrentRecord;
}

}  // namespace viommu::server
