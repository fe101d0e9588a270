// The host's own invalidations: which commands cover a range.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_INVALIDATION_COMMANDS_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_INVALIDATION_COMMANDS_H_

#include <cstdint>
#include <vector>

#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/granule.h"
#include "agent/smmuv3/spec/id_registers.h"
#include "agent/smmuv3/spec/words.h"

namespace viommu::agent {

// Without range invalidation, more pages than this are not worth a command each; Linux draws the line here for 4 KiB
// pages.
inline constexpr uint64_t kMaxSinglePages = 512;

// Appends the commands that invalidate [address, address + length), multiples of the granule: copies of `page`, which
// is a CMD_TLBI_* by address, or, where they would be too many without `ril` (IDR3.RIL), the one command `all`.
void AppendTlbi(const smmuv3::Command& page, const smmuv3::Command& all, uint64_t address, uint64_t length,
                smmuv3::Granule granule, bool ril, std::vector<smmuv3::RawCommand>& out);

// The CMD_ATC_INV that covers [address, address + length), length > 0: the smallest aligned power of two around it.
smmuv3::Command AtcInvalidation(uint32_t sid, uint64_t address, uint64_t length);

// The CMD_ATC_INV that empties a device's cache: also of what it asked for with PASIDs, since it has none itself.
smmuv3::Command AllAtcInvalidation(uint32_t sid);

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_INVALIDATION_COMMANDS_H_
