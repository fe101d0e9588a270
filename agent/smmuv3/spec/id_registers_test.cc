#include "agent/smmuv3/spec/id_registers.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <string>

namespace viommu::smmuv3 {
namespace {

RC_GTEST_PROP(IdRegistersProperty, WhatIsEncodedIsDecoded, ()) {
  Features f;
  f.stage1 = *rc::gen::arbitrary<bool>();
  f.stage2 = *rc::gen::arbitrary<bool>();
  f.coherent = *rc::gen::arbitrary<bool>();
  f.hyp = *rc::gen::arbitrary<bool>();
  f.ats = *rc::gen::arbitrary<bool>();
  f.pri = *rc::gen::arbitrary<bool>();
  f.stall_model = *rc::gen::element(StallModel::kStallOrTerminate, StallModel::kTerminate, StallModel::kStall);
  f.two_level_st = *rc::gen::arbitrary<bool>();
  f.fwb = *rc::gen::arbitrary<bool>();
  f.ril = *rc::gen::arbitrary<bool>();
  f.gran4k = *rc::gen::arbitrary<bool>();
  f.gran16k = *rc::gen::arbitrary<bool>();
  f.gran64k = *rc::gen::arbitrary<bool>();
  f.ds = *rc::gen::arbitrary<bool>();
  f.asid_bits = *rc::gen::element(8u, 16u);
  f.vmid_bits = *rc::gen::element(8u, 16u);
  f.sid_bits = *rc::gen::inRange(0u, 33u);
  f.ssid_bits = *rc::gen::inRange(0u, 21u);
  f.cmdq_log2_size = *rc::gen::inRange(0u, 20u);
  f.oas_bits = *rc::gen::element(32u, 36u, 40u, 42u, 44u, 48u, 52u);
  f.aarch32 = *rc::gen::arbitrary<bool>();
  f.aarch64 = *rc::gen::arbitrary<bool>();
  f.msi = *rc::gen::arbitrary<bool>();
  f.sev = *rc::gen::arbitrary<bool>();
  f.two_level_cd = *rc::gen::arbitrary<bool>();
  f.table_endianness = *rc::gen::element(TableEndianness::kMixed, TableEndianness::kLittle, TableEndianness::kBig);
  f.terminate_aborts = *rc::gen::arbitrary<bool>();
  f.priq_log2_size = *rc::gen::inRange(0u, 20u);
  f.eventq_log2_size = *rc::gen::inRange(0u, 20u);
  f.override_perms = *rc::gen::arbitrary<bool>();
  f.override_types = *rc::gen::arbitrary<bool>();
  f.had = *rc::gen::arbitrary<bool>();
  f.xnx = *rc::gen::arbitrary<bool>();
  f.bbml = *rc::gen::element<uint8_t>(0, 1, 2);
  f.vax = *rc::gen::arbitrary<bool>();
  f.stall_max = *rc::gen::arbitrary<uint16_t>();
  RC_ASSERT(DecodeIdRegisters(EncodeIdRegisters(f)) == f);
}

// Whatever an SMMU says, reserved values included, decodes to something that says the same when it is said again.
RC_GTEST_PROP(IdRegistersProperty, AnyRegistersDecode, ()) {
  IdRegisters raw;
  for (uint32_t& word : raw) word = *rc::gen::arbitrary<uint32_t>();
  Features f = DecodeIdRegisters(raw);
  RC_ASSERT(f.sid_bits <= 32u);
  RC_ASSERT(f.ssid_bits <= 20u);
  RC_ASSERT(f.cmdq_log2_size <= 19u && f.eventq_log2_size <= 19u && f.priq_log2_size <= 19u);
  RC_ASSERT(!ToString(f).empty());
  if (f.oas_bits == 0) f.oas_bits = 32;  // the reserved width
  RC_ASSERT(DecodeIdRegisters(EncodeIdRegisters(f)) == f);
}

TEST(IdRegistersTest, NamesAreTotal) {
  for (int value = 0; value < 4; ++value) {
    EXPECT_EQ(std::string(ToString(static_cast<StallModel>(value))) == "reserved", value == 3);
    EXPECT_EQ(std::string(ToString(static_cast<TableEndianness>(value))) == "reserved", value == 1);
  }
}

TEST(IdRegistersTest, WhetherTransactionsWait) {
  EXPECT_TRUE(Features{.stall_model = StallModel::kStallOrTerminate}.CanStall());
  EXPECT_FALSE(Features{.stall_model = StallModel::kTerminate}.CanStall());
  EXPECT_TRUE(Features{.stall_model = StallModel::kStall}.CanStall());
  EXPECT_FALSE(Features{.stall_model = StallModel::kReserved}.CanStall());
}

// Bit positions against 6.3, written out once by hand.
TEST(IdRegistersTest, LayoutsOfTheSpecification) {
  const IdRegisters none = EncodeIdRegisters({});
  EXPECT_EQ(none, (IdRegisters{1u << 24, 0, 0, 0, 0, 0}));  // STALL_MODEL 1
  const auto changed = [&](const Features& f, int reg) { return EncodeIdRegisters(f)[reg] ^ none[reg]; };
  EXPECT_EQ(changed({.aarch32 = true}, 0), 1u << 2);
  EXPECT_EQ(changed({.aarch64 = true}, 0), 1u << 3);
  EXPECT_EQ(changed({.msi = true}, 0), 1u << 13);
  EXPECT_EQ(changed({.sev = true}, 0), 1u << 14);
  EXPECT_EQ(changed({.two_level_cd = true}, 0), 1u << 19);
  EXPECT_EQ(changed({.table_endianness = TableEndianness::kLittle}, 0), 2u << 21);
  EXPECT_EQ(changed({.stall_model = StallModel::kStall}, 0), 3u << 24);
  EXPECT_EQ(changed({.terminate_aborts = true}, 0), 1u << 26);
  EXPECT_EQ(changed({.two_level_st = true}, 0), 1u << 27);
  EXPECT_EQ(changed({.priq_log2_size = 19}, 1), 19u << 11);
  EXPECT_EQ(changed({.eventq_log2_size = 19}, 1), 19u << 16);
  EXPECT_EQ(changed({.cmdq_log2_size = 19}, 1), 19u << 21);
  EXPECT_EQ(changed({.override_perms = true}, 1), 1u << 26);
  EXPECT_EQ(changed({.override_types = true}, 1), 1u << 27);
  EXPECT_EQ(changed({.had = true}, 3), 1u << 2);
  EXPECT_EQ(changed({.xnx = true}, 3), 1u << 4);
  EXPECT_EQ(changed({.bbml = 2}, 3), 2u << 11);
  EXPECT_EQ(changed({.vax = true}, 5), 1u << 10);
  EXPECT_EQ(changed({.stall_max = 0x1234}, 5), 0x1234u << 16);
}

// The registers of Arm's own model of an SMMUv3.2, published with its boot parameters.
TEST(IdRegistersTest, ReadsRegistersOfARealModel) {
  const Features f = DecodeIdRegisters({0x0046123b, 0x00600002, 0, 0x1714, 0, 0xffff0475});
  EXPECT_TRUE(f.stage1);
  EXPECT_TRUE(f.stage2);
  EXPECT_TRUE(f.coherent);
  EXPECT_TRUE(f.hyp);
  EXPECT_FALSE(f.ats);
  EXPECT_EQ(f.asid_bits, 16u);
  EXPECT_EQ(f.vmid_bits, 16u);
  EXPECT_EQ(f.sid_bits, 2u);
  EXPECT_EQ(f.cmdq_log2_size, 3u);
  EXPECT_TRUE(f.ril);
  EXPECT_TRUE(f.fwb);
  EXPECT_EQ(f.oas_bits, 48u);
  EXPECT_TRUE(f.gran4k && f.gran16k && f.gran64k);
  EXPECT_TRUE(f.aarch64);
  EXPECT_FALSE(f.aarch32);
  EXPECT_EQ(f.table_endianness, TableEndianness::kLittle);
  EXPECT_EQ(f.stall_model, StallModel::kStallOrTerminate);
  EXPECT_TRUE(f.had && f.xnx && f.vax);
  EXPECT_EQ(f.bbml, 2u);
  EXPECT_EQ(f.stall_max, 0xffffu);
}

TEST(IdRegistersTest, NestingNeedsBothStagesAndAGoodRelease) {
  const Features both{.stage2 = true, .stage1 = true};
  EXPECT_TRUE(CanNest(both, 0));
  EXPECT_FALSE(CanNest({.stage2 = true}, 0));
  EXPECT_FALSE(CanNest({.stage1 = true}, 0));
  EXPECT_FALSE(CanNest(both, 0x4831'043b));  // MMU-600 r1
  EXPECT_TRUE(CanNest(both, 0x4832'043b));   // MMU-600 r2
  EXPECT_FALSE(CanNest(both, 0x4870'143b));  // MMU-700 r0p1
  EXPECT_FALSE(CanNest(both, 0x4871'043b));  // MMU-700 r1p0
  EXPECT_TRUE(CanNest(both, 0x4871'143b));   // MMU-700 r1p1
}

}  // namespace
}  // namespace viommu::smmuv3
