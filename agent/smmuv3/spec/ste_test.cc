#include "agent/smmuv3/spec/ste.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <string>

#include "agent/smmuv3/spec/descriptor.h"

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

RawSte AnySte() {
  RawSte raw;
  for (uint64_t& word : raw.dw) word = *rc::gen::arbitrary<uint64_t>();
  return raw;
}

RC_GTEST_PROP(SteProperty, EncodeAfterDecodeKeepsEveryDefinedBit, ()) {
  const RawSte raw = AnySte();
  const RawSte defined = SteDefinedBits();
  RawSte expected;
  for (size_t i = 0; i < raw.dw.size(); ++i) expected.dw[i] = raw.dw[i] & defined.dw[i];
  RC_ASSERT(EncodeSte(DecodeSte(raw)) == expected);
}

RC_GTEST_PROP(SteProperty, DecodeAfterEncodeGivesTheSameEntry, ()) {
  const Ste entry = DecodeSte(AnySte());
  RC_ASSERT(DecodeSte(EncodeSte(entry)) == entry);
  RC_ASSERT(!ToString(entry).empty());
}

RC_GTEST_PROP(SteProperty, TheShortWaysSayWhatDecodingSays, ()) {
  const RawSte raw = AnySte();
  const Ste entry = DecodeSte(raw);
  RC_ASSERT(ConfigOf(raw) == entry.config);
  RC_ASSERT(IsValid(raw) == entry.valid);
  RC_ASSERT(VmidOf(raw) == entry.s2_vmid);
  RC_ASSERT(AtsEnabled(raw) == (entry.eats == kEatsTranslate));
}

RC_GTEST_PROP(SteProperty, LevelOneDescriptorsKeepTheirBits, (uint64_t raw)) {
  RC_ASSERT(EncodeSteL1(DecodeSteL1(raw)) == (raw & (ste_l1::kSpan.mask() | ste_l1::kL2Ptr.mask())));
}

TEST(SteTest, NamesAreTotal) {
  for (int value = 0; value < 8; ++value) {
    const std::string name = ToString(static_cast<SteConfig>(value));
    EXPECT_EQ(name == "reserved", value >= 1 && value <= 3) << value;
  }
  for (int value = 0; value < 4; ++value) {
    EXPECT_EQ(std::string(ToString(static_cast<S1Fmt>(value))) == "reserved", value == 3);
    EXPECT_EQ(std::string(ToString(static_cast<S1Dss>(value))) == "reserved", value == 3);
    EXPECT_EQ(std::string(ToString(static_cast<Strw>(value))) == "reserved", value % 2 == 1);
  }
}

