#include "agent/smmuv3/vsmmu/host_cmdqv.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <thread>
#include <vector>

#include "agent/smmuv3/emulator/smmu.h"
#include "agent/smmuv3/emulator/vcmdq_testing.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/id_registers.h"
#include "agent/smmuv3/vintf/producer.h"

namespace viommu::agent {
namespace {

using smmuv3::Opcode;
using smmuv3::VcmdqProducer;
using std::chrono::steady_clock;
using WaitResult = VcmdqProducer::WaitResult;

constexpr uint32_t kLog2Size = 4;
constexpr uint64_t kRingBytes = sizeof(smmuv3::RawCommand) << kLog2Size;

steady_clock::time_point Soon() { return steady_clock::now() + std::chrono::minutes(2); }

smmuv3::IdRegisters Registers() {
  return smmuv3::EncodeIdRegisters({.stage2 = true,
                                    .stage1 = true,
                                    .ats = true,
                                    .asid_bits = 16,
                                    .vmid_bits = 16,
                                    .sid_bits = 16,
                                    .cmdq_log2_size = 8,
                                    .oas_bits = 48,
                                    .gran4k = true});
}

class HostCmdqvTest : public ::testing::Test {
 protected:
  HostCmdqvTest() {
    smmu_.WriteRegister(smmuv3::Register::kCr0, smmuv3::cr0::kCmdqEn.Set(smmuv3::cr0::kSmmuEn.Set(0, 1), 1));
  }
  std::unique_ptr<VintfLease> Take(uint16_t vmid) { return cmdqv_.TakeVintf(vmid, events_, error_); }
  VcmdqProducer AddQueue(VintfLease& vintf, uint32_t ring) {
    const uint32_t index = vintf.queues();
    vintf.AddQueue(smmuv3::SharedTestMemory::kBase + ring * kRingBytes, kLog2Size);
    const int fd = vintf.DupPage();
    VcmdqProducer producer(smmuv3::VintfPage::Map(fd, 0, smmuv3::cmdqv::kPageBytes), index,
                           memory_.At(ring * kRingBytes, kRingBytes));
    close(fd);
    EXPECT_TRUE(producer.Enable(Soon()));
    return producer;
  }
  uint64_t Executed(Opcode opcode) { return smmu_.GetCounters().executed[static_cast<uint8_t>(opcode)]; }

  smmuv3::SharedTestMemory memory_{8 * kRingBytes};
  smmuv3::EmulatedSmmu smmu_{"smmu", Registers(), 0, 0, {.atc_timeout = std::chrono::milliseconds(20)}, &memory_, {}};
  const std::shared_ptr<ViommuEvents> events_ = std::make_shared<ViommuEvents>();
  std::atomic<int> syncs_{0};
  int error_ = 0;
  HostCmdqv cmdqv_{{.vintfs = 2, .queues_per_vintf = 2, .sid_slots = 2}, {}, &memory_, &smmu_, [this] { ++syncs_; }};
};

TEST_F(HostCmdqvTest, GivesAwayEveryInterfaceButTheHosts) {
  std::unique_ptr<VintfLease> first = Take(1);
  const std::unique_ptr<VintfLease> second = Take(2);
  EXPECT_EQ(first->number(), 1u);
  EXPECT_EQ(second->number(), 2u);
  EXPECT_EQ(first->max_queues(), 2u);
  EXPECT_EQ(cmdqv_.vintfs_used(), 2u);
  EXPECT_EQ(Take(3), nullptr);
  EXPECT_EQ(error_, ENOSPC);
  first.reset();
  EXPECT_EQ(cmdqv_.vintfs_used(), 1u);
  first = Take(3);
  EXPECT_EQ(first->number(), 1u);
}

TEST_F(HostCmdqvTest, StreamsTakeSlots) {
  const std::unique_ptr<VintfLease> vintf = Take(1);
  EXPECT_EQ(vintf->AddStream(5, 0x105), 0u);
  EXPECT_EQ(vintf->AddStream(6, 0x106), 1u);
  EXPECT_EQ(vintf->AddStream(7, 0x107), std::nullopt);
  vintf->RemoveStream(0);
  VcmdqProducer queue = AddQueue(*vintf, 0);
  queue.Submit(std::vector{smmuv3::InvalidateAtc(6)}, Soon());
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kDone);
  queue.Submit(std::vector{smmuv3::InvalidateAtc(5)}, Soon());
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kError);
  EXPECT_EQ(vintf->AddStream(7, 0x107), 0u);
  vintf->RemoveQueue();
}

