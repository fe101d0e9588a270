// Context descriptors and the descriptors of translation tables, both of which a guest writes into its own memory.
//
// Input: context descriptors of 64 bytes, each also taken as eight words of a level-1 table and of translation tables.

#include <cstdint>
#include <string>

#include "agent/smmuv3/spec/cd.h"
#include "agent/smmuv3/spec/descriptor.h"
#include "tests/fuzz/input.h"

namespace viommu::smmuv3 {
namespace {

void CheckCd(const RawCd& raw) {
  const Cd decoded = DecodeCd(raw);
  const RawCd defined = CdDefinedBits();
  RawCd expected;
  for (size_t i = 0; i < raw.size(); ++i) expected[i] = raw[i] & defined[i];
  FUZZ_CHECK(EncodeCd(decoded) == expected);
  FUZZ_CHECK(DecodeCd(expected) == decoded);
  FUZZ_CHECK(!ToString(decoded).empty());
  FUZZ_CHECK(decoded.ttb0.ttb % 16 == 0 && decoded.ttb1.ttb % 16 == 0);
}

void CheckDescriptor(RawDescriptor raw, Granule granule, uint32_t level, bool wide) {
  const uint32_t bits = granule == Granule::k64k ? 52 : 48;
  switch (KindOf(raw, granule, level, wide)) {
    case DescriptorKind::kInvalid:
      break;
    case DescriptorKind::kTable: {
      const uint64_t next = NextTableOf(raw, granule);
      FUZZ_CHECK(next >> bits == 0 && next % (uint64_t{1} << GranuleLog2(granule)) == 0);
      const RawDescriptor again = EncodeTable(next, granule, DecodeTableLimits(raw));
      FUZZ_CHECK(NextTableOf(again, granule) == next);
      FUZZ_CHECK(DecodeTableLimits(again) == DecodeTableLimits(raw));
      FUZZ_CHECK(KindOf(again, granule, level, wide) == DescriptorKind::kTable);
      break;
    }
    case DescriptorKind::kBlock:
    case DescriptorKind::kPage: {
      const uint64_t output = OutputOf(raw, granule, level);
      FUZZ_CHECK(output >> bits == 0 && output % (uint64_t{1} << LevelShift(granule, level)) == 0);
      const RawDescriptor first = EncodeStage1Leaf(DecodeStage1Leaf(raw), output, granule, level);
      const RawDescriptor second = EncodeStage2Leaf(DecodeStage2Leaf(raw), output, granule, level);
      FUZZ_CHECK(DecodeStage1Leaf(first) == DecodeStage1Leaf(raw));
      FUZZ_CHECK(DecodeStage2Leaf(second) == DecodeStage2Leaf(raw));
      FUZZ_CHECK(OutputOf(first, granule, level) == output && OutputOf(second, granule, level) == output);
      FUZZ_CHECK(KindOf(first, granule, level, wide) == KindOf(second, granule, level, wide));
      break;
    }
  }
}

void CheckWord(uint64_t word) {
  FUZZ_CHECK(EncodeCdL1(DecodeCdL1(word)) == (word & (cd_l1::kValid.mask() | cd_l1::kL2Ptr.mask())));
  for (const Granule granule : {Granule::k4k, Granule::k16k, Granule::k64k}) {
    for (uint32_t level = 0; level <= kLastLevel; ++level) {
      CheckDescriptor(word, granule, level, false);
      CheckDescriptor(word, granule, level, true);
    }
  }
}

}  // namespace
}  // namespace viommu::smmuv3

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace viommu::smmuv3;
  viommu::fuzz::Input input(data, size);
  do {
    const auto raw = input.Take<RawCd>();
    CheckCd(raw);
    for (const uint64_t word : raw) CheckWord(word);
  } while (!input.empty());
  return 0;
}
