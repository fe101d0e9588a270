#include "agent/smmuv3/emulator/record_ring.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "agent/smmuv3/emulator/physical_memory.h"

namespace viommu::smmuv3 {
namespace {

constexpr uint32_t kOverflow = 0x8000'0000;

class RecordRingTest : public testing::Test {
 protected:
  RecordRingTest() : words_(64) {
    EXPECT_TRUE(memory_.Add(0x1000, std::as_writable_bytes(std::span(words_))));
    ring_.SetBase(0x1000 | 2);  // four records
  }
  RecordRing::Put Append(uint64_t value) { return ring_.Append(std::array{value, value + 1}); }

  std::vector<uint64_t> words_;
  PhysicalMemory memory_;
  RecordRing ring_{&memory_, 16, 4};
};

TEST_F(RecordRingTest, FillsWrapsAndFillsAgain) {
  EXPECT_EQ(Append(10), RecordRing::Put::kDoneFirst);
  EXPECT_EQ(Append(20), RecordRing::Put::kDone);
  EXPECT_EQ(Append(30), RecordRing::Put::kDone);
  EXPECT_EQ(Append(40), RecordRing::Put::kDone);
  EXPECT_TRUE(ring_.IsFull());
  EXPECT_EQ(ring_.prod(), 4u);  // index 0, wrapped
  EXPECT_EQ(Append(50), RecordRing::Put::kFull);
  ring_.SetCons(1);
  EXPECT_EQ(Append(50), RecordRing::Put::kDone);
  EXPECT_EQ(words_[0], 50u);
  EXPECT_EQ(words_[1], 51u);
  EXPECT_EQ(words_[2], 20u);
  ring_.SetCons(5);
  EXPECT_EQ(Append(60), RecordRing::Put::kDoneFirst);
  for (uint32_t i = 7; i < 40; ++i) {
    ring_.SetCons((i - 1) % 8);
    EXPECT_EQ(Append(i), RecordRing::Put::kDoneFirst);
    EXPECT_EQ(ring_.prod(), i % 8);
  }
}

TEST_F(RecordRingTest, OverflowIsAnnouncedOnceUntilAcknowledged) {
  for (int i = 0; i < 4; ++i) Append(0);
  EXPECT_TRUE(ring_.Overflow());
  EXPECT_TRUE(ring_.InOverflow());
  EXPECT_EQ(ring_.prod(), kOverflow | 4);
  EXPECT_FALSE(ring_.Overflow());
  ring_.SetCons(kOverflow | 4);
  EXPECT_FALSE(ring_.InOverflow());
  EXPECT_EQ(Append(1), RecordRing::Put::kDoneFirst);
  EXPECT_EQ(ring_.prod(), kOverflow | 5);
  for (int i = 0; i < 3; ++i) Append(0);
  EXPECT_TRUE(ring_.Overflow());
  EXPECT_EQ(ring_.prod() & kOverflow, 0u);
}

TEST_F(RecordRingTest, SizeIsLimitedAndTheBaseAlignedToIt) {
  ring_.SetBase(0x1000 | 31);  // at most 2^4 records
  for (int i = 0; i < 16; ++i) EXPECT_NE(Append(0), RecordRing::Put::kFull);
  EXPECT_EQ(Append(0), RecordRing::Put::kFull);
  ring_.SetBase(0x1020 | 2);  // rounded down to 64 bytes
  ring_.SetProd(0);
  ring_.SetCons(0);
  Append(77);
  EXPECT_EQ(words_[0], 77u);
}

TEST_F(RecordRingTest, OneRecordAlone) {
  ring_.SetBase(0x1000);
  EXPECT_EQ(Append(1), RecordRing::Put::kDoneFirst);
  EXPECT_EQ(ring_.prod(), 1u);
  EXPECT_EQ(Append(2), RecordRing::Put::kFull);
  ring_.SetCons(1);
  EXPECT_EQ(Append(2), RecordRing::Put::kDoneFirst);
  EXPECT_EQ(ring_.prod(), 0u);
}

TEST_F(RecordRingTest, WhatTheMemoryRefusesIsNotThere) {
  ring_.SetBase(0x8000 | 2);
  EXPECT_EQ(Append(1), RecordRing::Put::kAborted);
  EXPECT_EQ(ring_.prod(), 0u);
}

}  // namespace
}  // namespace viommu::smmuv3
