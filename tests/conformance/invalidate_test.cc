// HWPT_INVALIDATE: which commands a guest may send, how they are counted, and the array that holds them.

#include <algorithm>
#include <vector>

#include "agent/smmuv3/spec/id_registers.h"
#include "tests/conformance/vm.h"

namespace viommu::conformance {
namespace {

using smmuv3::Command;
using smmuv3::Encode;
using smmuv3::Opcode;

constexpr uint32_t kVsid = 0x99;
constexpr uint32_t kOtherVsid = 0x77;  // of no vdevice

RawCommand NhAll() { return Encode({.opcode = Opcode::kTlbiNhAll}); }
RawCommand Sync() { return Encode({.opcode = Opcode::kSync}); }

class Invalidate : public Conformance {
 protected:
  using Conformance::Conformance;
  void SetUp() override {
    Conformance::SetUp();
    if (IsSkipped()) return;
    vm_ = std::make_unique<Vm>(Open());
    f_ = vm_->Plug(A0(), kVsid);
  }
  void TearDown() override { vm_.reset(); }

  Vm& vm() { return *vm_; }
  InvalidateResult Send(std::span<const RawCommand> commands) { return vm().Send(f_.viommu, commands); }
  InvalidateResult Send(const Command& command) { return vm().Send(f_.viommu, command); }
  InvalidateResult SendRaw(const InvalidateArray& array) { return vm()->InvalidateRaw(f_.viommu, array); }

  // `count` good commands with `bad` at this index.
  static std::vector<RawCommand> WithBadAt(uint32_t count, uint32_t bad) {
    std::vector<RawCommand> commands(count, NhAll());
    commands[bad] = Sync();
    return commands;
  }

  void ExpectRefused(int error, uint32_t handled, const InvalidateResult& result) {
    EXPECT_ERRNO(error, result.status);
    EXPECT_EQ(result.handled, handled);
  }

  Function f_;

