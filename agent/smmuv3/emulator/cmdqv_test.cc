#include "agent/smmuv3/emulator/cmdqv.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "agent/smmuv3/emulator/vcmdq_testing.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/vintf/producer.h"

namespace viommu::smmuv3 {
namespace {

using cmdqv::QueueRegister;
using std::chrono::steady_clock;
using WaitResult = VcmdqProducer::WaitResult;

constexpr uint32_t kLog2Size = 6;
constexpr uint64_t kRingBytes = sizeof(RawCommand) << kLog2Size;

// How long a test waits for what must happen.
steady_clock::time_point Soon() { return steady_clock::now() + std::chrono::minutes(2); }

// Lets commands through, or holds them back.
class Gate {
 public:
  void Close() { Set(true); }
  void Open() { Set(false); }
  void Pass() {
    MutexLock lock(mu_);
    ++waiting_;
    changed_.NotifyAll();
    while (closed_) changed_.Wait(mu_);
    --waiting_;
  }
  // Until somebody stands in front of it.
  void AwaitWaiting() {
    MutexLock lock(mu_);
    while (waiting_ == 0) changed_.Wait(mu_);
  }

 private:
  void Set(bool closed) {
    MutexLock lock(mu_);
    closed_ = closed;
    changed_.NotifyAll();
  }
  Mutex mu_;
  CondVar changed_;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  int waiting_ ABSL_GUARDED_BY(mu_) = 0;
};

class Errors {
 public:
  struct Error {
    uint32_t vintf;
    LvcmdqErrMap map;
  };
  void Add(uint32_t vintf, const LvcmdqErrMap& map) {
    MutexLock lock(mu_);
    errors_.push_back({vintf, map});
    changed_.NotifyAll();
  }
  Error Await() {
    MutexLock lock(mu_);
    while (errors_.empty()) changed_.Wait(mu_);
    const Error error = errors_.front();
    errors_.erase(errors_.begin());
    return error;
  }

 private:
  Mutex mu_;
  CondVar changed_;
  std::vector<Error> errors_ ABSL_GUARDED_BY(mu_);
};

// A CMDQV with three interfaces of two queues. Ring n of memory is for whichever queue a test gives it to.
class CmdqvTest : public ::testing::Test {
 protected:
  // A producer may see its queue's registers change before the hardware has come to the maps, which are the host's.
  void AwaitErrMap(uint64_t wanted) const {
    while (cmdqv_->VintfErrMap() != wanted) std::this_thread::yield();
  }

  void Start(const CmdqvOptions& options, uint32_t vintfs = 3) {
    cmdqv_.emplace(CmdqvParameters{.vintfs = vintfs, .queues_per_vintf = 2, .sid_slots = 2}, options, &memory_,
                   [this](const RawCommand& raw, VcmdqId) {
                     gate_.Pass();
                     return recorder_.Execute(raw);
                   });
  }
  bool EnableVintf(uint32_t vintf, uint16_t vmid, bool hyp_own = false) {
    return cmdqv_->EnableVintf(vintf, vmid, hyp_own,
                               [this, vintf](const LvcmdqErrMap& map) { errors_.Add(vintf, map); });
  }
  void SetUp() override {
    Start({});
    ASSERT_TRUE(EnableVintf(1, 11));
    ASSERT_TRUE(EnableVintf(2, 22));
  }
  std::shared_ptr<VintfPage> MapPage(uint32_t vintf) {
    const int fd = cmdqv_->DupPage(vintf);
    std::shared_ptr<VintfPage> page = VintfPage::Map(fd, 0, cmdqv::kPageBytes);
    close(fd);
    return page;
  }
  // Assigns and enables a queue in ring `ring`.
  VcmdqProducer MakeQueue(uint32_t vintf, uint32_t lvcmdq, uint32_t ring) {
    cmdqv_->AssignQueue(vintf, lvcmdq, SharedTestMemory::kBase + ring * kRingBytes, kLog2Size);
    VcmdqProducer producer(MapPage(vintf), lvcmdq, memory_.At(ring * kRingBytes, kRingBytes));
    EXPECT_TRUE(producer.Enable(Soon()));
    return producer;
  }
  void RemoveQueue(uint32_t vintf, uint32_t lvcmdq) {
    cmdqv_->DisableQueue(vintf, lvcmdq);
    cmdqv_->ReleaseQueue(vintf, lvcmdq);
  }
  // Until there have been more than `before`.
  void AwaitLongSleep(uint64_t before) const {
    while (cmdqv_->long_sleeps() <= before) std::this_thread::yield();
  }
  static std::vector<RawCommand> Asids(uint16_t first, uint16_t count, uint16_t vmid = 0) {
    std::vector<RawCommand> commands;
    for (uint16_t i = 0; i < count; ++i) commands.push_back(InvalidateAsid(static_cast<uint16_t>(first + i), vmid));
    return commands;
  }

