// What stage 1 makes of addresses, with every granule.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "agent/smmuv3/emulator/test_machine.h"

namespace viommu::smmuv3 {
namespace {

constexpr uint32_t kSid = 7;
constexpr uint16_t kAsid = 5;
constexpr uint64_t kVa = 0x12'3456'7000;

// One stream through stage 1 alone.
class Stage1Test : public testing::TestWithParam<Granule> {
 protected:
  Stage1Test() : tables_(&machine_.host, GetParam(), 48) {
    cd_place_ = machine_.host.AllocatePage();
    page_bytes_ = uint64_t{1} << GranuleLog2(GetParam());
    va_ = kVa & ~(page_bytes_ - 1);
    page_ = machine_.host.AllocatePage(page_bytes_);
    machine_.host.Write(page_, 0x1111);
    cd_ = TestMachine::MakeCd(tables_, kAsid);
    Apply();
  }
  void Apply() {
    machine_.SetCd(machine_.host, cd_place_, cd_);
    machine_.SetSte(kSid, ste_.value_or(TestMachine::Stage1Ste(cd_place_)));
    machine_.InvalidateAll();
  }
  void Map(Stage1Leaf leaf, const TableLimits& limits = {}) { tables_.Map(va_, page_, leaf, kLastLevel, limits); }
  // The event of an access that must fail.
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
  Transaction At(uint64_t address) const { return {.sid = kSid, .address = address}; }
  bool Can(Transaction transaction) {
    transaction.sid = kSid;
    transaction.address = va_;
    const bool can = machine_.smmu.Translate(transaction, kNever).result == TransactionResult::kDone;
    machine_.TakeEvents();
    return can;
  }

