#include "agent/smmuv3/vsmmu/lent_memory.h"

#include <gtest/gtest.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <fstream>
#include <thread>
#include <vector>

#include "common/sanitizers.h"

namespace viommu::agent {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kPages = 8;

class LentMemoryTest : public testing::Test {
 protected:
  LentMemoryTest() : fd_(memfd_create("lent", MFD_CLOEXEC)) {
    Resize(kPages);
    EXPECT_EQ(MapLent(fd_, 0, kPages * kPage, /*writable=*/true, &data_), 0);
    std::fill_n(data_, kPages * kPage, std::byte{7});
  }
  ~LentMemoryTest() override {
    UnmapLent(data_);
    close(fd_);
  }
  void Resize(size_t pages) { ASSERT_EQ(ftruncate(fd_, static_cast<off_t>(pages * kPage)), 0); }
  std::byte At(size_t page) const {
    return static_cast<const std::atomic<std::byte>*>(static_cast<const void*>(data_ + page * kPage + 100))->load();
  }

  const int fd_;
  std::byte* data_ = nullptr;
};

TEST_F(LentMemoryTest, WhatTheFileLosesIsZeros) {
  Resize(3);
  EXPECT_EQ(At(2), std::byte{7});
  EXPECT_EQ(At(3), std::byte{0});
  EXPECT_EQ(At(7), std::byte{0});
  data_[7 * kPage] = std::byte{5};  // goes nowhere
  EXPECT_EQ(At(6), std::byte{0}) << "page by page";
  EXPECT_EQ(data_[7 * kPage], std::byte{5});
  EXPECT_EQ(At(2), std::byte{7}) << "what is there stays shared";
  Resize(kPages);
  EXPECT_EQ(At(4), std::byte{0}) << "the file's own zeros";
}

TEST_F(LentMemoryTest, AFileShrinksUnderManyReaders) {
  std::atomic<bool> shrunk = false;
  std::vector<std::thread> readers;
  for (int i = 0; i < 4; ++i) {
    readers.emplace_back([&] {
      for (bool last = false; !last;) {
        last = shrunk.load();
        for (size_t page = 0; page < kPages; ++page) {
          const std::byte value = At(page);
          EXPECT_TRUE(value == std::byte{7} || value == std::byte{0});
        }
      }
    });
  }
  Resize(0);
  shrunk = true;
  for (std::thread& reader : readers) reader.join();
  for (size_t page = 0; page < kPages; ++page) EXPECT_EQ(At(page), std::byte{0});
}

TEST_F(LentMemoryTest, NoMoreThanAsManyAsThereAre) {
  std::vector<std::byte*> mappings;
  int error = 0;
  while (error == 0 && mappings.size() <= kMaxLentMappings) {
    std::byte* data = nullptr;
    error = MapLent(fd_, 0, kPage, /*writable=*/false, &data);
    if (error == 0) mappings.push_back(data);
  }
  EXPECT_EQ(error, ENOMEM);
  EXPECT_EQ(mappings.size(), kMaxLentMappings - 1) << "beside that of the test";
  for (std::byte* data : mappings) UnmapLent(data);
  std::byte* data = nullptr;
  EXPECT_EQ(MapLent(fd_, 0, kPage, /*writable=*/false, &data), 0);
  UnmapLent(data);
}

TEST_F(LentMemoryTest, ErrorsAreThoseOfMmap) {
  std::byte* data = nullptr;
  EXPECT_EQ(MapLent(-1, 0, kPage, /*writable=*/true, &data), EBADF);
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  EXPECT_EQ(MapLent(pipes[0], 0, kPage, /*writable=*/false, &data), ENODEV);
  close(pipes[0]);
  close(pipes[1]);
}

TEST(LentHugePagesTest, GoWhole) {
  constexpr size_t kHuge = size_t{2} << 20;
  const int fd = memfd_create("lent", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
  std::byte* data = nullptr;
  if (fd < 0 || ftruncate(fd, 2 * kHuge) != 0 || MapLent(fd, 0, kHuge + kPage, /*writable=*/true, &data) != 0) {
    close(fd);
    GTEST_SKIP() << "the machine has no two huge pages to spare";
  }
  std::fill_n(data, 2 * kHuge, std::byte{7});
  ASSERT_EQ(ftruncate(fd, kHuge), 0);
  const auto at = [&](size_t place) { return static_cast<volatile std::byte*>(data)[place]; };
  EXPECT_EQ(at(kHuge + 5 * kPage), std::byte{0});
  EXPECT_EQ(at(2 * kHuge - 1), std::byte{0});
  EXPECT_EQ(at(kHuge - 1), std::byte{7});
  UnmapLent(data);
  unsigned char resident = 0;
  for (const size_t place : {size_t{0}, kHuge}) {
    EXPECT_EQ(mincore(data + place, kPage, &resident), -1) << "still mapped at " << place;
  }
  close(fd);
}

// Somebody else's bus error is not hidden.
TEST(LentMemoryDeathTest, OtherMappingsEndAsEver) {
  const auto access = [] {
    const int fd = memfd_create("lent", MFD_CLOEXEC);
    std::byte* lent = nullptr;
    if (ftruncate(fd, kPage) != 0 || MapLent(fd, 0, kPage, true, &lent) != 0) return;
    auto* other = static_cast<volatile char*>(mmap(nullptr, kPage, PROT_READ, MAP_SHARED, fd, 0));
    if (ftruncate(fd, 0) != 0) return;
    static_cast<void>(other[0]);
  };
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(access(), "");
}

// In a process of its own, which has no mapping left for one page of zeros among others.
TEST(LentMemoryDeathTest, WithTooManyMappingsTheRestGoesAtOnce) {
#ifdef VIOMMU_THREAD_SANITIZER
  GTEST_SKIP() << "ThreadSanitizer needs mappings of its own";
#endif
  size_t most = 0;
  std::ifstream("/proc/sys/vm/max_map_count") >> most;
  if (most > 100'000) GTEST_SKIP() << "a process may have " << most << " mappings";
  const auto access = [most] {
    const int fd = memfd_create("lent", MFD_CLOEXEC);
    std::byte* lent = nullptr;
    if (ftruncate(fd, kPages * kPage) != 0 || MapLent(fd, 0, kPages * kPage, true, &lent) != 0) _exit(2);
    const auto at = [&](size_t page) { return static_cast<volatile std::byte*>(lent)[page * kPage]; };
    if (ftruncate(fd, 3 * kPage) != 0) _exit(3);
    auto* many = static_cast<std::byte*>(
        mmap(nullptr, 2 * most * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    for (size_t i = 1; mprotect(many + i * kPage, kPage, PROT_READ) == 0; i += 2) {
    }
    if (errno != ENOMEM || at(4) != std::byte{0}) _exit(4);
    // The file has pages there again, which only the first part of the mapping shows.
    const std::byte nine{9};
    for (const size_t page : {size_t{3}, size_t{5}, kPages - 1}) {
      if (pwrite(fd, &nine, 1, static_cast<off_t>(page * kPage)) != 1) _exit(5);
    }
    _exit(at(3) == nine && at(5) == std::byte{0} && at(kPages - 1) == std::byte{0} ? 0 : 1);
  };
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(access(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace viommu::agent
