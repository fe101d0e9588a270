// Cached context descriptors, and what an unmap of the host reaches.

#include <memory>

#include "tests/conformance/guest.h"

namespace viommu::conformance {
namespace {

using smmuv3::Command;
using smmuv3::S1Fmt;

constexpr uint16_t kOtherAsid = kAsid + 1;

// ---- Context descriptors --------------------------------------------------------------------------------------------

class DmaConfig : public DmaSuite {
 protected:
  // Reads through the first descriptor, then writes another one with these tables and ASID.
  void Fill(uint16_t next_asid) {
    guest().tables().Map(kVa, memory().Filled(kOld));
    guest().Start();
    ASSERT_EQ(Read(kVa), kOld);
    next_ = std::make_unique<Stage1>(memory(), Granule::k4k);
    next_->Map(kVa, memory().Filled(kNew));
    guest().cds().Set(0, MakeCd(next_asid, *next_, Ips()));
  }
  void TearDown() override {
    next_.reset();
    DmaSuite::TearDown();
  }

 private:
  std::unique_ptr<Stage1> next_;
};
CONFORMANCE_RIGS(DmaConfig);

TEST_P(DmaConfig, TlbiWithoutCfgiLeavesTheOldDescriptor) {
  Fill(kAsid);
  guest().Send(NhAll());
  ExpectStale(kVa, kOld, kNew);
  guest().Send(NsnhAll());
  ExpectStale(kVa, kOld, kNew);
  const Command both[] = {CfgiCd(guest().vsid()), NhAll()};
  guest().Send(both);
  EXPECT_EQ(Read(kVa), kNew);
}

TEST_P(DmaConfig, CfgiWithoutTlbiLeavesTheOldTranslation) {
  Fill(kAsid);
  guest().Send(CfgiCd(guest().vsid()));
  ExpectStale(kVa, kOld, kNew);
  guest().Send(NhVa(kAsid, kVa));
  EXPECT_EQ(Read(kVa), kNew);
}

TEST_P(DmaConfig, AnotherAsidNeedsCfgiAlone) {
  Fill(kOtherAsid);
  ExpectStale(kVa, kOld, kNew);
  guest().Send(CfgiCd(guest().vsid()));
  EXPECT_EQ(Read(kVa), kNew);
}

TEST_P(DmaConfig, CfgiCdAll) {
  Fill(kOtherAsid);
  guest().Send(CfgiCdAll(guest().vsid()));
  EXPECT_EQ(Read(kVa), kNew);
}

TEST_P(DmaConfig, CfgiCdThatIsNoLeaf) {
  Fill(kOtherAsid);
  Command command = CfgiCd(guest().vsid());
  command.leaf = false;
  guest().Send(command);
  EXPECT_EQ(Read(kVa), kNew);
}

TEST_P(DmaConfig, CfgiCdOfAnotherVsidDoesNothing) {
  NEED_DEVICE(a1, Role::kA1);
  Fill(kOtherAsid);
  vm().Plug(a1, 0x20, &guest().function());
  guest().Send(CfgiCd(0x20));
  ExpectStale(kVa, kOld, kNew);
  guest().Send(CfgiCdAll(0x20));
  ExpectStale(kVa, kOld, kNew);
}

TEST_P(DmaConfig, CfgiCdOfAnotherSsidDoesNothing) {
  if (SmmuOf(A0()).ssid_bits < 3) GTEST_SKIP() << "SMMU A has no SubstreamIDs";
  Fill(kOtherAsid);
  guest().Send(CfgiCd(guest().vsid(), 3));
  ExpectStale(kVa, kOld, kNew);
}

TEST_P(DmaConfig, CfgiCdOfAnUnknownVsidDoesNothing) {
  Fill(kOtherAsid);
  EXPECT_ERRNO(EIO, vm().Send(guest().function().viommu, CfgiCdAll(0x77)));
  ExpectStale(kVa, kOld, kNew);
}

TEST_P(DmaConfig, ADescriptorThatBecomesInvalid) {
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().Start();
  ASSERT_EQ(Read(kVa), kOld);
  guest().cds().Clear(0);
  ExpectStale(kVa, kOld, kRefused);
  guest().Send(CfgiCd(guest().vsid()));
  EXPECT_EQ(Read(kVa), kRefused);
}

// Linux writes nothing where the physical entry is the same as before, and then invalidates nothing either: who wants
// the context descriptors to be read anew says so.
TEST_P(DmaConfig, AttachingToTheSameEntryReadsNothingAnew) {
  Fill(kOtherAsid);
  guest().Attach(guest().cds().Vste());
  ExpectStale(kVa, kOld, kNew);
  guest().Send(CfgiCdAll(guest().vsid()));
  EXPECT_EQ(Read(kVa), kNew);
}

TEST_P(DmaConfig, VsidOfTheVdeviceOfNow) {
  Fill(kOtherAsid);
  const Function& function = guest().function();
  ASSERT_OK(vm()->Destroy(function.vdevice));
  EXPECT_ERRNO(EIO, vm().Send(function.viommu, CfgiCd(guest().vsid())));
  vm().Vdevice(function.viommu, function.device, 0x44);
  guest().Send(CfgiCd(0x44));
  EXPECT_EQ(Read(kVa), kNew);
}

// ---- Stage 2 --------------------------------------------------------------------------------------------------------

class DmaUnmap : public DmaSuite {
 protected:
  static constexpr uint64_t kWindow = 0x8000'0000;
  void SetUp() override {
    DmaSuite::SetUp();
    if (IsSkipped()) return;
    file_ = std::make_unique<MemoryFile>(1 << 20);
    file_->Fill(kOld);
    ASSERT_OK(vm()->MapIoas(vm().ioas(), kWindow, file_->bytes(), file_->handle()));
  }
  void TearDown() override {
    DmaSuite::TearDown();
    file_.reset();
  }
  void Unmap() { ASSERT_EQ(Must(vm()->UnmapIoas(vm().ioas(), kWindow, 1 << 20)), uint64_t{1} << 20); }

