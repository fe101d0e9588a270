// What the command queue asks of the machine: atomics, pauses, a clock and a wait on a word. A template parameter, so
// that a test can put a scheduler of its own in its place and drive every interleaving of a small queue.
//
// A policy has
//   Atomic<T>             with the members of std::atomic that the queue uses
//   Clock                 a std::chrono clock
//   kSpins, kYields       how often a waiter looks again before it yields, and before it sleeps
//   Relax()               a pause of some cycles
//   Yield()               lets other threads run
//   Sleep(w, v, d)        sleeps while word `w` holds `v`, at most until `d`; may return early
//   WakeAll(w)            wakes everyone in Sleep(w, ...)

#ifndef VIOMMU_AGENT_SMMUV3_QUEUE_ATOMICS_H_
#define VIOMMU_AGENT_SMMUV3_QUEUE_ATOMICS_H_

#include <atomic>
#include <chrono>
#include <cstdint>

namespace viommu::smmuv3 {

// The real machine: std::atomic and Linux's futex.
struct SystemAtomics {
  template <typename T>
  using Atomic = std::atomic<T>;
  using Clock = std::chrono::steady_clock;

  // User space can be preempted anywhere, so that whoever is waited for may not be running: spin for about a
  // microsecond, be polite for some more, then sleep.
  static constexpr int kSpins = 64;
  static constexpr int kYields = 16;

  static void Relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("isb" ::: "memory");
#endif
  }
  static void Yield();
  static void Sleep(Atomic<uint32_t>& word, uint32_t value, Clock::time_point deadline);
  static void WakeAll(Atomic<uint32_t>& word);
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_QUEUE_ATOMICS_H_
