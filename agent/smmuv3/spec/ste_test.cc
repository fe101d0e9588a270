#include "agent/smmuv3/spec/ste.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

namespace viommu::smmuv3 {
namespace {

constexpr uint64_t kTranslate0 = 0b1011;  // V, Config 5
constexpr Stage2Config kStage2 = {.vmid = 0x0102, .vtcr = 0x7ffff, .s2ttb = 0x12'3456'7890, .fwb = true};

TEST(VsteTest, InvalidEntriesAreNotLookedAt) {
  EXPECT_EQ(ValidateVste(~uint64_t{1}, ~uint64_t{0}), VsteRule::kNone);
  EXPECT_EQ(VsteKindOf({~uint64_t{1}, ~uint64_t{0}}), VsteKind::kAbort);
}

TEST(VsteTest, ConfigsThatGuestsMayUse) {
  const VsteRule expected[8] = {VsteRule::kNone,           VsteRule::kConfigReserved, VsteRule::kConfigReserved,
                                VsteRule::kConfigReserved, VsteRule::kNone,           VsteRule::kNone,
                                VsteRule::kConfigStage2,   VsteRule::kConfigStage2};
  for (uint64_t config = 0; config < 8; ++config) {
    EXPECT_EQ(ValidateVste(1 | config << 1, 0), expected[config]) << config;
  }
  EXPECT_EQ(VsteKindOf(kAbortVste), VsteKind::kAbort);
  EXPECT_EQ(VsteKindOf(kBypassVste), VsteKind::kBypass);
  EXPECT_EQ(VsteKindOf({kTranslate0, 0}), VsteKind::kTranslate);
}

TEST(VsteTest, EveryBitOutsideTheMasksIsRefused) {
  for (int bit = 4; bit < 64; ++bit) {
    const uint64_t one = uint64_t{1} << bit;
    EXPECT_EQ(ValidateVste(kTranslate0 | one, 0),
              (kVsteAllowed.dw0 & one) != 0 ? VsteRule::kNone : VsteRule::kReservedWord0)
        << bit;
  }
  for (int bit = 0; bit < 64; ++bit) {
    if (bit == 29) continue;  // EATS 2, below
    const uint64_t one = uint64_t{1} << bit;
    EXPECT_EQ(ValidateVste(kTranslate0, one),
              (kVsteAllowed.dw1 & one) != 0 ? VsteRule::kNone : VsteRule::kReservedWord1)
        << bit;
  }
}

TEST(VsteTest, EatsBeyondOneIsRefused) {
  EXPECT_EQ(ValidateVste(kTranslate0, ste::kEats.Set(0, 0)), VsteRule::kNone);
  EXPECT_EQ(ValidateVste(kTranslate0, ste::kEats.Set(0, 1)), VsteRule::kNone);
  EXPECT_EQ(ValidateVste(kTranslate0, ste::kEats.Set(0, 2)), VsteRule::kEats);
  EXPECT_EQ(ValidateVste(kTranslate0, ste::kEats.Set(0, 3)), VsteRule::kEats);
}

TEST(VsteTest, ReservedBitsAreSeenBeforeConfig) {
  EXPECT_EQ(ValidateVste(1 | 7 << 1 | uint64_t{1} << 52, 0), VsteRule::kReservedWord0);
}

TEST(PhysicalSteTest, AbortIgnoresStage2) {
  const RawSte abort = MakeNestedSte(kAbortVste, kStage2, true);
  EXPECT_EQ(abort, MakeAbortSte());
  EXPECT_TRUE(IsValid(abort));
  EXPECT_EQ(ConfigOf(abort), SteConfig::kAbort);
  EXPECT_FALSE(AtsEnabled(abort));
}

TEST(PhysicalSteTest, BypassIsStage2AloneWithTheHostsAts) {
  for (const bool ats : {false, true}) {
    const RawSte entry = MakeNestedSte(kBypassVste, kStage2, ats);
    EXPECT_EQ(entry, MakeStage2Ste(kStage2, ats));
    EXPECT_EQ(ConfigOf(entry), SteConfig::kStage2);
    EXPECT_EQ(AtsEnabled(entry), ats);
    EXPECT_EQ(VmidOf(entry), 0x0102);
  }
}

TEST(PhysicalSteTest, TranslateTakesAtsOnlyWhenBothWantIt) {
  const RawVste wants{kTranslate0, ste::kEats.Set(0, 1)};
  const RawVste does_not{kTranslate0, 0};
  EXPECT_TRUE(AtsEnabled(MakeNestedSte(wants, kStage2, true)));
  EXPECT_FALSE(AtsEnabled(MakeNestedSte(wants, kStage2, false)));
  EXPECT_FALSE(AtsEnabled(MakeNestedSte(does_not, kStage2, true)));
}

RC_GTEST_PROP(PhysicalSteProperty, TranslateKeepsTheGuestsWordsAndForcesTheHosts, (uint64_t dw0, uint64_t dw1)) {
  const RawVste vste{(dw0 & kVsteAllowed.dw0 & ~uint64_t{0xf}) | kTranslate0,
                     ste::kEats.Set(dw1 & kVsteAllowed.dw1, 0)};
  RC_ASSERT(ValidateVste(vste) == VsteRule::kNone);
  const RawSte entry = MakeNestedSte(vste, kStage2, true);
  RC_ASSERT(ConfigOf(entry) == SteConfig::kNested);
  RC_ASSERT((entry.dw[0] & ~ste::kConfig.mask()) == (vste.dw0 & ~ste::kConfig.mask()));
  RC_ASSERT((entry.dw[1] & kVsteAllowed.dw1) == vste.dw1);
  RC_ASSERT(ste::kMev.Get(entry.dw[1]) == 1u);
  RC_ASSERT(ste::kS2Fwb.Get(entry.dw[1]) == 1u);
  RC_ASSERT(VmidOf(entry) == kStage2.vmid);
  RC_ASSERT(ste::kVtcr.Get(entry.dw[2]) == kStage2.vtcr);
  RC_ASSERT(entry.dw[3] == kStage2.s2ttb);
}

TEST(PhysicalSteTest, VtcrOf4kTables) {
  EXPECT_EQ(Vtcr4k(48), 16u | 2u << 6 | 1u << 8 | 1u << 10 | 3u << 12 | 5u << 16);
  EXPECT_EQ(Vtcr4k(44), 20u | 2u << 6 | 1u << 8 | 1u << 10 | 3u << 12 | 4u << 16);
  EXPECT_EQ(Vtcr4k(40), 24u | 1u << 6 | 1u << 8 | 1u << 10 | 3u << 12 | 2u << 16);
  EXPECT_EQ(Vtcr4k(32), 32u | 0u << 6 | 1u << 8 | 1u << 10 | 3u << 12 | 0u << 16);
  EXPECT_EQ(Vtcr4k(52), Vtcr4k(48));
}

}  // namespace
}  // namespace viommu::smmuv3
