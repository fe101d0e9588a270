// Event queues: what a guest is told, under which StreamID, and what it is not.

#include <vector>

#include "tests/conformance/events_fixture.h"

namespace viommu::conformance {
namespace {

using smmuv3::DecodeEvent;
using smmuv3::Event;
using smmuv3::EventId;
using smmuv3::S1Dss;
using smmuv3::S1Fmt;

// ---- The queue itself -----------------------------------------------------------------------------------------------

class Veventq : public Conformance {};
CONFORMANCE_RIGS(Veventq);

TEST_P(Veventq, D3_Depths) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  EXPECT_ERRNO(EINVAL, vm->AllocVeventq(function.viommu, VeventqType::kArmSmmuv3, 0));
  EXPECT_ERRNO(EINVAL, vm->AllocVeventq(function.viommu, VeventqType::kArmSmmuv3, agent::kMaxVeventqDepth + 1));
  EXPECT_OK(vm->AllocVeventq(function.viommu, VeventqType::kArmSmmuv3, agent::kMaxVeventqDepth));
}

TEST_P(Veventq, TypeDefault) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  EXPECT_ERRNO(EOPNOTSUPP, vm->AllocVeventq(function.viommu, VeventqType::kDefault, 8));
}

TEST_P(Veventq, D4_SecondOfTheSameType) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  const ObjectId queue = Must(vm->AllocVeventq(function.viommu, VeventqType::kArmSmmuv3, 8));
  EXPECT_ERRNO(EEXIST, vm->AllocVeventq(function.viommu, VeventqType::kArmSmmuv3, 8));
  EXPECT_OK(vm->Destroy(queue));
  EXPECT_OK(vm->AllocVeventq(function.viommu, VeventqType::kArmSmmuv3, 8));
}

TEST_P(Veventq, AnotherTypeBeside) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  EXPECT_OK(vm->AllocVeventq(function.viommu, VeventqType::kArmSmmuv3, 8));
  EXPECT_OK(vm->AllocVeventq(function.viommu, VeventqType::kTegra241Cmdqv, 8));
}

TEST_P(Veventq, OneForEachViommu) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  const ObjectId other = vm.Viommu(function.device, function.stage2);
  EXPECT_OK(vm->AllocVeventq(function.viommu, VeventqType::kArmSmmuv3, 8));
  EXPECT_OK(vm->AllocVeventq(other, VeventqType::kArmSmmuv3, 8));
}

TEST_P(Veventq, EmptyAtFirst) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  const ObjectId queue = Must(vm->AllocVeventq(function.viommu, VeventqType::kArmSmmuv3, 8));
  EXPECT_TRUE(Must(vm->ReadVeventq(queue, 16)).empty());
  EXPECT_TRUE(Must(vm->ReadVeventq(queue, 16)).empty());
}

TEST_P(Veventq, D12_GoesAway) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  const ObjectId queue = Must(vm->AllocVeventq(function.viommu, VeventqType::kArmSmmuv3, 8));
  EXPECT_OK(vm->Destroy(queue));
  EXPECT_ERRNO(ENOENT, vm->ReadVeventq(queue, 1));
}

TEST_P(Veventq, OrderTypeBeforeDepth) {
  Vm vm(Open());
  EXPECT_ERRNO(EOPNOTSUPP, vm->AllocVeventq(kNoSuchId, VeventqType::kDefault, 0));
}

TEST_P(Veventq, OrderDepthBeforeViommu) {
  Vm vm(Open());
  EXPECT_ERRNO(EINVAL, vm->AllocVeventq(kNoSuchId, VeventqType::kArmSmmuv3, 0));
}

TEST_P(Veventq, OrderViommuBeforeTakenType) {
  Vm vm(Open());
  EXPECT_ERRNO(ENOENT, vm->AllocVeventq(kNoSuchId, VeventqType::kArmSmmuv3, 8));
}

// ---- Events of accesses ---------------------------------------------------------------------------------------------

class DmaEvents : public EventsFixture {};
CONFORMANCE_RIGS(DmaEvents);

TEST_P(DmaEvents, A21_D7_AFaultUnderTheGuestsStreamId) {
  Start();
  Fault();
  const Vevent event = Take(1)[0];
  EXPECT_FALSE(event.lost);
  EXPECT_EQ(smmuv3::EventSid(event.record), guest().vsid());
  EXPECT_NE(smmuv3::EventSid(event.record), Info(A0()).stream_id);
}

