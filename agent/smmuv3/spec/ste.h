// Stream table entries (IHI 0070, 5.2): the part that a guest writes (vSTE) with Linux's rules for it, and the physical
// entry that comes out of it.

#ifndef VIOMMU_AGENT_SMMUV3_SPEC_STE_H_
#define VIOMMU_AGENT_SMMUV3_SPEC_STE_H_

#include <array>
#include <cstdint>
#include <string>

#include "agent/smmuv3/spec/bits.h"
#include "agent/smmuv3/spec/granule.h"
#include "agent/smmuv3/spec/words.h"

namespace viommu::smmuv3 {

// A physical stream table entry: 64 bytes.
struct RawSte {
  std::array<uint64_t, 8> dw = {};

  friend bool operator==(const RawSte&, const RawSte&) = default;
};

// STE.Config, bits 3:1 of the first word.
enum class SteConfig : uint8_t {
  kAbort = 0,
  kBypass = 4,
  kStage1 = 5,
  kStage2 = 6,
  kNested = 7,  // stage 1, then stage 2
};

namespace ste {
// First word.
inline constexpr BitField kValid{0, 0};
inline constexpr BitField kConfig{3, 1};
inline constexpr BitField kS1Fmt{5, 4};
inline constexpr BitField kS1ContextPtr{51, 6};  // in place: the address without its low 6 bits
inline constexpr BitField kS1CdMax{63, 59};
// Second word.
inline constexpr BitField kS1Dss{1, 0};
inline constexpr BitField kS1Cir{3, 2};
inline constexpr BitField kS1Cor{5, 4};
inline constexpr BitField kS1Csh{7, 6};
inline constexpr BitField kDre{12, 12};
inline constexpr BitField kCont{16, 13};
inline constexpr BitField kDcp{17, 17};
inline constexpr BitField kPpar{18, 18};
inline constexpr BitField kMev{19, 19};
inline constexpr BitField kS2Fwb{25, 25};
inline constexpr BitField kS1Mpam{26, 26};
inline constexpr BitField kS1Stalld{27, 27};
inline constexpr BitField kEats{29, 28};
inline constexpr BitField kStrw{31, 30};
inline constexpr BitField kMemAttr{35, 32};
inline constexpr BitField kMtCfg{36, 36};
inline constexpr BitField kAllocCfg{40, 37};
inline constexpr BitField kShCfg{45, 44};
inline constexpr BitField kNsCfg{47, 46};
inline constexpr BitField kPrivCfg{49, 48};
inline constexpr BitField kInstCfg{51, 50};
// Third word.
inline constexpr BitField kS2Vmid{15, 0};
inline constexpr BitField kVtcr{50, 32};  // the seven fields from S2T0SZ to S2PS together
inline constexpr BitField kS2T0Sz{37, 32};
inline constexpr BitField kS2Sl0{39, 38};
inline constexpr BitField kS2Ir0{41, 40};
inline constexpr BitField kS2Or0{43, 42};
inline constexpr BitField kS2Sh0{45, 44};
inline constexpr BitField kS2Tg{47, 46};  // coded as Tg0Codec
inline constexpr BitField kS2Ps{50, 48};  // coded as IDR5.OAS
inline constexpr BitField kS2Aa64{51, 51};
inline constexpr BitField kS2Endi{52, 52};
inline constexpr BitField kS2Affd{53, 53};
inline constexpr BitField kS2Ptw{54, 54};
inline constexpr BitField kS2Hd{55, 55};
inline constexpr BitField kS2Ha{56, 56};
inline constexpr BitField kS2S{57, 57};
inline constexpr BitField kS2R{58, 58};
// Fourth word.
inline constexpr BitField kS2Ttb{51, 4};  // in place
}  // namespace ste

// STE.EATS (5.2): what becomes of ATS requests.
inline constexpr uint8_t kEatsAbort = 0;
inline constexpr uint8_t kEatsTranslate = 1;
// STE.SHCFG: the shareability that came in.
inline constexpr uint8_t kShCfgIncoming = 1;

// STE.S1Fmt: how the table of context descriptors is built.
enum class S1Fmt : uint8_t { kLinear = 0, kTwoLevel4k = 1, kTwoLevel64k = 2, kReserved = 3 };
// STE.S1DSS: what becomes of transactions without a SubstreamID where S1CDMax is not 0.
enum class S1Dss : uint8_t { kTerminate = 0, kBypass = 1, kSsid0 = 2, kReserved = 3 };
// STE.STRW: which translation regime stage 1 belongs to.
enum class Strw : uint8_t { kNsEl1 = 0, kReserved = 1, kNsEl2 = 2, kReserved3 = 3 };

// An entry taken apart.
struct Ste {
  bool valid = false;
  SteConfig config = SteConfig::kAbort;
  // Stage 1.
  S1Fmt s1_fmt = S1Fmt::kLinear;
  uint64_t s1_context_ptr = 0;  // 64-byte aligned; an IPA where there is a stage 2
  uint8_t s1_cd_max = 0;        // log2 of the number of context descriptors
  S1Dss s1_dss = S1Dss::kTerminate;
  uint8_t s1_cir = 0, s1_cor = 0, s1_csh = 0;
  bool s1_stalld = false;
  Strw strw = Strw::kNsEl1;
  // Transactions.
  bool dre = false;
  uint8_t cont = 0;
  bool dcp = false, ppar = false, mev = false, s1_mpam = false;
  uint8_t eats = 0;
  uint8_t mem_attr = 0;
  bool mt_cfg = false;
  uint8_t alloc_cfg = 0, sh_cfg = 0, ns_cfg = 0, priv_cfg = 0, inst_cfg = 0;
  // Stage 2.
  uint16_t s2_vmid = 0;
  uint8_t s2_t0sz = 0, s2_sl0 = 0, s2_ir0 = 0, s2_or0 = 0, s2_sh0 = 0, s2_tg = 0, s2_ps = 0;
  bool s2_aa64 = false, s2_endi = false, s2_affd = false, s2_ptw = false, s2_hd = false, s2_ha = false;
  bool s2_stall = false, s2_record = false, s2_fwb = false;
  uint64_t s2_ttb = 0;  // 16-byte aligned

