// ATS and PRI: devices with their own translation caches, and their page requests (IHI 0070, 3.9, 4.5, 8).

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <future>
#include <optional>
#include <vector>

#include "agent/smmuv3/emulator/test_machine.h"

namespace viommu::smmuv3 {
namespace {

constexpr uint32_t kSid = 7;
constexpr uint16_t kAsid = 5;
constexpr uint16_t kVmid = 3;
constexpr uint64_t kVa = 0x12'3456'7000;
constexpr uint64_t kOld = 0x01d;
constexpr uint64_t kNew = 0x2e3;

class AtsTest : public testing::Test {
 protected:
  explicit AtsTest(const SmmuOptions& options = {.atc_timeout = std::chrono::milliseconds(1)})
      : machine_(kFullFeatures, options), tables_(&machine_.host, Granule::k4k, 48) {
    old_ = machine_.host.AllocatePage();
    new_ = machine_.host.AllocatePage();
    machine_.host.Write(old_, kOld);
    machine_.host.Write(new_, kNew);
    cds_ = machine_.host.Allocate(4 * kCdBytes, 4 * kCdBytes);
    cd_ = TestMachine::MakeCd(tables_, kAsid);
    for (uint32_t i = 0; i < 3; ++i) machine_.SetCd(machine_.host, cds_ + i * kCdBytes, cd_);
    ste_ = TestMachine::Stage1Ste(cds_, kVmid);
    ste_.eats = 1;
    ste_.s1_cd_max = 2;
    ste_.s1_dss = S1Dss::kSsid0;
    tables_.Map(kVa, old_, kUserPage);
    Apply();
  }
  void Apply() {
    machine_.SetSte(kSid, ste_);
    machine_.InvalidateAll();
  }
  static Transaction At(uint64_t address, bool write = false) {
    return {.sid = kSid, .address = address, .write = write};
  }
  uint64_t Sees(std::optional<uint32_t> ssid = {}) {
    uint64_t value = 0;
    const Transaction transaction{.sid = kSid, .ssid = ssid, .address = kVa};
    const Outcome outcome =
        machine_.smmu.ReadThroughAtc(transaction, std::as_writable_bytes(std::span(&value, 1)), kNever);
    return outcome.result == TransactionResult::kDone ? value : 0;
  }
  AtsCompletion Ask(const Transaction& transaction) { return machine_.smmu.RequestTranslation(transaction); }
  AtsStatus StatusOf(const Transaction& transaction) { return Ask(transaction).status; }

