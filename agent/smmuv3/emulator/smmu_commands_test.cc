// Registers, the command queue, its errors and interrupts, and the event queue.

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <vector>

#include "agent/smmuv3/emulator/test_machine.h"

namespace viommu::smmuv3 {
namespace {

constexpr uint32_t kSid = 7;
constexpr RawCommand kBad = {0xff, 0};
constexpr RawCommand kSyncCommand = {0x46, 0};

class CommandsTest : public testing::Test {
 protected:
  uint64_t Reg(Register reg) const { return machine_.smmu.ReadRegister(reg); }
  void Set(Register reg, uint64_t value) { machine_.smmu.WriteRegister(reg, value); }
  void AcknowledgeAll() { Set(Register::kGerrorn, Reg(Register::kGerror)); }
  uint64_t ActiveErrors() const { return Reg(Register::kGerror) ^ Reg(Register::kGerrorn); }
  QueuePosition PushRaw(std::vector<RawCommand> commands) { return *machine_.smmu.queue().Push(commands, kNever); }
  bool Done(QueuePosition end) { return machine_.smmu.queue().WaitConsumed(end, kNever); }
  bool DoneNow(QueuePosition end) { return machine_.smmu.queue().WaitConsumed(end, std::chrono::steady_clock::now()); }
  // Runs `what` until the SMMU has raised a global error.
  void UntilError(const std::function<void()>& what) {
    std::promise<void> raised;
    machine_.on_gerror = [&] { raised.set_value(); };
    what();
    raised.get_future().wait();
    machine_.on_gerror = nullptr;
  }

