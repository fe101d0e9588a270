// The queues that `./bench queue` compares: ours and those that one could take off the shelf, behind one interface.
//
// A queue Q for the benchmark has
//   Q::kName
//   Q(producers)                  room for kCapacity commands
//   Q::kPositions                 whether it says itself when a batch is done; if not, the consumer tells the producers
//   class Q::Producer             one per thread: Producer(queue, id)
//     Push(batch)                 waits for room
//     Sync()                      where kPositions: waits until the last batch has been consumed
//   Consume(f)                    the consumer's thread: calls f(run) with each run of commands that are there; waits a
//                                 little when there are none; returns their number
//   Stop()                        after the last push: Consume() returns 0 when nothing is left
//
// Each is used as its documentation recommends for speed: whole batches, tokens where there are tokens, no copy where
// there need not be one. Who waits does so by the same rule in all that leave waiting to their users.

#ifndef VIOMMU_TESTS_BENCH_QUEUE_RIVALS_H_
#define VIOMMU_TESTS_BENCH_QUEUE_RIVALS_H_

#include <concurrentqueue/concurrentqueue.h>
#include <rte_errno.h>
#include <rte_ring.h>
#include <rte_ring_elem.h>
#include <rte_ring_peek_zc.h>

#include <array>
#include <boost/lockfree/queue.hpp>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "agent/smmuv3/queue/command_queue.h"
#include "agent/smmuv3/spec/words.h"

namespace viommu::bench {

using smmuv3::RawCommand;

// That of the emulated SMMU.
inline constexpr uint32_t kLog2Capacity = 12;
inline constexpr uint32_t kCapacity = 1U << kLog2Capacity;
// Commands that a consumer takes at once.
inline constexpr uint32_t kMaxRun = 256;

// Waits as our queue does, but for sleeping: spins, then yields.
class Backoff {
 public:
  void operator()() {
    if (spins_ < smmuv3::SystemAtomics::kSpins) {
      ++spins_;
      smmuv3::SystemAtomics::Relax();
    } else {
      smmuv3::SystemAtomics::Yield();
    }
  }

 private:
  uint64_t spins_ = 0;
};

class Ours {
 public:
  static constexpr const char* kName = "CommandQueue";
  static constexpr bool kPositions = true;
  explicit Ours(int) : queue_(kLog2Capacity) {}

  class Producer {
   public:
    Producer(Ours& ours, int) : queue_(ours.queue_), producer_(queue_) {}
    void Push(std::span<const RawCommand> batch) { end_ = *producer_.Push(batch, kNever); }
    void Sync() { queue_.WaitConsumed(end_, kNever); }

   private:
    smmuv3::CommandQueue<>& queue_;
    smmuv3::CommandQueue<>::Producer producer_;
    smmuv3::QueuePosition end_ = 0;
  };

  template <typename F>
  uint64_t Consume(F f) {
    if (!queue_.WaitForWork(kNever)) return 0;
    const std::span<const RawCommand> run = queue_.Peek(kMaxRun);
    f(run);
    queue_.Pop(run.size());
    return run.size();
  }
  void Stop() { queue_.Close(); }

 private:
  static constexpr auto kNever = std::chrono::steady_clock::time_point::max();
  smmuv3::CommandQueue<> queue_;
};

// What there would be without a queue of our own: a ring, a mutex, condition variables that are notified when somebody
// waits. The consumer works outside of the mutex, which it takes once per run.
class MutexRing {
 public:
  static constexpr const char* kName = "mutex ring";
  static constexpr bool kPositions = true;
  explicit MutexRing(int) : slots_(kCapacity) {}

  class Producer {
   public:
    Producer(MutexRing& ring, int) : ring_(ring) {}
    void Push(std::span<const RawCommand> batch) { end_ = ring_.Push(batch); }
    void Sync() { ring_.Wait(end_); }

   private:
    MutexRing& ring_;
    uint64_t end_ = 0;
  };

