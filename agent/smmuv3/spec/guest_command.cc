#include "agent/smmuv3/spec/guest_command.h"

#include <optional>

#include "agent/smmuv3/spec/command.h"

namespace viommu::smmuv3 {
namespace {

constexpr uint8_t kTg16k = 2;

// The rules of 4.4.1.1 on the level hint and the range.
GuestCommandRule CheckRange(const Command& c, const Features& features) {
  if (c.tg == 0) {
    return c.num == 0 && c.scale == 0 && c.ttl == 0 ? GuestCommandRule::kNone : GuestCommandRule::kRangeWithoutTg;
  }
  if (c.num == 0 && c.scale == 0 && c.ttl == 0) return GuestCommandRule::kRangeReserved;
  if (!features.ds && (c.scale > 31 || (c.tg == kTg16k && c.ttl == 1))) return GuestCommandRule::kRangeLevel;
  return GuestCommandRule::kNone;
}

// The bits that `opcode` may use on this SMMU.
RawCommand UsableBits(Opcode opcode, const Features& features) {
  RawCommand usable = DefinedBits(opcode);
  const auto without = [&usable](const Command& fields) {
    const RawCommand raw = Encode(fields);
    usable.dw0 &= ~(raw.dw0 & ~kOpcodeField.mask());
    usable.dw1 &= ~raw.dw1;
  };
  const uint32_t no_ssid = 0xfffff;
  switch (opcode) {
    case Opcode::kTlbiNhVa:
    case Opcode::kTlbiNhVaa:
      // 128-bit descriptors are not offered to guests.
      without({.opcode = opcode, .ttl128 = true});
      if (!features.ril) without({.opcode = opcode, .num = 0x1f, .scale = 0x3f, .ttl = 3, .tg = 3});
      break;
    case Opcode::kCfgiCd:
      without({.opcode = opcode, .ssec = true});
      if (features.ssid_bits == 0) without({.opcode = opcode, .ssid = no_ssid});
      break;
    case Opcode::kCfgiCdAll:
      without({.opcode = opcode, .ssec = true});
      break;
    case Opcode::kAtcInv:
      if (features.ssid_bits == 0) without({.opcode = opcode, .ssid = no_ssid, .ssv = true, .global = true});
      break;
    default:
      break;
  }
  return usable;
}

}  // namespace

GuestCommandRule CheckGuestOpcode(uint8_t opcode) {
  if (!OpcodeOf({.dw0 = opcode, .dw1 = 0}).has_value()) return GuestCommandRule::kOpcodeUnknown;
  return DescribeGuestOpcode(opcode) == nullptr ? GuestCommandRule::kNone : GuestCommandRule::kOpcodeHost;
}

GuestCommandRule CheckGuestCommand(const RawCommand& raw, const Features& features) {
  const GuestCommandRule by_opcode = CheckGuestOpcode(OpcodeByte(raw));
  if (by_opcode != GuestCommandRule::kNone) return by_opcode;
  const std::optional<Command> decoded = Decode(raw);
  const Command& c = *decoded;
  const RawCommand usable = UsableBits(c.opcode, features);
  if ((raw.dw0 & ~usable.dw0) != 0 || (raw.dw1 & ~usable.dw1) != 0) return GuestCommandRule::kReservedBits;
  const bool wide_ssid = features.ssid_bits < 20 && (c.ssid >> features.ssid_bits) != 0;
  const bool wide_asid = features.asid_bits < 16 && (c.asid >> features.asid_bits) != 0;
  switch (c.opcode) {
    case Opcode::kAtcInv:
      if (!features.ats) return GuestCommandRule::kNoAts;
      if (c.size > kAtcSizeAll) return GuestCommandRule::kAtcSize;
      return wide_ssid ? GuestCommandRule::kSubstream : GuestCommandRule::kNone;
    case Opcode::kCfgiCd:
      return wide_ssid ? GuestCommandRule::kSubstream : GuestCommandRule::kNone;
    case Opcode::kTlbiNhAsid:
      return wide_asid ? GuestCommandRule::kAsidWidth : GuestCommandRule::kNone;
    case Opcode::kTlbiNhVa:
      if (wide_asid) return GuestCommandRule::kAsidWidth;
      return CheckRange(c, features);
    case Opcode::kTlbiNhVaa:
      return CheckRange(c, features);
    default:
      return GuestCommandRule::kNone;
  }
}

const char* DescribeGuestCommandRule(GuestCommandRule rule) {
  switch (rule) {
    case GuestCommandRule::kNone:
      return "the command is acceptable";
    case GuestCommandRule::kOpcodeUnknown:
      return "no such command on this queue";
    case GuestCommandRule::kOpcodeHost:
      return "not a command for a guest";
    case GuestCommandRule::kReservedBits:
      return "a reserved bit is set; bits of abilities that the SMMU lacks (IDR3.RIL, IDR1.SSIDSIZE) are reserved too";
    case GuestCommandRule::kNoAts:
      return "the SMMU has no ATS (IDR0.ATS); do not offer it to the guest";
    case GuestCommandRule::kAtcSize:
      return "Size must be at most 52, which means every address";
    case GuestCommandRule::kSubstream:
      return "the SubstreamID is wider than IDR1.SSIDSIZE";
    case GuestCommandRule::kAsidWidth:
      return "the ASID is wider than 8 bits and the SMMU has no 16-bit ASIDs (IDR0.ASID16)";
    case GuestCommandRule::kRangeWithoutTg:
      return "NUM, SCALE and TTL must be 0 where TG is 0";
    case GuestCommandRule::kRangeReserved:
      return "TG is set with neither a level (TTL) nor a range (NUM, SCALE)";
    case GuestCommandRule::kRangeLevel:
      return "TTL 1 with 16 KiB tables and SCALE above 31 need 52-bit addresses (IDR5.DS)";
  }
  return "unknown rule";
}

const char* DescribeGuestOpcode(uint8_t opcode) {
  switch (static_cast<Opcode>(opcode)) {
    case Opcode::kCfgiCd:
    case Opcode::kCfgiCdAll:
    case Opcode::kTlbiNhAll:
    case Opcode::kTlbiNhAsid:
    case Opcode::kTlbiNhVa:
    case Opcode::kTlbiNhVaa:
    case Opcode::kTlbiNsnhAll:
    case Opcode::kAtcInv:
      return nullptr;
    case Opcode::kPrefetchConfig:
    case Opcode::kPrefetchAddr:
      return "prefetching is a hint: leave the command out";
    case Opcode::kCfgiSte:
    case Opcode::kCfgiSteRange:
      return "a stream table entry changes by attaching the device to another nested domain";
    case Opcode::kTlbiEl2All:
    case Opcode::kTlbiEl2Asid:
    case Opcode::kTlbiEl2Va:
    case Opcode::kTlbiEl2Vaa:
      return "EL2 belongs to the host";
    case Opcode::kTlbiS12Vmall:
    case Opcode::kTlbiS2Ipa:
      return "stage 2 belongs to the host";
    case Opcode::kPriResp:
    case Opcode::kResume:
    case Opcode::kStallTerm:
      return "faults are answered through the fault queue";
    case Opcode::kSync:
      return "leave it out: an invalidation returns when everything in it has taken effect";
  }
  return "no such command on this queue";
}

}  // namespace viommu::smmuv3
