#include "agent/smmuv3/emulator/vcmdq.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <vector>

#include "agent/smmuv3/emulator/vcmdq_testing.h"
#include "agent/smmuv3/spec/command.h"

namespace viommu::smmuv3 {
namespace {

using cmdqv::QueueRegister;

constexpr uint32_t kQueue = 3;
constexpr uint32_t kLog2Size = 3;
constexpr uint32_t kSize = 1u << kLog2Size;
constexpr uint32_t kSync = static_cast<uint32_t>(Opcode::kSync);

// One queue of 8 entries that is run by hand.
class VcmdqTest : public ::testing::Test {
 protected:
  VcmdqTest() {
    filter_.slots[0] = SidSlot{.virt_sid = 0x10, .sid = 0x100};
    queue_.Assign(*page_, kQueue, SharedTestMemory::kBase, kLog2Size);
  }

  Vcmdq::Turn Run(uint32_t limit = 64) {
    return queue_.Run({.page = page_.get(),
                       .id = {.vintf = 1, .lvcmdq = kQueue},
                       .filter = &filter_,
                       .memory = &memory_,
                       .executor = &executor_,
                       .counters = &counters_,
                       .run_limit = limit});
  }
  void Put(uint32_t index, const RawCommand& command) { memory_.Put(index * sizeof(RawCommand), command); }
  void Set(QueueRegister reg, uint32_t value) { page_->Store(kQueue, reg, value); }
  uint32_t Get(QueueRegister reg) const { return page_->Load(kQueue, reg); }
  uint32_t ErrorCode() const { return static_cast<uint32_t>(cmdqv::kConsErr.Get(Get(QueueRegister::kCons))); }
  uint32_t Cons() const { return Get(QueueRegister::kCons) & (2 * kSize - 1); }
  bool ErrorActive() const { return ((Get(QueueRegister::kGerror) ^ Get(QueueRegister::kGerrorn)) & 1) != 0; }
  void Acknowledge() { Set(QueueRegister::kGerrorn, Get(QueueRegister::kGerror)); }
  void Enable() {
    Set(QueueRegister::kConfig, 1);
    Run();
  }