  SharedTestMemory memory_{8 * kRingBytes};
  CommandRecorder recorder_;
  Gate gate_;
  Errors errors_;
  std::optional<Cmdqv> cmdqv_;
};

TEST_F(CmdqvTest, CarriesOutWhatIsSubmittedInOrderAndUnderTheInterfacesVmid) {
  VcmdqProducer queue = MakeQueue(1, 0, 0);
  const auto submit = queue.Submit(Asids(0, 200, 99), Soon());
  EXPECT_EQ(submit.result, WaitResult::kDone);
  EXPECT_EQ(submit.submitted, 200u);
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kDone);
  EXPECT_EQ(queue.pending(), 0u);
  EXPECT_EQ(recorder_.Take(), Asids(0, 200, 11));
  EXPECT_EQ(recorder_.syncs(), 1u);
  EXPECT_EQ(cmdqv_->counters().done[static_cast<uint8_t>(Opcode::kTlbiNhAsid)], 200u);
}

// Registers by hand: a producer would wait for somebody who never comes.
TEST_F(CmdqvTest, WithoutAThreadWhoRunsItCarriesOut) {
  Start({.own_thread = false});
  ASSERT_TRUE(EnableVintf(1, 11));
  cmdqv_->AssignQueue(1, 0, SharedTestMemory::kBase, kLog2Size);
  const std::shared_ptr<VintfPage> page = MapPage(1);
  const std::vector<RawCommand> commands = Asids(0, 40, 99);
  const std::span<std::byte> ring = memory_.At(0, kRingBytes);
  std::memcpy(ring.data(), commands.data(), commands.size() * sizeof(RawCommand));
  page->Store(0, QueueRegister::kConfig, static_cast<uint32_t>(cmdqv::kConfigEn.mask()));
  page->Store(0, QueueRegister::kProd, 40);
  EXPECT_EQ(page->Load(0, QueueRegister::kStatus), 0u);
  cmdqv_->RunTurns();
  EXPECT_EQ(page->Load(0, QueueRegister::kStatus), 1u);
  EXPECT_EQ(page->Load(0, QueueRegister::kCons), 40u);
  EXPECT_EQ(recorder_.Take(), Asids(0, 40, 11));
  EXPECT_EQ(cmdqv_->sleeps(), 0u);
  RemoveQueue(1, 0);
}

TEST_F(CmdqvTest, InterfacesHaveTheirOwnVmidAndSlots) {
  VcmdqProducer first = MakeQueue(1, 0, 0);
  VcmdqProducer second = MakeQueue(2, 0, 1);
  cmdqv_->SetSidSlot(1, 0, {.virt_sid = 5, .sid = 0x105});
  cmdqv_->SetSidSlot(2, 1, {.virt_sid = 5, .sid = 0x205});
  first.Submit(std::vector{InvalidateAtc(5), InvalidateAsid(1)}, Soon());
  EXPECT_EQ(first.Sync(Soon()), WaitResult::kDone);
  EXPECT_EQ(recorder_.Take(), (std::vector{InvalidateAtc(0x105), InvalidateAsid(1, 11)}));
  second.Submit(std::vector{InvalidateAtc(5), InvalidateAsid(1)}, Soon());
  EXPECT_EQ(second.Sync(Soon()), WaitResult::kDone);
  EXPECT_EQ(recorder_.Take(), (std::vector{InvalidateAtc(0x205), InvalidateAsid(1, 22)}));
  cmdqv_->ClearSidSlot(1, 0);
  first.Submit(std::vector{InvalidateAtc(5)}, Soon());
  EXPECT_EQ(first.Sync(Soon()), WaitResult::kError);
}

TEST_F(CmdqvTest, TheHostsOwnInterfaceCarriesEverything) {
  ASSERT_TRUE(EnableVintf(0, 0, true));
  VcmdqProducer queue = MakeQueue(0, 1, 0);
  const RawCommand command = Encode({.opcode = Opcode::kTlbiS12Vmall, .vmid = 3});
  queue.Submit({&command, 1}, Soon());
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kDone);
  EXPECT_EQ(recorder_.Take(), (std::vector{command}));
}