 private:
  std::unique_ptr<Vm> vm_;
};
CONFORMANCE_RIGS(Invalidate);

// ---- The object and the array ---------------------------------------------------------------------------------------

TEST_P(Invalidate, One) {
  const InvalidateResult result = Send({.opcode = Opcode::kTlbiNhAll});
  EXPECT_OK(result);
  EXPECT_EQ(result.handled, 1u);
}

TEST_P(Invalidate, N1_OnAStage2) { ExpectRefused(EINVAL, 0, vm().Send(f_.stage2, NhAll())); }

TEST_P(Invalidate, N1_OnAPlainHwpt) {
  const ObjectId hwpt = Must(vm()->AllocHwpt({.device = f_.device, .pt = vm().ioas()}));
  ExpectRefused(EINVAL, 0, vm().Send(hwpt, NhAll()));
}

TEST_P(Invalidate, OnAVdevice) { ExpectRefused(EINVAL, 0, vm().Send(f_.vdevice, NhAll())); }

TEST_P(Invalidate, UnknownId) {
  ExpectRefused(ENOENT, 0, vm().Send(kNoSuchId, NhAll()));
  ExpectRefused(ENOENT, 0, vm().Send(0, NhAll()));
}

TEST_P(Invalidate, A14_ByNestedHwpt) {
  const ObjectId nested = vm().Nested(f_, kTranslateVste);
  const InvalidateResult result = vm().Send(nested, NhAll());
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
  const RawCommand command = NhAll();
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
  const uint64_t words[] = {NhAll().dw0, Encode({.opcode = Opcode::kTlbiNhAsid, .asid = 5}).dw0,
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
  const uint64_t words[] = {NhAll().dw0, 0, 0, NhAll().dw0, 0, 0};
  const InvalidateResult result = SendRaw({.entries = words, .entry_length = 24, .entry_count = 2});
  EXPECT_OK(result);
  EXPECT_EQ(result.handled, 2u);
}

TEST_P(Invalidate, N4_LongEntryWithATail) {
  const uint64_t words[] = {NhAll().dw0, 0, 1};
  ExpectRefused(E2BIG, 0, SendRaw({.entries = words, .entry_length = 24, .entry_count = 1}));
}

TEST_P(Invalidate, N4_LongEntryWithATailInItsLastByte) {
  uint8_t bytes[17] = {0x10};
  bytes[16] = 0x80;
  ExpectRefused(E2BIG, 0, SendRaw({.entries = bytes, .entry_length = 17, .entry_count = 1}));
}

TEST_P(Invalidate, N5_EntriesOfAPage) {
  std::vector<uint64_t> words(2 * 4096 / 8);
  words[0] = words[4096 / 8] = NhAll().dw0;
  const InvalidateResult result = SendRaw({.entries = words.data(), .entry_length = 4096, .entry_count = 2});
  EXPECT_OK(result);
  EXPECT_EQ(result.handled, 2u);
}

TEST_P(Invalidate, N5_EntriesAboveAPage) {
  std::vector<uint64_t> words(2 * 4096 / 8);
  ExpectRefused(EINVAL, 0, SendRaw({.entries = words.data(), .entry_length = 4097, .entry_count = 1}));
}

TEST_P(Invalidate, N6_TooMany) {
  const RawCommand command = NhAll();
  ExpectRefused(EINVAL, 0, SendRaw({.entries = &command, .entry_count = agent::kMaxInvalidateEntries + 1}));
  ExpectRefused(EINVAL, 0, SendRaw({.entries = &command, .entry_count = ~0u}));
}

TEST_P(Invalidate, N6_AsManyAsThereMayBe) {
  std::vector<RawCommand> commands(agent::kMaxInvalidateEntries, NhAll());
  commands[0] = Sync();
  ExpectRefused(EIO, 0, Send(commands));
}

TEST_P(Invalidate, N8_NullPointer) { ExpectRefused(EINVAL, 0, SendRaw({.entries = nullptr, .entry_count = 1})); }

TEST_P(Invalidate, N9_EntryLengthZero) {
  const RawCommand command = NhAll();
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
  const RawCommand command = NhAll();
  ExpectRefused(EINVAL, 0, vm()->InvalidateRaw(kNoSuchId, {.entries = &command, .entry_length = 0, .entry_count = 1}));
  ExpectRefused(EINVAL, 0,
                vm()->InvalidateRaw(kNoSuchId, {.entries = &command, .entry_count = agent::kMaxInvalidateEntries + 1}));
}

TEST_P(Invalidate, OrderIdBeforeDataType) {
  const RawCommand command = NhAll();
  ExpectRefused(ENOENT, 0, vm()->Invalidate(kNoSuchId, InvalidateDataType::kVtdS1, {&command, 1}));
}

TEST_P(Invalidate, OrderDataTypeBeforeCommands) {
  const RawCommand command = Sync();
  ExpectRefused(EINVAL, 0, vm()->Invalidate(f_.viommu, InvalidateDataType::kVtdS1, {&command, 1}));
}

TEST_P(Invalidate, OrderDataTypeBeforeTails) {
  const uint64_t words[] = {NhAll().dw0, 0, 1};
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
  EXPECT_OK(vm().Send(other, NhAll()));
  EXPECT_ERRNO(EIO, vm().Send(other, Command{.opcode = Opcode::kCfgiCdAll, .sid = kVsid}));
}

TEST_P(Invalidate, N12_SecondOpcodeBad) {
  const RawCommand commands[] = {NhAll(), Sync()};
  ExpectRefused(EIO, expect().HandledUpTo(1), Send(commands));
}

TEST_P(Invalidate, N13_SecondVsidBad) {
  const RawCommand commands[] = {NhAll(), Encode({.opcode = Opcode::kCfgiCdAll, .sid = kOtherVsid})};
  ExpectRefused(EIO, expect().HandledUpTo(1), Send(commands));
}

TEST_P(Invalidate, N14_TwoGood) {
  const RawCommand commands[] = {NhAll(), Encode({.opcode = Opcode::kCfgiCdAll, .sid = kVsid})};
  const InvalidateResult result = Send(commands);
  EXPECT_OK(result);
  EXPECT_EQ(result.handled, 2u);
}

TEST_P(Invalidate, GoodCommandsAfterABadOneAreNotCounted) {
  const RawCommand commands[] = {Sync(), NhAll(), NhAll()};
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
  const std::vector<RawCommand> commands(row().count, NhAll());
  const InvalidateResult result = vm.Send(function.viommu, commands);
  EXPECT_OK(result);
  EXPECT_EQ(result.handled, row().count);
}

TEST_P(InvalidateCount, TheLastIsBad) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), kVsid);
  std::vector<RawCommand> commands(row().count, NhAll());
  commands.back() = Sync();
  const InvalidateResult result = vm.Send(function.viommu, commands);
  EXPECT_ERRNO(EIO, result);
  EXPECT_EQ(result.handled, expect().HandledUpTo(row().count - 1));
}

