// The command queue of one SMMU: many producers, one consumer, no lock.
//
// It is the algorithm of Linux's arm_smmu_cmdq_issue_cmdlist(), with two changes that user space asks for:
//
//  1. reserve   A producer takes room for its whole batch by one compare-exchange on the producer position.
//  2. fill      It writes its commands into its slots; producers do so in parallel.
//  3. publish   It flips the valid bits of its slots. What counts as valid changes with every lap of the ring, so that
//               nobody ever has to clear a bit.
//  4. consume   In Linux some producer must now gather what others have published and write one hardware register. Here
//  the
//               consumer reads the valid bits itself: no producer ever waits for another one (change 1).
//  5. sync      Whoever wants to know that its commands have taken effect waits until the consumer's position has
//  passed them.
//
// Linux fills with interrupts off; user space can be preempted between 1 and 3. The consumer then stops in front of the
// unpublished slots; other producers go on until the ring is full and wait for room no longer than their deadline.
// Every wait spins a little, yields a little, then sleeps (change 2).
//
// Promises
//  - A batch is contiguous: commands of two batches never mix. Batches of one producer keep their order.
//  - What a producer wrote before Push() is visible to the consumer when it sees the commands, and what the consumer
//  did before
//    Pop() is visible to whom WaitConsumed() returns true.
//  - A full queue is back-pressure, never loss.
//
// Threads. TryPush(), Push(), WaitConsumed(), GetStats() and Wake() from any thread; Peek(), Pop() and WaitForWork()
// from one consumer thread. Destroy it when nobody uses it any more.
//
// `Policy`: agent/smmuv3/queue/atomics.h.

#ifndef VIOMMU_AGENT_SMMUV3_QUEUE_COMMAND_QUEUE_H_
#define VIOMMU_AGENT_SMMUV3_QUEUE_COMMAND_QUEUE_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>

#include "agent/smmuv3/queue/atomics.h"
#include "agent/smmuv3/spec/words.h"

namespace viommu::smmuv3 {

// Number of commands that were ever put in front of a place in the queue. It does not wrap.
using QueuePosition = uint64_t;

// log2 of the number of slots. The upper one is the architecture's (SMMU_IDR1.CMDQS, IHI 0070, 6.3.2).
inline constexpr uint32_t kMinQueueLog2Size = 1;
inline constexpr uint32_t kMaxQueueLog2Size = 19;

// Each number is exact for itself; together they are no snapshot.
struct QueueStats {
  uint64_t depth = 0;       // commands reserved and not yet consumed
  uint64_t capacity = 0;    // commands
  uint64_t pushed = 0;      // commands, ever
  uint64_t full_waits = 0;  // calls of Push() that had to wait for room
  uint64_t timeouts = 0;    // calls of Push() that gave up
  uint64_t collisions = 0;  // compare-exchanges lost to another producer
};

template <typename Policy = SystemAtomics>
class CommandQueue {
 public:
  using TimePoint = typename Policy::Clock::time_point;

  // A ring of 2^log2_size slots.
  explicit CommandQueue(uint32_t log2_size)
      : log2_size_(log2_size),
        size_(uint64_t{1} << log2_size),
        slots_(std::make_unique<RawCommand[]>(size_)),
        valid_(std::make_unique<Word[]>((size_ + kBitsPerWord - 1) / kBitsPerWord)) {
    if (log2_size < kMinQueueLog2Size || log2_size > kMaxQueueLog2Size) std::abort();
  }
  CommandQueue(const CommandQueue&) = delete;
  CommandQueue& operator=(const CommandQueue&) = delete;

  uint64_t capacity() const { return size_; }

  // ---- Producers ----

  // Puts the commands into the queue as one batch and returns the position behind the last of them; nothing when there
  // is no room now, or never (more commands than capacity()). An empty batch has the position of whatever was reserved
  // before it.
  std::optional<QueuePosition> TryPush(std::span<const RawCommand> batch) {
    const std::optional<QueuePosition> start = Reserve(batch.size());
    if (!start.has_value()) return std::nullopt;
    Fill(*start, batch);
    Publish(*start, batch.size());
    return *start + batch.size();
  }

  // The same, and waits for room until `deadline`. Waiting producers are served in no particular order.
  std::optional<QueuePosition> Push(std::span<const RawCommand> batch, TimePoint deadline) {
    std::optional<QueuePosition> end = TryPush(batch);
    if (end.has_value() || batch.size() > size_) return end;
    full_waits_.fetch_add(1, std::memory_order_relaxed);
    const auto pushed = [&] { return (end = TryPush(batch)).has_value(); };
    if (!SpinUntil(pushed)) SleepUntil(space_, deadline, pushed);
    if (!end.has_value()) timeouts_.fetch_add(1, std::memory_order_relaxed);
    return end;
  }

