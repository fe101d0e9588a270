// Devices, drivers and the SMMU at the same time: what a completed sync means.

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "agent/smmuv3/emulator/test_machine.h"

namespace viommu::smmuv3 {
namespace {

constexpr uint16_t kAsid = 5;
constexpr uint64_t kVa = 0x12'3456'7000;
constexpr int kDevices = 3;
constexpr int kRounds = 32;

class ThreadsTest : public testing::TestWithParam<bool> {
 protected:
  ThreadsTest() : machine_(kFullFeatures, Options()), tables_(&machine_.host, Granule::k4k, 48) {
    cd_place_ = machine_.host.AllocatePage();
    machine_.SetCd(machine_.host, cd_place_, TestMachine::MakeCd(tables_, kAsid));
    Ste ste = TestMachine::Stage1Ste(cd_place_);
    ste.eats = 1;
    for (uint32_t sid = 0; sid < kDevices; ++sid) machine_.SetSte(sid, ste);
  }
  static SmmuOptions Options() {
    SmmuOptions options;
    if (GetParam()) options.eviction_seed = 7;
    return options;
  }
  // Devices that access kVa until the end, each in its own way.
  void StartDevices() {
    for (uint32_t sid = 0; sid < kDevices; ++sid) {
      threads_.emplace_back([this, sid] {
        uint64_t value = sid;
        const Transaction transaction{.sid = sid, .address = kVa};
        while (!stop_) {
          if (sid == 0) {
            machine_.smmu.ReadThroughAtc(transaction, std::as_writable_bytes(std::span(&value, 1)), kNever);
          } else if (sid == 1) {
            machine_.smmu.Read(transaction, std::as_writable_bytes(std::span(&value, 1)), kNever);
          } else {
            machine_.smmu.Write(transaction, std::as_bytes(std::span(&value, 1)), kNever);
          }
          ++accesses_;
          std::this_thread::yield();
        }
      });
    }
  }
  void StopDevices() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
  }

  TestMachine machine_;
  TestTables tables_;
  uint64_t cd_place_ = 0;
  std::vector<std::thread> threads_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> accesses_{0};
};

INSTANTIATE_TEST_SUITE_P(Eviction, ThreadsTest, testing::Bool());

// Holds one access up while a command and a sync are carried out: the sync must not be over before the access is.
class SyncTest : public testing::Test {
 protected:
  SyncTest() : tables_(&machine_.host, Granule::k4k, 48) {
    cd_place_ = machine_.host.AllocatePage();
    page_ = machine_.host.AllocatePage();
    tables_.Map(kVa, page_, kUserPage);
    machine_.SetCd(machine_.host, cd_place_, TestMachine::MakeCd(tables_, kAsid));
    Ste ste = TestMachine::Stage1Ste(cd_place_);
    ste.eats = 1;
    machine_.SetSte(0, ste);
  }
  // `held` is the physical address whose read is held up.
  void SyncWaits(uint64_t held, bool use_atc, const Command& command) {
    std::atomic<bool> armed{true}, reached{false}, released{false};
    machine_.memory.on_access = [&](uint64_t address) {
      if (address != held || !armed.exchange(false)) return;
      reached = true;
      while (!released) std::this_thread::yield();
    };
    std::thread device([&] {
      uint64_t value = 0;
      const auto out = std::as_writable_bytes(std::span(&value, 1));
      const Transaction transaction{.address = kVa};
      const Outcome outcome = use_atc ? machine_.smmu.ReadThroughAtc(transaction, out, kNever)
                                      : machine_.smmu.Read(transaction, out, kNever);
      EXPECT_EQ(outcome.result, TransactionResult::kDone);
    });
    while (!reached) std::this_thread::yield();
    const auto opcode = static_cast<uint8_t>(command.opcode);
    const uint64_t before = machine_.smmu.GetCounters().executed[opcode];
    const QueuePosition end = machine_.Push({command});
    while (machine_.smmu.GetCounters().executed[opcode] == before) std::this_thread::yield();
    for (int i = 0; i < 200; ++i) {
      std::this_thread::yield();
      EXPECT_FALSE(machine_.smmu.queue().WaitConsumed(end, std::chrono::steady_clock::now()));
      if (HasFailure()) break;
    }
    released = true;
    EXPECT_TRUE(machine_.smmu.queue().WaitConsumed(end, kNever));
    device.join();
    machine_.memory.on_access = nullptr;
  }

