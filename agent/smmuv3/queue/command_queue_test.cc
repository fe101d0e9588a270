#include "agent/smmuv3/queue/command_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

namespace viommu::smmuv3 {
namespace {

using std::chrono::steady_clock;
constexpr steady_clock::time_point kPast = steady_clock::time_point::min();
constexpr steady_clock::time_point kNever = steady_clock::time_point::max();

// Queues are on the heap: g++'s AddressSanitizer does not align what is on the stack as much as they ask for.

std::vector<RawCommand> Batch(uint64_t producer, uint64_t first, uint64_t count) {
  std::vector<RawCommand> batch;
  for (uint64_t i = 0; i < count; ++i) batch.push_back({producer, first + i});
  return batch;
}

TEST(CommandQueueTest, GivesBackWhatWasPutInInOrder) {
  const auto owned = std::make_unique<CommandQueue<>>(3);
  CommandQueue<>& queue = *owned;
  EXPECT_TRUE(queue.Peek(8).empty());
  EXPECT_EQ(queue.TryPush(Batch(1, 0, 3)), 3u);
  EXPECT_EQ(queue.TryPush(Batch(2, 0, 2)), 5u);
  const auto run = queue.Peek(8);
  ASSERT_EQ(run.size(), 5u);
  EXPECT_EQ(run[2], (RawCommand{1, 2}));
  EXPECT_EQ(run[3], (RawCommand{2, 0}));
  EXPECT_EQ(queue.Peek(2).size(), 2u);
  queue.Pop(5);
  EXPECT_TRUE(queue.Peek(8).empty());
}

TEST(CommandQueueTest, EmptyBatchTakesNoRoom) {
  const auto owned = std::make_unique<CommandQueue<>>(1);
  CommandQueue<>& queue = *owned;
  EXPECT_EQ(queue.TryPush({}), 0u);
  EXPECT_EQ(queue.TryPush(Batch(1, 0, 2)), 2u);
  EXPECT_EQ(queue.TryPush({}), 2u);
}

TEST(CommandQueueTest, FullIsRefusedWhollyAndNothingIsLost) {
  const auto owned = std::make_unique<CommandQueue<>>(2);
  CommandQueue<>& queue = *owned;
  EXPECT_EQ(queue.TryPush(Batch(1, 0, 3)), 3u);
  EXPECT_EQ(queue.TryPush(Batch(2, 0, 2)), std::nullopt);
  EXPECT_EQ(queue.TryPush(Batch(3, 0, 1)), 4u);
  EXPECT_EQ(queue.TryPush(Batch(3, 1, 1)), std::nullopt);
  EXPECT_EQ(queue.GetStats().depth, 4u);
  queue.Pop(2);
  EXPECT_EQ(queue.TryPush(Batch(2, 0, 2)), 6u);
}

TEST(CommandQueueTest, BatchLargerThanTheQueueIsRefusedAtOnce) {
  const auto owned = std::make_unique<CommandQueue<>>(2);
  CommandQueue<>& queue = *owned;
  EXPECT_EQ(queue.TryPush(Batch(1, 0, 5)), std::nullopt);
  EXPECT_EQ(queue.Push(Batch(1, 0, 5), kNever), std::nullopt);
}

TEST(CommandQueueTest, PushGivesUpAtItsDeadline) {
  const auto owned = std::make_unique<CommandQueue<>>(1);
  CommandQueue<>& queue = *owned;
  ASSERT_TRUE(queue.TryPush(Batch(1, 0, 2)).has_value());
  EXPECT_EQ(queue.Push(Batch(1, 2, 1), kPast), std::nullopt);
  EXPECT_EQ(queue.Push(Batch(1, 2, 1), steady_clock::now() + std::chrono::milliseconds(5)), std::nullopt);
  const QueueStats stats = queue.GetStats();
  EXPECT_EQ(stats.full_waits, 2u);
  EXPECT_EQ(stats.timeouts, 2u);
  EXPECT_EQ(stats.pushed, 2u);
}

// Sizes below, at and above a word of valid bits; batches that do not divide them.
TEST(CommandQueueTest, ManyLaps) {
  for (const uint32_t log2_size : {1u, 3u, 6u, 8u}) {
    const auto owned = std::make_unique<CommandQueue<>>(log2_size);
    CommandQueue<>& queue = *owned;
    uint64_t pushed = 0;
    uint64_t popped = 0;
    for (int round = 0; round < 2000; ++round) {
      const uint64_t count = static_cast<uint64_t>(round) % queue.capacity() + 1;
      if (queue.TryPush(Batch(1, pushed, count)).has_value()) pushed += count;
      for (const RawCommand& command : queue.Peek(count)) ASSERT_EQ(command.dw1, popped++);
      queue.Pop(popped - (pushed - queue.GetStats().depth));
    }
    EXPECT_GT(pushed, 1000u);
    EXPECT_EQ(queue.GetStats().depth, pushed - popped);
  }
}

TEST(CommandQueueTest, SyncIsAboutTheConsumersPosition) {
  const auto owned = std::make_unique<CommandQueue<>>(3);
  CommandQueue<>& queue = *owned;
  const QueuePosition end = *queue.TryPush(Batch(1, 0, 3));
  EXPECT_FALSE(queue.WaitConsumed(end, kPast));
  queue.Pop(2);
  EXPECT_FALSE(queue.WaitConsumed(end, kPast));
  EXPECT_TRUE(queue.WaitConsumed(end - 1, kPast));
  queue.Pop(1);
  EXPECT_TRUE(queue.WaitConsumed(end, kPast));
}

TEST(CommandQueueTest, WakeIsNotForgotten) {
  const auto owned = std::make_unique<CommandQueue<>>(3);
  CommandQueue<>& queue = *owned;
  queue.Wake();
  EXPECT_FALSE(queue.WaitForWork(kNever));
  EXPECT_FALSE(queue.WaitForWork(kPast));
  ASSERT_TRUE(queue.TryPush(Batch(1, 0, 1)).has_value());
  EXPECT_TRUE(queue.WaitForWork(kNever));
}

TEST(CommandQueueTest, SleepersAreWoken) {
  const auto owned = std::make_unique<CommandQueue<>>(1);
  CommandQueue<>& queue = *owned;
  std::thread consumer([&] {
    for (int consumed = 0; consumed < 64;) {
      ASSERT_TRUE(queue.WaitForWork(kNever));
      const auto run = queue.Peek(1);
      consumed += static_cast<int>(run.size());
      queue.Pop(run.size());
    }
  });
  for (uint64_t i = 0; i < 64; ++i) {
    const std::optional<QueuePosition> end = queue.Push(Batch(1, i, 1), kNever);
    ASSERT_TRUE(end.has_value());
    // Long enough for the other side to have gone to sleep, now and then.
    if (i % 8 == 0) {
      ASSERT_TRUE(queue.WaitConsumed(*end, kNever));
      std::this_thread::yield();
    }
  }
  consumer.join();
}

TEST(CommandQueueTest, HandlesAndTheQueueItselfMix) {
  const auto owned = std::make_unique<CommandQueue<>>(2);
  CommandQueue<>& queue = *owned;
  CommandQueue<>::Producer one(queue);
  CommandQueue<>::Producer two(queue);
  EXPECT_EQ(one.TryPush(Batch(1, 0, 1)), 1u);
  EXPECT_EQ(queue.TryPush(Batch(3, 0, 1)), 2u);
  EXPECT_EQ(two.TryPush(Batch(2, 0, 1)), 3u);
  EXPECT_EQ(one.TryPush(Batch(1, 1, 2)), std::nullopt);
  EXPECT_EQ(one.Push(Batch(1, 1, 1), kPast), 4u);
  EXPECT_EQ(two.Push(Batch(2, 1, 1), kPast), std::nullopt);
  const auto run = queue.Peek(4);
  ASSERT_EQ(run.size(), 4u);
  EXPECT_EQ(run[2], (RawCommand{2, 0}));
  EXPECT_EQ(run[3], (RawCommand{1, 1}));
  queue.Pop(4);
  EXPECT_EQ(two.TryPush({}), 4u);
  EXPECT_EQ(two.TryPush(Batch(2, 1, 4)), 8u);
}

// Runs longer than a word of stamps, from everywhere in one.
TEST(CommandQueueTest, LongRuns) {
  const auto owned = std::make_unique<CommandQueue<>>(9);
  CommandQueue<>& queue = *owned;
  for (uint64_t count = 1; count < 300; ++count) {
    ASSERT_TRUE(queue.TryPush(Batch(1, 0, count)).has_value());
    uint64_t left = count;
    while (left != 0) {
      const auto run = queue.Peek(512);
      ASSERT_FALSE(run.empty());
      ASSERT_LE(run.size(), left);
      ASSERT_EQ(run.front().dw1, count - left);
      left -= run.size();
      queue.Pop(run.size());
    }
    ASSERT_TRUE(queue.Peek(512).empty());
  }
}

TEST(CommandQueueTest, ClosedLetsNothingInAndEverythingOut) {
  const auto owned = std::make_unique<CommandQueue<>>(2);
  CommandQueue<>& queue = *owned;
  ASSERT_TRUE(queue.TryPush(Batch(1, 0, 2)).has_value());
  EXPECT_FALSE(queue.closed());
  queue.Close();
  queue.Close();
  EXPECT_TRUE(queue.closed());
  EXPECT_EQ(queue.TryPush(Batch(1, 2, 1)), std::nullopt);
  EXPECT_EQ(queue.TryPush({}), std::nullopt);
  EXPECT_EQ(queue.Push(Batch(1, 2, 1), kNever), std::nullopt);
  CommandQueue<>::Producer producer(queue);
  EXPECT_EQ(producer.Push(Batch(1, 2, 1), kNever), std::nullopt);
  EXPECT_FALSE(queue.Drained());
  EXPECT_TRUE(queue.WaitForWork(kNever));
  EXPECT_EQ(queue.Peek(4).size(), 2u);
  queue.Pop(2);
  EXPECT_TRUE(queue.Drained());
  EXPECT_FALSE(queue.WaitForWork(kNever));
  EXPECT_EQ(queue.GetStats().pushed, 2u);
  EXPECT_EQ(queue.GetStats().depth, 0u);
}

TEST(CommandQueueTest, ClosingEndsWaitsForRoomAndDrainingThoseForSyncs) {
  const auto owned = std::make_unique<CommandQueue<>>(1);
  CommandQueue<>& queue = *owned;
  const QueuePosition end = *queue.TryPush(Batch(1, 0, 2));
  std::thread pusher([&] { EXPECT_EQ(queue.Push(Batch(2, 0, 1), kNever), std::nullopt); });
  std::thread syncer([&] { EXPECT_TRUE(queue.WaitConsumed(end, kNever)); });
  while (queue.GetStats().full_waits == 0) std::this_thread::yield();
  queue.Close();
  pusher.join();
  while (!queue.Drained()) {
    if (queue.WaitForWork(kNever)) queue.Pop(queue.Peek(1).size());
  }
  syncer.join();
  EXPECT_EQ(queue.GetStats().timeouts, 0u);
}

TEST(CommandQueueTest, AbandonedCommandsEndTheirWaits) {
  const auto owned = std::make_unique<CommandQueue<>>(1);
  CommandQueue<>& queue = *owned;
  const QueuePosition end = *queue.TryPush(Batch(1, 0, 2));
  std::thread syncer([&] { EXPECT_FALSE(queue.WaitConsumed(end, kNever)); });
  queue.Pop(1);
  queue.Abandon();
  syncer.join();
  EXPECT_TRUE(queue.WaitConsumed(end - 1, kNever));
  EXPECT_FALSE(queue.WaitConsumed(end, kNever));
  EXPECT_TRUE(queue.closed());
}

// The machine, but for one producer that is held up between reserving and publishing.
struct StallingAtomics : SystemAtomics {
  static inline std::atomic<bool> stall{false};
  static inline std::atomic<bool> stalled{false};
  static void Stamp(Stamp8* stamps, uint64_t index, uint64_t count, uint8_t value) {
    if (stall.exchange(false)) {
      stalled = true;
      stalled.notify_all();
      stalled.wait(true);
    }
    SystemAtomics::Stamp(stamps, index, count, value);
  }
};

TEST(CommandQueueTest, AStalledProducerDelaysAndEverybodyCanTell) {
  const auto owned = std::make_unique<CommandQueue<StallingAtomics>>(3);
  CommandQueue<StallingAtomics>& queue = *owned;
  ASSERT_TRUE(queue.TryPush(Batch(1, 0, 1)).has_value());
  StallingAtomics::stall = true;
  std::thread stalling([&] { EXPECT_EQ(queue.TryPush(Batch(2, 0, 3)), 4u); });
  StallingAtomics::stalled.wait(false);
  // Others get in behind it.
  const QueuePosition end = *queue.TryPush(Batch(3, 0, 2));
  EXPECT_EQ(end, 6u);
  // What is before it is consumed, it and what is behind it are not.
  ASSERT_TRUE(queue.WaitForWork(kNever));
  ASSERT_EQ(queue.Peek(8).size(), 1u);
  queue.Pop(1);
  EXPECT_EQ(queue.GetStats().stalls, 0u);
  EXPECT_FALSE(queue.WaitForWork(kPast));
  EXPECT_FALSE(queue.WaitForWork(steady_clock::now() + std::chrono::milliseconds(2)));
  EXPECT_TRUE(queue.Peek(8).empty());
  EXPECT_FALSE(queue.WaitConsumed(end, kPast));
  QueueStats stats = queue.GetStats();
  EXPECT_EQ(stats.stalls, 1u);
  EXPECT_GE(stats.stalled_for, std::chrono::milliseconds(2));
  EXPECT_EQ(stats.pushed - stats.depth, 1u) << "the position in front of which the consumer stands";
  // The ring fills up; then there is back-pressure, not corruption.
  EXPECT_TRUE(queue.TryPush(Batch(3, 2, 3)).has_value());
  EXPECT_EQ(queue.TryPush(Batch(3, 5, 1)), std::nullopt);
  EXPECT_EQ(queue.Push(Batch(3, 5, 1), kPast), std::nullopt);
  // Closing waits for it, too.
  queue.Close();
  EXPECT_FALSE(queue.Drained());
  StallingAtomics::stalled = false;
  StallingAtomics::stalled.notify_all();
  stalling.join();
  EXPECT_EQ(queue.GetStats().stalled_for, std::chrono::nanoseconds(0));
  std::vector<RawCommand> consumed;
  while (!queue.Drained()) {
    ASSERT_TRUE(queue.WaitForWork(kNever));
    const auto run = queue.Peek(8);
    consumed.insert(consumed.end(), run.begin(), run.end());
    queue.Pop(run.size());
  }
  ASSERT_EQ(consumed.size(), 8u);
  for (uint64_t i = 0; i < 3; ++i) EXPECT_EQ(consumed[i], (RawCommand{2, i}));
  for (uint64_t i = 0; i < 5; ++i) EXPECT_EQ(consumed[3 + i], (RawCommand{3, i}));
}

struct StressShape {
  uint32_t log2_size;
  uint64_t producers;
  uint64_t batches;
  uint64_t max_batch;
};

class CommandQueueStress : public testing::TestWithParam<StressShape> {};

// Producers push numbered batches of changing sizes and sync now and then; the consumer checks numbers and contiguity.
// Under ThreadSanitizer this is the check of the memory orders.
template <typename Policy>
void CheckNothingIsLostTornOrReordered(const StressShape& shape) {
  const auto owned = std::make_unique<CommandQueue<Policy>>(shape.log2_size);
  CommandQueue<Policy>& queue = *owned;
  // Written by the consumer before Pop(), read by producers after WaitConsumed(): a plain variable on purpose.
  std::vector<uint64_t> seen(shape.producers, 0);
  std::vector<std::thread> producers;
  uint64_t total = 0;
  for (uint64_t b = 0; b < shape.batches; ++b) total += b % shape.max_batch + 1;
  for (uint64_t p = 0; p < shape.producers; ++p) {
    producers.emplace_back([&, p] {
      uint64_t number = 0;
      typename CommandQueue<Policy>::Producer producer(queue);
      for (uint64_t b = 0; b < shape.batches; ++b) {
        const uint64_t count = b % shape.max_batch + 1;
        std::vector<RawCommand> batch;
        // The second word carries the number and how many of the batch are still to come.
        for (uint64_t i = 0; i < count; ++i) batch.push_back({p, (number + i) << 8 | (count - 1 - i)});
        number += count;
        // Half of them with a handle.
        const std::optional<QueuePosition> end = p % 2 == 0 ? producer.Push(batch, kNever) : queue.Push(batch, kNever);
        ASSERT_TRUE(end.has_value());
        if (b % 7 == 0) {
          ASSERT_TRUE(queue.WaitConsumed(*end, kNever));
          ASSERT_EQ(seen[p], number);
        }
      }
    });
  }
  uint64_t left = total * shape.producers;
  std::vector<uint64_t> next(shape.producers, 0);
  uint64_t rest_of_batch = 0;
  uint64_t batch_of = 0;
  while (left != 0) {
    ASSERT_TRUE(queue.WaitForWork(kNever));
    const auto run = queue.Peek(64);
    for (const RawCommand& command : run) {
      const uint64_t p = command.dw0;
      ASSERT_LT(p, shape.producers);
      if (rest_of_batch != 0) {
        ASSERT_EQ(p, batch_of);
        ASSERT_EQ(command.dw1 & 0xff, rest_of_batch - 1);
      }
      ASSERT_EQ(command.dw1 >> 8, next[p]++);
      batch_of = p;
      rest_of_batch = command.dw1 & 0xff;
      seen[p] = next[p];
    }
    left -= run.size();
    queue.Pop(run.size());
  }
  for (std::thread& producer : producers) producer.join();
  EXPECT_EQ(queue.GetStats().pushed, total * shape.producers);
  EXPECT_EQ(queue.GetStats().depth, 0u);
}

TEST_P(CommandQueueStress, NothingIsLostTornOrReordered) {
  CheckNothingIsLostTornOrReordered<SystemAtomics>(GetParam());
}

// As where the kernel has no membarrier, and with waiters that sleep at once.
struct PlainFences : SystemAtomics {
  static constexpr uint64_t kSpins = 0;
  static constexpr uint64_t kYields = 0;
  static bool HasHeavyFence() { return false; }
};
TEST_P(CommandQueueStress, NorWithoutHeavyFence) { CheckNothingIsLostTornOrReordered<PlainFences>(GetParam()); }

// Everybody sleeps at once.
struct Sleepy : SystemAtomics {
  static constexpr uint64_t kSpins = 0;
  static constexpr uint64_t kYields = 0;
};
TEST_P(CommandQueueStress, NorWhenWaitersSleepAtOnce) { CheckNothingIsLostTornOrReordered<Sleepy>(GetParam()); }

INSTANTIATE_TEST_SUITE_P(Shapes, CommandQueueStress,
                         testing::Values(StressShape{1, 4, 2000, 2}, StressShape{4, 8, 1000, 16},
                                         StressShape{7, 4, 2000, 64}, StressShape{12, 6, 2000, 63}));

}  // namespace
}  // namespace viommu::smmuv3
