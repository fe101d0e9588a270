// Changing a stream table entry that the SMMU may be reading (IHI 0070, 3.21.3.1): the way of Linux's
// arm_smmu_write_entry().
//
// The SMMU reads an entry word by word, at any time, and may go by what it has read until CMD_CFGI_STE. So no mixture
// of the old and the new entry may ever mean something else than one of the two, or an abort:
//  - Where the bits that count change in one word alone, the words that do not count yet are written first, then that
//    word, then the words that do not count any more are cleared. No access notices (hitless).
//  - Else the entry is made invalid first: accesses in between are aborted (break, then make).
// The SMMU is told between the steps.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_STE_UPDATE_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_STE_UPDATE_H_

#include <cstddef>
#include <cstdint>

#include "agent/smmuv3/spec/ste.h"

namespace viommu::agent {

// Where an entry lies.
class SteSlot {
 public:
  virtual ~SteSlot() = default;
  // One word, whole.
  virtual uint64_t Read(size_t word) const = 0;
  virtual void Write(size_t word, uint64_t value) = 0;
  // Makes the SMMU forget what it has read of the entry: CMD_CFGI_STE and CMD_SYNC.
  virtual void Sync() = 0;
};

enum class SteChange : uint8_t {
  kNone,           // it was the same
  kHitless,        // accesses saw the old or the new entry
  kBreakThenMake,  // some may have been aborted
};

// The bits of an entry that the SMMU goes by.
smmuv3::RawSte UsedBits(const smmuv3::RawSte& entry);

// The bits that may change at any time while an entry changes from one to the other, because nothing but the number of
// events (MEV), or the answer to translation requests (EATS), depends on them: who changes EATS keeps the device from
// asking meanwhile. Where one of them has S2S or splits its stages for ATS, an EATS out of place could make the entry
// ILLEGAL, and is not safe.
smmuv3::RawSte SafeBits(const smmuv3::RawSte& a, const smmuv3::RawSte& b);

// Turns the entry in `slot` into `target`, whose bits that do not count are 0. Nobody else writes there meanwhile.
SteChange UpdateSte(SteSlot& slot, const smmuv3::RawSte& target);

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_STE_UPDATE_H_