TEST_P(DmaEvents, FTranslation) {
  Start();
  Fault(3);
  const Event event = TakeOne();
  EXPECT_EQ(event.id, EventId::kFTranslation);
  EXPECT_EQ(event.address, FaultAddress(3));
  EXPECT_TRUE(event.read);
  EXPECT_FALSE(event.stage2);
  EXPECT_FALSE(event.stall);
  EXPECT_FALSE(event.ssv);
  EXPECT_EQ(event.cls, smmuv3::EventClass::kInput);
}

TEST_P(DmaEvents, AWrite) {
  Start();
  EXPECT_FALSE(Write(FaultAddress(0), 1));
  EXPECT_FALSE(TakeOne().read);
}

TEST_P(DmaEvents, TheAddressToTheByte) {
  Start();
  EXPECT_EQ(Read(FaultAddress(0) + 0x128), kRefused);
  EXPECT_EQ(TakeOne().address, FaultAddress(0) + 0x128);
}

TEST_P(DmaEvents, FPermission) {
  Start();
  guest().tables().Map(kVa + 0x1000, memory().Filled(kOld), {.writable = false});
  EXPECT_FALSE(Write(kVa + 0x1000, 1));
  const Event event = TakeOne();
  EXPECT_EQ(event.id, EventId::kFPermission);
  EXPECT_EQ(event.address, kVa + 0x1000);
}

TEST_P(DmaEvents, FAccess) {
  Start();
  guest().tables().Map(kVa + 0x1000, memory().Filled(kOld), {.accessed = false});
  EXPECT_EQ(Read(kVa + 0x1000), kRefused);
  EXPECT_EQ(TakeOne().id, EventId::kFAccess);
}

TEST_P(DmaEvents, FAddrSize) {
  Start();
  smmuv3::Cd descriptor = MakeCd(kAsid, guest().tables(), 0);  // 32 bits come out
  guest().cds().Set(0, descriptor);
  guest().Send(CfgiCd(guest().vsid()));
  guest().tables().Map(kVa + 0x1000, uint64_t{1} << 33);
  EXPECT_EQ(Read(kVa + 0x1000), kRefused);
  EXPECT_EQ(TakeOne().id, EventId::kFAddrSize);
}

TEST_P(DmaEvents, CBadCd) {
  Start();
  guest().cds().Clear(0);
  guest().Send(CfgiCd(guest().vsid()));
  EXPECT_EQ(Read(kVa + 0x1000), kRefused);
  EXPECT_EQ(TakeOne().id, EventId::kCBadCd);
}

TEST_P(DmaEvents, CBadSte) {
  Start();
  RawVste vste = guest().cds().Vste();
  vste.dw0 = smmuv3::ste::kS1CdMax.Set(vste.dw0, 31);  // more than any SMMU has
  guest().Attach(vste);
  EXPECT_EQ(Read(kVa), kRefused);
  EXPECT_EQ(TakeOne().id, EventId::kCBadSte);
}

TEST_P(DmaEvents, FStreamDisabled) {
  if (SmmuOf(A0()).ssid_bits < 3) GTEST_SKIP() << "SMMU A has no SubstreamIDs";
  Start();
  const CdTable cds(memory(), S1Fmt::kLinear, 3);
  guest().Attach(cds.Vste(S1Dss::kTerminate));
  EXPECT_EQ(Read(kVa), kRefused);
  EXPECT_EQ(TakeOne().id, EventId::kFStreamDisabled);
}

TEST_P(DmaEvents, CBadSubstreamId) {
  NEED_DEVICE(pci, Role::kPasid);
  if (pci != A0()) GTEST_SKIP() << "device A0 has no PASIDs";
  NEED_PASIDS(pci);
  Start();
  const CdTable cds(memory(), S1Fmt::kLinear, 3);
  guest().Attach(cds.Vste(S1Dss::kSsid0));
  EXPECT_EQ(Read({.device = pci, .address = kVa, .pasid = 8}), kRefused);
  const Event event = TakeOne();
  EXPECT_EQ(event.id, EventId::kCBadSubstreamId);
  EXPECT_EQ(event.ssid, 8u);
}

