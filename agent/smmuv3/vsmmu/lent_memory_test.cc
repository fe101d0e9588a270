#include "agent/smmuv3/vsmmu/lent_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <thread>
#include <vector>

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

}  // namespace
}  // namespace viommu::agent
