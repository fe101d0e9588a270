#include "agent/smmuv3/vsmmu/invalidation_commands.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <optional>

namespace viommu::agent {
namespace {

using smmuv3::Command;
using smmuv3::Granule;
using smmuv3::Opcode;

const Command kPage = {.opcode = Opcode::kTlbiS2Ipa, .vmid = 9};
const Command kAll = {.opcode = Opcode::kTlbiS12Vmall, .vmid = 9};

// Commands follow one another without gap or overlap, none of them reserved.
RC_GTEST_PROP(AppendTlbiTest, RangesCoverExactly, (uint32_t first)) {
  const Granule granule = *rc::gen::element(Granule::k4k, Granule::k16k, Granule::k64k);
  const auto shift = static_cast<uint32_t>(granule);
  const uint64_t pages =
      *rc::gen::oneOf(rc::gen::inRange<uint64_t>(1, 100), rc::gen::inRange<uint64_t>(1, uint64_t{1} << (48 - shift)));
  const uint64_t begin = uint64_t{first & 0xffff} << shift;
  std::vector<smmuv3::RawCommand> commands;
  AppendTlbi(kPage, kAll, begin, pages << shift, granule, true, commands);
  RC_ASSERT(commands.size() <= 10u);
  uint64_t at = begin;
  for (const smmuv3::RawCommand& raw : commands) {
    const std::optional<Command> command = smmuv3::Decode(raw);
    RC_ASSERT(command->opcode == Opcode::kTlbiS2Ipa);
    RC_ASSERT(command->vmid == 9);
    RC_ASSERT(command->address == at);
    RC_ASSERT(command->scale <= 31);
    if (command->tg == 0) {
      RC_ASSERT(command->num == 0);
      RC_ASSERT(command->scale == 0);
      at += uint64_t{1} << shift;
    } else {
      RC_ASSERT(command->num + command->scale > 0);
      at += (uint64_t{command->num} + 1) << command->scale << shift;
    }
  }
  RC_ASSERT(at == begin + (pages << shift));
}

TEST(AppendTlbiTest, WithoutRangesPageByPageOrAll) {
  std::vector<smmuv3::RawCommand> commands;
  AppendTlbi(kPage, kAll, 0x8000, kMaxSinglePages << 12, Granule::k4k, false, commands);
  ASSERT_EQ(commands.size(), kMaxSinglePages);
  EXPECT_EQ(smmuv3::Decode(commands[3])->address, 0xb000u);
  EXPECT_EQ(smmuv3::Decode(commands[3])->tg, 0u);
  commands.clear();
  AppendTlbi(kPage, kAll, 0x8000, (kMaxSinglePages + 1) << 12, Granule::k4k, false, commands);
  ASSERT_EQ(commands.size(), 1u);
  EXPECT_EQ(smmuv3::Decode(commands[0])->opcode, Opcode::kTlbiS12Vmall);
}

RC_GTEST_PROP(AtcInvalidationTest, CoversWithTheSmallestAlignedSpan, (uint64_t address, uint32_t length)) {
  address &= 0xffff'ffff'f000;
  const uint64_t bytes = (uint64_t{length} + 1) * 4096;
  const Command command = AtcInvalidation(7, address, bytes);
  RC_ASSERT(command.sid == 7u);
  const uint64_t span = uint64_t{4096} << command.size;
  RC_ASSERT(command.address % span == 0u);
  RC_ASSERT(command.address <= address);
  RC_ASSERT(address + bytes <= command.address + span);
  // Half of it would not do.
  const uint64_t half = span / 2;
  RC_ASSERT(command.size == 0 || address / half != (address + bytes - 1) / half);
}

TEST(AtcInvalidationTest, TheWholeSpaceIsSize52) {
  EXPECT_EQ(AtcInvalidation(1, 0, ~uint64_t{0}).size, smmuv3::kAtcSizeAll);
  EXPECT_EQ(AtcInvalidation(1, 0x1000, 1).size, 0);
}

}  // namespace
}  // namespace viommu::agent
