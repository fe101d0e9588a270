// Physical memory as an SMMU and the devices behind it see it: real buffers that the owner supplies.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_MEMORY_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace viommu::smmuv3 {

// Thread-safe. An access is to bytes that other threads, and other processes where the buffers are shared, may be
// accessing at the same time.
class Memory {
 public:
  virtual ~Memory() = default;

  // Copies bytes from or to physical address `address`. False, as an external abort, when a part of it is not memory
  // (or not writable); what has been copied by then is not said.
  [[nodiscard]] virtual bool Read(uint64_t address, std::span<std::byte> out) = 0;
  [[nodiscard]] virtual bool Write(uint64_t address, std::span<const std::byte> in) = 0;

  // One naturally aligned 64-bit word, single-copy atomic: never a mixture of two writes. Reads acquire, writes release
  // (what the SMMU reads after a descriptor is at least as new as the descriptor).
  [[nodiscard]] virtual bool ReadWord(uint64_t address, uint64_t& value) = 0;
  [[nodiscard]] virtual bool WriteWord(uint64_t address, uint64_t value) = 0;
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_MEMORY_H_