// ---- Opcodes --------------------------------------------------------------------------------------------------------

struct OpcodeRow {
  const char* name;
  uint8_t opcode;
  bool accepted;
};
const OpcodeRow kOpcodes[] = {
    {"PREFETCH_CONFIG", 0x01, false},
    {"PREFETCH_ADDR", 0x02, false},
    {"CFGI_STE", 0x03, false},
    {"CFGI_STE_RANGE", 0x04, false},
    {"CFGI_CD", 0x05, true},
    {"CFGI_CD_ALL", 0x06, true},
    {"TLBI_NH_ALL", 0x10, true},
    {"TLBI_NH_ASID", 0x11, true},
    {"TLBI_NH_VA", 0x12, true},
    {"TLBI_NH_VAA", 0x13, true},
    {"TLBI_EL3_ALL", 0x18, false},
    {"TLBI_EL3_VA", 0x1a, false},
    {"TLBI_EL2_ALL", 0x20, false},
    {"TLBI_EL2_ASID", 0x21, false},
    {"TLBI_EL2_VA", 0x22, false},
    {"TLBI_EL2_VAA", 0x23, false},
    {"TLBI_S12_VMALL", 0x28, false},
    {"TLBI_S2_IPA", 0x2a, false},
    {"TLBI_NSNH_ALL", 0x30, true},
    {"ATC_INV", 0x40, true},
    {"PRI_RESP", 0x41, false},
    {"RESUME", 0x44, false},
    {"STALL_TERM", 0x45, false},
    {"SYNC", 0x46, false},
    {"Zero", 0x00, false},
    {"Vendor80", 0x80, false},
    {"VendorFf", 0xff, false},
};

class InvalidateOpcode : public ConformanceRows<OpcodeRow> {};
CONFORMANCE_ROWS(InvalidateOpcode, kOpcodes);

TEST_P(InvalidateOpcode, Alone) {
  Vm vm(Open());
  if (row().opcode == 0x40 && !SmmuOf(A0()).ats) GTEST_SKIP() << "SMMU A has no ATS";
  const Function function = vm.Plug(A0(), kVsid);
  RawCommand command = {row().opcode, 0};
  if (row().opcode < 0x10 || row().opcode == 0x40) command.dw0 |= uint64_t{kVsid} << 32;
  const InvalidateResult result = vm.Send(function.viommu, command);
  EXPECT_ERRNO(row().accepted ? 0 : EIO, result);
  EXPECT_EQ(result.handled, row().accepted ? 1u : 0u);
}