 private:
  std::unique_ptr<MemoryFile> file_;
};
CONFORMANCE_RIGS(DmaUnmap);

TEST_P(DmaUnmap, ReachesCombinedEntries) {
  guest().tables().Map(kVa, kWindow);
  guest().Start();
  ASSERT_EQ(Read(kVa), kOld);
  Unmap();
  EXPECT_EQ(Read(kVa), kRefused);
}

TEST_P(DmaUnmap, ReachesBypass) {
  guest().Attach(smmuv3::kBypassVste);
  ASSERT_EQ(Read(kWindow), kOld);
  Unmap();
  EXPECT_EQ(Read(kWindow), kRefused);
}

TEST_P(DmaUnmap, ReachesEntriesOfEveryAsid) {
  guest().tables().Map(kVa, kWindow);
  guest().Start();
  ASSERT_EQ(Read(kVa), kOld);
  guest().cds().Set(0, MakeCd(kOtherAsid, guest().tables(), Ips()));
  guest().Send(CfgiCd(guest().vsid()));
  ASSERT_EQ(Read(kVa), kOld);
  Unmap();
  EXPECT_EQ(Read(kVa), kRefused);
  guest().cds().Set(0, MakeCd(kAsid, guest().tables(), Ips()));
  guest().Send(CfgiCd(guest().vsid()));
  EXPECT_EQ(Read(kVa), kRefused);
}

TEST_P(DmaUnmap, ReachesEveryViommuOnTheStage2) {
  NEED_DEVICE(a1, Role::kA1);
  NEED_DMA(a1);
  guest().tables().Map(kVa, kWindow);
  guest().Start();
  Function second;
  second.pci = a1;
  second.device = vm().Bind(a1);
  second.stage2 = guest().function().stage2;
  second.viommu = vm().Viommu(second.device, second.stage2);
  vm().Vdevice(second.viommu, second.device, 0x10);
  ASSERT_OK(vm()->Attach(second.device, vm().Nested(second, guest().cds().Vste())));
  ASSERT_EQ(Read(kVa), kOld);
  ASSERT_EQ(Read({.device = a1, .address = kVa}), kOld);
  Unmap();
  EXPECT_EQ(Read(kVa), kRefused);
  EXPECT_EQ(Read({.device = a1, .address = kVa}), kRefused);
}

TEST_P(DmaUnmap, ReachesAtcs) {
  NEED_DEVICE(pci, Role::kPasid);
  NEED_DMA(pci);
  NEED_ATS(pci);
  NEED_PASIDS(pci);
  Vm other(Open());
  GuestMemory others(other.memory());
  MemoryFile file(4096);
  file.Fill(kOld);
  ASSERT_OK(other->MapIoas(other.ioas(), kWindow, 4096, file.handle()));
  Guest with_ats(other, others, pci, 0x10, Ips());
  with_ats.tables().Map(kVa, kWindow);
  with_ats.Start();
  CdTable cds(others, S1Fmt::kLinear, 1);
  for (const uint32_t ssid : {0, 1}) cds.Set(ssid, MakeCd(kAsid, with_ats.tables(), Ips()));
  with_ats.Attach(cds.Vste(smmuv3::S1Dss::kSsid0, smmuv3::kEatsTranslate));
  const DmaAddress from = {.device = pci, .address = kVa, .use_ats = true};
  DmaAddress of_a_pasid = from;
  of_a_pasid.pasid = 1;
  ASSERT_EQ(Read(from), kOld);
  ASSERT_EQ(Read(of_a_pasid), kOld);
  ASSERT_OK(other->UnmapIoas(other.ioas(), kWindow, 4096));
  // Something else may lie now where the page was.
  MemoryFile next(4096);
  next.Fill(kNew);
  ASSERT_OK(other->MapIoas(other.ioas(), 2 * kWindow, 4096, next.handle()));
  EXPECT_EQ(Read(from), kRefused);
  EXPECT_EQ(Read(of_a_pasid), kRefused);
}

TEST_P(DmaUnmap, LeavesOtherMappings) {
  guest().tables().Map(kVa, kWindow);
  guest().tables().Map(kVa + 0x1000, memory().Filled(kOld));
  guest().Start();
  ASSERT_EQ(Read(kVa), kOld);
  ASSERT_EQ(Read(kVa + 0x1000), kOld);
  Unmap();
  EXPECT_EQ(Read(kVa + 0x1000), kOld);
}

TEST_P(DmaUnmap, OfTheGuestsTables) {
  Stage1 tables(memory(), Granule::k4k);
  tables.Map(kVa, memory().Filled(kOld));
  // The root lies in the window.
  Vm& machine = vm();
  guest();
  smmuv3::Cd descriptor = MakeCd(kAsid, tables, Ips());
  descriptor.ttb0.ttb = kWindow;
  DmaAddress to = {.device = A0(), .address = kWindow + ((kVa >> 39) & 511) * 8};
  guest().Attach(smmuv3::kBypassVste);
  ASSERT_TRUE(Write(to, memory().Read(tables.Slot(kVa, 0))));
  guest().cds().Set(0, descriptor);
  guest().Attach(guest().cds().Vste());
  ASSERT_EQ(Read(kVa), kOld);
  ASSERT_OK(machine->UnmapIoas(machine.ioas(), kWindow, 1 << 20));
  EXPECT_EQ(Read(kVa), kRefused);
}

TEST_P(DmaUnmap, ThenOtherMemory) {
  guest().tables().Map(kVa, kWindow);
  guest().Start();
  ASSERT_EQ(Read(kVa), kOld);
  Unmap();
  ASSERT_OK(vm()->MapIoas(vm().ioas(), kWindow, 4096, vm().memory().handle(memory().Filled(kNew) - kMemoryBase)));
  EXPECT_EQ(Read(kVa), kNew);
}

}  // namespace
}  // namespace viommu::conformance