TEST_F(CmdqvTest, AnErrorStopsItsQueueAlone) {
  VcmdqProducer bad = MakeQueue(1, 1, 0);
  VcmdqProducer sibling = MakeQueue(1, 0, 1);
  VcmdqProducer neighbour = MakeQueue(2, 0, 2);
  const RawCommand refused = Encode({.opcode = Opcode::kTlbiNsnhAll});
  bad.Submit(std::vector{InvalidateAsid(1), refused, InvalidateAsid(2)}, Soon());
  EXPECT_EQ(bad.Sync(Soon()), WaitResult::kError);
  const Errors::Error error = errors_.Await();
  EXPECT_EQ(error.vintf, 1u);
  EXPECT_EQ(error.map, (LvcmdqErrMap{2, 0}));
  EXPECT_EQ(cmdqv_->VintfErrMap(), 2u);
  EXPECT_EQ(cmdqv_->ErrMap(1), (LvcmdqErrMap{2, 0}));
  EXPECT_EQ(cmdqv_->ErrMap(2), (LvcmdqErrMap{0, 0}));
  ASSERT_TRUE(bad.error().has_value());
  EXPECT_EQ(bad.error()->code, static_cast<uint32_t>(CommandErrorCode::kIllegal));
  EXPECT_EQ(bad.error()->index, 1u);
  EXPECT_EQ(bad.error()->command, refused);
  EXPECT_EQ(recorder_.Take(), (std::vector{InvalidateAsid(1, 11)}));

  sibling.Submit(Asids(5, 1), Soon());
  EXPECT_EQ(sibling.Sync(Soon()), WaitResult::kDone);
  neighbour.Submit(Asids(6, 1), Soon());
  EXPECT_EQ(neighbour.Sync(Soon()), WaitResult::kDone);
  EXPECT_EQ(recorder_.Take(), (std::vector{InvalidateAsid(5, 11), InvalidateAsid(6, 22)}));

  bad.ReplaceFailed(SyncCommand());
  bad.Acknowledge();
  EXPECT_EQ(bad.Sync(Soon()), WaitResult::kDone);
  EXPECT_EQ(bad.error(), std::nullopt);
  EXPECT_EQ(recorder_.Take(), (std::vector{InvalidateAsid(2, 11)}));
  AwaitErrMap(0);
  EXPECT_EQ(cmdqv_->ErrMap(1), (LvcmdqErrMap{0, 0}));
}

TEST_F(CmdqvTest, AFetchThatAbortsIsTriedAgain) {
  VcmdqProducer queue = MakeQueue(1, 0, 0);
  memory_.FailAt(SharedTestMemory::kBase);
  queue.Submit(Asids(1, 1), Soon());
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kError);
  EXPECT_EQ(queue.error()->code, static_cast<uint32_t>(CommandErrorCode::kAbort));
  memory_.FailAt(0);
  queue.Acknowledge();
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kDone);
  EXPECT_EQ(recorder_.Take(), Asids(1, 1, 11));
}

TEST_F(CmdqvTest, AFullQueueKeepsTheProducerWaiting) {
  VcmdqProducer queue = MakeQueue(1, 0, 0);
  gate_.Close();
  const auto submit = queue.Submit(Asids(0, 70), steady_clock::now());
  EXPECT_EQ(submit.result, WaitResult::kTimedOut);
  EXPECT_EQ(submit.submitted, 64u);
  EXPECT_EQ(queue.Sync(steady_clock::now()), WaitResult::kTimedOut);
  EXPECT_EQ(queue.pending(), queue.capacity());
  gate_.Open();
  EXPECT_EQ(queue.Submit(Asids(64, 6), Soon()).result, WaitResult::kDone);
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kDone);
  EXPECT_EQ(recorder_.Take(), Asids(0, 70, 11));
}