TEST_P(InvalidateOpcode, IsCounted) {
  Vm vm(Open());
  if (row().opcode == 0x40 && !SmmuOf(A0()).ats) GTEST_SKIP() << "SMMU A has no ATS";
  const Function function = vm.Plug(A0(), kVsid);
  RawCommand command = {row().opcode, 0};
  if (row().opcode < 0x10 || row().opcode == 0x40) command.dw0 |= uint64_t{kVsid} << 32;
  const std::string smmu = Info(A0()).smmu;
  const auto count = [&] {
    for (const agent::InvalidationCount& entry : StatsOf(smmu).invalidations) {
      if (entry.opcode == row().opcode) return entry;
    }
    return agent::InvalidationCount{};
  };
  const agent::InvalidationCount before = count();
  vm.Send(function.viommu, command);
  EXPECT_EQ(count().done - before.done, row().accepted ? 1u : 0u);
  EXPECT_EQ(count().refused - before.refused, row().accepted ? 0u : 1u);
  EXPECT_EQ(count().failed - before.failed, 0u);
}

class InvalidateOpcodes : public Conformance {};
CONFORMANCE_RIGS(InvalidateOpcodes);

TEST_P(InvalidateOpcodes, EightOf256) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), kVsid);
  int accepted = 0;
  for (uint32_t opcode = 0; opcode < 256; ++opcode) {
    RawCommand command = {opcode, 0};
    if (opcode == 0x05 || opcode == 0x06 || opcode == 0x40) command.dw0 |= uint64_t{kVsid} << 32;
    const InvalidateResult result = vm.Send(function.viommu, command);
    if (result.status.ok()) {
      ++accepted;
    } else {
      EXPECT_ERRNO(EIO, result) << opcode;
    }
  }
  EXPECT_EQ(accepted, SmmuOf(A0()).ats || expect().bad_command_bits == 0 ? 8 : 7);
}

// ---- Fields ---------------------------------------------------------------------------------------------------------

enum class Need : uint8_t { kNothing, kRil, kSsid, kAts, kAtsAndSsid };

struct FieldRow {
  const char* name;
  RawCommand command;
  bool good;
  Need need = Need::kNothing;
};

RawCommand With(RawCommand command, uint64_t dw0, uint64_t dw1) { return {command.dw0 | dw0, command.dw1 | dw1}; }
Command Va(uint8_t num, uint8_t scale, uint8_t ttl, uint8_t tg) {
  return {.opcode = Opcode::kTlbiNhVa, .asid = 1, .address = 0x10000, .num = num, .scale = scale, .ttl = ttl, .tg = tg};
}