TEST_P(DmaEvents, AFaultOfAPasid) {
  NEED_DEVICE(pci, Role::kPasid);
  if (pci != A0()) GTEST_SKIP() << "device A0 has no PASIDs";
  NEED_PASIDS(pci);
  Start();
  CdTable cds(memory(), S1Fmt::kLinear, 3);
  cds.Set(5, MakeCd(kAsid, guest().tables(), Ips()));
  guest().Attach(cds.Vste());
  EXPECT_EQ(Read({.device = pci, .address = FaultAddress(0), .pasid = 5}), kRefused);
  const Event event = TakeOne();
  EXPECT_EQ(event.id, EventId::kFTranslation);
  EXPECT_TRUE(event.ssv);
  EXPECT_EQ(event.ssid, 5u);
}

TEST_P(DmaEvents, D7_SequenceCounts) {
  Start();
  for (uint64_t i = 0; i < 5; ++i) Fault(i);
  const std::vector<Vevent> events = Take(5);
  for (uint64_t i = 0; i < 5; ++i) {
    EXPECT_EQ(events[i].sequence, events[0].sequence + i);
    EXPECT_EQ(DecodeEvent(events[i].record).address, FaultAddress(i));
  }
}

TEST_P(DmaEvents, ReadsInParts) {
  Start();
  for (uint64_t i = 0; i < 4; ++i) Fault(i);
  for (uint64_t i = 0; i < 4; ++i) EXPECT_EQ(TakeOne().address, FaultAddress(i));
  EXPECT_TRUE(Must(vm()->ReadVeventq(queue_, 8)).empty());
}

TEST_P(DmaEvents, ReadingNoneLosesNone) {
  Start();
  Fault();
  EXPECT_TRUE(Must(vm()->ReadVeventq(queue_, 0)).empty());
  EXPECT_EQ(TakeOne().address, FaultAddress(0));
}

TEST_P(DmaEvents, D10_D11_Overflow) {
  Start(2);
  for (uint64_t i = 0; i < 3; ++i) Fault(i);
  const std::vector<Vevent> events = Take(3);
  EXPECT_FALSE(events[0].lost);
  EXPECT_FALSE(events[1].lost);
  EXPECT_TRUE(events[2].lost);
  EXPECT_EQ(DecodeEvent(events[1].record).address, FaultAddress(1));
  EXPECT_TRUE(Must(vm()->ReadVeventq(queue_, 8)).empty());
  Fault(4);
  const Vevent next = Take(1)[0];
  EXPECT_FALSE(next.lost);
  EXPECT_EQ(DecodeEvent(next.record).address, FaultAddress(4));
  EXPECT_EQ(next.sequence, events[1].sequence + 2);  // one was lost
}

TEST_P(DmaEvents, OverflowOfMany) {
  Start(2);
  for (uint64_t i = 0; i < 10; ++i) Fault(i);
  const std::vector<Vevent> events = Take(3);
  EXPECT_TRUE(events[2].lost);
  Fault(11);
  EXPECT_EQ(Take(1)[0].sequence, events[1].sequence + 9);  // eight were lost
}

TEST_P(DmaEvents, ALaterEventTakesTheMarkersPlace) {
  Start(2);
  for (uint64_t i = 0; i < 3; ++i) Fault(i);
  EXPECT_EQ(TakeOne().address, FaultAddress(0));  // there is room again, the marker still waits
  Fault(5);
  const std::vector<Vevent> events = Take(2);
  EXPECT_FALSE(events[0].lost);
  EXPECT_FALSE(events[1].lost);
  EXPECT_EQ(DecodeEvent(events[1].record).address, FaultAddress(5));
  EXPECT_EQ(events[1].sequence, events[0].sequence + 2);
}

TEST_P(DmaEvents, A21_Stage2FaultsStayWithTheHost) {
  Start();
  guest().tables().Map(kVa + 0x1000, kMemoryBase + kMemoryBytes);
  EXPECT_EQ(Read(kVa + 0x1000), kRefused);
  ExpectNothingReported();
}

TEST_P(DmaEvents, FaultsOfTheWalksOwnMemoryStayWithTheHost) {
  Start();
  smmuv3::Cd descriptor = MakeCd(kAsid, guest().tables(), Ips());
  descriptor.ttb0.ttb = kMemoryBase + kMemoryBytes;
  guest().cds().Set(0, descriptor);
  const smmuv3::Command commands[] = {CfgiCd(guest().vsid()), NhAll()};
  guest().Send(commands);
  EXPECT_EQ(Read(kVa), kRefused);
  ExpectNothingReported();
}

