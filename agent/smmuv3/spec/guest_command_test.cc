#include "agent/smmuv3/spec/guest_command.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <set>

#include "agent/smmuv3/spec/command.h"

namespace viommu::smmuv3 {
namespace {

constexpr Features kRich = {.ats = true, .asid_bits = 16, .vmid_bits = 16, .ssid_bits = 20, .ril = true};
constexpr Features kPoor = {.asid_bits = 8, .vmid_bits = 8};

GuestCommandRule Check(const Command& command, const Features& features = kRich) {
  return CheckGuestCommand(Encode(command), features);
}

TEST(GuestCommandTest, EightOpcodesPass) {
  const std::set<int> expected = {0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x30, 0x40};
  for (int opcode = 0; opcode < 256; ++opcode) {
    const auto byte = static_cast<uint8_t>(opcode);
    EXPECT_EQ(CheckGuestOpcode(byte) == GuestCommandRule::kNone, expected.contains(opcode)) << opcode;
    EXPECT_EQ(DescribeGuestOpcode(byte) == nullptr, expected.contains(opcode)) << opcode;
  }
  EXPECT_EQ(CheckGuestOpcode(0x46), GuestCommandRule::kOpcodeHost);
  EXPECT_EQ(CheckGuestOpcode(0x00), GuestCommandRule::kOpcodeUnknown);
  EXPECT_EQ(CheckGuestOpcode(0x80), GuestCommandRule::kOpcodeUnknown);
}

TEST(GuestCommandTest, ReservedBitsAreRefused) {
  EXPECT_EQ(CheckGuestCommand({0x30, 0}, kRich), GuestCommandRule::kNone);
  EXPECT_EQ(CheckGuestCommand({0x30, 1}, kRich), GuestCommandRule::kReservedBits);
  EXPECT_EQ(CheckGuestCommand({0x30 | uint64_t{1} << 32, 0}, kRich), GuestCommandRule::kReservedBits);
  EXPECT_EQ(CheckGuestCommand({0x10 | uint64_t{0xffff} << 32, 0}, kRich), GuestCommandRule::kNone);
  EXPECT_EQ(CheckGuestCommand({0x10 | uint64_t{1} << 48, 0}, kRich), GuestCommandRule::kReservedBits);
  EXPECT_EQ(CheckGuestCommand({0x13 | uint64_t{1} << 48, 0}, kRich), GuestCommandRule::kReservedBits);
  EXPECT_EQ(CheckGuestCommand({0x05 | 1 << 10, 0}, kRich), GuestCommandRule::kReservedBits);
  EXPECT_EQ(CheckGuestCommand({0x05 | 1 << 11, 0}, kRich), GuestCommandRule::kReservedBits);
  EXPECT_EQ(CheckGuestCommand({0x06, 1}, kRich), GuestCommandRule::kReservedBits);
}

TEST(GuestCommandTest, AbilitiesOfTheSmmuBoundTheFields) {
  EXPECT_EQ(Check({.opcode = Opcode::kAtcInv, .size = 52}), GuestCommandRule::kNone);
  EXPECT_EQ(Check({.opcode = Opcode::kAtcInv, .size = 53}), GuestCommandRule::kAtcSize);
  EXPECT_EQ(Check({.opcode = Opcode::kAtcInv}, kPoor), GuestCommandRule::kNoAts);
  EXPECT_EQ(Check({.opcode = Opcode::kAtcInv, .ssv = true}, kPoor), GuestCommandRule::kReservedBits);
  Features narrow = kRich;
  narrow.ssid_bits = 8;
  EXPECT_EQ(Check({.opcode = Opcode::kAtcInv, .ssid = 255, .ssv = true}, narrow), GuestCommandRule::kNone);
  EXPECT_EQ(Check({.opcode = Opcode::kAtcInv, .ssid = 256, .ssv = true}, narrow), GuestCommandRule::kSubstream);
  EXPECT_EQ(Check({.opcode = Opcode::kCfgiCd, .ssid = 256}, narrow), GuestCommandRule::kSubstream);
  EXPECT_EQ(Check({.opcode = Opcode::kCfgiCd, .ssid = 1}, kPoor), GuestCommandRule::kReservedBits);
  EXPECT_EQ(Check({.opcode = Opcode::kCfgiCd}, kPoor), GuestCommandRule::kNone);
  EXPECT_EQ(Check({.opcode = Opcode::kTlbiNhAsid, .asid = 256}), GuestCommandRule::kNone);
  EXPECT_EQ(Check({.opcode = Opcode::kTlbiNhAsid, .asid = 256}, kPoor), GuestCommandRule::kAsidWidth);
  EXPECT_EQ(Check({.opcode = Opcode::kTlbiNhVa, .asid = 256}, kPoor), GuestCommandRule::kAsidWidth);
}

TEST(GuestCommandTest, RangesFollowTheTable) {
  for (const Opcode opcode : {Opcode::kTlbiNhVa, Opcode::kTlbiNhVaa}) {
    EXPECT_EQ(Check({.opcode = opcode, .ttl = 3, .tg = 1}), GuestCommandRule::kNone);
    EXPECT_EQ(Check({.opcode = opcode, .num = 1, .tg = 1}), GuestCommandRule::kNone);
    EXPECT_EQ(Check({.opcode = opcode, .tg = 1}), GuestCommandRule::kRangeReserved);
    EXPECT_EQ(Check({.opcode = opcode, .num = 1}), GuestCommandRule::kRangeWithoutTg);
    EXPECT_EQ(Check({.opcode = opcode, .scale = 1}), GuestCommandRule::kRangeWithoutTg);
    EXPECT_EQ(Check({.opcode = opcode, .ttl = 1}), GuestCommandRule::kRangeWithoutTg);
    EXPECT_EQ(Check({.opcode = opcode, .ttl = 1, .tg = 2}), GuestCommandRule::kRangeLevel);
    EXPECT_EQ(Check({.opcode = opcode, .scale = 32, .tg = 1}), GuestCommandRule::kRangeLevel);
    Features wide = kRich;
    wide.ds = true;
    EXPECT_EQ(Check({.opcode = opcode, .ttl = 1, .tg = 2}, wide), GuestCommandRule::kNone);
    EXPECT_EQ(Check({.opcode = opcode, .scale = 32, .tg = 1}, wide), GuestCommandRule::kNone);
    EXPECT_EQ(Check({.opcode = opcode, .num = 1, .tg = 1}, kPoor), GuestCommandRule::kReservedBits);
    EXPECT_EQ(Check({.opcode = opcode, .leaf = true}, kPoor), GuestCommandRule::kNone);
  }
}

RC_GTEST_PROP(GuestCommandProperty, VmidAndStreamIdDoNotMatter, (uint64_t dw0, uint64_t dw1, uint32_t id)) {
  const uint8_t opcode = *rc::gen::element<uint8_t>(0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x40);
  const RawCommand raw{kOpcodeField.Set(dw0, opcode), dw1};
  const bool tlbi = opcode >= 0x10 && opcode <= 0x13;
  const RawCommand other{(tlbi ? kVmidField : kSidField).Set(raw.dw0, id), dw1};
  RC_ASSERT(CheckGuestCommand(raw, kRich) == CheckGuestCommand(other, kRich));
}

}  // namespace
}  // namespace viommu::smmuv3
