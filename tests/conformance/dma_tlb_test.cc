// What invalidations remove from the TLB, and what they leave.

#include <vector>

#include "agent/smmuv3/spec/id_registers.h"
#include "tests/conformance/guest.h"

namespace viommu::conformance {
namespace {

using smmuv3::Command;
using smmuv3::Opcode;

constexpr uint16_t kOtherAsid = kAsid + 1;

// ---- Which commands reach a page ------------------------------------------------------------------------------------

enum class Need : uint8_t { kNothing, kRil, kAts };

struct TlbRow {
  const char* name;
  Command command;  // sid is filled in where it is 0 and the opcode wants one
  bool removes;     // the page at kVa, of ASID kAsid, from 4 KiB tables
  Need need = Need::kNothing;
  bool global = false;  // of the page
};

Command Range(uint64_t va, uint8_t num, uint8_t scale, uint8_t ttl, uint8_t tg) {
  return {.opcode = Opcode::kTlbiNhVa, .asid = kAsid, .address = va, .num = num, .scale = scale, .ttl = ttl, .tg = tg};
}
Command WithVmid(Command command, uint16_t vmid) {
  command.vmid = vmid;
  return command;
}
Command Leaf(Command command) {
  command.leaf = true;
  return command;
}

const TlbRow kTlbRows[] = {
    {"NhAll", NhAll(), true},
    {"NsnhAll", NsnhAll(), true},
    {"NhAsid", NhAsid(kAsid), true},
    {"NhAsidOther", NhAsid(kOtherAsid), false},
    {"NhVa", NhVa(kAsid, kVa), true},
    {"NhVaLeaf", Leaf(NhVa(kAsid, kVa)), true},
    {"NhVaOtherAsid", NhVa(kOtherAsid, kVa), false},
    {"NhVaPageAfter", NhVa(kAsid, kVa + 0x1000), false},
    {"NhVaPageBefore", NhVa(kAsid, kVa - 0x1000), false},
    {"NhVaFarAway", NhVa(kAsid, kVa ^ (uint64_t{1} << 40)), false},
    {"NhVaa", NhVaa(kVa), true},
    {"NhVaaLeaf", Leaf(NhVaa(kVa)), true},
    {"NhVaaPageAfter", NhVaa(kVa + 0x1000), false},
    {"A4_NhAllForeignVmid", WithVmid(NhAll(), 0x7ffe), true},
    {"A4_NhAsidForeignVmid", WithVmid(NhAsid(kAsid), 0x7ffe), true},
    {"A4_NhVaForeignVmid", WithVmid(NhVa(kAsid, kVa), 0x7ffe), true},
    {"A4_NhVaaForeignVmid", WithVmid(NhVaa(kVa), 0x7ffe), true},
    {"CfgiCd", CfgiCd(0), false},
    {"CfgiCdAll", CfgiCdAll(0), false},
    {"AtcInvAll", AtcInvAll(0), false, Need::kAts},
    {"RangeOfThePage", Range(kVa, 0, 0, 3, 1), true, Need::kRil},
    {"RangeThatBeginsThere", Range(kVa, 3, 0, 0, 1), true, Need::kRil},
    {"RangeThatEndsThere", Range(kVa - 0x3000, 3, 0, 0, 1), true, Need::kRil},
    {"RangeThatEndsBefore", Range(kVa - 0x4000, 3, 0, 0, 1), false, Need::kRil},
    {"RangeThatBeginsBehind", Range(kVa + 0x1000, 3, 0, 0, 1), false, Need::kRil},
    {"RangeScaledOver", Range(kVa - 0x7000, 0, 3, 0, 1), true, Need::kRil},
    {"RangeScaledEndsBefore", Range(kVa - 0x8000, 0, 3, 0, 1), false, Need::kRil},
    {"RangeScaledAndCounted", Range(kVa - 0xf000, 1, 3, 0, 1), true, Need::kRil},
    {"RangeOfItsLevel", Range(kVa - 0x1000, 1, 0, 3, 1), true, Need::kRil},
    {"RangeOfAnotherLevel", Range(kVa - 0x1000, 1, 0, 2, 1), false, Need::kRil},
    {"RangeOfAnotherGranule", Range(kVa & ~uint64_t{0xffff}, 0, 0, 3, 3), false, Need::kRil},
    {"GlobalByNhAsid", NhAsid(kAsid), false, Need::kNothing, true},
    {"GlobalByNhVa", NhVa(kAsid, kVa), true, Need::kNothing, true},
    {"GlobalByNhVaOtherAsid", NhVa(kOtherAsid, kVa), true, Need::kNothing, true},
    {"GlobalByNhVaa", NhVaa(kVa), true, Need::kNothing, true},
    {"GlobalByNhAll", NhAll(), true, Need::kNothing, true},
};

class DmaTlb : public DmaRows<TlbRow> {
 protected:
  void SetUp() override {
    DmaRows::SetUp();
    if (IsSkipped()) return;
    const smmuv3::Features features = smmuv3::DecodeIdRegisters(SmmuOf(A0()).idr);
    if (row().need == Need::kRil && !features.ril) GTEST_SKIP() << "SMMU A has no range invalidation";
    if (row().need == Need::kAts && !features.ats) GTEST_SKIP() << "SMMU A has no ATS";
  }

