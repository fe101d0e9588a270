// The physical memory of an emulated host: pages for the driver's own tables, and guest memory files, which lie in one
// piece each.
//
// Physical addresses are given out from kFirstAddress up. They have nothing to do with guest addresses, except that a
// file is placed so that it can be mapped with blocks as large as its guest address allows.
//
// Whoever takes memory away makes sure before that no SMMU and no device uses it any more.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_HOST_MEMORY_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_HOST_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "agent/smmuv3/emulator/physical_memory.h"
#include "common/mutex.h"

namespace viommu::agent {

struct HostMemoryStats {
  uint64_t table_bytes = 0;  // allocated and not freed
  uint64_t file_bytes = 0;   // mapped
  uint64_t files = 0;

  friend bool operator==(const HostMemoryStats&, const HostMemoryStats&) = default;
};

// Thread-safe.
class HostMemory {
 public:
  static constexpr uint64_t kFirstAddress = uint64_t{1} << 30;
  static constexpr uint32_t kMinSizeLog2 = 12;  // 4 KiB
  // The largest allocation: a linear stream table of 2^20 entries.
  static constexpr uint32_t kMaxSizeLog2 = 26;
  // Files are placed on multiples of this, the largest page of any SMMU.
  static constexpr uint64_t kFileAlignment = uint64_t{1} << 16;

  // Addresses stay below 2^address_bits (32 to 52).
  explicit HostMemory(uint32_t address_bits);
  ~HostMemory();
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  // What SMMUs and devices see.
  smmuv3::Memory* memory() { return &memory_; }

  // 2^size_log2 zeroed bytes, aligned to their size; nothing when there is no memory, or a test has asked for that.
  // Sizes below the smallest are rounded up to it; above the largest there is nothing.
  std::optional<uint64_t> Allocate(uint32_t size_log2) ABSL_LOCKS_EXCLUDED(mu_);
  // `address` and `size_log2` as in Allocate().
  void Free(uint64_t address, uint32_t size_log2) ABSL_LOCKS_EXCLUDED(mu_);
  // Where the words of allocated memory are for the driver, which accesses them as atomics: SMMUs read them meanwhile.
  // They are in one piece up to the end of the allocation. `address` is a multiple of 8.
  uint64_t* Words(uint64_t address) ABSL_LOCKS_EXCLUDED(mu_);

  // Makes `length` bytes of a file appear at a physical address that is as `like` in as many low bits as help to use
  // large blocks. `length` and `offset` are multiples of 4 KiB. Returns 0 or an errno: EBADF, EACCES, ENODEV, ENOMEM of
  // mmap(2), EINVAL where the file is too short. Where it becomes so later, it is zeros (lent_memory.h).
  int MapFile(int fd, uint64_t offset, uint64_t length, bool writable, uint64_t like, uint64_t* address)
      ABSL_LOCKS_EXCLUDED(mu_);
  // Takes the file that was mapped at `address` away; waits for accesses that are using it.
  void UnmapFile(uint64_t address) ABSL_LOCKS_EXCLUDED(mu_);

  HostMemoryStats GetStats() const ABSL_LOCKS_EXCLUDED(mu_);

  // The Allocate() or MapFile() after `skip` further ones gives nothing (ENOMEM).
  void FailNext(uint32_t skip) ABSL_LOCKS_EXCLUDED(mu_);
  // Takes that wish back; true when it had not come to pass.
  bool CancelFailure() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Region {
    std::byte* data = nullptr;
    uint64_t size = 0;
    bool file = false;
  };

  bool TakeFailure() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // A free place of `size` bytes that is as `like` modulo `alignment`.
  std::optional<uint64_t> TakeAddresses(uint64_t size, uint64_t alignment, uint64_t like)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ReturnAddresses(uint64_t address, uint64_t size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Anonymous memory at a physical address.
  std::optional<uint64_t> AddRegion(uint64_t size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Makes `data` visible at a place as TakeAddresses() finds it; false when there is none.
  bool Publish(std::byte* data, uint64_t size, uint64_t alignment, uint64_t like, bool writable, bool file,
               uint64_t* address) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void RemoveRegion(uint64_t address) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  const Region& RegionOf(uint64_t address, uint64_t* base) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  smmuv3::PhysicalMemory memory_;
  mutable Mutex mu_;
  std::map<uint64_t, uint64_t> free_ ABSL_GUARDED_BY(mu_);            // sizes of free places, by address
  std::map<uint64_t, Region> regions_ ABSL_GUARDED_BY(mu_);           // by address
  std::vector<std::vector<uint64_t>> reusable_ ABSL_GUARDED_BY(mu_);  // freed small pieces, by log2 of their size
  HostMemoryStats stats_ ABSL_GUARDED_BY(mu_);
  std::optional<uint32_t> fail_after_ ABSL_GUARDED_BY(mu_);
};

// Memory that goes with its owner.
class HostPages {
 public:
  HostPages() = default;
  HostPages(HostMemory* memory, uint64_t address, uint32_t size_log2)
      : memory_(memory), address_(address), size_log2_(size_log2) {}
  ~HostPages() {
    if (memory_ != nullptr) memory_->Free(address_, size_log2_);
  }
  HostPages(HostPages&& other) noexcept { *this = std::move(other); }
  HostPages& operator=(HostPages&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(address_, other.address_);
    std::swap(size_log2_, other.size_log2_);
    return *this;
  }

  // Empty when there is no memory.
  static HostPages Allocate(HostMemory* memory, uint32_t size_log2) {
    const std::optional<uint64_t> address = memory->Allocate(size_log2);
    return address.has_value() ? HostPages(memory, *address, size_log2) : HostPages();
  }

  bool empty() const { return memory_ == nullptr; }
  uint64_t address() const { return address_; }
  uint64_t* words() const { return memory_->Words(address_); }
  // Leaves the memory allocated for ever.
  void Abandon() { memory_ = nullptr; }

 private:
  HostMemory* memory_ = nullptr;
  uint64_t address_ = 0;
  uint32_t size_log2_ = 0;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_HOST_MEMORY_H_
