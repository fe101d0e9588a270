#include "tests/harness/faulty_disk.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace viommu::tests {
namespace {

constexpr uint32_t kFlakyEvery = 10;  // calls
constexpr uint32_t kShortEvery = 3;   // writes to a full disk that write half

struct Settings {
  char folder[256] = {};
  size_t folder_length = 0;
  const volatile uint8_t* fault = nullptr;
};

// Before main(); nothing is interposed in what this calls itself.
const Settings& Get() {
  static const Settings settings = [] {
    Settings made;
    const char* given = std::getenv("VIOMMU_FAULTY_DISK");
    const char* colon = given == nullptr ? nullptr : std::strrchr(given, ':');
    if (colon == nullptr || static_cast<size_t>(colon - given) >= sizeof(made.folder)) return made;
    made.folder_length = static_cast<size_t>(colon - given);
    std::memcpy(made.folder, given, made.folder_length);
    const int fd = ::open(colon + 1, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return made;
    void* mapped = ::mmap(nullptr, 1, PROT_READ, MAP_SHARED, fd, 0);
    ::close(fd);
    if (mapped != MAP_FAILED) made.fault = static_cast<const volatile uint8_t*>(mapped);
    return made;
  }();
  return settings;
}

std::atomic<uint32_t> calls{0};

// The fault that a call on this descriptor has now.
DiskFault FaultOf(int fd) {
  const Settings& settings = Get();
  if (settings.fault == nullptr || *settings.fault == 0) return DiskFault::kNone;
  char link[64];
  char path[512];
  std::snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
  const ssize_t length = ::readlink(link, path, sizeof(path));
  if (length < static_cast<ssize_t>(settings.folder_length) ||
      std::memcmp(path, settings.folder, settings.folder_length) != 0) {
    return DiskFault::kNone;
  }
  const auto fault = static_cast<DiskFault>(*settings.fault);
  const uint32_t call = calls.fetch_add(1);
  return fault == DiskFault::kFlaky && call % kFlakyEvery != 0 ? DiskFault::kNone : fault;
}

// Whether a write of `*size` bytes fails; else it may be cut short.
bool WriteFails(int fd, size_t* size) {
  const int before = errno;
  switch (FaultOf(fd)) {
    case DiskFault::kFull:
      if (*size > 1 && calls.load() % kShortEvery == 0) {
        *size /= 2;
        break;
      }
      errno = ENOSPC;
      return true;
    case DiskFault::kFlaky:
      errno = EIO;
      return true;
    case DiskFault::kNone:
    case DiskFault::kNotSynced:
      break;
  }
  errno = before;
  return false;
}

bool SyncFails(int fd) {
  const int before = errno;
  const DiskFault fault = FaultOf(fd);
  const bool fails = fault == DiskFault::kNotSynced || fault == DiskFault::kFlaky;
  errno = fails ? EIO : before;
  return fails;
}

bool GrowFails(int fd) {
  const int before = errno;
  const bool fails = FaultOf(fd) == DiskFault::kFull;
  errno = fails ? ENOSPC : before;
  return fails;
}

template <typename F>
F Next(const char* name) {
  return reinterpret_cast<F>(::dlsym(RTLD_NEXT, name));
}

}  // namespace
}  // namespace viommu::tests

namespace vt = viommu::tests;

extern "C" {

ssize_t write(int fd, const void* data, size_t size) {
  static const auto next = vt::Next<ssize_t (*)(int, const void*, size_t)>("write");
  return vt::WriteFails(fd, &size) ? -1 : next(fd, data, size);
}

ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  static const auto next = vt::Next<ssize_t (*)(int, const void*, size_t, off_t)>("pwrite");
  return vt::WriteFails(fd, &size) ? -1 : next(fd, data, size, offset);
}

ssize_t pwrite64(int fd, const void* data, size_t size, off64_t offset) {
  static const auto next = vt::Next<ssize_t (*)(int, const void*, size_t, off64_t)>("pwrite64");
  return vt::WriteFails(fd, &size) ? -1 : next(fd, data, size, offset);
}

int fsync(int fd) {
  static const auto next = vt::Next<int (*)(int)>("fsync");
  return vt::SyncFails(fd) ? -1 : next(fd);
}

int fdatasync(int fd) {
  static const auto next = vt::Next<int (*)(int)>("fdatasync");
  return vt::SyncFails(fd) ? -1 : next(fd);
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
  static const auto next = vt::Next<int (*)(int, int, off_t, off_t)>("fallocate");
  return vt::GrowFails(fd) ? -1 : next(fd, mode, offset, length);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
  static const auto next = vt::Next<int (*)(int, int, off64_t, off64_t)>("fallocate64");
  return vt::GrowFails(fd) ? -1 : next(fd, mode, offset, length);
}

}  // extern "C"
