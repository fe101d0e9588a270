// Virtual time and chance for the simulation: one queue of events, one source of random numbers, one running hash of
// everything that happened. With the same seed all three are the same, bit by bit.
//
// Not thread-safe: a simulation is one thread.

#ifndef VIOMMU_TESTS_SIMULATION_SCHEDULER_H_
#define VIOMMU_TESTS_SIMULATION_SCHEDULER_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <queue>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/clock.h"

namespace viommu::simulation {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;

// SplitMix64: small, and the same on every platform, which the standard library's distributions are not.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  // In [0, end); `end` is above 0.
  uint64_t Below(uint64_t end) { return Next() % end; }
  bool OneIn(uint64_t n) { return Below(n) == 0; }
  // In [0, 1).
  double Fraction() { return static_cast<double>(Next() >> 11) * 0x1p-53; }
  bool Chance(double probability) { return Fraction() < probability; }
  nanoseconds Between(nanoseconds from, nanoseconds to) {
    return from + nanoseconds(static_cast<int64_t>(Below(static_cast<uint64_t>((to - from).count()) + 1)));
  }
  template <typename T>
  const T& Pick(const std::vector<T>& from) {
    return from[Below(from.size())];
  }
  // A UUID by form.
  std::string Uuid();

 private:
  uint64_t state_;
};

class Scheduler {
 public:
  explicit Scheduler(uint64_t seed) : random(seed) {}

  Random random;

  MonotonicTime now() const { return now_; }
  uint64_t steps() const { return steps_; }

  void After(nanoseconds delay, std::function<void()> event) {
    events_.push({now_ + delay, next_++, std::move(event)});
  }
  // Carries out the next event; false when there is none at or before `until`.
  bool Step(MonotonicTime until);

  // Adds to the trace. What is traced must follow from the seed alone: no addresses, no order of hash tables.
  void Trace(std::string_view what, std::string_view who, int64_t a = 0, int64_t b = 0);
  uint64_t trace_hash() const { return hash_; }
  // Lines of the trace go to stderr, too.
  void set_verbose(bool verbose) { verbose_ = verbose; }

 private:
  struct Event {
    MonotonicTime at;
    uint64_t number;  // keeps those of one time in order
    std::function<void()> run;
    friend bool operator>(const Event& a, const Event& b) { return a.at != b.at ? a.at > b.at : a.number > b.number; }
  };

  MonotonicTime now_{std::chrono::hours(1)};
  uint64_t next_ = 0;
  uint64_t steps_ = 0;
  uint64_t hash_ = 0xcbf29ce484222325;
  bool verbose_ = false;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
};

// Events of something that may end before they are due: they are dropped with it.
class Lifetime {
 public:
  explicit Lifetime(Scheduler& scheduler) : scheduler_(scheduler) {}
  void After(nanoseconds delay, std::function<void()> event) {
    scheduler_.After(delay, [alive = std::weak_ptr<int>(alive_), event = std::move(event)] {
      if (!alive.expired()) event();
    });
  }
  void End() { alive_.reset(); }
  // Expired when it has ended.
  std::weak_ptr<const void> handle() const { return alive_; }

 private:
  Scheduler& scheduler_;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

// One machine's clocks. The monotonic one is the scheduler's; the other jumps.
class SimulatedClock final : public Clock {
 public:
  explicit SimulatedClock(const Scheduler& scheduler) : scheduler_(scheduler) {}
  WallTime Now() const override { return WallTime(scheduler_.now().time_since_epoch() + offset_); }
  MonotonicTime Monotonic() const override { return scheduler_.now(); }
  void Jump(nanoseconds by) { offset_ += by; }

 private:
  const Scheduler& scheduler_;
  nanoseconds offset_{1'767'225'600'000'000'000};  // 2026-01-01
};

// FNV-1a, for what must be the same in every run.
uint64_t HashOf(std::string_view bytes, uint64_t seed = 0xcbf29ce484222325);

}  // namespace viommu::simulation

#endif  // VIOMMU_TESTS_SIMULATION_SCHEDULER_H_
