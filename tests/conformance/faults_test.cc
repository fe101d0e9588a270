// Fault queues: accesses that wait for an answer.

#include <chrono>
#include <thread>
#include <vector>

#include "agent/smmuv3/spec/id_registers.h"
#include "tests/conformance/events_fixture.h"

namespace viommu::conformance {
namespace {

class FaultQueue : public Conformance {};
CONFORMANCE_RIGS(FaultQueue);

TEST_P(FaultQueue, EmptyAtFirst) {
  Vm vm(Open());
  const ObjectId queue = Must(vm->AllocFaultQueue());
  EXPECT_TRUE(Must(vm->ReadFaults(queue, 8)).empty());
}

TEST_P(FaultQueue, AnswerToNothing) {
  Vm vm(Open());
  const ObjectId queue = Must(vm->AllocFaultQueue());
  EXPECT_ERRNO(EINVAL, vm->AnswerFault(queue, 0, agent::PageResponseCode::kSuccess));
  EXPECT_ERRNO(EINVAL, vm->AnswerFault(queue, 1234, agent::PageResponseCode::kInvalid));
}

TEST_P(FaultQueue, GoesAway) {
  Vm vm(Open());
  const ObjectId queue = Must(vm->AllocFaultQueue());
  EXPECT_OK(vm->Destroy(queue));
  EXPECT_ERRNO(ENOENT, vm->ReadFaults(queue, 1));
}

TEST_P(FaultQueue, ServesSeveralNestedHwpts) {
  Vm vm(Open());
  const Function function = vm.Plug(A0(), 0x10);
  const ObjectId queue = Must(vm->AllocFaultQueue());
  const ObjectId one = Must(vm->AllocNested(function.viommu, function.device, kTranslateVste, queue));
  const ObjectId other = Must(vm->AllocNested(function.viommu, function.device, smmuv3::kBypassVste, queue));
  EXPECT_OK(vm->Destroy(one));
  EXPECT_ERRNO(EBUSY, vm->Destroy(queue));
  EXPECT_OK(vm->Destroy(other));
  EXPECT_OK(vm->Destroy(queue));
}

class DmaStall : public EventsFixture {
 protected:
  void SetUp() override {
    EventsFixture::SetUp();
    if (IsSkipped()) return;
    if (!smmuv3::DecodeIdRegisters(SmmuOf(A0()).idr).CanStall()) GTEST_SKIP() << "accesses do not stall at SMMU A";
  }
  void TearDown() override {
    if (access_.joinable()) access_.join();
    EventsFixture::TearDown();
  }

  // A guest whose faults stall; with a queue for them unless told otherwise.
  void StartStalling(bool with_queue = true) {
    guest().tables().Map(kVa, memory().Filled(kOld));
    smmuv3::Cd descriptor = MakeCd(kAsid, guest().tables(), Ips());
    descriptor.stall = true;
    guest().cds().Set(0, descriptor);
    if (with_queue) faults_ = Must(vm()->AllocFaultQueue());
    guest().Attach(guest().cds().Vste(), faults_);
    queue_ = Must(vm()->AllocVeventq(guest().function().viommu, VeventqType::kArmSmmuv3, 8));
  }
  // Reads from a page that is not there, on a thread of its own.
  void Access(uint64_t page) {
    access_ = std::thread([this, page] { got_ = Read(FaultAddress(page)); });
  }
  std::optional<uint64_t> Got() {
    access_.join();
    return got_;
  }
  agent::PageFault TakeFault() {
    const auto deadline = std::chrono::steady_clock::now() + kEventLimit;
    while (std::chrono::steady_clock::now() < deadline) {
      const std::vector<agent::PageFault> faults = Must(vm()->ReadFaults(faults_, 1));
      if (!faults.empty()) return faults[0];
      std::this_thread::yield();
    }
    ADD_FAILURE() << "no fault came";
    return {};
  }

