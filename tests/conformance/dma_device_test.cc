// PASIDs, and devices that cache translations (ATS).

#include "tests/conformance/guest.h"

namespace viommu::conformance {
namespace {

using smmuv3::Command;
using smmuv3::S1Dss;
using smmuv3::S1Fmt;

constexpr uint16_t kOtherAsid = kAsid + 1;

// ---- PASIDs ---------------------------------------------------------------------------------------------------------

class DmaPasid : public DmaSuite {
 protected:
  void SetUp() override {
    DmaSuite::SetUp();
    if (IsSkipped()) return;
    pci_ = rig().Device(Role::kPasid);
    if (pci_.empty()) GTEST_SKIP() << "the rig lacks " << RoleName(Role::kPasid);
    NEED_PASIDS(pci_);
    own_ = std::make_unique<Guest>(vm(), memory(), pci_, 0x10, Ips());
  }
  void TearDown() override {
    own_.reset();
    DmaSuite::TearDown();
  }

  Guest& own() { return *own_; }
  DmaAddress As(std::optional<uint32_t> pasid, uint64_t address = kVa) const {
    return {.device = pci_, .address = address, .pasid = pasid};
  }
  std::optional<uint64_t> ReadAs(std::optional<uint32_t> pasid, uint64_t address = kVa) {
    return Read(As(pasid, address));
  }
  // A context descriptor with one page at kVa that holds `word`.
  smmuv3::Cd Space(uint16_t asid, uint64_t word) {
    Stage1 tables(memory(), Granule::k4k);
    tables.Map(kVa, memory().Filled(word));
    return MakeCd(asid, tables, Ips());
  }