  TestMachine machine_;
  TestTables tables_;
  uint64_t old_ = 0;
  uint64_t new_ = 0;
  uint64_t cds_ = 0;
  Cd cd_;
  Ste ste_;
};

TEST_F(AtsTest, ARequestIsAnsweredWithWhatIsAskedFor) {
  AtsCompletion completion = Ask(At(kVa + 0x10));
  EXPECT_EQ(completion.status, AtsStatus::kSuccess);
  EXPECT_EQ(completion.translation.output, old_ + 0x10);
  EXPECT_TRUE(completion.translation.readable);
  EXPECT_FALSE(completion.translation.writable);
  EXPECT_TRUE(Ask(At(kVa, true)).translation.writable);
  Stage1Leaf leaf = kUserPage;
  leaf.ap |= kApReadOnly;
  tables_.Map(kVa, old_, leaf);
  machine_.InvalidateAll();
  completion = Ask(At(kVa, true));
  EXPECT_TRUE(completion.translation.readable);
  EXPECT_FALSE(completion.translation.writable);
  // Not for unprivileged accesses.
  leaf.ap = 0;
  tables_.Map(kVa, old_, leaf);
  machine_.InvalidateAll();
  completion = Ask(At(kVa, true));
  EXPECT_EQ(completion.status, AtsStatus::kSuccess);
  EXPECT_FALSE(completion.translation.readable || completion.translation.writable);
  EXPECT_TRUE(Ask({.sid = kSid, .address = kVa, .write = true, .privileged = true}).translation.writable);
  tables_.Map(kVa, old_, kGlobalPage);
  machine_.InvalidateAll();
  EXPECT_FALSE(Ask(At(kVa)).translation.global);
  EXPECT_TRUE(machine_.TakeEvents().empty());
}

TEST_F(AtsTest, FaultsAreNoAccessAndErrorsAreAborts) {
  const AtsCompletion absent = Ask(At(kVa + 0x1000));
  EXPECT_EQ(absent.status, AtsStatus::kSuccess);
  EXPECT_FALSE(absent.translation.readable || absent.translation.writable);
  EXPECT_EQ(StatusOf({.sid = kSid, .ssid = 9, .address = kVa}), AtsStatus::kCompleterAbort);
  EXPECT_EQ(StatusOf({.sid = kSid, .ssid = 0, .address = kVa}), AtsStatus::kCompleterAbort);
  EXPECT_EQ(StatusOf({.sid = kSid, .ssid = 3, .address = kVa}), AtsStatus::kCompleterAbort);  // CD.V = 0
  EXPECT_EQ(StatusOf({.sid = 99, .address = kVa}), AtsStatus::kCompleterAbort);
  EXPECT_EQ(StatusOf({.sid = 999, .address = kVa}), AtsStatus::kCompleterAbort);
  tables_.Put(tables_.Place(kVa + (1 << 30), 1), EncodeTable(TestMachine::kHole, Granule::k4k));
  EXPECT_EQ(StatusOf(At(kVa + (1 << 30))), AtsStatus::kCompleterAbort);
  EXPECT_TRUE(machine_.TakeEvents().empty());
  EXPECT_EQ(machine_.smmu.GetCounters().atc_entries, 0u);
}

TEST_F(AtsTest, WhereAtsIsOff) {
  const auto refused = [&](bool recorded) {
    EXPECT_EQ(StatusOf(At(kVa)), AtsStatus::kUnsupportedRequest);
    const std::vector<Event> events = machine_.TakeEvents();
    ASSERT_EQ(events.size(), recorded ? 1u : 0u);
    if (recorded) {
      EXPECT_EQ(events[0].id, EventId::kFBadAtsTreq);
    }
  };
  const auto translated = [&](std::optional<EventId> id) {
    const Transaction transaction{.sid = kSid, .address = old_, .translated = true};
    EXPECT_EQ(machine_.smmu.Translate(transaction, kNever).result, TransactionResult::kAborted);
    const std::vector<Event> events = machine_.TakeEvents();
    ASSERT_EQ(events.size(), id.has_value() ? 1u : 0u);
    if (id.has_value()) {
      EXPECT_EQ(events[0].id, *id);
    }
  };
  ste_.eats = 0;
  Apply();
  refused(true);
  translated(EventId::kFTranslForbidden);
  EXPECT_EQ(Sees(), kOld);  // the device does without
  machine_.TakeEvents();
  ste_ = TestMachine::BypassSte();
  ste_.eats = 1;
  Apply();
  refused(true);
  translated(EventId::kFTranslForbidden);
  ste_ = TestMachine::AbortSte();
  Apply();
  refused(false);
  translated(std::nullopt);
  ste_ = {};
  Apply();
  EXPECT_EQ(StatusOf(At(kVa)), AtsStatus::kCompleterAbort);
  translated(std::nullopt);
  machine_.smmu.WriteRegister(Register::kCr0, TestMachine::kCr0 & ~uint32_t{1});
  refused(true);
  translated(EventId::kFTranslForbidden);
}

TEST_F(AtsTest, TranslatedTransactionsPassBy) {
  const Transaction transaction{.sid = kSid, .address = old_, .translated = true};
  EXPECT_EQ(machine_.Read(transaction), kOld);
  Transaction beyond = transaction;
  beyond.address = uint64_t{1} << 48;
  EXPECT_EQ(machine_.smmu.Translate(beyond, kNever).result, TransactionResult::kAborted);
  EXPECT_TRUE(machine_.TakeEvents().empty());
  // Without ATSCHK nobody looks at the stream table.
  ste_.eats = 0;
  Apply();
  machine_.smmu.WriteRegister(Register::kCr0, 0xf);
  EXPECT_EQ(machine_.Read(transaction), kOld);
}

TEST_F(AtsTest, PassingByStage1) {
  ste_.s1_dss = S1Dss::kBypass;
  Apply();
  const AtsCompletion completion = Ask(At(old_ + 4, true));
  EXPECT_EQ(completion.status, AtsStatus::kSuccess);
  EXPECT_EQ(completion.translation.output, old_ + 4);
  EXPECT_TRUE(completion.translation.readable && completion.translation.writable);
}

TEST_F(AtsTest, TheDeviceKeepsItsTranslationUntilToldOtherwise) {
  const auto sees_after = [&](const Command& command, std::optional<uint32_t> ssid = {}) {
    tables_.Map(kVa, old_, kUserPage);
    machine_.InvalidateAll();
    machine_.Issue({{.opcode = Opcode::kAtcInv, .sid = kSid, .size = kAtcSizeAll}});
    EXPECT_EQ(Sees(ssid), kOld);
    tables_.Map(kVa, new_, kUserPage);
    machine_.InvalidateAll();
    EXPECT_EQ(Sees(ssid), kOld);  // the TLB is not the point
    EXPECT_EQ(machine_.Read(Transaction{.sid = kSid, .ssid = ssid, .address = kVa}), kNew);
    machine_.Issue({command});
    return Sees(ssid);
  };
  const auto inv = [](uint64_t address, uint8_t size, uint32_t sid = kSid) {
    return Command{.opcode = Opcode::kAtcInv, .sid = sid, .address = address, .size = size};
  };
  const auto pasid = [](uint32_t ssid, bool global = false) {
    return Command{.opcode = Opcode::kAtcInv, .sid = kSid, .ssid = ssid, .ssv = true, .address = kVa, .global = global};
  };
  EXPECT_EQ(sees_after(inv(kVa, 0)), kNew);
  EXPECT_EQ(sees_after(inv(0, kAtcSizeAll)), kNew);
  EXPECT_EQ(sees_after(inv(kVa + 0x1000, 0)), kOld);
  EXPECT_EQ(sees_after(inv(kVa - 0x1000, 0)), kOld);
  EXPECT_EQ(sees_after(inv(kVa - 0x1000, 1)), kNew);  // 0x...6000 to 0x...7fff
  EXPECT_EQ(sees_after(inv(kVa + 0x1000, 1)), kOld);  // 0x...8000 to 0x...9fff
  EXPECT_EQ(sees_after(inv(kVa, 0, kSid + 1)), kOld);
  EXPECT_EQ(sees_after(pasid(1)), kOld);  // requested without PASID
  EXPECT_EQ(sees_after(pasid(1), 1), kNew);
  EXPECT_EQ(sees_after(pasid(2), 1), kOld);
  EXPECT_EQ(sees_after(pasid(2, true), 1), kNew);
  EXPECT_EQ(sees_after(inv(kVa, 0), 1), kNew);
  EXPECT_EQ(sees_after(inv(kVa + 0x1000, 0), 1), kOld);
}

TEST_F(AtsTest, WritesNeedWhatWasGranted) {
  EXPECT_EQ(Sees(), kOld);
  const uint64_t value = 0x3333;
  const auto write = [&] {
    return machine_.smmu.WriteThroughAtc(At(kVa), std::as_bytes(std::span(&value, 1)), kNever).result;
  };
  // What is cached is for reading: the device asks again.
  EXPECT_EQ(write(), TransactionResult::kDone);
  EXPECT_EQ(machine_.host.Read(old_), 0x3333u);
  Stage1Leaf leaf = kUserPage;
  leaf.ap |= kApReadOnly;
  tables_.Map(kVa, old_, leaf);
  machine_.InvalidateAll();
  machine_.Issue({{.opcode = Opcode::kAtcInv, .sid = kSid, .size = kAtcSizeAll}});
  EXPECT_EQ(write(), TransactionResult::kAborted);
  EXPECT_EQ(Sees(), 0x3333u);
}

// Stage-2 changes of the host reach devices by ATC invalidation alone.
TEST_F(AtsTest, WithBothStages) {
  TestTables stage2(&machine_.host, Granule::k4k, 40, 1, false);
  stage2.Map(kVa & 0xff'ffff'f000, old_, kGuestPage);
  ste_ = TestMachine::Stage2Ste(stage2, kVmid);
  ste_.eats = 1;
  Apply();
  EXPECT_EQ(Sees(), kOld);
  stage2.Unmap(kVa & 0xff'ffff'f000);
  machine_.InvalidateAll();
  EXPECT_EQ(Sees(), kOld);
  machine_.Issue({{.opcode = Opcode::kAtcInv, .sid = kSid, .address = kVa}});
  EXPECT_EQ(Sees(), 0u);
}

// ---- Devices that do not answer -----------------------------------------------------------------------------------

TEST_F(AtsTest, ASilentDeviceFailsTheSync) {
  EXPECT_EQ(Sees(), kOld);
  tables_.Map(kVa, new_, kUserPage);
  machine_.InvalidateAll();
  machine_.smmu.SetDeviceResponding(kSid, false);
  std::promise<void> failed;
  machine_.on_gerror = [&] { failed.set_value(); };
  const QueuePosition end = machine_.Push({{.opcode = Opcode::kAtcInv, .sid = kSid, .size = kAtcSizeAll}});
  failed.get_future().wait();
  EXPECT_EQ(machine_.smmu.failed_command()->code, CommandErrorCode::kAtcInvSync);
  EXPECT_EQ(OpcodeByte(machine_.smmu.failed_command()->command), 0x46);
  EXPECT_FALSE(machine_.smmu.queue().WaitConsumed(end, std::chrono::steady_clock::now()));
  // The host leaves the sync as it is; it completes when it is carried out again (7.1).
  machine_.on_gerror = nullptr;
  machine_.smmu.WriteRegister(Register::kGerrorn, machine_.smmu.ReadRegister(Register::kGerror));
  EXPECT_TRUE(machine_.smmu.queue().WaitConsumed(end, kNever));
  EXPECT_EQ(Sees(), kOld);
  machine_.smmu.SetDeviceResponding(kSid, true);
  EXPECT_EQ(Sees(), kNew);
}

TEST_F(AtsTest, OtherQueuesHaveTheirOwnErrors) {
  machine_.smmu.SetDeviceResponding(kSid, false);
  AtcInvalidations::Outstanding mine, yours;
  const RawCommand inv = Encode({.opcode = Opcode::kAtcInv, .sid = kSid, .size = kAtcSizeAll});
  const RawCommand sync = Encode({.opcode = Opcode::kSync});
  EXPECT_EQ(machine_.smmu.Execute(inv, &mine), CommandErrorCode::kNone);
  EXPECT_EQ(machine_.smmu.Execute(sync, &yours), CommandErrorCode::kNone);
  machine_.Issue({});
  EXPECT_EQ(machine_.smmu.Execute(sync, &mine), CommandErrorCode::kAtcInvSync);
  EXPECT_EQ(machine_.smmu.Execute(sync, &mine), CommandErrorCode::kNone);
}

class PatientAtsTest : public AtsTest {
 protected:
  PatientAtsTest() : AtsTest({.atc_timeout = std::chrono::hours(1)}) {}
};

TEST_F(PatientAtsTest, TheSyncCompletesWhenTheDeviceAnswers) {
  EXPECT_EQ(Sees(), kOld);
  tables_.Map(kVa, new_, kUserPage);
  machine_.InvalidateAll();
  machine_.smmu.SetDeviceResponding(kSid, false);
  const QueuePosition end = machine_.Push({{.opcode = Opcode::kAtcInv, .sid = kSid, .size = kAtcSizeAll}});
  EXPECT_FALSE(machine_.smmu.queue().WaitConsumed(end, std::chrono::steady_clock::now()));
  machine_.smmu.SetDeviceResponding(kSid, true);
  EXPECT_TRUE(machine_.smmu.queue().WaitConsumed(end, kNever));
  EXPECT_EQ(Sees(), kNew);
}

TEST_F(PatientAtsTest, DestructionDoesNotWaitForTheDevice) {
  machine_.smmu.SetDeviceResponding(kSid, false);
  machine_.Push({{.opcode = Opcode::kAtcInv, .sid = kSid, .size = kAtcSizeAll}});
}

// ---- Page requests ------------------------------------------------------------------------------------------------

class PriTest : public AtsTest {
 protected:
  static constexpr uint32_t kSize = 1 << TestMachine::kLog2Events;

