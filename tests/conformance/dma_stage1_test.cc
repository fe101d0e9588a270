// Permissions and context descriptors.

#include "tests/conformance/guest.h"

namespace viommu::conformance {
namespace {

class DmaStage1 : public DmaSuite {
 protected:
  // Starts the guest with this change to its context descriptor.
  template <typename Change>
  void StartWith(Change change) {
    guest().tables().Map(kVa, memory().Filled(kOld));
    smmuv3::Cd descriptor = MakeCd(kAsid, guest().tables(), Ips());
    change(descriptor);
    guest().cds().Set(0, descriptor);
    guest().Attach(guest().cds().Vste());
  }
  // With a writable page at kVa, in a table whose descriptor forbids writing.
  void StartBehindReadOnlyTable() {
    guest().tables().Map(kVa, memory().Filled(kOld));
    const uint64_t slot = guest().tables().Slot(kVa, 2);
    memory().Write(slot, smmuv3::descriptor::kApTable.Set(memory().Read(slot), smmuv3::kApTableReadOnly));
    guest().Start();
  }
};
CONFORMANCE_RIGS(DmaStage1);

TEST_P(DmaStage1, ReadOnlyPage) {
  const uint64_t page = memory().Filled(kOld);
  guest().tables().Map(kVa, page, {.writable = false});
  guest().Start();
  EXPECT_EQ(Read(kVa), kOld);
  EXPECT_FALSE(Write(kVa, kNew));
  EXPECT_EQ(memory().Read(page), kOld);
}

TEST_P(DmaStage1, WithoutAccessFlag) {
  guest().tables().Map(kVa, memory().Filled(kOld), {.accessed = false});
  guest().Start();
  EXPECT_EQ(Read(kVa), kRefused);
}

TEST_P(DmaStage1, AccessFlagFaultsDisabled) {
  guest().tables().Map(kVa + 4096, memory().Filled(kNew), {.accessed = false});
  StartWith([](smmuv3::Cd& descriptor) { descriptor.affd = true; });
  EXPECT_EQ(Read(kVa + 4096), kNew);
}

TEST_P(DmaStage1, Stage2LimitsWhatStage1Allows) {
  MemoryFile file(4096);
  file.Fill(kOld);
  MemoryHandle handle = file.handle();
  handle.writable = false;
  ASSERT_OK(vm()->MapIoas(vm().ioas(), 0x8000'0000, 4096, handle));
  guest().tables().Map(kVa, 0x8000'0000);
  guest().Start();
  EXPECT_EQ(Read(kVa), kOld);
  EXPECT_FALSE(Write(kVa, kNew));
}

TEST_P(DmaStage1, APageThatStage2DoesNotHave) {
  guest().tables().Map(kVa, kMemoryBase + kMemoryBytes);
  guest().Start();
  EXPECT_EQ(Read(kVa), kRefused);
}

TEST_P(DmaStage1, TablesThatStage2DoesNotHave) {
  StartWith([](smmuv3::Cd& descriptor) { descriptor.ttb0.ttb = kMemoryBase + kMemoryBytes; });
  EXPECT_EQ(Read(kVa), kRefused);
}

TEST_P(DmaStage1, DescriptorsThatStage2DoesNotHave) {
  RawVste vste = guest().cds().Vste();
  vste.dw0 = (vste.dw0 & ~smmuv3::ste::kS1ContextPtr.mask()) | (kMemoryBase + kMemoryBytes);
  guest().Attach(vste);
  EXPECT_EQ(Read(kVa), kRefused);
}

TEST_P(DmaStage1, InvalidDescriptor) {
  StartWith([](smmuv3::Cd& descriptor) { descriptor.valid = false; });
  EXPECT_EQ(Read(kVa), kRefused);
}

TEST_P(DmaStage1, DisabledTables) {
  StartWith([](smmuv3::Cd& descriptor) { descriptor.ttb0.disabled = true; });
  EXPECT_EQ(Read(kVa), kRefused);
}

TEST_P(DmaStage1, AddressBetweenTheTables) {
  StartWith([](smmuv3::Cd&) {});
  EXPECT_EQ(Read(kVa), kOld);
  EXPECT_EQ(Read(kVa | (uint64_t{1} << 48)), kRefused);
  EXPECT_EQ(Read(kVa | (uint64_t{1} << 55)), kRefused);
}

TEST_P(DmaStage1, TopByte) {
  StartWith([](smmuv3::Cd& descriptor) { descriptor.ttb0.tbi = true; });
  EXPECT_EQ(Read(kVa | (uint64_t{0x5a} << 56)), kOld);
}

TEST_P(DmaStage1, TopByteThatIsNotIgnored) {
  StartWith([](smmuv3::Cd&) {});
  EXPECT_EQ(Read(kVa | (uint64_t{0x5a} << 56)), kRefused);
}

TEST_P(DmaStage1, OutputBeyondTheIntermediateSize) {
  StartWith([](smmuv3::Cd& descriptor) { descriptor.ips = 0; });  // 32 bits
  guest().tables().Map(kVa + 4096, uint64_t{1} << 33);
  EXPECT_EQ(Read(kVa), kOld);
  EXPECT_EQ(Read(kVa + 4096), kRefused);
}

TEST_P(DmaStage1, TableThatForbidsWriting) {
  StartBehindReadOnlyTable();
  EXPECT_FALSE(Write(kVa, kNew));
}

// What the walk of the read leaves in a TLB forbids it, too.
TEST_P(DmaStage1, TableThatForbidsWritingAfterARead) {
  StartBehindReadOnlyTable();
  EXPECT_EQ(Read(kVa), kOld);
  EXPECT_FALSE(Write(kVa, kNew));
}

TEST_P(DmaStage1, ABlockWhereThereMayBeNone) {
  guest().tables().Map(kVa, kMemoryBase & ~((uint64_t{1} << 39) - 1), {}, 0);
  guest().Start();
  EXPECT_EQ(Read(kVa), kRefused);
}

TEST_P(DmaStage1, TwoGuestsWithTheSameAsid) {
  NEED_DEVICE(a1, Role::kA1);
  NEED_DMA(a1);
  NEED_SECOND_VM();
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().Start();
  Vm other(Open());
  GuestMemory others(other.memory());
  Guest theirs(other, others, a1, 0x10, Ips());
  theirs.tables().Map(kVa, others.Filled(kNew));
  theirs.Start();
  EXPECT_EQ(Read(kVa), kOld);
  EXPECT_EQ(Read({.device = a1, .address = kVa}), kNew);
  EXPECT_EQ(Read(kVa), kOld);
}

TEST_P(DmaStage1, TwoDevicesOfAGuestWithTwoAsids) {
  NEED_DEVICE(a1, Role::kA1);
  NEED_DMA(a1);
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().Start();
  Guest second(vm(), memory(), a1, 0x20, Ips(), Granule::k4k, &guest().function());
  second.tables().Map(kVa, memory().Filled(kNew));
  second.Start(kAsid + 1);
  EXPECT_EQ(Read(kVa), kOld);
  EXPECT_EQ(Read({.device = a1, .address = kVa}), kNew);
}

TEST_P(DmaStage1, TwoDevicesOfAGuestWithOneAddressSpace) {
  NEED_DEVICE(a1, Role::kA1);
  NEED_DMA(a1);
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().Start();
  Guest second(vm(), memory(), a1, 0x20, Ips(), Granule::k4k, &guest().function());
  second.Attach(guest().cds().Vste());
  EXPECT_EQ(Read(kVa), kOld);
  EXPECT_EQ(Read({.device = a1, .address = kVa}), kOld);
  // One command invalidates for both.
  guest().tables().Map(kVa, memory().Filled(kNew));
  guest().Send(NhVa(kAsid, kVa));
  EXPECT_EQ(Read(kVa), kNew);
  EXPECT_EQ(Read({.device = a1, .address = kVa}), kNew);
}

}  // namespace
}  // namespace viommu::conformance
