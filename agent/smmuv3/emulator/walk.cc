#include "agent/smmuv3/emulator/walk.h"

#include <bit>

namespace viommu::smmuv3 {
namespace {

constexpr uint64_t LowBits(uint32_t count) { return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1; }

uint64_t DescriptorAddress(const TableTree& tree, const WalkPosition& at, uint64_t address) {
  const uint32_t shift = LevelShift(tree.granule, at.level);
  // The first table, or the row of first tables, takes all the bits that are left.
  const uint32_t bits = at.level == tree.start_level ? tree.input_bits - shift : LevelBits(tree.granule);
  return at.table + ((address >> shift) & LowBits(bits)) * kDescriptorBytes;
}

// Bits 15:12 of a 64 KiB descriptor are reserved where addresses have no 52 bits.
uint64_t Narrowed(const TableTree& tree, uint64_t address) { return tree.wide ? address : address & LowBits(48); }

// log2 of what a leaf maps. A Contiguous bit is a hint: it is left aside where the run would reach beyond the input, or
// where the output address contradicts it.
uint32_t SpanLog2(const TableTree& tree, uint32_t level, uint64_t address, uint64_t output, RawDescriptor raw) {
  const uint32_t shift = LevelShift(tree.granule, level);
  if (descriptor::kContiguous.Get(raw) == 0) return shift;
  const uint32_t span = shift + static_cast<uint32_t>(std::countr_zero(ContiguousEntries(tree.granule, level)));
  const bool contradicted = (((output ^ address) & LowBits(span)) >> shift) != 0;
  return span > tree.input_bits || contradicted ? shift : span;
}

}  // namespace

std::variant<WalkLeaf, WalkFault> Walk(const TableTree& tree, uint64_t address, WalkPosition at, DescriptorReader read,
                                       TableObserver reached) {
  while (true) {
    const uint64_t place = DescriptorAddress(tree, at, address);
    const auto fault = [&](WalkError error) { return WalkFault{error, at.level, place}; };
    RawDescriptor raw = 0;
    switch (read(place, raw)) {
      case ReadResult::kDone:
        break;
      case ReadResult::kAbort:
        return fault(WalkError::kAbort);
      case ReadResult::kFault:
        return fault(WalkError::kNestedFault);
    }
    if (tree.big_endian) raw = __builtin_bswap64(raw);
    const DescriptorKind kind = KindOf(raw, tree.granule, at.level, tree.wide);
    if (kind == DescriptorKind::kInvalid) return fault(WalkError::kTranslation);
    if (kind == DescriptorKind::kTable) {
      const uint64_t next = Narrowed(tree, NextTableOf(raw, tree.granule));
      if ((next & ~LowBits(tree.output_bits)) != 0) return fault(WalkError::kAddressSize);
      at.level += 1;
      at.table = next;
      if (!tree.stage2 && !tree.ignore_limits) at.limits = at.limits | DecodeTableLimits(raw);
      reached(at);
      continue;
    }
    const uint64_t output = Narrowed(tree, OutputOf(raw, tree.granule, at.level));
    if ((output & ~LowBits(tree.output_bits)) != 0) return fault(WalkError::kAddressSize);
    if (tree.access_flag_faults && descriptor::kAf.Get(raw) == 0) return fault(WalkError::kAccessFlag);
    const uint32_t span = SpanLog2(tree, at.level, address, output, raw);
    return WalkLeaf{at.level, span, output & ~LowBits(span), raw, at.limits};
  }
}

}  // namespace viommu::smmuv3
