// A ring of records in memory with the SMMU as its producer: the event and the PRI queue (IHI 0070, 3.5 and 7.4, 8.1).
//
// PROD and CONS hold an index with a wrap bit above it. Bit 31 of PROD (OVFLG) is turned when a record was lost because
// the ring was full; software acknowledges by setting bit 31 of CONS (OVACKFLG) alike.
//
// Thread-compatible.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_RECORD_RING_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_RECORD_RING_H_

#include <cstdint>
#include <span>

#include "agent/smmuv3/emulator/memory.h"

namespace viommu::smmuv3 {

class RecordRing {
 public:
  enum class Put : uint8_t {
    kDone,
    kDoneFirst,  // the ring had been empty
    kFull,       // nothing was written
    kAborted,    // the memory refused; the index stays where it was
  };

  // Records of `record_bytes`; at most 2^max_log2_size of them (IDR1.EVENTQS, IDR1.PRIQS). `memory` outlives this.
  RecordRing(Memory* memory, uint32_t record_bytes, uint32_t max_log2_size);

  // The registers, as software writes and reads them.
  void SetBase(uint64_t value) { base_ = value; }
  void SetProd(uint32_t value) { prod_ = value; }
  void SetCons(uint32_t value) { cons_ = value; }
  uint64_t base() const { return base_; }
  uint32_t prod() const { return prod_; }
  uint32_t cons() const { return cons_; }

  bool IsFull() const;
  // A lost record was announced and not acknowledged yet.
  bool InOverflow() const;
  // Announces a lost record; false when that is announced already.
  bool Overflow();
  // Writes a record and makes it visible.
  Put Append(std::span<const uint64_t> record);

 private:
  uint32_t Log2Size() const;
  // Index and wrap bit.
  uint32_t PositionMask() const { return (uint32_t{2} << Log2Size()) - 1; }

  Memory* const memory_;
  const uint32_t record_bytes_;
  const uint32_t max_log2_size_;
  uint64_t base_ = 0;
  uint32_t prod_ = 0;
  uint32_t cons_ = 0;
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_RECORD_RING_H_
