#include "agent/smmuv3/emulator/legality.h"

#include <gtest/gtest.h>

namespace viommu::smmuv3 {
namespace {

constexpr Features kAll = {.stage2 = true,
                           .stage1 = true,
                           .hyp = true,
                           .ats = true,
                           .asid_bits = 16,
                           .pri = true,
                           .vmid_bits = 16,
                           .stall_model = StallModel::kStallOrTerminate,
                           .ssid_bits = 20,
                           .ril = true};
constexpr Features kNone = {};

bool Legal(const Command& command, const Features& features = kAll) {
  return DecodeLegal(Encode(command), features).has_value();
}

TEST(LegalityTest, FeaturesDecideAboutOpcodes) {
  for (const Opcode opcode : kAllOpcodes) {
    EXPECT_TRUE(Legal({.opcode = opcode})) << OpcodeName(static_cast<uint8_t>(opcode));
  }
  for (const Opcode opcode :
       {Opcode::kTlbiNhAll, Opcode::kTlbiNhVa, Opcode::kCfgiCd, Opcode::kTlbiEl2All, Opcode::kTlbiS12Vmall,
        Opcode::kTlbiS2Ipa, Opcode::kAtcInv, Opcode::kPriResp, Opcode::kResume}) {
    EXPECT_FALSE(Legal({.opcode = opcode}, kNone)) << OpcodeName(static_cast<uint8_t>(opcode));
  }
  for (const Opcode opcode : {Opcode::kSync, Opcode::kCfgiSte, Opcode::kTlbiNsnhAll, Opcode::kPrefetchConfig}) {
    EXPECT_TRUE(Legal({.opcode = opcode}, kNone)) << OpcodeName(static_cast<uint8_t>(opcode));
  }
}

TEST(LegalityTest, UnknownOpcodesReservedBitsAndValues) {
  EXPECT_FALSE(DecodeLegal({0x00, 0}, kAll).has_value());
  EXPECT_FALSE(DecodeLegal({0x18, 0}, kAll).has_value());
  EXPECT_FALSE(DecodeLegal({0x10 | 1 << 8, 0}, kAll).has_value());
  EXPECT_FALSE(Legal({.opcode = Opcode::kCfgiSte, .ssec = true}));
  EXPECT_FALSE(Legal({.opcode = Opcode::kAtcInv, .size = 53}));
  EXPECT_FALSE(Legal({.opcode = Opcode::kPriResp, .response = 3}));
  EXPECT_FALSE(Legal({.opcode = Opcode::kSync, .cs = 3}));
}

TEST(LegalityTest, RangeFields) {
  Features no_ril = kAll;
  no_ril.ril = false;
  Features ds = kAll;
  ds.ds = true;
  const auto va = [](uint8_t num, uint8_t scale, uint8_t ttl, uint8_t tg) {
    return Command{.opcode = Opcode::kTlbiNhVa, .num = num, .scale = scale, .ttl = ttl, .tg = tg};
  };
  EXPECT_TRUE(Legal(va(0, 0, 0, 0)));
  EXPECT_TRUE(Legal(va(1, 0, 0, 1)));
  EXPECT_TRUE(Legal(va(0, 0, 1, 1)));
  EXPECT_FALSE(Legal(va(1, 0, 0, 0)));
  EXPECT_FALSE(Legal(va(0, 0, 3, 0)));
  EXPECT_FALSE(Legal(va(0, 0, 0, 1)));
  EXPECT_FALSE(Legal(va(1, 0, 0, 1), no_ril));
  EXPECT_TRUE(Legal(va(0, 0, 0, 0), no_ril));
  // 16 KiB tables have blocks of level 1 with 52-bit addresses only; without, the hint counts as none.
  EXPECT_FALSE(Legal(va(0, 0, 1, 2)));
  EXPECT_TRUE(Legal(va(1, 0, 1, 2)));
  EXPECT_TRUE(Legal(va(0, 0, 1, 2), ds));
  EXPECT_FALSE(Legal(va(0, 32, 0, 1)));
  EXPECT_TRUE(Legal(va(0, 32, 0, 1), ds));
}

}  // namespace
}  // namespace viommu::smmuv3
