#include "agent/smmuv3/emulator/smmu.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <thread>
#include <vector>

namespace viommu::smmuv3 {
namespace {

constexpr auto kNever = std::chrono::steady_clock::time_point::max();
constexpr Features kFeatures = {.stage2 = true,
                                .stage1 = true,
                                .ats = true,
                                .asid_bits = 16,
                                .vmid_bits = 16,
                                .sid_bits = 16,
                                .ssid_bits = 20,
                                .ril = true};
constexpr RawCommand kIllegal = {0xff, 0};

class SmmuTest : public testing::Test {
 protected:
  // Pushes the commands with a sync behind them, and waits for it.
  bool Issue(std::vector<Command> commands, std::chrono::steady_clock::time_point deadline = kNever) {
    return smmu_.queue().WaitConsumed(Push(std::move(commands)), deadline);
  }
  QueuePosition Push(std::vector<Command> commands) {
    std::vector<RawCommand> raw;
    for (const Command& command : commands) raw.push_back(Encode(command));
    raw.push_back(Encode({.opcode = Opcode::kSync}));
    return *smmu_.queue().Push(raw, kNever);
  }
  bool Cached(uint16_t vmid, uint64_t address) {
    return smmu_.LookupTlb(TlbRegime::kNsEl1, TlbStage::kStage1, vmid, 5, address).has_value();
  }