  static PageRequest Request(uint16_t group, bool last = true) {
    return {.sid = kSid, .read = true, .last = last, .group = group, .address = kVa};
  }
  static PageRequest WithPasid(uint16_t group) {
    PageRequest request = Request(group);
    request.ssv = true;
    request.ssid = 1;
    return request;
  }
  std::vector<PageResponse> Answers() { return machine_.smmu.TakePageResponses(kSid); }
  void Fill() {
    for (uint16_t i = 0; i < kSize; ++i) ASSERT_TRUE(machine_.smmu.RequestPage(Request(i)));
  }
};

TEST_F(PriTest, ARequestAndItsAnswer) {
  EXPECT_TRUE(machine_.smmu.RequestPage(WithPasid(5)));
  EXPECT_EQ(machine_.page_interrupts, 1);
  EXPECT_EQ(machine_.smmu.ReadRegister(Register::kPriqProd), 1u);
  const RawPageRequest raw = {machine_.host.Read(machine_.page_queue()), machine_.host.Read(machine_.page_queue() + 8)};
  EXPECT_EQ(DecodePageRequest(raw), WithPasid(5));
  EXPECT_TRUE(Answers().empty());
  machine_.Issue({{.opcode = Opcode::kPriResp, .sid = kSid, .ssid = 1, .ssv = true, .response = 2, .tag = 5},
                  {.opcode = Opcode::kPriResp, .sid = kSid, .response = 1, .tag = 6}});
  EXPECT_EQ(Answers(), (std::vector<PageResponse>{{kSid, true, 1, 5, kPageResponseSuccess},
                                                  {kSid, false, 0, 6, kPageResponseInvalid}}));
  EXPECT_TRUE(Answers().empty());
}

TEST_F(PriTest, OverflowAnswersByItself) {
  Fill();
  EXPECT_FALSE(machine_.smmu.RequestPage(Request(100, false)));
  EXPECT_EQ(machine_.smmu.ReadRegister(Register::kPriqProd), kSize | 0x8000'0000);
  EXPECT_TRUE(Answers().empty());  // not the last of its group
  EXPECT_FALSE(machine_.smmu.RequestPage(Request(100)));
  EXPECT_EQ(Answers(), (std::vector<PageResponse>{{kSid, false, 0, 100, kPageResponseSuccess}}));
  // With a PASID as STE.PPAR says.
  EXPECT_FALSE(machine_.smmu.RequestPage(WithPasid(101)));
  EXPECT_EQ(Answers(), (std::vector<PageResponse>{{kSid, false, 0, 101, kPageResponseSuccess}}));
  ste_.ppar = true;
  Apply();
  EXPECT_FALSE(machine_.smmu.RequestPage(WithPasid(102)));
  EXPECT_EQ(Answers(), (std::vector<PageResponse>{{kSid, true, 1, 102, kPageResponseSuccess}}));
  ste_ = {};
  Apply();
  EXPECT_FALSE(machine_.smmu.RequestPage(WithPasid(103)));
  EXPECT_EQ(Answers(), (std::vector<PageResponse>{{kSid, false, 0, 103, kPageResponseFailure}}));
  PageRequest stop = WithPasid(104);
  stop.read = false;
  EXPECT_FALSE(machine_.smmu.RequestPage(stop));
  EXPECT_TRUE(Answers().empty());
  // Room alone does not help (8.1), the acknowledgement does.
  machine_.smmu.WriteRegister(Register::kPriqCons, 4);
  EXPECT_FALSE(machine_.smmu.RequestPage(Request(105)));
  machine_.smmu.WriteRegister(Register::kPriqCons, 4 | 0x8000'0000);
  EXPECT_TRUE(machine_.smmu.RequestPage(Request(106)));
  EXPECT_EQ(machine_.page_interrupts, 2);
  EXPECT_TRUE(machine_.TakeEvents().empty());
}

TEST_F(PriTest, WhereTheQueueIsOffOrBroken) {
  const PageResponse failure{kSid, false, 0, 9, kPageResponseFailure};
  machine_.smmu.WriteRegister(Register::kCr0, TestMachine::kCr0 & ~cr0::kPriqEn.mask());
  EXPECT_FALSE(machine_.smmu.RequestPage(WithPasid(9)));
  EXPECT_EQ(Answers(), std::vector{failure});
  EXPECT_FALSE(machine_.smmu.RequestPage(Request(9, false)));
  EXPECT_EQ(Answers(), std::vector{failure});
  machine_.smmu.WriteRegister(Register::kPriqBase, TestMachine::kHole | 4);
  machine_.smmu.WriteRegister(Register::kCr0, TestMachine::kCr0);
  EXPECT_FALSE(machine_.smmu.RequestPage(Request(9)));
  EXPECT_EQ(Answers(), std::vector{failure});
  EXPECT_EQ(machine_.smmu.ReadRegister(Register::kGerror), gerror::kPriqAbt.mask());
  EXPECT_FALSE(machine_.smmu.RequestPage(Request(9)));
  EXPECT_EQ(Answers(), std::vector{failure});
}

TEST_F(PriTest, InterruptsForTheLastOfAGroup) {
  machine_.smmu.WriteRegister(Register::kIrqCtrl, 0);
  machine_.smmu.WriteRegister(Register::kPriqIrqCfg2, priq_irq_cfg2::kLo.mask());
  machine_.smmu.WriteRegister(Register::kIrqCtrl, 7);
  EXPECT_TRUE(machine_.smmu.RequestPage(Request(1, false)));
  EXPECT_EQ(machine_.page_interrupts, 0);
  EXPECT_TRUE(machine_.smmu.RequestPage(Request(1)));
  EXPECT_EQ(machine_.page_interrupts, 1);
  EXPECT_TRUE(machine_.smmu.RequestPage(Request(2)));
  EXPECT_EQ(machine_.page_interrupts, 2);
}

TEST_F(PriTest, AnswersAreBounded) {
  std::vector<Command> commands(kMaxPageResponses + 10, Command{.opcode = Opcode::kPriResp, .sid = kSid});
  for (size_t i = 0; i < commands.size(); ++i) {
    commands[i].tag = static_cast<uint16_t>(i % 512);
    machine_.Issue({commands[i]});
  }
  const std::vector<PageResponse> answers = Answers();
  EXPECT_EQ(answers.size(), kMaxPageResponses);
  EXPECT_EQ(answers.front().group, 10);
}

}  // namespace
}  // namespace viommu::smmuv3
