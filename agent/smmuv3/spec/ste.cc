#include "agent/smmuv3/spec/ste.h"

#include <algorithm>

namespace viommu::smmuv3 {
namespace {

// VTCR within STE bits 178:160 (5.2, the S2T0SZ to S2PS fields).
constexpr BitField kT0Sz{5, 0}, kSl0{7, 6}, kIr0{9, 8}, kOr0{11, 10}, kSh0{13, 12}, kPs{18, 16};
constexpr uint64_t kWriteBackAllocate = 1;
constexpr uint64_t kInnerShareable = 3;

uint64_t WithConfig(uint64_t dw0, SteConfig config) {
  return ste::kConfig.Set(ste::kValid.Set(dw0, 1), static_cast<uint64_t>(config));
}

void FillStage2(RawSte& entry, const Stage2Config& s2, bool ats) {
  entry.dw[1] = ste::kEats.Set(entry.dw[1], ats ? kEatsTranslate : kEatsAbort);
  entry.dw[1] = ste::kS2Fwb.Set(entry.dw[1], s2.fwb);
  entry.dw[1] = ste::kShCfg.Set(entry.dw[1], s2.shcfg_incoming ? kShCfgIncoming : 0);
  entry.dw[2] = ste::kS2Vmid.Set(0, s2.vmid) | ste::kVtcr.Set(0, s2.vtcr) | ste::kS2Aa64.mask() | ste::kS2Ptw.mask() |
                ste::kS2R.mask();
  entry.dw[3] = s2.s2ttb & ste::kS2Ttb.mask();
}

}  // namespace

VsteRule ValidateVste(uint64_t dw0, uint64_t dw1) {
  if (ste::kValid.Get(dw0) == 0) return VsteRule::kNone;
  if ((dw0 & ~kVsteAllowed.dw0) != 0) return VsteRule::kReservedWord0;
  if ((dw1 & ~kVsteAllowed.dw1) != 0) return VsteRule::kReservedWord1;
  switch (static_cast<SteConfig>(ste::kConfig.Get(dw0))) {
    case SteConfig::kAbort:
    case SteConfig::kBypass:
    case SteConfig::kStage1:
      break;
    case SteConfig::kStage2:
    case SteConfig::kNested:
      return VsteRule::kConfigStage2;
    default:
      return VsteRule::kConfigReserved;
  }
  if (ste::kEats.Get(dw1) > kEatsTranslate) return VsteRule::kEats;
  return VsteRule::kNone;
}

const char* DescribeVsteRule(VsteRule rule) {
  switch (rule) {
    case VsteRule::kNone:
      return "the vSTE is acceptable";
    case VsteRule::kReservedWord0:
      return "word 0 has bits that a guest may not set; mask it with 0xf80fffffffffffff";
    case VsteRule::kReservedWord1:
      return "word 1 has bits that a guest may not set; mask it with 0x00000000380000ff";
    case VsteRule::kConfigStage2:
      return "Config (word 0, bits 3:1) asks for stage 2, which is the host's; use 0 (abort), 4 (bypass) or 5 (stage "
             "1)";
    case VsteRule::kConfigReserved:
      return "Config (word 0, bits 3:1) is reserved; use 0 (abort), 4 (bypass) or 5 (stage 1)";
    case VsteRule::kEats:
      return "EATS (word 1, bits 29:28) must be 0 or 1";
  }
  return "unknown rule";
}

VsteKind VsteKindOf(const RawVste& vste) {
  if (ste::kValid.Get(vste.dw0) == 0) return VsteKind::kAbort;
  switch (static_cast<SteConfig>(ste::kConfig.Get(vste.dw0))) {
    case SteConfig::kStage1:
      return VsteKind::kTranslate;
    case SteConfig::kBypass:
      return VsteKind::kBypass;
    default:
      return VsteKind::kAbort;
  }
}

uint32_t Vtcr4k(uint32_t oas_bits) {
  const uint32_t bits = std::clamp(oas_bits, 32u, 48u);
  // S2SL0 names the level at which the walk starts: 2 for level 0, 1 for level 1, 0 for level 2. Up to 16 tables of the
  // first level are joined to spare a level, which makes level 1 reach 43 bits and level 2 reach 34.
  const uint64_t start = bits > 43 ? 2 : bits > 34 ? 1 : 0;
  uint64_t ps = 0;
  for (const uint32_t limit : {32u, 36u, 40u, 42u, 44u}) ps += bits > limit ? 1 : 0;
  uint64_t vtcr = 0;
  vtcr = kT0Sz.Set(vtcr, 64 - bits);
  vtcr = kSl0.Set(vtcr, start);
  vtcr = kIr0.Set(vtcr, kWriteBackAllocate);
  vtcr = kOr0.Set(vtcr, kWriteBackAllocate);
  vtcr = kSh0.Set(vtcr, kInnerShareable);
  vtcr = kPs.Set(vtcr, ps);
  return static_cast<uint32_t>(vtcr);
}

RawSte MakeAbortSte() {
  RawSte entry;
  entry.dw[0] = WithConfig(0, SteConfig::kAbort);
  return entry;
}

RawSte MakeStage2Ste(const Stage2Config& stage2, bool ats) {
  RawSte entry;
  entry.dw[0] = WithConfig(0, SteConfig::kStage2);
  FillStage2(entry, stage2, ats);
  return entry;
}

RawSte MakeNestedSte(const RawVste& vste, const Stage2Config& stage2, bool ats_capable) {
  switch (VsteKindOf(vste)) {
    case VsteKind::kAbort:
      return MakeAbortSte();
    case VsteKind::kBypass:
      return MakeStage2Ste(stage2, ats_capable);
    case VsteKind::kTranslate:
      break;
  }
  RawSte entry;
  entry.dw[0] = WithConfig(vste.dw0, SteConfig::kNested);
  // Events that repeat are merged: a guest could otherwise flood the event queue that all VMs of the SMMU share.
  entry.dw[1] = vste.dw1 | ste::kMev.mask();
  FillStage2(entry, stage2, ats_capable && ste::kEats.Get(vste.dw1) == kEatsTranslate);
  return entry;
}

SteConfig ConfigOf(const RawSte& entry) { return static_cast<SteConfig>(ste::kConfig.Get(entry.dw[0])); }

bool IsValid(const RawSte& entry) { return ste::kValid.Get(entry.dw[0]) != 0; }

uint16_t VmidOf(const RawSte& entry) { return static_cast<uint16_t>(ste::kS2Vmid.Get(entry.dw[2])); }

bool AtsEnabled(const RawSte& entry) { return ste::kEats.Get(entry.dw[1]) == kEatsTranslate; }

}  // namespace viommu::smmuv3
