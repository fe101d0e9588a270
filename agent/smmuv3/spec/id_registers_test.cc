#include "agent/smmuv3/spec/id_registers.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

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
  RC_ASSERT(DecodeIdRegisters(EncodeIdRegisters(f)) == f);
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