  Command command() {
    Command command = row().command;
    if (command.opcode == Opcode::kCfgiCd || command.opcode == Opcode::kCfgiCdAll ||
        command.opcode == Opcode::kAtcInv) {
      command.sid = guest().vsid();
    }
    return command;
  }

  void Fill() {
    guest().tables().Map(kVa, memory().Filled(kOld), {.global = row().global});
    guest().Start();
    ASSERT_EQ(Read(kVa), kOld);
  }
};
CONFORMANCE_ROWS(DmaTlb, kTlbRows);

TEST_P(DmaTlb, PageMovedElsewhere) {
  Fill();
  guest().tables().Map(kVa, memory().Filled(kNew), {.global = row().global});
  ExpectStale(kVa, kOld, kNew);
  guest().Send(command());
  if (row().removes) {
    EXPECT_EQ(Read(kVa), kNew);
  } else {
    ExpectStale(kVa, kOld, kNew);
    guest().Send(NhAll());
    EXPECT_EQ(Read(kVa), kNew);
  }
}

TEST_P(DmaTlb, PageUnmapped) {
  Fill();
  guest().tables().Unmap(kVa);
  guest().Send(command());
  if (row().removes) {
    EXPECT_EQ(Read(kVa), kRefused);
  } else {
    ExpectStale(kVa, kOld, kRefused);
  }
}

// ---- More about the TLB ---------------------------------------------------------------------------------------------

class DmaTlbMore : public DmaSuite {
 protected:
  // A second VM with device `pci`, the same ASID and address.
  struct OtherVm {
    OtherVm(std::unique_ptr<Context> context, const std::string& pci, uint8_t ips)
        : vm(std::move(context)), memory(vm.memory()), guest(vm, memory, pci, 0x10, ips) {}
    Vm vm;
    GuestMemory memory;
    Guest guest;
  };