TEST_F(HostCmdqvTest, ErrorsBecomeEvents) {
  const auto veventq = std::make_shared<VeventQueue>(4);
  ASSERT_TRUE(events_->Add(VeventqType::kTegra241Cmdqv, veventq));
  const auto smmu_events = std::make_shared<VeventQueue>(4);
  ASSERT_TRUE(events_->Add(VeventqType::kArmSmmuv3, smmu_events));
  const std::unique_ptr<VintfLease> vintf = Take(1);
  AddQueue(*vintf, 0);
  VcmdqProducer queue = AddQueue(*vintf, 1);
  queue.Submit(std::vector{smmuv3::RawCommand{.dw0 = 0xff}}, Soon());
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kError);
  std::vector<Vevent> events;
  while (events.empty()) events = veventq->Read(4);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].record, (smmuv3::RawEvent{2, 0, 0, 0}));
  EXPECT_TRUE(smmu_events->Read(4).empty());
  vintf->RemoveQueue();
  vintf->RemoveQueue();
}

TEST_F(HostCmdqvTest, AQueueGoesWithASyncOnTheSmmusOwn) {
  const std::unique_ptr<VintfLease> vintf = Take(1);
  AddQueue(*vintf, 0);
  AddQueue(*vintf, 1);
  EXPECT_EQ(vintf->queues(), 2u);
  vintf->RemoveQueue();
  EXPECT_EQ(syncs_, 1);
  vintf->RemoveQueue();
  EXPECT_EQ(syncs_, 2);
  EXPECT_EQ(vintf->queues(), 0u);
}

TEST_F(HostCmdqvTest, WhatADeviceDidNotAnswerIsNotBlamedOnTheNextOwner) {
  std::unique_ptr<VintfLease> vintf = Take(1);
  ASSERT_EQ(vintf->AddStream(5, 0x105), 0u);
  smmu_.SetDeviceResponding(0x105, false);
  VcmdqProducer first = AddQueue(*vintf, 0);
  first.Submit(std::vector{smmuv3::InvalidateAtc(5)}, Soon());
  while (first.pending() != 0) std::this_thread::yield();
  vintf->RemoveQueue();
  vintf.reset();
  vintf = Take(2);
  VcmdqProducer next = AddQueue(*vintf, 0);
  EXPECT_EQ(next.Sync(Soon()), WaitResult::kDone);
  vintf->RemoveQueue();
}

TEST_F(HostCmdqvTest, CommandsAreCounted) {
  const std::unique_ptr<VintfLease> vintf = Take(1);
  VcmdqProducer queue = AddQueue(*vintf, 0);
  queue.Submit(std::vector{smmuv3::InvalidateAsid(1), smmuv3::InvalidateAtc(9)}, Soon());
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kError);
  EXPECT_EQ(cmdqv_.hardware().counters().done[static_cast<uint8_t>(Opcode::kTlbiNhAsid)], 1u);
  EXPECT_EQ(cmdqv_.hardware().counters().refused[static_cast<uint8_t>(Opcode::kAtcInv)], 1u);
  EXPECT_EQ(Executed(Opcode::kTlbiNhAsid), 1u);
  vintf->RemoveQueue();
}

}  // namespace
}  // namespace viommu::agent