 private:
  std::string pci_;
  std::unique_ptr<Guest> own_;
};
CONFORMANCE_RIGS(DmaPasid);

TEST_P(DmaPasid, EachPasidHasItsSpace) {
  CdTable cds(memory(), S1Fmt::kLinear, 3);
  for (uint32_t ssid = 0; ssid < 8; ++ssid) cds.Set(ssid, Space(static_cast<uint16_t>(10 + ssid), 100 + ssid));
  own().Attach(cds.Vste());
  for (uint32_t ssid = 0; ssid < 8; ++ssid) EXPECT_EQ(ReadAs(ssid), 100 + ssid);
}

TEST_P(DmaPasid, BeyondTheTable) {
  CdTable cds(memory(), S1Fmt::kLinear, 3);
  cds.Set(7, Space(10, kOld));
  own().Attach(cds.Vste());
  EXPECT_EQ(ReadAs(7), kOld);
  EXPECT_EQ(ReadAs(8), kRefused);
  EXPECT_EQ(ReadAs(0xfffff), kRefused);
}

TEST_P(DmaPasid, WithoutADescriptor) {
  CdTable cds(memory(), S1Fmt::kLinear, 3);
  cds.Set(1, Space(10, kOld));
  own().Attach(cds.Vste());
  EXPECT_EQ(ReadAs(1), kOld);
  EXPECT_EQ(ReadAs(2), kRefused);
}

TEST_P(DmaPasid, OneDescriptorTakesNoPasids) {
  own().tables().Map(kVa, memory().Filled(kOld));
  own().Start();
  EXPECT_EQ(ReadAs({}), kOld);
  EXPECT_EQ(ReadAs(1), kRefused);
}

TEST_P(DmaPasid, S1DssTerminate) {
  CdTable cds(memory(), S1Fmt::kLinear, 3);
  cds.Set(0, Space(10, kOld));
  own().Attach(cds.Vste(S1Dss::kTerminate));
  EXPECT_EQ(ReadAs({}), kRefused);
  EXPECT_EQ(ReadAs(0), kOld);
}

TEST_P(DmaPasid, S1DssBypass) {
  CdTable cds(memory(), S1Fmt::kLinear, 3);
  cds.Set(0, Space(10, kOld));
  own().Attach(cds.Vste(S1Dss::kBypass));
  const uint64_t page = memory().Filled(kNew);
  EXPECT_EQ(ReadAs({}, page), kNew);  // a guest-physical address
  EXPECT_EQ(ReadAs({}, kVa), kRefused);
  EXPECT_EQ(ReadAs(0), kOld);
}

TEST_P(DmaPasid, S1DssSsid0) {
  CdTable cds(memory(), S1Fmt::kLinear, 3);
  cds.Set(0, Space(10, kOld));
  cds.Set(1, Space(11, kNew));
  own().Attach(cds.Vste(S1Dss::kSsid0));
  EXPECT_EQ(ReadAs({}), kOld);
  EXPECT_EQ(ReadAs(1), kNew);
  EXPECT_EQ(ReadAs(0), kRefused);  // descriptor 0 is for accesses without PASID
}

TEST_P(DmaPasid, TwoLevelsOf4k) {
  CdTable cds(memory(), S1Fmt::kTwoLevel4k, 10);
  cds.Set(0, Space(10, 100));
  cds.Set(63, Space(11, 101));
  cds.Set(64, Space(12, 102));
  cds.Set(1023, Space(13, 103));
  own().Attach(cds.Vste());
  EXPECT_EQ(ReadAs(0), 100u);
  EXPECT_EQ(ReadAs(63), 101u);
  EXPECT_EQ(ReadAs(64), 102u);
  EXPECT_EQ(ReadAs(1023), 103u);
  EXPECT_EQ(ReadAs(200), kRefused);  // no level-2 table
  EXPECT_EQ(ReadAs(1024), kRefused);
}

TEST_P(DmaPasid, TwoLevelsOf64k) {
  CdTable cds(memory(), S1Fmt::kTwoLevel64k, 12);
  cds.Set(5, Space(10, 100));
  cds.Set(1023, Space(11, 101));
  cds.Set(1024, Space(12, 102));
  own().Attach(cds.Vste());
  EXPECT_EQ(ReadAs(5), 100u);
  EXPECT_EQ(ReadAs(1023), 101u);
  EXPECT_EQ(ReadAs(1024), 102u);
  EXPECT_EQ(ReadAs(2048), kRefused);
}

TEST_P(DmaPasid, ALevel2TableThatComesLater) {
  CdTable cds(memory(), S1Fmt::kTwoLevel64k, 12);
  cds.Set(5, Space(10, 100));
  own().Attach(cds.Vste());
  EXPECT_EQ(ReadAs(5), 100u);
  EXPECT_EQ(ReadAs(2048), kRefused);
  cds.Set(2048, Space(11, 101));
  Command command = CfgiCd(own().vsid(), 2048);
  command.leaf = false;
  own().Send(command);
  EXPECT_EQ(ReadAs(2048), 101u);
}

TEST_P(DmaPasid, CfgiCdReachesOneSsid) {
  CdTable cds(memory(), S1Fmt::kLinear, 3);
  cds.Set(1, Space(10, kOld));
  cds.Set(2, Space(11, kOld));
  own().Attach(cds.Vste());
  ASSERT_EQ(ReadAs(1), kOld);
  ASSERT_EQ(ReadAs(2), kOld);
  cds.Set(1, Space(12, kNew));
  cds.Set(2, Space(13, kNew));
  own().Send(CfgiCd(own().vsid(), 1));
  EXPECT_EQ(ReadAs(1), kNew);
  ExpectStale(As(2), kOld, kNew);
  own().Send(CfgiCdAll(own().vsid()));
  EXPECT_EQ(ReadAs(2), kNew);
}

TEST_P(DmaPasid, TwoPasidsOfOneAsidShareTheTlb) {
  CdTable cds(memory(), S1Fmt::kLinear, 3);
  const smmuv3::Cd space = Space(10, kOld);
  cds.Set(1, space);
  cds.Set(2, space);
  own().Attach(cds.Vste());
  EXPECT_EQ(ReadAs(1), kOld);
  EXPECT_EQ(ReadAs(2), kOld);
}

TEST_P(DmaPasid, NhAsidReachesOnePasid) {
  Stage1 one(memory(), Granule::k4k);
  Stage1 other(memory(), Granule::k4k);
  one.Map(kVa, memory().Filled(kOld));
  other.Map(kVa, memory().Filled(kOld));
  CdTable cds(memory(), S1Fmt::kLinear, 3);
  cds.Set(1, MakeCd(10, one, Ips()));
  cds.Set(2, MakeCd(11, other, Ips()));
  own().Attach(cds.Vste());
  ASSERT_EQ(ReadAs(1), kOld);
  ASSERT_EQ(ReadAs(2), kOld);
  const uint64_t page = memory().Filled(kNew);
  one.Map(kVa, page);
  other.Map(kVa, page);
  own().Send(NhAsid(10));
  EXPECT_EQ(ReadAs(1), kNew);
  ExpectStale(As(2), kOld, kNew);
  own().Send(NhAsid(11));
  EXPECT_EQ(ReadAs(2), kNew);
}

TEST_P(DmaPasid, AbortRefusesPasids) {
  own().Attach(smmuv3::kAbortVste);
  EXPECT_EQ(ReadAs(1), kRefused);
}

TEST_P(DmaPasid, TooManyDescriptorsForTheSmmu) {
  CdTable cds(memory(), S1Fmt::kLinear, 3);
  cds.Set(1, Space(10, kOld));
  RawVste vste = cds.Vste();
  vste.dw0 = smmuv3::ste::kS1CdMax.Set(vste.dw0, 31);
  own().Attach(vste);
  EXPECT_EQ(ReadAs(1), kRefused);  // the SMMU finds the entry illegal
  EXPECT_EQ(ReadAs({}), kRefused);
}

TEST_P(DmaPasid, ReservedS1Dss) {
  CdTable cds(memory(), S1Fmt::kLinear, 3);
  cds.Set(1, Space(10, kOld));
  RawVste vste = cds.Vste();
  vste.dw1 = smmuv3::ste::kS1Dss.Set(vste.dw1, 3);
  own().Attach(vste);
  EXPECT_EQ(ReadAs({}), kRefused);
}

// ---- ATS ------------------------------------------------------------------------------------------------------------

class DmaAts : public DmaSuite {
 protected:
  void SetUp() override {
    DmaSuite::SetUp();
    if (IsSkipped()) return;
    pci_ = rig().Device(Role::kAts);
    if (pci_.empty()) GTEST_SKIP() << "the rig lacks " << RoleName(Role::kAts);
    NEED_ATS(pci_);
    own_ = std::make_unique<Guest>(vm(), memory(), pci_, 0x10, Ips());
  }
  void TearDown() override {
    own_.reset();
    DmaSuite::TearDown();
  }

