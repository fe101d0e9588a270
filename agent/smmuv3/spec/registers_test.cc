#include "agent/smmuv3/spec/registers.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace viommu::smmuv3 {
namespace {

TEST(RegistersTest, ExactlyTheKnownOffsetsHaveNames) {
  std::set<uint32_t> known;
  std::set<std::string> names;
  for (const Register reg : kAllRegisters) {
    const auto offset = static_cast<uint32_t>(reg);
    ASSERT_NE(RegisterName(offset), nullptr) << offset;
    EXPECT_EQ(std::string(RegisterName(offset)).rfind("SMMU_", 0), 0u);
    known.insert(offset);
    names.insert(RegisterName(offset));
  }
  EXPECT_EQ(known.size(), kAllRegisters.size());
  EXPECT_EQ(names.size(), kAllRegisters.size());
  for (uint32_t offset = 0; offset < 0x20000; ++offset) {
    EXPECT_EQ(RegisterName(offset) != nullptr, known.contains(offset)) << offset;
  }
  EXPECT_EQ(RegisterName(~uint32_t{0}), nullptr);
}

// A wide register takes the place of two: none may stand in its second half, and it is aligned.
TEST(RegistersTest, RegistersDoNotOverlap) {
  for (const Register reg : kAllRegisters) {
    const auto offset = static_cast<uint32_t>(reg);
    EXPECT_EQ(offset % (IsWide(reg) ? 8 : 4), 0u) << RegisterName(offset);
    if (IsWide(reg)) {
      EXPECT_EQ(RegisterName(offset + 4), nullptr) << RegisterName(offset);
    }
  }
  EXPECT_TRUE(IsWide(Register::kCmdqBase));
  EXPECT_FALSE(IsWide(Register::kCmdqProd));
}

// Offsets of 6.3 that nothing else here would notice.
TEST(RegistersTest, OffsetsOfTheSpecification) {
  EXPECT_STREQ(RegisterName(0x20), "SMMU_CR0");
  EXPECT_STREQ(RegisterName(0x44), "SMMU_GBPA");
  EXPECT_STREQ(RegisterName(0x60), "SMMU_GERROR");
  EXPECT_STREQ(RegisterName(0x80), "SMMU_STRTAB_BASE");
  EXPECT_STREQ(RegisterName(0x98), "SMMU_CMDQ_PROD");
  EXPECT_STREQ(RegisterName(0x100ac), "SMMU_EVENTQ_CONS");
  EXPECT_STREQ(RegisterName(0x100c8), "SMMU_PRIQ_PROD");
}

TEST(RegistersTest, CommandErrorsHaveNames) {
  EXPECT_STREQ(CommandErrorName(CommandErrorCode::kNone), "CERROR_NONE");
  EXPECT_STREQ(CommandErrorName(CommandErrorCode::kIllegal), "CERROR_ILL");
  EXPECT_STREQ(CommandErrorName(CommandErrorCode::kAbort), "CERROR_ABT");
  EXPECT_STREQ(CommandErrorName(CommandErrorCode::kAtcInvSync), "CERROR_ATC_INV_SYNC");
  for (uint32_t code = 5; code < 128; ++code) {
    EXPECT_STREQ(CommandErrorName(static_cast<CommandErrorCode>(code)), "CERROR_UNKNOWN");
  }
}

}  // namespace
}  // namespace viommu::smmuv3