  TestMachine machine_;
  TestTables tables_;
  uint64_t cd_place_ = 0;
  uint64_t page_bytes_ = 0;
  uint64_t va_ = 0;
  uint64_t page_ = 0;
  Cd cd_;
  std::optional<Ste> ste_;
};

INSTANTIATE_TEST_SUITE_P(Granules, Stage1Test, testing::Values(Granule::k4k, Granule::k16k, Granule::k64k),
                         [](const auto& granule) { return ToString(granule.param); });

TEST_P(Stage1Test, APageTranslates) {
  Map(kUserPage);
  EXPECT_EQ(machine_.Read(kSid, va_), 0x1111u);
  EXPECT_EQ(machine_.Write({.sid = kSid, .address = va_ + 8}, 0x2222).result, TransactionResult::kDone);
  EXPECT_EQ(machine_.host.Read(page_ + 8), 0x2222u);
  const Outcome outcome = machine_.smmu.Translate(At(va_ + 0x123), kNever);
  EXPECT_EQ(outcome.translation.output, page_ + 0x123);
  EXPECT_EQ(outcome.translation.span_log2, GranuleLog2(GetParam()));
  EXPECT_FALSE(outcome.translation.global);
  EXPECT_TRUE(machine_.TakeEvents().empty());
}

TEST_P(Stage1Test, ABlockTranslates) {
  const uint32_t shift = LevelShift(GetParam(), 2);
  const uint64_t va = kVa >> shift << shift;
  const uint64_t output = TestMachine::kHole >> shift << shift;
  tables_.Map(va, output, kUserPage, 2);
  const Outcome outcome = machine_.smmu.Translate(At(va + 0x1234), kNever);
  EXPECT_EQ(outcome.result, TransactionResult::kDone);
  EXPECT_EQ(outcome.translation.output, output + 0x1234);
  EXPECT_EQ(outcome.translation.span_log2, shift);
  // There is nothing behind it.
  uint64_t value = 0;
  EXPECT_EQ(machine_.Read(At(va), value).result, TransactionResult::kNoResponse);
}

TEST_P(Stage1Test, ContiguousPagesAreOneTranslation) {
  const uint32_t count = ContiguousEntries(GetParam(), kLastLevel);
  const uint64_t bytes = page_bytes_ * count;
  const uint64_t va = kVa & ~(bytes - 1);
  Stage1Leaf leaf = kUserPage;
  leaf.contiguous = true;
  for (uint32_t i = 0; i < count; ++i) tables_.Map(va + i * page_bytes_, bytes + i * page_bytes_, leaf);
  const Outcome outcome = machine_.smmu.Translate(At(va + 3 * page_bytes_ + 5), kNever);
  EXPECT_EQ(outcome.translation.output, bytes + 3 * page_bytes_ + 5);
  EXPECT_EQ(uint64_t{1} << outcome.translation.span_log2, bytes);
  // The whole run is cached as one: what is unmapped behind its back is still there.
  tables_.Unmap(va);
  EXPECT_EQ(machine_.smmu.Translate(At(va), kNever).result, TransactionResult::kDone);
}

TEST_P(Stage1Test, AContiguousBitThatContradictsTheAddressIsNoHint) {
  Stage1Leaf leaf = kUserPage;
  leaf.contiguous = true;
  tables_.Map(va_, page_bytes_ * 2 + (va_ == 0 ? page_bytes_ : 0), leaf);
  const Outcome outcome = machine_.smmu.Translate(At(va_), kNever);
  EXPECT_EQ(outcome.translation.span_log2, GranuleLog2(GetParam()));
}

TEST_P(Stage1Test, Faults) {
  Event expected{.id = EventId::kFTranslation, .sid = kSid, .read = true, .address = va_ + 8};
  EXPECT_EQ(Fails(At(va_ + 8)), expected);

  Stage1Leaf leaf = kUserPage;
  leaf.af = false;
  Map(leaf);
  expected.id = EventId::kFAccess;
  expected.read = false;
  EXPECT_EQ(Fails({.sid = kSid, .address = va_ + 8, .write = true}), expected);

  leaf = kUserPage;
  leaf.ap |= kApReadOnly;
  Map(leaf);
  expected.id = EventId::kFPermission;
  EXPECT_EQ(Fails({.sid = kSid, .address = va_ + 8, .write = true}), expected);
}

TEST_P(Stage1Test, AccessFlagFaultsCanBeOff) {
  Stage1Leaf leaf = kUserPage;
  leaf.af = false;
  Map(leaf);
  cd_.affd = true;
  Apply();
  EXPECT_EQ(machine_.Read(kSid, va_), 0x1111u);
}

TEST_P(Stage1Test, AddressesAboveIpsAreAddressSizeFaults) {
  cd_.ips = 1;  // 36 bits
  Apply();
  tables_.Map(va_, uint64_t{1} << 36, kUserPage);
  EXPECT_EQ(Fails(At(va_)).id, EventId::kFAddrSize);
  tables_.Put(tables_.Place(va_, 2), EncodeTable(uint64_t{1} << 36, GetParam()));
  EXPECT_EQ(Fails(At(va_)).id, EventId::kFAddrSize);
}

TEST_P(Stage1Test, AWalkIntoNothingIsAnExternalAbort) {
  Map(kUserPage);
  tables_.Put(tables_.Place(va_, 2), EncodeTable(TestMachine::kHole, GetParam()));
  const Event event = Fails(At(va_));
  EXPECT_EQ(event.id, EventId::kFWalkEabt);
  EXPECT_FALSE(event.stage2);
  EXPECT_EQ(event.cls, EventClass::kTable);
  EXPECT_EQ(event.fetch_address & ~(page_bytes_ - 1), TestMachine::kHole);
  EXPECT_EQ(event.address, va_);
}

TEST_P(Stage1Test, AddressesOutsideOfTheInputRange) {
  Map(kUserPage);
  EXPECT_TRUE(machine_.Read(kSid, va_).has_value());
  EXPECT_EQ(Fails(At(va_ | uint64_t{1} << 48)).id, EventId::kFTranslation);
  // TTB1 is switched off.
  EXPECT_EQ(Fails(At(va_ | uint64_t{0xffff} << 48)).id, EventId::kFTranslation);
  EXPECT_EQ(Fails(At(va_ | uint64_t{0x5a} << 56)).id, EventId::kFTranslation);
  cd_.ttb0.tbi = true;
  Apply();
  EXPECT_EQ(machine_.Read(kSid, va_ | uint64_t{0x5a} << 56), 0x1111u);
  // The fault shows the address as it came.
  EXPECT_EQ(Fails(At((va_ + page_bytes_) | uint64_t{0x5a} << 56)).address, (va_ + page_bytes_) | uint64_t{0x5a} << 56);
}

TEST_P(Stage1Test, TwoTables) {
  TestTables high(&machine_.host, GetParam(), 40);
  cd_.ttb1 = {.tsz = 24, .granule = GetParam(), .ttb = high.root()};
  Apply();
  const uint64_t va = ~((uint64_t{1} << 40) - 1) | 0x10'0000;
  high.Map(va, page_, kUserPage);
  EXPECT_EQ(machine_.Read(kSid, va), 0x1111u);
  // Between the two.
  EXPECT_EQ(Fails(At(va - (uint64_t{1} << 40))).id, EventId::kFTranslation);
  cd_.ttb0.disabled = true;
  Apply();
  EXPECT_EQ(machine_.Read(kSid, va), 0x1111u);
  EXPECT_EQ(Fails(At(va_)).id, EventId::kFTranslation);
}

TEST_P(Stage1Test, ADisabledTableStillHits) {
  Map(kUserPage);
  EXPECT_EQ(machine_.Read(kSid, va_), 0x1111u);
  cd_.ttb0.disabled = true;
  machine_.SetCd(machine_.host, cd_place_, cd_);
  machine_.Issue({{.opcode = Opcode::kCfgiCd, .sid = kSid, .leaf = true}});
  EXPECT_EQ(machine_.Read(kSid, va_), 0x1111u);
  machine_.Issue({{.opcode = Opcode::kTlbiNhVa, .asid = kAsid, .address = va_, .leaf = true}});
  EXPECT_EQ(Fails(At(va_)).id, EventId::kFTranslation);
}

TEST_P(Stage1Test, BigEndianTables) {
  TestTables tables(&machine_.host, GetParam(), 48, true);
  tables.Map(va_, page_, kUserPage);
  cd_ = TestMachine::MakeCd(tables, kAsid);
  cd_.big_endian = true;
  Apply();
  EXPECT_EQ(machine_.Read(kSid, va_), 0x1111u);
}

TEST_P(Stage1Test, SmallInputsStartDeep) {
  for (const uint32_t bits : {25u, 32u, 39u, 42u, 47u}) {
    TestTables tables(&machine_.host, GetParam(), bits);
    const uint64_t va = (kVa & ((uint64_t{1} << bits) - 1)) & ~(page_bytes_ - 1);
    tables.Map(va, page_, kUserPage);
    cd_ = TestMachine::MakeCd(tables, kAsid);
    Apply();
    EXPECT_EQ(machine_.Read(kSid, va), 0x1111u) << bits;
    EXPECT_EQ(Fails(At(uint64_t{1} << bits)).id, EventId::kFTranslation) << bits;
  }
}

TEST_P(Stage1Test, Permissions) {
  const Transaction read{}, write{.write = true}, fetch{.instruction = true};
  const Transaction kernel_read{.privileged = true}, kernel_write{.write = true, .privileged = true},
      kernel_fetch{.privileged = true, .instruction = true};
  const auto rights = [&](Stage1Leaf leaf, const TableLimits& limits = {}) {
    tables_.Put(tables_.Place(va_, 2), 0);  // the tables are made anew, with the limits
    Map(leaf, limits);
    Apply();
    std::string can;
    can += Can(read) ? 'r' : '-';
    can += Can(write) ? 'w' : '-';
    can += Can(fetch) ? 'x' : '-';
    can += Can(kernel_read) ? 'R' : '-';
    can += Can(kernel_write) ? 'W' : '-';
    can += Can(kernel_fetch) ? 'X' : '-';
    return can;
  };
  const auto page = [](uint8_t ap, bool uxn = false, bool pxn = false) {
    return Stage1Leaf{.ap = ap, .af = true, .ng = true, .pxn = pxn, .uxn = uxn};
  };
  EXPECT_EQ(rights(page(0)), "--xRWX");
  EXPECT_EQ(rights(page(1)), "rwxRW-");  // what users write, the kernel does not execute
  EXPECT_EQ(rights(page(2)), "--xR-X");
  EXPECT_EQ(rights(page(3)), "r-xR-X");
  EXPECT_EQ(rights(page(3, true)), "r--R-X");
  EXPECT_EQ(rights(page(3, false, true)), "r-xR--");
  EXPECT_EQ(rights(page(1), {.ap_table = kApTableReadOnly}), "r-xR-X");
  EXPECT_EQ(rights(page(1), {.ap_table = kApTableNoUnprivileged}), "--xRWX");
  EXPECT_EQ(rights(page(1), {.uxn_table = true}), "rw-RW-");
  EXPECT_EQ(rights(page(3), {.pxn_table = true}), "r-xR--");
  cd_.ttb0.had = true;
  EXPECT_EQ(rights(page(1), {.ap_table = 3, .uxn_table = true, .pxn_table = true}), "rwxRW-");
  cd_.ttb0.had = false;
  cd_.wxn = true;
  EXPECT_EQ(rights(page(0)), "--xRW-");
  EXPECT_EQ(rights(page(1)), "rw-RW-");
  EXPECT_EQ(rights(page(3)), "r-xR-X");
  cd_.wxn = false;
  cd_.pan = true;
  EXPECT_EQ(rights(page(0)), "--xRWX");
  EXPECT_EQ(rights(page(1)), "rwx---");
  EXPECT_EQ(rights(page(3)), "r-x--X");
  cd_.pan = false;
  // The stream table overrides what the device says.
  ste_ = TestMachine::Stage1Ste(cd_place_);
  ste_->priv_cfg = 3;
  EXPECT_EQ(rights(page(0)), "rwxRWX");
  ste_->priv_cfg = 2;
  EXPECT_EQ(rights(page(0)), "--x--X");
  ste_->priv_cfg = 0;
  ste_->inst_cfg = 2;
  EXPECT_EQ(rights(page(1, true, true)), "rwxRWX");
  ste_->inst_cfg = 3;
  EXPECT_EQ(rights(page(1)), "rwx-W-");
}

TEST_P(Stage1Test, El2HasOneTableAndNoUnprivilegedSide) {
  Map({.ap = 0, .af = true, .ng = true, .pxn = true});
  ste_ = TestMachine::Stage1Ste(cd_place_);
  ste_->strw = Strw::kNsEl2;
  cd_.ttb0.disabled = true;  // there is no such switch
  Apply();
  EXPECT_TRUE(Can({}));
  EXPECT_TRUE(Can({.instruction = true}));
  EXPECT_TRUE(machine_.smmu.Translate(At(va_), kNever).translation.global);
  EXPECT_EQ(Fails(At(va_ | uint64_t{0xffff} << 48)).id, EventId::kFTranslation);
  // Its translations are its own: only commands for EL2 reach them.
  tables_.Unmap(va_);
  machine_.Issue({{.opcode = Opcode::kTlbiNsnhAll}, {.opcode = Opcode::kTlbiNhAll}});
  EXPECT_TRUE(Can({}));
  machine_.Issue({{.opcode = Opcode::kTlbiEl2Va, .asid = 99, .address = va_}});
  EXPECT_FALSE(Can({}));
}

// With E2H, EL2 has what EL1 has: two tables, an unprivileged side, ASIDs.
TEST_P(Stage1Test, El2WithE2hIsLikeEl1) {
  constexpr uint64_t kHigh = uint64_t{0xffff} << 48;
  constexpr uint16_t kOtherAsid = kAsid + 1;
  machine_.smmu.WriteRegister(Register::kCr0, 0);
  machine_.smmu.WriteRegister(Register::kCr2, cr2::kRecInvSid.mask() | cr2::kE2h.mask());
  machine_.smmu.WriteRegister(Register::kCr0, TestMachine::kCr0);
  ste_ = TestMachine::Stage1Ste(cd_place_);
  ste_->strw = Strw::kNsEl2;
  cd_.ttb1 = cd_.ttb0;
  Apply();
  // The same tables once more, for another stream under another ASID.
  Cd other = cd_;
  other.asid = kOtherAsid;
  const uint64_t other_place = machine_.host.AllocatePage();
  machine_.SetCd(machine_.host, other_place, other);
  Ste other_ste = *ste_;
  other_ste.s1_context_ptr = other_place;
  machine_.SetSte(kSid + 1, other_ste);

  Map({.ap = 0, .af = true, .ng = true});
  EXPECT_FALSE(Can({}));
  EXPECT_TRUE(Can({.privileged = true}));

  // Who still sees a page that is gone: the one ASID, through its other table, the other ASID.
  const auto sees_after = [&](const Command& command, const Stage1Leaf& leaf = kUserPage) {
    Map(leaf);
    machine_.InvalidateAll();
    EXPECT_EQ(machine_.Read(kSid, va_), 0x1111u);
    EXPECT_EQ(machine_.Read(kSid, va_ | kHigh), 0x1111u);
    EXPECT_EQ(machine_.Read(kSid + 1, va_), 0x1111u);
    tables_.Unmap(va_);
    machine_.Issue({command});
    std::string seen;
    if (machine_.Read(kSid, va_).has_value()) seen += 'l';
    if (machine_.Read(kSid, va_ | kHigh).has_value()) seen += 'h';
    if (machine_.Read(kSid + 1, va_).has_value()) seen += 'o';
    machine_.TakeEvents();
    return seen;
  };
  const uint64_t high = va_ | kHigh;
  EXPECT_EQ(sees_after({.opcode = Opcode::kTlbiNsnhAll}), "lho");
  EXPECT_EQ(sees_after({.opcode = Opcode::kTlbiNhVaa, .address = va_}), "lho");
  EXPECT_EQ(sees_after({.opcode = Opcode::kTlbiEl2Asid, .asid = kAsid}), "o");
  EXPECT_EQ(sees_after({.opcode = Opcode::kTlbiEl2Asid, .asid = kOtherAsid}), "lh");
  EXPECT_EQ(sees_after({.opcode = Opcode::kTlbiEl2Va, .asid = kAsid, .address = va_}), "ho");
  EXPECT_EQ(sees_after({.opcode = Opcode::kTlbiEl2Va, .asid = kAsid, .address = high}), "lo");
  EXPECT_EQ(sees_after({.opcode = Opcode::kTlbiEl2Va, .asid = 99, .address = va_}), "lho");
  EXPECT_EQ(sees_after({.opcode = Opcode::kTlbiEl2Vaa, .address = va_}), "h");
  EXPECT_EQ(sees_after({.opcode = Opcode::kTlbiEl2All}), "");
  // Global pages are everybody's.
  EXPECT_EQ(sees_after({.opcode = Opcode::kTlbiEl2Asid, .asid = kAsid}, kGlobalPage), "lho");
  EXPECT_EQ(sees_after({.opcode = Opcode::kTlbiEl2Va, .asid = 99, .address = va_}, kGlobalPage), "h");
}

TEST_P(Stage1Test, SilentFaultsAndRazWi) {
  cd_.record = false;
  Apply();
  uint64_t value = 0;
  const Outcome silent = machine_.Read(At(va_), value);
  EXPECT_EQ(silent.result, TransactionResult::kAborted);
  EXPECT_EQ(silent.event->id, EventId::kFTranslation);
  cd_.abort = false;
  Apply();
  value = 0x77;
  EXPECT_EQ(machine_.Read(At(va_), value).result, TransactionResult::kRazWi);
  EXPECT_EQ(value, 0u);
  EXPECT_EQ(machine_.Write({.sid = kSid, .address = va_}, 1).result, TransactionResult::kRazWi);
  EXPECT_TRUE(machine_.TakeEvents().empty());
}

TEST_P(Stage1Test, AnAccessSpansPages) {
  Map(kUserPage);
  const uint64_t second = machine_.host.AllocatePage(page_bytes_);
  tables_.Map(va_ + page_bytes_, second, kUserPage);
  std::vector<std::byte> data(2 * page_bytes_ - 64);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 7);
  ASSERT_EQ(machine_.smmu.Write(At(va_ + 32), data, kNever).result, TransactionResult::kDone);
  std::vector<std::byte> back(data.size());
  ASSERT_EQ(machine_.smmu.Read(At(va_ + 32), back, kNever).result, TransactionResult::kDone);
  EXPECT_EQ(back, data);
  std::vector<std::byte> tail(8);
  ASSERT_TRUE(machine_.memory.Read(second + page_bytes_ - 40, tail));
  EXPECT_EQ(tail, std::vector<std::byte>(data.end() - 8, data.end()));
  // It stops at the first page that fails.
  tables_.Unmap(va_ + page_bytes_);
  machine_.InvalidateAll();
  std::ranges::fill(data, std::byte{0xee});
  EXPECT_EQ(machine_.smmu.Write(At(va_ + 32), data, kNever).result, TransactionResult::kAborted);
  EXPECT_EQ(machine_.host.Read(page_ + 32), 0xeeee'eeee'eeee'eeeeu);
  EXPECT_NE(machine_.host.Read(second), 0xeeee'eeee'eeee'eeeeu);
  EXPECT_EQ(machine_.TakeEvents().at(0).address, va_ + page_bytes_);
}

}  // namespace
}  // namespace viommu::smmuv3
