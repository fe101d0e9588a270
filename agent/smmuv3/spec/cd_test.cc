#include "agent/smmuv3/spec/cd.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

namespace viommu::smmuv3 {
namespace {

RawCd AnyCd() {
  RawCd raw;
  for (uint64_t& word : raw) word = *rc::gen::arbitrary<uint64_t>();
  return raw;
}

RC_GTEST_PROP(CdProperty, EncodeAfterDecodeKeepsEveryDefinedBit, ()) {
  const RawCd raw = AnyCd();
  const RawCd defined = CdDefinedBits();
  RawCd expected;
  for (size_t i = 0; i < raw.size(); ++i) expected[i] = raw[i] & defined[i];
  RC_ASSERT(EncodeCd(DecodeCd(raw)) == expected);
}

RC_GTEST_PROP(CdProperty, DecodeAfterEncodeGivesTheSameDescriptor, ()) {
  const Cd descriptor = DecodeCd(AnyCd());
  RC_ASSERT(DecodeCd(EncodeCd(descriptor)) == descriptor);
  RC_ASSERT(!ToString(descriptor).empty());
}

RC_GTEST_PROP(CdProperty, LevelOneEntriesKeepTheirBits, (uint64_t raw)) {
  RC_ASSERT(EncodeCdL1(DecodeCdL1(raw)) == (raw & (cd_l1::kValid.mask() | cd_l1::kL2Ptr.mask())));
}

// Bit positions against 5.4, written out once by hand.
TEST(CdTest, LayoutOfTheSpecification) {
  const Cd both = {
      .valid = true,
      .ttb0 = {.tsz = 16, .granule = Granule::k64k, .ir = 1, .orgn = 2, .sh = 3, .had = true, .ttb = 0x12'3456'7000},
      .ttb1 = {.tsz = 25, .granule = Granule::k16k, .ir = 2, .orgn = 1, .sh = 2, .ttb = 0xf'ffff'ffff'fff0},
      .ips = 5,
      .aa64 = true,
      .record = true,
      .abort = true,
      .asid = 0xabcd,
      .mair = 0xff44'0c04,
  };
  EXPECT_EQ(EncodeCd(both), (RawCd{0xabcd'6205'a659'3950, 0x12'3456'7002, 0xf'ffff'ffff'fff0, 0xff44'0c04}));

  const auto first_word = [](const Cd& descriptor) { return EncodeCd(descriptor)[0]; };
  const uint64_t empty = first_word({});
  EXPECT_EQ(empty, uint64_t{2} << 22);  // TG1 of 4K
  const auto bit = [&](const Cd& descriptor) { return first_word(descriptor) ^ empty; };
  EXPECT_EQ(bit({.ttb0 = {.disabled = true}}), uint64_t{1} << 14);
  EXPECT_EQ(bit({.big_endian = true}), uint64_t{1} << 15);
  EXPECT_EQ(bit({.ttb1 = {.disabled = true}}), uint64_t{1} << 30);
  EXPECT_EQ(bit({.valid = true}), uint64_t{1} << 31);
  EXPECT_EQ(bit({.affd = true}), uint64_t{1} << 35);
  EXPECT_EQ(bit({.wxn = true}), uint64_t{1} << 36);
  EXPECT_EQ(bit({.uwxn = true}), uint64_t{1} << 37);
  EXPECT_EQ(bit({.ttb0 = {.tbi = true}}), uint64_t{1} << 38);
  EXPECT_EQ(bit({.ttb1 = {.tbi = true}}), uint64_t{1} << 39);
  EXPECT_EQ(bit({.pan = true}), uint64_t{1} << 40);
  EXPECT_EQ(bit({.aa64 = true}), uint64_t{1} << 41);
  EXPECT_EQ(bit({.hd = true}), uint64_t{1} << 42);
  EXPECT_EQ(bit({.ha = true}), uint64_t{1} << 43);
  EXPECT_EQ(bit({.stall = true}), uint64_t{1} << 44);
  EXPECT_EQ(bit({.record = true}), uint64_t{1} << 45);
  EXPECT_EQ(bit({.abort = true}), uint64_t{1} << 46);
  EXPECT_EQ(bit({.aset = true}), uint64_t{1} << 47);
  EXPECT_EQ(EncodeCd({.ttb1 = {.had = true}})[2], 2u);
}

// The two granule fields of a descriptor do not agree with each other, nor with the commands.
TEST(CdTest, GranulesHaveThreeCodings) {
  constexpr Granule kTg0[] = {Granule::k4k, Granule::k64k, Granule::k16k, Granule::kReserved};
  constexpr Granule kTg1[] = {Granule::kReserved, Granule::k16k, Granule::k4k, Granule::k64k};
  constexpr Granule kCommand[] = {Granule::kReserved, Granule::k4k, Granule::k16k, Granule::k64k};
  for (uint64_t bits = 0; bits < 4; ++bits) {
    EXPECT_EQ(Tg0Codec::Decode(bits), kTg0[bits]);
    EXPECT_EQ(Tg0Codec::Encode(kTg0[bits]), bits);
    EXPECT_EQ(Tg1Codec::Decode(bits), kTg1[bits]);
    EXPECT_EQ(Tg1Codec::Encode(kTg1[bits]), bits);
    EXPECT_EQ(CommandTgCodec::Decode(bits), kCommand[bits]);
    EXPECT_EQ(CommandTgCodec::Encode(kCommand[bits]), bits);
  }
}

TEST(CdTest, ForPeople) {
  EXPECT_EQ(ToString(Cd{.valid = true,
                        .ttb0 = {.tsz = 16, .ttb = 0x1000},
                        .ttb1 = {.granule = Granule::kReserved, .disabled = true},
                        .aa64 = true,
                        .asid = 5}),
            "CD{V T0SZ=0x10 TG0=4K TG1=reserved EPD1 AA64 ASID=5 TTB0=0x1000}");
}

}  // namespace
}  // namespace viommu::smmuv3
