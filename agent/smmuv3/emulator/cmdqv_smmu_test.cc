// Guest-owned queues in front of the emulated SMMU itself.

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <memory>
#include <vector>

#include "agent/smmuv3/emulator/cmdqv.h"
#include "agent/smmuv3/emulator/smmu.h"
#include "agent/smmuv3/emulator/vcmdq_testing.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/vintf/producer.h"

namespace viommu::smmuv3 {
namespace {

using std::chrono::steady_clock;
using WaitResult = VcmdqProducer::WaitResult;

constexpr uint32_t kLog2Size = 4;
constexpr uint64_t kRingBytes = sizeof(RawCommand) << kLog2Size;

steady_clock::time_point Soon() { return steady_clock::now() + std::chrono::minutes(2); }

IdRegisters Registers() {
  return EncodeIdRegisters({.stage2 = true,
                            .stage1 = true,
                            .ats = true,
                            .asid_bits = 16,
                            .vmid_bits = 16,
                            .sid_bits = 16,
                            .ssid_bits = 20,
                            .cmdq_log2_size = 8,
                            .ril = true,
                            .oas_bits = 48,
                            .gran4k = true});
}

// An SMMU with two interfaces in use, device 0x101 in the first and 0x202 in the second, both 5 for their guests.
class CmdqvSmmuTest : public ::testing::Test {
 protected:
  void Start(std::chrono::nanoseconds atc_timeout) {
    smmu_ = std::make_unique<EmulatedSmmu>("smmu", Registers(), 0, 0, SmmuOptions{.atc_timeout = atc_timeout}, &memory_,
                                           EmulatedSmmu::Handlers{});
    smmu_->WriteRegister(Register::kCr0, cr0::kCmdqEn.Set(cr0::kSmmuEn.Set(0, 1), 1));
    cmdqv_ = std::make_unique<Cmdqv>(
        CmdqvParameters{.vintfs = 3}, CmdqvOptions{}, &memory_,
        [this](const RawCommand& raw, VcmdqId id) { return smmu_->TryExecute(raw, outstanding_[id.vintf]); });
    for (const uint32_t vintf : {1u, 2u}) {
      ASSERT_TRUE(cmdqv_->EnableVintf(vintf, static_cast<uint16_t>(vintf), false, [](const LvcmdqErrMap&) {}));
      cmdqv_->SetSidSlot(vintf, 0, {.virt_sid = 5, .sid = 0x101 * vintf});
    }
  }
  VcmdqProducer MakeQueue(uint32_t vintf) {
    const uint64_t offset = vintf * kRingBytes;
    cmdqv_->AssignQueue(vintf, 0, SharedTestMemory::kBase + offset, kLog2Size);
    const int fd = cmdqv_->DupPage(vintf);
    VcmdqProducer producer(VintfPage::Map(fd, 0, cmdqv::kPageBytes), 0, memory_.At(offset, kRingBytes));
    close(fd);
    EXPECT_TRUE(producer.Enable(Soon()));
    return producer;
  }

  SharedTestMemory memory_{4096};
  std::array<AtcInvalidations::Outstanding, 3> outstanding_;  // by interface
  std::unique_ptr<EmulatedSmmu> smmu_;
  std::unique_ptr<Cmdqv> cmdqv_;
};

TEST_F(CmdqvSmmuTest, CommandsReachTheSmmu) {
  Start(std::chrono::hours(1));
  VcmdqProducer queue = MakeQueue(1);
  queue.Submit(std::vector{InvalidateAsid(1), InvalidateAtc(5)}, Soon());
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kDone);
  const SmmuCounters counters = smmu_->GetCounters();
  EXPECT_EQ(counters.executed[static_cast<uint8_t>(Opcode::kTlbiNhAsid)], 1u);
  EXPECT_EQ(counters.executed[static_cast<uint8_t>(Opcode::kAtcInv)], 1u);
  EXPECT_EQ(counters.executed[static_cast<uint8_t>(Opcode::kSync)], 1u);
}

TEST_F(CmdqvSmmuTest, WhatTheSmmuRefusesStopsTheQueue) {
  Start(std::chrono::hours(1));
  VcmdqProducer queue = MakeQueue(1);
  RawCommand reserved = InvalidateAsid(1);
  reserved.dw1 = 0xff;
  queue.Submit({&reserved, 1}, Soon());
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kError);
  EXPECT_EQ(queue.error()->code, static_cast<uint32_t>(CommandErrorCode::kIllegal));
  // The SMMU's own queue goes on.
  EXPECT_EQ(smmu_->failed_command(), std::nullopt);
}

// For as long as its device does not answer, a guest's sync waits; another guest's does not.
TEST_F(CmdqvSmmuTest, ASilentDeviceKeepsItsOwnGuestWaiting) {
  Start(std::chrono::hours(1));
  VcmdqProducer waiting = MakeQueue(1);
  VcmdqProducer other = MakeQueue(2);
  smmu_->SetDeviceResponding(0x101, false);
  waiting.Submit(std::vector{InvalidateAtc(5)}, Soon());
  EXPECT_EQ(waiting.Sync(steady_clock::now()), WaitResult::kTimedOut);
  for (int i = 0; i < 100; ++i) {
    other.Submit(std::vector{InvalidateAtc(5), InvalidateAsid(1)}, Soon());
    ASSERT_EQ(other.Sync(Soon()), WaitResult::kDone);
  }
  EXPECT_EQ(waiting.pending(), 1u);
  EXPECT_EQ(waiting.error(), std::nullopt);
  smmu_->SetDeviceResponding(0x101, true);
  EXPECT_EQ(waiting.Sync(Soon()), WaitResult::kDone);
}

TEST_F(CmdqvSmmuTest, ADeviceThatNeverAnswersIsAnError) {
  Start(std::chrono::milliseconds(5));
  VcmdqProducer queue = MakeQueue(1);
  VcmdqProducer other = MakeQueue(2);
  smmu_->SetDeviceResponding(0x101, false);
  queue.Submit(std::vector{InvalidateAtc(5)}, Soon());
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kError);
  EXPECT_EQ(queue.error()->code, static_cast<uint32_t>(CommandErrorCode::kAtcInvSync));
  EXPECT_EQ(OpcodeByte(queue.error()->command), static_cast<uint8_t>(Opcode::kSync));
  EXPECT_EQ(other.Sync(Soon()), WaitResult::kDone);
  // The sync is carried out again, and there is nothing left to wait for.
  queue.Acknowledge();
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kDone);
}

}  // namespace
}  // namespace viommu::smmuv3