// Bit positions against 5.2, written out once by hand.
TEST(SteTest, LayoutOfTheSpecification) {
  const auto word = [](const Ste& entry, size_t index) { return EncodeSte(entry).dw[index]; };
  EXPECT_EQ(word({.valid = true,
                  .config = SteConfig::kNested,
                  .s1_fmt = S1Fmt::kTwoLevel64k,
                  .s1_context_ptr = 0xf'1234'5678'9040,
                  .s1_cd_max = 20},
                 0),
            0xa00f'1234'5678'906fu);
  EXPECT_EQ(word({.s1_dss = S1Dss::kSsid0, .s1_cir = 1, .s1_cor = 1, .s1_csh = 3}, 1), 0xd6u);
  EXPECT_EQ(word({.s1_stalld = true, .strw = Strw::kNsEl2, .eats = 1}, 1), 0x9800'0000u);
  EXPECT_EQ(word({.dre = true, .cont = 0xf, .dcp = true, .ppar = true, .mev = true}, 1), 0xff000u);
  EXPECT_EQ(word({.s1_mpam = true, .s2_fwb = true}, 1), 0x600'0000u);
  EXPECT_EQ(word({.mem_attr = 0xf, .mt_cfg = true, .alloc_cfg = 0xf}, 1), 0x1ff'0000'0000u);
  EXPECT_EQ(word({.sh_cfg = 1, .ns_cfg = 2, .priv_cfg = 3, .inst_cfg = 1}, 1), 0x7'9000'0000'0000u);
  EXPECT_EQ(word({.s2_vmid = 0xabcd, .s2_t0sz = 24, .s2_sl0 = 1, .s2_ir0 = 1, .s2_or0 = 1, .s2_sh0 = 3, .s2_ps = 2}, 2),
            0x2'3558'0000'abcdu);
  EXPECT_EQ(word({.s2_tg = 2}, 2), uint64_t{2} << 46);
  EXPECT_EQ(word({.s2_aa64 = true}, 2), uint64_t{1} << 51);
  EXPECT_EQ(word({.s2_endi = true}, 2), uint64_t{1} << 52);
  EXPECT_EQ(word({.s2_affd = true}, 2), uint64_t{1} << 53);
  EXPECT_EQ(word({.s2_ptw = true}, 2), uint64_t{1} << 54);
  EXPECT_EQ(word({.s2_hd = true}, 2), uint64_t{1} << 55);
  EXPECT_EQ(word({.s2_ha = true}, 2), uint64_t{1} << 56);
  EXPECT_EQ(word({.s2_stall = true}, 2), uint64_t{1} << 57);
  EXPECT_EQ(word({.s2_record = true}, 2), uint64_t{1} << 58);
  EXPECT_EQ(word({.s2_ttb = 0xf'ffff'ffff'ffff}, 3), 0xf'ffff'ffff'fff0u);
  EXPECT_EQ(EncodeSteL1({.span = 9, .l2_ptr = 0x1000}), 0x1009u);
}

TEST(SteTest, ForPeople) {
  EXPECT_EQ(ToString(DecodeSte(MakeStage2Ste({.vmid = 3, .vtcr = Vtcr4k(40), .s2ttb = 0x1000}, false))),
            "STE{V Config=stage-2 S1Fmt=linear S1DSS=terminate STRW=NS-EL1 SHCFG=1 S2VMID=3 S2T0SZ=0x18 S2SL0=1 "
            "S2IR0=1 S2OR0=1 S2SH0=3 S2PS=2 S2AA64 S2PTW S2R S2TTB=0x1000}");
}

TEST(PhysicalSteTest, VtcrOf4kTables) {
  EXPECT_EQ(Vtcr4k(48), 16u | 2u << 6 | 1u << 8 | 1u << 10 | 3u << 12 | 5u << 16);
  EXPECT_EQ(Vtcr4k(44), 20u | 2u << 6 | 1u << 8 | 1u << 10 | 3u << 12 | 4u << 16);
  EXPECT_EQ(Vtcr4k(40), 24u | 1u << 6 | 1u << 8 | 1u << 10 | 3u << 12 | 2u << 16);
  EXPECT_EQ(Vtcr4k(32), 32u | 0u << 6 | 1u << 8 | 1u << 10 | 3u << 12 | 0u << 16);
  EXPECT_EQ(Vtcr4k(52), Vtcr4k(48));
}

TEST(PhysicalSteTest, VtcrOfLargerTables) {
  const uint32_t attributes = 1u << 8 | 1u << 10 | 3u << 12;
  EXPECT_EQ(Vtcr(Granule::k16k, 48), 16u | 2u << 6 | attributes | 2u << 14 | 5u << 16);
  EXPECT_EQ(Vtcr(Granule::k16k, 40), 24u | 1u << 6 | attributes | 2u << 14 | 2u << 16);
  EXPECT_EQ(Vtcr(Granule::k16k, 52), Vtcr(Granule::k16k, 48));
  EXPECT_EQ(Vtcr(Granule::k64k, 52), 12u | 2u << 6 | attributes | 1u << 14 | 6u << 16);
  EXPECT_EQ(Vtcr(Granule::k64k, 44), 20u | 1u << 6 | attributes | 1u << 14 | 4u << 16);
  EXPECT_EQ(Vtcr(Granule::k64k, 32), 32u | 0u << 6 | attributes | 1u << 14 | 0u << 16);
}

// What the helper writes is what the walker accepts.
TEST(PhysicalSteTest, EveryVtcrIsConsistent) {
  for (const Granule granule : {Granule::k4k, Granule::k16k, Granule::k64k}) {
    for (const uint32_t oas : {32u, 36u, 40u, 42u, 44u, 48u, 52u}) {
      const Ste entry = DecodeSte(MakeStage2Ste({.vtcr = Vtcr(granule, oas)}, false));
      EXPECT_EQ(Tg0Codec::Decode(entry.s2_tg), granule);
      const auto level = Stage2StartLevel(granule, entry.s2_sl0);
      ASSERT_TRUE(level.has_value());
      EXPECT_TRUE(Stage2StartAllowed(granule, *level, oas)) << ToString(granule) << oas;
      EXPECT_TRUE(Stage2ConcatenationLog2(granule, *level, 64 - entry.s2_t0sz).has_value()) << ToString(granule) << oas;
    }
  }
}

}  // namespace
}  // namespace viommu::smmuv3
