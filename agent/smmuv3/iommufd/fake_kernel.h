// A kernel for tests: every call goes to a function of the test, and files are numbers.

#ifndef VIOMMU_AGENT_SMMUV3_IOMMUFD_FAKE_KERNEL_H_
#define VIOMMU_AGENT_SMMUV3_IOMMUFD_FAKE_KERNEL_H_

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "agent/smmuv3/iommufd/kernel.h"

namespace viommu::agent {

// Calls one at a time, except ioctls if the test's function takes them so.
class FakeKernel final : public Kernel {
 public:
  std::string root_path;
  // 0 or -errno; -ENOTTY when there is none.
  std::function<int(int fd, unsigned long request, void* argument)> on_ioctl;
  // Before they happen; may be none.
  std::function<void(int fd)> on_close;
  std::function<void(uint64_t length)> on_unmap;
  std::map<int, std::deque<std::vector<std::byte>>> to_read;  // by file; what each read() gives
  std::set<std::string> missing;                              // paths that cannot be opened (ENOENT)
  std::vector<std::string> opened;
  std::set<int> open_files;
  std::vector<std::vector<std::byte>> written;
  struct Mapping {
    int fd = -1;
    uint64_t offset = 0;
    uint64_t length = 0;
    bool operator==(const Mapping&) const = default;
  };
  std::vector<Mapping> mapped;
  int map_error = 0;        // -errno, of maps
  int duplicate_error = 0;  // likewise

  int NewFile() {
    open_files.insert(++last_file_);
    return last_file_;
  }

  std::string root() const override { return root_path; }
  int Open(const std::string& path) override {
    opened.push_back(path);
    if (missing.contains(path)) return -ENOENT;
    return NewFile();
  }
  void Close(int fd) override {
    if (on_close) on_close(fd);
    open_files.erase(fd);
  }
  int Ioctl(int fd, unsigned long request, void* argument) override {
    return on_ioctl ? on_ioctl(fd, request, argument) : -ENOTTY;
  }
  ssize_t Read(int fd, void* buffer, size_t bytes) override {
    auto& queue = to_read[fd];
    if (queue.empty()) return 0;
    const std::vector<std::byte> data = std::exchange(queue.front(), {});
    queue.pop_front();
    if (data.size() > bytes) return -EINVAL;
    std::memcpy(buffer, data.data(), data.size());
    return static_cast<ssize_t>(data.size());
  }
  ssize_t Write(int, const void* buffer, size_t bytes) override {
    const auto* begin = static_cast<const std::byte*>(buffer);
    written.emplace_back(begin, begin + bytes);
    return static_cast<ssize_t>(bytes);
  }
  int Duplicate(int) override { return duplicate_error != 0 ? duplicate_error : NewFile(); }
  int Map(int fd, uint64_t offset, uint64_t length, bool, bool, void** address) override {
    if (map_error != 0) return map_error;
    mapped.push_back({fd, offset, length});
    *address = this;  // somewhere
    ++maps;
    return 0;
  }
  void Unmap(void*, uint64_t length) override {
    if (on_unmap) on_unmap(length);
    --maps;
  }

  int maps = 0;

 private:
  int last_file_ = 100;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_IOMMUFD_FAKE_KERNEL_H_
