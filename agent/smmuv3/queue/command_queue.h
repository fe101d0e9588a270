// The command queue of one SMMU: many producers, one consumer, no lock.
//
// It is the algorithm of Linux's arm_smmu_cmdq_issue_cmdlist(), changed where user space or speed asks for it:
//
//  1. reserve   A producer takes room for its whole batch by one compare-exchange on the producer position.
//  2. fill      It writes its commands into its slots; producers do so in parallel.
//  3. publish   It writes a stamp beside each of its slots: the number of the lap of the ring. Linux flips valid bits,
//               which producers share, by atomic operations; a stamp is a byte that belongs to the slot's owner, so
//               that a plain store does. What counts as valid changes with every lap: nobody ever has to clear a stamp.
//  4. consume   In Linux some producer must now gather what others have published and write one hardware register. Here
//               the consumer reads the stamps itself: no producer ever waits for another one.
//  5. sync      Whoever wants to know that its commands have taken effect waits until the consumer's position has
//  passed
//               them.
//
// Linux fills with interrupts off; user space can be preempted between 1 and 3. The consumer then stops in front of the
// unpublished slots; other producers go on until the ring is full and wait for room no longer than their deadline.
// GetStats() tells everybody where the consumer stands and for how long. Every wait spins a little, yields a little,
// then sleeps.
//
// Promises
//  - A batch is contiguous: commands of two batches never mix. A batch whose push has returned before another one's
//  began
//    is in front of it.
//  - What a producer wrote before Push() is visible to the consumer when it sees the commands, and what the consumer
//  did
//    before Pop() is visible to whom WaitConsumed() returns true.
//  - A full queue is back-pressure, never loss.
//  - Close() lets nothing in any more and nothing get lost: what was reserved before is still published and consumed.
//
// Threads. TryPush(), Push(), WaitConsumed(), GetStats(), Wake(), Close() and closed() from any thread; the consumer's
// calls from one thread. Destroy it when nobody uses it any more.
//
// Memory order. "A -> B" is: the load B reads what the store A wrote (or what came later), and synchronises with it.
//  publish    stamps_[] release in Publish() -> acquire in Scan(). Hands the slots to the consumer. Every command has a
//             stamp of its own, so that a run that ends anywhere is covered.
//  free       cons_ in Pop() -> acquire in FindRoom(), or through one more producer: cons_seen_ release in FindRoom()
//  ->
//             acquire in TryPushAt(). Hands the slots, read for the last time, to the next producer.
//  complete   cons_ in Pop() -> acquire in WaitConsumed().
//  reserve    prod_ is compare-exchanged relaxed: it only deals out numbers. Whose slots they were is "free" above.
//  close      prod_ acq_rel in Close() -> acquire in Drained(): the closing bit is in the word of the position, so that
//             whoever reads it also reads the last position that there will be.
//  sleep      See SleepingPlace: a sleeper announces itself and looks at its condition; a waker makes the condition
//  true
//             and looks for sleepers. On both sides the load must not overtake the store. Who sleeps for room or for a
//             sync meets Pop(), whose store and load are sequentially consistent, as are the sleeper's. The consumer,
//             who sleeps for work, meets Publish(), of which there is one per batch: the sleeper pays for the fences of
//             both (Policy::HeavyFence).
// Model checked: interleaving_test.cc. Under ThreadSanitizer: command_queue_test.cc.
//
// `Policy`: agent/smmuv3/queue/atomics.h.

#ifndef VIOMMU_AGENT_SMMUV3_QUEUE_COMMAND_QUEUE_H_
#define VIOMMU_AGENT_SMMUV3_QUEUE_COMMAND_QUEUE_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <type_traits>

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
  uint64_t stalls = 0;      // times that the consumer has found nothing to do but slots reserved and not published
  // How long it has been standing there; zero when it is not. The slots are those behind position pushed - depth, and
  // their producer was most likely preempted or stopped between reserving and publishing.
  std::chrono::nanoseconds stalled_for{0};
};

// Reads what the consumer keeps to itself; the model checker has one.
struct ConsumerPeer;

template <typename Policy = SystemAtomics>
class CommandQueue {
 public:
  using TimePoint = typename Policy::Clock::time_point;