TEST_F(CmdqvTest, AQueueThatIsOffKeepsWhatItHas) {
  VcmdqProducer queue = MakeQueue(1, 0, 0);
  ASSERT_TRUE(queue.Disable(Soon()));
  queue.Submit(Asids(0, 3), Soon());
  EXPECT_EQ(queue.pending(), 3u);
  VcmdqProducer other = MakeQueue(1, 1, 1);
  EXPECT_EQ(other.Sync(Soon()), WaitResult::kDone);
  EXPECT_TRUE(recorder_.Take().empty());
  // Enable() empties it.
  ASSERT_TRUE(queue.Enable(Soon()));
  queue.Submit(Asids(7, 1), Soon());
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kDone);
  EXPECT_EQ(recorder_.Take(), Asids(7, 1, 11));
}

TEST_F(CmdqvTest, EnableForgetsAnError) {
  VcmdqProducer queue = MakeQueue(1, 0, 0);
  queue.Submit(std::vector{RawCommand{.dw0 = 0xee}}, Soon());
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kError);
  ASSERT_TRUE(queue.Enable(Soon()));
  EXPECT_EQ(queue.error(), std::nullopt);
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kDone);
  AwaitErrMap(0);
}

TEST_F(CmdqvTest, NothingRunsAfterDisableQueueHasReturned) {
  VcmdqProducer queue = MakeQueue(1, 0, 0);
  gate_.Close();
  queue.Submit(Asids(0, 60), Soon());
  gate_.AwaitWaiting();
  std::thread opener([this] { gate_.Open(); });
  cmdqv_->DisableQueue(1, 0);
  opener.join();
  recorder_.Take();
  // The owner can write what it likes.
  const std::shared_ptr<VintfPage> page = MapPage(1);
  page->Store(0, QueueRegister::kConfig, 1);
  page->Store(0, QueueRegister::kProd, 40);
  page->WakeHardware();
  VcmdqProducer other = MakeQueue(2, 0, 1);
  EXPECT_EQ(other.Sync(Soon()), WaitResult::kDone);
  EXPECT_EQ(other.Sync(Soon()), WaitResult::kDone);
  EXPECT_TRUE(recorder_.Take().empty());
  cmdqv_->ReleaseQueue(1, 0);
}

TEST_F(CmdqvTest, AQueueThatGoesWithAnErrorLeavesNone) {
  VcmdqProducer queue = MakeQueue(1, 0, 0);
  queue.Submit(std::vector{RawCommand{.dw0 = 0xee}, InvalidateAsid(1)}, Soon());
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kError);
  AwaitErrMap(2);
  RemoveQueue(1, 0);
  EXPECT_EQ(cmdqv_->VintfErrMap(), 0u);
  const std::shared_ptr<VintfPage> page = MapPage(1);
  for (uint32_t offset = 0; offset < cmdqv::kLvcmdqStride; offset += 4) EXPECT_EQ(page->Load(offset), 0u);
  VcmdqProducer again = MakeQueue(1, 0, 1);
  EXPECT_EQ(again.Sync(Soon()), WaitResult::kDone);
  EXPECT_TRUE(recorder_.Take().empty());
}

TEST_F(CmdqvTest, AFormerOwnersPageIsDead) {
  MakeQueue(1, 0, 0);
  const std::shared_ptr<VintfPage> old = MapPage(1);
  RemoveQueue(1, 0);
  cmdqv_->DisableVintf(1);
  ASSERT_TRUE(EnableVintf(1, 33));
  VcmdqProducer queue = MakeQueue(1, 0, 0);
  EXPECT_EQ(old->Load(0, QueueRegister::kStatus), 0u);
  old->Store(0, QueueRegister::kConfig, 0);
  old->Store(0, QueueRegister::kProd, 9);
  queue.Submit(Asids(1, 1), Soon());
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kDone);
  EXPECT_EQ(recorder_.Take(), Asids(1, 1, 33));
}