  friend bool operator==(const Ste&, const Ste&) = default;
};

// "nested", "two-level-64K"...; "reserved" for values that mean nothing.
const char* ToString(SteConfig config);
const char* ToString(S1Fmt format);
const char* ToString(S1Dss dss);
const char* ToString(Strw strw);

// Never fails: what a value means is the reader's business (CheckSte() in agent/smmuv3/emulator/config.h).
Ste DecodeSte(const RawSte& raw);
RawSte EncodeSte(const Ste& entry);
// The bits that are a field of Ste. All others are reserved, left to software, or belong to what is not modelled.
RawSte SteDefinedBits();
// "STE{V Config=nested ... S1ContextPtr=0x1000 S2VMID=3 S2TTB=0x...}", for people.
std::string ToString(const Ste& entry);

// A level-1 stream table descriptor (5.1).
inline constexpr uint32_t kSteBytes = 64;
inline constexpr uint32_t kSteL1Bytes = 8;
namespace ste_l1 {
inline constexpr BitField kSpan{4, 0};
inline constexpr BitField kL2Ptr{51, 6};  // in place
}  // namespace ste_l1

struct SteL1 {
  uint8_t span = 0;     // 0: there is no table; 1 to 11: it has 2^(span - 1) entries; above: reserved, as 0
  uint64_t l2_ptr = 0;  // physical address of the table, 64-byte aligned here, by its own size in truth

