#include "agent/smmuv3/emulator/wait_any.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <ctime>

namespace viommu::smmuv3 {
namespace {

// Deadlines further away than this are cut: callers look again anyway.
constexpr std::chrono::hours kLongest{1};

// The steady clock is CLOCK_MONOTONIC.
timespec ToTimespec(std::chrono::nanoseconds time) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(time);
  timespec result = {};
  result.tv_sec = seconds.count();
  result.tv_nsec = (time - seconds).count();
  return result;
}

}  // namespace

std::optional<size_t> WaitAny(std::span<const WaitWord> words, std::chrono::steady_clock::time_point deadline) {
  if (words.empty() || words.size() > kMaxWaitWords) std::abort();
  const auto now = std::chrono::steady_clock::now();
  if (deadline <= now) return std::nullopt;
  const auto until = deadline - now > kLongest ? now + kLongest : deadline;
  std::array<futex_waitv, kMaxWaitWords> waiters = {};
  for (size_t i = 0; i < words.size(); ++i) {
    waiters[i].val = words[i].value;
    waiters[i].uaddr = reinterpret_cast<uintptr_t>(words[i].word);
    waiters[i].flags = FUTEX_32 | (words[i].shared ? 0u : static_cast<uint32_t>(FUTEX_PRIVATE_FLAG));
  }
  const timespec absolute = ToTimespec(until.time_since_epoch());
  const long woken = syscall(SYS_futex_waitv, waiters.data(), words.size(), 0, &absolute, CLOCK_MONOTONIC);
  if (woken >= 0) return static_cast<size_t>(woken);
  if (errno != ENOSYS && errno != EPERM) return std::nullopt;
  const timespec relative = ToTimespec(until - now);
  const WaitWord& first = words.front();
  syscall(SYS_futex, first.word, first.shared ? FUTEX_WAIT : FUTEX_WAIT_PRIVATE, first.value, &relative, nullptr, 0);
  return std::nullopt;
}

void WakePrivate(const uint32_t* word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0); }

}  // namespace viommu::smmuv3
