// A policy for CommandQueue under which a test decides who runs: every access to an atomic is a point where another
// thread may take over, and an explorer tries all schedules of a small program.
//
// Memory is that of x86 (total store order): a plain store goes into its thread's store buffer and reaches memory
// later, in order; the thread itself sees it at once. When that happens is part of the schedule. A read-modify-write, a
// sequentially consistent store and a system call empty the buffer of their thread; the heavy fence empties all
// threads' buffers, one after the other. So a fence that is missing between a store and a load is found here. Orders
// that are weaker still are not modelled; ThreadSanitizer looks for missing edges between threads.
//
// The explorer runs the program again for every schedule, depth first, and leaves a schedule as soon as it comes to a
// state that another one has been in. A state is the memory, the buffers, who sleeps, and for each thread everything
// that it has read so far, which determines where it is and what it will do. Therefore it is exhaustive in a time that
// grows with the states, not with the schedules. States are told apart by 64-bit hashes. A thread that comes to a place
// from where little of what it has read matters may say so, which makes more states the same.

#ifndef VIOMMU_AGENT_SMMUV3_QUEUE_MODEL_ATOMICS_H_
#define VIOMMU_AGENT_SMMUV3_QUEUE_MODEL_ATOMICS_H_

#include <ucontext.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <vector>

namespace viommu::smmuv3 {

// One run of the program to explore: what it keeps alive, its threads, and what must hold when all have ended.
struct ModelProgram {
  std::vector<std::function<void()>> threads;
  std::function<void()> check;
};

struct ModelResult {
  uint64_t schedules = 0;  // that were begun
  uint64_t states = 0;     // different ones in which there was a choice
  uint64_t completed = 0;  // schedules that came to the program's end
  uint64_t stuck = 0;      // schedules after which all threads that are left sleep: a wake-up was lost
  bool exhausted = false;  // there are no others
};

class ModelScheduler {
 public:
  // The one that is exploring, or null.
  static ModelScheduler*& Current() {
    static ModelScheduler* current = nullptr;
    return current;
  }

  // Tries all schedules of what `make` returns, which must be the same program every time; at most `most`.
  ModelResult Explore(const std::function<ModelProgram()>& make, uint64_t most) {
    ModelResult result;
    std::vector<uint32_t> script;
    Current() = this;
    while (result.schedules < most && !result.exhausted) {
      ++result.schedules;
      next_location_ = 0;
      memory_hash_ = 0;
      const ModelProgram program = make();
      switch (Run(program.threads, script)) {
        case Outcome::kSeen:
          break;
        case Outcome::kCompleted:
          ++result.completed;
          program.check();
          break;
        case Outcome::kStuck:
          ++result.stuck;
          break;
      }
      while (!decisions_.empty() && decisions_.back().chosen + 1 == decisions_.back().options) decisions_.pop_back();
      result.exhausted = decisions_.empty();
      script.clear();
      for (const Decision& decision : decisions_) script.push_back(decision.chosen);
      if (!script.empty()) ++script.back();
    }
    result.states = seen_.size();
    seen_.clear();
    Current() = nullptr;
    return result;
  }

  // ---- For the policy and the threads of the program ----