const FieldRow kFields[] = {
    {"NhAllWithVmid", Encode({.opcode = Opcode::kTlbiNhAll, .vmid = 0xffff}), true},
    {"NhAllWithAsid", With(NhAll(), uint64_t{1} << 48, 0), false},
    {"NhAllWithAddress", With(NhAll(), 0, 0x1000), false},
    {"NhAllWithBit8", With(NhAll(), 0x100, 0), false},
    {"NsnhAllWithBit8", With(Encode({.opcode = Opcode::kTlbiNsnhAll}), 0x100, 0), false},
    {"NsnhAllWithVmid", With(Encode({.opcode = Opcode::kTlbiNsnhAll}), uint64_t{1} << 32, 0), false},
    {"NhAsid", Encode({.opcode = Opcode::kTlbiNhAsid, .vmid = 7, .asid = 7}), true},
    {"NhAsidWithAddress", With(Encode({.opcode = Opcode::kTlbiNhAsid}), 0, 0x1000), false},
    {"NhVa", Encode({.opcode = Opcode::kTlbiNhVa, .vmid = 7, .asid = 7, .address = 0x1000}), true},
    {"NhVaLeaf", Encode({.opcode = Opcode::kTlbiNhVa, .asid = 7, .address = 0x1000, .leaf = true}), true},
    {"NhVaWithBit1OfAddress", With(Encode({.opcode = Opcode::kTlbiNhVa}), 0, 2), false},
    {"NhVaWithBit8", With(Encode({.opcode = Opcode::kTlbiNhVa}), 0x100, 0), false},
    {"NhVaa", Encode({.opcode = Opcode::kTlbiNhVaa, .vmid = 7, .address = 0x1000}), true},
    {"NhVaaWithAsid", With(Encode({.opcode = Opcode::kTlbiNhVaa}), uint64_t{1} << 48, 0), false},
    {"RangeOf4k", Encode(Va(3, 0, 0, 1)), true, Need::kRil},
    {"RangeScaled", Encode(Va(31, 3, 3, 1)), true, Need::kRil},
    {"LevelAlone", Encode(Va(0, 0, 3, 1)), true, Need::kRil},
    {"Range16k", Encode(Va(1, 0, 2, 2)), true, Need::kRil},
    {"Range64k", Encode(Va(1, 1, 1, 3)), true, Need::kRil},
    {"NumWithoutGranule", Encode(Va(1, 0, 0, 0)), false, Need::kRil},
    {"ScaleWithoutGranule", Encode(Va(0, 1, 0, 0)), false, Need::kRil},
    {"LevelWithoutGranule", Encode(Va(0, 0, 1, 0)), false, Need::kRil},
    {"GranuleAlone", Encode(Va(0, 0, 0, 1)), false, Need::kRil},
    {"Granule16kLevel1", Encode(Va(1, 0, 1, 2)), false, Need::kRil},
    {"CfgiCd", Encode({.opcode = Opcode::kCfgiCd, .sid = kVsid}), true},
    {"CfgiCdLeaf", Encode({.opcode = Opcode::kCfgiCd, .sid = kVsid, .leaf = true}), true},
    {"CfgiCdSsid", Encode({.opcode = Opcode::kCfgiCd, .sid = kVsid, .ssid = 3}), true, Need::kSsid},
    {"CfgiCdWithBit8", With(Encode({.opcode = Opcode::kCfgiCd, .sid = kVsid}), 0x100, 0), false},
    {"CfgiCdWithBit1OfWord1", With(Encode({.opcode = Opcode::kCfgiCd, .sid = kVsid}), 0, 2), false},
    {"CfgiCdAll", Encode({.opcode = Opcode::kCfgiCdAll, .sid = kVsid}), true},
    {"CfgiCdAllWithSsid", With(Encode({.opcode = Opcode::kCfgiCdAll, .sid = kVsid}), 0x1000, 0), false},
    {"CfgiCdAllWithWord1", With(Encode({.opcode = Opcode::kCfgiCdAll, .sid = kVsid}), 0, 1), false},
    {"AtcInvPage", Encode({.opcode = Opcode::kAtcInv, .sid = kVsid, .address = 0x1000}), true, Need::kAts},
    {"AtcInvAll", Encode({.opcode = Opcode::kAtcInv, .sid = kVsid, .size = 52}), true, Need::kAts},
    {"AtcInvSize53", Encode({.opcode = Opcode::kAtcInv, .sid = kVsid, .size = 53}), false, Need::kAts},
    {"AtcInvSize63", Encode({.opcode = Opcode::kAtcInv, .sid = kVsid, .size = 63}), false, Need::kAts},
    {"AtcInvSsid", Encode({.opcode = Opcode::kAtcInv, .sid = kVsid, .ssid = 3, .ssv = true, .size = 52}), true,
     Need::kAtsAndSsid},
    {"AtcInvGlobal", Encode({.opcode = Opcode::kAtcInv, .sid = kVsid, .ssv = true, .global = true, .size = 52}), true,
     Need::kAtsAndSsid},
    {"AtcInvWithBit8", With(Encode({.opcode = Opcode::kAtcInv, .sid = kVsid, .size = 52}), 0x100, 0), false,
     Need::kAts},
};