  ObjectId faults_ = 0;
  std::thread access_;
  std::optional<uint64_t> got_;
};
CONFORMANCE_RIGS(DmaStall);

TEST_P(DmaStall, H14_V9_AnsweredWithSuccess) {
  StartStalling();
  Access(0);
  const agent::PageFault fault = TakeFault();
  EXPECT_EQ(fault.device, guest().function().device);
  EXPECT_EQ(fault.address & ~uint64_t{0xfff}, FaultAddress(0));
  EXPECT_TRUE(fault.read);
  EXPECT_FALSE(fault.pasid_valid);
  guest().tables().Map(FaultAddress(0), memory().Filled(kNew));
  EXPECT_OK(vm()->AnswerFault(faults_, fault.cookie, agent::PageResponseCode::kSuccess));
  EXPECT_EQ(Got(), kNew);
}

TEST_P(DmaStall, AnsweredWithInvalid) {
  StartStalling();
  Access(0);
  EXPECT_OK(vm()->AnswerFault(faults_, TakeFault().cookie, agent::PageResponseCode::kInvalid));
  EXPECT_EQ(Got(), kRefused);
}

TEST_P(DmaStall, SuccessWithoutAPageFaultsAgain) {
  StartStalling();
  Access(0);
  EXPECT_OK(vm()->AnswerFault(faults_, TakeFault().cookie, agent::PageResponseCode::kSuccess));
  EXPECT_OK(vm()->AnswerFault(faults_, TakeFault().cookie, agent::PageResponseCode::kInvalid));
  EXPECT_EQ(Got(), kRefused);
}

TEST_P(DmaStall, AnAnswerCountsOnce) {
  StartStalling();
  Access(0);
  const uint32_t cookie = TakeFault().cookie;
  EXPECT_OK(vm()->AnswerFault(faults_, cookie, agent::PageResponseCode::kInvalid));
  EXPECT_EQ(Got(), kRefused);
  EXPECT_ERRNO(EINVAL, vm()->AnswerFault(faults_, cookie, agent::PageResponseCode::kInvalid));
}

TEST_P(DmaStall, AnotherCodeIsNoAnswer) {
  StartStalling();
  Access(0);
  const uint32_t cookie = TakeFault().cookie;
  EXPECT_ERRNO(EINVAL, vm()->AnswerFault(faults_, cookie, static_cast<agent::PageResponseCode>(2)));
  EXPECT_OK(vm()->AnswerFault(faults_, cookie, agent::PageResponseCode::kInvalid));
  EXPECT_EQ(Got(), kRefused);
}

TEST_P(DmaStall, AFaultIsReadOnce) {
  StartStalling();
  Access(0);
  const uint32_t cookie = TakeFault().cookie;
  EXPECT_TRUE(Must(vm()->ReadFaults(faults_, 8)).empty());
  EXPECT_OK(vm()->AnswerFault(faults_, cookie, agent::PageResponseCode::kInvalid));
  EXPECT_EQ(Got(), kRefused);
}

TEST_P(DmaStall, WithoutAQueueItIsTerminated) {
  StartStalling(false);
  EXPECT_EQ(Read(FaultAddress(0)), kRefused);
}

TEST_P(DmaStall, A21_ReportedToTheFaultQueueAlone) {
  StartStalling();
  Access(0);
  EXPECT_OK(vm()->AnswerFault(faults_, TakeFault().cookie, agent::PageResponseCode::kInvalid));
  EXPECT_EQ(Got(), kRefused);
  ExpectNothingReported();
}

TEST_P(DmaStall, V9_DetachEndsWhatWaits) {
  StartStalling();
  Access(0);
  const uint32_t cookie = TakeFault().cookie;
  ASSERT_OK(vm()->Detach(guest().function().device));
  EXPECT_EQ(Got(), kRefused);
  EXPECT_ERRNO(EINVAL, vm()->AnswerFault(faults_, cookie, agent::PageResponseCode::kSuccess));
}

TEST_P(DmaStall, ReplaceEndsWhatWaits) {
  StartStalling();
  Access(0);
  TakeFault();
  guest().Attach(smmuv3::kAbortVste);
  EXPECT_EQ(Got(), kRefused);
  EXPECT_OK(vm()->Destroy(faults_));
}

TEST_P(DmaStall, CloseEndsWhatWaits) {
  StartStalling();
  Access(0);
  TakeFault();
  vm().Close();
  EXPECT_EQ(Got(), kRefused);
}

}  // namespace
}  // namespace viommu::conformance
