// Waiting times between attempts: doubling, bounded, with jitter so that a fleet does not act in step.

#ifndef VIOMMU_AGENT_RECONCILE_BACKOFF_H_
#define VIOMMU_AGENT_RECONCILE_BACKOFF_H_

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>

namespace viommu::agent {

// A number in [0, 1). Called from one thread at a time.
using RandomSource = std::function<double()>;

class Backoff {
 public:
  constexpr Backoff(std::chrono::nanoseconds first, std::chrono::nanoseconds cap) : first_(first), cap_(cap) {}

  // The next wait: between half and the whole of first · 2^attempts, at most `cap`.
  std::chrono::nanoseconds Next(const RandomSource& random) {
    std::chrono::nanoseconds whole = cap_;
    if (attempts_ < 32) whole = std::min(cap_, first_ * (int64_t{1} << attempts_));
    ++attempts_;
    return std::chrono::nanoseconds(static_cast<int64_t>(static_cast<double>(whole.count()) * (0.5 + 0.5 * random())));
  }

  void Reset() { attempts_ = 0; }
  int attempts() const { return attempts_; }

 private:
  std::chrono::nanoseconds first_;
  std::chrono::nanoseconds cap_;
  int attempts_ = 0;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_RECONCILE_BACKOFF_H_