  Guest& own() { return *own_; }
  DmaAddress At(uint64_t address) const { return {.device = pci_, .address = address, .use_ats = true}; }
  // Lets the device fetch and keep the translation of kVa.
  void Fill() {
    own().tables().Map(kVa, memory().Filled(kOld));
    own().Start();
    own().Attach(own().cds().Vste(S1Dss::kTerminate, smmuv3::kEatsTranslate));
    ASSERT_EQ(Read(At(kVa)), kOld);
  }
  // Moves the page and tells the SMMU, but not the device.
  void Move() {
    own().tables().Map(kVa, memory().Filled(kNew));
    own().Send(NhVa(kAsid, kVa));
  }

 private:
  std::string pci_;
  std::unique_ptr<Guest> own_;
};
CONFORMANCE_RIGS(DmaAts);

TEST_P(DmaAts, Translates) {
  Fill();
  EXPECT_TRUE(Write(At(kVa + 8), kNew));
  EXPECT_EQ(Read(At(kVa + 8)), kNew);
  EXPECT_EQ(Read(At(kVa + 0x1000)), kRefused);
}

TEST_P(DmaAts, TlbiLeavesTheDevicesCache) {
  Fill();
  Move();
  ExpectStale(At(kVa), kOld, kNew);
  own().Send(AtcInvAll(own().vsid()));
  EXPECT_EQ(Read(At(kVa)), kNew);
}

TEST_P(DmaAts, AccessesPastTheCacheSeeTheNewPage) {
  Fill();
  Move();
  DmaAddress direct = At(kVa);
  direct.use_ats = false;
  EXPECT_EQ(Read(direct), kNew);
}

TEST_P(DmaAts, AtcInvOfThePage) {
  Fill();
  Move();
  own().Send(AtcInv(own().vsid(), kVa, 0));
  EXPECT_EQ(Read(At(kVa)), kNew);
}

TEST_P(DmaAts, AtcInvOfTheNextPageDoesNothing) {
  Fill();
  Move();
  own().Send(AtcInv(own().vsid(), kVa + 0x1000, 0));
  ExpectStale(At(kVa), kOld, kNew);
}

TEST_P(DmaAts, AtcInvOfABlockAround) {
  Fill();
  Move();
  own().Send(AtcInv(own().vsid(), kVa & ~uint64_t{0xffff}, 4));
  EXPECT_EQ(Read(At(kVa)), kNew);
}

TEST_P(DmaAts, AtcInvOfABlockBeside) {
  Fill();
  Move();
  own().Send(AtcInv(own().vsid(), (kVa & ~uint64_t{0xffff}) + 0x10000, 4));
  ExpectStale(At(kVa), kOld, kNew);
  own().Send(AtcInv(own().vsid(), (kVa & ~uint64_t{0xffff}) - 0x10000, 4));
  ExpectStale(At(kVa), kOld, kNew);
}

TEST_P(DmaAts, A5_AtcInvOfAnotherVsidDoesNothing) {
  NEED_DEVICE(a1, Role::kA1);
  Fill();
  vm().Plug(a1, 0x20, &own().function());
  Move();
  own().Send(AtcInvAll(0x20));
  ExpectStale(At(kVa), kOld, kNew);
}

TEST_P(DmaAts, AtcInvDoesNotReachTheTlb) {
  Fill();
  DmaAddress direct = At(kVa);
  direct.use_ats = false;
  ASSERT_EQ(Read(direct), kOld);
  own().tables().Map(kVa, memory().Filled(kNew));
  own().Send(AtcInvAll(own().vsid()));
  ExpectStale(direct, kOld, kNew);
}

TEST_P(DmaAts, AtcInvBeforeTlbiFillsTheOldAgain) {
  Fill();
  own().tables().Map(kVa, memory().Filled(kNew));
  own().Send(AtcInvAll(own().vsid()));
  ExpectStale(At(kVa), kOld, kNew);  // asks the SMMU, whose TLB is stale
  const Command commands[] = {NhVa(kAsid, kVa), AtcInvAll(own().vsid())};
  own().Send(commands);
  EXPECT_EQ(Read(At(kVa)), kNew);
}

// The device is told that ATS is off, and goes on without.
TEST_P(DmaAts, WithoutEatsNothingIsCached) {
  own().tables().Map(kVa, memory().Filled(kOld));
  own().Start();
  ASSERT_EQ(Read(At(kVa)), kOld);
  Move();
  EXPECT_EQ(Read(At(kVa)), kNew);
}

TEST_P(DmaAts, TakingEatsAwayEmptiesTheDevice) {
  Fill();
  Move();
  own().Attach(own().cds().Vste());
  EXPECT_EQ(Read(At(kVa)), kNew);
  own().Attach(own().cds().Vste(S1Dss::kTerminate, smmuv3::kEatsTranslate));
  EXPECT_EQ(Read(At(kVa)), kNew);
}

TEST_P(DmaAts, DetachEmptiesTheDevice) {
  Fill();
  ASSERT_OK(vm()->Detach(own().function().device));
  EXPECT_EQ(Read(At(kVa)), kRefused);
}

TEST_P(DmaAts, BypassKeepsAtsOn) {
  const uint64_t page = memory().Filled(kOld);
  own().Attach(smmuv3::kBypassVste);
  EXPECT_EQ(Read(At(page)), kOld);
}

TEST_P(DmaAts, AReadOnlyPageIsNotWritten) {
  own().tables().Map(kVa, memory().Filled(kOld), {.writable = false});
  own().Start();
  own().Attach(own().cds().Vste(S1Dss::kTerminate, smmuv3::kEatsTranslate));
  EXPECT_EQ(Read(At(kVa)), kOld);
  EXPECT_FALSE(Write(At(kVa), kNew));
}

TEST_P(DmaAts, UnbindEmptiesTheDevice) {
  Fill();
  const std::string pci = own().pci();
  ASSERT_OK(vm()->UnbindDevice(pci));
  Vm next(Open());
  GuestMemory memories(next.memory());
  Guest again(next, memories, pci, 0x10, Ips());
  again.tables().Map(kVa, memories.Filled(kNew));
  again.Start();
  again.Attach(again.cds().Vste(S1Dss::kTerminate, smmuv3::kEatsTranslate));
  EXPECT_EQ(Read(At(kVa)), kNew);
}

// What a device has asked for with PASID 1.
class DmaAtsOfPasids : public DmaAts {
 protected:
  void SetUp() override {
    DmaAts::SetUp();
    if (IsSkipped()) return;
    NEED_PASIDS(own().pci());
    tables_.emplace(memory(), Granule::k4k);
    tables_->Map(kVa, memory().Filled(kOld));
    AttachTables();
    ASSERT_EQ(Read(FromPasid()), kOld);
  }
  void AttachTables() {
    CdTable cds(memory(), S1Fmt::kLinear, 3);
    cds.Set(1, MakeCd(kOtherAsid, *tables_, Ips()));
    own().Attach(cds.Vste(S1Dss::kTerminate, smmuv3::kEatsTranslate));
  }
  DmaAddress FromPasid() {
    DmaAddress from = At(kVa);
    from.pasid = 1;
    return from;
  }
  void MoveIt() {
    tables_->Map(kVa, memory().Filled(kNew));
    own().Send(NhAsid(kOtherAsid));
  }

 private:
  std::optional<Stage1> tables_;
};
CONFORMANCE_RIGS(DmaAtsOfPasids);

TEST_P(DmaAtsOfPasids, AtcInvOfThePasid) {
  MoveIt();
  Command command = AtcInvAll(own().vsid());
  command.ssv = true;
  command.ssid = 2;
  own().Send(command);
  ExpectStale(FromPasid(), kOld, kNew);
  command.ssid = 1;
  own().Send(command);
  EXPECT_EQ(Read(FromPasid()), kNew);
}

// A device cannot spare them: Linux sends no other command when it takes a stage 1 away.
TEST_P(DmaAtsOfPasids, AtcInvWithoutAPasidReachesThem) {
  MoveIt();
  own().Send(AtcInvAll(own().vsid()));
  EXPECT_EQ(Read(FromPasid()), kNew);
}

TEST_P(DmaAtsOfPasids, DetachEmptiesTheDevice) {
  MoveIt();
  ASSERT_OK(vm()->Detach(own().function().device));
  EXPECT_EQ(Read(FromPasid()), kRefused);
  AttachTables();
  EXPECT_EQ(Read(FromPasid()), kNew);
}

}  // namespace
}  // namespace viommu::conformance