  TestMachine machine_;
  TestTables tables_;
  uint64_t cd_place_ = 0;
  uint64_t page_ = 0;
};

TEST_F(SyncTest, WaitsForDataThatIsBeingMoved) {
  EXPECT_TRUE(machine_.Read(0, kVa).has_value());
  SyncWaits(page_, false, {.opcode = Opcode::kTlbiNhVa, .asid = kAsid, .address = kVa, .leaf = true});
}

TEST_F(SyncTest, WaitsForDevicesThatUseTheirOwnCache) {
  SyncWaits(page_, true, {.opcode = Opcode::kAtcInv, .address = kVa});
}

TEST_F(SyncTest, WaitsForWalksAndFetches) {
  const uint64_t dropped = machine_.smmu.GetCounters().fills_dropped;
  SyncWaits(tables_.Place(kVa, kLastLevel), false, {.opcode = Opcode::kTlbiNhAll});
  machine_.InvalidateConfig();
  SyncWaits(cd_place_, false, {.opcode = Opcode::kCfgiCdAll});
  machine_.InvalidateConfig();
  SyncWaits(machine_.SteAt(0), false, {.opcode = Opcode::kCfgiSte, .leaf = true});
  // What was being read when the command came is not kept.
  EXPECT_GT(machine_.smmu.GetCounters().fills_dropped, dropped);
}

// A page that was unmapped and invalidated belongs to its owner again: nobody reads or writes it any more once the sync
// is complete. Here it is given back to the allocator, which the sanitizers watch.
TEST_P(ThreadsTest, APageIsFreeWhenTheSyncIsComplete) {
  StartDevices();
  for (int round = 0; round < kRounds; ++round) {
    constexpr uint64_t kPage = uint64_t{3} << 32;
    auto page = std::make_unique<std::array<uint64_t, 512>>();
    ASSERT_TRUE(machine_.memory.Add(kPage, std::as_writable_bytes(std::span(*page))));
    tables_.Map(kVa, kPage, kUserPage);
    const uint64_t before = accesses_;
    while (accesses_ < before + 4) std::this_thread::yield();
    tables_.Unmap(kVa);
    machine_.Issue({{.opcode = Opcode::kTlbiNhVa, .asid = kAsid, .address = kVa, .leaf = true}});
    machine_.Issue({{.opcode = Opcode::kAtcInv, .sid = 0, .address = kVa}});
    // From here on the page is private: an access of a device would be a data race, and change it.
    page->fill(0x5555);
    for (const uint64_t word : *page) ASSERT_EQ(word, 0x5555u);
    ASSERT_TRUE(machine_.memory.Remove(kPage));
  }
  StopDevices();
}

// The same for the stream: once the sync behind CMD_CFGI_STE is complete, it has no way to memory.
TEST_P(ThreadsTest, AStreamIsCutOffWhenTheSyncIsComplete) {
  const uint64_t page = machine_.host.AllocatePage();
  tables_.Map(kVa, page, kUserPage);
  Ste translate = TestMachine::Stage1Ste(cd_place_);
  StartDevices();
  for (int round = 0; round < kRounds; ++round) {
    machine_.SetSte(2, translate);
    machine_.Issue({{.opcode = Opcode::kCfgiSte, .sid = 2, .leaf = true}});
    const uint64_t before = accesses_;
    while (accesses_ < before + 4) std::this_thread::yield();
    machine_.SetSte(2, TestMachine::AbortSte());
    machine_.Issue({{.opcode = Opcode::kCfgiSte, .sid = 2, .leaf = true}});
    machine_.host.Write(page, 0x77);
    for (int i = 0; i < 20; ++i) {
      ASSERT_EQ(machine_.host.Read(page), 0x77u);
      std::this_thread::yield();
    }
  }
  StopDevices();
}

// Producers, each with its own page, and bad commands in between: what a sync promises to one holds whatever the others
// do.
TEST_P(ThreadsTest, ManyProducers) {
  constexpr int kProducers = 3;
  machine_.on_gerror = [&] {
    machine_.smmu.ReplaceFailedCommand(Encode({.opcode = Opcode::kSync}));
    machine_.smmu.WriteRegister(Register::kGerrorn, machine_.smmu.ReadRegister(Register::kGerror));
  };
  std::vector<uint64_t> pages;
  for (int i = 0; i < 2 * kProducers; ++i) {
    pages.push_back(machine_.host.AllocatePage());
    machine_.host.Write(pages.back(), static_cast<uint64_t>(i));
  }
  for (int p = 0; p < kProducers; ++p) tables_.Map(kVa + p * 0x1000, pages[p], kUserPage);
  std::vector<std::thread> threads;
  for (int p = 0; p < kProducers; ++p) {
    threads.emplace_back([&, p] {
      const uint64_t va = kVa + p * 0x1000;
      const uint64_t place = tables_.Place(va, kLastLevel);
      for (int round = 1; round <= kRounds; ++round) {
        const int index = p + (round % 2) * kProducers;
        machine_.host.Write(place, EncodeStage1Leaf(kUserPage, pages[index], Granule::k4k, kLastLevel));
        if (p == 0 && round % 16 == 0) {
          const RawCommand bad{0xff, 0};
          ASSERT_TRUE(machine_.smmu.queue().Push({&bad, 1}, kNever).has_value());
        }
        machine_.Issue({{.opcode = Opcode::kTlbiNhVa, .asid = kAsid, .address = va, .leaf = true}});
        ASSERT_EQ(machine_.Read(0, va), static_cast<uint64_t>(index));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(machine_.smmu.GetCounters().executed[0x12], static_cast<uint64_t>(kProducers * kRounds));
  EXPECT_EQ(machine_.smmu.GetCounters().command_errors, 2u);
}

// Stalled transactions, answered, terminated and timed out at once.
TEST_P(ThreadsTest, StallsUnderLoad) {
  Cd cd = TestMachine::MakeCd(tables_, kAsid);
  cd.stall = true;
  machine_.SetCd(machine_.host, cd_place_, cd);
  machine_.InvalidateAll();
  std::vector<std::thread> threads;
  std::atomic<int> left{kDevices};
  for (uint32_t sid = 0; sid < kDevices; ++sid) {
    threads.emplace_back([&, sid] {
      uint64_t value = 0;
      for (int i = 0; i < kRounds; ++i) {
        const auto deadline = i % 8 == 0 ? std::chrono::steady_clock::now() : kNever;
        const Outcome outcome =
            machine_.smmu.Read({.sid = sid, .address = kVa}, std::as_writable_bytes(std::span(&value, 1)), deadline);
        ASSERT_NE(outcome.result, TransactionResult::kDone);
      }
      --left;
    });
  }
  uint32_t round = 0;
  while (left != 0) {
    for (const Event& event : machine_.TakeEvents()) {
      const Command resume{.opcode = Opcode::kResume,
                           .sid = event.sid,
                           .response = static_cast<uint8_t>(round++ % 4 == 0 ? 1 : 2),
                           .tag = event.stag};
      machine_.Issue({resume});
    }
    std::this_thread::yield();
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(machine_.smmu.GetCounters().stalled, 0u);
}

}  // namespace
}  // namespace viommu::smmuv3