  template <typename F>
  uint64_t Consume(F f) {
    std::span<const RawCommand> run;
    {
      std::unique_lock lock(mu_);
      if (run_ != 0) {
        consumed_ += run_;
        run_ = 0;
        if (space_waiters_ != 0) space_.notify_all();
        if (sync_waiters_ != 0) done_.notify_all();
      }
      if (pushed_ == consumed_) {
        consumer_waits_ = true;
        work_.wait_for(lock, std::chrono::milliseconds(1), [&] { return pushed_ != consumed_; });
        consumer_waits_ = false;
      }
      const uint64_t index = consumed_ % kCapacity;
      run_ = std::min<uint64_t>({pushed_ - consumed_, kMaxRun, kCapacity - index});
      run = {&slots_[index], run_};
    }
    if (!run.empty()) f(run);
    return run.size();
  }
  void Stop() {}

 private:
  uint64_t Push(std::span<const RawCommand> batch) {
    std::unique_lock lock(mu_);
    if (pushed_ + batch.size() > consumed_ + kCapacity) {
      ++space_waiters_;
      space_.wait(lock, [&] { return pushed_ + batch.size() <= consumed_ + kCapacity; });
      --space_waiters_;
    }
    const uint64_t index = pushed_ % kCapacity;
    const uint64_t head = std::min<uint64_t>(batch.size(), kCapacity - index);
    std::copy_n(batch.begin(), head, &slots_[index]);
    std::copy(batch.begin() + static_cast<ptrdiff_t>(head), batch.end(), slots_.data());
    pushed_ += batch.size();
    const uint64_t end = pushed_;
    const bool notify = consumer_waits_;
    lock.unlock();
    if (notify) work_.notify_one();
    return end;
  }
  void Wait(uint64_t end) {
    std::unique_lock lock(mu_);
    ++sync_waiters_;
    done_.wait(lock, [&] { return consumed_ >= end; });
    --sync_waiters_;
  }

  std::vector<RawCommand> slots_;
  std::mutex mu_;
  std::condition_variable work_;
  std::condition_variable space_;
  std::condition_variable done_;
  uint64_t pushed_ = 0;
  uint64_t consumed_ = 0;
  uint64_t run_ = 0;
  int space_waiters_ = 0;
  int sync_waiters_ = 0;
  bool consumer_waits_ = false;
};

// DPDK's ring in our own memory, without its environment. One consumer, which may therefore read in place.
template <unsigned kProducerMode>
class RteRing {
 public:
  static constexpr const char* kName = kProducerMode == RING_F_MP_RTS_ENQ   ? "rte_ring RTS"
                                       : kProducerMode == RING_F_MP_HTS_ENQ ? "rte_ring HTS"
                                                                            : "rte_ring MP";
  static constexpr bool kPositions = false;
  explicit RteRing(int) {
    const ssize_t size = rte_ring_get_memsize_elem(sizeof(RawCommand), kCapacity);
    if (size < 0) std::abort();
    memory_.reset(std::aligned_alloc(4096, (static_cast<size_t>(size) + 4095) / 4096 * 4096));
    ring_ = static_cast<rte_ring*>(memory_.get());
    if (rte_ring_init(ring_, "bench", kCapacity, kProducerMode | RING_F_SC_DEQ) != 0) std::abort();
  }

  class Producer {
   public:
    Producer(RteRing& ring, int) : ring_(ring.ring_) {}
    void Push(std::span<const RawCommand> batch) {
      Backoff backoff;
      const auto count = static_cast<unsigned>(batch.size());
      while (rte_ring_enqueue_bulk_elem(ring_, batch.data(), sizeof(RawCommand), count, nullptr) == 0) backoff();
    }
    void Sync() {}

   private:
    rte_ring* ring_;
  };

