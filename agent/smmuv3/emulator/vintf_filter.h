// What a virtual interface of the CMDQV does to a command before the SMMU sees it (agent/smmuv3/spec/cmdqv.h).
//
// An interface that a guest owns carries CMD_TLBI_NH_ASID, CMD_TLBI_NH_VA, CMD_ATC_INV and CMD_SYNC. The VMID of the
// interface takes the place of the command's; the StreamID of a CMD_ATC_INV is looked up in the SID slots. The host's
// own (HYP_OWN) carries all commands unchanged. On both, a CMD_SYNC has no signal: completion is polled.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_VINTF_FILTER_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_VINTF_FILTER_H_

#include <array>
#include <cstdint>
#include <optional>

#include "agent/smmuv3/spec/cmdqv.h"
#include "agent/smmuv3/spec/words.h"

namespace viommu::smmuv3 {

// One pair of SID_MATCH and SID_REPLACE.
struct SidSlot {
  uint32_t virt_sid = 0;  // 20 bits
  uint32_t sid = 0;
};

// The configuration of an interface, as far as commands meet it.
struct VintfFilter {
  uint16_t vmid = 0;
  bool hyp_own = false;
  std::array<std::optional<SidSlot>, cmdqv::kMaxSidSlots> slots;

  // The command that the SMMU is to carry out; nothing when this interface does not carry it. Bits that the interface
  // has no say in stay as they are: whether they are legal is the SMMU's to say.
  std::optional<RawCommand> Rewrite(const RawCommand& raw) const;
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_VINTF_FILTER_H_
