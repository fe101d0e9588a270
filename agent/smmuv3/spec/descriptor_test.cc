#include "agent/smmuv3/spec/descriptor.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <iterator>
#include <optional>
#include <vector>

namespace viommu::smmuv3 {
namespace {

constexpr Granule kGranules[] = {Granule::k4k, Granule::k16k, Granule::k64k};

Granule AnyGranule() { return *rc::gen::elementOf(std::vector<Granule>(std::begin(kGranules), std::end(kGranules))); }

// A level at which there may be a block or a page.
uint32_t AnyLeafLevel(Granule granule) {
  const uint32_t level = *rc::gen::inRange(1u, 4u);
  RC_PRE(level == kLastLevel || BlocksAllowed(granule, level, true));
  return level;
}

uint64_t AnyOutput(Granule granule, uint32_t level) {
  const uint32_t bits = granule == Granule::k64k ? 52 : 48;
  const uint64_t address = *rc::gen::arbitrary<uint64_t>() & ((uint64_t{1} << bits) - 1);
  return address >> LevelShift(granule, level) << LevelShift(granule, level);
}

RC_GTEST_PROP(DescriptorProperty, Stage1LeafComesBack, (uint64_t bits)) {
  const Granule granule = AnyGranule();
  const uint32_t level = AnyLeafLevel(granule);
  const uint64_t output = AnyOutput(granule, level);
  const Stage1Leaf leaf = DecodeStage1Leaf(bits);
  const RawDescriptor raw = EncodeStage1Leaf(leaf, output, granule, level);
  RC_ASSERT(DecodeStage1Leaf(raw) == leaf);
  RC_ASSERT(OutputOf(raw, granule, level) == output);
  RC_ASSERT(KindOf(raw, granule, level, true) == (level == 3 ? DescriptorKind::kPage : DescriptorKind::kBlock));
}

RC_GTEST_PROP(DescriptorProperty, Stage2LeafComesBack, (uint64_t bits)) {
  const Granule granule = AnyGranule();
  const uint32_t level = AnyLeafLevel(granule);
  const uint64_t output = AnyOutput(granule, level);
  const Stage2Leaf leaf = DecodeStage2Leaf(bits);
  const RawDescriptor raw = EncodeStage2Leaf(leaf, output, granule, level);
  RC_ASSERT(DecodeStage2Leaf(raw) == leaf);
  RC_ASSERT(OutputOf(raw, granule, level) == output);
  RC_ASSERT(KindOf(raw, granule, level, true) == (level == 3 ? DescriptorKind::kPage : DescriptorKind::kBlock));
}

RC_GTEST_PROP(DescriptorProperty, TableComesBack, (uint64_t bits)) {
  const Granule granule = AnyGranule();
  const uint64_t next = AnyOutput(granule, kLastLevel);
  const TableLimits limits = DecodeTableLimits(bits);
  const RawDescriptor raw = EncodeTable(next, granule, limits);
  RC_ASSERT(DecodeTableLimits(raw) == limits);
  RC_ASSERT(NextTableOf(raw, granule) == next);
  for (uint32_t level = 0; level < kLastLevel; ++level) {
    RC_ASSERT(KindOf(raw, granule, level, false) == DescriptorKind::kTable);
  }
}

// Nothing that stands in memory leads anywhere but to an aligned address of at most 52 bits.
RC_GTEST_PROP(DescriptorProperty, AddressesAreAlignedWhateverStandsThere, (uint64_t raw)) {
  const Granule granule = AnyGranule();
  for (uint32_t level = 0; level <= kLastLevel; ++level) {
    const uint64_t output = OutputOf(raw, granule, level);
    const uint64_t below = (uint64_t{1} << LevelShift(granule, level)) - 1;
    RC_ASSERT((output >> 52) == 0u);
    // Of a level that is too high for blocks of 64 KiB tables nothing below bit 48 is left.
    RC_ASSERT((output & below & ((uint64_t{1} << 48) - 1)) == 0u);
    if (granule != Granule::k64k) RC_ASSERT((output >> 48) == 0u);
  }
  RC_ASSERT(NextTableOf(raw, granule) % (uint64_t{1} << GranuleLog2(granule)) == 0u);
}

TEST(DescriptorTest, WhatOneDescriptorCovers) {
  constexpr uint32_t k4k[] = {39, 30, 21, 12};
  constexpr uint32_t k16k[] = {47, 36, 25, 14};
  constexpr uint32_t k64k[] = {55, 42, 29, 16};
  for (uint32_t level = 0; level < 4; ++level) {
    EXPECT_EQ(LevelShift(Granule::k4k, level), k4k[level]);
    EXPECT_EQ(LevelShift(Granule::k16k, level), k16k[level]);
    EXPECT_EQ(LevelShift(Granule::k64k, level), k64k[level]);
  }
}

TEST(DescriptorTest, WhereBlocksAndContiguousEntriesAre) {
  for (const bool wide : {false, true}) {
    const bool blocks[3][4] = {{false, true, true, false}, {false, false, true, false}, {false, wide, true, false}};
    for (int i = 0; i < 3; ++i) {
      for (uint32_t level = 0; level < 4; ++level) {
        EXPECT_EQ(BlocksAllowed(kGranules[i], level, wide), blocks[i][level]) << i << level << wide;
      }
    }
  }
  constexpr uint32_t kJoined[3][4] = {{1, 16, 16, 16}, {1, 1, 32, 128}, {1, 1, 32, 32}};
  for (int i = 0; i < 3; ++i) {
    for (uint32_t level = 0; level < 4; ++level) {
      EXPECT_EQ(ContiguousEntries(kGranules[i], level), kJoined[i][level]) << i << level;
    }
  }
}

TEST(DescriptorTest, KindsByTheTwoLowestBits) {
  using enum DescriptorKind;
  constexpr DescriptorKind kKinds[4][4] = {
      {kInvalid, kInvalid, kInvalid, kTable},
      {kInvalid, kBlock, kInvalid, kTable},
      {kInvalid, kBlock, kInvalid, kTable},
      {kInvalid, kInvalid, kInvalid, kPage},
  };
  for (uint32_t level = 0; level < 4; ++level) {
    for (uint64_t bits = 0; bits < 4; ++bits) {
      EXPECT_EQ(KindOf(bits, Granule::k4k, level, false), kKinds[level][bits]) << level << bits;
    }
  }
  EXPECT_EQ(KindOf(1, Granule::k16k, 1, true), kInvalid);
  EXPECT_EQ(KindOf(1, Granule::k64k, 1, false), kInvalid);
  EXPECT_EQ(KindOf(1, Granule::k64k, 1, true), kBlock);
  for (const DescriptorKind kind : {kInvalid, kTable, kBlock, kPage}) EXPECT_STRNE(ToString(kind), "unknown");
}

// Bit positions, written out once by hand.
TEST(DescriptorTest, LayoutsOfTheArchitecture) {
  EXPECT_EQ(EncodeStage1Leaf({.attr_indx = 5, .ap = 1, .sh = 3, .af = true, .ng = true, .uxn = true}, 0x1234'5000,
                             Granule::k4k, 3),
            0x0040'0000'1234'5f57u);
  EXPECT_EQ(EncodeStage1Leaf({.dbm = true, .contiguous = true, .pxn = true}, 0x4020'0000, Granule::k4k, 2),
            0x0038'0000'4020'0001u);
  EXPECT_EQ(EncodeStage2Leaf({.mem_attr = 0xf, .s2ap = 3, .sh = 3, .af = true, .xn = 2}, 0x5000, Granule::k4k, 3),
            0x0040'0000'0000'57ffu);
  EXPECT_EQ(EncodeTable(0x5000, Granule::k4k, {.ap_table = 3, .uxn_table = true, .pxn_table = true}),
            0x7800'0000'0000'5003u);
  // 52 bits of 64 KiB tables.
  EXPECT_EQ(EncodeTable(0xa'0000'0001'0000, Granule::k64k), 0x1'a003u);
  EXPECT_EQ(NextTableOf(0x1'a003, Granule::k64k), 0xa'0000'0001'0000u);
}

TEST(DescriptorTest, LimitsOfTablesAddUp) {
  const TableLimits both =
      TableLimits{.ap_table = 1, .uxn_table = true} | TableLimits{.ap_table = 2, .pxn_table = true};
  EXPECT_EQ(both, (TableLimits{.ap_table = 3, .uxn_table = true, .pxn_table = true}));
}

TEST(DescriptorTest, WhereStage1Starts) {
  const auto start = [](Granule granule, std::initializer_list<uint32_t> bits) {
    std::vector<uint32_t> levels;
    for (const uint32_t b : bits) levels.push_back(Stage1Start(granule, b));
    return levels;
  };
  EXPECT_EQ(start(Granule::k4k, {48, 40, 39, 31, 30, 25, 21}), (std::vector<uint32_t>{0, 0, 1, 1, 2, 2, 3}));
  EXPECT_EQ(start(Granule::k16k, {48, 47, 37, 36, 26, 25}), (std::vector<uint32_t>{0, 1, 1, 2, 2, 3}));
  EXPECT_EQ(start(Granule::k64k, {52, 48, 43, 42, 30, 29}), (std::vector<uint32_t>{1, 1, 1, 2, 2, 3}));
}

TEST(DescriptorTest, WhereStage2MayStart) {
  for (const Granule granule : kGranules) {
    for (uint32_t sl0 = 0; sl0 < 3; ++sl0) {
      ASSERT_TRUE(Stage2StartLevel(granule, sl0).has_value());
      EXPECT_EQ(Stage2Sl0(granule, *Stage2StartLevel(granule, sl0)), sl0);
    }
    EXPECT_FALSE(Stage2StartLevel(granule, 3).has_value());
  }
  EXPECT_EQ(Stage2StartLevel(Granule::k4k, 0), 2u);
  EXPECT_EQ(Stage2StartLevel(Granule::k16k, 0), 3u);
  // 4 KiB, level 1: one table up to 39 bits, sixteen at 43.
  EXPECT_EQ(Stage2ConcatenationLog2(Granule::k4k, 1, 30), std::nullopt);
  EXPECT_EQ(Stage2ConcatenationLog2(Granule::k4k, 1, 31), 0u);
  EXPECT_EQ(Stage2ConcatenationLog2(Granule::k4k, 1, 39), 0u);
  EXPECT_EQ(Stage2ConcatenationLog2(Granule::k4k, 1, 40), 1u);
  EXPECT_EQ(Stage2ConcatenationLog2(Granule::k4k, 1, 43), 4u);
  EXPECT_EQ(Stage2ConcatenationLog2(Granule::k4k, 1, 44), std::nullopt);
  EXPECT_EQ(Stage2ConcatenationLog2(Granule::k16k, 2, 40), 4u);
  EXPECT_EQ(Stage2ConcatenationLog2(Granule::k64k, 2, 46), 4u);
  // The highest level is for addresses that need it.
  EXPECT_FALSE(Stage2StartAllowed(Granule::k4k, 0, 42));
  EXPECT_TRUE(Stage2StartAllowed(Granule::k4k, 0, 44));
  EXPECT_FALSE(Stage2StartAllowed(Granule::k16k, 1, 40));
  EXPECT_TRUE(Stage2StartAllowed(Granule::k16k, 1, 42));
  EXPECT_FALSE(Stage2StartAllowed(Granule::k64k, 1, 42));
  EXPECT_TRUE(Stage2StartAllowed(Granule::k64k, 1, 44));
  EXPECT_TRUE(Stage2StartAllowed(Granule::k4k, 2, 32));
}

// Every width starts at a level where it fits, and none fits further down.
TEST(DescriptorTest, Stage2StartsAsDeepAsItCan) {
  for (const Granule granule : kGranules) {
    const uint32_t deepest = granule == Granule::k4k ? 2 : 3;
    for (uint32_t bits = 32; bits <= (granule == Granule::k64k ? 52u : 48u); ++bits) {
      const uint32_t level = Stage2DeepestStart(granule, bits);
      EXPECT_TRUE(Stage2ConcatenationLog2(granule, level, bits).has_value()) << bits;
      for (uint32_t below = level + 1; below <= deepest; ++below) {
        EXPECT_FALSE(Stage2ConcatenationLog2(granule, below, bits).has_value()) << bits;
      }
    }
  }
}

}  // namespace
}  // namespace viommu::smmuv3
