#include "agent/smmuv3/spec/id_registers.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "agent/smmuv3/spec/bits.h"
#include "agent/smmuv3/spec/layout.h"

namespace viommu::smmuv3 {
namespace {

// IDR5.OAS; value 7 (56 bits) belongs to SMMUv3.4 with 128-bit descriptors, which are not modelled.
struct OasCodec {
  static constexpr uint32_t kBits[] = {32, 36, 40, 42, 44, 48, 52};
  static constexpr uint32_t Decode(uint64_t value) { return value < std::size(kBits) ? kBits[value] : 0; }
  static constexpr uint64_t Encode(uint32_t bits) {
    uint64_t value = 0;
    while (value + 1 < std::size(kBits) && kBits[value + 1] <= bits) ++value;
    return value;
  }
};

// ASID16 and VMID16.
struct Wide16Codec {
  static constexpr uint32_t Decode(uint64_t value) { return value != 0 ? 16 : 8; }
  static constexpr uint64_t Encode(uint32_t bits) { return bits >= 16; }
};

// A number that has a largest value, below what its field could hold.
template <uint32_t kMax>
struct CappedCodec {
  static constexpr uint32_t Decode(uint64_t value) { return static_cast<uint32_t>(std::min<uint64_t>(value, kMax)); }
  static constexpr uint64_t Encode(uint32_t value) { return std::min(value, kMax); }
};

// A field of which one value means something.
struct IsOneCodec {
  static constexpr bool Decode(uint64_t value) { return value == 1; }
  static constexpr uint64_t Encode(bool value) { return value; }
};

// The one description of the layouts (spec/layout.h).
template <typename AnyFeatures, typename Visitor>
constexpr void VisitFields(AnyFeatures& f, Visitor& visit) {
  visit.Value("S2P", f.stage2, 0, BitField{0, 0});
  visit.Value("S1P", f.stage1, 0, BitField{1, 1});
  visit.Value("TTF-AArch32", f.aarch32, 0, BitField{2, 2});
  visit.Value("TTF-AArch64", f.aarch64, 0, BitField{3, 3});
  visit.Value("COHACC", f.coherent, 0, BitField{4, 4});
  visit.Value("HYP", f.hyp, 0, BitField{9, 9});
  visit.Value("ATS", f.ats, 0, BitField{10, 10});
  visit.Coded("ASID-bits", f.asid_bits, 0, BitField{12, 12}, Wide16Codec{});
  visit.Value("MSI", f.msi, 0, BitField{13, 13});
  visit.Value("SEV", f.sev, 0, BitField{14, 14});
  visit.Value("PRI", f.pri, 0, BitField{16, 16});
  visit.Coded("VMID-bits", f.vmid_bits, 0, BitField{18, 18}, Wide16Codec{});
  visit.Value("CD2L", f.two_level_cd, 0, BitField{19, 19});
  visit.Value("TTENDIAN", f.table_endianness, 0, BitField{22, 21});
  visit.Value("STALL_MODEL", f.stall_model, 0, BitField{25, 24});
  visit.Value("TERM_MODEL", f.terminate_aborts, 0, BitField{26, 26});
  visit.Coded("ST_LEVEL", f.two_level_st, 0, BitField{28, 27}, IsOneCodec{});
  visit.Coded("SIDSIZE", f.sid_bits, 1, BitField{5, 0}, CappedCodec<32>{});
  visit.Coded("SSIDSIZE", f.ssid_bits, 1, BitField{10, 6}, CappedCodec<20>{});
  visit.Coded("PRIQS", f.priq_log2_size, 1, BitField{15, 11}, CappedCodec<19>{});
  visit.Coded("EVENTQS", f.eventq_log2_size, 1, BitField{20, 16}, CappedCodec<19>{});
  visit.Coded("CMDQS", f.cmdq_log2_size, 1, BitField{25, 21}, CappedCodec<19>{});
  visit.Value("ATTR_PERMS_OVR", f.override_perms, 1, BitField{26, 26});
  visit.Value("ATTR_TYPES_OVR", f.override_types, 1, BitField{27, 27});
  visit.Value("HAD", f.had, 3, BitField{2, 2});
  visit.Value("XNX", f.xnx, 3, BitField{4, 4});
  visit.Value("FWB", f.fwb, 3, BitField{8, 8});
  visit.Value("RIL", f.ril, 3, BitField{10, 10});
  visit.Value("BBML", f.bbml, 3, BitField{12, 11});
  visit.Coded("OAS-bits", f.oas_bits, 5, BitField{2, 0}, OasCodec{});
  visit.Value("GRAN4K", f.gran4k, 5, BitField{4, 4});
  visit.Value("GRAN16K", f.gran16k, 5, BitField{5, 5});
  visit.Value("GRAN64K", f.gran64k, 5, BitField{6, 6});
  visit.Value("DS", f.ds, 5, BitField{7, 7});
  visit.Coded("VAX", f.vax, 5, BitField{11, 10}, IsOneCodec{});
  visit.Value("STALL_MAX", f.stall_max, 5, BitField{31, 16});
}

constexpr bool Disjoint() {
  LayoutMasker<IdRegisters> masker;
  const Features features;
  VisitFields(features, masker);
  return masker.disjoint;
}
static_assert(Disjoint());

// SMMU_IIDR (6.3.7)
constexpr BitField kIidrProduct{31, 20}, kIidrVariant{19, 16}, kIidrRevision{15, 12}, kIidrImplementer{11, 0};
constexpr uint32_t kImplementerArm = 0x43b;
constexpr uint32_t kProductMmu600 = 0x483;
constexpr uint32_t kProductMmu700 = 0x487;

}  // namespace

const char* ToString(StallModel model) {
  switch (model) {
    case StallModel::kStallOrTerminate:
      return "stall-or-terminate";
    case StallModel::kTerminate:
      return "terminate";
    case StallModel::kStall:
      return "stall";
    case StallModel::kReserved:
      break;
  }
  return "reserved";
}

const char* ToString(TableEndianness endianness) {
  switch (endianness) {
    case TableEndianness::kMixed:
      return "mixed";
    case TableEndianness::kLittle:
      return "little";
    case TableEndianness::kBig:
      return "big";
    case TableEndianness::kReserved:
      break;
  }
  return "reserved";
}

Features DecodeIdRegisters(const IdRegisters& idr) {
  Features features;
  LayoutDecoder<IdRegisters> decoder{idr};
  VisitFields(features, decoder);
  return features;
}

IdRegisters EncodeIdRegisters(const Features& features) {
  LayoutEncoder<IdRegisters> encoder;
  VisitFields(features, encoder);
  return encoder.words;
}

std::string ToString(const Features& features) {
  LayoutPrinter printer("IDR");
  VisitFields(features, printer);
  return std::move(printer).Finish();
}

bool CanNest(const Features& features, uint32_t iidr) {
  if (!features.stage1 || !features.stage2) return false;
  if (kIidrImplementer.Get(iidr) != kImplementerArm) return true;
  const uint64_t variant = kIidrVariant.Get(iidr);
  const uint64_t revision = kIidrRevision.Get(iidr);
  if (kIidrProduct.Get(iidr) == kProductMmu600) return variant >= 2;
  if (kIidrProduct.Get(iidr) == kProductMmu700) return variant >= 1 && revision >= 1;
  return true;
}

}  // namespace viommu::smmuv3
