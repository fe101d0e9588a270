#include "agent/smmuv3/emulator/tlb.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <vector>

namespace viommu::smmuv3 {
namespace {

constexpr uint64_t kVa = 0x7f12'3456'7000;

// An entry that translates what its descriptor covers.
TlbEntry Whole(TlbEntry entry) {
  entry.lookup_log2 = entry.scope_log2 = static_cast<uint8_t>(TlbSpanLog2(entry.granule_log2, entry.level));
  return entry;
}

const TlbEntry* Find(const Tlb& tlb, TlbStage stage, uint16_t vmid, uint16_t asid, uint64_t address) {
  return tlb.Lookup({.stage = stage, .vmid = vmid, .asid = asid}, address);
}

// One entry of every kind that the scopes tell apart, all of which cover kVa.
struct Population {
  Tlb tlb{4096};
  std::vector<TlbEntry> entries;

  Population() {
    for (const uint16_t vmid : {uint16_t{1}, uint16_t{2}}) {
      for (const uint16_t asid : {uint16_t{5}, uint16_t{6}}) {
        for (const uint8_t level : {uint8_t{1}, uint8_t{2}, uint8_t{3}}) {
          Add({.vmid = vmid, .asid = asid, .level = level, .address = kVa});
        }
        Add({.vmid = vmid, .asid = asid, .leaf = false, .level = 0, .address = kVa});
        Add({.vmid = vmid, .asid = asid, .leaf = false, .level = 2, .address = kVa});
        Add({.vmid = vmid, .asid = asid, .granule_log2 = 16, .address = kVa});
        Add({.vmid = vmid, .asid = asid, .address = kVa + 0x1000});
        Add({.vmid = vmid, .asid = asid, .address = kVa + 0x100'0000});
      }
      Add({.vmid = vmid, .global = true, .address = kVa});
      Add({.stage = TlbStage::kStage2Only, .vmid = vmid, .address = kVa});
      Add({.stage = TlbStage::kStage2Only, .vmid = vmid, .address = kVa + 0x1000});
    }
    Add({.regime = TlbRegime::kNsEl2, .asid = 5, .address = kVa});
    Add({.regime = TlbRegime::kNsEl2, .asid = 6, .address = kVa});
    Add({.regime = TlbRegime::kNsEl2, .global = true, .address = kVa});
  }

  void Add(const TlbEntry& e) {
    entries.push_back(Whole(e));
    tlb.Insert(entries.back());
  }

  bool Holds(const TlbEntry& e) const {
    const TlbTag tag{e.regime, e.stage, e.vmid, e.asid, e.aset};
    return (e.leaf ? tlb.Lookup(tag, e.address) : tlb.LookupTable(tag, e.address)) != nullptr;
  }
};

// How many entries of a full population the command removes.
uint32_t Removes(const Command& command) {
  Population population;
  return population.tlb.Invalidate(*TlbScopeOf(command, false));
}

TEST(TlbTest, FindsTheSmallestPageThatCoversTheAddress) {
  Tlb tlb(16);
  tlb.Insert(Whole({.vmid = 1, .asid = 5, .level = 2, .address = kVa, .output = 0x1000}));
  EXPECT_EQ(Find(tlb, TlbStage::kStage1, 1, 5, kVa ^ 0x3000)->output, 0x1000u);
  tlb.Insert(Whole({.vmid = 1, .asid = 5, .level = 3, .address = kVa, .output = 0x2000}));
  EXPECT_EQ(Find(tlb, TlbStage::kStage1, 1, 5, kVa | 0xabc)->output, 0x2000u);
  EXPECT_FALSE(Find(tlb, TlbStage::kStage1, 1, 6, kVa) != nullptr);
  EXPECT_FALSE(Find(tlb, TlbStage::kStage1, 2, 5, kVa) != nullptr);
  EXPECT_FALSE(Find(tlb, TlbStage::kStage2Only, 1, 5, kVa) != nullptr);
  EXPECT_FALSE(tlb.LookupTable({.vmid = 1, .asid = 5}, kVa) != nullptr);
}

TEST(TlbTest, GlobalEntriesServeEveryAsid) {
  Tlb tlb(16);
  tlb.Insert(Whole({.vmid = 1, .asid = 5, .global = true, .address = kVa}));
  EXPECT_TRUE(Find(tlb, TlbStage::kStage1, 1, 99, kVa) != nullptr);
}

TEST(TlbTest, SameplaceIsReplacedAndTheOldestMakeRoom) {
  Tlb tlb(4);
  for (int i = 0; i < 3; ++i) tlb.Insert(Whole({.vmid = 1, .address = kVa, .output = static_cast<uint64_t>(i)}));
  EXPECT_EQ(tlb.size(), 1u);
  for (uint64_t i = 1; i <= 10; ++i) tlb.Insert(Whole({.vmid = 1, .address = kVa + i * 0x1000}));
  EXPECT_EQ(tlb.size(), 4u);
  EXPECT_FALSE(Find(tlb, TlbStage::kStage1, 1, 0, kVa) != nullptr);
  EXPECT_TRUE(Find(tlb, TlbStage::kStage1, 1, 0, kVa + 10 * 0x1000) != nullptr);
}

// A population has, per VMID: 2 ASIDs x 8 entries, 1 global, 2 of stage 2 alone; and 3 of EL2.
TEST(TlbScopeTest, CountsPerCommand) {
  EXPECT_EQ(Removes({.opcode = Opcode::kTlbiNsnhAll}), 38u);
  EXPECT_EQ(Removes({.opcode = Opcode::kTlbiNhAll, .vmid = 1}), 17u);
  EXPECT_EQ(Removes({.opcode = Opcode::kTlbiS12Vmall, .vmid = 1}), 19u);
  EXPECT_EQ(Removes({.opcode = Opcode::kTlbiNhAsid, .vmid = 1, .asid = 5}), 8u);
  // 3 leaves of 4 KiB tables, 2 tables, 1 leaf of a 64 KiB table, the global one; the 64 KiB leaf covers kVa + 0x1000
  // too.
  EXPECT_EQ(Removes({.opcode = Opcode::kTlbiNhVa, .vmid = 1, .asid = 5, .address = kVa}), 7u);
  EXPECT_EQ(Removes({.opcode = Opcode::kTlbiNhVa, .vmid = 1, .asid = 5, .address = kVa, .leaf = true}), 5u);
  EXPECT_EQ(Removes({.opcode = Opcode::kTlbiNhVaa, .vmid = 1, .address = kVa}), 13u);
  EXPECT_EQ(Removes({.opcode = Opcode::kTlbiNhVaa, .vmid = 3, .address = kVa}), 0u);
  EXPECT_EQ(Removes({.opcode = Opcode::kTlbiS2Ipa, .vmid = 1, .address = kVa}), 1u);
  EXPECT_EQ(Removes({.opcode = Opcode::kTlbiEl2All}), 3u);
  EXPECT_EQ(Removes({.opcode = Opcode::kTlbiEl2Asid, .asid = 5}), 1u);
  EXPECT_EQ(Removes({.opcode = Opcode::kTlbiEl2Va, .asid = 5, .address = kVa}), 2u);
  EXPECT_EQ(Removes({.opcode = Opcode::kTlbiEl2Vaa, .address = kVa}), 3u);
}

TEST(TlbScopeTest, RangeCoversItsGranulesOnly) {
  const auto range = [](uint8_t num, uint8_t scale, uint8_t ttl, bool leaf) {
    return Removes({.opcode = Opcode::kTlbiNhVa,
                    .vmid = 1,
                    .asid = 5,
                    .address = kVa,
                    .leaf = leaf,
                    .num = num,
                    .scale = scale,
                    .ttl = ttl,
                    .tg = 1});
  };
  // One page at level 3: the page, the global one; with tables both table descriptors above it.
  EXPECT_EQ(range(0, 0, 3, true), 2u);
  EXPECT_EQ(range(0, 0, 3, false), 4u);
  // Level 2: the block, and the table of level 0; the descriptor of level 2 is not above.
  EXPECT_EQ(range(0, 0, 2, true), 1u);
  EXPECT_EQ(range(0, 0, 2, false), 2u);
  // Two pages, any level: 3 leaves, the neighbour, the global one.
  EXPECT_EQ(range(1, 0, 0, true), 5u);
  // 32 x 2^8 pages = 32 MiB: the far page, too.
  EXPECT_EQ(range(31, 8, 0, true), 6u);
  // To the end of the address space without wrapping around.
  EXPECT_EQ(range(31, 39, 0, true), 6u);
}

TEST(TlbScopeTest, ARangeBeginsWithAWholeGranule) {
  Tlb tlb(16);
  for (const uint64_t address : {0x1'0000, 0x2'0000}) {
    tlb.Insert(Whole({.vmid = 1, .asid = 5, .granule_log2 = 16, .address = address}));
  }
  // 64 KiB tables, one granule; the address is of 4 KiB within it.
  const Command command{.opcode = Opcode::kTlbiNhVa, .vmid = 1, .asid = 5, .address = 0x1'3000, .ttl = 3, .tg = 3};
  EXPECT_EQ(tlb.Invalidate(*TlbScopeOf(command, false)), 1u);
  EXPECT_NE(Find(tlb, TlbStage::kStage1, 1, 5, 0x2'0000), nullptr);
}

// The part of a 2 MiB block of stage 1 that a 4 KiB page of stage 2 covers.
TEST(TlbTest, CombinedEntriesTranslateLittleAndGoWithMuch) {
  const TlbEntry part{.vmid = 1,
                      .asid = 5,
                      .level = 2,
                      .lookup_log2 = 12,
                      .scope_log2 = 21,
                      .address = 0x20'5000,
                      .output = 0x9000,
                      .ipa = 0x5000};
  const auto removes = [&](const Command& command) {
    Tlb tlb(16);
    tlb.Insert(part);
    EXPECT_NE(Find(tlb, TlbStage::kStage1, 1, 5, 0x20'5fff), nullptr);
    EXPECT_EQ(Find(tlb, TlbStage::kStage1, 1, 5, 0x20'6000), nullptr);
    return tlb.Invalidate(*TlbScopeOf(command, false)) == 1;
  };
  EXPECT_TRUE(removes({.opcode = Opcode::kTlbiNhVa, .vmid = 1, .asid = 5, .address = 0x20'5000, .leaf = true}));
  EXPECT_TRUE(removes({.opcode = Opcode::kTlbiNhVa, .vmid = 1, .asid = 5, .address = 0x3f'f000, .leaf = true}));
  EXPECT_TRUE(removes({.opcode = Opcode::kTlbiNhVaa, .vmid = 1, .address = 0x20'0000, .ttl = 2, .tg = 1}));
  EXPECT_FALSE(removes({.opcode = Opcode::kTlbiNhVaa, .vmid = 1, .address = 0x20'0000, .ttl = 3, .tg = 1}));
  EXPECT_FALSE(removes({.opcode = Opcode::kTlbiNhVa, .vmid = 1, .asid = 5, .address = 0x40'0000, .leaf = true}));
  EXPECT_FALSE(removes({.opcode = Opcode::kTlbiNhVa, .vmid = 1, .asid = 6, .address = 0x20'5000, .leaf = true}));
  EXPECT_FALSE(removes({.opcode = Opcode::kTlbiS2Ipa, .vmid = 1, .address = 0x5000, .leaf = true}));
  EXPECT_TRUE(removes({.opcode = Opcode::kTlbiS12Vmall, .vmid = 1}));
}

TEST(TlbTest, TheSharedSetAndTheOtherAreApart) {
  Tlb tlb(16);
  tlb.Insert(Whole({.vmid = 1, .aset = true, .global = true, .address = kVa}));
  EXPECT_EQ(tlb.Lookup({.vmid = 1, .asid = 5}, kVa), nullptr);
  EXPECT_NE(tlb.Lookup({.vmid = 1, .asid = 5, .aset = true}, kVa), nullptr);
  // Commands reach both (5.4, ASET).
  EXPECT_EQ(tlb.Invalidate(*TlbScopeOf({.opcode = Opcode::kTlbiNhVa, .vmid = 1, .asid = 9, .address = kVa}, false)),
            1u);
}

TEST(TlbTest, TopBytesAreNotCompared) {
  Tlb tlb(16);
  tlb.Insert(Whole({.vmid = 1, .asid = 5, .address = WithoutTopByte(0xffff'8000'0000'0000)}));
  const Command command{.opcode = Opcode::kTlbiNhVa, .vmid = 1, .asid = 5, .address = 0x5aff'8000'0000'0000};
  EXPECT_EQ(tlb.Invalidate(*TlbScopeOf(command, false)), 1u);
}

// The two ways of searching: place by place, and entry by entry.
TEST(TlbTest, InvalidationByAddressAmongMany) {
  Tlb tlb(4096);
  for (uint64_t i = 0; i < 4000; ++i) {
    tlb.Insert(Whole({.vmid = 1, .asid = 5, .global = i % 3 == 0, .address = i << 12}));
  }
  EXPECT_EQ(tlb.Invalidate(*TlbScopeOf({.opcode = Opcode::kTlbiNhVa, .vmid = 1, .asid = 5, .address = 0x7000}, false)),
            1u);
  EXPECT_EQ(tlb.Invalidate(*TlbScopeOf({.opcode = Opcode::kTlbiNhVa, .vmid = 1, .asid = 6, .address = 0x8000}, false)),
            0u);
  EXPECT_EQ(tlb.Invalidate(*TlbScopeOf({.opcode = Opcode::kTlbiNhVa, .vmid = 1, .asid = 6, .address = 0x9000}, false)),
            1u);
  const Command range{
      .opcode = Opcode::kTlbiNhVa, .vmid = 1, .asid = 5, .address = 0x10'0000, .num = 31, .scale = 1, .tg = 1};
  EXPECT_EQ(tlb.Invalidate(*TlbScopeOf(range, false)), 64u);
  EXPECT_EQ(tlb.size(), 4000u - 66);
}

TEST(TlbTest, EvictionTakesOneAtMost) {
  Tlb tlb(4);
  tlb.Insert(Whole({.vmid = 1, .address = kVa}));
  for (uint64_t i = 0; i < 4; ++i) tlb.Evict(i);
  EXPECT_EQ(tlb.size(), 0u);
  tlb.Insert(Whole({.vmid = 1, .address = kVa}));
  EXPECT_NE(Find(tlb, TlbStage::kStage1, 1, 0, kVa), nullptr);
}

TEST(TlbScopeTest, RangesDoNotWrap) {
  Tlb tlb(8);
  tlb.Insert(Whole({.vmid = 1, .address = 0x1000}));
  tlb.Insert(Whole({.vmid = 1, .address = 0xffff'ffff'ffff'f000}));
  const auto scope = TlbScopeOf(
      {.opcode = Opcode::kTlbiNhVaa, .vmid = 1, .address = 0xffff'ffff'ffff'f000, .num = 31, .scale = 10, .tg = 1},
      false);
  EXPECT_EQ(tlb.Invalidate(*scope), 1u);
  EXPECT_TRUE(Find(tlb, TlbStage::kStage1, 1, 0, 0x1000) != nullptr);
}

TEST(TlbScopeTest, OtherCommandsHaveNone) {
  EXPECT_FALSE(TlbScopeOf({.opcode = Opcode::kSync}, false).has_value());
  EXPECT_FALSE(TlbScopeOf({.opcode = Opcode::kAtcInv}, false).has_value());
}

RC_GTEST_PROP(TlbProperty, InvalidateRemovesWhatMatchesAndNothingElse, (uint64_t dw0, uint64_t dw1)) {
  const Opcode opcode =
      *rc::gen::element(Opcode::kTlbiNhAll, Opcode::kTlbiNhAsid, Opcode::kTlbiNhVa, Opcode::kTlbiNhVaa,
                        Opcode::kTlbiS12Vmall, Opcode::kTlbiS2Ipa, Opcode::kTlbiNsnhAll, Opcode::kTlbiEl2All,
                        Opcode::kTlbiEl2Asid, Opcode::kTlbiEl2Va, Opcode::kTlbiEl2Vaa);
  Command command = *Decode({kOpcodeField.Set(dw0, static_cast<uint64_t>(opcode)), dw1});
  command.vmid = *rc::gen::inRange<uint16_t>(1, 4);
  command.asid = *rc::gen::inRange<uint16_t>(4, 8);
  command.address = kVa + (*rc::gen::inRange<uint64_t>(0, 4) << 12);
  const TlbScope scope = *TlbScopeOf(command, false);
  Population population;
  uint32_t expected = 0;
  for (const TlbEntry& entry : population.entries) expected += scope.Matches(entry) ? 1 : 0;
  RC_ASSERT(population.tlb.Invalidate(scope) == expected);
  RC_ASSERT(population.tlb.size() == population.entries.size() - expected);
  for (const TlbEntry& entry : population.entries) {
    if (!scope.Matches(entry)) RC_ASSERT(population.Holds(entry));
  }
  RC_ASSERT(population.tlb.Invalidate(scope) == 0u);
}

}  // namespace
}  // namespace viommu::smmuv3