  // A ring of 2^log2_size slots.
  explicit CommandQueue(uint32_t log2_size)
      : log2_size_(log2_size),
        size_(uint64_t{1} << log2_size),
        has_heavy_fence_(Policy::HasHeavyFence()),
        slots_(Allocate<RawCommand>(size_)),
        stamps_(Allocate<Stamp>(size_)) {
    if (log2_size < kMinQueueLog2Size || log2_size > kMaxQueueLog2Size) std::abort();
  }
  CommandQueue(const CommandQueue&) = delete;
  CommandQueue& operator=(const CommandQueue&) = delete;

  uint64_t capacity() const { return size_; }

  // ---- Producers ----

  // Puts the commands into the queue as one batch and returns the position behind the last of them; nothing when there
  // is no room now, or never (more commands than capacity(), or closed). An empty batch has the position of whatever
  // was reserved before it.
  std::optional<QueuePosition> TryPush(std::span<const RawCommand> batch) {
    QueuePosition start = prod_.load(std::memory_order_relaxed);
    return TryPushAt(start, batch);
  }

  // The same, and waits for room until `deadline`. Waiting producers are served in no particular order.
  std::optional<QueuePosition> Push(std::span<const RawCommand> batch, TimePoint deadline) {
    const std::optional<QueuePosition> end = TryPush(batch);
    if (end.has_value()) [[likely]]
      return end;
    return PushSlowly(batch, deadline);
  }

  // One producer's way in, faster when it pushes again and again: it remembers where it was and guesses that nobody has
  // been there since. One thread at a time; the queue outlives it.
  class Producer {
   public:
    explicit Producer(CommandQueue& queue) : queue_(queue) {}
    std::optional<QueuePosition> TryPush(std::span<const RawCommand> batch) { return queue_.TryPushAt(next_, batch); }
    std::optional<QueuePosition> Push(std::span<const RawCommand> batch, TimePoint deadline) {
      const std::optional<QueuePosition> end = TryPush(batch);
      if (end.has_value()) [[likely]]
        return end;
      return queue_.PushSlowly(batch, deadline);
    }

   private:
    CommandQueue& queue_;
    QueuePosition next_ = 0;
  };

  // Waits until everything in front of `end` has been consumed; false when `deadline` came first, or when it never will
  // be (Abandon()).
  bool WaitConsumed(QueuePosition end, TimePoint deadline) {
    const auto consumed = [&] { return cons_.load(std::memory_order_seq_cst) >= end; };
    if (consumed()) return true;
    if (!hurry_.load(std::memory_order_relaxed)) hurry_.store(true, std::memory_order_relaxed);
    if (SpinUntil(consumed, 1)) return true;
    sync_sleepers_.fetch_add(1, std::memory_order_seq_cst);
    SleepUntil(Bucket(end), deadline, [&] { return consumed() || abandoned_.load(std::memory_order_seq_cst); });
    sync_sleepers_.fetch_sub(1, std::memory_order_relaxed);
    return consumed();
  }

  // ---- The consumer ----

  // The next published commands, in order: empty when there are none, else at least one and at most `max`. There may be
  // more behind them. Valid until Pop().
  std::span<const RawCommand> Peek(uint64_t max) {
    max = std::min(max, size_);
    if (published_ - head_ < max) Scan(head_ + max);
    const uint64_t index = head_ & (size_ - 1);
    return {&slots_[index], std::min({max, published_ - head_, size_ - index})};
  }

  // The first `count` commands of the last Peek() have been executed: frees their slots and wakes who waited for that.
  void Pop(uint64_t count) {
    head_ += count;
    cons_.store(head_, std::memory_order_seq_cst);
    if (sync_sleepers_.load(std::memory_order_seq_cst) != 0) {
      const uint64_t buckets = std::min<uint64_t>(count, kSyncBuckets);
      for (uint64_t i = 0; i < buckets; ++i) Signal(Bucket(head_ - i));
    }
    Signal(space_);
  }

