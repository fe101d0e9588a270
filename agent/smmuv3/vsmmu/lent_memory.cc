#include "agent/smmuv3/vsmmu/lent_memory.h"

#include <linux/magic.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"

namespace viommu::agent {
namespace {

// What the signal handler may look at: a place is taken when it has a beginning, which is written last and taken away
// first.
struct Lent {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};
  std::atomic<uintptr_t> page_bytes{0};
};
std::array<Lent, kMaxLentMappings> lent;
static_assert(std::atomic<uintptr_t>::is_always_lock_free);

struct sigaction before;  // the handler that was there; written once, before ours can run

// The system call itself: ThreadSanitizer takes mmap() for a write to memory that others are reading.
bool PutZeros(uintptr_t begin, uintptr_t end) {
  return syscall(SYS_mmap, begin, end - begin, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                 off_t{0}) == static_cast<long>(begin);  // NOLINT(google-runtime-int): its type
}

void OnBusError(int /*signal*/, siginfo_t* info, void* /*context*/) {
  const int saved_errno = errno;
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (const Lent& mapping : lent) {
    const uintptr_t begin = mapping.begin.load(std::memory_order_acquire);
    const uintptr_t end = mapping.end.load(std::memory_order_relaxed);
    if (begin == 0 || address < begin || address >= end) continue;
    const uintptr_t page_bytes = mapping.page_bytes.load(std::memory_order_relaxed);
    const uintptr_t page = address & ~(page_bytes - 1);
    // A process has a limited number of mappings: where one more is too many, the rest goes at once.
    if (PutZeros(page, page + page_bytes) || PutZeros(page, end)) {
      errno = saved_errno;
      return;
    }
  }
  // Not ours: the access is repeated, and is then whoever's it was before.
  sigaction(SIGBUS, &before, nullptr);
  errno = saved_errno;
}

void InstallHandler() {
  struct sigaction action = {};
  action.sa_sigaction = OnBusError;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, nullptr, &before);
  sigaction(SIGBUS, &action, nullptr);
}

constinit Mutex mu;

}  // namespace

int MapLent(int fd, uint64_t offset, uint64_t length, bool writable, std::byte** data) {
  static const bool installed = (InstallHandler(), true);
  static_cast<void>(installed);
  struct statfs file_system;
  if (fstatfs(fd, &file_system) != 0) return errno;
  // Huge pages can only be replaced whole, and a mapping of them ends with one.
  const uintptr_t page_bytes = file_system.f_type == HUGETLBFS_MAGIC ? static_cast<uintptr_t>(file_system.f_bsize)
                                                                     : static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const int protection = PROT_READ | (writable ? PROT_WRITE : 0);
  void* const mapped = mmap(nullptr, length, protection, MAP_SHARED, fd, static_cast<off_t>(offset));
  if (mapped == MAP_FAILED) return errno;
  const auto begin = reinterpret_cast<uintptr_t>(mapped);
  MutexLock lock(mu);
  for (Lent& mapping : lent) {
    if (mapping.begin.load(std::memory_order_relaxed) != 0) continue;
    mapping.end.store((begin + length + page_bytes - 1) & ~(page_bytes - 1), std::memory_order_relaxed);
    mapping.page_bytes.store(page_bytes, std::memory_order_relaxed);
    mapping.begin.store(begin, std::memory_order_release);
    *data = static_cast<std::byte*>(mapped);
    return 0;
  }
  munmap(mapped, length);
  return ENOMEM;
}

void UnmapLent(std::byte* data) {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  MutexLock lock(mu);
  for (Lent& mapping : lent) {
    if (mapping.begin.load(std::memory_order_relaxed) != begin) continue;
    mapping.begin.store(0, std::memory_order_relaxed);
    munmap(data, mapping.end.load(std::memory_order_relaxed) - begin);
    return;
  }
  std::abort();
}

}  // namespace viommu::agent
