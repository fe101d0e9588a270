#include "agent/smmuv3/spec/id_registers.h"

#include <algorithm>
#include <iterator>

#include "agent/smmuv3/spec/bits.h"

namespace viommu::smmuv3 {
namespace {

// IDR5.OAS; value 7 (56 bits) belongs to SMMUv3.4 with 128-bit descriptors, which are not modelled.
constexpr uint32_t kOasBits[] = {32, 36, 40, 42, 44, 48, 52};

constexpr BitField kS2p{0, 0}, kS1p{1, 1}, kCohacc{4, 4}, kHyp{9, 9}, kAts{10, 10}, kAsid16{12, 12}, kPri{16, 16},
    kVmid16{18, 18}, kStallModel{25, 24}, kStLevel{28, 27};
constexpr uint64_t kStallModelNone = 1;
constexpr BitField kSidSize{5, 0}, kSsidSize{10, 6}, kCmdqs{25, 21};
constexpr BitField kFwb{8, 8}, kRil{10, 10};
constexpr BitField kOas{2, 0}, kGran4k{4, 4}, kGran16k{5, 5}, kGran64k{6, 6}, kDs{7, 7};

// SMMU_IIDR (6.3.7)
constexpr BitField kIidrProduct{31, 20}, kIidrVariant{19, 16}, kIidrRevision{15, 12}, kIidrImplementer{11, 0};
constexpr uint32_t kImplementerArm = 0x43b;
constexpr uint32_t kProductMmu600 = 0x483;
constexpr uint32_t kProductMmu700 = 0x487;

bool Bit(uint32_t value, BitField field) { return field.Get(value) != 0; }

}  // namespace

Features DecodeIdRegisters(const IdRegisters& idr) {
  Features f;
  f.stage2 = Bit(idr[0], kS2p);
  f.stage1 = Bit(idr[0], kS1p);
  f.coherent = Bit(idr[0], kCohacc);
  f.hyp = Bit(idr[0], kHyp);
  f.ats = Bit(idr[0], kAts);
  f.asid_bits = Bit(idr[0], kAsid16) ? 16 : 8;
  f.pri = Bit(idr[0], kPri);
  f.vmid_bits = Bit(idr[0], kVmid16) ? 16 : 8;
  f.stall = kStallModel.Get(idr[0]) != kStallModelNone;
  f.two_level_st = kStLevel.Get(idr[0]) == 1;
  f.sid_bits = static_cast<uint32_t>(std::min<uint64_t>(kSidSize.Get(idr[1]), 32));
  f.ssid_bits = static_cast<uint32_t>(std::min<uint64_t>(kSsidSize.Get(idr[1]), 20));
  f.cmdq_log2_size = static_cast<uint32_t>(std::min<uint64_t>(kCmdqs.Get(idr[1]), 19));
  f.fwb = Bit(idr[3], kFwb);
  f.ril = Bit(idr[3], kRil);
  const uint64_t oas = kOas.Get(idr[5]);
  f.oas_bits = oas < std::size(kOasBits) ? kOasBits[oas] : 0;
  f.gran4k = Bit(idr[5], kGran4k);
  f.gran16k = Bit(idr[5], kGran16k);
  f.gran64k = Bit(idr[5], kGran64k);
  f.ds = Bit(idr[5], kDs);
  return f;
}

IdRegisters EncodeIdRegisters(const Features& f) {
  IdRegisters idr = {};
  const auto set = [&idr](int reg, BitField field, uint64_t value) {
    idr[reg] = static_cast<uint32_t>(field.Set(idr[reg], value));
  };
  set(0, kS2p, f.stage2);
  set(0, kS1p, f.stage1);
  set(0, kCohacc, f.coherent);
  set(0, kHyp, f.hyp);
  set(0, kAts, f.ats);
  set(0, kAsid16, f.asid_bits >= 16);
  set(0, kPri, f.pri);
  set(0, kVmid16, f.vmid_bits >= 16);
  set(0, kStallModel, f.stall ? 0 : kStallModelNone);
  set(0, kStLevel, f.two_level_st);
  set(1, kSidSize, std::min(f.sid_bits, 32u));
  set(1, kSsidSize, std::min(f.ssid_bits, 20u));
  set(1, kCmdqs, std::min(f.cmdq_log2_size, 19u));
  set(3, kFwb, f.fwb);
  set(3, kRil, f.ril);
  uint32_t oas = 0;
  while (oas + 1 < std::size(kOasBits) && kOasBits[oas + 1] <= f.oas_bits) ++oas;
  set(5, kOas, oas);
  set(5, kGran4k, f.gran4k);
  set(5, kGran16k, f.gran16k);
  set(5, kGran64k, f.gran64k);
  set(5, kDs, f.ds);
  return idr;
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
