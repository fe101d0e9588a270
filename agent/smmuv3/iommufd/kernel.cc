#include "agent/smmuv3/iommufd/kernel.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

namespace viommu::agent {
namespace {

// Makes a call again as long as a signal interrupts it; -errno when it fails.
template <typename Call>
auto Restart(Call call) -> decltype(call()) {
  while (true) {
    const auto result = call();
    if (result >= 0) return result;
    if (errno != EINTR) return -errno;
  }
}

class LinuxKernel final : public Kernel {
 public:
  std::string root() const override { return ""; }
  int Open(const std::string& path) override {
    return Restart([&] { return ::open(path.c_str(), O_RDWR | O_CLOEXEC); });
  }
  void Close(int fd) override { ::close(fd); }
  int Ioctl(int fd, unsigned long request, void* argument) override {
    return Restart([&] { return ::ioctl(fd, request, argument); });
  }
  ssize_t Read(int fd, void* buffer, size_t bytes) override {
    return Restart([&] { return ::read(fd, buffer, bytes); });
  }
  ssize_t Write(int fd, const void* buffer, size_t bytes) override {
    return Restart([&] { return ::write(fd, buffer, bytes); });
  }
  int Duplicate(int fd) override {
    return Restart([&] { return ::fcntl(fd, F_DUPFD_CLOEXEC, 0); });
  }
  int Map(int fd, uint64_t offset, uint64_t length, bool readable, bool writable, void** address) override {
    const int protection = (readable ? PROT_READ : 0) | (writable ? PROT_WRITE : 0);
    void* mapped = ::mmap(nullptr, length, protection, MAP_SHARED, fd, static_cast<off_t>(offset));
    if (mapped == MAP_FAILED) return -errno;
    *address = mapped;
    return 0;
  }
  void Unmap(void* address, uint64_t length) override { ::munmap(address, length); }
};

}  // namespace

Kernel& RealKernel() {
  static LinuxKernel kernel;
  return kernel;
}

}  // namespace viommu::agent
