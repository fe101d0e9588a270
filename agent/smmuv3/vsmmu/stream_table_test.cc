#include "agent/smmuv3/vsmmu/stream_table.h"

#include <gtest/gtest.h>

#include <vector>

#include "agent/smmuv3/spec/registers.h"

namespace viommu::agent {
namespace {

const smmuv3::Stage2Config kStage2 = {.vmid = 3, .vtcr = 5, .s2ttb = 0x5000'0000};
const auto kNothing = [] {};

smmuv3::Features Smmu(bool two_level, uint32_t sid_bits) {
  return {.two_level_st = two_level, .sid_bits = sid_bits, .oas_bits = 48};
}

TEST(StreamTableTest, Linear) {
  HostMemory memory(40);
  const auto table = StreamTable::Create(Smmu(false, 10), &memory);
  EXPECT_EQ(table->base_cfg(), 10u);
  EXPECT_EQ(memory.GetStats().table_bytes, 64u << 10);
  EXPECT_TRUE(table->InRange(1023));
  EXPECT_FALSE(table->InRange(1024));
  EXPECT_TRUE(table->Reserve(1023));
  EXPECT_EQ(table->Read(1023), smmuv3::MakeAbortSte());
  EXPECT_EQ(table->Read(5000), smmuv3::MakeAbortSte());
  const smmuv3::RawSte entry = smmuv3::MakeStage2Ste(kStage2, false);
  table->Write(7, entry, kNothing);
  EXPECT_EQ(table->Read(7), entry);
  EXPECT_EQ(table->Read(6), smmuv3::MakeAbortSte());
  // Where the SMMU looks.
  uint64_t word = 0;
  ASSERT_TRUE(memory.memory()->ReadWord(table->base() + 7 * 64 + 16, word));
  EXPECT_EQ(word, entry.dw[2]);
  EXPECT_TRUE(StreamTable::Create(Smmu(false, 32), &memory)->InRange((1u << 20) - 1));
}

TEST(StreamTableTest, TwoLevelsWithLeavesOnDemand) {
  HostMemory memory(40);
  {
    const auto table = StreamTable::Create(Smmu(true, 16), &memory);
    EXPECT_EQ(table->base_cfg(), 16u | 8u << 6 | 1u << 16);
    EXPECT_EQ(memory.GetStats().table_bytes, 4096u);
    EXPECT_EQ(table->Read(0x1234), smmuv3::MakeAbortSte());
    memory.FailNext(0);
    EXPECT_FALSE(table->Reserve(0x1234));
    EXPECT_TRUE(table->Reserve(0x1234));
    EXPECT_TRUE(table->Reserve(0x12ff));
    EXPECT_EQ(memory.GetStats().table_bytes, 4096u + 16384u);
    std::vector<int> syncs;
    table->Write(0x1234, smmuv3::MakeStage2Ste(kStage2, false), [&] { syncs.push_back(1); });
    EXPECT_EQ(syncs.size(), 2u);
    uint64_t l1 = 0, word = 0;
    ASSERT_TRUE(memory.memory()->ReadWord(table->base() + 8 * 0x12, l1));
    EXPECT_EQ(smmuv3::DecodeSteL1(l1).span, 9u);
    ASSERT_TRUE(memory.memory()->ReadWord(smmuv3::DecodeSteL1(l1).l2_ptr + 0x34 * 64, word));
    EXPECT_EQ(word, smmuv3::MakeStage2Ste(kStage2, false).dw[0]);
    ASSERT_TRUE(memory.memory()->ReadWord(smmuv3::DecodeSteL1(l1).l2_ptr + 0x35 * 64, word));
    EXPECT_EQ(word, smmuv3::MakeAbortSte().dw[0]);
  }
  EXPECT_EQ(memory.GetStats().table_bytes, 0u);
  const auto large = StreamTable::Create(Smmu(true, 32), &memory);
  EXPECT_TRUE(large->InRange((1u << 25) - 1));
  EXPECT_FALSE(large->InRange(1u << 25));
  memory.FailNext(0);
  EXPECT_EQ(StreamTable::Create(Smmu(true, 32), &memory), nullptr);
}

}  // namespace
}  // namespace viommu::agent