  // Waits until Peek() has something, Wake() has been called since the last return, Drained(), or `deadline` has come;
  // true when Peek() has something.
  bool WaitForWork(TimePoint deadline) {
    const auto ready = [&] {
      return HasWork() || wakes_.load(std::memory_order_seq_cst) != wakes_seen_ ||
             (closing_.load(std::memory_order_seq_cst) && Drained());
    };
    // Looking takes the line away from a producer that is writing more. While nobody waits for commands to be consumed,
    // let them come in numbers.
    bool hurry = hurry_.load(std::memory_order_relaxed);
    if (hurry && ++hurries_ % kHurryLasts == 0) hurry_.store(false, std::memory_order_relaxed);
    if (!hurry && caught_up_) Pause(kLazyPause);
    if (!SpinUntil(ready, hurry ? 1 : kLazyPause)) {
      NoteStall();
      SleepUntil(work_, deadline, ready);
    }
    wakes_seen_ = wakes_.load(std::memory_order_seq_cst);
    return HasWork();
  }

  // Whether the queue is closed and everything has been consumed. Until then something may still have to be published.
  bool Drained() const { return prod_.load(std::memory_order_acquire) == (head_ | kClosed); }

  // The consumer consumes no more, whatever is left: closes the queue and ends the waits for it.
  void Abandon() {
    abandoned_.store(true, std::memory_order_seq_cst);
    Close();
    for (SleepingPlace& bucket : sync_) Signal(bucket);
  }

  // ---- Anybody ----

  // Makes the consumer's WaitForWork() return, the one that it is in or else its next one.
  void Wake() {
    wakes_.fetch_add(1, std::memory_order_seq_cst);
    Signal(work_);
  }

  // From now on nothing is let in: pushes fail, also those that wait for room. The consumer goes on until Drained().
  void Close() {
    prod_.fetch_or(kClosed, std::memory_order_seq_cst);
    closing_.store(true, std::memory_order_seq_cst);
    Signal(space_);
    Signal(work_);
  }
  bool closed() const { return (prod_.load(std::memory_order_seq_cst) & kClosed) != 0; }

  QueueStats GetStats() const {
    QueueStats stats;
    const QueuePosition consumed = cons_.load(std::memory_order_relaxed);
    stats.pushed = prod_.load(std::memory_order_relaxed) & ~kClosed;
    stats.depth = stats.pushed > consumed ? stats.pushed - consumed : 0;
    stats.capacity = size_;
    stats.full_waits = full_waits_.load(std::memory_order_relaxed);
    stats.timeouts = timeouts_.load(std::memory_order_relaxed);
    stats.collisions = collisions_.load(std::memory_order_relaxed);
    stats.stalls = stalls_.load(std::memory_order_relaxed);
    // Positions do not come back, so that a note of the present one is never an old one.
    if (stats.depth != 0 && stalled_at_.load(std::memory_order_acquire) == consumed + 1 && !IsPublished(consumed)) {
      stats.stalled_for = Now() - std::chrono::nanoseconds(stalled_since_.load(std::memory_order_relaxed));
    }
    return stats;
  }

 private:
  friend ConsumerPeer;

  template <typename T>
  using Atomic = typename Policy::template Atomic<T>;
  template <typename T>
  using Counter = typename Policy::template Counter<T>;
  using Stamp = typename Policy::Stamp8;

  // In prod_. Positions stay below: 2^63 commands are centuries.
  static constexpr QueuePosition kClosed = QueuePosition{1} << 63;
  static constexpr uint64_t kSyncBuckets = 16;
  // A producer that spins for room waits for this part of the ring.
  static constexpr uint64_t kRoomWorth = 4;
  // Numbers of Policy::Relax(): before a producer that has lost a compare-exchange tries again, at first and at most;
  // between looks for room; before the consumer looks for more when nobody is in a hurry, about a microsecond.
  static constexpr uint64_t kTurn = 64;
  static constexpr uint64_t kLongestTurn = 256;
  static constexpr uint64_t kFullPause = 4;
  static constexpr uint64_t kLazyPause = 64;
  // Waits of the consumer until it asks again whether anybody is in a hurry.
  static constexpr uint64_t kHurryLasts = 1024;
  // CPUs fetch lines in pairs: what is written by different threads is two lines apart.
  static constexpr size_t kCacheLine = 64;
  struct alignas(kCacheLine) Apart {
    char nothing[kCacheLine];
  };
  // Commands ahead of which producers fetch slots: some lines of slots, for what a line's way between two cores takes.
  static constexpr uint64_t kPrefetch = 32;

