// Pushing batches with a sync behind each, by 1 to 8 producers: the queue against a deque under a mutex.

#include <benchmark/benchmark.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "agent/smmuv3/queue/command_queue.h"

namespace viommu::smmuv3 {
namespace {

constexpr auto kNever = std::chrono::steady_clock::time_point::max();
constexpr int64_t kMaxBatch = 64;

// The consumers of both do the least that is possible, so that what is measured is the queue.
class LockFree {
 public:
  LockFree() : queue_(12), consumer_([this] { Consume(); }) {}
  ~LockFree() {
    stop_ = true;
    queue_.Wake();
    consumer_.join();
  }
  void PushAndSync(std::span<const RawCommand> batch) { queue_.WaitConsumed(*queue_.Push(batch, kNever), kNever); }

 private:
  void Consume() {
    while (!stop_) {
      queue_.WaitForWork(kNever);
      const auto run = queue_.Peek(kMaxBatch);
      benchmark::DoNotOptimize(run.data());
      if (!run.empty()) queue_.Pop(run.size());
    }
  }
  CommandQueue<> queue_;
  std::atomic<bool> stop_{false};
  std::thread consumer_;
};

class Locked {
 public:
  Locked() : consumer_([this] { Consume(); }) {}
  ~Locked() {
    {
      std::lock_guard<std::mutex> lock(mu_);
      stop_ = true;
    }
    work_.notify_all();
    consumer_.join();
  }
  void PushAndSync(std::span<const RawCommand> batch) {
    std::unique_lock<std::mutex> lock(mu_);
    queue_.insert(queue_.end(), batch.begin(), batch.end());
    pushed_ += batch.size();
    const uint64_t end = pushed_;
    work_.notify_one();
    done_.wait(lock, [&] { return consumed_ >= end; });
  }

 private:
  void Consume() {
    std::unique_lock<std::mutex> lock(mu_);
    while (true) {
      work_.wait(lock, [&] { return stop_ || !queue_.empty(); });
      if (stop_) return;
      consumed_ += queue_.size();
      queue_.clear();
      done_.notify_all();
    }
  }
  std::mutex mu_;
  std::condition_variable work_;
  std::condition_variable done_;
  std::deque<RawCommand> queue_;
  uint64_t pushed_ = 0;
  uint64_t consumed_ = 0;
  bool stop_ = false;
  std::thread consumer_;
};

template <typename Queue>
void PushAndSync(benchmark::State& state) {
  static std::unique_ptr<Queue> queue;
  if (state.thread_index() == 0) queue = std::make_unique<Queue>();
  const std::array<RawCommand, kMaxBatch> commands = {};
  const auto size = static_cast<size_t>(state.range(0));
  for (auto _ : state) queue->PushAndSync({commands.data(), size});
  state.SetItemsProcessed(state.iterations() * state.range(0));
  if (state.thread_index() == 0) queue.reset();
}

BENCHMARK(PushAndSync<LockFree>)->Arg(1)->Arg(8)->Arg(64)->ThreadRange(1, 8)->UseRealTime();
BENCHMARK(PushAndSync<Locked>)->Arg(1)->Arg(8)->Arg(64)->ThreadRange(1, 8)->UseRealTime();

}  // namespace
}  // namespace viommu::smmuv3
