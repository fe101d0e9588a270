// The producer, with the test in the hardware's place; with the emulated hardware it is tested in
// emulator/cmdqv_test.cc.

#include "agent/smmuv3/vintf/producer.h"

#include <gtest/gtest.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <thread>
#include <vector>

#include "agent/smmuv3/spec/command.h"
#include "common/sanitizers.h"

namespace viommu::smmuv3 {
namespace {

using cmdqv::QueueRegister;
using std::chrono::steady_clock;
using WaitResult = VcmdqProducer::WaitResult;

constexpr uint32_t kQueue = 1;
constexpr uint32_t kSize = 8;

steady_clock::time_point Now() { return steady_clock::now(); }
steady_clock::time_point Soon() { return steady_clock::now() + std::chrono::minutes(2); }

RawCommand Asid(uint16_t asid) { return Encode({.opcode = Opcode::kTlbiNhAsid, .asid = asid}); }

class VcmdqProducerTest : public ::testing::Test {
 protected:
  RawCommand Entry(uint32_t index) const {
    RawCommand raw;
    std::memcpy(&raw, ring_.data() + index * sizeof(raw), sizeof(raw));
    return raw;
  }
  uint32_t Get(QueueRegister reg) const { return page_->Load(kQueue, reg); }
  void Set(QueueRegister reg, uint32_t value) { page_->Store(kQueue, reg, value); }

