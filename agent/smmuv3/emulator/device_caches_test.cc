#include "agent/smmuv3/emulator/device_caches.h"

#include <gtest/gtest.h>

namespace viommu::smmuv3 {
namespace {

class ConfigCacheTest : public testing::Test {
 protected:
  // Streams 0 to 15 with an entry and descriptors 0 and 1 each.
  ConfigCacheTest() {
    for (uint32_t sid = 0; sid < 16; ++sid) {
      cache_.InsertSte(sid, {});
      cache_.InsertCd(sid, 0, {});
      cache_.InsertCd(sid, 1, {});
    }
  }
  ConfigCache cache_{64};
};

TEST_F(ConfigCacheTest, CdCommandsLeaveTheEntry) {
  EXPECT_EQ(cache_.Invalidate({.opcode = Opcode::kCfgiCd, .sid = 3, .ssid = 1, .leaf = true}), 1u);
  EXPECT_EQ(cache_.LookupCd(3, 1), nullptr);
  EXPECT_NE(cache_.LookupCd(3, 0), nullptr);
  EXPECT_EQ(cache_.Invalidate({.opcode = Opcode::kCfgiCdAll, .sid = 3}), 1u);
  EXPECT_EQ(cache_.LookupCd(3, 0), nullptr);
  EXPECT_NE(cache_.LookupSte(3), nullptr);
  EXPECT_NE(cache_.LookupCd(2, 0), nullptr);
  EXPECT_EQ(cache_.size(), 46u);
}

TEST_F(ConfigCacheTest, SteCommandTakesTheDescriptorsAlong) {
  EXPECT_EQ(cache_.Invalidate({.opcode = Opcode::kCfgiSte, .sid = 3}), 3u);
  EXPECT_EQ(cache_.LookupSte(3), nullptr);
  EXPECT_EQ(cache_.LookupCd(3, 0), nullptr);
  EXPECT_NE(cache_.LookupSte(2), nullptr);
  EXPECT_NE(cache_.LookupSte(4), nullptr);
}

TEST_F(ConfigCacheTest, RangesAreAligned) {
  EXPECT_EQ(cache_.Invalidate({.opcode = Opcode::kCfgiSteRange, .sid = 6, .range = 1}), 12u);  // 4 to 7
  EXPECT_NE(cache_.LookupSte(3), nullptr);
  EXPECT_EQ(cache_.LookupSte(4), nullptr);
  EXPECT_EQ(cache_.LookupSte(7), nullptr);
  EXPECT_NE(cache_.LookupSte(8), nullptr);
  EXPECT_EQ(cache_.Invalidate({.opcode = Opcode::kCfgiSteRange, .sid = 9999, .range = kCfgiRangeAll}), 36u);
  EXPECT_EQ(cache_.size(), 0u);
}

TEST_F(ConfigCacheTest, IsBounded) {
  for (uint32_t sid = 100; sid < 300; ++sid) cache_.InsertSte(sid, {});
  EXPECT_LE(cache_.size(), 64u);
  EXPECT_NE(cache_.LookupSte(299), nullptr);
}

TEST_F(ConfigCacheTest, LevelOneDescriptorsGoUnlessTheCommandIsForTheLeaf) {
  cache_.InsertCdL1(3, 70, 6, {.valid = true});
  cache_.InsertCdL1(3, 5, 6, {.valid = true});
  cache_.InsertSteL1(3, 8, {.span = 9});
  cache_.InsertSteL1(300, 8, {.span = 9});
  EXPECT_EQ(cache_.Invalidate({.opcode = Opcode::kCfgiCd, .sid = 3, .ssid = 64, .leaf = true}), 0u);
  EXPECT_TRUE(cache_.LookupCdL1(3, 64, 6).has_value());
  EXPECT_FALSE(cache_.LookupCdL1(3, 64, 10).has_value());
  EXPECT_EQ(cache_.Invalidate({.opcode = Opcode::kCfgiCd, .sid = 3, .ssid = 64}), 1u);
  EXPECT_FALSE(cache_.LookupCdL1(3, 64, 6).has_value());
  EXPECT_TRUE(cache_.LookupCdL1(3, 0, 6).has_value());
  EXPECT_EQ(cache_.Invalidate({.opcode = Opcode::kCfgiCdAll, .sid = 3}), 3u);
  EXPECT_EQ(cache_.Invalidate({.opcode = Opcode::kCfgiSte, .sid = 9, .leaf = true}), 3u);
  EXPECT_TRUE(cache_.LookupSteL1(9, 8).has_value());
  EXPECT_EQ(cache_.Invalidate({.opcode = Opcode::kCfgiSte, .sid = 9}), 1u);
  EXPECT_FALSE(cache_.LookupSteL1(9, 8).has_value());
  EXPECT_TRUE(cache_.LookupSteL1(256, 8).has_value());
  EXPECT_EQ(cache_.Invalidate({.opcode = Opcode::kCfgiSteRange, .sid = 0x1ff, .range = 0}), 1u);
  EXPECT_FALSE(cache_.LookupSteL1(256, 8).has_value());
}

TEST_F(ConfigCacheTest, EvictionTakesAStream) {
  cache_.Evict(5);
  EXPECT_EQ(cache_.size(), 45u);
}

TEST(AtcCachesTest, PrivilegedTranslationsAreApart) {
  AtcCaches atc(16);
  atc.Insert(7, {.privileged = true, .address = 0x1000});
  EXPECT_FALSE(atc.Lookup(7, std::nullopt, false, 0x1000).has_value());
  EXPECT_TRUE(atc.Lookup(7, std::nullopt, true, 0x1000).has_value());
  EXPECT_EQ(atc.Invalidate({.opcode = Opcode::kAtcInv, .sid = 7, .address = 0x1000}), 1u);
}

TEST(AtcCachesTest, PasidDecidesWhatIsReached) {
  AtcCaches atc(16);
  const auto fill = [&] {
    atc.Insert(7, {.address = 0x1000});
    atc.Insert(7, {.ssv = true, .ssid = 1, .address = 0x1000});
    atc.Insert(7, {.ssv = true, .ssid = 2, .address = 0x1000});
    atc.Insert(8, {.address = 0x1000});
  };
  fill();
  EXPECT_EQ(atc.Invalidate({.opcode = Opcode::kAtcInv, .sid = 7, .ssid = 2, .ssv = true, .address = 0x1000}), 1u);
  EXPECT_TRUE(atc.Lookup(7, 1, false, 0x1000).has_value());
  EXPECT_EQ(atc.Invalidate({.opcode = Opcode::kAtcInv, .sid = 7, .ssv = true, .global = true, .size = kAtcSizeAll}),
            1u);
  EXPECT_TRUE(atc.Lookup(7, std::nullopt, false, 0x1000).has_value());
  // Without a PASID: all in the range, and no more.
  fill();
  EXPECT_EQ(atc.Invalidate({.opcode = Opcode::kAtcInv, .sid = 7, .address = 0x2000}), 0u);
  EXPECT_EQ(atc.Invalidate({.opcode = Opcode::kAtcInv, .sid = 7, .address = 0x1000}), 4u);
  EXPECT_TRUE(atc.Lookup(8, std::nullopt, false, 0x1000).has_value());
}

TEST(AtcCachesTest, SpansOverlapAligned) {
  AtcCaches atc(16);
  for (uint64_t page = 0; page < 8; ++page) atc.Insert(7, {.address = page << 12});
  atc.Insert(7, {.address = 0x20'0000, .span_log2 = 21});
  EXPECT_EQ(atc.Invalidate({.opcode = Opcode::kAtcInv, .sid = 7, .address = 0x3000, .size = 1}),
            2u);  // 0x2000 to 0x3fff
  EXPECT_TRUE(atc.Lookup(7, std::nullopt, false, 0x1000).has_value());
  EXPECT_FALSE(atc.Lookup(7, std::nullopt, false, 0x2000).has_value());
  EXPECT_TRUE(atc.Lookup(7, std::nullopt, false, 0x4000).has_value());
  EXPECT_EQ(atc.Invalidate({.opcode = Opcode::kAtcInv, .sid = 7, .address = 0x3f'f000}), 1u);
  EXPECT_EQ(atc.Invalidate({.opcode = Opcode::kAtcInv, .sid = 7, .size = kAtcSizeAll}), 6u);
  EXPECT_EQ(atc.size(), 0u);
}

TEST(AtcCachesTest, EachDeviceIsBounded) {
  AtcCaches atc(2);
  for (uint64_t page = 0; page < 5; ++page) atc.Insert(7, {.address = page << 12});
  atc.Insert(8, {.address = 0});
  EXPECT_EQ(atc.size(), 3u);
  EXPECT_TRUE(atc.Lookup(7, std::nullopt, false, 0x4000).has_value());
}

}  // namespace
}  // namespace viommu::smmuv3
