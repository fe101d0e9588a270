// Time as a dependency: whoever needs the time takes a Clock, so that tests and simulations own it.

#ifndef VIOMMU_COMMON_CLOCK_H_
#define VIOMMU_COMMON_CLOCK_H_

#include <chrono>

namespace viommu {

// Wall clock time: for people and for what outlives the process. It may jump.
using WallTime = std::chrono::time_point<std::chrono::system_clock, std::chrono::nanoseconds>;

// Monotonic time: for durations, deadlines and leases. Means nothing to another process.
using MonotonicTime = std::chrono::time_point<std::chrono::steady_clock, std::chrono::nanoseconds>;

// Every call may come from any thread.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual WallTime Now() const = 0;
  virtual MonotonicTime Monotonic() const = 0;
};

// The operating system's clocks. Lives as long as the process.
const Clock& RealClock();

}  // namespace viommu

#endif  // VIOMMU_COMMON_CLOCK_H_
