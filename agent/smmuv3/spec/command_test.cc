#include "agent/smmuv3/spec/command.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace viommu::smmuv3 {
namespace {

rc::Gen<Opcode> AnyOpcode() { return rc::gen::elementOf(std::vector<Opcode>(kAllOpcodes.begin(), kAllOpcodes.end())); }

RC_GTEST_PROP(CommandProperty, EncodeAfterDecodeKeepsEveryDefinedBit, (uint64_t dw0, uint64_t dw1)) {
  const Opcode opcode = *AnyOpcode();
  const RawCommand raw{kOpcodeField.Set(dw0, static_cast<uint64_t>(opcode)), dw1};
  const auto command = Decode(raw);
  RC_ASSERT(command.has_value());
  RC_ASSERT(command->opcode == opcode);
  const RawCommand defined = DefinedBits(opcode);
  const RawCommand expected{raw.dw0 & defined.dw0, raw.dw1 & defined.dw1};
  RC_ASSERT(Encode(*command) == expected);
}

RC_GTEST_PROP(CommandProperty, DecodeAfterEncodeGivesTheSameCommand, (uint64_t dw0, uint64_t dw1)) {
  const Opcode opcode = *AnyOpcode();
  const auto command = Decode({kOpcodeField.Set(dw0, static_cast<uint64_t>(opcode)), dw1});
  RC_ASSERT(command.has_value());
  RC_ASSERT(Decode(Encode(*command)) == command);
  RC_ASSERT(ToString(*command).starts_with(OpcodeName(static_cast<uint8_t>(opcode))));
}

TEST(CommandTest, ExactlyTheKnownOpcodesDecode) {
  std::set<uint8_t> known;
  for (const Opcode opcode : kAllOpcodes) known.insert(static_cast<uint8_t>(opcode));
  ASSERT_EQ(known.size(), kAllOpcodes.size());
  for (int byte = 0; byte < 256; ++byte) {
    const RawCommand raw{static_cast<uint64_t>(byte), 0};
    EXPECT_EQ(Decode(raw).has_value(), known.contains(static_cast<uint8_t>(byte))) << byte;
    EXPECT_EQ(std::string(OpcodeName(static_cast<uint8_t>(byte))) != "CMD_UNKNOWN",
              known.contains(static_cast<uint8_t>(byte)));
  }
}

// Bit positions against the figures of chapter 4, written out once by hand.
TEST(CommandTest, LayoutsOfTheSpecification) {
  EXPECT_EQ(Encode({.opcode = Opcode::kTlbiNhVa,
                    .vmid = 0x1234,
                    .asid = 0xabcd,
                    .address = 0xffff'8000'1234'5000,
                    .leaf = true,
                    .num = 0x1f,
                    .scale = 0x11,
                    .ttl = 3,
                    .tg = 1}),
            (RawCommand{0xabcd'1234'0111'f012, 0xffff'8000'1234'5000 | 1 | (3 << 8) | (1 << 10)}));
  EXPECT_EQ(Encode({.opcode = Opcode::kAtcInv,
                    .sid = 0xdead'beef,
                    .ssid = 0xfffff,
                    .ssv = true,
                    .address = 0x7000,
                    .global = true,
                    .size = 52}),
            (RawCommand{0xdead'beef'ffff'fa40, 0x7000 | 52}));
  EXPECT_EQ(Encode({.opcode = Opcode::kCfgiCd, .sid = 7, .ssid = 3, .leaf = true}), (RawCommand{0x7'0000'3005, 1}));
  EXPECT_EQ(Encode({.opcode = Opcode::kCfgiSteRange, .sid = 0x100, .range = 31}), (RawCommand{0x100'0000'0004, 31}));
  EXPECT_EQ(Encode({.opcode = Opcode::kResume, .sid = 1, .response = 1, .tag = 0xffff}),
            (RawCommand{0x1'0000'1044, 0xffff}));
  EXPECT_EQ(Encode({.opcode = Opcode::kPriResp, .sid = 1, .response = 2, .tag = 0x1ff}),
            (RawCommand{0x1'0000'0041, 0x21ff}));
  EXPECT_EQ(Encode({.opcode = Opcode::kSync, .address = 0x1000, .cs = 1, .msh = 3, .msi_attr = 0xf, .msi_data = 5}),
            (RawCommand{0x5'0fc0'1046, 0x1000}));
}

TEST(CommandTest, ForPeople) {
  EXPECT_EQ(
      ToString(Command{.opcode = Opcode::kTlbiNhVa, .vmid = 3, .asid = 5, .address = 0x1000, .leaf = true, .tg = 1}),
      "CMD_TLBI_NH_VA{VMID=3 ASID=5 Leaf TG=1 Address=0x1000}");
  EXPECT_EQ(ToString(Command{}), "CMD_SYNC{}");
  EXPECT_EQ(ToString(Command{.opcode = static_cast<Opcode>(0xff)}), "CMD_UNKNOWN{}");
}

TEST(CommandTest, ValuesThatDoNotFitAreCut) {
  EXPECT_EQ(Encode({.opcode = Opcode::kAtcInv, .ssid = 0xfff0'0000, .address = 0xfff}), (RawCommand{0x40, 0}));
}

}  // namespace
}  // namespace viommu::smmuv3
