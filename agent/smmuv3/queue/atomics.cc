#include "agent/smmuv3/queue/atomics.h"

#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <ctime>

namespace viommu::smmuv3 {
namespace {

// The kernel wants the address of the 32-bit word inside the atomic.
static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));
uint32_t* Address(std::atomic<uint32_t>& word) { return reinterpret_cast<uint32_t*>(&word); }

}  // namespace

void SystemAtomics::Yield() { sched_yield(); }

void SystemAtomics::Sleep(Atomic<uint32_t>& word, uint32_t value, Clock::time_point deadline) {
  // An hour at most: far deadlines such as time_point::max() must not overflow, and callers look again anyway.
  const auto now = Clock::now();
  if (deadline <= now) return;
  const auto left =
      deadline - now > std::chrono::hours(1) ? std::chrono::nanoseconds(std::chrono::hours(1)) : deadline - now;
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
  timespec timeout = {};
  timeout.tv_sec = seconds.count();
  timeout.tv_nsec = (std::chrono::nanoseconds(left) - seconds).count();
  syscall(SYS_futex, Address(word), FUTEX_WAIT_PRIVATE, value, &timeout, nullptr, 0);
}

void SystemAtomics::WakeAll(Atomic<uint32_t>& word) {
  syscall(SYS_futex, Address(word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

bool SystemAtomics::HasHeavyFence() {
  // Missing before Linux 4.14 and where a seccomp filter forbids it.
  static const bool has = syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
  return has;
}

void SystemAtomics::HeavyFence() {
  // Registered processes are not refused; without the fence a wake-up could be lost.
  if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) != 0) std::abort();
}

}  // namespace viommu::smmuv3
