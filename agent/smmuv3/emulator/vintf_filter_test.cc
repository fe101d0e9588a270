#include "agent/smmuv3/emulator/vintf_filter.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "agent/smmuv3/spec/command.h"

namespace viommu::smmuv3 {
namespace {

VintfFilter GuestFilter() {
  VintfFilter filter{.vmid = 7, .hyp_own = false, .slots = {}};
  filter.slots[0] = SidSlot{.virt_sid = 0x10, .sid = 0x100};
  filter.slots[5] = SidSlot{.virt_sid = 0, .sid = 0x105};
  return filter;
}

TEST(VintfFilterTest, TlbInvalidationsGetTheInterfacesVmid) {
  const RawCommand by_asid = Encode({.opcode = Opcode::kTlbiNhAsid, .vmid = 3, .asid = 9});
  EXPECT_EQ(GuestFilter().Rewrite(by_asid), Encode({.opcode = Opcode::kTlbiNhAsid, .vmid = 7, .asid = 9}));
  const RawCommand by_va = Encode({.opcode = Opcode::kTlbiNhVa, .vmid = 8, .asid = 9, .address = 0x5000, .leaf = true});
  EXPECT_EQ(GuestFilter().Rewrite(by_va),
            Encode({.opcode = Opcode::kTlbiNhVa, .vmid = 7, .asid = 9, .address = 0x5000, .leaf = true}));
}

TEST(VintfFilterTest, AtcInvalidationsGetThePhysicalStreamId) {
  Command command{.opcode = Opcode::kAtcInv, .sid = 0x10, .ssid = 5, .ssv = true, .address = 0x7000, .size = 3};
  const RawCommand raw = Encode(command);
  command.sid = 0x100;
  EXPECT_EQ(GuestFilter().Rewrite(raw), Encode(command));
}

TEST(VintfFilterTest, StreamIdZeroIsAStreamIdAndAnEmptySlotMatchesNothing) {
  EXPECT_EQ(GuestFilter().Rewrite(Encode({.opcode = Opcode::kAtcInv, .sid = 0})),
            Encode({.opcode = Opcode::kAtcInv, .sid = 0x105}));
  VintfFilter empty;
  EXPECT_EQ(empty.Rewrite(Encode({.opcode = Opcode::kAtcInv, .sid = 0})), std::nullopt);
}

TEST(VintfFilterTest, UnknownStreamIdsAreRefused) {
  EXPECT_EQ(GuestFilter().Rewrite(Encode({.opcode = Opcode::kAtcInv, .sid = 0x11})), std::nullopt);
  // A physical one means nothing to a guest.
  EXPECT_EQ(GuestFilter().Rewrite(Encode({.opcode = Opcode::kAtcInv, .sid = 0x100})), std::nullopt);
  // The same in its low 20 bits.
  EXPECT_EQ(GuestFilter().Rewrite(Encode({.opcode = Opcode::kAtcInv, .sid = 0x100010})), std::nullopt);
}

TEST(VintfFilterTest, ASyncHasNoSignal) {
  const RawCommand sync = Encode({.opcode = Opcode::kSync});
  EXPECT_EQ(GuestFilter().Rewrite(sync), sync);
  for (const uint8_t cs : {kSyncSignalIrq, kSyncSignalSev, uint8_t{3}}) {
    EXPECT_EQ(GuestFilter().Rewrite(Encode({.opcode = Opcode::kSync, .cs = cs})), std::nullopt);
    EXPECT_EQ((VintfFilter{.vmid = 0, .hyp_own = true, .slots = {}})
                  .Rewrite(Encode({.opcode = Opcode::kSync, .address = 0x1000, .cs = cs})),
              std::nullopt);
  }
}

TEST(VintfFilterTest, AGuestCarriesNothingElse) {
  for (const Opcode opcode : kAllOpcodes) {
    const bool carried = opcode == Opcode::kTlbiNhAsid || opcode == Opcode::kTlbiNhVa || opcode == Opcode::kAtcInv ||
                         opcode == Opcode::kSync;
    EXPECT_EQ(GuestFilter().Rewrite(Encode({.opcode = opcode, .sid = 0x10})).has_value(), carried)
        << OpcodeName(static_cast<uint8_t>(opcode));
  }
  EXPECT_EQ(GuestFilter().Rewrite({.dw0 = 0xff}), std::nullopt);
}

TEST(VintfFilterTest, TheHostCarriesEverythingAsItIs) {
  const VintfFilter host{.vmid = 0, .hyp_own = true, .slots = {}};
  for (const Opcode opcode : kAllOpcodes) {
    const RawCommand raw = Encode({.opcode = opcode, .sid = 0x77, .vmid = 3});
    EXPECT_EQ(host.Rewrite(raw), raw) << OpcodeName(static_cast<uint8_t>(opcode));
  }
}

RC_GTEST_PROP(VintfFilterProperty, NothingButOwnVmidAndStreamIdsLeaves, (uint64_t dw0, uint64_t dw1)) {
  const auto opcode = *rc::gen::elementOf(std::vector<Opcode>(kAllOpcodes.begin(), kAllOpcodes.end()));
  const uint32_t sid = *rc::gen::element(0u, 0x10u, 0x100u, static_cast<uint32_t>(dw0 >> 32));
  RawCommand raw{kOpcodeField.Set(dw0, static_cast<uint64_t>(opcode)), dw1};
  if (opcode == Opcode::kAtcInv) raw.dw0 = kSidField.Set(raw.dw0, sid);
  const std::optional<RawCommand> rewritten = GuestFilter().Rewrite(raw);
  if (!rewritten.has_value()) return;
  const std::optional<Command> command = Decode(*rewritten);
  RC_ASSERT(command.has_value());
  RC_ASSERT(command->opcode == opcode);
  RC_ASSERT(rewritten->dw1 == raw.dw1);
  switch (opcode) {
    case Opcode::kTlbiNhAsid:
    case Opcode::kTlbiNhVa:
      RC_ASSERT(command->vmid == 7);
      RC_ASSERT(((rewritten->dw0 ^ raw.dw0) & ~kVmidField.mask()) == 0u);
      break;
    case Opcode::kAtcInv:
      RC_ASSERT(command->sid == 0x100u || command->sid == 0x105u);
      RC_ASSERT(((rewritten->dw0 ^ raw.dw0) & ~kSidField.mask()) == 0u);
      break;
    default:
      RC_ASSERT(opcode == Opcode::kSync);
      RC_ASSERT(command->cs == kSyncSignalNone);
      RC_ASSERT(*rewritten == raw);
  }
}

}  // namespace
}  // namespace viommu::smmuv3
