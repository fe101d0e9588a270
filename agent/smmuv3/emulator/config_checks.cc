#include "agent/smmuv3/emulator/config_checks.h"

#include <algorithm>

namespace viommu::smmuv3 {
namespace {

constexpr uint32_t kNarrowBits = 48;  // widest address of tables with small granules
constexpr uint32_t kWideBits = 52;
constexpr uint8_t kMaxTsz = 39;
// Tables begin at least 64-byte aligned where addresses have 52 bits.
constexpr uint64_t kWideTableAlignment = 64;

constexpr uint64_t LowBits(uint32_t count) { return (uint64_t{1} << count) - 1; }

bool IsSupported(Granule granule, const Features& f) {
  switch (granule) {
    case Granule::k4k:
      return f.gran4k;
    case Granule::k16k:
      return f.gran16k;
    case Granule::k64k:
      return f.gran64k;
    case Granule::kReserved:
      break;
  }
  return false;
}

bool IsSupported(bool big_endian, const Features& f) {
  return f.table_endianness != (big_endian ? TableEndianness::kLittle : TableEndianness::kBig);
}

// What tables of this granule can hold of an address.
uint32_t OutputBits(uint8_t coded, Granule granule, const Features& f) {
  const uint32_t bits = OutputBits(coded, f);
  return granule == Granule::k64k ? bits : std::min(bits, kNarrowBits);
}

uint64_t AlignTable(uint64_t ttb, Granule granule, uint32_t level, uint32_t input_bits, uint32_t output_bits) {
  const uint64_t bytes = uint64_t{kDescriptorBytes} << (input_bits - LevelShift(granule, level));
  const uint64_t alignment = std::max(bytes, output_bits == kWideBits ? kWideTableAlignment : 1);
  return ttb & ~(alignment - 1);
}

Illegality CheckStage2(const Ste& ste, const Features& f) {
  if (!ste.s2_aa64 || !f.aarch64) return "S2AA64: the table format is not supported";
  const Granule granule = Tg0Codec::Decode(ste.s2_tg);
  if (!IsSupported(granule, f)) return "S2TG: the granule is reserved or not supported";
  const uint32_t widest = granule == Granule::k64k ? kWideBits : kNarrowBits;
  if (ste.s2_t0sz > kMaxTsz || 64u - ste.s2_t0sz > std::min(widest, f.oas_bits)) return "S2T0SZ is out of range";
  const std::optional<uint32_t> level = Stage2StartLevel(granule, ste.s2_sl0);
  if (!level.has_value() || !Stage2StartAllowed(granule, *level, f.oas_bits)) {
    return "S2SL0: there is no such start level";
  }
  if (!Stage2ConcatenationLog2(granule, *level, 64u - ste.s2_t0sz).has_value()) {
    return "S2SL0 does not go with S2T0SZ and S2TG";
  }
  if ((ste.s2_ttb & ~LowBits(OutputBits(ste.s2_ps, granule, f))) != 0) return "S2TTB is wider than S2PS";
  if (!IsSupported(ste.s2_endi, f)) return "S2ENDI: the byte order is not supported";
  if (ste.s2_ha || ste.s2_hd) return "S2HA, S2HD: there are no hardware updates of descriptors";
  if (f.stall_model == StallModel::kTerminate && ste.s2_stall) return "S2S: transactions cannot stall";
  if (f.stall_model == StallModel::kStall && !ste.s2_stall) return "S2S: transactions always stall";
  if (f.ats && ste.eats == kEatsTranslate && ste.s2_stall) return "EATS and S2S exclude each other";
  return nullptr;
}

Illegality CheckTable(const CdTable& table, const Cd& cd, const Features& f) {
  if (!IsSupported(table.granule, f)) return "TGx: the granule is reserved or not supported";
  const uint8_t smallest = f.vax && table.granule == Granule::k64k ? 64 - kWideBits : 64 - kNarrowBits;
  if (table.tsz < smallest || table.tsz > kMaxTsz) return "TxSZ is out of range";
  if ((table.ttb & ~LowBits(OutputBits(cd.ips, table.granule, f))) != 0) return "TTBx is wider than IPS";
  return nullptr;
}

}  // namespace

uint32_t OutputBits(uint8_t coded, const Features& f) {
  static constexpr uint32_t kBits[] = {32, 36, 40, 42, 44, 48, 52, 52};
  return std::min(kBits[coded & 7], f.oas_bits);
}

StreamWorld StreamWorldOf(const Ste& ste, bool e2h, const Features& f) {
  // With a stage 2, or without the choice, it is the regime of the kernel of a VM.
  if (!f.hyp || ste.config != SteConfig::kStage1 || ste.strw != Strw::kNsEl2) return StreamWorld::kNsEl1;
  return e2h ? StreamWorld::kEl2E2h : StreamWorld::kEl2;
}

Illegality CheckSte(const Ste& ste, const Features& f) {
  if (!ste.valid) return "V is 0";
  const bool stage1 = HasStage1(ste);
  const bool stage2 = HasStage2(ste);
  // Abort, the reserved values that behave like it, and bypass look at nothing else.
  if (!stage1 && !stage2) return nullptr;
  if (stage1 && !f.stage1) return "Config: there is no stage 1";
  if (stage2 && !f.stage2) return "Config: there is no stage 2";
  if (stage1) {
    if (f.ssid_bits != 0) {
      if (ste.s1_cd_max > f.ssid_bits) return "S1CDMax is larger than SSIDSIZE";
      if (ste.s1_cd_max != 0 && ste.s1_fmt != S1Fmt::kLinear && !f.two_level_cd) return "S1Fmt: CD tables are linear";
    }
    if (ste.s1_stalld && f.stall_model != StallModel::kStallOrTerminate) return "S1STALLD: stalling is no choice";
    const bool strw_counts = f.hyp && !stage2;
    if (strw_counts && ste.strw != Strw::kNsEl1 && ste.strw != Strw::kNsEl2) return "STRW is reserved";
    if (!stage2 && (ste.s1_context_ptr & ~LowBits(f.oas_bits)) != 0) return "S1ContextPtr is wider than OAS";
  }
  if (stage2) {
    if (const Illegality why = CheckStage2(ste, f); why != nullptr) return why;
  }
  constexpr uint8_t kEatsSplitStage = 2;
  if (f.ats && ste.eats == kEatsSplitStage) return "EATS: there is no split-stage ATS";
  const bool vmid_counts = f.stage2 && StreamWorldOf(ste, false, f) == StreamWorld::kNsEl1;
  if (vmid_counts && f.vmid_bits < 16 && (ste.s2_vmid >> f.vmid_bits) != 0) return "S2VMID is too wide";
  return nullptr;
}

Illegality CheckCd(const Cd& cd, const Ste& ste, bool e2h, const Features& f) {
  if (!cd.valid) return "V is 0";
  if (!cd.aa64 || !f.aarch64) return "AA64: the table format is not supported";
  const StreamWorld world = StreamWorldOf(ste, e2h, f);
  const bool two_tables = world != StreamWorld::kEl2;
  const bool walks0 = !two_tables || !cd.ttb0.disabled;
  const bool walks1 = two_tables && !cd.ttb1.disabled;
  if (walks0) {
    if (const Illegality why = CheckTable(cd.ttb0, cd, f); why != nullptr) return why;
  }
  if (walks1) {
    if (const Illegality why = CheckTable(cd.ttb1, cd, f); why != nullptr) return why;
  }
  if ((walks0 || walks1) && !IsSupported(cd.big_endian, f)) return "ENDI: the byte order is not supported";
  if (cd.ha || cd.hd) return "HA, HD: there are no hardware updates of descriptors";
  if (f.stall_model == StallModel::kStallOrTerminate && ste.s1_stalld && cd.stall) return "S: STE.S1STALLD is set";
  if (f.stall_model == StallModel::kTerminate && cd.stall) return "S: transactions cannot stall";
  if (f.stall_model == StallModel::kStall && !cd.stall) return "S: transactions always stall";
  if (f.terminate_aborts && !cd.abort) return "A: there is no RAZ/WI";
  if (two_tables && f.asid_bits < 16 && (cd.asid >> f.asid_bits) != 0) return "ASID is too wide";
  return nullptr;
}

TableTree Stage2Tree(const Ste& ste, const Features& f) {
  TableTree tree;
  tree.stage2 = true;
  tree.granule = Tg0Codec::Decode(ste.s2_tg);
  tree.input_bits = 64u - ste.s2_t0sz;
  tree.start_level = Stage2StartLevel(tree.granule, ste.s2_sl0).value_or(kLastLevel);
  tree.output_bits = OutputBits(ste.s2_ps, tree.granule, f);
  tree.base = AlignTable(ste.s2_ttb, tree.granule, tree.start_level, tree.input_bits, tree.output_bits);
  tree.wide = f.oas_bits == kWideBits;
  tree.big_endian = ste.s2_endi;
  tree.access_flag_faults = !ste.s2_affd;
  return tree;
}

TableTree Stage1Tree(const CdTable& table, const Cd& cd, const Features& f) {
  TableTree tree;
  tree.granule = table.granule;
  tree.input_bits = 64u - table.tsz;
  tree.start_level = Stage1Start(table.granule, tree.input_bits);
  tree.output_bits = OutputBits(cd.ips, table.granule, f);
  tree.base = AlignTable(table.ttb, tree.granule, tree.start_level, tree.input_bits, tree.output_bits);
  tree.wide = f.oas_bits == kWideBits;
  tree.big_endian = cd.big_endian;
  tree.access_flag_faults = !cd.affd;
  tree.ignore_limits = f.had && table.had;
  return tree;
}

}  // namespace viommu::smmuv3