  // Waits until everything in front of `end` has been consumed; false when `deadline` came first.
  bool WaitConsumed(QueuePosition end, TimePoint deadline) {
    const auto consumed = [&] { return cons_.load(std::memory_order_seq_cst) >= end; };
    if (SpinUntil(consumed)) return true;
    sync_sleepers_.fetch_add(1, std::memory_order_seq_cst);
    const bool done = SleepUntil(Bucket(end), deadline, consumed);
    sync_sleepers_.fetch_sub(1, std::memory_order_relaxed);
    return done;
  }

  // ---- The consumer ----

  // The next published commands, in order: empty when there are none, else at least one and at most `max`. There may be
  // more behind them. Valid until Pop().
  std::span<const RawCommand> Peek(uint64_t max) const {
    const QueuePosition position = cons_.load(std::memory_order_relaxed);
    const uint64_t index = position & (size_ - 1);
    return {&slots_[index], std::min(max, PublishedFrom(position))};
  }

  // The first `count` commands of the last Peek() have been executed: frees their slots and wakes who waited for that.
  void Pop(uint64_t count) {
    const QueuePosition old = cons_.load(std::memory_order_relaxed);
    const QueuePosition now = old + count;
    cons_.store(now, std::memory_order_seq_cst);
    if (sync_sleepers_.load(std::memory_order_seq_cst) != 0) {
      const uint64_t buckets = std::min<uint64_t>(count, kSyncBuckets);
      for (uint64_t i = 0; i < buckets; ++i) Signal(Bucket(now - i));
    }
    Signal(space_);
  }

  // Waits until Peek() has something, Wake() has been called since the last return, or `deadline` has come; true when
  // Peek() has something.
  bool WaitForWork(TimePoint deadline) {
    const auto has_work = [&] { return PublishedFrom(cons_.load(std::memory_order_relaxed)) != 0; };
    const auto ready = [&] { return has_work() || wakes_.load(std::memory_order_seq_cst) != wakes_seen_; };
    if (!SpinUntil(ready)) SleepUntil(work_, deadline, ready);
    wakes_seen_ = wakes_.load(std::memory_order_seq_cst);
    return has_work();
  }

  // ---- Anybody ----

  // Makes the consumer's WaitForWork() return, the one that it is in or else its next one.
  void Wake() {
    wakes_.fetch_add(1, std::memory_order_seq_cst);
    Signal(work_);
  }

  QueueStats GetStats() const {
    QueueStats stats;
    const QueuePosition consumed = cons_.load(std::memory_order_relaxed);
    stats.pushed = prod_.load(std::memory_order_relaxed);
    stats.depth = stats.pushed > consumed ? stats.pushed - consumed : 0;
    stats.capacity = size_;
    stats.full_waits = full_waits_.load(std::memory_order_relaxed);
    stats.timeouts = timeouts_.load(std::memory_order_relaxed);
    stats.collisions = collisions_.load(std::memory_order_relaxed);
    return stats;
  }

 private:
  template <typename T>
  using Atomic = typename Policy::template Atomic<T>;
  using Word = Atomic<uint64_t>;

  static constexpr uint64_t kBitsPerWord = 64;
  static constexpr uint64_t kSyncBuckets = 16;
  static constexpr size_t kCacheLine = 64;

  // A place to sleep. Who goes to sleep counts itself first and looks at the condition last; who makes a condition true
  // looks at the count last. One of them sees the other: all four steps are sequentially consistent.
  struct alignas(kCacheLine) SleepingPlace {
    Atomic<uint32_t> sleepers{0};
    Atomic<uint32_t> signals{0};
  };

  // Takes `count` slots; returns the position of the first.
  std::optional<QueuePosition> Reserve(uint64_t count) {
    uint64_t lost = 0;
    QueuePosition start = prod_.load(std::memory_order_relaxed);
    do {
      if (!HasRoom(start, count)) return std::nullopt;
      // Relaxed is enough: the slots are ours by the number alone, and their last reader was waited for in HasRoom().
      if (prod_.compare_exchange_weak(start, start + count, std::memory_order_relaxed)) break;
      ++lost;
    } while (true);
    if (lost != 0) collisions_.fetch_add(lost, std::memory_order_relaxed);
    return start;
  }