  friend bool operator==(const SteL1&, const SteL1&) = default;
};

constexpr SteL1 DecodeSteL1(uint64_t raw) {
  return {static_cast<uint8_t>(ste_l1::kSpan.Get(raw)), raw & ste_l1::kL2Ptr.mask()};
}
constexpr uint64_t EncodeSteL1(const SteL1& entry) {
  return ste_l1::kSpan.Set(entry.l2_ptr & ste_l1::kL2Ptr.mask(), entry.span);
}

// ---- What a guest wrote -------------------------------------------------------------------------------------------

// The bits that Linux takes from a guest's entry (include/uapi/linux/iommufd.h, struct iommu_hwpt_arm_smmuv3); a VMM
// clears all others before it hands an entry over.
inline constexpr RawVste kVsteAllowed = {0xf80f'ffff'ffff'ffff, 0x0000'0000'3800'00ff};

// The rule of Linux that a vSTE breaks, in the order in which Linux looks. An entry with V = 0 breaks none.
enum class VsteRule : uint8_t {
  kNone,            // acceptable
  kReservedWord0,   // a bit of the first word outside kVsteAllowed
  kReservedWord1,   // a bit of the second word outside kVsteAllowed
  kConfigStage2,    // Config 6 or 7: stage 2 is the host's
  kConfigReserved,  // Config 1, 2 or 3
  kEats,            // EATS 2 or 3
};

VsteRule ValidateVste(uint64_t dw0, uint64_t dw1);
inline VsteRule ValidateVste(const RawVste& vste) { return ValidateVste(vste.dw0, vste.dw1); }

// For people: the rule, and the way out.
const char* DescribeVsteRule(VsteRule rule);

enum class VsteKind : uint8_t { kAbort, kBypass, kTranslate };

// What a valid vSTE asks for; V = 0 asks for abort.
VsteKind VsteKindOf(const RawVste& vste);

// The plainest vSTEs of the two kinds that need no stage 1.
inline constexpr RawVste kAbortVste = {ste::kValid.mask(), 0};
inline constexpr RawVste kBypassVste = {ste::kConfig.Set(ste::kValid.mask(), static_cast<uint64_t>(SteConfig::kBypass)),
                                        0};

// ---- What the SMMU reads ------------------------------------------------------------------------------------------

// The host's half of an entry with a stage 2.
struct Stage2Config {
  uint16_t vmid = 0;
  uint32_t vtcr = 0;   // STE.VTCR, 19 bits
  uint64_t s2ttb = 0;  // physical address of the tables, 16-byte aligned
  bool fwb = false;    // STE.S2FWB
  bool shcfg_incoming = true;

  friend bool operator==(const Stage2Config&, const Stage2Config&) = default;
};

// STE.VTCR for tables of `granule` with an input as wide as the output: `oas_bits` as in Features::oas_bits. 52 bits,
// which tables of 4 and 16 KiB reach with IDR5.DS alone, are taken as 48 there; fewer than 32 as 32. The walk starts at
// the deepest level that reaches so far, with up to 16 first tables side by side (spec/descriptor.h).
uint32_t Vtcr(Granule granule, uint32_t oas_bits);
inline uint32_t Vtcr4k(uint32_t oas_bits) { return Vtcr(Granule::k4k, oas_bits); }

// Every access is aborted.
RawSte MakeAbortSte();
// Stage 2 alone; `ats` lets ATS requests through.
RawSte MakeStage2Ste(const Stage2Config& stage2, bool ats);
// The entry for a valid vSTE: abort, stage 2 alone, or both stages. `ats_capable` is whether the host lets the device
// use ATS; with both stages the guest must also ask for it, because it then owes the CMD_ATC_INVs.
RawSte MakeNestedSte(const RawVste& vste, const Stage2Config& stage2, bool ats_capable);

SteConfig ConfigOf(const RawSte& entry);
bool IsValid(const RawSte& entry);
uint16_t VmidOf(const RawSte& entry);
bool AtsEnabled(const RawSte& entry);

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_SPEC_STE_H_
