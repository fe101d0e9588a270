// A clock that stands still until a test moves it.

#ifndef VIOMMU_COMMON_FAKE_CLOCK_H_
#define VIOMMU_COMMON_FAKE_CLOCK_H_

#include <atomic>
#include <chrono>
#include <cstdint>

#include "common/clock.h"

namespace viommu {

// Starts at 2026-01-01T00:00:00Z, one hour after boot. Any thread may move it and read it.
class FakeClock final : public Clock {
 public:
  WallTime Now() const override { return WallTime(std::chrono::nanoseconds(wall_ns_.load())); }
  MonotonicTime Monotonic() const override { return MonotonicTime(std::chrono::nanoseconds(monotonic_ns_.load())); }

  // Moves both clocks forward.
  void Advance(std::chrono::nanoseconds by) {
    wall_ns_ += by.count();
    monotonic_ns_ += by.count();
  }

  // Sets the wall clock alone, as an administrator or NTP would.
  void SetWall(WallTime now) { wall_ns_ = now.time_since_epoch().count(); }

 private:
  std::atomic<int64_t> wall_ns_{1'767'225'600'000'000'000};
  std::atomic<int64_t> monotonic_ns_{3'600'000'000'000};
};

}  // namespace viommu

#endif  // VIOMMU_COMMON_FAKE_CLOCK_H_
