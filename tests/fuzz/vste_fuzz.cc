// Stream table entries: what a guest hands over, the physical entry that comes out of it, and entries as they may stand
// in memory.
//
// Input: the guest's two words, the host's half, then whole entries of 64 bytes.

#include <cstdint>
#include <string>

#include "agent/smmuv3/spec/ste.h"
#include "tests/fuzz/input.h"

namespace viommu::smmuv3 {
namespace {

void CheckStage2Half(const Ste& entry, const Stage2Config& stage2) {
  FUZZ_CHECK(entry.s2_vmid == stage2.vmid);
  FUZZ_CHECK(entry.s2_ttb == (stage2.s2ttb & ste::kS2Ttb.mask()));
  FUZZ_CHECK(entry.s2_fwb == stage2.fwb);
  FUZZ_CHECK(entry.s2_aa64 && entry.s2_ptw && entry.s2_record && !entry.s2_stall && !entry.s2_endi);
}

void CheckVste(const RawVste& vste, const Stage2Config& stage2, bool ats) {
  const VsteRule rule = ValidateVste(vste);
  FUZZ_CHECK(std::string(DescribeVsteRule(rule)) != "unknown rule");
  if (rule != VsteRule::kNone) return;

  const RawSte raw = MakeNestedSte(vste, stage2, ats);
  const Ste entry = DecodeSte(raw);
  // Every bit of it is one that the layout knows.
  FUZZ_CHECK(EncodeSte(entry) == raw);
  FUZZ_CHECK(entry.valid);
  switch (VsteKindOf(vste)) {
    case VsteKind::kAbort:
      FUZZ_CHECK(raw == MakeAbortSte());
      break;
    case VsteKind::kBypass:
      FUZZ_CHECK(entry.config == SteConfig::kStage2);
      FUZZ_CHECK((entry.eats == kEatsTranslate) == ats);
      CheckStage2Half(entry, stage2);
      break;
    case VsteKind::kTranslate:
      FUZZ_CHECK(entry.config == SteConfig::kNested);
      FUZZ_CHECK(entry.mev && entry.strw == Strw::kNsEl1);
      // The guest's half is the guest's, and nothing of it reaches the host's.
      FUZZ_CHECK(((raw.dw[0] ^ vste.dw0) & ~ste::kConfig.mask()) == 0);
      FUZZ_CHECK(((raw.dw[1] ^ vste.dw1) & kVsteAllowed.dw1 & ~ste::kEats.mask()) == 0);
      FUZZ_CHECK((entry.eats == kEatsTranslate) == (ats && ste::kEats.Get(vste.dw1) == kEatsTranslate));
      CheckStage2Half(entry, stage2);
      break;
  }
}

void CheckEntry(const RawSte& raw) {
  const Ste entry = DecodeSte(raw);
  const RawSte defined = SteDefinedBits();
  RawSte expected;
  for (size_t i = 0; i < raw.dw.size(); ++i) expected.dw[i] = raw.dw[i] & defined.dw[i];
  FUZZ_CHECK(EncodeSte(entry) == expected);
  FUZZ_CHECK(DecodeSte(expected) == entry);
  FUZZ_CHECK(!ToString(entry).empty());
  for (const uint64_t word : raw.dw) {
    FUZZ_CHECK(EncodeSteL1(DecodeSteL1(word)) == (word & (ste_l1::kSpan.mask() | ste_l1::kL2Ptr.mask())));
  }
}

}  // namespace
}  // namespace viommu::smmuv3

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace viommu::smmuv3;
  viommu::fuzz::Input input(data, size);
  const auto vste = input.Take<RawVste>();
  Stage2Config stage2;
  stage2.vmid = input.Take<uint16_t>();
  stage2.vtcr = input.Take<uint32_t>();
  stage2.s2ttb = input.Take<uint64_t>();
  stage2.fwb = input.TakeFlag();
  stage2.shcfg_incoming = input.TakeFlag();
  const bool ats = input.TakeFlag();
  CheckVste(vste, stage2, ats);
  // The same with the bits taken away that a VMM takes away: far more of them are acceptable.
  CheckVste({vste.dw0 & kVsteAllowed.dw0, vste.dw1 & kVsteAllowed.dw1}, stage2, ats);
  do {
    CheckEntry(input.Take<RawSte>());
  } while (!input.empty());
  return 0;
}
