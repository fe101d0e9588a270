#include "agent/smmuv3/emulator/vintf_filter.h"

#include "agent/smmuv3/spec/command.h"
#include "common/mutation.h"

namespace viommu::smmuv3 {

std::optional<RawCommand> VintfFilter::Rewrite(const RawCommand& raw) const {
  const std::optional<Command> command = Decode(raw);
  if (!command.has_value()) return std::nullopt;
  if (command->opcode == Opcode::kSync) {
    if (command->cs != kSyncSignalNone) return std::nullopt;
    return raw;
  }
  if (hyp_own) return raw;
  RawCommand rewritten = raw;
  switch (command->opcode) {
    case Opcode::kTlbiNhAsid:
    case Opcode::kTlbiNhVa:
      if (!Mutated(Mutation::kBelieveQueueVmid)) rewritten.dw0 = kVmidField.Set(raw.dw0, vmid);
      return rewritten;
    case Opcode::kAtcInv:
      // All 32 bits are compared: a StreamID too wide for a slot matches none.
      for (const std::optional<SidSlot>& slot : slots) {
        if (!slot.has_value() || slot->virt_sid != command->sid) continue;
        rewritten.dw0 = kSidField.Set(raw.dw0, slot->sid);
        return rewritten;
      }
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

}  // namespace viommu::smmuv3