  const std::shared_ptr<VintfPage> page_ = VintfPage::Create();
  alignas(16) std::array<std::byte, kSize * sizeof(RawCommand)> ring_ = {};
  VcmdqProducer producer_{page_, kQueue, ring_};
};

TEST_F(VcmdqProducerTest, WritesEntriesThenProd) {
  const std::vector<RawCommand> batch = {Asid(1), Asid(2), Asid(3)};
  const auto submit = producer_.Submit(batch, Now());
  EXPECT_EQ(submit.result, WaitResult::kDone);
  EXPECT_EQ(submit.submitted, 3u);
  EXPECT_EQ(Get(QueueRegister::kProd), 3u);
  for (uint32_t i = 0; i < 3; ++i) EXPECT_EQ(Entry(i), batch[i]);
  EXPECT_EQ(producer_.pending(), 3u);
  EXPECT_EQ(producer_.capacity(), kSize);
}

TEST_F(VcmdqProducerTest, OverwritesNothingThatTheHardwareHasNotTaken) {
  std::vector<RawCommand> batch;
  for (uint16_t i = 0; i < kSize + 2; ++i) batch.push_back(Asid(i));
  const auto submit = producer_.Submit(batch, Now());
  EXPECT_EQ(submit.result, WaitResult::kTimedOut);
  EXPECT_EQ(submit.submitted, kSize);
  EXPECT_EQ(Get(QueueRegister::kProd), kSize);
  EXPECT_EQ(Entry(0), Asid(0));
  Set(QueueRegister::kCons, 2);
  EXPECT_EQ(producer_.Submit({&batch[kSize], 2}, Now()).submitted, 2u);
  EXPECT_EQ(Get(QueueRegister::kProd), kSize + 2);
  EXPECT_EQ(Entry(0), Asid(kSize));
  EXPECT_EQ(Entry(1), Asid(kSize + 1));
  EXPECT_EQ(Entry(2), Asid(2));
}

// What hardware queues are for. The child may make no system call any more but exit: the kernel kills it otherwise.
TEST_F(VcmdqProducerTest, ACommandNeedsNoSystemCall) {
#if defined(VIOMMU_ADDRESS_SANITIZER) || defined(VIOMMU_THREAD_SANITIZER)
  GTEST_SKIP() << "the sanitizers make system calls of their own";
#endif
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const RawCommand commands[] = {Asid(1), Asid(2)};
    if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) ::_exit(2);
    bool all = true;
    for (uint32_t i = 0; i < 10'000; ++i) {
      all = producer_.Submit(commands, steady_clock::time_point::max()).submitted == 2 && all;
      Set(QueueRegister::kCons, Get(QueueRegister::kProd));
    }
    // Unlike _exit(), which ends the whole group of threads and is not allowed.
    ::syscall(SYS_exit, all ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << "ended by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(VcmdqProducerTest, PositionsWrap) {
  for (uint32_t i = 1; i <= 5 * kSize; ++i) {
    const RawCommand command = Asid(static_cast<uint16_t>(i));
    EXPECT_EQ(producer_.Submit({&command, 1}, Now()).submitted, 1u);
    EXPECT_EQ(Get(QueueRegister::kProd), i % (2 * kSize));
    EXPECT_EQ(Entry((i - 1) % kSize), command);
    Set(QueueRegister::kCons, i % (2 * kSize));
    EXPECT_EQ(producer_.pending(), 0u);
  }
}

TEST_F(VcmdqProducerTest, ASyncIsTheLastAndIsWaitedFor) {
  EXPECT_EQ(producer_.Sync(Now()), WaitResult::kTimedOut);
  EXPECT_EQ(Entry(0), Encode({.opcode = Opcode::kSync}));
  std::thread hardware([this] {
    while (Get(QueueRegister::kProd) != 2) std::this_thread::yield();
    Set(QueueRegister::kCons, 2);
  });
  EXPECT_EQ(producer_.Sync(Soon()), WaitResult::kDone);
  hardware.join();
}

TEST_F(VcmdqProducerTest, TellsAnErrorAndGoesOn) {
  const std::vector<RawCommand> batch = {Asid(1), Asid(2)};
  producer_.Submit(batch, Now());
  EXPECT_EQ(producer_.error(), std::nullopt);
  Set(QueueRegister::kCons, (1u << 24) | 1);
  Set(QueueRegister::kGerror, 1);
  EXPECT_EQ(producer_.Sync(Soon()), WaitResult::kError);
  ASSERT_TRUE(producer_.error().has_value());
  EXPECT_EQ(producer_.error()->code, 1u);
  EXPECT_EQ(producer_.error()->index, 1u);
  EXPECT_EQ(producer_.error()->command, Asid(2));
  producer_.ReplaceFailed(Asid(9));
  EXPECT_EQ(Entry(1), Asid(9));
  producer_.Acknowledge();
  EXPECT_EQ(Get(QueueRegister::kGerrorn), 1u);
  EXPECT_EQ(producer_.error(), std::nullopt);
  producer_.ReplaceFailed(Asid(10));
  EXPECT_EQ(Entry(1), Asid(9));
}

TEST_F(VcmdqProducerTest, AFullQueueAtAnErrorDoesNotWaitForRoom) {
  const std::vector<RawCommand> batch(kSize, Asid(1));
  producer_.Submit(batch, Now());
  Set(QueueRegister::kGerror, 1);
  EXPECT_EQ(producer_.Submit({batch.data(), 1}, Soon()).result, WaitResult::kError);
}

TEST_F(VcmdqProducerTest, EnableGoesTheDriversWay) {
  producer_.Submit(std::vector{Asid(1)}, Now());
  Set(QueueRegister::kGerror, 1);
  Set(QueueRegister::kStatus, 1);
  EXPECT_FALSE(producer_.Enable(Now()));
  Set(QueueRegister::kStatus, 0);
  EXPECT_FALSE(producer_.Enable(Now()));
  EXPECT_EQ(Get(QueueRegister::kConfig), 1u);
  EXPECT_EQ(Get(QueueRegister::kProd), 0u);
  EXPECT_EQ(Get(QueueRegister::kGerrorn), 1u);
  EXPECT_EQ(producer_.pending(), 0u);
  std::thread hardware([this] {
    while (Get(QueueRegister::kConfig) != 0) std::this_thread::yield();
    Set(QueueRegister::kStatus, 0);
  });
  Set(QueueRegister::kStatus, 1);
  EXPECT_TRUE(producer_.Disable(Soon()));
  hardware.join();
}

TEST_F(VcmdqProducerTest, KnowsWhatARingIs) {
  const std::span<std::byte> ring(ring_);
  EXPECT_DEATH(VcmdqProducer(page_, kQueue, ring.first(16)), "");
  EXPECT_DEATH(VcmdqProducer(page_, kQueue, ring.first(48)), "");
  EXPECT_DEATH(VcmdqProducer(page_, kQueue, ring.subspan(8, 32)), "");
  EXPECT_DEATH(VcmdqProducer(page_, cmdqv::kMaxLvcmdqsPerVintf, ring), "");
}

}  // namespace
}  // namespace viommu::smmuv3
