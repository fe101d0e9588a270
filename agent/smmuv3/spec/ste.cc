#include "agent/smmuv3/spec/ste.h"

#include <algorithm>
#include <utility>

#include "agent/smmuv3/spec/descriptor.h"
#include "agent/smmuv3/spec/layout.h"

namespace viommu::smmuv3 {
namespace {

// VTCR within STE bits 178:160 (5.2, the S2T0SZ to S2PS fields).
constexpr BitField kT0Sz{5, 0}, kSl0{7, 6}, kIr0{9, 8}, kOr0{11, 10}, kSh0{13, 12}, kTg{15, 14}, kPs{18, 16};
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

// The one description of the layout (spec/layout.h).
template <typename AnySte, typename Visitor>
constexpr void VisitFields(AnySte& s, Visitor& visit) {
  visit.Value("V", s.valid, 0, ste::kValid);
  visit.Value("Config", s.config, 0, ste::kConfig);
  visit.Value("S1Fmt", s.s1_fmt, 0, ste::kS1Fmt);
  visit.Address("S1ContextPtr", s.s1_context_ptr, 0, ste::kS1ContextPtr);
  visit.Value("S1CDMax", s.s1_cd_max, 0, ste::kS1CdMax);
  visit.Value("S1DSS", s.s1_dss, 1, ste::kS1Dss);
  visit.Value("S1CIR", s.s1_cir, 1, ste::kS1Cir);
  visit.Value("S1COR", s.s1_cor, 1, ste::kS1Cor);
  visit.Value("S1CSH", s.s1_csh, 1, ste::kS1Csh);
  visit.Value("DRE", s.dre, 1, ste::kDre);
  visit.Value("CONT", s.cont, 1, ste::kCont);
  visit.Value("DCP", s.dcp, 1, ste::kDcp);
  visit.Value("PPAR", s.ppar, 1, ste::kPpar);
  visit.Value("MEV", s.mev, 1, ste::kMev);
  visit.Value("S2FWB", s.s2_fwb, 1, ste::kS2Fwb);
  visit.Value("S1MPAM", s.s1_mpam, 1, ste::kS1Mpam);
  visit.Value("S1STALLD", s.s1_stalld, 1, ste::kS1Stalld);
  visit.Value("EATS", s.eats, 1, ste::kEats);
  visit.Value("STRW", s.strw, 1, ste::kStrw);
  visit.Value("MemAttr", s.mem_attr, 1, ste::kMemAttr);
  visit.Value("MTCFG", s.mt_cfg, 1, ste::kMtCfg);
  visit.Value("ALLOCCFG", s.alloc_cfg, 1, ste::kAllocCfg);
  visit.Value("SHCFG", s.sh_cfg, 1, ste::kShCfg);
  visit.Value("NSCFG", s.ns_cfg, 1, ste::kNsCfg);
  visit.Value("PRIVCFG", s.priv_cfg, 1, ste::kPrivCfg);
  visit.Value("INSTCFG", s.inst_cfg, 1, ste::kInstCfg);
  visit.Value("S2VMID", s.s2_vmid, 2, ste::kS2Vmid);
  visit.Value("S2T0SZ", s.s2_t0sz, 2, ste::kS2T0Sz);
  visit.Value("S2SL0", s.s2_sl0, 2, ste::kS2Sl0);
  visit.Value("S2IR0", s.s2_ir0, 2, ste::kS2Ir0);
  visit.Value("S2OR0", s.s2_or0, 2, ste::kS2Or0);
  visit.Value("S2SH0", s.s2_sh0, 2, ste::kS2Sh0);
  visit.Value("S2TG", s.s2_tg, 2, ste::kS2Tg);
  visit.Value("S2PS", s.s2_ps, 2, ste::kS2Ps);
  visit.Value("S2AA64", s.s2_aa64, 2, ste::kS2Aa64);
  visit.Value("S2ENDI", s.s2_endi, 2, ste::kS2Endi);
  visit.Value("S2AFFD", s.s2_affd, 2, ste::kS2Affd);
  visit.Value("S2PTW", s.s2_ptw, 2, ste::kS2Ptw);
  visit.Value("S2HD", s.s2_hd, 2, ste::kS2Hd);
  visit.Value("S2HA", s.s2_ha, 2, ste::kS2Ha);
  visit.Value("S2S", s.s2_stall, 2, ste::kS2S);
  visit.Value("S2R", s.s2_record, 2, ste::kS2R);
  visit.Address("S2TTB", s.s2_ttb, 3, ste::kS2Ttb);
}

using Words = decltype(RawSte::dw);

constexpr LayoutMasker<Words> Mask() {
  LayoutMasker<Words> masker;
  const Ste entry;
  VisitFields(entry, masker);
  return masker;
}
static_assert(Mask().disjoint);

}  // namespace

const char* ToString(SteConfig config) {
  switch (config) {
    case SteConfig::kAbort:
      return "abort";
    case SteConfig::kBypass:
      return "bypass";
    case SteConfig::kStage1:
      return "stage-1";
    case SteConfig::kStage2:
      return "stage-2";
    case SteConfig::kNested:
      return "nested";
  }
  return "reserved";
}

const char* ToString(S1Fmt format) {
  switch (format) {
    case S1Fmt::kLinear:
      return "linear";
    case S1Fmt::kTwoLevel4k:
      return "two-level-4K";
    case S1Fmt::kTwoLevel64k:
      return "two-level-64K";
    case S1Fmt::kReserved:
      break;
  }
  return "reserved";
}

const char* ToString(S1Dss dss) {
  switch (dss) {
    case S1Dss::kTerminate:
      return "terminate";
    case S1Dss::kBypass:
      return "bypass";
    case S1Dss::kSsid0:
      return "SSID-0";
    case S1Dss::kReserved:
      break;
  }
  return "reserved";
}

const char* ToString(Strw strw) {
  switch (strw) {
    case Strw::kNsEl1:
      return "NS-EL1";
    case Strw::kNsEl2:
      return "NS-EL2";
    case Strw::kReserved:
    case Strw::kReserved3:
      break;
  }
  return "reserved";
}

Ste DecodeSte(const RawSte& raw) {
  Ste entry;
  LayoutDecoder<Words> decoder{raw.dw};
  VisitFields(entry, decoder);
  return entry;
}

RawSte EncodeSte(const Ste& entry) {
  LayoutEncoder<Words> encoder;
  VisitFields(entry, encoder);
  return {encoder.words};
}

RawSte SteDefinedBits() { return {Mask().words}; }

std::string ToString(const Ste& entry) {
  LayoutPrinter printer("STE");
  VisitFields(entry, printer);
  return std::move(printer).Finish();
}

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

uint32_t Vtcr(Granule granule, uint32_t oas_bits) {
  const uint32_t bits = std::clamp(oas_bits, 32u, granule == Granule::k64k ? 52u : 48u);
  uint64_t ps = 0;
  for (const uint32_t limit : {32u, 36u, 40u, 42u, 44u, 48u}) ps += bits > limit ? 1 : 0;
  uint64_t vtcr = 0;
  vtcr = kT0Sz.Set(vtcr, 64 - bits);
  vtcr = kSl0.Set(vtcr, Stage2Sl0(granule, Stage2DeepestStart(granule, bits)));
  vtcr = kIr0.Set(vtcr, kWriteBackAllocate);
  vtcr = kOr0.Set(vtcr, kWriteBackAllocate);
  vtcr = kSh0.Set(vtcr, kInnerShareable);
  vtcr = kTg.Set(vtcr, Tg0Codec::Encode(granule));
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