TEST_F(CmdqvTest, NobodyCanChangeThePagesSize) {
  const int fd = cmdqv_->DupPage(1);
  EXPECT_EQ(ftruncate(fd, 0), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(ftruncate(fd, 1 << 20), -1);
  EXPECT_EQ(VintfPage::Map(fd, 0, 4096), nullptr);
  EXPECT_EQ(errno, EINVAL);
  close(fd);
}

// Two guests have full queues; whatever the one does, the other has its turn after at most run_limit commands.
TEST_F(CmdqvTest, TurnsAreFair) {
  Start({.run_limit = 4});
  ASSERT_TRUE(EnableVintf(1, 11));
  ASSERT_TRUE(EnableVintf(2, 22));
  VcmdqProducer first = MakeQueue(1, 0, 0);
  VcmdqProducer second = MakeQueue(2, 0, 1);
  gate_.Close();
  first.Submit(Asids(0, 64), Soon());
  second.Submit(Asids(0, 32), Soon());
  gate_.Open();
  EXPECT_EQ(second.Sync(Soon()), WaitResult::kDone);
  EXPECT_EQ(first.Sync(Soon()), WaitResult::kDone);
  const std::vector<RawCommand> order = recorder_.Take();
  ASSERT_EQ(order.size(), 96u);
  uint32_t seen = 0;
  uint32_t others = 0;
  for (const RawCommand& raw : order) {
    if (Decode(raw)->vmid == 22) {
      // The first turn may have begun before the second queue had anything.
      if (seen != 0) {
        EXPECT_LE(others, 4u);
      }
      others = 0;
      if (++seen == 32) break;
    } else {
      ++others;
    }
  }
}

// The thread sleeps after every command, for longer than the test may take: each wake has to come through.
TEST_F(CmdqvTest, NoWakeIsLost) {
  Start({.spins = 0, .yields = 0, .max_sleep = std::chrono::hours(1)});
  ASSERT_TRUE(EnableVintf(1, 11));
  ASSERT_TRUE(EnableVintf(2, 22));
  VcmdqProducer first = MakeQueue(1, 0, 0);
  VcmdqProducer second = MakeQueue(2, 1, 1);
  constexpr uint16_t kRounds = 5000;
  const auto work = [](VcmdqProducer& queue) {
    uint32_t done = 0;
    for (uint16_t i = 0; i < kRounds; ++i) {
      queue.Submit(Asids(i, 1), Soon());
      if (i % 3 != 0 || queue.Sync(Soon()) == WaitResult::kDone) ++done;
    }
    return done + (queue.Sync(Soon()) == WaitResult::kDone ? 1u : 0u);
  };
  uint32_t second_done = 0;
  std::thread other([&] { second_done = work(second); });
  EXPECT_EQ(work(first), kRounds + 1u);
  other.join();
  EXPECT_EQ(second_done, kRounds + 1u);
  EXPECT_EQ(recorder_.Take().size(), 2u * kRounds);
  EXPECT_GT(cmdqv_->sleeps(), 0u);
}

// More interfaces than the thread sleeps on: those that are left out are served all the same, those that work are
// woken.
TEST_F(CmdqvTest, ManyInterfacesAreServed) {
  constexpr uint32_t kInterfaces = 8;
  Start({.spins = 0, .yields = 0, .max_wake_words = 3}, kInterfaces + 1);
  std::vector<VcmdqProducer> queues;
  for (uint32_t vintf = 1; vintf <= kInterfaces; ++vintf) {
    ASSERT_TRUE(EnableVintf(vintf, static_cast<uint16_t>(vintf)));
    queues.push_back(MakeQueue(vintf, 0, vintf - 1));
  }
  for (uint16_t round = 0; round < 5; ++round) {
    for (VcmdqProducer& queue : queues) {
      queue.Submit(Asids(round, 1), Soon());
      EXPECT_EQ(queue.Sync(Soon()), WaitResult::kDone);
    }
  }
  EXPECT_EQ(recorder_.Take().size(), 5u * kInterfaces);
}

// Longer than the test may take: every interface's wake has to come through, also of those that a short sleep leaves
// out.
TEST_F(CmdqvTest, ALongSleepEndsWithAnyInterfacesWake) {
  constexpr uint32_t kInterfaces = 8;
  Start({.spins = 0, .yields = 0, .long_sleep = std::chrono::hours(1), .max_wake_words = 3}, kInterfaces + 1);
  std::vector<VcmdqProducer> queues;
  for (uint32_t vintf = 1; vintf <= kInterfaces; ++vintf) {
    ASSERT_TRUE(EnableVintf(vintf, static_cast<uint16_t>(vintf)));
    queues.push_back(MakeQueue(vintf, 0, vintf - 1));
  }
  uint64_t before = 0;
  for (VcmdqProducer& queue : queues) {
    AwaitLongSleep(before);
    before = cmdqv_->long_sleeps();
    queue.Submit(Asids(1, 1), Soon());
    ASSERT_EQ(queue.Sync(Soon()), WaitResult::kDone);
  }
}

TEST_F(CmdqvTest, AProducerThatDoesNotWakeIsServedAllTheSame) {
  Start({.spins = 0, .yields = 0});
  ASSERT_TRUE(EnableVintf(1, 11));
  VcmdqProducer queue = MakeQueue(1, 0, 0);
  const std::shared_ptr<VintfPage> page = MapPage(1);
  for (uint32_t i = 0; i < 20; ++i) {
    if (i % 10 == 9) AwaitLongSleep(cmdqv_->long_sleeps());
    memory_.Put(i * sizeof(RawCommand), InvalidateAsid(static_cast<uint16_t>(i)));
    page->Store(0, QueueRegister::kProd, i + 1);
    while (page->Load(0, QueueRegister::kCons) != i + 1) std::this_thread::yield();
  }
  EXPECT_EQ(recorder_.Take().size(), 20u);
}

TEST_F(CmdqvTest, AQueueAtACommandThatIsNotCompleteIsNotSilent) {
  Start({.spins = 0, .yields = 0, .long_sleep = std::chrono::hours(1)});
  ASSERT_TRUE(EnableVintf(1, 11));
  VcmdqProducer queue = MakeQueue(1, 0, 0);
  recorder_.SetComplete(false);
  queue.Submit(Asids(1, 1), Soon());
  const uint64_t before = cmdqv_->sleeps();
  while (cmdqv_->sleeps() < before + 40) std::this_thread::yield();
  recorder_.SetComplete(true);
  EXPECT_EQ(queue.Sync(Soon()), WaitResult::kDone);
}

// A guest that wakes the thread all the time, in every way that there is, for nothing.
TEST_F(CmdqvTest, WakesForNothingAreBounded) {
  Start({.spins = 0, .yields = 0, .max_sleep = std::chrono::milliseconds(20)});
  ASSERT_TRUE(EnableVintf(1, 11));
  ASSERT_TRUE(EnableVintf(2, 22));
  MakeQueue(1, 0, 0);
  VcmdqProducer neighbour = MakeQueue(2, 0, 1);
  const std::shared_ptr<VintfPage> page = MapPage(1);
  std::atomic<bool> stop{false};
  std::thread hostile([&] {
    for (uint32_t i = 0; !stop.load(); ++i) {
      if (i % 2 == 0) page->Store(cmdqv::kWakeWordOffset, i % 3);
      if (i % 5 == 0) page->Store(cmdqv::kWakeWordOffset, cmdqv::kWakeWordSleeping);
      page->WakeHardware();
    }
  });
  const uint64_t sleeps = cmdqv_->sleeps();
  const uint64_t vain = cmdqv_->vain_wakes();
  while (cmdqv_->sleeps() < sleeps + 4) std::this_thread::yield();
  const uint64_t bound = (cmdqv_->sleeps() - sleeps + 1) * (2 * 4 + 64 + 1);
  EXPECT_LE(cmdqv_->vain_wakes() - vain, bound);
  // The neighbour is served, late at worst.
  for (int i = 0; i < 20; ++i) {
    neighbour.Submit(Asids(1, 1), Soon());
    EXPECT_EQ(neighbour.Sync(Soon()), WaitResult::kDone);
  }
  stop.store(true);
  hostile.join();
}

TEST_F(CmdqvTest, EndsWithWorkInItsQueues) {
  VcmdqProducer queue = MakeQueue(1, 0, 0);
  gate_.Close();
  queue.Submit(Asids(0, 60), Soon());
  gate_.AwaitWaiting();
  std::thread opener([this] { gate_.Open(); });
  cmdqv_.reset();
  opener.join();
  const size_t done = recorder_.Take().size();
  EXPECT_GE(done, 1u);
  EXPECT_LE(done, 60u);
}

TEST_F(CmdqvTest, MisuseByTheDriverEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(cmdqv_->AssignQueue(0, 0, SharedTestMemory::kBase, kLog2Size), "");
  EXPECT_DEATH(cmdqv_->AssignQueue(1, 2, SharedTestMemory::kBase, kLog2Size), "");
  EXPECT_DEATH(cmdqv_->AssignQueue(1, 0, SharedTestMemory::kBase + 16, kLog2Size), "");
  EXPECT_DEATH(cmdqv_->SetSidSlot(1, 2, {}), "");
  EXPECT_DEATH(cmdqv_->SetSidSlot(1, 0, {.virt_sid = 1u << 20, .sid = 0}), "");
  EXPECT_DEATH(static_cast<void>(EnableVintf(1, 1)), "");
}

}  // namespace
}  // namespace viommu::smmuv3
