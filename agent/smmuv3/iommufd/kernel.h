// The kernel as the iommufd backend sees it: system calls on a few files, and sysfs.
//
// It is a seam for tests, and no more than that: what a call means is the caller's business.

#ifndef VIOMMU_AGENT_SMMUV3_IOMMUFD_KERNEL_H_
#define VIOMMU_AGENT_SMMUV3_IOMMUFD_KERNEL_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace viommu::agent {

// Thread-safe. Calls that fail return -errno.
class Kernel {
 public:
  virtual ~Kernel() = default;

  // What stands in front of /dev and /sys: empty on a real host.
  virtual std::string root() const = 0;

  // A file below root() for reading and writing; it is closed at exec.
  virtual int Open(const std::string& path) = 0;
  virtual void Close(int fd) = 0;
  virtual int Ioctl(int fd, unsigned long request, void* argument) = 0;
  virtual ssize_t Read(int fd, void* buffer, size_t bytes) = 0;
  virtual ssize_t Write(int fd, const void* buffer, size_t bytes) = 0;
  // Another descriptor of the same file.
  virtual int Duplicate(int fd) = 0;
  // Maps a file, shared; the address goes into `*address`. 0 or -errno.
  virtual int Map(int fd, uint64_t offset, uint64_t length, bool readable, bool writable, void** address) = 0;
  virtual void Unmap(void* address, uint64_t length) = 0;
};

// The one that runs. Interrupted calls are made again.
Kernel& RealKernel();

// Owns a descriptor of a Kernel.
class KernelFile {
 public:
  KernelFile() = default;
  // Takes over `fd`.
  KernelFile(Kernel* kernel, int fd) : kernel_(kernel), fd_(fd) {}
  ~KernelFile() { Reset(); }
  KernelFile(KernelFile&& other) noexcept : kernel_(other.kernel_), fd_(std::exchange(other.fd_, -1)) {}
  KernelFile& operator=(KernelFile&& other) noexcept {
    if (this != &other) {
      Reset();
      kernel_ = other.kernel_;
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }

  int get() const { return fd_; }
  void Reset() {
    if (fd_ >= 0) kernel_->Close(std::exchange(fd_, -1));
  }

 private:
  Kernel* kernel_ = nullptr;
  int fd_ = -1;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_IOMMUFD_KERNEL_H_
