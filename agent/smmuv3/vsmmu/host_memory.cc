#include "agent/smmuv3/vsmmu/host_memory.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <span>

#include "agent/smmuv3/vsmmu/lent_memory.h"

namespace viommu::agent {
namespace {

// Small pieces are cut out of regions of this size, which are kept.
constexpr uint32_t kPoolLog2 = 20;
constexpr uint32_t kMaxPooledLog2 = 16;
// No block is larger than this.
constexpr uint64_t kMaxBlock = uint64_t{1} << 30;

}  // namespace

HostMemory::HostMemory(uint32_t address_bits) : reusable_(kMaxPooledLog2 + 1) {
  if (address_bits < 32 || address_bits > 52) std::abort();
  MutexLock lock(mu_);
  free_[kFirstAddress] = (uint64_t{1} << address_bits) - kFirstAddress;
}

HostMemory::~HostMemory() {
  MutexLock lock(mu_);
  while (!regions_.empty()) RemoveRegion(regions_.begin()->first);
}

bool HostMemory::TakeFailure() {
  if (!fail_after_.has_value()) return false;
  if (*fail_after_ > 0) {
    --*fail_after_;
    return false;
  }
  fail_after_.reset();
  return true;
}

void HostMemory::FailNext(uint32_t skip) {
  MutexLock lock(mu_);
  fail_after_ = skip;
}

bool HostMemory::CancelFailure() {
  MutexLock lock(mu_);
  const bool waiting = fail_after_.has_value();
  fail_after_.reset();
  return waiting;
}

std::optional<uint64_t> HostMemory::TakeAddresses(uint64_t size, uint64_t alignment, uint64_t like) {
  for (auto place = free_.begin(); place != free_.end(); ++place) {
    const auto [begin, free_size] = *place;
    const uint64_t address = begin + ((like - begin) & (alignment - 1));
    const uint64_t skipped = address - begin;
    if (skipped >= free_size || free_size - skipped < size) continue;
    if (skipped == 0) {
      free_.erase(place);
    } else {
      place->second = skipped;
    }
    if (free_size - skipped > size) free_[address + size] = free_size - skipped - size;
    return address;
  }
  return std::nullopt;
}

void HostMemory::ReturnAddresses(uint64_t address, uint64_t size) {
  auto after = free_.lower_bound(address);
  if (after != free_.end() && after->first == address + size) {
    size += after->second;
    after = free_.erase(after);
  }
  if (after != free_.begin() && std::prev(after)->first + std::prev(after)->second == address) {
    std::prev(after)->second += size;
  } else {
    free_[address] = size;
  }
}

bool HostMemory::Publish(std::byte* data, uint64_t size, uint64_t alignment, uint64_t like, bool writable, bool file,
                         uint64_t* address) {
  const std::optional<uint64_t> place = TakeAddresses(size, alignment, like);
  if (!place.has_value()) return false;
  if (!memory_.Add(*place, {data, size}, writable)) std::abort();
  regions_[*place] = {data, size, file};
  *address = *place;
  return true;
}

std::optional<uint64_t> HostMemory::AddRegion(uint64_t size) {
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return std::nullopt;
  uint64_t address = 0;
  if (Publish(static_cast<std::byte*>(data), size, size, 0, /*writable=*/true, /*file=*/false, &address))
    return address;
  munmap(data, size);
  return std::nullopt;
}

void HostMemory::RemoveRegion(uint64_t address) {
  const auto found = regions_.find(address);
  if (found == regions_.end() || !memory_.Remove(address)) std::abort();
  const Region& region = found->second;
  if (region.file) {
    UnmapLent(region.data);
  } else {
    munmap(region.data, region.size);
  }
  ReturnAddresses(address, region.size);
  regions_.erase(found);
}

const HostMemory::Region& HostMemory::RegionOf(uint64_t address, uint64_t* base) const {
  auto region = regions_.upper_bound(address);
  if (region == regions_.begin()) std::abort();
  --region;
  if (address - region->first >= region->second.size) std::abort();
  *base = region->first;
  return region->second;
}

std::optional<uint64_t> HostMemory::Allocate(uint32_t size_log2) {
  size_log2 = std::max(size_log2, kMinSizeLog2);
  if (size_log2 > kMaxSizeLog2) return std::nullopt;
  MutexLock lock(mu_);
  if (TakeFailure()) return std::nullopt;
  const uint64_t size = uint64_t{1} << size_log2;
  std::optional<uint64_t> address;
  if (size_log2 > kMaxPooledLog2) {
    address = AddRegion(size);
    if (!address.has_value()) return std::nullopt;
  } else {
    std::vector<uint64_t>& pieces = reusable_[size_log2];
    if (pieces.empty()) {
      const std::optional<uint64_t> pool = AddRegion(uint64_t{1} << kPoolLog2);
      if (!pool.has_value()) return std::nullopt;
      // The lowest address on top.
      for (uint64_t end = *pool + (uint64_t{1} << kPoolLog2); end > *pool; end -= size) pieces.push_back(end - size);
    }
    address = pieces.back();
    pieces.pop_back();
    uint64_t base = 0;
    const Region& region = RegionOf(*address, &base);
    std::memset(region.data + (*address - base), 0, size);
  }
  stats_.table_bytes += size;
  return address;
}

void HostMemory::Free(uint64_t address, uint32_t size_log2) {
  size_log2 = std::max(size_log2, kMinSizeLog2);
  MutexLock lock(mu_);
  stats_.table_bytes -= uint64_t{1} << size_log2;
  if (size_log2 > kMaxPooledLog2) {
    RemoveRegion(address);
  } else {
    reusable_[size_log2].push_back(address);
  }
}

uint64_t* HostMemory::Words(uint64_t address) {
  MutexLock lock(mu_);
  uint64_t base = 0;
  const Region& region = RegionOf(address, &base);
  return reinterpret_cast<uint64_t*>(region.data + (address - base));
}

int HostMemory::MapFile(int fd, uint64_t offset, uint64_t length, bool writable, uint64_t like, uint64_t* address) {
  struct stat status;
  if (fstat(fd, &status) != 0) return errno;
  // What is not a file of bytes (a dma-buf) has no size to look at; mmap() judges.
  if (S_ISREG(status.st_mode)) {
    const auto size = static_cast<uint64_t>(status.st_size);
    if (offset > size || length > size - offset) return EINVAL;
  }
  std::byte* data = nullptr;
  if (const int error = MapLent(fd, offset, length, writable, &data); error != 0) return error;
  MutexLock lock(mu_);
  if (TakeFailure()) {
    UnmapLent(data);
    return ENOMEM;
  }
  const uint64_t best = std::min(kMaxBlock, std::max(std::bit_floor(length), kFileAlignment));
  for (const uint64_t alignment : {best, kFileAlignment}) {
    if (!Publish(data, length, alignment, like, writable, /*file=*/true, address)) continue;
    stats_.file_bytes += length;
    ++stats_.files;
    return 0;
  }
  UnmapLent(data);
  return ENOMEM;
}

void HostMemory::UnmapFile(uint64_t address) {
  MutexLock lock(mu_);
  const auto region = regions_.find(address);
  if (region == regions_.end() || !region->second.file) std::abort();
  stats_.file_bytes -= region->second.size;
  --stats_.files;
  RemoveRegion(address);
}

HostMemoryStats HostMemory::GetStats() const {
  MutexLock lock(mu_);
  return stats_;
}

}  // namespace viommu::agent
