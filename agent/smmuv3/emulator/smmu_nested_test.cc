// What stage 2 makes of addresses, alone and behind stage 1.

#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <vector>

#include "agent/smmuv3/emulator/test_machine.h"

namespace viommu::smmuv3 {
namespace {

constexpr uint32_t kSid = 7;
constexpr uint16_t kAsid = 5;
constexpr uint16_t kVmid = 3;
constexpr uint64_t kVa = 0x12'3456'7000;

// Both stages, or stage 2 alone: guest memory is mapped one to one, page by page where the tests want it.
class NestedTest : public testing::Test {
 protected:
  static constexpr uint64_t kBlock = 2 << 20;

  NestedTest() : stage2_(&machine_.host, Granule::k4k, 40, 1, false), stage1_(&machine_.guest, Granule::k4k, 48) {
    for (uint64_t offset = 0; offset < TestMachine::kBytes; offset += kBlock) {
      stage2_.Map(TestMachine::kGuestIpa + offset, TestMachine::kGuestBase + offset, kGuestPage, 2);
    }
    cd_place_ = machine_.guest.AllocatePage();
    page_ = machine_.guest.AllocatePage();
    machine_.guest.Write(page_, 0x1111);
    cd_ = TestMachine::MakeCd(stage1_, kAsid);
    ste_ = TestMachine::NestedSte(cd_place_, stage2_, kVmid);
    stage1_.Map(kVa, page_, kUserPage);
    Apply();
  }
  void Apply() {
    machine_.SetCd(machine_.guest, cd_place_, cd_);
    machine_.SetSte(kSid, ste_);
    machine_.InvalidateAll();
  }
  // Maps one page of guest memory on its own, the rest of its block as before.
  void MapGuestPage(uint64_t ipa, const Stage2Leaf& leaf) {
    const uint64_t block = ipa & ~(kBlock - 1);
    const uint64_t place = stage2_.Place(block, 2);
    if ((stage2_.Get(place) & descriptor::kTable.mask()) == 0) {
      stage2_.Put(place, 0);
      for (uint64_t page = block; page < block + kBlock; page += 4096) {
        stage2_.Map(page, machine_.guest.Physical(page), kGuestPage);
      }
    }
    stage2_.Map(ipa & ~uint64_t{0xfff}, machine_.guest.Physical(ipa & ~uint64_t{0xfff}), leaf);
    machine_.InvalidateAll();
  }
  Event Fails(const Transaction& transaction) {
    uint64_t value = 0;
    const Outcome outcome = transaction.write ? machine_.Write(transaction, 0) : machine_.Read(transaction, value);
    EXPECT_EQ(outcome.result, TransactionResult::kAborted);
    const std::vector<Event> events = machine_.TakeEvents();
    EXPECT_EQ(events.size(), 1u);
    if (events.size() != 1) return {};
    EXPECT_EQ(events[0], outcome.event);
    return events[0];
  }
  Event Stage2Event(EventId id, EventClass cls, uint64_t ipa) const {
    return {
        .id = id, .sid = kSid, .read = true, .stage2 = true, .cls = cls, .address = kVa, .ipa = ipa & ~uint64_t{0xfff}};
  }