class InvalidateField : public ConformanceRows<FieldRow> {
 protected:
  // What the rig lacks for this row; null: nothing.
  const char* Missing() {
    const agent::SmmuInfo smmu = SmmuOf(A0());
    const smmuv3::Features features = smmuv3::DecodeIdRegisters(smmu.idr);
    switch (row().need) {
      case Need::kNothing:
        return nullptr;
      case Need::kRil:
        return features.ril ? nullptr : "SMMU A has no range invalidation";
      case Need::kSsid:
        return features.ssid_bits > 2 ? nullptr : "SMMU A has no SubstreamIDs";
      case Need::kAts:
        return features.ats ? nullptr : "SMMU A has no ATS";
      case Need::kAtsAndSsid:
        return features.ats && features.ssid_bits > 2 ? nullptr : "SMMU A has no ATS with SubstreamIDs";
    }
    return nullptr;
  }
};
CONFORMANCE_ROWS(InvalidateField, kFields);

TEST_P(InvalidateField, Alone) {
  if (const char* missing = Missing()) GTEST_SKIP() << missing;
  Vm vm(Open());
  const Function function = vm.Plug(A0(), kVsid);
  const int want = row().good ? 0 : expect().bad_command_bits;
  const InvalidateResult result = vm.Send(function.viommu, row().command);
  EXPECT_ERRNO(want, result);
  EXPECT_EQ(result.handled, want == 0 ? 1u : 0u);
}

// Where the kernel does not look, the SMMU stops at such a command and the host skips it: what comes after it works.
TEST_P(InvalidateField, TheSmmuGoesOn) {
  if (const char* missing = Missing()) GTEST_SKIP() << missing;
  Vm vm(Open());
  const Function function = vm.Plug(A0(), kVsid);
  const RawCommand commands[] = {NhAll(), row().command, NhAll()};
  const int want = row().good ? 0 : expect().bad_command_bits;
  const InvalidateResult result = vm.Send(function.viommu, commands);
  EXPECT_ERRNO(want, result);
  EXPECT_EQ(result.handled, want == 0 ? 3u : expect().HandledUpTo(1));
  EXPECT_OK(vm.Send(function.viommu, NhAll()));
}

// ---- Groups under one sync ------------------------------------------------------------------------------------------

class Batch : public Invalidate {
 protected:
  struct Executed {
    uint64_t nh_all, nsnh_all, syncs;
  };
  Executed Count() {
    const std::string smmu = Info(A0()).smmu;
    return {hooks().Executed(smmu, 0x10), hooks().Executed(smmu, 0x30), hooks().Executed(smmu, 0x46)};
  }
  // Sends, and tells what the SMMU has carried out for it.
  Executed Cost(std::span<const RawCommand> commands) {
    const Executed before = Count();
    last_ = Send(commands);
    const Executed after = Count();
    return {after.nh_all - before.nh_all, after.nsnh_all - before.nsnh_all, after.syncs - before.syncs};
  }

  InvalidateResult last_;
};
CONFORMANCE_RIGS(Batch);

TEST_P(Batch, A6_GroupsOf63) {
  for (const auto& [count, groups] :
       {std::pair<uint32_t, uint64_t>{1, 1}, {62, 1}, {63, 1}, {64, 2}, {126, 2}, {127, 3}, {189, 3}, {190, 4}}) {
    const Executed cost = Cost(std::vector<RawCommand>(count, NhAll()));
    EXPECT_OK(last_);
    EXPECT_EQ(cost.nh_all, count);
    EXPECT_EQ(cost.syncs, groups) << count << " commands";
  }
}

TEST_P(Batch, A7_BadAt70IssuesTheFirstGroupAlone) {
  const Executed cost = Cost(WithBadAt(100, 70));
  ExpectRefused(EIO, expect().HandledUpTo(70), last_);
  EXPECT_EQ(cost.nh_all, 63u);
  EXPECT_EQ(cost.syncs, 1u);
}

TEST_P(Batch, BadAtZeroIssuesNothing) {
  const Executed cost = Cost(WithBadAt(100, 0));
  ExpectRefused(EIO, 0, last_);
  EXPECT_EQ(cost.nh_all, 0u);
  EXPECT_EQ(cost.syncs, 0u);
}

