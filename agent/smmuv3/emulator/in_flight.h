// Short sections of many threads, and somebody who waits until those that have begun are over.
//
// It is sleepable RCU in small: a section counts itself in on one of two sides, and who waits turns new sections to the
// other side and waits until the old one is empty. Thus sections that begin meanwhile cannot keep it waiting.
//
// Two uses here: a CMD_SYNC waits for accesses that may have used what was invalidated (IHI 0070, 4.7.3), and memory
// that is taken away waits for accesses to it.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_IN_FLIGHT_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_IN_FLIGHT_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "common/mutex.h"

namespace viommu::smmuv3 {

// Thread-safe.
class InFlight {
 public:
  // One section, from construction until End() or destruction. Must not contain a Wait() of the same InFlight, nor a
  // wait for a thread that is in one.
  class Section {
   public:
    explicit Section(InFlight& owner);
    ~Section() { End(); }
    Section(const Section&) = delete;
    Section& operator=(const Section&) = delete;

    // What was done in the section happens before the return of a Wait() that waited for it.
    void End();

   private:
    std::atomic<uint32_t>* counter_;
  };

  InFlight() = default;
  InFlight(const InFlight&) = delete;
  InFlight& operator=(const InFlight&) = delete;

  // Returns when every section is over that had begun before the call. A section that begins later sees everything that
  // the caller did before the call.
  void Wait();

 private:
  // Threads are spread over stripes, so that they rarely share a cache line. Padded, not aligned: whoever holds one of
  // these need not be aligned to cache lines for it.
  static constexpr uint32_t kStripes = 16;
  struct Stripe {
    std::array<std::atomic<uint32_t>, 2> sections = {};
    std::array<uint32_t, 30> padding = {};
  };

  std::array<Stripe, kStripes> stripes_;
  std::atomic<uint32_t> side_{0};
  Mutex waiting_;  // one at a time turns the sides
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_IN_FLIGHT_H_