  const std::shared_ptr<VintfPage> page_ = VintfPage::Create();
  SharedTestMemory memory_{4096};
  CommandRecorder recorder_;
  const CommandExecutor executor_ = recorder_.executor();
  VintfFilter filter_{.vmid = 7, .hyp_own = false, .slots = {}};
  VcmdqCounters counters_;
  Vcmdq queue_;
};

TEST_F(VcmdqTest, RunsOnlyWhileItIsOn) {
  Put(0, InvalidateAsid(1));
  Set(QueueRegister::kProd, 1);
  EXPECT_FALSE(Run().worked);
  EXPECT_EQ(Get(QueueRegister::kStatus), 0u);
  Set(QueueRegister::kConfig, 1);
  EXPECT_TRUE(Run().worked);
  EXPECT_EQ(Get(QueueRegister::kStatus), 1u);
  EXPECT_EQ(Cons(), 1u);
  EXPECT_EQ(recorder_.Take(), (std::vector{InvalidateAsid(1, 7)}));
  Set(QueueRegister::kConfig, 0);
  Put(1, InvalidateAsid(2));
  Set(QueueRegister::kProd, 2);
  EXPECT_TRUE(Run().worked);
  EXPECT_EQ(Get(QueueRegister::kStatus), 0u);
  EXPECT_FALSE(Run().worked);
  EXPECT_TRUE(recorder_.Take().empty());
  // On again it goes on where it was.
  Enable();
  EXPECT_EQ(recorder_.Take(), (std::vector{InvalidateAsid(2, 7)}));
}

TEST_F(VcmdqTest, TakesTheRegistersThatWereSetWhileItWasOff) {
  Enable();
  Set(QueueRegister::kConfig, 0);
  Run();
  Set(QueueRegister::kProd, 6);
  Set(QueueRegister::kCons, 5);
  Put(5, InvalidateAsid(5));
  Enable();
  EXPECT_EQ(recorder_.Take(), (std::vector{InvalidateAsid(5, 7)}));
}

TEST_F(VcmdqTest, GoesRoundTheRing) {
  Enable();
  uint32_t prod = 0;
  for (uint16_t i = 0; i < 5 * kSize; ++i) {
    Put(prod % kSize, InvalidateAsid(i));
    prod = (prod + 1) % (2 * kSize);
    Set(QueueRegister::kProd, prod);
    Run();
    ASSERT_EQ(recorder_.Take(), (std::vector{InvalidateAsid(i, 7)}));
    ASSERT_EQ(Cons(), prod);
  }
}

TEST_F(VcmdqTest, AFullQueueIsNotAnEmptyOne) {
  Enable();
  for (uint16_t i = 0; i < kSize; ++i) Put(i, InvalidateAsid(i));
  Set(QueueRegister::kProd, kSize);
  EXPECT_TRUE(Run().worked);
  EXPECT_EQ(recorder_.Take().size(), kSize);
  EXPECT_EQ(Cons(), kSize);
}

TEST_F(VcmdqTest, ATurnEndsAtItsLimitAndAtTheEndOfTheRing) {
  Enable();
  for (uint16_t i = 0; i < kSize; ++i) Put(i, InvalidateAsid(i));
  Set(QueueRegister::kProd, 6);
  Run(4);
  EXPECT_EQ(recorder_.Take().size(), 4u);
  Run(4);
  EXPECT_EQ(recorder_.Take().size(), 2u);
  Set(QueueRegister::kProd, kSize + 2);
  Run(4);
  EXPECT_EQ(recorder_.Take().size(), 2u);
  Run(4);
  EXPECT_EQ(recorder_.Take().size(), 2u);
}

TEST_F(VcmdqTest, StopsInFrontOfWhatItCannotCarry) {
  Enable();
  Put(0, InvalidateAsid(1));
  Put(1, Encode({.opcode = Opcode::kCfgiCdAll, .sid = 0x10}));
  Put(2, InvalidateAsid(2));
  Set(QueueRegister::kProd, 3);
  EXPECT_TRUE(Run().error_raised);
  EXPECT_EQ(Cons(), 1u);
  EXPECT_EQ(ErrorCode(), static_cast<uint32_t>(CommandErrorCode::kIllegal));
  EXPECT_TRUE(ErrorActive());
  EXPECT_TRUE(queue_.error_active());
  EXPECT_EQ(recorder_.Take(), (std::vector{InvalidateAsid(1, 7)}));
  const Vcmdq::Turn turn = Run();
  EXPECT_FALSE(turn.worked);
  EXPECT_FALSE(turn.error_raised);
}

TEST_F(VcmdqTest, AnAcknowledgedErrorComesAgainUntilTheEntryIsReplaced) {
  Enable();
  Put(0, InvalidateAtc(0x11));
  Put(1, InvalidateAtc(0x10));
  Set(QueueRegister::kProd, 2);
  EXPECT_TRUE(Run().error_raised);
  Acknowledge();
  EXPECT_TRUE(Run().error_raised);
  EXPECT_TRUE(ErrorActive());
  EXPECT_EQ(Cons(), 0u);
  Put(0, SyncCommand());
  EXPECT_FALSE(Run().worked);
  Acknowledge();
  EXPECT_FALSE(Run().error_raised);
  EXPECT_FALSE(ErrorActive());
  EXPECT_EQ(ErrorCode(), 0u);
  EXPECT_EQ(Cons(), 2u);
  EXPECT_EQ(recorder_.Take(), (std::vector{InvalidateAtc(0x100)}));
  EXPECT_EQ(counters_.refused[static_cast<uint8_t>(Opcode::kAtcInv)], 2u);
  EXPECT_EQ(counters_.done[static_cast<uint8_t>(Opcode::kAtcInv)], 1u);
  EXPECT_EQ(counters_.done[kSync], 1u);
}

TEST_F(VcmdqTest, AnErrorIsActiveWhateverTheOwnerWroteBefore) {
  Enable();
  Set(QueueRegister::kGerrorn, 1);
  Put(0, {.dw0 = 0xff});
  Set(QueueRegister::kProd, 1);
  EXPECT_TRUE(Run().error_raised);
  EXPECT_TRUE(ErrorActive());
  EXPECT_FALSE(Run().worked);
  // Only GERRORN acknowledges.
  Set(QueueRegister::kGerror, Get(QueueRegister::kGerrorn));
  EXPECT_FALSE(Run().worked);
}

TEST_F(VcmdqTest, AFetchThatAbortsIsToldFromABadCommand) {
  Enable();
  for (uint16_t i = 0; i < 4; ++i) Put(i, InvalidateAsid(i));
  Set(QueueRegister::kProd, 4);
  memory_.FailAt(SharedTestMemory::kBase + 2 * sizeof(RawCommand));
  Vcmdq::Turn turn = Run();
  EXPECT_TRUE(turn.error_raised);
  EXPECT_EQ(Cons(), 2u);
  EXPECT_EQ(ErrorCode(), static_cast<uint32_t>(CommandErrorCode::kAbort));
  EXPECT_EQ(counters_.aborted_fetches, 1u);
  memory_.FailAt(0);
  Acknowledge();
  EXPECT_FALSE(Run().error_raised);
  EXPECT_EQ(recorder_.Take().size(), 4u);
}

TEST_F(VcmdqTest, WhatTheSmmuSaysStopsTheQueue) {
  Enable();
  Put(0, SyncCommand());
  Set(QueueRegister::kProd, 1);
  recorder_.Answer(CommandErrorCode::kAtcInvSync);
  EXPECT_TRUE(Run().error_raised);
  EXPECT_EQ(ErrorCode(), static_cast<uint32_t>(CommandErrorCode::kAtcInvSync));
  EXPECT_EQ(counters_.failed[kSync], 1u);
  recorder_.Answer(CommandErrorCode::kNone);
  Acknowledge();
  Run();
  EXPECT_EQ(Cons(), 1u);
}

TEST_F(VcmdqTest, WaitsAtWhatIsNotComplete) {
  Enable();
  Put(0, InvalidateAsid(0));
  Put(1, SyncCommand());
  Put(2, InvalidateAsid(2));
  Set(QueueRegister::kProd, 1);
  Run();
  recorder_.SetComplete(false);
  Set(QueueRegister::kProd, 3);
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(Run().worked);
  EXPECT_EQ(Cons(), 1u);
  EXPECT_FALSE(queue_.error_active());
  EXPECT_EQ(counters_.done[kSync], 0u);
  recorder_.SetComplete(true);
  EXPECT_TRUE(Run().worked);
  EXPECT_EQ(Cons(), 3u);
  EXPECT_EQ(counters_.done[kSync], 1u);
}

TEST_F(VcmdqTest, ConsIsTheHardwaresWhileTheQueueIsOn) {
  Enable();
  Put(0, InvalidateAsid(0));
  Put(1, InvalidateAsid(1));
  Set(QueueRegister::kCons, 5);
  Set(QueueRegister::kProd, 1);
  Run();
  Set(QueueRegister::kCons, 7);
  Set(QueueRegister::kProd, 2);
  Run();
  EXPECT_EQ(recorder_.Take(), (std::vector{InvalidateAsid(0, 7), InvalidateAsid(1, 7)}));
  EXPECT_EQ(Cons(), 2u);
}

TEST_F(VcmdqTest, AnErrorOutlivesSwitchingOffAndIsForgottenByAcknowledging) {
  Enable();
  Put(0, {.dw0 = 0xff});
  Set(QueueRegister::kProd, 1);
  Run();
  Set(QueueRegister::kConfig, 0);
  Run();
  EXPECT_TRUE(queue_.error_active());
  Set(QueueRegister::kConfig, 1);
  Run();
  EXPECT_FALSE(Run().worked);
  Set(QueueRegister::kConfig, 0);
  Run();
  Set(QueueRegister::kProd, 0);
  Set(QueueRegister::kCons, 0);
  Acknowledge();
  Run();
  EXPECT_FALSE(queue_.error_active());
  Put(0, InvalidateAsid(9));
  Set(QueueRegister::kProd, 1);
  Enable();
  EXPECT_EQ(recorder_.Take(), (std::vector{InvalidateAsid(9, 7)}));
}

TEST_F(VcmdqTest, ReleaseClearsWhatTheNextOwnerMustNotSee) {
  Enable();
  Put(0, {.dw0 = 0xff});
  Set(QueueRegister::kProd, 3);
  Run();
  queue_.Disable(*page_, kQueue);
  EXPECT_FALSE(queue_.assigned());
  // Its owner still has the page: nothing that it writes there brings the queue back.
  Set(QueueRegister::kConfig, 1);
  EXPECT_FALSE(Run().worked);
  Set(QueueRegister::kConfig, 0);
  queue_.Release(*page_, kQueue);
  for (const QueueRegister reg : {QueueRegister::kCons, QueueRegister::kProd, QueueRegister::kConfig,
                                  QueueRegister::kStatus, QueueRegister::kGerror, QueueRegister::kGerrorn}) {
    EXPECT_EQ(Get(reg), 0u);
  }
  EXPECT_FALSE(queue_.error_active());
  queue_.Assign(*page_, kQueue, SharedTestMemory::kBase + 128, kLog2Size);
  memory_.Put(128, InvalidateAsid(4));
  Set(QueueRegister::kProd, 1);
  Enable();
  EXPECT_EQ(recorder_.Take(), (std::vector{InvalidateAsid(4, 7)}));
}

// Whatever is written where: the queue stays inside its ring, its executor sees what the interface lets through, and a
// turn carries out no more than its limit.
RC_GTEST_FIXTURE_PROP(VcmdqTest, AnyRegistersAndAnyRing, ()) {
  const auto words = *rc::gen::container<std::vector<uint64_t>>(2 * kSize, rc::gen::arbitrary<uint64_t>());
  for (uint32_t i = 0; i < kSize; ++i) {
    const bool plausible = *rc::gen::arbitrary<bool>();
    Put(i, plausible ? InvalidateAsid(static_cast<uint16_t>(i)) : RawCommand{words[2 * i], words[2 * i + 1]});
  }
  // Right behind the ring: what must never be carried out.
  memory_.Put(kSize * sizeof(RawCommand), InvalidateAsid(0xdead));
  const auto writes = *rc::gen::container<std::vector<std::pair<uint8_t, uint32_t>>>(
      20, rc::gen::pair(rc::gen::inRange<uint8_t>(0, 6), rc::gen::arbitrary<uint32_t>()));
  for (const auto& [reg, value] : writes) {
    Set(static_cast<QueueRegister>(reg * 4), value);
    if (*rc::gen::arbitrary<bool>()) Set(QueueRegister::kConfig, 1);
    const uint64_t syncs = recorder_.syncs();
    Run(4);
    const std::vector<RawCommand> commands = recorder_.Take();
    RC_ASSERT(commands.size() + recorder_.syncs() - syncs <= 4u);
    for (const RawCommand& raw : commands) {
      const std::optional<Command> command = Decode(raw);
      RC_ASSERT(command.has_value());
      RC_ASSERT(command->asid != 0xdead);
      if (command->opcode == Opcode::kAtcInv) {
        RC_ASSERT(command->sid == 0x100u);
      } else {
        RC_ASSERT(command->opcode == Opcode::kTlbiNhAsid || command->opcode == Opcode::kTlbiNhVa);
        RC_ASSERT(command->vmid == 7);
      }
    }
  }
}

}  // namespace
}  // namespace viommu::smmuv3
