// HWPT_INVALIDATE: the object, the array of entries, and how they are counted.

#include <vector>

#include "tests/conformance/invalidate_fixture.h"

namespace viommu::conformance {
namespace {

using smmuv3::Command;
using smmuv3::Encode;
using smmuv3::Opcode;

class Invalidate : public InvalidateFixture {};
CONFORMANCE_RIGS(Invalidate);

// ---- The object and the array ---------------------------------------------------------------------------------------

TEST_P(Invalidate, One) {
  const InvalidateResult result = Send({.opcode = Opcode::kTlbiNhAll});
  EXPECT_OK(result);
  EXPECT_EQ(result.handled, 1u);
}

TEST_P(Invalidate, N1_OnAStage2) { ExpectRefused(EINVAL, 0, vm().Send(f_.stage2, GoodCommand())); }

TEST_P(Invalidate, N1_OnAPlainHwpt) {
  const ObjectId hwpt = Must(vm()->AllocHwpt({.device = f_.device, .pt = vm().ioas()}));
  ExpectRefused(EINVAL, 0, vm().Send(hwpt, GoodCommand()));
}

TEST_P(Invalidate, OnAVdevice) { ExpectRefused(EINVAL, 0, vm().Send(f_.vdevice, GoodCommand())); }

TEST_P(Invalidate, UnknownId) {
  ExpectRefused(ENOENT, 0, vm().Send(kNoSuchId, GoodCommand()));
  ExpectRefused(ENOENT, 0, vm().Send(0, GoodCommand()));
}

TEST_P(Invalidate, A14_ByNestedHwpt) {
  const ObjectId nested = vm().Nested(f_, kTranslateVste);
  const InvalidateResult result = vm().Send(nested, GoodCommand());
  EXPECT_ERRNO(expect().invalidate_by_nested, result);
  EXPECT_EQ(result.handled, expect().invalidate_by_nested == 0 ? 1u : 0u);
}

TEST_P(Invalidate, N2_NoCommand) { ExpectRefused(expect().empty_invalidate, 0, Send(std::span<const RawCommand>{})); }

TEST_P(Invalidate, N2_NoCommandAndNullPointer) {
  ExpectRefused(expect().empty_invalidate, 0, SendRaw({.entries = nullptr, .entry_length = 0, .entry_count = 0}));
}

TEST_P(Invalidate, N2_NoCommandOfABadType) {
  ExpectRefused(EINVAL, 0, vm()->Invalidate(f_.viommu, InvalidateDataType::kVtdS1, {}));
}

TEST_P(Invalidate, N3_BadDataType) {
  const RawCommand command = GoodCommand();
  ExpectRefused(EINVAL, 0, vm()->Invalidate(f_.viommu, InvalidateDataType::kVtdS1, {&command, 1}));
  ExpectRefused(EINVAL, 0, vm()->Invalidate(f_.viommu, static_cast<InvalidateDataType>(0xbeef), {&command, 1}));
}

TEST_P(Invalidate, N4_OneByteEntries) {
  const uint8_t opcodes[] = {0x10, 0x30};
  const InvalidateResult result = SendRaw({.entries = opcodes, .entry_length = 1, .entry_count = 2});
  EXPECT_OK(result);
  EXPECT_EQ(result.handled, 2u);
}

TEST_P(Invalidate, N4_EightByteEntries) {
  const uint64_t words[] = {GoodCommand().dw0, Encode({.opcode = Opcode::kTlbiNhAsid, .asid = 5}).dw0,
                            Encode({.opcode = Opcode::kCfgiCdAll, .sid = kVsid}).dw0};
  const InvalidateResult result = SendRaw({.entries = words, .entry_length = 8, .entry_count = 3});
  EXPECT_OK(result);
  EXPECT_EQ(result.handled, 3u);
}

TEST_P(Invalidate, N4_ShortEntriesAreFilledUpWithZeros) {
  const uint8_t sync_at_the_end[] = {0x10, 0x10, 0x46};
  ExpectRefused(EIO, expect().HandledUpTo(2),
                SendRaw({.entries = sync_at_the_end, .entry_length = 1, .entry_count = 3}));
}

TEST_P(Invalidate, N4_LongEntriesWithZeroTail) {
  const uint64_t words[] = {GoodCommand().dw0, 0, 0, GoodCommand().dw0, 0, 0};
  const InvalidateResult result = SendRaw({.entries = words, .entry_length = 24, .entry_count = 2});
  EXPECT_OK(result);
  EXPECT_EQ(result.handled, 2u);
}

TEST_P(Invalidate, N4_LongEntryWithATail) {
  const uint64_t words[] = {GoodCommand().dw0, 0, 1};
  ExpectRefused(E2BIG, 0, SendRaw({.entries = words, .entry_length = 24, .entry_count = 1}));
}

TEST_P(Invalidate, N4_LongEntryWithATailInItsLastByte) {
  uint8_t bytes[17] = {0x10};
  bytes[16] = 0x80;
  ExpectRefused(E2BIG, 0, SendRaw({.entries = bytes, .entry_length = 17, .entry_count = 1}));
}

TEST_P(Invalidate, N5_EntriesOfAPage) {
  std::vector<uint64_t> words(2 * 4096 / 8);
  words[0] = words[4096 / 8] = GoodCommand().dw0;
  const InvalidateResult result = SendRaw({.entries = words.data(), .entry_length = 4096, .entry_count = 2});
  EXPECT_OK(result);
  EXPECT_EQ(result.handled, 2u);
}

TEST_P(Invalidate, N5_EntriesAboveAPage) {
  std::vector<uint64_t> words(2 * 4096 / 8);
  ExpectRefused(EINVAL, 0, SendRaw({.entries = words.data(), .entry_length = 4097, .entry_count = 1}));
}

TEST_P(Invalidate, N6_TooMany) {
  const RawCommand command = GoodCommand();
  ExpectRefused(EINVAL, 0, SendRaw({.entries = &command, .entry_count = agent::kMaxInvalidateEntries + 1}));
  ExpectRefused(EINVAL, 0, SendRaw({.entries = &command, .entry_count = ~0u}));
}

TEST_P(Invalidate, N6_AsManyAsThereMayBe) {
  std::vector<RawCommand> commands(agent::kMaxInvalidateEntries, GoodCommand());
  commands[0] = BadCommand();
  ExpectRefused(EIO, 0, Send(commands));
}

TEST_P(Invalidate, N8_NullPointer) { ExpectRefused(EINVAL, 0, SendRaw({.entries = nullptr, .entry_count = 1})); }

TEST_P(Invalidate, N9_EntryLengthZero) {
  const RawCommand command = GoodCommand();
  ExpectRefused(EINVAL, 0, SendRaw({.entries = &command, .entry_length = 0, .entry_count = 1}));
}

TEST_P(Invalidate, EntriesNeedNotBeAligned) {
  alignas(8) uint8_t bytes[33] = {};
  bytes[1] = 0x10;
  bytes[17] = 0x30;
  const InvalidateResult result = SendRaw({.entries = bytes + 1, .entry_length = 16, .entry_count = 2});
  EXPECT_OK(result);
  EXPECT_EQ(result.handled, 2u);
}

TEST_P(Invalidate, OrderArrayBeforeId) {
  ExpectRefused(EINVAL, 0, vm()->InvalidateRaw(kNoSuchId, {.entries = nullptr, .entry_count = 1}));
  const RawCommand command = GoodCommand();
  ExpectRefused(EINVAL, 0, vm()->InvalidateRaw(kNoSuchId, {.entries = &command, .entry_length = 0, .entry_count = 1}));
  ExpectRefused(EINVAL, 0,
                vm()->InvalidateRaw(kNoSuchId, {.entries = &command, .entry_count = agent::kMaxInvalidateEntries + 1}));
}

TEST_P(Invalidate, OrderIdBeforeDataType) {
  const RawCommand command = GoodCommand();
  ExpectRefused(ENOENT, 0, vm()->Invalidate(kNoSuchId, InvalidateDataType::kVtdS1, {&command, 1}));
}

TEST_P(Invalidate, OrderDataTypeBeforeCommands) {
  const RawCommand command = BadCommand();
  ExpectRefused(EINVAL, 0, vm()->Invalidate(f_.viommu, InvalidateDataType::kVtdS1, {&command, 1}));
}

TEST_P(Invalidate, OrderDataTypeBeforeTails) {
  const uint64_t words[] = {GoodCommand().dw0, 0, 1};
  ExpectRefused(
      EINVAL, 0,
      SendRaw({.data_type = InvalidateDataType::kVtdS1, .entries = words, .entry_length = 24, .entry_count = 1}));
}

// ---- Commands -------------------------------------------------------------------------------------------------------

TEST_P(Invalidate, A1_Sync) { ExpectRefused(EIO, 0, Send({.opcode = Opcode::kSync})); }

TEST_P(Invalidate, A2_CfgiSte) { ExpectRefused(EIO, 0, Send({.opcode = Opcode::kCfgiSte, .sid = kVsid})); }

TEST_P(Invalidate, A3_NsnhAll) { EXPECT_OK(Send({.opcode = Opcode::kTlbiNsnhAll})); }

TEST_P(Invalidate, A5_N11_UnknownVsid) {
  ExpectRefused(EIO, 0, Send({.opcode = Opcode::kCfgiCd, .sid = kOtherVsid}));
  ExpectRefused(EIO, 0, Send({.opcode = Opcode::kCfgiCdAll, .sid = kOtherVsid}));
  ExpectRefused(EIO, 0, Send({.opcode = Opcode::kAtcInv, .sid = kOtherVsid, .size = 52}));
}

TEST_P(Invalidate, A5_ThePhysicalStreamIdIsNotTheGuests) {
  const uint32_t sid = Info(A0()).stream_id;
  ASSERT_NE(sid, kVsid);
  ExpectRefused(EIO, 0, Send({.opcode = Opcode::kCfgiCdAll, .sid = sid}));
}

TEST_P(Invalidate, A5_AVsidOfAnotherViommuIsUnknown) {
  NEED_DEVICE(a1, Role::kA1);
  const ObjectId device = vm().Bind(a1);
  vm().Vdevice(vm().Viommu(device, f_.stage2), device, kOtherVsid);
  ExpectRefused(EIO, 0, Send({.opcode = Opcode::kCfgiCdAll, .sid = kOtherVsid}));
}

TEST_P(Invalidate, AVsidNeedsNoAttachment) {
  EXPECT_OK(Send({.opcode = Opcode::kCfgiCd, .sid = kVsid}));
  EXPECT_OK(Send({.opcode = Opcode::kCfgiCdAll, .sid = kVsid}));
}

TEST_P(Invalidate, AViommuWithoutVdevicesTakesTlbi) {
  const ObjectId other = vm().Viommu(f_.device, f_.stage2);
  EXPECT_OK(vm().Send(other, GoodCommand()));
  EXPECT_ERRNO(EIO, vm().Send(other, Command{.opcode = Opcode::kCfgiCdAll, .sid = kVsid}));
}

TEST_P(Invalidate, N12_SecondOpcodeBad) {
  const RawCommand commands[] = {GoodCommand(), BadCommand()};
  ExpectRefused(EIO, expect().HandledUpTo(1), Send(commands));
}

TEST_P(Invalidate, N13_SecondVsidBad) {
  const RawCommand commands[] = {GoodCommand(), Encode({.opcode = Opcode::kCfgiCdAll, .sid = kOtherVsid})};
  ExpectRefused(EIO, expect().HandledUpTo(1), Send(commands));
}

TEST_P(Invalidate, N14_TwoGood) {
  const RawCommand commands[] = {GoodCommand(), Encode({.opcode = Opcode::kCfgiCdAll, .sid = kVsid})};
  const InvalidateResult result = Send(commands);
  EXPECT_OK(result);
  EXPECT_EQ(result.handled, 2u);
}

TEST_P(Invalidate, GoodCommandsAfterABadOneAreNotCounted) {
  const RawCommand commands[] = {BadCommand(), GoodCommand(), GoodCommand()};
  ExpectRefused(EIO, 0, Send(commands));
}

TEST_P(Invalidate, RepeatingIsAlwaysFine) {
  for (int i = 0; i < 100; ++i) EXPECT_OK(Send({.opcode = Opcode::kTlbiNsnhAll}));
}

struct CountRow {
  const char* name;
  uint32_t count;
};
const CountRow kCounts[] = {{"1", 1},     {"2", 2},     {"62", 62},   {"63", 63},     {"64", 64},      {"126", 126},
                            {"127", 127}, {"189", 189}, {"190", 190}, {"1000", 1000}, {"10000", 10000}};

class InvalidateCount : public ConformanceRows<CountRow> {};
CONFORMANCE_ROWS(InvalidateCount, kCounts);

TEST_P(InvalidateCount, AllGood) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), kVsid);
  const std::vector<RawCommand> commands(row().count, GoodCommand());
  const InvalidateResult result = vm.Send(function.viommu, commands);
  EXPECT_OK(result);
  EXPECT_EQ(result.handled, row().count);
}

TEST_P(InvalidateCount, TheLastIsBad) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), kVsid);
  std::vector<RawCommand> commands(row().count, GoodCommand());
  commands.back() = BadCommand();
  const InvalidateResult result = vm.Send(function.viommu, commands);
  EXPECT_ERRNO(EIO, result);
  EXPECT_EQ(result.handled, expect().HandledUpTo(row().count - 1));
}

}  // namespace
}  // namespace viommu::conformance
