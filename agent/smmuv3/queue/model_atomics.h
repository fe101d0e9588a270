// A policy for CommandQueue under which a test decides who runs: every access to an atomic is a point where another
// thread may take over, and an explorer tries the schedules one after the other (stateless model checking with a bound
// on preemptions, after Musuvathi and Qadeer, "Iterative Context Bounding", PLDI 2007).
//
// Threads are real ones, of which exactly one runs at a time. Memory is sequentially consistent here; weaker orders are
// what the run under ThreadSanitizer is for.

#ifndef VIOMMU_AGENT_SMMUV3_QUEUE_MODEL_ATOMICS_H_
#define VIOMMU_AGENT_SMMUV3_QUEUE_MODEL_ATOMICS_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

namespace viommu::smmuv3 {

// Runs one schedule. At each point a number is taken from the script: 0 goes on with the running thread, where it can
// go on; n switches to the n-th other thread that can. Behind the script's end it is always 0.
class ModelScheduler {
 public:
  struct Decision {
    uint32_t options;  // there were so many
    uint32_t chosen;
  };

  static ModelScheduler*& Current() {
    static ModelScheduler* current = nullptr;
    return current;
  }

  // Runs the bodies to their ends under `script`. False when they got stuck: all that are left sleep, which is a lost
  // wake-up.
  bool Run(const std::vector<std::function<void()>>& bodies, std::vector<uint32_t> script) {
    script_ = std::move(script);
    decisions_.clear();
    threads_.clear();
    stuck_ = false;
    for (size_t i = 0; i < bodies.size(); ++i) threads_.push_back(std::make_unique<Thread>());
    Current() = this;
    std::vector<std::thread> running;
    for (size_t i = 0; i < bodies.size(); ++i) {
      running.emplace_back([this, i, &bodies] {
        threads_[i]->baton.acquire();
        self_ = i;
        try {
          bodies[i]();
        } catch (const Stuck&) {
        }
        threads_[i]->finished = true;
        HandOver();
      });
    }
    self_ = kNobody;
    HandOver();
    for (std::thread& thread : running) thread.join();
    Current() = nullptr;
    return !stuck_;
  }

  const std::vector<Decision>& decisions() const { return decisions_; }

  // Another thread may run now.
  void Point() {
    if (self_ == kNobody) return;
    const size_t next = Choose();
    if (next == self_) return;
    threads_[next]->baton.release();
    threads_[self_]->baton.acquire();
    if (stuck_) throw Stuck();
  }

  // The running thread sleeps until WakeAll() of the same word.
  void SleepOn(const void* word) {
    threads_[self_]->sleeps_on = word;
    const size_t me = self_;
    HandOver();
    threads_[me]->baton.acquire();
    if (stuck_) throw Stuck();
  }

  void WakeAll(const void* word) {
    for (const auto& thread : threads_) {
      if (thread->sleeps_on == word) thread->sleeps_on = nullptr;
    }
  }

 private:
  struct Stuck {};
  struct Thread {
    std::binary_semaphore baton{0};
    const void* sleeps_on = nullptr;
    bool finished = false;
  };
  static constexpr size_t kNobody = ~size_t{0};

  bool CanRun(size_t i) const { return !threads_[i]->finished && threads_[i]->sleeps_on == nullptr; }

  // The thread to run next, or kNobody.
  size_t Choose() {
    std::vector<size_t> options;
    const bool can_go_on = self_ != kNobody && CanRun(self_);
    if (can_go_on) options.push_back(self_);
    for (size_t i = 0; i < threads_.size(); ++i) {
      if (i != self_ && CanRun(i)) options.push_back(i);
    }
    if (options.empty()) return kNobody;
    uint32_t chosen = 0;
    if (options.size() > 1) {
      if (decisions_.size() < script_.size()) chosen = script_[decisions_.size()];
      decisions_.push_back({static_cast<uint32_t>(options.size()), chosen});
    }
    return options.at(chosen);
  }

