#include "agent/smmuv3/emulator/physical_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <thread>
#include <vector>

namespace viommu::smmuv3 {
namespace {

// Words, so that the bytes are aligned.
struct Buffer {
  explicit Buffer(size_t bytes) : words(bytes / 8) {}
  std::span<std::byte> bytes() { return std::as_writable_bytes(std::span(words)); }
  std::vector<uint64_t> words;
};

TEST(PhysicalMemoryTest, AccessesOfEveryAlignmentAndLength) {
  PhysicalMemory memory;
  Buffer buffer(256);
  ASSERT_TRUE(memory.Add(0x1000, buffer.bytes()));
  for (uint64_t offset = 0; offset < 17; ++offset) {
    for (size_t length = 0; length < 40; ++length) {
      std::vector<std::byte> in(length), out(length);
      for (size_t i = 0; i < length; ++i) in[i] = static_cast<std::byte>(offset * 31 + i * 7 + 1);
      ASSERT_TRUE(memory.Write(0x1000 + offset, in));
      ASSERT_TRUE(std::equal(in.begin(), in.end(), buffer.bytes().begin() + static_cast<ptrdiff_t>(offset)));
      ASSERT_TRUE(memory.Read(0x1000 + offset, out));
      ASSERT_EQ(in, out);
    }
  }
}

TEST(PhysicalMemoryTest, HolesAndReadOnlyRegionsAbort) {
  PhysicalMemory memory;
  Buffer first(64), second(64), rom(64);
  ASSERT_TRUE(memory.Add(0x1000, first.bytes()));
  ASSERT_TRUE(memory.Add(0x1040, second.bytes()));
  ASSERT_TRUE(memory.Add(0x2000, rom.bytes(), false));
  std::vector<std::byte> data(64, std::byte{0xab});
  // Neighbours are one.
  EXPECT_TRUE(memory.Write(0x1020, data));
  EXPECT_EQ(second.words[3], 0xabab'abab'abab'ababu);
  EXPECT_FALSE(memory.Read(0x0ff8, data));
  EXPECT_FALSE(memory.Read(0x1060, data));
  EXPECT_FALSE(memory.Read(~uint64_t{7}, data));
  EXPECT_TRUE(memory.Read(0x2000, data));
  EXPECT_FALSE(memory.Write(0x2000, data));
  EXPECT_FALSE(memory.WriteWord(0x2000, 1));
  // An access that cannot be done as a whole is not done in part.
  first.words[7] = 5;
  EXPECT_FALSE(memory.Write(0x1078, data));
  EXPECT_FALSE(memory.Write(0x0ff8, data));
  EXPECT_EQ(first.words[7], 5u);
  EXPECT_EQ(second.words[7], 0u);
  uint64_t word = 0;
  EXPECT_TRUE(memory.ReadWord(0x1038, word));
  EXPECT_EQ(word, 5u);
  EXPECT_FALSE(memory.ReadWord(0x103c, word));
  EXPECT_FALSE(memory.ReadWord(0x1080, word));
}

TEST(PhysicalMemoryTest, RegionsMustBeWholeAndApart) {
  PhysicalMemory memory;
  Buffer buffer(64);
  ASSERT_TRUE(memory.Add(0x1000, buffer.bytes()));
  EXPECT_FALSE(memory.Add(0x1000, buffer.bytes()));
  EXPECT_FALSE(memory.Add(0x1038, buffer.bytes()));
  EXPECT_FALSE(memory.Add(0x0fc8, buffer.bytes()));
  EXPECT_FALSE(memory.Add(0x2000, {}));
  EXPECT_FALSE(memory.Add(0x2004, buffer.bytes()));
  EXPECT_FALSE(memory.Add(0x2000, buffer.bytes().subspan(4, 8)));
  EXPECT_FALSE(memory.Add(0x2000, buffer.bytes().first(12)));
  EXPECT_FALSE(memory.Add(~uint64_t{0} - 31, buffer.bytes()));
  EXPECT_TRUE(memory.Add(~uint64_t{0} - 63, buffer.bytes()));
  EXPECT_TRUE(memory.Add(0x0fc0, buffer.bytes()));
  EXPECT_FALSE(memory.Remove(0x1008));
  EXPECT_TRUE(memory.Remove(0x1000));
  EXPECT_FALSE(memory.Remove(0x1000));
  uint64_t word = 0;
  EXPECT_FALSE(memory.ReadWord(0x1000, word));
  EXPECT_TRUE(memory.ReadWord(0x0fc0, word));
}

TEST(PhysicalMemoryTest, WordsDoNotTear) {
  PhysicalMemory memory;
  Buffer buffer(64);
  ASSERT_TRUE(memory.Add(0, buffer.bytes()));
  std::thread writer([&] {
    for (uint64_t i = 0; i < 20000; ++i) {
      const uint64_t pattern[8] = {i * 0x1'0000'0001, 0, 0, 0, 0, 0, 0, i * 0x1'0000'0001};
      ASSERT_TRUE(memory.Write(0, std::as_bytes(std::span(pattern))));
    }
  });
  for (int i = 0; i < 20000; ++i) {
    uint64_t word = 0;
    ASSERT_TRUE(memory.ReadWord(56, word));
    ASSERT_EQ(word >> 32, word & 0xffff'ffff);
  }
  writer.join();
}

// Regions come and go while others are used; a buffer is free as soon as its region is removed.
TEST(PhysicalMemoryTest, RegionsComeAndGo) {
  PhysicalMemory memory;
  Buffer fixed(64);
  ASSERT_TRUE(memory.Add(0, fixed.bytes()));
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      uint64_t hits = 0;
      while (!stop) {
        std::byte data[128];
        if (memory.Read(0x1000, data)) ++hits;
        ASSERT_TRUE(memory.Read(0, std::span(data).first(64)));
        if (memory.Write(0x1008, std::span(data).first(16))) ++hits;
      }
    });
  }
  for (int i = 0; i < 200; ++i) {
    Buffer passing(128);
    ASSERT_TRUE(memory.Add(0x1000, passing.bytes()));
    ASSERT_TRUE(memory.Remove(0x1000));
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace viommu::smmuv3
