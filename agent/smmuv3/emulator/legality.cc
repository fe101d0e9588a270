#include "agent/smmuv3/emulator/legality.h"

namespace viommu::smmuv3 {
namespace {

constexpr uint8_t kTg16k = 2;
constexpr uint8_t kScaleWithoutDs = 31;
constexpr uint8_t kPriRespReserved = 3;
constexpr uint8_t kSyncSignalReserved = 3;

// The fields of 4.4.1.1.
bool RangeIsLegal(const Command& c, const Features& f) {
  if (c.tg == 0 || !f.ril) return c.num == 0 && c.scale == 0 && c.ttl == 0 && c.tg == 0 && !c.ttl128;
  // 128-bit descriptors (IDR5.D128) are not modelled.
  if (c.ttl128 || (!f.ds && c.scale > kScaleWithoutDs)) return false;
  const bool no_such_level = c.tg == kTg16k && c.ttl == 1 && !f.ds;
  const bool hint = c.ttl != 0 && !no_such_level;
  return hint || c.num != 0 || c.scale != 0;
}

bool IsLegal(const Command& c, const Features& f) {
  if (c.ssec) return false;
  switch (c.opcode) {
    case Opcode::kCfgiCd:
    case Opcode::kCfgiCdAll:
    case Opcode::kTlbiNhAll:
    case Opcode::kTlbiNhAsid:
      return f.stage1;
    case Opcode::kTlbiNhVa:
    case Opcode::kTlbiNhVaa:
      return f.stage1 && RangeIsLegal(c, f);
    case Opcode::kTlbiEl2All:
    case Opcode::kTlbiEl2Asid:
      return f.hyp;
    case Opcode::kTlbiEl2Va:
    case Opcode::kTlbiEl2Vaa:
      return f.hyp && RangeIsLegal(c, f);
    case Opcode::kTlbiS12Vmall:
      return f.stage2;
    case Opcode::kTlbiS2Ipa:
      return f.stage2 && RangeIsLegal(c, f);
    case Opcode::kAtcInv:
      return f.ats && c.size <= kAtcSizeAll;
    case Opcode::kPriResp:
      return f.pri && c.response != kPriRespReserved;
    case Opcode::kResume:
    case Opcode::kStallTerm:
      return f.CanStall();
    case Opcode::kSync:
      return c.cs != kSyncSignalReserved;
    case Opcode::kPrefetchConfig:
    case Opcode::kPrefetchAddr:
    case Opcode::kCfgiSte:
    case Opcode::kCfgiSteRange:
    case Opcode::kTlbiNsnhAll:
      return true;
  }
  return false;
}

}  // namespace

std::optional<Command> DecodeLegal(const RawCommand& raw, const Features& features) {
  std::optional<Command> command = Decode(raw);
  if (!command.has_value()) return std::nullopt;
  const RawCommand defined = DefinedBits(command->opcode);
  const bool reserved = (raw.dw0 & ~defined.dw0) != 0 || (raw.dw1 & ~defined.dw1) != 0;
  if (reserved || !IsLegal(*command, features)) return std::nullopt;
  return command;
}

}  // namespace viommu::smmuv3