  void Fill() {
    guest().tables().Map(kVa, memory().Filled(kOld));
    guest().Start();
    ASSERT_EQ(Read(kVa), kOld);
  }
};
CONFORMANCE_RIGS(DmaTlbMore);

TEST_P(DmaTlbMore, MakingAPageNeedsNoInvalidation) {
  Fill();
  ASSERT_EQ(Read(kVa + 0x1000), kRefused);
  guest().tables().Map(kVa + 0x1000, memory().Filled(kNew));
  EXPECT_EQ(Read(kVa + 0x1000), kNew);
}

TEST_P(DmaTlbMore, LessPermissionNeedsAnInvalidation) {
  const uint64_t page = memory().Filled(kOld);
  guest().tables().Map(kVa, page);
  guest().Start();
  ASSERT_TRUE(Write(kVa, kOld));
  guest().tables().Map(kVa, page, {.writable = false});
  EXPECT_TRUE(Write(kVa, kOld) || !rig().keeps_stale_entries());
  guest().Send(NhVa(kAsid, kVa));
  EXPECT_FALSE(Write(kVa, kNew));
  EXPECT_EQ(memory().Read(page), kOld);
}

TEST_P(DmaTlbMore, NeighboursStay) {
  Fill();
  guest().tables().Map(kVa + 0x1000, memory().Filled(kOld));
  ASSERT_EQ(Read(kVa + 0x1000), kOld);
  guest().tables().Map(kVa, memory().Filled(kNew));
  guest().tables().Map(kVa + 0x1000, memory().Filled(kNew));
  guest().Send(NhVa(kAsid, kVa));
  EXPECT_EQ(Read(kVa), kNew);
  ExpectStale(kVa + 0x1000, kOld, kNew);
}

TEST_P(DmaTlbMore, ATableThatIsReplacedNeedsMoreThanLeaves) {
  Fill();
  // Another level-3 table in place of the one that the walk went through.
  const uint64_t table = memory().Alloc(4096);
  memory().Write(table + ((kVa >> 12) & 511) * 8, smmuv3::EncodeStage1Leaf({.ap = 1, .sh = 3, .af = true, .ng = true},
                                                                           memory().Filled(kNew), Granule::k4k, 3));
  memory().Write(guest().tables().Slot(kVa, 2), smmuv3::EncodeTable(table, Granule::k4k));
  guest().Send(NhVa(kAsid, kVa));
  EXPECT_EQ(Read(kVa), kNew);
}

TEST_P(DmaTlbMore, BlockSplitIntoPages) {
  const uint64_t block = memory().Filled(kOld, 2 << 20, 2 << 20);
  const uint64_t va = kVa & ~uint64_t{0x1f'ffff};
  guest().tables().Map(va, block, {}, 2);
  guest().Start();
  ASSERT_EQ(Read(va + 0x5000), kOld);
  guest().tables().Unmap(va, 2);
  guest().Send(NhVa(kAsid, va));
  ASSERT_EQ(Read(va + 0x5000), kRefused);
  guest().tables().Map(va + 0x5000, memory().Filled(kNew));
  EXPECT_EQ(Read(va + 0x5000), kNew);
  EXPECT_EQ(Read(va + 0x6000), kRefused);
}

TEST_P(DmaTlbMore, AnyAddressOfABlockReachesIt) {
  const uint64_t block = memory().Filled(kOld, 2 << 20, 2 << 20);
  const uint64_t va = kVa & ~uint64_t{0x1f'ffff};
  guest().tables().Map(va, block, {}, 2);
  guest().Start();
  ASSERT_EQ(Read(va + 0x5000), kOld);
  guest().tables().Unmap(va, 2);
  guest().Send(NhVa(kAsid, va - 0x1000));
  ExpectStale(va + 0x5000, kOld, kRefused);
  guest().Send(NhVa(kAsid, va + 0x20'0000));
  ExpectStale(va + 0x5000, kOld, kRefused);
  guest().Send(NhVa(kAsid, va + 0x1f'f000));
  EXPECT_EQ(Read(va + 0x5000), kRefused);
}

TEST_P(DmaTlbMore, AVmReachesItselfAlone) {
  NEED_DEVICE(a1, Role::kA1);
  NEED_DMA(a1);
  NEED_SECOND_VM();
  Fill();
  OtherVm other(Open(), a1, Ips());
  other.guest.tables().Map(kVa, other.memory.Filled(kOld));
  other.guest.Start();
  ASSERT_EQ(Read({.device = a1, .address = kVa}), kOld);
  guest().tables().Map(kVa, memory().Filled(kNew));
  for (const Command& command : {NsnhAll(), NhAll(), NhAsid(kAsid), NhVa(kAsid, kVa), NhVaa(kVa)}) {
    other.guest.Send(command);
    ExpectStale(kVa, kOld, kNew);
  }
  guest().Send(NsnhAll());
  EXPECT_EQ(Read(kVa), kNew);
}

TEST_P(DmaTlbMore, A4_NamingAnotherVmidDoesNotReachItsVm) {
  NEED_DEVICE(a1, Role::kA1);
  NEED_DMA(a1);
  Fill();
  OtherVm other(Open(), a1, Ips());
  guest().tables().Map(kVa, memory().Filled(kNew));
  for (uint32_t vmid = 0; vmid < 16; ++vmid) other.guest.Send(WithVmid(NhAll(), static_cast<uint16_t>(vmid)));
  ExpectStale(kVa, kOld, kNew);
}

TEST_P(DmaTlbMore, AnotherViommuOfTheSameStage2) {
  Fill();
  const ObjectId other = vm().Viommu(guest().function().device, guest().function().stage2);
  guest().tables().Map(kVa, memory().Filled(kNew));
  ASSERT_OK(vm().Send(other, NhVa(kAsid, kVa)));
  if (expect().vmid_owner == agent::VmidOwner::kStage2) {
    EXPECT_EQ(Read(kVa), kNew);  // they share a VMID
  } else {
    ExpectStale(kVa, kOld, kNew);
  }
}

TEST_P(DmaTlbMore, InvalidationByNestedHwpt) {
  if (expect().invalidate_by_nested != 0) GTEST_SKIP() << "the personality takes no invalidations by nested HWPT";
  Fill();
  const ObjectId nested = vm().Nested(guest().function(), guest().cds().Vste());
  guest().tables().Map(kVa, memory().Filled(kNew));
  ASSERT_OK(vm().Send(nested, NhVa(kAsid, kVa)));
  EXPECT_EQ(Read(kVa), kNew);
}

TEST_P(DmaTlbMore, ARefusedCommandInvalidatesNothing) {
  Fill();
  guest().tables().Map(kVa, memory().Filled(kNew));
  EXPECT_ERRNO(EIO, vm().Send(guest().function().viommu, Command{.opcode = Opcode::kTlbiS12Vmall}));
  ExpectStale(kVa, kOld, kNew);
  const RawCommand commands[] = {Encode(NhAll()), Encode(Command{.opcode = Opcode::kSync})};
  EXPECT_ERRNO(EIO, vm().Send(guest().function().viommu, commands));
  ExpectStale(kVa, kOld, kNew);
}

TEST_P(DmaTlbMore, A7_TheFirstGroupTakesEffect) {
  Fill();
  guest().tables().Map(kVa + 0x1000, memory().Filled(kOld));
  ASSERT_EQ(Read(kVa + 0x1000), kOld);
  guest().tables().Map(kVa, memory().Filled(kNew));
  guest().tables().Map(kVa + 0x1000, memory().Filled(kNew));
  std::vector<RawCommand> commands(100, Encode(NhAsid(kOtherAsid)));
  commands[10] = Encode(NhVa(kAsid, kVa));
  commands[65] = Encode(NhVa(kAsid, kVa + 0x1000));
  commands[70] = Encode(Command{.opcode = Opcode::kSync});
  const InvalidateResult result = vm().Send(guest().function().viommu, commands);
  EXPECT_ERRNO(EIO, result);
  EXPECT_EQ(result.handled, expect().HandledUpTo(70));
  EXPECT_EQ(Read(kVa), kNew);
  ExpectStale(kVa + 0x1000, kOld, kNew);
}

TEST_P(DmaTlbMore, A6_EveryCommandOfABigBatchTakesEffect) {
  std::vector<RawCommand> commands;
  const uint64_t now = memory().Filled(kNew);
  const uint64_t before = memory().Filled(kOld);
  for (uint64_t i = 0; i < 127; ++i) guest().tables().Map(kVa + i * 4096, before);
  guest().Start();
  for (uint64_t i = 0; i < 127; ++i) {
    ASSERT_EQ(Read(kVa + i * 4096), kOld);
    guest().tables().Map(kVa + i * 4096, now);
    commands.push_back(Encode(NhVa(kAsid, kVa + i * 4096)));
  }
  ASSERT_OK(vm().Send(guest().function().viommu, commands));
  for (uint64_t i = 0; i < 127; ++i) EXPECT_EQ(Read(kVa + i * 4096), kNew) << i;
}

TEST_P(DmaTlbMore, BadBitsDoNotStopTheQueue) {
  if (expect().bad_command_bits != 0) GTEST_SKIP() << "the personality looks at every bit";
  Fill();
  guest().tables().Map(kVa, memory().Filled(kNew));
  Command bad = NhVa(kAsid, kVa + 0x1000);
  bad.tg = 1;  // with neither level nor range: the SMMU takes it for illegal, and the host skips it
  const RawCommand commands[] = {Encode(bad), Encode(NhVa(kAsid, kVa))};
  EXPECT_OK(vm().Send(guest().function().viommu, commands));
  EXPECT_EQ(Read(kVa), kNew);
}

TEST_P(DmaTlbMore, AVmidThatIsReusedHasNoPast) {
  NEED_SECOND_VM();
  for (int round = 0; round < 3; ++round) {
    OtherVm one(Open(), A0(), Ips());
    one.guest.tables().Map(kVa, one.memory.Filled(kOld + round));
    one.guest.Start();
    EXPECT_EQ(Read(kVa), kOld + round);
  }
}

}  // namespace
}  // namespace viommu::conformance
