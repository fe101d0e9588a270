#include "agent/smmuv3/vsmmu/invalidation_commands.h"

#include <algorithm>
#include <bit>

namespace viommu::agent {
namespace {

using smmuv3::Command;

// NUM and SCALE (IHI 0070, 4.4.1.1): (NUM + 1) << SCALE granules.
constexpr uint64_t kMaxUnits = 32;
constexpr uint32_t kMaxScale = 31;
constexpr uint32_t kAtcPageLog2 = 12;

}  // namespace

void AppendTlbi(const Command& page, const Command& all, uint64_t address, uint64_t length, smmuv3::Granule granule,
                bool ril, std::vector<smmuv3::RawCommand>& out) {
  const uint32_t shift = static_cast<uint32_t>(granule);
  uint64_t pages = length >> shift;
  Command command = page;
  if (!ril) {
    if (pages > kMaxSinglePages) {
      out.push_back(Encode(all));
      return;
    }
    for (; pages > 0; --pages, address += uint64_t{1} << shift) {
      command.address = address;
      out.push_back(Encode(command));
    }
    return;
  }
  while (pages > 0) {
    // From the lowest bits up, as many as NUM holds.
    const uint32_t scale = std::min<uint32_t>(static_cast<uint32_t>(std::countr_zero(pages)), kMaxScale);
    const uint64_t units = scale < kMaxScale ? (pages >> scale) & (kMaxUnits - 1) : std::min(pages >> scale, kMaxUnits);
    command.address = address;
    command.scale = static_cast<uint8_t>(scale);
    command.num = static_cast<uint8_t>(units - 1);
    // A single granule with a TG would be reserved without a level hint; without TG it is a page all the same.
    const bool single = scale == 0 && units == 1;
    command.tg = single ? 0 : static_cast<uint8_t>(smmuv3::CommandTgCodec::Encode(granule));
    out.push_back(Encode(command));
    address += units << scale << shift;
    pages -= units << scale;
  }
}

Command AtcInvalidation(uint32_t sid, uint64_t address, uint64_t length) {
  const uint64_t first = address >> kAtcPageLog2;
  const uint64_t last = (address + (length - 1)) >> kAtcPageLog2;
  // Bits in which first and last page differ are below the size.
  const auto log2 = static_cast<uint32_t>(std::bit_width(first ^ last));
  Command command = {.opcode = smmuv3::Opcode::kAtcInv, .sid = sid};
  if (log2 >= smmuv3::kAtcSizeAll) {
    command.size = smmuv3::kAtcSizeAll;
    return command;
  }
  command.address = first >> log2 << log2 << kAtcPageLog2;
  command.size = static_cast<uint8_t>(log2);
  return command;
}

Command AllAtcInvalidation(uint32_t sid) {
  return {.opcode = smmuv3::Opcode::kAtcInv, .sid = sid, .size = smmuv3::kAtcSizeAll};
}

}  // namespace viommu::agent