  static uint64_t Mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) + 0x9e3779b97f4a7c15;
    hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9;
    hash = (hash ^ (hash >> 27)) * 0x94d049bb133111eb;
    return hash ^ (hash >> 31);
  }

  uint64_t NewLocation() { return next_location_++; }

  // Others may run now.
  void Point() {
    if (running_ == kNobody) return;
    Thread& self = *threads_[running_];
    swapcontext(&self.context, &main_);
    if (aborting_) throw Aborted();
  }

  // What the running thread has read.
  void Note(uint64_t value) {
    if (running_ != kNobody) threads_[running_]->history = Mix(threads_[running_]->history, value);
  }

  // What the running thread will do depends on nothing that it has read so far but `key`.
  void Forget(uint64_t key) {
    if (running_ != kNobody) threads_[running_]->history = key;
  }

  // A plain store of the running thread.
  void Store(void* address, uint64_t location, const void* value, size_t size) {
    Buffered store{address, location, size, {}};
    std::memcpy(store.value.data(), value, size);
    if (running_ == kNobody) {
      Commit(store);
    } else {
      threads_[running_]->buffer.push_back(store);
    }
  }
  // The latest value that the running thread has stored at `address` and that has not reached memory; null: none.
  const void* Forwarded(const void* address) const {
    if (running_ == kNobody) return nullptr;
    const std::vector<Buffered>& buffer = threads_[running_]->buffer;
    for (auto store = buffer.rbegin(); store != buffer.rend(); ++store) {
      if (store->address == address) return store->value.data();
    }
    return nullptr;
  }
  // A store that does not wait in a buffer.
  void StoreAtOnce(void* address, uint64_t location, const void* value, size_t size) {
    Buffered store{address, location, size, {}};
    std::memcpy(store.value.data(), value, size);
    Commit(store);
  }
  void DrainOwn() {
    if (running_ != kNobody) Drain(*threads_[running_]);
  }
  void HeavyFence() {
    DrainOwn();
    for (size_t i = 0; i < threads_.size(); ++i) {
      if (i == running_) continue;
      Point();
      Note(i);
      Drain(*threads_[i]);
    }
  }

  // The running thread sleeps until WakeAll() of the same word.
  void SleepOn(const void* word) {
    threads_[running_]->sleeps_on = word;
    Point();
  }
  void WakeAll(const void* word) {
    for (const auto& thread : threads_) {
      if (thread->sleeps_on == word) thread->sleeps_on = nullptr;
    }
  }

 private:
  enum class Outcome { kCompleted, kStuck, kSeen };
  struct Aborted {};
  struct Decision {
    uint32_t options;
    uint32_t chosen;
  };
  struct Buffered {
    void* address;
    uint64_t location;
    size_t size;
    std::array<uint64_t, 2> value;
  };
  struct Thread {
    std::function<void()> body;
    ucontext_t context = {};
    std::vector<Buffered> buffer;
    uint64_t history = 0;
    const void* sleeps_on = nullptr;
    bool started = false;
    bool finished = false;
  };
  struct Action {
    size_t thread;
    bool drains;  // one store of its buffer reaches memory; else it runs to its next point
  };
  static constexpr size_t kNobody = ~size_t{0};
  static constexpr size_t kStackSize = size_t{128} * 1024;

  static uint64_t HashOf(uint64_t location, const std::array<uint64_t, 2>& value) {
    return Mix(Mix(Mix(1, location), value[0]), value[1]);
  }

  void Commit(const Buffered& store) {
    std::array<uint64_t, 2> old = {};
    std::memcpy(old.data(), store.address, store.size);
    std::memcpy(store.address, store.value.data(), store.size);
    // What a location held at first counts as nothing: only differences do.
    memory_hash_ ^= HashOf(store.location, old) ^ HashOf(store.location, store.value);
  }
  void DrainOne(Thread& thread) {
    const Buffered store = thread.buffer.front();
    thread.buffer.erase(thread.buffer.begin());
    Commit(store);
  }
  void Drain(Thread& thread) {
    while (!thread.buffer.empty()) DrainOne(thread);
  }

  uint64_t State() const {
    uint64_t state = memory_hash_;
    for (const auto& thread : threads_) {
      state = Mix(state, thread->history);
      state =
          Mix(state, (thread->started ? 1 : 0) + (thread->finished ? 2 : 0) + (thread->sleeps_on != nullptr ? 4 : 0));
      state = Mix(state, thread->buffer.size());
      for (const Buffered& store : thread->buffer) state = Mix(state, HashOf(store.location, store.value));
    }
    return state;
  }

  Outcome Run(const std::vector<std::function<void()>>& bodies, const std::vector<uint32_t>& script) {
    decisions_.clear();
    threads_.clear();
    while (stacks_.size() < bodies.size()) stacks_.push_back(std::make_unique<char[]>(kStackSize));
    for (size_t i = 0; i < bodies.size(); ++i) {
      threads_.push_back(std::make_unique<Thread>());
      threads_[i]->body = bodies[i];
      getcontext(&threads_[i]->context);
      threads_[i]->context.uc_stack.ss_sp = stacks_[i].get();
      threads_[i]->context.uc_stack.ss_size = kStackSize;
      threads_[i]->context.uc_link = &main_;
      makecontext(&threads_[i]->context, &ModelScheduler::Enter, 0);
    }
    std::vector<Action> actions;
    while (true) {
      actions.clear();
      bool all_finished = true;
      for (size_t i = 0; i < threads_.size(); ++i) {
        const Thread& thread = *threads_[i];
        if (!thread.finished) all_finished = false;
        if (!thread.finished && thread.sleeps_on == nullptr) actions.push_back({i, false});
        if (!thread.buffer.empty()) actions.push_back({i, true});
      }
      if (actions.empty()) {
        if (all_finished) return Outcome::kCompleted;
        Abort();
        return Outcome::kStuck;
      }
      uint32_t chosen = 0;
      if (actions.size() > 1) {
        if (decisions_.size() < script.size()) {
          chosen = script[decisions_.size()];
        } else if (!seen_.insert(State()).second) {
          Abort();
          return Outcome::kSeen;
        }
        decisions_.push_back({static_cast<uint32_t>(actions.size()), chosen});
      }
      const Action action = actions[chosen];
      if (action.drains) {
        DrainOne(*threads_[action.thread]);
      } else {
        Resume(action.thread);
      }
    }
  }

  void Resume(size_t i) {
    running_ = i;
    threads_[i]->started = true;
    swapcontext(&main_, &threads_[i]->context);
    running_ = kNobody;
  }

  // Unwinds all threads.
  void Abort() {
    aborting_ = true;
    for (size_t i = 0; i < threads_.size(); ++i) {
      if (threads_[i]->started && !threads_[i]->finished) Resume(i);
    }
    aborting_ = false;
  }

  static void Enter() {
    ModelScheduler& self = *Current();
    Thread& thread = *self.threads_[self.running_];
    try {
      thread.body();
    } catch (const Aborted&) {
    }
    thread.finished = true;
  }

  ucontext_t main_ = {};
  size_t running_ = kNobody;
  bool aborting_ = false;
  uint64_t next_location_ = 0;
  uint64_t memory_hash_ = 0;
  std::vector<Decision> decisions_;
  std::vector<std::unique_ptr<Thread>> threads_;
  std::vector<std::unique_ptr<char[]>> stacks_;
  std::unordered_set<uint64_t> seen_;
};

