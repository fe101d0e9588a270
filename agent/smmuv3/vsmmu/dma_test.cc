// What devices reach, through the seam: both stages, stale translations until the right invalidation, events, stalls,
// ATS, page requests.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "agent/errno_status.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/vsmmu/emulated_backend.h"
#include "agent/smmuv3/vsmmu/test_guest.h"
#include "agent/smmuv3/vsmmu/test_host.h"

namespace viommu::agent {
namespace {

using smmuv3::Encode;
using smmuv3::Opcode;
using smmuv3::RawCommand;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using Outcome = DmaResult::Outcome;

constexpr uint32_t kVirtSid = 0x10;
constexpr uint64_t kInput = 0x7000'0000;  // of the guest's device drivers
constexpr uint16_t kAsid = 5;
// However slow the machine: nothing here waits for it unless something is broken.
constexpr std::chrono::minutes kLong{5};

class DmaTest : public testing::TestWithParam<Personality> {
 protected:
  DmaTest() : DmaTest(MakeTestInventory(GetParam())) {}
  explicit DmaTest(EmulatedInventory inventory)
      : backend_(*EmulatedBackend::Create(std::move(inventory))),
        dma_(backend_->device_dma()),
        context_(*backend_->OpenContext()) {
    device_ = *context_->BindDevice(kDeviceA0);
    ioas_ = *context_->AllocIoas();
    EXPECT_TRUE(context_->MapIoas(ioas_, TestGuest::kBase, TestGuest::kBytes, guest_.handle()).ok());
    stage2_ = *context_->AllocStage2(device_, ioas_);
    const ViommuHandle viommu = *context_->AllocViommu(device_, stage2_, ViommuType::kArmSmmuv3);
    viommu_ = viommu.id;
    EXPECT_TRUE(context_->AllocVdevice(viommu_, device_, kVirtSid).ok());
    veventq_ = *context_->AllocVeventq(viommu_, VeventqType::kArmSmmuv3, 16);
    cd_ = guest_.NewPage();
    ttb_ = guest_.NewPage();
    page_ = guest_.NewPage();
    guest_.WriteCd(cd_, ttb_, kAsid);
    guest_.Map(ttb_, kInput, page_);
    guest_.Word(page_).store(0x1111);
  }

  // Attaches the device as the guest's stream table entry says.
  ObjectId AttachNested(const smmuv3::RawVste& vste, ObjectId fault = 0) {
    const absl::StatusOr<ObjectId> nested = context_->AllocNested(viommu_, device_, vste, fault);
    EXPECT_TRUE(nested.ok()) << nested.status();
    EXPECT_TRUE(context_->Attach(device_, *nested).ok());
    return *nested;
  }
  DmaRequest At(uint64_t address, bool ats = false) const {
    return {.pci_address = kDeviceA0, .address = address, .use_ats = ats, .stall_limit = kLong};
  }
  // The word that the device reads; nothing when it cannot.
  std::optional<uint64_t> Read(const DmaRequest& request) {
    uint64_t word = 0;
    last_ = *dma_->Read(request, std::as_writable_bytes(std::span(&word, 1)));
    if (last_.outcome != Outcome::kDone) return std::nullopt;
    return word;
  }
  std::optional<uint64_t> Read(uint64_t address) { return Read(At(address)); }
  bool Write(uint64_t address, uint64_t word) {
    last_ = *dma_->Write(At(address), std::as_bytes(std::span(&word, 1)));
    return last_.outcome == Outcome::kDone;
  }
  void Invalidate(const smmuv3::Command& command) {
    const RawCommand raw = Encode(command);
    EXPECT_TRUE(context_->Invalidate(viommu_, InvalidateDataType::kArmSmmuv3, {&raw, 1}).status.ok());
  }

