#include "agent/smmuv3/emulator/record_ring.h"

#include <algorithm>
#include <cstdlib>

#include "agent/smmuv3/spec/registers.h"

namespace viommu::smmuv3 {
namespace {

// 3.5.1: PROD and CONS have 20 bits for index and wrap bit.
constexpr uint32_t kMaxLog2Size = 19;
constexpr uint32_t kOverflowBit = static_cast<uint32_t>(kQueueOverflow.mask());

}  // namespace

RecordRing::RecordRing(Memory* memory, uint32_t record_bytes, uint32_t max_log2_size)
    : memory_(memory), record_bytes_(record_bytes), max_log2_size_(std::min(max_log2_size, kMaxLog2Size)) {}

uint32_t RecordRing::Log2Size() const {
  return std::min(static_cast<uint32_t>(queue_base::kLog2Size.Get(base_)), max_log2_size_);
}

bool RecordRing::IsFull() const {
  const uint32_t wrap = uint32_t{1} << Log2Size();
  return ((prod_ ^ cons_) & PositionMask()) == wrap;
}

bool RecordRing::InOverflow() const { return ((prod_ ^ cons_) & kOverflowBit) != 0; }

bool RecordRing::Overflow() {
  if (InOverflow()) return false;
  prod_ ^= kOverflowBit;
  return true;
}

RecordRing::Put RecordRing::Append(std::span<const uint64_t> record) {
  if (record.size_bytes() != record_bytes_) std::abort();
  if (IsFull()) return Put::kFull;
  const bool was_empty = ((prod_ ^ cons_) & PositionMask()) == 0;
  const uint32_t log2_size = Log2Size();
  const uint64_t index = prod_ & ((uint32_t{1} << log2_size) - 1);
  // The base is aligned to the size of the ring, or 32 bytes (6.3.26).
  const uint64_t ring_bytes = std::max<uint64_t>(uint64_t{record_bytes_} << log2_size, 32);
  const uint64_t address = (base_ & queue_base::kAddr.mask() & ~(ring_bytes - 1)) + index * record_bytes_;
  for (size_t word = 0; word < record.size(); ++word) {
    if (!memory_->WriteWord(address + word * sizeof(uint64_t), record[word])) return Put::kAborted;
  }
  prod_ = (prod_ & ~PositionMask()) | ((prod_ + 1) & PositionMask());
  return was_empty ? Put::kDoneFirst : Put::kDone;
}

}  // namespace viommu::smmuv3