// What the model's machine is like. The wrong ones are there to see that the tests notice.
struct ModelOptions {
  bool has_heavy_fence = true;
  bool heavy_fence_works = true;
  bool stamps_wait_for_commands = true;
  bool wakes = true;
};

template <ModelOptions kOptions = ModelOptions()>
struct ModelAtomics {
  template <typename T>
  class Atomic {
   public:
    Atomic() : Atomic(T{}) {}
    explicit Atomic(T value) : value_(value) {
      if (ModelScheduler::Current() != nullptr) location_ = ModelScheduler::Current()->NewLocation();
    }
    T load(std::memory_order) const {
      Point();
      T value = value_;
      if (ModelScheduler* scheduler = ModelScheduler::Current()) {
        if (const void* own = scheduler->Forwarded(&value_)) std::memcpy(&value, own, sizeof(T));
        scheduler->Note(static_cast<uint64_t>(value));
      }
      return value;
    }
    void store(T value, std::memory_order order) {
      ModelScheduler* scheduler = ModelScheduler::Current();
      if (scheduler == nullptr) {
        value_ = value;
      } else if (order == std::memory_order_seq_cst) {
        Modify([value](T) { return value; });
      } else {
        scheduler->Store(&value_, location_, &value, sizeof(T));
      }
    }
    T fetch_add(T value, std::memory_order) {
      return Modify([value](T old) { return static_cast<T>(old + value); });
    }
    T fetch_sub(T value, std::memory_order) {
      return Modify([value](T old) { return static_cast<T>(old - value); });
    }
    T fetch_or(T value, std::memory_order) {
      return Modify([value](T old) { return static_cast<T>(old | value); });
    }
    bool compare_exchange_weak(T& expected, T value, std::memory_order order) {
      return compare_exchange_strong(expected, value, order);
    }
    bool compare_exchange_strong(T& expected, T value, std::memory_order) {
      const T old = Modify([&](T current) { return current == expected ? value : current; });
      const bool exchanged = old == expected;
      expected = old;
      return exchanged;
    }
    // Of the policy alone: what memory holds.
    T Read() const { return value_; }
    void StoreAtOnce(T value) { ModelScheduler::Current()->StoreAtOnce(&value_, location_, &value, sizeof(T)); }