TEST_P(Batch, BadAt62IssuesNothing) {
  const Executed cost = Cost(WithBadAt(100, 62));
  ExpectRefused(EIO, expect().HandledUpTo(62), last_);
  EXPECT_EQ(cost.nh_all, 0u);
}

TEST_P(Batch, BadAt63IssuesTheFirstGroup) {
  const Executed cost = Cost(WithBadAt(100, 63));
  ExpectRefused(EIO, 63, last_);
  EXPECT_EQ(cost.nh_all, 63u);
}

TEST_P(Batch, A3_NsnhAllIsIssuedAsNhAll) {
  const RawCommand command = Encode({.opcode = Opcode::kTlbiNsnhAll});
  const Executed cost = Cost({&command, 1});
  EXPECT_OK(last_);
  EXPECT_EQ(cost.nsnh_all, 0u);
  EXPECT_EQ(cost.nh_all, 1u);
}

TEST_P(Batch, EveryCallEndsWithASync) {
  const RawCommand command = NhAll();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Cost({&command, 1}).syncs, 1u);
}

class BatchStats : public Invalidate {
 protected:
  agent::InvalidationCount Of(Opcode opcode) {
    for (const agent::InvalidationCount& entry : StatsOf(Info(A0()).smmu).invalidations) {
      if (entry.opcode == static_cast<uint8_t>(opcode)) return entry;
    }
    return {};
  }
};
CONFORMANCE_RIGS(BatchStats);

TEST_P(BatchStats, EachEntryIsCountedOnce) {
  const agent::InvalidationCount good = Of(Opcode::kTlbiNhAll);
  const agent::InvalidationCount bad = Of(Opcode::kSync);
  ASSERT_ERRNO(EIO, Send(WithBadAt(100, 70)));
  // 63 were done, 7 were fine and stood in a group that was not issued, one was refused, 29 came after it.
  EXPECT_EQ(Of(Opcode::kTlbiNhAll).done - good.done, 63u);
  EXPECT_EQ(Of(Opcode::kTlbiNhAll).failed - good.failed, 7u);
  EXPECT_EQ(Of(Opcode::kTlbiNhAll).refused - good.refused, 0u);
  EXPECT_EQ(Of(Opcode::kSync).refused - bad.refused, 1u);
}

TEST_P(BatchStats, NsnhAllIsCountedAsWhatTheGuestSent) {
  const uint64_t before = Of(Opcode::kTlbiNsnhAll).done;
  ASSERT_OK(Send({.opcode = Opcode::kTlbiNsnhAll}));
  EXPECT_EQ(Of(Opcode::kTlbiNsnhAll).done - before, 1u);
}

TEST_P(BatchStats, ARefusedCallIsNotCounted) {
  const RawCommand command = NhAll();
  const agent::InvalidationCount before = Of(Opcode::kTlbiNhAll);
  ASSERT_ERRNO(ENOENT, vm().Send(kNoSuchId, command));
  ASSERT_ERRNO(EINVAL, vm()->Invalidate(f_.viommu, InvalidateDataType::kVtdS1, {&command, 1}));
  const agent::InvalidationCount after = Of(Opcode::kTlbiNhAll);
  EXPECT_EQ(after.done, before.done);
  EXPECT_EQ(after.refused, before.refused);
  EXPECT_EQ(after.failed, before.failed);
}

TEST_P(BatchStats, LatenciesAreTakenOfEverySync) {
  const auto total = [&] {
    uint64_t sum = 0;
    for (const uint64_t count : StatsOf(Info(A0()).smmu).sync_latency.counts) sum += count;
    return sum;
  };
  const uint64_t before = total();
  ASSERT_OK(Send({.opcode = Opcode::kTlbiNhAll}));
  EXPECT_GT(total(), before);
  const agent::LatencyHistogram latency = StatsOf(Info(A0()).smmu).sync_latency;
  EXPECT_EQ(latency.counts.size(), latency.upper_bounds.size() + 1);
  EXPECT_TRUE(std::is_sorted(latency.upper_bounds.begin(), latency.upper_bounds.end()));
}