  template <typename T>
  struct Deleter {
    void operator()(T* array) const { ::operator delete[](array, std::align_val_t{kCacheLine}); }
  };
  template <typename T>
  using Array = std::unique_ptr<T[], Deleter<T>>;
  template <typename T>
  static Array<T> Allocate(uint64_t size) {
    static_assert(std::is_trivially_destructible_v<T>);
    T* array = static_cast<T*>(::operator new[](size * sizeof(T), std::align_val_t{kCacheLine}));
    std::uninitialized_value_construct_n(array, size);
    return Array<T>(array);
  }

  // A place to sleep. Bit 0 says that somebody sleeps or is about to; the rest counts the signals, so that a sleeper
  // can tell whether there was one since it looked. A waker clears the bit: it wakes once for all who set it.
  struct alignas(kCacheLine) SleepingPlace {
    Atomic<uint32_t> word{0};
    Apart apart;
  };

  // TryPush() where `start` is what the caller believes the producer position to be, which is never too much; then it
  // becomes the position behind the batch.
  [[gnu::always_inline]] std::optional<QueuePosition> TryPushAt(QueuePosition& start,
                                                                std::span<const RawCommand> batch) {
    const uint64_t count = batch.size();
    const bool room = start + count <= cons_seen_.load(std::memory_order_acquire) + size_;
    if (!room || !prod_.compare_exchange_strong(start, start + count, std::memory_order_relaxed)) [[unlikely]] {
      if (!ReserveSlowly(count, start)) return std::nullopt;
    }
    const QueuePosition first = start;
    start += count;
    if (count != 0) [[likely]] {
      Fill(first, batch);
      Publish(first, count);
      PrefetchSlots(start, count);
    }
    return start;
  }

  [[gnu::noinline]] std::optional<QueuePosition> PushSlowly(std::span<const RawCommand> batch, TimePoint deadline) {
    std::optional<QueuePosition> end;
    if (batch.size() > size_ || closed()) return end;
    full_waits_.fetch_add(1, std::memory_order_relaxed);
    // Room for one more is soon taken, and looking for it takes the consumer's position away from the consumer: while
    // spinning, wait for room that is worth it.
    const uint64_t worth = std::max<uint64_t>(batch.size(), size_ / kRoomWorth);
    SpinUntil([&] { return Room() >= worth || closed(); }, kFullPause);
    const auto ended = [&] { return (end = TryPush(batch)).has_value() || closed(); };
    if (!ended()) SleepUntil(space_, deadline, ended);
    if (!end.has_value() && !closed()) timeouts_.fetch_add(1, std::memory_order_relaxed);
    return end;
  }

  // Takes `count` slots, when another producer was quicker or there seems to be no room. `start` becomes the
  // position of the first slot.
  [[gnu::noinline]] bool ReserveSlowly(uint64_t count, QueuePosition& start) {
    start = prod_.load(std::memory_order_relaxed);
    for (uint64_t lost = 0;; ++lost) {
      if (start + count > cons_seen_.load(std::memory_order_acquire) + size_ && !FindRoom(start, count)) return false;
      if (prod_.compare_exchange_strong(start, start + count, std::memory_order_relaxed)) return true;
      collisions_.fetch_add(1, std::memory_order_relaxed);
      // Somebody else is at it. Taking the line back and forth with every command is several times slower than taking
      // turns of many commands.
      Pause(std::min(kTurn << std::min<uint64_t>(lost, 8), kLongestTurn));
      start = prod_.load(std::memory_order_relaxed);
    }
  }

  // Whether slots [start, start + count) have been consumed in the lap before. Producers share what one of them last
  // saw of the consumer's position, so that they fetch the consumer's cache line about once a lap and not with every
  // command.
  bool FindRoom(QueuePosition start, uint64_t count) {
    if (count > size_ || (start & kClosed) != 0) return false;
    const QueuePosition consumed = cons_.load(std::memory_order_seq_cst);
    cons_seen_.store(consumed, std::memory_order_release);
    return start + count <= consumed + size_;
  }

