#include "agent/smmuv3/iommufd/invalidations.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <map>
#include <thread>
#include <vector>

#include "agent/smmuv3/iommufd/fake_kernel.h"
#include "agent/smmuv3/iommufd/uapi.h"
#include "common/mutex.h"

namespace viommu::agent {
namespace {

using smmuv3::RawCommand;

constexpr ObjectId kViommu = 4;
constexpr uint64_t kBad = 0x46;   // CMD_SYNC
constexpr uint64_t kSlow = 0x12;  // with dw1 = kNever: the SMMU does not answer
constexpr uint64_t kNever = ~uint64_t{0};

std::vector<RawCommand> Commands(uint64_t caller, size_t count) {
  std::vector<RawCommand> commands;
  for (size_t i = 0; i < count; ++i) commands.push_back({0x10, caller << 32 | i});
  return commands;
}

// Answers as Linux 7.2 does: checks in order, issues in groups of 63, counts what it has checked.
class InvalidationsTest : public testing::Test {
 protected:
  InvalidationsTest() {
    kernel_.on_ioctl = [this](int fd, unsigned long request, void* argument) {
      EXPECT_EQ(fd, 7);
      EXPECT_EQ(request, uapi::kHwptInvalidate);
      return Call(*static_cast<uapi::HwptInvalidate*>(argument));
    };
  }

  int Call(uapi::HwptInvalidate& call) ABSL_LOCKS_EXCLUDED(mu_) {
    while (hold_.load()) std::this_thread::yield();
    MutexLock lock(mu_);
    EXPECT_EQ(call.size, sizeof(call));
    EXPECT_EQ(call.hwpt_id, kViommu);
    EXPECT_EQ(call.entry_len, 16u);
    calls_.push_back(call.entry_num);
    if (call.entry_num > most_) return -ENOMEM;  // and the count stays as it is
    const auto* commands = reinterpret_cast<const RawCommand*>(static_cast<uintptr_t>(call.data_uptr));
    const uint32_t count = call.entry_num;
    uint32_t issued = 0;
    for (uint32_t i = 0; i < count; ++i) {
      if ((commands[i].dw0 & 0xff) == kBad) {
        call.entry_num = i;
        return -EIO;
      }
      if (i - issued + 1 < kKernelGroup && i + 1 != count) continue;
      for (; issued <= i; ++issued) {
        if (commands[issued].dw1 == kNever) {
          call.entry_num = i;
          return -ETIMEDOUT;
        }
        ++issued_[commands[issued].dw1];
      }
    }
    call.entry_num = count;
    return 0;
  }
  // How many commands each call had.
  std::vector<uint32_t> Calls() ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(mu_);
    return calls_;
  }
  // Commands of this caller that have been issued at least once.
  size_t IssuedOf(uint64_t caller) ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(mu_);
    return static_cast<size_t>(
        std::count_if(issued_.begin(), issued_.end(), [&](const auto& entry) { return entry.first >> 32 == caller; }));
  }

  // Callers beside each other, while a first one is held in its call: the others' are done together.
  std::vector<InvalidateAnswer> Together(const std::vector<std::vector<RawCommand>>& batches) {
    std::vector<InvalidateAnswer> answers(batches.size());
    std::vector<std::thread> threads;
    hold_ = true;
    std::thread first([this] { EXPECT_EQ(invalidations_.Invalidate(Commands(99, 1)).error_number, 0); });
    uint64_t commands = 1;
    while (counters_.waiting.load() != commands) std::this_thread::yield();
    for (size_t i = 0; i < batches.size(); ++i) {
      threads.emplace_back([&, i] { answers[i] = invalidations_.Invalidate(batches[i]); });
      commands += batches[i].size();
    }
    while (counters_.waiting.load() != commands) std::this_thread::yield();
    hold_ = false;
    first.join();
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(counters_.waiting.load(), 0u);
    return answers;
  }
  InvalidationCount CountOf(uint8_t opcode) {
    for (const InvalidationCount& count : counters_.Get().invalidations) {
      if (count.opcode == opcode) return count;
    }
    return {};
  }

  FakeKernel kernel_;
  SmmuCounters counters_;
  Invalidations invalidations_{&kernel_, 7, kViommu, &counters_};
  std::atomic<bool> hold_{false};
  uint32_t most_ = kMaxInvalidateEntries;
  Mutex mu_;
  std::vector<uint32_t> calls_ ABSL_GUARDED_BY(mu_);
  std::map<uint64_t, int> issued_ ABSL_GUARDED_BY(mu_);
};

TEST_F(InvalidationsTest, OneCallerOneCall) {
  const InvalidateAnswer answer = invalidations_.Invalidate(Commands(1, 63));
  EXPECT_EQ(answer.error_number, 0);
  EXPECT_EQ(answer.handled, 63u);
  EXPECT_EQ(IssuedOf(1), 63u);
  EXPECT_EQ(Calls().size(), 1u);
}