   private:
    static void Point() {
      if (ModelScheduler::Current() != nullptr) ModelScheduler::Current()->Point();
    }
    template <typename F>
    T Modify(F f) {
      Point();
      ModelScheduler* scheduler = ModelScheduler::Current();
      if (scheduler != nullptr) scheduler->DrainOwn();
      const T old = value_;
      const T value = f(old);
      if (scheduler == nullptr) {
        value_ = value;
      } else {
        scheduler->StoreAtOnce(&value_, location_, &value, sizeof(T));
        scheduler->Note(static_cast<uint64_t>(old));
      }
      return old;
    }
    T value_;
    uint64_t location_ = 0;
  };

  // No points: who counts when makes no difference.
  template <typename T>
  using Counter = std::atomic<T>;

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

  static constexpr uint64_t kSpins = 0;
  static constexpr uint64_t kYields = 0;
  static void Relax() {}
  static void Yield() {}
  // System calls are full barriers of their thread.
  static void Sleep(Atomic<uint32_t>& word, uint32_t value, typename Clock::time_point) {
    ModelScheduler* scheduler = ModelScheduler::Current();
    scheduler->Point();
    scheduler->DrainOwn();
    scheduler->Note(word.Read());
    if (word.Read() == value) scheduler->SleepOn(&word);
  }
  static void WakeAll(Atomic<uint32_t>& word) {
    ModelScheduler* scheduler = ModelScheduler::Current();
    if (scheduler == nullptr || !kOptions.wakes) return;
    scheduler->Point();
    scheduler->DrainOwn();
    scheduler->Note(1);
    scheduler->WakeAll(&word);
  }

  // Slots are no atomics; those of the one queue of a program are told apart by their indices.
  template <typename T>
  static void Fill(T* array, uint64_t index, const T* from, uint64_t count) {
    static_assert(sizeof(T) <= 16);
    for (uint64_t i = 0; i < count; ++i) {
      if (ModelScheduler* scheduler = ModelScheduler::Current()) {
        scheduler->Store(array + index + i, kSlots + index + i, from + i, sizeof(T));
      } else {
        array[index + i] = from[i];
      }
    }
  }
  using Stamp8 = Atomic<uint8_t>;
  static void Stamp(Stamp8* stamps, uint64_t index, uint64_t count, uint8_t value) {
    for (uint64_t i = 0; i < count; ++i) {
      if (kOptions.stamps_wait_for_commands || ModelScheduler::Current() == nullptr) {
        stamps[index + i].store(value, std::memory_order_release);
      } else {
        stamps[index + i].StoreAtOnce(value);
      }
    }
  }
  static uint64_t CountStamped(const Stamp8* stamps, uint64_t index, uint64_t count, uint8_t value) {
    uint64_t stamped = 0;
    while (stamped < count && stamps[index + stamped].load(std::memory_order_acquire) == value) ++stamped;
    return stamped;
  }

  static void PrefetchForRead(const void*) {}
  static void PrefetchForWrite(const void*) {}

  static bool HasHeavyFence() { return kOptions.has_heavy_fence; }
  static void LightFence() {}
  static void HeavyFence() {
    ModelScheduler* scheduler = ModelScheduler::Current();
    if (scheduler != nullptr && kOptions.heavy_fence_works) scheduler->HeavyFence();
  }

 private:
  static constexpr uint64_t kSlots = uint64_t{1} << 32;
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_QUEUE_MODEL_ATOMICS_H_