  // The running thread can not go on: lets another one run, or ends everything when all that are left sleep.
  void HandOver() {
    const size_t next = Choose();
    if (next != kNobody) {
      threads_[next]->baton.release();
      return;
    }
    for (const auto& thread : threads_) {
      if (!thread->finished) {
        stuck_ = true;
        thread->sleeps_on = nullptr;
        thread->baton.release();
        return;
      }
    }
  }

  static thread_local size_t self_;
  std::vector<uint32_t> script_;
  std::vector<Decision> decisions_;
  std::vector<std::unique_ptr<Thread>> threads_;
  bool stuck_ = false;
};

inline thread_local size_t ModelScheduler::self_ = ModelScheduler::kNobody;

// Tries the schedules with at most `max_preemptions` preemptions, depth first, until there are no more or `max_runs`
// were tried. `run(script)` must run the same program each time and return the scheduler's decisions. Returns the
// number of runs.
inline uint64_t Explore(uint32_t max_deviations, uint64_t max_runs,
                        const std::function<std::vector<ModelScheduler::Decision>(std::vector<uint32_t>)>& run) {
  std::vector<uint32_t> script;
  for (uint64_t runs = 1;; ++runs) {
    const std::vector<ModelScheduler::Decision> decisions = run(script);
    if (runs == max_runs) return runs;
    // The last decision that has another option left within the bound; everything behind it starts anew.
    std::vector<uint32_t> deviations_before(decisions.size() + 1, 0);
    for (size_t i = 0; i < decisions.size(); ++i) {
      deviations_before[i + 1] = deviations_before[i] + (decisions[i].chosen != 0 ? 1 : 0);
    }
    size_t i = decisions.size();
    while (i > 0) {
      const ModelScheduler::Decision& last = decisions[i - 1];
      if (deviations_before[i - 1] < max_deviations && last.chosen + 1 < last.options) break;
      --i;
    }
    if (i == 0) return runs;
    script.clear();
    for (size_t j = 0; j + 1 < i; ++j) script.push_back(decisions[j].chosen);
    script.push_back(decisions[i - 1].chosen + 1);
  }
}

struct ModelAtomics {
  template <typename T>
  class Atomic {
   public:
    Atomic() = default;
    explicit Atomic(T value) : value_(value) {}
    T load(std::memory_order) const {
      Point();
      return value_;
    }
    void store(T value, std::memory_order) {
      Point();
      value_ = value;
    }
    T fetch_add(T value, std::memory_order) {
      Point();
      const T old = value_;
      value_ += value;
      return old;
    }
    T fetch_sub(T value, std::memory_order) {
      Point();
      const T old = value_;
      value_ -= value;
      return old;
    }
    T fetch_xor(T value, std::memory_order) {
      Point();
      const T old = value_;
      value_ ^= value;
      return old;
    }
    bool compare_exchange_weak(T& expected, T value, std::memory_order) {
      Point();
      if (value_ != expected) {
        expected = value_;
        return false;
      }
      value_ = value;
      return true;
    }
    // Of the policy alone.
    T Read() const { return value_; }

   private:
    static void Point() {
      if (ModelScheduler::Current() != nullptr) ModelScheduler::Current()->Point();
    }
    T value_{};
  };

  // Time stands still, so that a wait ends by what it waits for or not at all; a deadline in the past is one that has
  // come.
  struct Clock {
    using duration = std::chrono::nanoseconds;
    using rep = duration::rep;
    using period = duration::period;
    using time_point = std::chrono::time_point<Clock>;
    static constexpr bool is_steady = true;
    static time_point now() { return time_point(duration(0)); }
  };

  static constexpr int kSpins = 0;
  static constexpr int kYields = 0;
  static void Relax() {}
  static void Yield() {}
  static void Sleep(Atomic<uint32_t>& word, uint32_t value, Clock::time_point) {
    ModelScheduler::Current()->Point();
    if (word.Read() == value) ModelScheduler::Current()->SleepOn(&word);
  }
  static void WakeAll(Atomic<uint32_t>& word) {
    ModelScheduler::Current()->Point();
    ModelScheduler::Current()->WakeAll(&word);
  }
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_QUEUE_MODEL_ATOMICS_H_