TEST_F(InvalidationsTest, TheKernelsCountOfOneCaller) {
  std::vector<RawCommand> commands = Commands(1, 100);
  commands[70].dw0 = kBad;
  const InvalidateAnswer answer = invalidations_.Invalidate(commands);
  EXPECT_EQ(answer.error_number, EIO);
  EXPECT_EQ(answer.handled, 70u);
  EXPECT_EQ(IssuedOf(1), 63u);
  EXPECT_EQ(CountOf(0x10).done, 63u);
  EXPECT_EQ(CountOf(0x10).failed, 7u);
  EXPECT_EQ(CountOf(kBad).refused, 1u);
}

TEST_F(InvalidationsTest, LargeArraysGoInPieces) {
  most_ = Invalidations::kMaxCall;
  std::vector<RawCommand> commands = Commands(1, 3 * Invalidations::kMaxCall);
  EXPECT_EQ(invalidations_.Invalidate(commands).handled, commands.size());
  EXPECT_EQ(Calls(), std::vector<uint32_t>(3, Invalidations::kMaxCall));
  const size_t bad = 2 * Invalidations::kMaxCall + 5;
  commands[bad].dw0 = kBad;
  const InvalidateAnswer answer = invalidations_.Invalidate(commands);
  EXPECT_EQ(answer.error_number, EIO);
  EXPECT_EQ(answer.handled, bad);
}

TEST_F(InvalidationsTest, WaitingCallersShareACall) {
  std::vector<std::vector<RawCommand>> batches;
  for (uint64_t i = 0; i < 8; ++i) batches.push_back(Commands(i, 1 + i * 10));
  const std::vector<InvalidateAnswer> answers = Together(batches);
  for (size_t i = 0; i < batches.size(); ++i) {
    EXPECT_EQ(answers[i].error_number, 0);
    EXPECT_EQ(answers[i].handled, batches[i].size());
    EXPECT_EQ(IssuedOf(i), batches[i].size());
  }
  EXPECT_LE(Calls().size(), 9u);
}

// Whoever shares a call with a bad command gets what it would have got alone.
TEST_F(InvalidationsTest, ABadCommandIsItsCallersAlone) {
  for (int round = 0; round < 20; ++round) {
    {
      MutexLock lock(mu_);
      issued_.clear();
    }
    std::vector<std::vector<RawCommand>> batches;
    for (uint64_t i = 0; i < 6; ++i) batches.push_back(Commands(i, 40));
    batches[1][7].dw0 = kBad;
    batches[4] = Commands(4, 100);
    batches[4][80].dw0 = kBad;
    const std::vector<InvalidateAnswer> answers = Together(batches);
    for (size_t i = 0; i < batches.size(); ++i) {
      if (i == 1 || i == 4) continue;
      EXPECT_EQ(answers[i].error_number, 0) << i;
      EXPECT_EQ(answers[i].handled, 40u);
      EXPECT_EQ(IssuedOf(i), 40u) << i;
    }
    EXPECT_EQ(answers[1].error_number, EIO);
    EXPECT_EQ(answers[1].handled, 7u);
    EXPECT_EQ(answers[4].error_number, EIO);
    EXPECT_EQ(answers[4].handled, 80u);
    EXPECT_GE(IssuedOf(4), 63u);  // its first group
  }
}

TEST_F(InvalidationsTest, WithoutMemoryForAllOneAfterTheOther) {
  most_ = 50;
  std::vector<std::vector<RawCommand>> batches;
  for (uint64_t i = 0; i < 4; ++i) batches.push_back(Commands(i, 40));
  for (const InvalidateAnswer& answer : Together(batches)) {
    EXPECT_EQ(answer.error_number, 0);
    EXPECT_EQ(answer.handled, 40u);
  }
  for (uint64_t i = 0; i < 4; ++i) EXPECT_EQ(IssuedOf(i), 40u);
}

// Nobody is told that its commands have taken effect when they have not, and nobody waits for each other's second.
TEST_F(InvalidationsTest, ATimeoutIsEverybodysWhoIsNotSure) {
  std::vector<std::vector<RawCommand>> batches;
  for (uint64_t i = 0; i < 4; ++i) batches.push_back(Commands(i, 40));
  batches[2][0] = {kSlow, kNever};
  const std::vector<InvalidateAnswer> answers = Together(batches);
  EXPECT_EQ(answers[2].error_number, ETIMEDOUT);
  for (uint64_t i = 0; i < 4; ++i) {
    if (answers[i].error_number == 0) {
      EXPECT_EQ(IssuedOf(i), 40u) << i;
    } else {
      EXPECT_EQ(answers[i].error_number, ETIMEDOUT);
      if (i != 2) {
        EXPECT_LE(answers[i].handled, IssuedOf(i));
      }
    }
  }
  EXPECT_GT(counters_.Get().sync_timeouts, 0u);
}

}  // namespace
}  // namespace viommu::agent
