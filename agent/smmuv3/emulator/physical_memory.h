// Memory made of buffers that tests, demonstrations and VMMs supply.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_PHYSICAL_MEMORY_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_PHYSICAL_MEMORY_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>

#include "absl/base/thread_annotations.h"
#include "agent/smmuv3/emulator/in_flight.h"
#include "agent/smmuv3/emulator/memory.h"
#include "common/mutex.h"

namespace viommu::smmuv3 {

// Regions can come and go while others are accessed; accesses take no lock. An access that runs across the end of one
// region into its neighbour is fine; one that meets a hole does nothing.
//
// Bytes are moved in aligned words of 8 where both sides allow it, each of them whole, so that accesses of devices and
// of CPUs to the same words never tear.
class PhysicalMemory : public Memory {
 public:
  PhysicalMemory();
  ~PhysicalMemory() override;

  // Makes `buffer` appear at physical address `base`. The caller keeps it alive until Remove() has returned. False, and
  // nothing is changed: it is empty, not of whole words (place, base and size are multiples of 8), beyond the end of
  // the address space, or in the way of another region.
  [[nodiscard]] bool Add(uint64_t base, std::span<std::byte> buffer, bool writable = true) ABSL_LOCKS_EXCLUDED(mu_);
  // Takes the region that begins at `base` away; returns when no access is using it any more. False: there is none.
  [[nodiscard]] bool Remove(uint64_t base) ABSL_LOCKS_EXCLUDED(mu_);

  bool Read(uint64_t address, std::span<std::byte> out) override;
  bool Write(uint64_t address, std::span<const std::byte> in) override;
  bool ReadWord(uint64_t address, uint64_t& value) override;
  bool WriteWord(uint64_t address, uint64_t value) override;

 private:
  struct Region {
    std::span<std::byte> buffer;
    bool writable = true;
  };
  using Map = std::map<uint64_t, Region>;  // by base

  // Calls move(place in a buffer, bytes to move, bytes moved before) piece by piece; false when there is a hole.
  template <typename Move>
  bool ForEachPiece(uint64_t address, uint64_t length, bool write, Move move);
  // Puts `map` in place of the current one and destroys that when nobody uses it any more.
  void Publish(std::unique_ptr<const Map> map) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Mutex mu_;
  std::atomic<const Map*> map_;  // changes under mu_, owned
  InFlight accesses_;
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_PHYSICAL_MEMORY_H_