  TestMachine machine_;
};

TEST_F(CommandsTest, IdentificationAndReadOnlyRegisters) {
  const IdRegisters idr = EncodeIdRegisters(kFullFeatures);
  for (uint32_t i = 0; i < idr.size(); ++i) EXPECT_EQ(Reg(static_cast<Register>(i * 4)), idr[i]);
  Set(Register::kIdr0, 0);
  EXPECT_EQ(Reg(Register::kIdr0), idr[0]);
  Set(Register::kGerror, 0xff);
  EXPECT_EQ(Reg(Register::kGerror), 0u);
  EXPECT_EQ(Reg(static_cast<Register>(0x5555)), 0u);
  Set(static_cast<Register>(0x5555), 1);
  EXPECT_EQ(Reg(Register::kCr0Ack), Reg(Register::kCr0));
  Set(Register::kIrqCtrl, ~uint64_t{0});
  EXPECT_EQ(Reg(Register::kIrqCtrlAck), 7u);
}

TEST_F(CommandsTest, NothingHappensBeforeTheQueueIsEnabled) {
  Set(Register::kCr0, 0);
  const QueuePosition end = PushRaw({kSyncCommand});
  EXPECT_FALSE(DoneNow(end));
  EXPECT_EQ(Reg(Register::kCmdqProd), 1u);
  EXPECT_EQ(Reg(Register::kCmdqCons), 0u);
  Set(Register::kCr0, cr0::kCmdqEn.mask());
  EXPECT_TRUE(Done(end));
  EXPECT_EQ(Reg(Register::kCmdqCons), 1u);
  EXPECT_EQ(machine_.smmu.GetCounters().executed[0x46], 1u);
}

TEST_F(CommandsTest, PositionsWrapWithTheirBit) {
  const uint64_t capacity = machine_.smmu.queue().capacity();
  for (uint64_t i = 0; i < capacity + 3; ++i) ASSERT_TRUE(Done(PushRaw({kSyncCommand})));
  EXPECT_EQ(Reg(Register::kCmdqCons), capacity + 3);
  for (uint64_t i = 0; i < capacity; ++i) ASSERT_TRUE(Done(PushRaw({kSyncCommand})));
  EXPECT_EQ(Reg(Register::kCmdqCons), 3u);
}

TEST_F(CommandsTest, AnIllegalCommandStopsTheQueueInFrontOfIt) {
  QueuePosition end = 0;
  UntilError([&] { end = PushRaw({kSyncCommand, kBad, kSyncCommand}); });
  EXPECT_TRUE(Done(end - 2));
  EXPECT_FALSE(DoneNow(end - 1));
  EXPECT_EQ(Reg(Register::kCmdqCons), 1u | 1u << 24);
  EXPECT_EQ(ActiveErrors(), gerror::kCmdq.mask());
  ASSERT_TRUE(machine_.smmu.failed_command().has_value());
  EXPECT_EQ(machine_.smmu.failed_command()->code, CommandErrorCode::kIllegal);
  EXPECT_EQ(machine_.smmu.failed_command()->command, kBad);
  // Acknowledged without a replacement, it fails again.
  UntilError([&] { AcknowledgeAll(); });
  EXPECT_FALSE(DoneNow(end - 1));
  machine_.smmu.ReplaceFailedCommand({0xfe, 0});
  UntilError([&] { AcknowledgeAll(); });
  EXPECT_EQ(machine_.smmu.failed_command()->command, (RawCommand{0xfe, 0}));
  machine_.smmu.ReplaceFailedCommand(kSyncCommand);
  AcknowledgeAll();
  EXPECT_TRUE(Done(end));
  EXPECT_FALSE(machine_.smmu.failed_command().has_value());
  EXPECT_EQ(machine_.smmu.GetCounters().command_errors, 3u);
  EXPECT_EQ(machine_.smmu.GetCounters().executed[0x46], 3u);
}

TEST_F(CommandsTest, AHandlerMayMendAndAcknowledge) {
  machine_.on_gerror = [&] {
    machine_.smmu.ReplaceFailedCommand(kSyncCommand);
    AcknowledgeAll();
  };
  EXPECT_TRUE(Done(PushRaw({kBad, kBad, kSyncCommand})));
  EXPECT_EQ(machine_.gerror_interrupts, 2);
}

TEST_F(CommandsTest, AFetchThatAbortsIsTriedAgain) {
  QueuePosition end = 0;
  UntilError([&] {
    machine_.smmu.FailNextFetch();
    end = PushRaw({kSyncCommand});
  });
  EXPECT_EQ(machine_.smmu.failed_command()->code, CommandErrorCode::kAbort);
  EXPECT_EQ(Reg(Register::kCmdqCons) >> 24, 2u);
  EXPECT_FALSE(DoneNow(end));
  AcknowledgeAll();
  EXPECT_TRUE(Done(end));
}

TEST(CommandsEndTest, DestructionEndsAnErrorThatNobodyAcknowledged) {
  std::promise<void> raised;
  const auto owner = std::make_unique<TestMachine>();
  TestMachine& machine = *owner;
  machine.on_gerror = [&] { raised.set_value(); };
  ASSERT_TRUE(machine.smmu.queue().TryPush({&kBad, 1}).has_value());
  raised.get_future().wait();
}

TEST_F(CommandsTest, PausedHardwareCompletesNothing) {
  machine_.smmu.Pause();
  const QueuePosition end = PushRaw({kSyncCommand});
  EXPECT_FALSE(DoneNow(end));
  EXPECT_EQ(machine_.smmu.queue().GetStats().depth, 1u);
  machine_.smmu.Resume();
  EXPECT_TRUE(Done(end));
}

TEST(CommandsWithoutThreadTest, WhoeverWaitsCarriesThemOut) {
  SmmuOptions options;
  options.own_thread = false;
  const auto owner = std::make_unique<TestMachine>(kFullFeatures, options);
  EmulatedSmmu& smmu = owner->smmu;
  const auto executed = [&] { return smmu.GetCounters().executed[0x46]; };
  const auto push = [&](std::vector<RawCommand> commands) { return *smmu.queue().TryPush(commands); };

  const QueuePosition first = push({kSyncCommand}), second = push({kSyncCommand, kSyncCommand});
  EXPECT_FALSE(smmu.queue().WaitConsumed(first, std::chrono::steady_clock::now()));
  EXPECT_TRUE(smmu.Complete(first, kNever));
  EXPECT_TRUE(smmu.Complete(second, kNever));
  EXPECT_EQ(executed(), 3u);

  // Standing still, it says so at once; what was left is carried out with what comes next.
  smmu.Pause();
  const QueuePosition paused = push({kSyncCommand});
  EXPECT_FALSE(smmu.Complete(paused, kNever));
  smmu.Resume();
  EXPECT_EQ(executed(), 3u);
  const QueuePosition stuck = push({kSyncCommand, kBad, kSyncCommand});
  EXPECT_FALSE(smmu.Complete(stuck, kNever));
  EXPECT_TRUE(smmu.Complete(paused, kNever));
  EXPECT_EQ(executed(), 5u);
  ASSERT_TRUE(smmu.failed_command().has_value());
  EXPECT_EQ(owner->gerror_interrupts, 1);
  // Handlers are called on the same thread, and may mend.
  owner->on_gerror = [&] {
    smmu.ReplaceFailedCommand(kSyncCommand);
    smmu.WriteRegister(Register::kGerrorn, smmu.ReadRegister(Register::kGerror));
  };
  owner->on_gerror();
  EXPECT_TRUE(smmu.Complete(stuck, kNever));
  EXPECT_TRUE(smmu.Complete(push({kBad, kSyncCommand}), kNever));
  EXPECT_EQ(owner->gerror_interrupts, 2);
  // What is left in the queue goes with it.
  push({kSyncCommand});
}

// A command of another queue, carried out by its own thread.
TEST_F(CommandsTest, ExecuteOnBehalfOfAnotherQueue) {
  EXPECT_EQ(machine_.smmu.Execute(kSyncCommand), CommandErrorCode::kNone);
  EXPECT_EQ(machine_.smmu.Execute(Encode({.opcode = Opcode::kTlbiNhAll})), CommandErrorCode::kNone);
  EXPECT_EQ(machine_.smmu.Execute(kBad), CommandErrorCode::kIllegal);
  EXPECT_EQ(ActiveErrors(), 0u);
  EXPECT_EQ(machine_.smmu.GetCounters().executed[0x10], 1u);
}

// ---- Interrupts ---------------------------------------------------------------------------------------------------

TEST_F(CommandsTest, ASyncSignalsByMessageAndWire) {
  const uint64_t place = machine_.host.AllocatePage();
  const auto sync = [&](uint8_t cs, uint64_t address) {
    ASSERT_TRUE(Done(PushRaw(
        {Encode({.opcode = Opcode::kSync, .address = address, .cs = cs, .msi_data = 0xcafe'0001}), kSyncCommand})));
  };
  sync(kSyncSignalNone, place);
  sync(kSyncSignalSev, place);
  EXPECT_EQ(machine_.host.Read(place), 0u);
  EXPECT_EQ(machine_.sync_interrupts, 0);
  machine_.host.Write(place, ~uint64_t{0});
  sync(kSyncSignalIrq, place + 4);
  EXPECT_EQ(machine_.host.Read(place), 0xcafe'0001'ffff'ffffu);
  sync(kSyncSignalIrq, 0);
  EXPECT_EQ(machine_.sync_interrupts, 2);
  EXPECT_EQ(ActiveErrors(), 0u);
  sync(kSyncSignalIrq, TestMachine::kHole);
  EXPECT_EQ(ActiveErrors(), gerror::kMsiCmdqAbt.mask());
}

TEST_F(CommandsTest, InterruptsByMessage) {
  const uint64_t place = machine_.host.AllocatePage();
  Set(Register::kEventqIrqCfg0, place);  // locked while enabled
  EXPECT_EQ(Reg(Register::kEventqIrqCfg0), 0u);
  Set(Register::kIrqCtrl, 0);
  Set(Register::kEventqIrqCfg0, place);
  Set(Register::kEventqIrqCfg1, 0x77);
  Set(Register::kGerrorIrqCfg0, place + 8);
  Set(Register::kGerrorIrqCfg1, 0x88);
  EXPECT_EQ(Reg(Register::kEventqIrqCfg1), 0x77u);
  EXPECT_FALSE(machine_.Read(kSid, 0).has_value());
  EXPECT_EQ(machine_.host.Read(place), 0u);
  machine_.TakeEvents();
  Set(Register::kIrqCtrl, 7);
  EXPECT_FALSE(machine_.Read(kSid, 0).has_value());
  EXPECT_EQ(machine_.host.Read(place), 0x77u);
  EXPECT_EQ(machine_.event_interrupts, 0);
  // A message that goes astray is a global error, with its own message.
  Set(Register::kIrqCtrl, 0);
  Set(Register::kEventqIrqCfg0, TestMachine::kHole);
  Set(Register::kIrqCtrl, 7);
  machine_.TakeEvents();
  EXPECT_FALSE(machine_.Read(kSid, 0).has_value());
  EXPECT_EQ(ActiveErrors(), gerror::kMsiEventqAbt.mask());
  EXPECT_EQ(machine_.host.Read(place + 8), 0x88u);
  // Which may go astray itself.
  Set(Register::kIrqCtrl, 4);
  Set(Register::kGerrorIrqCfg0, TestMachine::kHole);
  Set(Register::kIrqCtrl, 7);
  AcknowledgeAll();
  machine_.TakeEvents();
  EXPECT_FALSE(machine_.Read(kSid, 0).has_value());
  EXPECT_EQ(ActiveErrors(), gerror::kMsiEventqAbt.mask() | gerror::kMsiGerrorAbt.mask());
}

// ---- Event queue --------------------------------------------------------------------------------------------------

TEST_F(CommandsTest, EventsInterruptWhenTheQueueIsNoLongerEmpty) {
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(machine_.Read(kSid, 0).has_value());
  EXPECT_EQ(machine_.event_interrupts, 1);
  EXPECT_EQ(machine_.TakeEvents().size(), 3u);
  EXPECT_FALSE(machine_.Read(kSid, 0).has_value());
  EXPECT_EQ(machine_.event_interrupts, 2);
}

TEST_F(CommandsTest, AFullEventQueueOverflows) {
  constexpr uint32_t kSize = 1 << TestMachine::kLog2Events;
  for (uint32_t i = 0; i < kSize; ++i) EXPECT_FALSE(machine_.Read(i, 0).has_value());
  EXPECT_EQ(Reg(Register::kEventqProd), kSize);
  for (uint32_t i = 0; i < 3; ++i) EXPECT_FALSE(machine_.Read(100 + i, 0).has_value());
  EXPECT_EQ(Reg(Register::kEventqProd), kSize | 0x8000'0000);
  EXPECT_EQ(machine_.event_interrupts, 2);
  EXPECT_EQ(machine_.smmu.GetCounters().events_lost, 3u);
  // Room is used also before the overflow is acknowledged (7.4).
  Set(Register::kEventqCons, 1);
  EXPECT_FALSE(machine_.Read(200, 0).has_value());
  const std::vector<Event> events = machine_.TakeEvents();
  ASSERT_EQ(events.size(), kSize);
  EXPECT_EQ(events.front().sid, 1u);
  EXPECT_EQ(events.back().sid, 200u);
  EXPECT_EQ(Reg(Register::kEventqProd) >> 31, Reg(Register::kEventqCons) >> 31);
}

TEST_F(CommandsTest, EventsAreLostSilentlyWhileTheQueueIsOff) {
  Set(Register::kCr0, TestMachine::kCr0 & ~cr0::kEventqEn.mask());
  EXPECT_FALSE(machine_.Read(kSid, 0).has_value());
  EXPECT_EQ(Reg(Register::kEventqProd), 0u);
  Set(Register::kEventqProd, 5);
  Set(Register::kEventqCons, 5);
  Set(Register::kCr0, TestMachine::kCr0);
  Set(Register::kEventqProd, 0);  // read-only now
  EXPECT_EQ(Reg(Register::kEventqProd), 5u);
  EXPECT_FALSE(machine_.Read(kSid, 0).has_value());
  EXPECT_EQ(machine_.TakeEvents().size(), 1u);
}

TEST_F(CommandsTest, AnEventQueueInAHoleIsAGlobalError) {
  Set(Register::kCr0, TestMachine::kCr0 & ~cr0::kEventqEn.mask());
  const uint64_t base = Reg(Register::kEventqBase);
  Set(Register::kEventqBase, TestMachine::kHole | 4);
  Set(Register::kCr0, TestMachine::kCr0);
  EXPECT_FALSE(machine_.Read(kSid, 0).has_value());
  EXPECT_EQ(ActiveErrors(), gerror::kEventqAbt.mask());
  EXPECT_EQ(Reg(Register::kEventqProd), 0u);
  // Nothing is written before the error is acknowledged.
  Set(Register::kCr0, TestMachine::kCr0 & ~cr0::kEventqEn.mask());
  Set(Register::kEventqBase, base);
  Set(Register::kCr0, TestMachine::kCr0);
  EXPECT_FALSE(machine_.Read(kSid, 0).has_value());
  EXPECT_EQ(Reg(Register::kEventqProd), 0u);
  AcknowledgeAll();
  EXPECT_FALSE(machine_.Read(kSid, 0).has_value());
  EXPECT_EQ(machine_.TakeEvents().size(), 1u);
}

}  // namespace
}  // namespace viommu::smmuv3