  template <typename F>
  uint64_t Consume(F f) {
    Backoff backoff;
    for (int i = 0; i < 100; ++i) {
      rte_ring_zc_data data = {};
      const unsigned count = rte_ring_dequeue_zc_burst_elem_start(ring_, sizeof(RawCommand), kMaxRun, &data, nullptr);
      if (count != 0) {
        f(std::span(static_cast<const RawCommand*>(data.ptr1), data.n1));
        if (count != data.n1) f(std::span(static_cast<const RawCommand*>(data.ptr2), count - data.n1));
        rte_ring_dequeue_zc_elem_finish(ring_, count);
        return count;
      }
      backoff();
    }
    return 0;
  }
  void Stop() {}

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory_;
  rte_ring* ring_ = nullptr;
};

// A queue of queues, one per producer: it does not order commands of different producers.
class Moodycamel {
 public:
  static constexpr const char* kName = "moodycamel";
  static constexpr bool kPositions = false;
  explicit Moodycamel(int producers)
      : queue_(kCapacity, static_cast<size_t>(producers), 0), token_(queue_), run_(kMaxRun) {}

  class Producer {
   public:
    Producer(Moodycamel& moodycamel, int) : queue_(moodycamel.queue_), token_(queue_) {}
    // It is not bounded. Asking for its size with every batch would slow it down: now and then is enough.
    void Push(std::span<const RawCommand> batch) {
      if (batch.size() == 1) {
        queue_.enqueue(token_, batch[0]);
      } else {
        queue_.enqueue_bulk(token_, batch.begin(), batch.size());
      }
      unchecked_ += batch.size();
      if (unchecked_ < kCheck) return;
      unchecked_ = 0;
      Backoff backoff;
      while (queue_.size_approx() > kCapacity) backoff();
    }
    void Sync() {}

   private:
    moodycamel::ConcurrentQueue<RawCommand>& queue_;
    moodycamel::ProducerToken token_;
    uint64_t unchecked_ = 0;
  };

  template <typename F>
  uint64_t Consume(F f) {
    Backoff backoff;
    for (int i = 0; i < 100; ++i) {
      const size_t count = queue_.try_dequeue_bulk(token_, run_.begin(), kMaxRun);
      if (count != 0) {
        f(std::span<const RawCommand>(run_).first(count));
        return count;
      }
      backoff();
    }
    return 0;
  }
  void Stop() {}

 private:
  static constexpr uint64_t kCheck = 512;  // commands
  moodycamel::ConcurrentQueue<RawCommand> queue_;
  moodycamel::ConsumerToken token_;
  std::vector<RawCommand> run_;
};

// One command at a time, since it knows no batches: it does not keep them contiguous either.
class BoostLockfree {
 public:
  static constexpr const char* kName = "boost::lockfree";
  static constexpr bool kPositions = false;
  explicit BoostLockfree(int) : queue_(kCapacity) {}

  class Producer {
   public:
    Producer(BoostLockfree& boost, int) : queue_(boost.queue_) {}
    void Push(std::span<const RawCommand> batch) {
      for (const RawCommand& command : batch) {
        Backoff backoff;
        while (!queue_.bounded_push(command)) backoff();
      }
    }
    void Sync() {}

   private:
    boost::lockfree::queue<RawCommand, boost::lockfree::fixed_sized<true>>& queue_;
  };

  template <typename F>
  uint64_t Consume(F f) {
    Backoff backoff;
    for (int i = 0; i < 100; ++i) {
      size_t count = 0;
      while (count < kMaxRun && queue_.pop(run_[count])) ++count;
      if (count != 0) {
        f(std::span<const RawCommand>(run_).first(count));
        return count;
      }
      backoff();
    }
    return 0;
  }
  void Stop() {}

 private:
  boost::lockfree::queue<RawCommand, boost::lockfree::fixed_sized<true>> queue_;
  std::array<RawCommand, kMaxRun> run_;
};

}  // namespace viommu::bench

#endif  // VIOMMU_TESTS_BENCH_QUEUE_RIVALS_H_