  // Fetches what whoever comes next will write, if the consumer is done with it: its lines are in the consumer's cache,
  // and the next compare-exchange would wait for every store that is not done yet.
  void PrefetchSlots(QueuePosition end, uint64_t count) {
    QueuePosition position = end + (count > kPrefetch ? 0 : kPrefetch);
    if (position + count > cons_seen_.load(std::memory_order_relaxed) + size_) return;
    Policy::PrefetchForWrite(&stamps_[(position + 48) & (size_ - 1)]);
    Policy::PrefetchForWrite(&slots_[position & (size_ - 1)]);
    for (uint64_t i = 4; i < count; i += 4) Policy::PrefetchForWrite(&slots_[(position + i) & (size_ - 1)]);
  }

  uint64_t Room() const {
    const QueuePosition consumed = cons_.load(std::memory_order_relaxed);
    return consumed + size_ - std::max(consumed, prod_.load(std::memory_order_relaxed) & ~kClosed);
  }

  void Fill(QueuePosition start, std::span<const RawCommand> batch) {
    const uint64_t index = start & (size_ - 1);
    const uint64_t head = std::min<uint64_t>(batch.size(), size_ - index);
    Policy::Fill(slots_.get(), index, batch.data(), head);
    if (head != batch.size()) [[unlikely]] {
      Policy::Fill(slots_.get(), 0, batch.data() + head, batch.size() - head);
    }
  }

  // What is beside a slot from when the command with this position is in it: the number of the lap. One lap's stamps
  // are all replaced in the next one; the rest of the byte is there because no bit can be stored alone.
  uint8_t StampOf(QueuePosition position) const { return static_cast<uint8_t>((position >> log2_size_) + 1); }

  // Hands slots [start, start + count) to the consumer.
  void Publish(QueuePosition start, uint64_t count) {
    const uint64_t index = start & (size_ - 1);
    const uint64_t head = std::min(count, size_ - index);
    Policy::Stamp(stamps_.get(), index, head, StampOf(start));
    if (head != count) [[unlikely]] {
      Policy::Stamp(stamps_.get(), 0, count - head, StampOf(start + head));
    }
    if (has_heavy_fence_) [[likely]] {
      Policy::LightFence();
      if ((work_.word.load(std::memory_order_relaxed) & 1) != 0) [[unlikely]] {
        WakeSleepers(work_);
      }
    } else {
      // A read-modify-write of the word that the sleeper has to modify, too: whichever is first, the other sees it.
      if ((work_.word.fetch_add(0, std::memory_order_acq_rel) & 1) != 0) WakeSleepers(work_);
    }
  }

  bool IsPublished(QueuePosition position) const {
    return Policy::CountStamped(stamps_.get(), position & (size_ - 1), 1, StampOf(position)) != 0;
  }

  // Moves published_ over what has been published in front of `until`.
  void Scan(QueuePosition until) {
    QueuePosition position = published_;
    while (position < until) {
      const uint64_t index = position & (size_ - 1);
      const uint64_t most = std::min(until - position, size_ - index);
      const uint64_t stamped = Policy::CountStamped(stamps_.get(), index, most, StampOf(position));
      position += stamped;
      if (stamped != most) break;
    }
    caught_up_ = position < until;
    // The first lines at once: the CPU's own prefetcher follows.
    const QueuePosition far = std::min(position, published_ + 64);
    for (QueuePosition i = published_; i < far; i += 4) Policy::PrefetchForRead(&slots_[i & (size_ - 1)]);
    published_ = position;
  }

  bool HasWork() const { return published_ != head_ || IsPublished(head_); }

