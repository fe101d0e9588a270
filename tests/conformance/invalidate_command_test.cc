// HWPT_INVALIDATE: which commands a guest may send, and what they may say.

#include "agent/smmuv3/spec/id_registers.h"
#include "tests/conformance/invalidate_fixture.h"

namespace viommu::conformance {
namespace {

using smmuv3::Command;
using smmuv3::Encode;
using smmuv3::Opcode;

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
    {"NhAllWithAsid", With(GoodCommand(), uint64_t{1} << 48, 0), false},
    {"NhAllWithAddress", With(GoodCommand(), 0, 0x1000), false},
    {"NhAllWithBit8", With(GoodCommand(), 0x100, 0), false},
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
  const RawCommand commands[] = {GoodCommand(), row().command, GoodCommand()};
  const int want = row().good ? 0 : expect().bad_command_bits;
  const InvalidateResult result = vm.Send(function.viommu, commands);
  EXPECT_ERRNO(want, result);
  EXPECT_EQ(result.handled, want == 0 ? 3u : expect().HandledUpTo(1));
  EXPECT_OK(vm.Send(function.viommu, GoodCommand()));
}

}  // namespace
}  // namespace viommu::conformance