  TestGuest guest_;
  std::unique_ptr<EmulatedBackend> backend_;
  DeviceDma* dma_;
  std::unique_ptr<Context> context_;
  ObjectId device_ = 0, ioas_ = 0, stage2_ = 0, viommu_ = 0, veventq_ = 0;
  uint64_t cd_ = 0, ttb_ = 0, page_ = 0;
  DmaResult last_;
};

TEST_P(DmaTest, NothingIsReachedBeforeAttaching) {
  EXPECT_FALSE(Read(TestGuest::kBase).has_value());
  EXPECT_EQ(last_.outcome, Outcome::kAborted);
  EXPECT_EQ(StatusErrno(dma_->Translate({.pci_address = "0000:ff:00.0"}, false).status()), ENODEV);
  EXPECT_EQ(StatusErrno(dma_->Translate({.pci_address = kDeviceA1, .pasid = 0}, false).status()), EINVAL);
  EXPECT_EQ(StatusErrno(dma_->Translate({.pci_address = kDeviceA0, .pasid = 1u << 20}, false).status()), EINVAL);
  EXPECT_EQ(StatusErrno(dma_->Translate({.pci_address = kDeviceA1, .use_ats = true}, false).status()), EINVAL);
}

TEST_P(DmaTest, GuestPhysicalAddressesThroughStage2) {
  ASSERT_TRUE(context_->Attach(device_, stage2_).ok());
  EXPECT_EQ(Read(page_), 0x1111u);
  EXPECT_GE(last_.span_log2, 21);  // what was mapped in one piece is a block
  EXPECT_TRUE(Write(page_ + 8, 0x2222));
  EXPECT_EQ(guest_.Word(page_ + 8).load(), 0x2222u);
  EXPECT_FALSE(Read(TestGuest::kBase + TestGuest::kBytes).has_value());
  EXPECT_THAT(last_.event, HasSubstr("F_TRANSLATION"));
  // A read over the end of what is mapped tells how far it came.
  std::array<std::byte, 64> out;
  const DmaResult result = *dma_->Read(At(TestGuest::kBase + TestGuest::kBytes - 16), out);
  EXPECT_EQ(result.outcome, Outcome::kAborted);
  EXPECT_EQ(result.bytes, 16u);
  // Faults of stage 2 are the host's.
  EXPECT_THAT(*context_->ReadVeventq(veventq_, 9), IsEmpty());
}

TEST_P(DmaTest, BothStages) {
  AttachNested(TestGuest::Vste(cd_));
  EXPECT_EQ(Read(kInput), 0x1111u);
  EXPECT_FALSE(Read(page_).has_value());
  guest_.Map(ttb_, kInput + 0x1000, page_, /*writable=*/false);
  EXPECT_EQ(Read(kInput + 0x1000), 0x1111u);
  EXPECT_FALSE(Write(kInput + 0x1000, 1));
  EXPECT_THAT(last_.event, HasSubstr("F_PERMISSION"));
}

TEST_P(DmaTest, TheGuestsEntryDecides) {
  AttachNested(smmuv3::kBypassVste);
  EXPECT_EQ(Read(page_), 0x1111u);
  AttachNested(smmuv3::kAbortVste);
  EXPECT_FALSE(Read(page_).has_value());
  AttachNested(TestGuest::Vste(cd_));
  EXPECT_EQ(Read(kInput), 0x1111u);
  AttachNested({0, ~uint64_t{0}});  // V = 0
  EXPECT_FALSE(Read(kInput).has_value());
  ASSERT_TRUE(context_->Attach(device_, stage2_).ok());
  EXPECT_EQ(Read(page_), 0x1111u);
  ASSERT_TRUE(context_->Detach(device_).ok());
  EXPECT_FALSE(Read(page_).has_value());
}

TEST_P(DmaTest, OldTranslationsHoldUntilTheRightInvalidation) {
  AttachNested(TestGuest::Vste(cd_));
  ASSERT_EQ(Read(kInput), 0x1111u);
  const uint64_t other = guest_.NewPage();
  guest_.Word(other).store(0x3333);
  guest_.Map(ttb_, kInput, other);
  EXPECT_EQ(Read(kInput), 0x1111u);
  Invalidate({.opcode = Opcode::kTlbiNhAsid, .asid = kAsid + 1});
  EXPECT_EQ(Read(kInput), 0x1111u);
  Invalidate({.opcode = Opcode::kTlbiNhVa, .asid = kAsid, .address = kInput + 0x1000, .leaf = true});
  EXPECT_EQ(Read(kInput), 0x1111u);
  Invalidate({.opcode = Opcode::kTlbiNhVa, .asid = kAsid, .address = kInput, .leaf = true});
  EXPECT_EQ(Read(kInput), 0x3333u);
}

TEST_P(DmaTest, UnmappingGuestMemoryReachesEverything) {
  AttachNested(TestGuest::Vste(cd_, /*ats=*/true));
  ASSERT_EQ(Read(kInput), 0x1111u);
  ASSERT_EQ(Read(At(kInput, /*ats=*/true)), 0x1111u);
  EXPECT_GT(backend_->GetStats()[0].atc_entries, 0u);
  ASSERT_EQ(*context_->UnmapIoas(ioas_, 0, ~uint64_t{0}), TestGuest::kBytes);
  EXPECT_EQ(backend_->GetStats()[0].atc_entries, 0u);
  // Refused by the SMMU, not by memory that is not there any more.
  EXPECT_FALSE(Read(kInput).has_value());
  EXPECT_EQ(last_.outcome, Outcome::kAborted);
  EXPECT_FALSE(Read(At(kInput, true)).has_value());
  EXPECT_EQ(last_.outcome, Outcome::kAborted);
  EXPECT_EQ(backend_->GetMemoryStats().files, 0u);
  // Mapped again, elsewhere in the host's memory.
  ASSERT_TRUE(context_->MapIoas(ioas_, TestGuest::kBase, TestGuest::kBytes, guest_.handle()).ok());
  EXPECT_EQ(Read(kInput), 0x1111u);
}

TEST_P(DmaTest, MapsReachTablesThatAreThereAlready) {
  ASSERT_TRUE(context_->Attach(device_, stage2_).ok());
  TestGuest more;
  more.Word(TestGuest::kBase).store(0x4444);
  const uint64_t at = TestGuest::kBase + TestGuest::kBytes;
  MemoryHandle read_only = more.handle();
  read_only.writable = false;
  ASSERT_TRUE(context_->MapIoas(ioas_, at, 0x1000, read_only).ok());
  EXPECT_EQ(Read(at), 0x4444u);
  EXPECT_FALSE(Write(at, 1));
  ASSERT_EQ(*context_->UnmapIoas(ioas_, at, 0x1000), 0x1000u);
  EXPECT_FALSE(Read(at).has_value());
  EXPECT_EQ(last_.outcome, Outcome::kAborted);
  EXPECT_EQ(Read(page_), 0x1111u);
}

TEST_P(DmaTest, TablesOfTheHostsAlone) {
  // By the IOAS: stage 1, with an id that goes with the last device.
  const ObjectId next = *context_->AllocIoas();
  ASSERT_TRUE(context_->Destroy(next).ok());
  ASSERT_TRUE(context_->Attach(device_, ioas_).ok());
  EXPECT_EQ(ConfigOf(backend_->ReadSte("a", kSidA0)), smmuv3::SteConfig::kStage1);
  EXPECT_EQ(Read(page_), 0x1111u);
  EXPECT_EQ(Read(At(page_, true)), 0x1111u);
  EXPECT_EQ(StatusErrno(context_->Destroy(next)), EBUSY);
  const ObjectId second = *context_->BindDevice(kDeviceA1);
  ASSERT_TRUE(context_->Attach(second, ioas_).ok());
  EXPECT_EQ(backend_->ReadSte("a", kSidA0).dw[0], backend_->ReadSte("a", kSidA1).dw[0]);
  const ObjectId on_b = *context_->BindDevice(kDeviceB0);
  ASSERT_TRUE(context_->Attach(on_b, ioas_).ok());
  // A block of 2 MiB goes, and its translations with it.
  ASSERT_EQ(*context_->UnmapIoas(ioas_, TestGuest::kBase, TestGuest::kBytes), TestGuest::kBytes);
  EXPECT_FALSE(Read(page_).has_value());
  EXPECT_EQ(last_.outcome, Outcome::kAborted);
  EXPECT_FALSE(Read(At(page_, true)).has_value());
  EXPECT_EQ(last_.outcome, Outcome::kAborted);
  ASSERT_TRUE(context_->Detach(device_).ok());
  EXPECT_EQ(StatusErrno(context_->Destroy(next)), EBUSY);
  ASSERT_TRUE(context_->Detach(second).ok());
  EXPECT_EQ(StatusErrno(context_->Destroy(next)), ENOENT);
  // By a HWPT of one's own.
  ASSERT_TRUE(context_->Detach(on_b).ok());
  const ObjectId plain = *context_->AllocHwpt({.device = device_, .pt = ioas_});
  EXPECT_EQ(StatusErrno(context_->Attach(on_b, plain)), EINVAL);
  EXPECT_EQ(StatusErrno(context_->AllocViommu(device_, plain, ViommuType::kArmSmmuv3).status()), EINVAL);
  ASSERT_TRUE(context_->MapIoas(ioas_, TestGuest::kBase, TestGuest::kBytes, guest_.handle()).ok());
  ASSERT_TRUE(context_->Attach(device_, plain).ok());
  EXPECT_EQ(Read(page_), 0x1111u);
}

TEST_P(DmaTest, FaultsOfTheGuestComeAsItsEvents) {
  AttachNested(TestGuest::Vste(cd_));
  EXPECT_FALSE(Read(0x1234'5000).has_value());
  // A descriptor that is not valid.
  guest_.WriteCd(cd_, ttb_, kAsid);
  guest_.Word(cd_).store(0);
  Invalidate({.opcode = Opcode::kCfgiCd, .sid = kVirtSid, .leaf = true});
  EXPECT_FALSE(Read(kInput).has_value());
  const std::vector<Vevent> events = *context_->ReadVeventq(veventq_, 9);
  ASSERT_THAT(events, SizeIs(2));
  const smmuv3::Event fault = smmuv3::DecodeEvent(events[0].record);
  EXPECT_EQ(fault.id, smmuv3::EventId::kFTranslation);
  EXPECT_EQ(fault.sid, kVirtSid);
  EXPECT_EQ(fault.address, 0x1234'5000u);
  EXPECT_TRUE(fault.read);
  EXPECT_EQ(smmuv3::DecodeEvent(events[1].record).id, smmuv3::EventId::kCBadCd);
  EXPECT_EQ(events[1].sequence, events[0].sequence + 1);
}

TEST_P(DmaTest, MoreEventsThanTheRingHolds) {
  AttachNested(TestGuest::Vste(cd_));
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(Read(0x1000u * static_cast<uint64_t>(i)).has_value());
  const std::vector<Vevent> events = *context_->ReadVeventq(veventq_, 99);
  ASSERT_THAT(events, SizeIs(17));
  EXPECT_TRUE(events.back().lost);
  // The event queue itself has lost nothing.
  EXPECT_EQ(backend_->FindSmmu("a")->GetCounters().events_lost, 0u);
}

// Faults from many threads through a ring of 32 records: each is delivered, or counted as lost, and the next one comes.
TEST_P(DmaTest, AStormOfEvents) {
  AttachNested(TestGuest::Vste(cd_));
  ASSERT_TRUE(context_->Destroy(veventq_).ok());
  veventq_ = *context_->AllocVeventq(viommu_, VeventqType::kArmSmmuv3, 1u << 16);
  constexpr uint64_t kThreads = 4, kFaults = 400;
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < kFaults; ++i) {
        const DmaRequest request = At((t << 32) + (i << 12));
        EXPECT_EQ(dma_->Translate(request, false)->outcome, Outcome::kAborted);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const size_t delivered = context_->ReadVeventq(veventq_, 1u << 16)->size();
  EXPECT_EQ(delivered + backend_->FindSmmu("a")->GetCounters().events_lost, kThreads * kFaults);
  EXPECT_FALSE(Read(0x1000).has_value());
  EXPECT_THAT(*context_->ReadVeventq(veventq_, 9), SizeIs(1));
}

TEST_P(DmaTest, StallsWaitForAnswers) {
  guest_.WriteCd(cd_, ttb_, kAsid, /*stall=*/true);
  const ObjectId faults = *context_->AllocFaultQueue();
  const ObjectId nested = AttachNested(TestGuest::Vste(cd_), faults);
  EXPECT_EQ(StatusErrno(context_->Destroy(faults)), EBUSY);
  const auto wait_for_fault = [&] {
    std::vector<PageFault> read;
    while ((read = *context_->ReadFaults(faults, 1)).empty()) std::this_thread::yield();
    return read.front();
  };
  // Mapped before it is answered: it goes on.
  std::optional<uint64_t> word;
  std::thread reader([&] { word = Read(0x1234'5000); });
  PageFault fault = wait_for_fault();
  EXPECT_EQ(fault.device, device_);
  EXPECT_EQ(fault.address, 0x1234'5000u);
  EXPECT_TRUE(fault.read);
  EXPECT_FALSE(fault.write);
  EXPECT_EQ(StatusErrno(context_->AnswerFault(faults, fault.cookie + 1, PageResponseCode::kSuccess)), EINVAL);
  EXPECT_EQ(StatusErrno(context_->AnswerFault(faults, fault.cookie, static_cast<PageResponseCode>(2))), EINVAL);
  EXPECT_EQ(StatusErrno(context_->AnswerFault(nested, fault.cookie, PageResponseCode::kSuccess)), ENOENT);
  guest_.Map(ttb_, 0x1234'5000, page_);
  ASSERT_TRUE(context_->AnswerFault(faults, fault.cookie, PageResponseCode::kSuccess).ok());
  reader.join();
  EXPECT_EQ(word, 0x1111u);
  EXPECT_EQ(StatusErrno(context_->AnswerFault(faults, fault.cookie, PageResponseCode::kSuccess)), EINVAL);
  // Refused.
  std::thread refused([&] { word = Read(0x2234'5000); });
  fault = wait_for_fault();
  ASSERT_TRUE(context_->AnswerFault(faults, fault.cookie, PageResponseCode::kInvalid).ok());
  refused.join();
  EXPECT_FALSE(word.has_value());
  // Nobody answers, and the device goes elsewhere.
  std::thread left([&] { word = Read(0x2234'5000); });
  wait_for_fault();
  ASSERT_TRUE(context_->Attach(device_, stage2_).ok());
  left.join();
  EXPECT_FALSE(word.has_value());
  // No stalled transaction was shown to the guest.
  EXPECT_THAT(*context_->ReadVeventq(veventq_, 9), IsEmpty());
  ASSERT_TRUE(context_->Destroy(nested).ok());
  EXPECT_TRUE(context_->Destroy(faults).ok());
}

class FullQueueTest : public DmaTest {
 protected:
  static EmulatedInventory Impatient() {
    EmulatedInventory inventory = MakeTestInventory(GetParam());
    inventory.sync_timeout = std::chrono::milliseconds(100);
    inventory.smmu_options.queue_log2_size = 7;
    return inventory;
  }
  FullQueueTest() : DmaTest(Impatient()) {}
};

TEST_P(FullQueueTest, AnAnswerThatFindsNoRoomGoesWithLaterCommands) {
  smmuv3::EmulatedSmmu* smmu = backend_->FindSmmu("a");
  const std::vector<RawCommand> commands(63, Encode({.opcode = Opcode::kTlbiNhAll}));
  const auto send = [&] { return context_->Invalidate(viommu_, InvalidateDataType::kArmSmmuv3, commands).status; };
  const auto answers = [&] { return smmu->GetCounters().executed[static_cast<uint8_t>(Opcode::kResume)]; };
  guest_.WriteCd(cd_, ttb_, kAsid, /*stall=*/true);
  const ObjectId faults = *context_->AllocFaultQueue();
  AttachNested(TestGuest::Vste(cd_), faults);
  std::optional<uint64_t> word;
  std::thread reader([&] { word = Read(0x1234'5000); });
  std::vector<PageFault> fault;
  while ((fault = *context_->ReadFaults(faults, 1)).empty()) std::this_thread::yield();
  smmu->Pause();
  while (backend_->GetStats()[0].queue_depth < 128) EXPECT_FALSE(send().ok());
  EXPECT_TRUE(context_->AnswerFault(faults, fault.front().cookie, PageResponseCode::kInvalid).ok());
  smmu->Resume();
  while (answers() == 0) static_cast<void>(send());
  reader.join();
  EXPECT_FALSE(word.has_value());
  while (!send().ok()) {
  }
  EXPECT_EQ(answers(), 1u);
}

TEST_P(DmaTest, StallsWithoutAQueueAreAborted) {
  guest_.WriteCd(cd_, ttb_, kAsid, /*stall=*/true);
  AttachNested(TestGuest::Vste(cd_));
  EXPECT_FALSE(Read(0x1234'5000).has_value());
  EXPECT_EQ(last_.outcome, Outcome::kAborted);
  EXPECT_THAT(*context_->ReadVeventq(veventq_, 9), IsEmpty());
}

TEST_P(DmaTest, AtsIsOnWhereTheGuestAsksForIt) {
  AttachNested(TestGuest::Vste(cd_));
  EXPECT_EQ(Read(At(kInput, true)), 0x1111u);  // untranslated, after the SMMU's refusal
  EXPECT_EQ(backend_->GetStats()[0].atc_entries, 0u);
  AttachNested(TestGuest::Vste(cd_, true));
  EXPECT_EQ(Read(At(kInput, true)), 0x1111u);
  EXPECT_EQ(backend_->GetStats()[0].atc_entries, 1u);
  // The device's own cache stays behind the TLB.
  const uint64_t other = guest_.NewPage();
  guest_.Map(ttb_, kInput, other);
  Invalidate({.opcode = Opcode::kTlbiNhAll});
  EXPECT_EQ(Read(At(kInput, true)), 0x1111u);
  Invalidate({.opcode = Opcode::kAtcInv, .sid = kVirtSid, .size = smmuv3::kAtcSizeAll});
  EXPECT_EQ(Read(At(kInput, true)), 0u);
  // Another attachment leaves nothing there.
  ASSERT_TRUE(context_->Attach(device_, stage2_).ok());
  EXPECT_EQ(backend_->GetStats()[0].atc_entries, 0u);
}

TEST_P(DmaTest, ADeviceThatDoesNotAnswerIsCounted) {
  AttachNested(TestGuest::Vste(cd_, true));
  backend_->FindSmmu("a")->SetDeviceResponding(kSidA0, false);
  Invalidate({.opcode = Opcode::kAtcInv, .sid = kVirtSid, .size = smmuv3::kAtcSizeAll});
  const SmmuStats stats = backend_->GetStats()[0];
  EXPECT_EQ(stats.atc_timeouts, 1u);
  EXPECT_EQ(stats.command_errors, 0u);
  EXPECT_EQ(stats.sync_timeouts, 0u);
  backend_->FindSmmu("a")->SetDeviceResponding(kSidA0, true);
}

TEST_P(DmaTest, AFetchThatAbortsIsTriedAgain) {
  smmuv3::EmulatedSmmu* smmu = backend_->FindSmmu("a");
  smmu->FailNextFetch();
  Invalidate({.opcode = Opcode::kTlbiNhAll});
  EXPECT_EQ(smmu->GetCounters().command_errors, 1u);
  EXPECT_EQ(backend_->GetStats()[0].command_errors, 0u);
}

TEST_P(DmaTest, PageRequestsAreDenied) {
  AttachNested(TestGuest::Vste(cd_, true));
  smmuv3::EmulatedSmmu* smmu = backend_->FindSmmu("a");
  for (uint16_t group = 0; group < 40; ++group) {
    ASSERT_TRUE(smmu->RequestPage({.sid = kSidA0, .read = true, .last = group % 2 == 0, .group = group, .address = 0}));
  }
  // The answers are commands; the next sync is behind them.
  Invalidate({.opcode = Opcode::kTlbiNhAll});
  const auto answers = smmu->TakePageResponses(kSidA0);
  ASSERT_THAT(answers, SizeIs(20));
  EXPECT_EQ(answers[3].group, 6);
  EXPECT_EQ(answers[3].response, smmuv3::kPageResponseFailure);
}

TEST_P(DmaTest, ReservedBitsOfAVstesFieldsAreTheGuestsOwnTrouble) {
  // A descriptor table that is not there.
  AttachNested(TestGuest::Vste(uint64_t{1} << 40));
  EXPECT_FALSE(Read(kInput).has_value());
  // Stage 2 has no such address: the host's fault, not shown.
  EXPECT_THAT(*context_->ReadVeventq(veventq_, 9), IsEmpty());
}

// One stage 2 under viommus of two SMMUs, or one for each.
TEST_P(DmaTest, TwoSmmus) {
  const ObjectId on_b = *context_->BindDevice(kDeviceB0);
  const absl::StatusOr<ViommuHandle> shared = context_->AllocViommu(on_b, stage2_, ViommuType::kArmSmmuv3);
  ASSERT_EQ(shared.ok(), GetParam().stage2_sharing == Stage2Sharing::kShared);
  const ObjectId own = *context_->AllocStage2(on_b, ioas_);
  ASSERT_TRUE(context_->Attach(on_b, shared.ok() ? stage2_ : own).ok());
  ASSERT_TRUE(context_->Attach(device_, stage2_).ok());
  EXPECT_EQ(Read(page_), 0x1111u);
  DmaRequest request = At(page_);
  request.pci_address = kDeviceB0;
  EXPECT_EQ(Read(request), 0x1111u);
  ASSERT_EQ(*context_->UnmapIoas(ioas_, 0, ~uint64_t{0}), TestGuest::kBytes);
  EXPECT_FALSE(Read(page_).has_value());
  EXPECT_EQ(last_.outcome, Outcome::kAborted);
  EXPECT_FALSE(Read(request).has_value());
  EXPECT_EQ(last_.outcome, Outcome::kAborted);
}

const auto kName = [](const auto& test) { return test.param.name == "strict" ? "Strict" : "Linux72"; };
INSTANTIATE_TEST_SUITE_P(Personalities, DmaTest, testing::Values(Strict(), Linux72()), kName);
INSTANTIATE_TEST_SUITE_P(Personalities, FullQueueTest, testing::Values(Strict(), Linux72()), kName);

}  // namespace
}  // namespace viommu::agent
