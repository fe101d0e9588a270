#include "agent/smmuv3/vsmmu/host_memory.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <iterator>
#include <map>

#include "agent/smmuv3/vsmmu/lent_memory.h"

namespace viommu::agent {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

class File {
 public:
  explicit File(uint64_t size) : fd_(memfd_create("guest", MFD_CLOEXEC)) {
    EXPECT_EQ(ftruncate(fd_, static_cast<off_t>(size)), 0);
  }
  ~File() { close(fd_); }
  int fd() const { return fd_; }

 private:
  const int fd_;
};

TEST(HostMemoryTest, PagesAreAlignedZeroedAndReused) {
  HostMemory memory(32);
  std::map<uint64_t, uint32_t> held;
  for (const uint32_t log2 : {12u, 14u, 16u, 20u, 22u, 5u}) {
    const auto address = memory.Allocate(log2);
    ASSERT_TRUE(address.has_value());
    EXPECT_GE(*address, HostMemory::kFirstAddress);
    EXPECT_EQ(*address % (uint64_t{1} << log2), 0u);
    uint64_t* words = memory.Words(*address);
    EXPECT_EQ(words[0], 0u);
    words[0] = log2;
    uint64_t word = 0;
    EXPECT_TRUE(memory.memory()->ReadWord(*address, word));
    EXPECT_EQ(word, log2);
    held[*address] = log2;
  }
  EXPECT_EQ(held.size(), 6u);
  EXPECT_EQ(memory.GetStats().table_bytes, 4096u + 16384 + 65536 + kMiB + 4 * kMiB + 4096);
  for (const auto& [address, log2] : held) memory.Free(address, log2);
  EXPECT_EQ(memory.GetStats(), HostMemoryStats{});
  for (const uint32_t log2 : {12u, 20u}) {
    const auto again = memory.Allocate(log2);
    EXPECT_EQ(memory.Words(*again)[0], 0u);
  }
  EXPECT_FALSE(memory.Allocate(HostMemory::kMaxSizeLog2 + 1).has_value());
}

TEST(HostMemoryTest, FilesAreSharedMemory) {
  HostMemory memory(40);
  File file(4 * kMiB);
  uint64_t address = 0;
  // As the guest address modulo 2 MiB, so that blocks fit.
  ASSERT_EQ(memory.MapFile(file.fd(), kMiB, 2 * kMiB, true, 0x1234'5000, &address), 0);
  EXPECT_EQ(address % (2 * kMiB), 0x1234'5000 % (2 * kMiB));
  ASSERT_TRUE(memory.memory()->WriteWord(address + 8, 0x55aa));
  uint64_t word = 0;
  ASSERT_EQ(pread(file.fd(), &word, sizeof(word), kMiB + 8), 8);
  EXPECT_EQ(word, 0x55aau);
  uint64_t read_only = 0;
  ASSERT_EQ(memory.MapFile(file.fd(), kMiB, 4096, false, 0, &read_only), 0);
  EXPECT_FALSE(memory.memory()->WriteWord(read_only, 1));
  ASSERT_TRUE(memory.memory()->ReadWord(read_only + 8, word));
  EXPECT_EQ(word, 0x55aau);
  EXPECT_EQ(memory.GetStats(), (HostMemoryStats{.file_bytes = 2 * kMiB + 4096, .files = 2}));
  memory.UnmapFile(address);
  memory.UnmapFile(read_only);
  EXPECT_FALSE(memory.memory()->ReadWord(address, word));
  EXPECT_EQ(memory.GetStats(), HostMemoryStats{});
}

TEST(HostMemoryTest, WhatCannotBeMapped) {
  HostMemory memory(32);
  File file(kMiB);
  uint64_t address = 0;
  EXPECT_EQ(memory.MapFile(-1, 0, 4096, true, 0, &address), EBADF);
  EXPECT_EQ(memory.MapFile(file.fd(), 0, kMiB + 4096, true, 0, &address), EINVAL);
  EXPECT_EQ(memory.MapFile(file.fd(), ~uint64_t{4095}, 8192, true, 0, &address), EINVAL);
  memory.FailNext(0);
  EXPECT_EQ(memory.MapFile(file.fd(), 0, 4096, true, 0, &address), ENOMEM);
  // There are 3 GiB of addresses.
  File large(uint64_t{4} << 30);
  EXPECT_EQ(memory.MapFile(large.fd(), 0, uint64_t{4} << 30, true, 0, &address), ENOMEM);
  EXPECT_EQ(memory.MapFile(large.fd(), 0, uint64_t{3} << 30, true, 0, &address), 0);
  EXPECT_FALSE(memory.Allocate(12).has_value());
  memory.UnmapFile(address);
  EXPECT_TRUE(memory.Allocate(12).has_value());
  EXPECT_EQ(memory.GetStats().files, 0u);
}

TEST(HostMemoryTest, WhatIsUnmappedOrRefusedIsLentNoMore) {
  HostMemory memory(32);
  File file(4096);
  uint64_t address = 0;
  for (size_t i = 0; i <= kMaxLentMappings; ++i) {
    ASSERT_EQ(memory.MapFile(file.fd(), 0, 4096, true, 0, &address), 0) << i;
    memory.UnmapFile(address);
    memory.FailNext(0);
    ASSERT_EQ(memory.MapFile(file.fd(), 0, 4096, true, 0, &address), ENOMEM);
  }
  File large(uint64_t{4} << 30);
  for (size_t i = 0; i <= kMaxLentMappings; ++i) {
    ASSERT_EQ(memory.MapFile(large.fd(), 0, uint64_t{4} << 30, true, 0, &address), ENOMEM);
  }
  EXPECT_EQ(memory.MapFile(file.fd(), 0, 4096, true, 0, &address), 0);
}

TEST(HostMemoryTest, AFailureCanBeTakenBack) {
  HostMemory memory(32);
  memory.FailNext(0);
  EXPECT_TRUE(memory.CancelFailure());
  EXPECT_TRUE(memory.Allocate(12).has_value());
  EXPECT_FALSE(memory.CancelFailure());
}

// Whatever comes and goes, nothing overlaps, and all of it can be had again in the end.
RC_GTEST_PROP(HostMemoryTest, AddressesNeverOverlap, ()) {
  HostMemory memory(32);
  File file(64 * kMiB);
  std::map<uint64_t, uint64_t> held;  // sizes by address
  const int steps = *rc::gen::inRange(1, 40);
  for (int i = 0; i < steps; ++i) {
    if (!held.empty() && *rc::gen::inRange(0, 3) == 0) {
      const auto it = std::next(held.begin(), *rc::gen::inRange<long>(0, static_cast<long>(held.size())));
      memory.UnmapFile(it->first);
      held.erase(it);
      continue;
    }
    const uint64_t length = 4096 * *rc::gen::inRange<uint64_t>(1, 16384);
    uint64_t address = 0;
    RC_ASSERT(memory.MapFile(file.fd(), 0, length, true, 4096 * *rc::gen::arbitrary<uint32_t>(), &address) == 0);
    const auto after = held.lower_bound(address);
    const bool ends_before = after == held.end() || after->first >= address + length;
    const bool begins_behind = after == held.begin() || std::prev(after)->first + std::prev(after)->second <= address;
    RC_ASSERT(ends_before);
    RC_ASSERT(begins_behind);
    RC_ASSERT(address + length <= uint64_t{1} << 32);
    held[address] = length;
  }
  for (const auto& [address, length] : held) memory.UnmapFile(address);
  File large(uint64_t{3} << 30);
  uint64_t address = 0;
  RC_ASSERT(memory.MapFile(large.fd(), 0, uint64_t{3} << 30, true, 0, &address) == 0);
}

}  // namespace
}  // namespace viommu::agent
