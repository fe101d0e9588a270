#include "agent/smmuv3/emulator/stalls.h"

#include <algorithm>

namespace viommu::smmuv3 {
namespace {

constexpr uint32_t kTags = 1 << 16;
// A wait without end is split, because a deadline of infinity overflows when "now" is taken from it.
constexpr auto kLongestWait = std::chrono::hours(1);

}  // namespace

Stalls::Stalls(uint32_t capacity) : capacity_(std::min(capacity, kTags)) {}

std::optional<uint16_t> Stalls::Begin(uint32_t sid) {
  MutexLock lock(mu_);
  if (closed_ || stalled_.size() >= capacity_) return std::nullopt;
  while (stalled_.contains(next_)) ++next_;
  stalled_[next_] = {sid, std::nullopt};
  return next_++;
}

StallAnswer Stalls::Wait(uint16_t stag, std::chrono::steady_clock::time_point deadline) {
  MutexLock lock(mu_);
  while (true) {
    const auto stalled = stalled_.find(stag);
    std::optional<StallAnswer> answer = stalled->second.answer;
    const auto now = std::chrono::steady_clock::now();
    if (!answer.has_value() && now >= deadline) answer = StallAnswer::kTimeout;
    if (answer.has_value()) {
      stalled_.erase(stalled);
      return *answer;
    }
    const auto limit = now + kLongestWait;
    answered_.WaitFor(mu_, std::min(deadline, limit) - now);
  }
}

void Stalls::Resume(uint32_t sid, uint16_t stag, StallAnswer answer) {
  MutexLock lock(mu_);
  const auto stalled = stalled_.find(stag);
  if (stalled == stalled_.end() || stalled->second.sid != sid || stalled->second.answer.has_value()) return;
  stalled->second.answer = answer;
  answered_.NotifyAll();
}

void Stalls::Terminate(std::optional<uint32_t> sid) {
  MutexLock lock(mu_);
  for (auto& [stag, stalled] : stalled_) {
    if ((!sid.has_value() || stalled.sid == *sid) && !stalled.answer.has_value()) stalled.answer = StallAnswer::kAbort;
  }
  answered_.NotifyAll();
}

void Stalls::Close() {
  {
    MutexLock lock(mu_);
    closed_ = true;
  }
  Terminate(std::nullopt);
}

uint32_t Stalls::count() const {
  MutexLock lock(mu_);
  return static_cast<uint32_t>(stalled_.size());
}

}  // namespace viommu::smmuv3
