// Sleeps on several words of memory at a time (Linux's futex_waitv(2), since 5.16).

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_WAIT_ANY_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_WAIT_ANY_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace viommu::smmuv3 {

struct WaitWord {
  const uint32_t* word = nullptr;
  uint32_t value = 0;   // sleeps only while the word holds this
  bool shared = false;  // woken by other processes, too
};

// The most words of one call.
inline constexpr size_t kMaxWaitWords = 128;

// Returns when one of the words is woken (its index), when one of them does not hold its value, at `deadline`, or for
// no reason. Where the kernel has no futex_waitv, sleeps on the first word alone.
std::optional<size_t> WaitAny(std::span<const WaitWord> words, std::chrono::steady_clock::time_point deadline);

// Wakes everyone who sleeps on the word; not shared.
void WakePrivate(const uint32_t* word);

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_WAIT_ANY_H_