  static std::chrono::nanoseconds Now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(Policy::Clock::now().time_since_epoch());
  }

  void NoteStall() {
    if (stalled_at_.load(std::memory_order_relaxed) == head_ + 1) return;
    if ((prod_.load(std::memory_order_relaxed) & ~kClosed) == head_) return;
    stalled_since_.store(Now().count(), std::memory_order_relaxed);
    stalled_at_.store(head_ + 1, std::memory_order_release);
    stalls_.fetch_add(1, std::memory_order_relaxed);
  }

  SleepingPlace& Bucket(QueuePosition end) { return sync_[end % kSyncBuckets]; }

  // After a condition that sleepers at `place` wait for has become true by a sequentially consistent store.
  void Signal(SleepingPlace& place) {
    if ((place.word.load(std::memory_order_seq_cst) & 1) != 0) [[unlikely]] {
      WakeSleepers(place);
    }
  }

  [[gnu::noinline]] void WakeSleepers(SleepingPlace& place) {
    uint32_t word = place.word.load(std::memory_order_relaxed);
    // Clears bit 0 and counts. Where it was cleared by another waker, that one wakes.
    do {
      if ((word & 1) == 0) return;
    } while (!place.word.compare_exchange_weak(word, word + 1, std::memory_order_seq_cst));
    Policy::WakeAll(place.word);
  }

  static void Pause(uint64_t times) {
    for (uint64_t i = 0; i < times; ++i) Policy::Relax();
  }

  // Looks for `ready()` for a bounded time: spins, with pauses of `pause` between, then yields.
  template <typename Ready>
  bool SpinUntil(Ready ready, uint64_t pause) {
    for (uint64_t i = 0; i < Policy::kSpins; i += pause) {
      if (ready()) return true;
      Pause(pause);
    }
    for (uint64_t i = 0; i < Policy::kYields; ++i) {
      if (ready()) return true;
      Policy::Yield();
    }
    return ready();
  }

  // Sleeps until `ready()`; false when `deadline` came first.
  template <typename Ready>
  bool SleepUntil(SleepingPlace& place, TimePoint deadline, Ready ready) {
    while (true) {
      const uint32_t word = place.word.fetch_or(1, std::memory_order_seq_cst) | 1;
      if (&place == &work_ && has_heavy_fence_) Policy::HeavyFence();
      if (ready()) return true;
      if (Policy::Clock::now() >= deadline) return false;
      Policy::Sleep(place.word, word, deadline);
    }
  }

  const uint32_t log2_size_;
  const uint64_t size_;
  const bool has_heavy_fence_;
  const Array<RawCommand> slots_;
  const Array<Stamp> stamps_;
  Atomic<uint32_t> wakes_{0};
  Atomic<bool> closing_{false};  // prod_ says so, too, but belongs to the producers' caches
  Atomic<bool> abandoned_{false};
  [[maybe_unused]] Apart apart1_;

  // The producers'. cons_seen_ is cons_ as some producer has last seen it.
  Atomic<QueuePosition> prod_{0};
  Atomic<QueuePosition> cons_seen_{0};
  [[maybe_unused]] Apart apart2_;

  // The consumer's alone: its position, the end of what it knows to be published, the wakes that it has heard, its
  // waits in a hurry, and whether the last Peek() saw the end of what was published.
  QueuePosition head_ = 0;
  QueuePosition published_ = 0;
  uint32_t wakes_seen_ = 0;
  uint32_t hurries_ = 0;
  bool caught_up_ = false;
  [[maybe_unused]] Apart apart3_;

  // Written by the consumer: head_ for everybody.
  Atomic<QueuePosition> cons_{0};
  [[maybe_unused]] Apart apart4_;

  Atomic<uint32_t> sync_sleepers_{0};
  [[maybe_unused]] Apart apart5_;
  // Somebody waits for a sync, or did so a short time ago.
  Atomic<bool> hurry_{false};
  [[maybe_unused]] Apart apart6_;
  SleepingPlace work_;
  SleepingPlace space_;
  std::array<SleepingPlace, kSyncBuckets> sync_;

  Counter<uint64_t> full_waits_{0};
  Counter<uint64_t> timeouts_{0};
  Counter<uint64_t> collisions_{0};
  Counter<uint64_t> stalls_{0};
  Counter<QueuePosition> stalled_at_{0};  // the consumer's position and 1; 0 before the first stall
  Counter<int64_t> stalled_since_{0};     // nanoseconds of the clock
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_QUEUE_COMMAND_QUEUE_H_