  std::promise<void> error_seen_;
  std::atomic<bool> acknowledge_at_once_{true};
  std::atomic<int> errors_{0};
  EmulatedSmmu smmu_{"smmu",
                     kFeatures,
                     {},
                     [this](const CommandError& error) {
                       EXPECT_EQ(error.code, CommandErrorCode::kIllegal);
                       EXPECT_EQ(error.command, kIllegal);
                       ++errors_;
                       if (acknowledge_at_once_) {
                         smmu_.AcknowledgeCommandError();
                       } else {
                         error_seen_.set_value();
                       }
                     },
                     [](const RawEvent&) {}};
};

TEST_F(SmmuTest, ACompletedSyncMeansThatTheCommandsBeforeItHaveTakenEffect) {
  const uint64_t epoch = smmu_.FillEpoch();
  ASSERT_TRUE(smmu_.InsertTlb({.vmid = 1, .asid = 5, .address = 0x1000}, epoch));
  ASSERT_TRUE(smmu_.InsertTlb({.vmid = 2, .asid = 5, .address = 0x1000}, epoch));
  ASSERT_TRUE(smmu_.InsertSte(7, MakeAbortSte(), epoch));
  ASSERT_TRUE(smmu_.InsertCd(7, 0, {1}, epoch));
  ASSERT_TRUE(smmu_.InsertAtc(7, {.address = 0x1000}, epoch));
  EXPECT_TRUE(Cached(1, 0x1000));
  ASSERT_TRUE(Issue({{.opcode = Opcode::kTlbiNhAll, .vmid = 1},
                     {.opcode = Opcode::kCfgiCdAll, .sid = 7},
                     {.opcode = Opcode::kAtcInv, .sid = 7, .size = kAtcSizeAll}}));
  EXPECT_FALSE(Cached(1, 0x1000));
  EXPECT_TRUE(Cached(2, 0x1000));
  EXPECT_TRUE(smmu_.LookupSte(7).has_value());
  EXPECT_FALSE(smmu_.LookupCd(7, 0).has_value());
  EXPECT_FALSE(smmu_.LookupAtc(7, std::nullopt, 0x1000).has_value());
  const SmmuCounters counters = smmu_.GetCounters();
  EXPECT_EQ(counters.executed[0x10], 1u);
  EXPECT_EQ(counters.executed[0x46], 1u);
  EXPECT_EQ(counters.tlb_entries, 1u);
  EXPECT_EQ(counters.config_entries, 1u);
  EXPECT_EQ(counters.atc_entries, 0u);
}

TEST_F(SmmuTest, AFillThatMetAnInvalidationIsDropped) {
  const uint64_t epoch = smmu_.FillEpoch();
  ASSERT_TRUE(Issue({{.opcode = Opcode::kTlbiNhAll, .vmid = 1}}));
  EXPECT_FALSE(smmu_.InsertTlb({.vmid = 1, .asid = 5, .address = 0x1000}, epoch));
  EXPECT_FALSE(smmu_.InsertSte(7, MakeAbortSte(), epoch));
  EXPECT_FALSE(smmu_.InsertCd(7, 0, {}, epoch));
  EXPECT_FALSE(smmu_.InsertAtc(7, {}, epoch));
  EXPECT_FALSE(Cached(1, 0x1000));
  EXPECT_EQ(smmu_.GetCounters().fills_dropped, 4u);
  EXPECT_TRUE(smmu_.InsertTlb({.vmid = 1, .asid = 5, .address = 0x1000}, smmu_.FillEpoch()));
}

TEST_F(SmmuTest, StreamTableEntriesAreInvalidUntilWritten) {
  EXPECT_FALSE(IsValid(smmu_.ReadSte(3)));
  smmu_.WriteSte(3, MakeAbortSte());
  EXPECT_EQ(smmu_.ReadSte(3), MakeAbortSte());
}

TEST_F(SmmuTest, AnIllegalCommandStopsTheQueueInFrontOfIt) {
  acknowledge_at_once_ = false;
  ASSERT_TRUE(smmu_.InsertTlb({.vmid = 1, .asid = 5, .address = 0x1000}, smmu_.FillEpoch()));
  ASSERT_TRUE(smmu_.InsertTlb({.vmid = 2, .asid = 5, .address = 0x1000}, smmu_.FillEpoch()));
  const std::vector<RawCommand> batch = {Encode({.opcode = Opcode::kTlbiNhAll, .vmid = 1}), kIllegal,
                                         Encode({.opcode = Opcode::kTlbiNhAll, .vmid = 2}),
                                         Encode({.opcode = Opcode::kSync})};
  const QueuePosition end = *smmu_.queue().Push(batch, kNever);
  error_seen_.get_future().wait();
  ASSERT_TRUE(smmu_.ActiveCommandError().has_value());
  EXPECT_EQ(smmu_.ActiveCommandError()->command, kIllegal);
  EXPECT_FALSE(Cached(1, 0x1000));
  EXPECT_TRUE(Cached(2, 0x1000));
  EXPECT_TRUE(smmu_.queue().WaitConsumed(end - 3, kNever));
  EXPECT_FALSE(smmu_.queue().WaitConsumed(end - 2, std::chrono::steady_clock::now()));
  smmu_.AcknowledgeCommandError();
  EXPECT_TRUE(smmu_.queue().WaitConsumed(end, kNever));
  EXPECT_FALSE(smmu_.ActiveCommandError().has_value());
  EXPECT_FALSE(Cached(2, 0x1000));
  EXPECT_EQ(smmu_.GetCounters().command_errors, 1u);
}

TEST_F(SmmuTest, DestructionEndsAnErrorThatNobodyAcknowledged) {
  acknowledge_at_once_ = false;
  ASSERT_TRUE(smmu_.queue().TryPush({&kIllegal, 1}).has_value());
  error_seen_.get_future().wait();
}

TEST_F(SmmuTest, PausedHardwareCompletesNothing) {
  smmu_.Pause();
  const QueuePosition end = Push({{.opcode = Opcode::kTlbiNhAll, .vmid = 1}});
  EXPECT_FALSE(smmu_.queue().WaitConsumed(end, std::chrono::steady_clock::now() + std::chrono::milliseconds(2)));
  EXPECT_EQ(smmu_.queue().GetStats().depth, 2u);
  smmu_.Resume();
  EXPECT_TRUE(smmu_.queue().WaitConsumed(end, kNever));
}

// Several producers, walks that fill, and bad commands in between. What a sync promises to one producer holds whatever
// the others do: entries of its own VMID that were filled before its batch are gone after it.
TEST_F(SmmuTest, ManyProducersAndWalks) {
  constexpr int kProducers = 4;
  constexpr int kRounds = 200;
  std::vector<std::thread> threads;
  for (int p = 0; p < kProducers; ++p) {
    threads.emplace_back([this, p] {
      const auto vmid = static_cast<uint16_t>(p + 1);
      for (int round = 0; round < kRounds; ++round) {
        for (uint64_t page = 0; page < 4; ++page) {
          smmu_.InsertTlb({.vmid = vmid, .asid = 5, .address = page << 12}, smmu_.FillEpoch());
        }
        if (p == 0 && round % 16 == 0) {
          ASSERT_TRUE(smmu_.queue().Push({&kIllegal, 1}, kNever).has_value());
        }
        ASSERT_TRUE(Issue({{.opcode = Opcode::kTlbiNhAll, .vmid = vmid}}));
        for (uint64_t page = 0; page < 4; ++page) ASSERT_FALSE(Cached(vmid, page << 12));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(smmu_.GetCounters().executed[0x10], static_cast<uint64_t>(kProducers * kRounds));
  EXPECT_EQ(smmu_.GetCounters().command_errors, 13u);
  EXPECT_EQ(errors_, 13);
}

}  // namespace
}  // namespace viommu::smmuv3
