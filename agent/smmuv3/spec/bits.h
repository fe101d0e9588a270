// Bit fields of 64-bit words.

#ifndef VIOMMU_AGENT_SMMUV3_SPEC_BITS_H_
#define VIOMMU_AGENT_SMMUV3_SPEC_BITS_H_

#include <cstdint>

namespace viommu::smmuv3 {

// Bits hi:lo of a word, both inclusive; hi >= lo, hi <= 63.
struct BitField {
  uint8_t hi;
  uint8_t lo;

  constexpr uint32_t width() const { return hi - lo + 1u; }
  // The largest value that fits.
  constexpr uint64_t max() const { return ~uint64_t{0} >> (64 - width()); }
  // The bits of the word that the field takes.
  constexpr uint64_t mask() const { return max() << lo; }
  constexpr uint64_t Get(uint64_t word) const { return (word >> lo) & max(); }
  // `word` with the field set to `value`, of which only the bits that fit are taken.
  constexpr uint64_t Set(uint64_t word, uint64_t value) const { return (word & ~mask()) | ((value & max()) << lo); }
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_SPEC_BITS_H_
