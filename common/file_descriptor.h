// Owns a file descriptor.

#ifndef VIOMMU_COMMON_FILE_DESCRIPTOR_H_
#define VIOMMU_COMMON_FILE_DESCRIPTOR_H_

#include <unistd.h>

#include <utility>

namespace viommu {

class FileDescriptor {
 public:
  FileDescriptor() = default;
  // Takes over `fd`; -1: none.
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    FileDescriptor old(std::exchange(fd_, other.release()));
    return *this;
  }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  // Gives it away.
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

}  // namespace viommu

#endif  // VIOMMU_COMMON_FILE_DESCRIPTOR_H_