// ---- Timeouts -------------------------------------------------------------------------------------------------------

class Timeout : public Invalidate {
 protected:
  Timeout() : Invalidate(RigRequest{.short_sync_timeout = true}) {}
  std::string Smmu() { return Info(A0()).smmu; }
};
CONFORMANCE_RIGS(Timeout);

TEST_P(Timeout, OfTheOnlyGroup) {
  hooks().Pause(Smmu());
  ExpectRefused(ETIMEDOUT, expect().HandledAtTimeout(0, 5), Send(std::vector<RawCommand>(5, NhAll())));
  hooks().Resume(Smmu());
}

TEST_P(Timeout, OfAFullGroup) {
  hooks().Pause(Smmu());
  ExpectRefused(ETIMEDOUT, expect().HandledAtTimeout(0, 63), Send(std::vector<RawCommand>(100, NhAll())));
  hooks().Resume(Smmu());
}

TEST_P(Timeout, IsCounted) {
  const uint64_t before = StatsOf(Smmu()).sync_timeouts;
  hooks().Pause(Smmu());
  EXPECT_ERRNO(ETIMEDOUT, Send({.opcode = Opcode::kTlbiNhAll}));
  hooks().Resume(Smmu());
  EXPECT_EQ(StatsOf(Smmu()).sync_timeouts, before + 1);
}

TEST_P(Timeout, RepeatingWorksOnceTheSmmuGoesOn) {
  hooks().Pause(Smmu());
  EXPECT_ERRNO(ETIMEDOUT, Send(std::vector<RawCommand>(70, NhAll())));
  hooks().Resume(Smmu());
  // The SMMU may take its time over what is still in its queue.
  InvalidateResult result;
  for (int i = 0; i < 1000 && StatusErrnoOf(result = Send(std::vector<RawCommand>(70, NhAll()))) == ETIMEDOUT; ++i) {
  }
  EXPECT_OK(result);
  EXPECT_EQ(result.handled, 70u);
}

TEST_P(Timeout, BadCommandsAreFoundWithoutTheSmmu) {
  hooks().Pause(Smmu());
  ExpectRefused(EIO, expect().HandledUpTo(5), Send(WithBadAt(10, 5)));
  hooks().Resume(Smmu());
}

TEST_P(Timeout, OtherSmmusGoOn) {
  NEED_DEVICE(b0, Role::kB0);
  Vm other(Open());
  const Function function = other.Plug(b0, kVsid);
  hooks().Pause(Smmu());
  EXPECT_OK(other.Send(function.viommu, NhAll()));
  hooks().Resume(Smmu());
}

// The host leaves the sync in the queue and the SMMU tries again: the call may time out, and nothing stays stuck.
TEST_P(Timeout, SilentDevice) {
  NEED_DEVICE(pci, Role::kAts);
  Vm other(Open());
  const Function function = pci == A0() ? f_ : other.Plug(pci, kVsid);
  Vm& owner = pci == A0() ? vm() : other;
  RawVste ats = kTranslateVste;
  ats.dw1 = smmuv3::ste::kEats.Set(ats.dw1, smmuv3::kEatsTranslate);
  ASSERT_OK(owner->Attach(function.device, owner.Nested(function, ats)));
  hooks().SetResponding(pci, false);
  const int error = StatusErrnoOf(
      owner.Send(function.viommu, Command{.opcode = Opcode::kAtcInv, .sid = kVsid, .size = smmuv3::kAtcSizeAll}));
  EXPECT_TRUE(error == 0 || error == ETIMEDOUT) << error;
  hooks().SetResponding(pci, true);
  InvalidateResult result;
  for (int i = 0; i < 1000 && StatusErrnoOf(result = owner.Send(function.viommu, NhAll())) == ETIMEDOUT; ++i) {
  }
  EXPECT_OK(result);
}

}  // namespace
}  // namespace viommu::conformance
