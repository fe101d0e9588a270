// What DMA sees after each invalidation: the right scope brings the new table into effect, every other one leaves the
// stale translation.

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <vector>

#include "agent/smmuv3/emulator/test_machine.h"

namespace viommu::smmuv3 {
namespace {

constexpr uint32_t kSid = 7;
constexpr uint32_t kOtherSid = 8;
constexpr uint16_t kAsid = 5;
constexpr uint16_t kVmid = 3;
constexpr uint64_t kVa = 0x12'3456'7000;
constexpr uint64_t kOld = 0x01d;
constexpr uint64_t kNew = 0x2e3;

// A nested stream whose page is about to change, at stage 1.
class InvalidationTest : public testing::Test {
 protected:
  InvalidationTest() : stage2_(&machine_.host, Granule::k4k, 40, 1, false), stage1_(&machine_.guest, Granule::k4k, 48) {
    for (uint64_t offset = 0; offset < TestMachine::kBytes; offset += 2 << 20) {
      stage2_.Map(TestMachine::kGuestIpa + offset, TestMachine::kGuestBase + offset, kGuestPage, 2);
    }
    cds_ = machine_.guest.AllocatePage();
    old_ = machine_.guest.AllocatePage();
    new_ = machine_.guest.AllocatePage();
    machine_.guest.Write(old_, kOld);
    machine_.guest.Write(new_, kNew);
    cd_ = TestMachine::MakeCd(stage1_, kAsid);
    machine_.SetCd(machine_.guest, cds_, cd_);
    ste_ = TestMachine::NestedSte(cds_, stage2_, kVmid);
    machine_.SetSte(kSid, ste_);
    machine_.SetSte(kOtherSid, ste_);
  }
  uint64_t Sees(uint32_t sid = kSid) { return machine_.Read(sid, kVa).value_or(0); }
  // Warms the caches with the old page, changes the table, carries the command out.
  uint64_t SeesAfter(const Command& command, const Stage1Leaf& leaf = kUserPage) {
    stage1_.Map(kVa, old_, leaf);
    machine_.InvalidateAll();
    EXPECT_EQ(Sees(), kOld);
    stage1_.Map(kVa, new_, leaf);
    EXPECT_EQ(Sees(), kOld);
    machine_.Issue({command});
    return Sees();
  }
  static Command Va(uint64_t address, uint16_t asid = kAsid, uint16_t vmid = kVmid) {
    return {.opcode = Opcode::kTlbiNhVa, .vmid = vmid, .asid = asid, .address = address, .leaf = true};
  }
  static Command Range(uint64_t address, uint8_t num, uint8_t scale, uint8_t ttl = 0, uint8_t tg = 1) {
    Command command = Va(address);
    command.num = num;
    command.scale = scale;
    command.ttl = ttl;
    command.tg = tg;
    return command;
  }