  TestMachine machine_;
  TestTables stage2_;
  TestTables stage1_;
  uint64_t cd_place_ = 0;
  uint64_t page_ = 0;
  Cd cd_;
  Ste ste_;
};

TEST_F(NestedTest, BothStagesTranslate) {
  EXPECT_EQ(machine_.Read(kSid, kVa), 0x1111u);
  const Outcome outcome = machine_.smmu.Translate({.sid = kSid, .address = kVa + 4}, kNever);
  EXPECT_EQ(outcome.translation.output, machine_.guest.Physical(page_) + 4);
  EXPECT_EQ(outcome.translation.span_log2, 12);
}

TEST_F(NestedTest, TheSmallerPageLimitsTheTranslation) {
  const uint64_t block = TestMachine::kGuestIpa + 4 * kBlock;
  stage1_.Map(uint64_t{1} << 30, block, kUserPage, 2);
  EXPECT_EQ(machine_.smmu.Translate({.sid = kSid, .address = uint64_t{1} << 30}, kNever).translation.span_log2, 21);
  MapGuestPage(block + 0x5000, kGuestPage);
  const Outcome outcome = machine_.smmu.Translate({.sid = kSid, .address = (uint64_t{1} << 30) + 0x5008}, kNever);
  EXPECT_EQ(outcome.translation.span_log2, 12);
  EXPECT_EQ(outcome.translation.output, machine_.guest.Physical(block + 0x5008));
}

TEST_F(NestedTest, Stage2FaultsSayWhatWasBeingDone) {
  const Stage2Leaf nothing = {};
  const uint64_t table = stage1_.Place(kVa, kLastLevel);
  MapGuestPage(page_, nothing);
  stage2_.Unmap(page_);
  machine_.InvalidateAll();
  EXPECT_EQ(Fails({.sid = kSid, .address = kVa}), Stage2Event(EventId::kFTranslation, EventClass::kInput, page_));
  stage2_.Unmap(table & ~uint64_t{0xfff});
  machine_.InvalidateAll();
  EXPECT_EQ(Fails({.sid = kSid, .address = kVa}), Stage2Event(EventId::kFTranslation, EventClass::kTable, table));
  stage2_.Unmap(cd_place_);
  machine_.InvalidateAll();
  EXPECT_EQ(Fails({.sid = kSid, .address = kVa}), Stage2Event(EventId::kFTranslation, EventClass::kCd, cd_place_));
}

TEST_F(NestedTest, Stage2AccessFlagAndPermissions) {
  Stage2Leaf leaf = kGuestPage;
  leaf.af = false;
  MapGuestPage(page_, leaf);
  EXPECT_EQ(Fails({.sid = kSid, .address = kVa}), Stage2Event(EventId::kFAccess, EventClass::kInput, page_));
  ste_.s2_affd = true;
  Apply();
  EXPECT_EQ(machine_.Read(kSid, kVa), 0x1111u);
  leaf = kGuestPage;
  leaf.s2ap = kS2ApRead;
  MapGuestPage(page_, leaf);
  EXPECT_EQ(machine_.Read(kSid, kVa), 0x1111u);
  Event expected = Stage2Event(EventId::kFPermission, EventClass::kInput, page_);
  expected.read = false;
  EXPECT_EQ(Fails({.sid = kSid, .address = kVa, .write = true}), expected);
  leaf.s2ap = kS2ApWrite;
  MapGuestPage(page_, leaf);
  EXPECT_EQ(machine_.Write({.sid = kSid, .address = kVa}, 1).result, TransactionResult::kDone);
  EXPECT_EQ(Fails({.sid = kSid, .address = kVa}), Stage2Event(EventId::kFPermission, EventClass::kInput, page_));
}

TEST_F(NestedTest, Stage2Execution) {
  stage1_.Map(kVa, page_, {.ap = 3, .af = true, .ng = true});
  const auto can = [&](bool privileged) {
    const Transaction fetch{.sid = kSid, .address = kVa, .privileged = privileged, .instruction = true};
    return machine_.smmu.Translate(fetch, kNever).result == TransactionResult::kDone;
  };
  const auto map = [&](uint8_t xn) {
    Stage2Leaf leaf = kGuestPage;
    leaf.xn = xn;
    MapGuestPage(page_, leaf);
  };
  map(kS2XnNone);
  EXPECT_TRUE(can(false) && can(true));
  map(kS2XnAll);
  EXPECT_FALSE(can(false) || can(true));
  map(kS2XnUnprivileged);
  EXPECT_TRUE(can(false) && !can(true));
  map(kS2XnPrivileged);
  EXPECT_TRUE(!can(false) && can(true));
}

TEST_F(NestedTest, TableWalksNeedToReadAndKeepOffDevices) {
  const uint64_t table = stage1_.Place(kVa, kLastLevel);
  Stage2Leaf leaf = kGuestPage;
  leaf.s2ap = kS2ApWrite;
  MapGuestPage(table, leaf);
  Event expected = Stage2Event(EventId::kFPermission, EventClass::kTable, table);
  expected.tt_read = true;
  EXPECT_EQ(Fails({.sid = kSid, .address = kVa}), expected);
  leaf = kGuestPage;
  leaf.mem_attr = 1;  // Device
  MapGuestPage(table, leaf);
  EXPECT_EQ(machine_.Read(kSid, kVa), 0x1111u);
  ste_.s2_ptw = true;
  Apply();
  EXPECT_EQ(Fails({.sid = kSid, .address = kVa}), expected);
  // Nor may a context descriptor lie there; data may.
  MapGuestPage(table, kGuestPage);
  MapGuestPage(page_, leaf);
  EXPECT_EQ(machine_.Read(kSid, kVa), 0x1111u);
  MapGuestPage(cd_place_, leaf);
  EXPECT_EQ(Fails({.sid = kSid, .address = kVa}), Stage2Event(EventId::kFPermission, EventClass::kCd, cd_place_));
}

TEST_F(NestedTest, TheIpaMustFitStage2) {
  stage1_.Map(kVa, uint64_t{1} << 41, kUserPage);
  EXPECT_EQ(Fails({.sid = kSid, .address = kVa}),
            Stage2Event(EventId::kFTranslation, EventClass::kInput, uint64_t{1} << 41));
  // The guest's own limit comes first.
  cd_.ips = 2;  // 40 bits
  Apply();
  EXPECT_EQ(Fails({.sid = kSid, .address = kVa}).id, EventId::kFAddrSize);
}

TEST_F(NestedTest, Stage2AddressSizeAndAborts) {
  ste_.s2_ps = 1;  // 36 bits
  Apply();
  EXPECT_EQ(machine_.Read(kSid, kVa), 0x1111u);
  MapGuestPage(page_, kGuestPage);
  stage2_.Map(page_, uint64_t{1} << 36, kGuestPage);
  machine_.InvalidateAll();
  EXPECT_EQ(Fails({.sid = kSid, .address = kVa}), Stage2Event(EventId::kFAddrSize, EventClass::kInput, page_));
  stage2_.Put(stage2_.Place(page_, 2), EncodeTable(TestMachine::kHole, Granule::k4k));
  machine_.InvalidateAll();
  const Event event = Fails({.sid = kSid, .address = kVa});
  EXPECT_EQ(event.id, EventId::kFWalkEabt);
  EXPECT_TRUE(event.stage2);
}

TEST_F(NestedTest, AStage1AbortShowsThePhysicalAddress) {
  // The last table lies at an IPA that stage 2 sends into a hole.
  const uint64_t ipa = TestMachine::kGuestIpa + TestMachine::kBytes;
  stage2_.Map(ipa, TestMachine::kHole, kGuestPage, 2);
  stage1_.Put(stage1_.Place(kVa, 2), EncodeTable(ipa, Granule::k4k));
  const Event event = Fails({.sid = kSid, .address = kVa});
  EXPECT_EQ(event.id, EventId::kFWalkEabt);
  EXPECT_FALSE(event.stage2);
  EXPECT_EQ(event.cls, EventClass::kTable);
  EXPECT_EQ(event.fetch_address & ~uint64_t{0xfff}, TestMachine::kHole);
}

TEST_F(NestedTest, Stage1FaultsComeFirstAndStage2StaysUnasked) {
  stage1_.Map(kVa, TestMachine::kGuestIpa + TestMachine::kBytes, {.ap = 3, .af = true, .ng = true});
  const Event event = Fails({.sid = kSid, .address = kVa, .write = true});
  EXPECT_EQ(event.id, EventId::kFPermission);
  EXPECT_FALSE(event.stage2);
}

TEST_F(NestedTest, SilentStage2Faults) {
  ste_.s2_record = false;
  Apply();
  uint64_t value = 0;
  stage1_.Map(kVa, TestMachine::kGuestIpa + TestMachine::kBytes, kUserPage);
  EXPECT_EQ(machine_.Read({.sid = kSid, .address = kVa}, value).result, TransactionResult::kAborted);
  EXPECT_TRUE(machine_.TakeEvents().empty());
}

TEST_F(NestedTest, Stage2AloneTakesTheAddressAsIpa) {
  machine_.SetSte(kSid, TestMachine::Stage2Ste(stage2_, kVmid));
  machine_.InvalidateAll();
  EXPECT_EQ(machine_.Read(kSid, page_), 0x1111u);
  const uint64_t unmapped = TestMachine::kGuestIpa + TestMachine::kBytes;
  EXPECT_EQ(Fails({.sid = kSid, .address = unmapped}), (Event{.id = EventId::kFTranslation,
                                                              .sid = kSid,
                                                              .read = true,
                                                              .stage2 = true,
                                                              .address = unmapped,
                                                              .ipa = unmapped}));
  // Beyond what an address can be, stage 1 is to blame, although it is not there (3.4).
  const Event event = Fails({.sid = kSid, .address = uint64_t{1} << 50});
  EXPECT_EQ(event.id, EventId::kFAddrSize);
  EXPECT_FALSE(event.stage2);
}

struct Stage2Shape {
  Granule granule;
  uint32_t input_bits;
  uint32_t level;
};

class Stage2ShapeTest : public testing::TestWithParam<Stage2Shape> {};

INSTANTIATE_TEST_SUITE_P(Shapes, Stage2ShapeTest,
                         testing::Values(Stage2Shape{Granule::k4k, 48, 0}, Stage2Shape{Granule::k4k, 43, 1},
                                         Stage2Shape{Granule::k4k, 39, 1}, Stage2Shape{Granule::k4k, 34, 2},
                                         Stage2Shape{Granule::k4k, 30, 2}, Stage2Shape{Granule::k16k, 48, 1},
                                         Stage2Shape{Granule::k16k, 40, 2}, Stage2Shape{Granule::k16k, 29, 3},
                                         Stage2Shape{Granule::k64k, 46, 2}, Stage2Shape{Granule::k64k, 48, 1},
                                         Stage2Shape{Granule::k64k, 33, 3}));

// Start levels, rows of first tables side by side, and both ends of the input range.
TEST_P(Stage2ShapeTest, BothEndsOfTheInput) {
  const auto [granule, input_bits, level] = GetParam();
  const auto owner = std::make_unique<TestMachine>();
  TestMachine& machine = *owner;
  TestTables tables(&machine.host, granule, input_bits, level, false);
  const uint64_t bytes = uint64_t{1} << GranuleLog2(granule);
  const uint64_t page = machine.host.AllocatePage(bytes);
  machine.host.Write(page, 0x1111);
  const uint64_t last = (uint64_t{1} << input_bits) - bytes;
  tables.Map(0, page, kGuestPage);
  tables.Map(last, page, kGuestPage);
  machine.SetSte(kSid, TestMachine::Stage2Ste(tables, kVmid));
  EXPECT_EQ(machine.Read(kSid, 0), 0x1111u);
  EXPECT_EQ(machine.Read(kSid, last), 0x1111u);
  EXPECT_FALSE(machine.Read(kSid, last - bytes).has_value());
  if (input_bits < 48) {
    EXPECT_FALSE(machine.Read(kSid, last + bytes).has_value());
  }
  for (const Event& event : machine.TakeEvents()) {
    EXPECT_EQ(event.id, EventId::kFTranslation);
    EXPECT_TRUE(event.stage2);
  }
}

TEST(WideAddressTest, FiftyTwoBitsWith64kPages) {
  Features features = kFullFeatures;
  features.oas_bits = 52;
  features.vax = true;
  const auto owner = std::make_unique<TestMachine>(features);
  TestMachine& machine = *owner;
  const uint64_t far = uint64_t{0xf} << 48;
  std::vector<uint64_t> buffer(2 * 65536 / 8);
  // The buffer's own address decides where a 64 KiB page can begin in it.
  ASSERT_TRUE(machine.memory.Add(far, std::as_writable_bytes(std::span(buffer))));
  ASSERT_TRUE(machine.memory.WriteWord(far + 8, 0x2222));
  TestTables tables(&machine.host, Granule::k64k, 52);
  const uint64_t va = uint64_t{0xa} << 48;
  tables.Map(va, far, kUserPage);
  Cd cd = TestMachine::MakeCd(tables, kAsid);
  cd.ips = 6;
  const uint64_t cd_place = machine.host.AllocatePage();
  machine.SetCd(machine.host, cd_place, cd);
  machine.SetSte(kSid, TestMachine::Stage1Ste(cd_place));
  EXPECT_EQ(machine.Read(kSid, va + 8), 0x2222u);
  // A block of 4 TiB.
  tables.Map(uint64_t{1} << 42, uint64_t{3} << 42, kUserPage, 1);
  const Outcome outcome = machine.smmu.Translate({.sid = kSid, .address = (uint64_t{1} << 42) + 5}, kNever);
  EXPECT_EQ(outcome.translation.output, (uint64_t{3} << 42) + 5);
  EXPECT_EQ(outcome.translation.span_log2, 42);
}

}  // namespace
}  // namespace viommu::smmuv3