TEST_P(DmaEvents, AbortIsSilent) {
  Start();
  guest().Attach(smmuv3::kAbortVste);
  EXPECT_EQ(Read(kVa), kRefused);
  ExpectNothingReported();
}

TEST_P(DmaEvents, BypassFaultsStayWithTheHost) {
  Start();
  guest().Attach(smmuv3::kBypassVste);
  EXPECT_EQ(Read(0), kRefused);
  ExpectNothingReported();
}

TEST_P(DmaEvents, SuccessIsSilent) {
  Start();
  EXPECT_EQ(Read(kVa), kOld);
  ExpectNothingReported();
}

TEST_P(DmaEvents, FaultsThatAreNotToBeRecorded) {
  Start();
  smmuv3::Cd descriptor = MakeCd(kAsid, guest().tables(), Ips());
  descriptor.record = false;
  guest().cds().Set(0, descriptor);
  guest().Send(CfgiCd(guest().vsid()));
  EXPECT_EQ(Read(FaultAddress(0)), kRefused);
  ExpectNothingReported();
}

TEST_P(DmaEvents, BeforeThereIsAQueueTheyAreGone) {
  guest().tables().Map(kVa, memory().Filled(kOld));
  guest().Start();
  EXPECT_EQ(Read(FaultAddress(0)), kRefused);
  queue_ = Must(vm()->AllocVeventq(guest().function().viommu, VeventqType::kArmSmmuv3, 8));
  Fault(2);
  EXPECT_EQ(TakeOne().address, FaultAddress(2));
}

TEST_P(DmaEvents, AQueueOfAForeignTypeGetsNone) {
  Start();
  const ObjectId foreign = Must(vm()->AllocVeventq(guest().function().viommu, VeventqType::kTegra241Cmdqv, 8));
  Fault();
  Take(1);
  EXPECT_TRUE(Must(vm()->ReadVeventq(foreign, 8)).empty());
}

TEST_P(DmaEvents, EachViommuHasItsOwn) {
  NEED_DEVICE(a1, Role::kA1);
  NEED_DMA(a1);
  Start();
  const ObjectId device = vm().Bind(a1);
  Function second = {.pci = a1, .device = device, .stage2 = guest().function().stage2};
  second.viommu = vm().Viommu(device, second.stage2);
  vm().Vdevice(second.viommu, device, 0x33);
  ASSERT_OK(vm()->Attach(device, vm().Nested(second, guest().cds().Vste())));
  const ObjectId other = Must(vm()->AllocVeventq(second.viommu, VeventqType::kArmSmmuv3, 8));
  EXPECT_EQ(Read({.device = a1, .address = FaultAddress(1)}), kRefused);
  EXPECT_EQ(smmuv3::EventSid(Take(1, other)[0].record), 0x33u);
  Fault(2);
  EXPECT_EQ(TakeOne().address, FaultAddress(2));
  EXPECT_TRUE(Must(vm()->ReadVeventq(other, 8)).empty());
}

TEST_P(DmaEvents, D9_AnotherVsidAfterAttachingAgain) {
  Start();
  const Function& function = guest().function();
  ASSERT_OK(vm()->Detach(function.device));
  ASSERT_OK(vm()->Destroy(function.vdevice));
  vm().Vdevice(function.viommu, function.device, 0x88);
  guest().Attach(guest().cds().Vste());
  Fault();
  EXPECT_EQ(TakeOne().sid, 0x88u);
}

TEST_P(DmaEvents, TheVsidIsThatOfTheLastAttach) {
  Start();
  const Function& function = guest().function();
  ASSERT_OK(vm()->Destroy(function.vdevice));
  vm().Vdevice(function.viommu, function.device, 0x88);
  Fault();
  EXPECT_EQ(TakeOne().sid, guest().vsid());
  guest().Attach(guest().cds().Vste());
  Fault(1);
  EXPECT_EQ(TakeOne().sid, 0x88u);
}

TEST_P(DmaEvents, AfterDetachThereAreNone) {
  Start();
  ASSERT_OK(vm()->Detach(guest().function().device));
  EXPECT_EQ(Read(FaultAddress(0)), kRefused);
  ExpectNothingReported();
}

}  // namespace
}  // namespace viommu::conformance
