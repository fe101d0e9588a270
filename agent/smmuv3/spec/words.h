// The two raw shapes that cross every layer of the agent: a command and the guest-visible part of a stream table entry.
//
// Both are pairs of 64-bit words in the CPU's byte order. In the SMMU's memory and in the kernel's interface the words
// are little-endian, which on every CPU that this project supports is the same bytes.

#ifndef VIOMMU_AGENT_SMMUV3_SPEC_WORDS_H_
#define VIOMMU_AGENT_SMMUV3_SPEC_WORDS_H_

#include <bit>
#include <cstdint>

namespace viommu::smmuv3 {

static_assert(std::endian::native == std::endian::little, "raw words are handed to the kernel as they are");

// One 16-byte command of the command queue (IHI 0070, 4.1).
struct RawCommand {
  uint64_t dw0 = 0;
  uint64_t dw1 = 0;

  friend bool operator==(const RawCommand&, const RawCommand&) = default;
};
static_assert(sizeof(RawCommand) == 16);

// The first two words of a stream table entry as a guest wrote it (IHI 0070, 5.2): all that the kernel takes from it.
struct RawVste {
  uint64_t dw0 = 0;
  uint64_t dw1 = 0;

  friend bool operator==(const RawVste&, const RawVste&) = default;
};
static_assert(sizeof(RawVste) == 16);

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_SPEC_WORDS_H_
