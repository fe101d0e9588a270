// What the command queue asks of the machine: atomics, pauses, a clock and a wait on a word. A template parameter, so
// that a test can put a scheduler of its own in its place and drive every interleaving of a small queue.
//
// A policy has
//   Atomic<T>             with the members of std::atomic that the queue uses
//   Counter<T>            the same, for what is only told and nothing depends on
//   Clock                 a std::chrono clock
//   kSpins, kYields       how often a waiter looks again before it yields, and before it sleeps
//   Relax()               a pause of some cycles
//   Yield()               lets other threads run
//   Sleep(w, v, d)        sleeps while word `w` holds `v`, at most until `d`; may return early
//   WakeAll(w)            wakes everyone in Sleep(w, ...)
//   Fill(a, i, f, n)      copies the `n` elements at `f` to a[i] and behind; plain stores
//   Stamp8                a byte that one thread writes and another one reads
//   Stamp(a, i, n, v)     a[i] to a[i + n - 1] become `v`, in this order or at once; each is a release store
//   CountStamped(a, i, n, v)  how many of a[i] to a[i + n - 1] hold `v`, up to the first that does not; acquires
//   PrefetchForWrite(p), PrefetchForRead(p)  hints that the cache line at `p` is used soon
//   HasHeavyFence()       whether the next two work as a pair; does not change once a queue exists
//   LightFence()          keeps this thread's stores before it from being overtaken by its loads behind it, whenever
//                         that would be noticed by a thread that
//   HeavyFence()          has called this. In other words: of two threads that each store, fence and load what the
//   other
//                         one stored, one light and one heavy, at least one sees the other's store.

#ifndef VIOMMU_AGENT_SMMUV3_QUEUE_ATOMICS_H_
#define VIOMMU_AGENT_SMMUV3_QUEUE_ATOMICS_H_

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdint>

#include "common/sanitizers.h"

namespace viommu::smmuv3 {

// The real machine: std::atomic, Linux's futex and membarrier.
struct SystemAtomics {
  template <typename T>
  using Atomic = std::atomic<T>;
  template <typename T>
  using Counter = std::atomic<T>;
  using Clock = std::chrono::steady_clock;

  // User space can be preempted anywhere, so that whoever is waited for may not be running: spin for about a
  // microsecond, be polite for some more, then sleep.
  static constexpr uint64_t kSpins = 64;
  static constexpr uint64_t kYields = 64;

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

  template <typename T>
  static void Fill(T* array, uint64_t index, const T* from, uint64_t count) {
    // Most batches are of one, for which calling memmove() costs more than copying.
    if (count == 1) {
      array[index] = *from;
    } else {
      std::copy_n(from, count, array + index);
    }
  }

  // Stamps are bytes, since each belongs to one producer, but come in runs: eight at a time where they are aligned. The
  // language has no atomics of mixed sizes; CPUs do, and the compiler makes one instruction of each of these.
  // ThreadSanitizer does not see that they meet.
  using Stamp8 = uint8_t;
  static void Stamp(Stamp8* stamps, uint64_t index, uint64_t count, uint8_t value) {
    const uint64_t end = index + count;
    while (index != end) {
      if (kEightAtOnce && index % 8 == 0 && end - index >= 8) {
        __atomic_store_n(reinterpret_cast<Eight*>(stamps + index), value * kEach, __ATOMIC_RELEASE);
        index += 8;
      } else {
        __atomic_store_n(stamps + index, value, __ATOMIC_RELEASE);
        ++index;
      }
    }
  }
  static uint64_t CountStamped(const Stamp8* stamps, uint64_t index, uint64_t count, uint8_t value) {
    const uint64_t begin = index;
    const uint64_t end = index + count;
    while (index != end) {
      if (kEightAtOnce && index % 8 == 0 && end - index >= 8) {
        const uint64_t others =
            __atomic_load_n(reinterpret_cast<const Eight*>(stamps + index), __ATOMIC_ACQUIRE) ^ (value * kEach);
        if (others != 0) return index + static_cast<uint64_t>(std::countr_zero(others)) / 8 - begin;
        index += 8;
      } else {
        if (__atomic_load_n(stamps + index, __ATOMIC_ACQUIRE) != value) break;
        ++index;
      }
    }
    return index - begin;
  }

  static void PrefetchForRead(const void* address) { __builtin_prefetch(address); }
  static void PrefetchForWrite(const void* address) {
#if defined(__x86_64__)
    // __builtin_prefetch(address, 1) would be a prefetch for reading here unless the compiler is told of a newer CPU;
    // CPUs without the instruction take it for a no-op.
    asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(address)));
#else
    __builtin_prefetch(address, 1);
#endif
  }

  // Linux's membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) makes all CPUs that run this process execute a full barrier:
  // the rare caller pays for all the others, who then need to restrain the compiler alone.
  static bool HasHeavyFence();
  static void LightFence() { std::atomic_signal_fence(std::memory_order_seq_cst); }
  static void HeavyFence();

 private:
#ifdef VIOMMU_THREAD_SANITIZER
  static constexpr bool kEightAtOnce = false;
#else
  static constexpr bool kEightAtOnce = true;
#endif
  using Eight [[gnu::may_alias]] = uint64_t;
  static constexpr uint64_t kEach = 0x0101010101010101;
  static_assert(std::endian::native == std::endian::little, "the first of eight stamps is the lowest byte");
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_QUEUE_ATOMICS_H_