  TestMachine machine_;
  TestTables stage2_;
  TestTables stage1_;
  uint64_t cds_ = 0;
  uint64_t old_ = 0;
  uint64_t new_ = 0;
  Cd cd_;
  Ste ste_;
};

TEST_F(InvalidationTest, TheRightScopeRemovesAWrongOneLeaves) {
  EXPECT_EQ(SeesAfter(Va(kVa)), kNew);
  EXPECT_EQ(SeesAfter(Va(kVa + 0xfff)), kNew);
  EXPECT_EQ(SeesAfter(Va(kVa, kAsid + 1)), kOld);
  EXPECT_EQ(SeesAfter(Va(kVa, kAsid, kVmid + 1)), kOld);
  EXPECT_EQ(SeesAfter(Va(kVa + 0x1000)), kOld);
  EXPECT_EQ(SeesAfter(Va(kVa - 0x1000)), kOld);
  EXPECT_EQ(SeesAfter({.opcode = Opcode::kTlbiNhVaa, .vmid = kVmid, .address = kVa, .leaf = true}), kNew);
  EXPECT_EQ(SeesAfter({.opcode = Opcode::kTlbiNhVaa, .vmid = kVmid + 1, .address = kVa, .leaf = true}), kOld);
  EXPECT_EQ(SeesAfter({.opcode = Opcode::kTlbiNhAsid, .vmid = kVmid, .asid = kAsid}), kNew);
  EXPECT_EQ(SeesAfter({.opcode = Opcode::kTlbiNhAsid, .vmid = kVmid, .asid = kAsid + 1}), kOld);
  EXPECT_EQ(SeesAfter({.opcode = Opcode::kTlbiNhAsid, .vmid = kVmid + 1, .asid = kAsid}), kOld);
  EXPECT_EQ(SeesAfter({.opcode = Opcode::kTlbiNhAll, .vmid = kVmid}), kNew);
  EXPECT_EQ(SeesAfter({.opcode = Opcode::kTlbiNhAll, .vmid = kVmid + 1}), kOld);
  EXPECT_EQ(SeesAfter({.opcode = Opcode::kTlbiS12Vmall, .vmid = kVmid}), kNew);
  EXPECT_EQ(SeesAfter({.opcode = Opcode::kTlbiS12Vmall, .vmid = kVmid + 1}), kOld);
  EXPECT_EQ(SeesAfter({.opcode = Opcode::kTlbiNsnhAll}), kNew);
  EXPECT_EQ(SeesAfter({.opcode = Opcode::kTlbiEl2All}), kOld);
  EXPECT_EQ(SeesAfter({.opcode = Opcode::kTlbiEl2Va, .asid = kAsid, .address = kVa}), kOld);
  // Stage 2's command does not reach what both stages made together (4.4.3.1).
  EXPECT_EQ(SeesAfter({.opcode = Opcode::kTlbiS2Ipa, .vmid = kVmid, .address = old_}), kOld);
  EXPECT_EQ(SeesAfter({.opcode = Opcode::kCfgiCdAll, .sid = kSid}), kOld);
  EXPECT_EQ(SeesAfter({.opcode = Opcode::kCfgiSteRange, .range = kCfgiRangeAll}), kOld);
  EXPECT_EQ(SeesAfter({.opcode = Opcode::kAtcInv, .sid = kSid, .size = kAtcSizeAll}), kOld);
}

TEST_F(InvalidationTest, GlobalPages) {
  EXPECT_EQ(SeesAfter(Va(kVa, kAsid + 1), kGlobalPage), kNew);
  EXPECT_EQ(SeesAfter({.opcode = Opcode::kTlbiNhAsid, .vmid = kVmid, .asid = kAsid}, kGlobalPage), kOld);
  EXPECT_EQ(SeesAfter({.opcode = Opcode::kTlbiNhVaa, .vmid = kVmid, .address = kVa}, kGlobalPage), kNew);
  EXPECT_EQ(SeesAfter({.opcode = Opcode::kTlbiNhAll, .vmid = kVmid}, kGlobalPage), kNew);
}

TEST_F(InvalidationTest, Ranges) {
  EXPECT_EQ(SeesAfter(Range(kVa, 0, 0, 3)), kNew);
  EXPECT_EQ(SeesAfter(Range(kVa - 0x4000, 3, 0)), kOld);  // ends just before
  EXPECT_EQ(SeesAfter(Range(kVa - 0x4000, 4, 0)), kNew);
  EXPECT_EQ(SeesAfter(Range(kVa - 0x4000, 0, 2)), kOld);
  EXPECT_EQ(SeesAfter(Range(kVa - 0x4000, 0, 3)), kNew);
  EXPECT_EQ(SeesAfter(Range(kVa + 0x1000, 31, 10)), kOld);
  EXPECT_EQ(SeesAfter(Range(kVa, 0, 0, 2)), kOld);     // says that the leaf is of level 2
  EXPECT_EQ(SeesAfter(Range(kVa, 1, 0, 0, 3)), kOld);  // says 64 KiB
}

// LEAF = 1 leaves the tables that lead there.
TEST_F(InvalidationTest, TableDescriptorsAreCachedToo) {
  const auto change = [&](bool leaf) {
    stage1_.Map(kVa, old_, kUserPage);
    machine_.InvalidateAll();
    EXPECT_EQ(Sees(), kOld);
    // Another last table, with the new page.
    const uint64_t place = stage1_.Place(kVa, 2);
    const RawDescriptor before = stage1_.Get(place);
    const uint64_t table = machine_.guest.AllocatePage();
    stage1_.Put(place, EncodeTable(table, Granule::k4k));
    stage1_.Map(kVa, new_, kUserPage);
    Command command = Va(kVa);
    command.leaf = leaf;
    machine_.Issue({command});
    const uint64_t seen = Sees();
    stage1_.Put(place, before);
    return seen;
  };
  EXPECT_EQ(change(true), kOld);
  EXPECT_EQ(change(false), kNew);
}

TEST_F(InvalidationTest, FaultsAreNotCached) {
  EXPECT_EQ(Sees(), 0u);
  stage1_.Map(kVa, old_, kUserPage);
  EXPECT_EQ(Sees(), kOld);
}

TEST_F(InvalidationTest, StalePermissions) {
  Stage1Leaf leaf = kUserPage;
  leaf.ap |= kApReadOnly;
  stage1_.Map(kVa, old_, leaf);
  EXPECT_EQ(Sees(), kOld);
  const Transaction write{.sid = kSid, .address = kVa + 8};
  EXPECT_EQ(machine_.Write(write, 1).result, TransactionResult::kAborted);
  stage1_.Map(kVa, old_, kUserPage);
  EXPECT_EQ(machine_.Write(write, 1).result, TransactionResult::kAborted);
  machine_.Issue({Va(kVa)});
  EXPECT_EQ(machine_.Write(write, 1).result, TransactionResult::kDone);
}

// The piece of a block of stage 1 that a page of stage 2 covers goes with any address of the block.
TEST_F(InvalidationTest, ABlockGoesAsAWhole) {
  const uint64_t va = uint64_t{1} << 30;
  const uint64_t block = TestMachine::kGuestIpa + (4 << 20);
  for (const uint64_t named : {va, va + 0x1f'f000, va + 0x5000}) {
    stage1_.Map(va, block, kUserPage, 2);
    stage2_.Put(stage2_.Place(block, 2), 0);
    for (uint64_t page = 0; page < 2 << 20; page += 4096) {
      stage2_.Map(block + page, machine_.guest.Physical(block + page), kGuestPage);
    }
    machine_.InvalidateAll();
    machine_.guest.Write(block + 0x5000, kOld);
    EXPECT_EQ(machine_.Read(kSid, va + 0x5000), kOld);
    stage1_.Unmap(va, 2);
    machine_.Issue({Va(va + (2 << 20)), Va(va - 0x1000)});
    EXPECT_EQ(machine_.Read(kSid, va + 0x5000), kOld);
    machine_.Issue({Va(named)});
    EXPECT_EQ(machine_.Read(kSid, va + 0x5000), std::nullopt);
  }
}

// ---- Stage 2 ------------------------------------------------------------------------------------------------------

TEST_F(InvalidationTest, UnmappingStage2TakesTwoCommands) {
  stage1_.Map(kVa, old_, kUserPage);
  const auto warm = [&] {
    stage2_.Map(TestMachine::kGuestIpa, TestMachine::kGuestBase, kGuestPage, 2);
    machine_.InvalidateAll();
    EXPECT_EQ(Sees(), kOld);
    stage2_.Put(stage2_.Place(TestMachine::kGuestIpa, 2), 0);
  };
  const Command ipa{.opcode = Opcode::kTlbiS2Ipa, .vmid = kVmid, .address = old_};
  const Command all{.opcode = Opcode::kTlbiNhAll, .vmid = kVmid};
  warm();
  machine_.Issue({ipa});
  EXPECT_EQ(Sees(), kOld);
  machine_.Issue({all});
  EXPECT_EQ(Sees(), 0u);
  // The other way round: the walk meets what stage 2 has cached of its own.
  warm();
  machine_.Issue({all});
  EXPECT_EQ(Sees(), kOld);
  warm();
  machine_.Issue({ipa, all});
  EXPECT_EQ(Sees(), 0u);
  warm();
  machine_.Issue({{.opcode = Opcode::kTlbiS12Vmall, .vmid = kVmid}});
  EXPECT_EQ(Sees(), 0u);
}

TEST_F(InvalidationTest, Stage2AloneByIpa) {
  machine_.SetSte(kSid, TestMachine::Stage2Ste(stage2_, kVmid));
  machine_.InvalidateAll();
  const auto sees = [&] { return machine_.Read(kSid, old_).value_or(0); };
  const auto sees_after = [&](const Command& command) {
    stage2_.Map(TestMachine::kGuestIpa, TestMachine::kGuestBase, kGuestPage, 2);
    machine_.InvalidateAll();
    EXPECT_EQ(sees(), kOld);
    stage2_.Put(stage2_.Place(TestMachine::kGuestIpa, 2), 0);
    machine_.Issue({command});
    return sees();
  };
  const auto ipa = [](uint64_t address, uint16_t vmid = kVmid) {
    return Command{.opcode = Opcode::kTlbiS2Ipa, .vmid = vmid, .address = address, .leaf = true};
  };
  EXPECT_EQ(sees_after(ipa(old_)), 0u);
  EXPECT_EQ(sees_after(ipa(TestMachine::kGuestIpa + 0x1f'f000)), 0u);  // the same block
  EXPECT_EQ(sees_after(ipa(TestMachine::kGuestIpa + 0x20'0000)), kOld);
  EXPECT_EQ(sees_after(ipa(old_, kVmid + 1)), kOld);
  EXPECT_EQ(sees_after({.opcode = Opcode::kTlbiNhAll, .vmid = kVmid}), kOld);
  EXPECT_EQ(sees_after({.opcode = Opcode::kTlbiNhVaa, .vmid = kVmid, .address = old_}), kOld);
  EXPECT_EQ(sees_after({.opcode = Opcode::kTlbiS12Vmall, .vmid = kVmid}), 0u);
  EXPECT_EQ(sees_after({.opcode = Opcode::kTlbiNsnhAll}), 0u);
  Command range = ipa(TestMachine::kGuestIpa - 0x20'0000);
  range.tg = 1;
  range.num = 0;
  range.scale = 9;  // 2 MiB
  EXPECT_EQ(sees_after(range), kOld);
  range.num = 1;
  EXPECT_EQ(sees_after(range), 0u);
}

TEST_F(InvalidationTest, ContiguousPagesOfStage2GoAsOne) {
  constexpr uint64_t kPages = 16;
  machine_.SetSte(kSid, TestMachine::Stage2Ste(stage2_, kVmid));
  Stage2Leaf leaf = kGuestPage;
  leaf.contiguous = true;
  stage2_.Put(stage2_.Place(TestMachine::kGuestIpa, 2), 0);  // pages in place of the block
  const auto sees_after = [&](uint64_t address) {
    for (uint64_t i = 0; i < kPages; ++i) {
      stage2_.Map(TestMachine::kGuestIpa + i * 0x1000, TestMachine::kGuestBase + i * 0x1000, leaf);
    }
    machine_.InvalidateAll();
    EXPECT_TRUE(machine_.Read(kSid, TestMachine::kGuestIpa).has_value());
    for (uint64_t i = 0; i < kPages; ++i) stage2_.Unmap(TestMachine::kGuestIpa + i * 0x1000);
    machine_.Issue({{.opcode = Opcode::kTlbiS2Ipa, .vmid = kVmid, .address = address, .leaf = true}});
    return machine_.Read(kSid, TestMachine::kGuestIpa + 0x3000).has_value();
  };
  EXPECT_FALSE(sees_after(TestMachine::kGuestIpa + 8 * 0x1000));
  EXPECT_TRUE(sees_after(TestMachine::kGuestIpa + kPages * 0x1000));
}

// ---- Configuration ------------------------------------------------------------------------------------------------

TEST_F(InvalidationTest, ContextDescriptors) {
  // The new context has other tables, and another ASID, so that the TLB has nothing of it.
  TestTables other(&machine_.guest, Granule::k4k, 48);
  other.Map(kVa, new_, kUserPage);
  stage1_.Map(kVa, old_, kUserPage);
  const auto sees_after = [&](const Command& command) {
    machine_.SetCd(machine_.guest, cds_, cd_);
    machine_.InvalidateAll();
    EXPECT_EQ(Sees(), kOld);
    EXPECT_EQ(Sees(kOtherSid), kOld);
    machine_.SetCd(machine_.guest, cds_, TestMachine::MakeCd(other, kAsid + 1));
    machine_.Issue({command});
    return Sees();
  };
  EXPECT_EQ(sees_after({.opcode = Opcode::kCfgiCd, .sid = kSid, .leaf = true}), kNew);
  EXPECT_EQ(Sees(kOtherSid), kOld);
  EXPECT_EQ(sees_after({.opcode = Opcode::kCfgiCd, .sid = kSid}), kNew);
  EXPECT_EQ(sees_after({.opcode = Opcode::kCfgiCd, .sid = kOtherSid}), kOld);
  EXPECT_EQ(sees_after({.opcode = Opcode::kCfgiCd, .sid = kSid, .ssid = 1}), kOld);
  EXPECT_EQ(sees_after({.opcode = Opcode::kCfgiCdAll, .sid = kSid}), kNew);
  EXPECT_EQ(sees_after({.opcode = Opcode::kCfgiCdAll, .sid = kOtherSid}), kOld);
  EXPECT_EQ(sees_after({.opcode = Opcode::kCfgiSte, .sid = kSid, .leaf = true}), kNew);
  EXPECT_EQ(sees_after({.opcode = Opcode::kCfgiSte, .sid = kOtherSid}), kOld);
  EXPECT_EQ(sees_after({.opcode = Opcode::kCfgiSteRange, .sid = 4, .range = 1}), kNew);  // 4 to 7
  EXPECT_EQ(sees_after({.opcode = Opcode::kCfgiSteRange, .sid = 8, .range = 1}), kOld);  // 8 to 11
  EXPECT_EQ(sees_after({.opcode = Opcode::kCfgiSteRange, .range = kCfgiRangeAll}), kNew);
  EXPECT_EQ(sees_after({.opcode = Opcode::kTlbiNsnhAll}), kOld);
}

TEST_F(InvalidationTest, StreamTableEntries) {
  stage1_.Map(kVa, old_, kUserPage);
  EXPECT_EQ(Sees(), kOld);
  EXPECT_EQ(Sees(kOtherSid), kOld);
  machine_.SetSte(kSid, TestMachine::AbortSte());
  machine_.SetSte(kOtherSid, TestMachine::AbortSte());
  EXPECT_EQ(Sees(), kOld);
  machine_.Issue({{.opcode = Opcode::kTlbiNsnhAll}, {.opcode = Opcode::kCfgiCdAll, .sid = kSid}});
  EXPECT_EQ(Sees(), kOld);
  machine_.Issue({{.opcode = Opcode::kCfgiSte, .sid = kSid, .leaf = true}});
  EXPECT_EQ(Sees(), 0u);
  EXPECT_EQ(Sees(kOtherSid), kOld);
  machine_.Issue({{.opcode = Opcode::kCfgiSteRange, .sid = 9, .range = 0}});  // 8 and 9
  EXPECT_EQ(Sees(kOtherSid), 0u);
}

// Streams of one VM and address space share translations; those of another VM have their own.
TEST_F(InvalidationTest, TranslationsBelongToVmAndAddressSpaceNotToStreams) {
  stage1_.Map(kVa, old_, kUserPage);
  EXPECT_EQ(Sees(), kOld);
  stage1_.Map(kVa, new_, kUserPage);
  EXPECT_EQ(Sees(kOtherSid), kOld);
  ste_.s2_vmid = kVmid + 1;
  machine_.SetSte(kOtherSid, ste_);
  machine_.Issue({{.opcode = Opcode::kCfgiSte, .sid = kOtherSid, .leaf = true}});
  EXPECT_EQ(Sees(kOtherSid), kNew);
  EXPECT_EQ(Sees(), kOld);
}

// ---- Forgetful caches ---------------------------------------------------------------------------------------------

TEST(EvictionTest, NobodyCanRelyOnStaleness) {
  SmmuOptions options;
  options.eviction_seed = 1;
  options.tlb_capacity = 256;
  const auto owner = std::make_unique<TestMachine>(kFullFeatures, options);
  TestMachine& machine = *owner;
  TestTables tables(&machine.host, Granule::k4k, 48);
  const uint64_t cd_place = machine.host.AllocatePage();
  const uint64_t old_page = machine.host.AllocatePage();
  const uint64_t new_page = machine.host.AllocatePage();
  machine.host.Write(old_page, kOld);
  machine.host.Write(new_page, kNew);
  tables.Map(kVa, old_page, kUserPage);
  machine.SetCd(machine.host, cd_place, TestMachine::MakeCd(tables, kAsid));
  machine.SetSte(kSid, TestMachine::Stage1Ste(cd_place));
  EXPECT_EQ(machine.Read(kSid, kVa), kOld);
  tables.Map(kVa, new_page, kUserPage);
  int reads = 0;
  while (machine.Read(kSid, kVa) == kOld) ASSERT_LT(++reads, 10000);
  EXPECT_EQ(machine.Read(kSid, kVa), kNew);
  machine.SetSte(kSid, TestMachine::AbortSte());
  reads = 0;
  while (machine.Read(kSid, kVa).has_value()) ASSERT_LT(++reads, 10000);
}

}  // namespace
}  // namespace viommu::smmuv3