  // Whether slots [start, start + count) have been consumed in the lap before. Producers share what one of them last
  // saw of the consumer's position, so that they fetch the consumer's cache line about once a lap and not with every
  // command.
  bool HasRoom(QueuePosition start, uint64_t count) {
    if (count > size_) return false;
    if (start + count <= cons_seen_.load(std::memory_order_acquire) + size_) return true;
    const QueuePosition consumed = cons_.load(std::memory_order_seq_cst);
    cons_seen_.store(consumed, std::memory_order_release);
    return start + count <= consumed + size_;
  }

  void Fill(QueuePosition start, std::span<const RawCommand> batch) {
    const uint64_t index = start & (size_ - 1);
    const uint64_t head = std::min<uint64_t>(batch.size(), size_ - index);
    std::copy_n(batch.begin(), head, &slots_[index]);
    std::copy(batch.begin() + static_cast<ptrdiff_t>(head), batch.end(), &slots_[0]);
  }

  // Flips the valid bits of [start, start + count), which hands the slots to the consumer.
  void Publish(QueuePosition start, uint64_t count) {
    while (count != 0) {
      const uint64_t index = start & (size_ - 1);
      const uint64_t bit = index % kBitsPerWord;
      const uint64_t run = std::min({count, kBitsPerWord - bit, size_ - index});
      const uint64_t mask = (run == kBitsPerWord ? ~uint64_t{0} : (uint64_t{1} << run) - 1) << bit;
      valid_[index / kBitsPerWord].fetch_xor(mask, std::memory_order_seq_cst);
      start += run;
      count -= run;
    }
    Signal(work_);
  }

  // Number of published commands from `position` on, up to the end of their word of valid bits.
  uint64_t PublishedFrom(QueuePosition position) const {
    const uint64_t index = position & (size_ - 1);
    const uint64_t bit = index % kBitsPerWord;
    const bool odd_lap = ((position >> log2_size_) & 1) != 0;
    const uint64_t bits = valid_[index / kBitsPerWord].load(std::memory_order_seq_cst);
    const auto run = static_cast<uint64_t>(std::countr_one((odd_lap ? ~bits : bits) >> bit));
    return std::min({run, kBitsPerWord - bit, size_ - index});
  }

  SleepingPlace& Bucket(QueuePosition end) { return sync_[end % kSyncBuckets]; }

  // After a condition that sleepers at `place` wait for has become true.
  void Signal(SleepingPlace& place) {
    if (place.sleepers.load(std::memory_order_seq_cst) == 0) return;
    place.signals.fetch_add(1, std::memory_order_seq_cst);
    Policy::WakeAll(place.signals);
  }

  // Looks for `ready()` for a bounded time: spins, then yields.
  template <typename Ready>
  bool SpinUntil(Ready ready) {
    for (int i = 0; i < Policy::kSpins; ++i) {
      if (ready()) return true;
      Policy::Relax();
    }
    for (int i = 0; i < Policy::kYields; ++i) {
      if (ready()) return true;
      Policy::Yield();
    }
    return ready();
  }

  // Sleeps until `ready()`; false when `deadline` came first.
  template <typename Ready>
  bool SleepUntil(SleepingPlace& place, TimePoint deadline, Ready ready) {
    place.sleepers.fetch_add(1, std::memory_order_seq_cst);
    bool done = false;
    while (true) {
      const uint32_t signals = place.signals.load(std::memory_order_seq_cst);
      done = ready();
      if (done || Policy::Clock::now() >= deadline) break;
      Policy::Sleep(place.signals, signals, deadline);
    }
    place.sleepers.fetch_sub(1, std::memory_order_relaxed);
    return done;
  }

  const uint32_t log2_size_;
  const uint64_t size_;
  const std::unique_ptr<RawCommand[]> slots_;
  const std::unique_ptr<Word[]> valid_;

  alignas(kCacheLine) Atomic<QueuePosition> prod_{0};
  alignas(kCacheLine) Atomic<QueuePosition> cons_seen_{0};
  alignas(kCacheLine) Atomic<QueuePosition> cons_{0};
  alignas(kCacheLine) Atomic<uint32_t> sync_sleepers_{0};
  Atomic<uint32_t> wakes_{0};
  uint32_t wakes_seen_ = 0;  // the consumer's
  std::array<SleepingPlace, kSyncBuckets> sync_;
  SleepingPlace space_;
  SleepingPlace work_;
  alignas(kCacheLine) Atomic<uint64_t> full_waits_{0};
  Atomic<uint64_t> timeouts_{0};
  Atomic<uint64_t> collisions_{0};
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_QUEUE_COMMAND_QUEUE_H_
