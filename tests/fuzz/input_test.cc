#include "tests/fuzz/input.h"

#include <gtest/gtest.h>

#include <array>

namespace viommu::fuzz {
namespace {

TEST(InputTest, TakesFromTheFrontAndThenZeros) {
  constexpr uint8_t kBytes[] = {0x01, 0x34, 0x12, 0xff, 0xee, 0xdd};
  Input input(kBytes, sizeof(kBytes));
  EXPECT_TRUE(input.TakeFlag());
  EXPECT_EQ(input.Take<uint16_t>(), 0x1234);
  EXPECT_EQ(input.size(), 3u);
  EXPECT_EQ((input.Take<std::array<uint32_t, 2>>()), (std::array<uint32_t, 2>{0xddeeff, 0}));
  EXPECT_TRUE(input.empty());
  EXPECT_EQ(input.Take<uint64_t>(), 0u);
  EXPECT_EQ(input.TakeBelow(3), 0u);
  EXPECT_TRUE(Input(nullptr, 0).empty());
}

TEST(InputDeathTest, WhatDoesNotHoldEndsTheProcess) {
  FUZZ_CHECK(true);
  EXPECT_DEATH(FUZZ_CHECK(1 > 2), "does not hold: 1 > 2");
}

}  // namespace
}  // namespace viommu::fuzz
