#include "agent/smmuv3/queue/command_queue.h"

#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <thread>
#include <vector>

namespace viommu::smmuv3 {
namespace {

using std::chrono::steady_clock;
constexpr steady_clock::time_point kPast = steady_clock::time_point::min();
constexpr steady_clock::time_point kNever = steady_clock::time_point::max();

std::vector<RawCommand> Batch(uint64_t producer, uint64_t first, uint64_t count) {
  std::vector<RawCommand> batch;
  for (uint64_t i = 0; i < count; ++i) batch.push_back({producer, first + i});
  return batch;
}

TEST(CommandQueueTest, GivesBackWhatWasPutInInOrder) {
  CommandQueue<> queue(3);
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
  CommandQueue<> queue(1);
  EXPECT_EQ(queue.TryPush({}), 0u);
  EXPECT_EQ(queue.TryPush(Batch(1, 0, 2)), 2u);
  EXPECT_EQ(queue.TryPush({}), 2u);
}

TEST(CommandQueueTest, FullIsRefusedWhollyAndNothingIsLost) {
  CommandQueue<> queue(2);
  EXPECT_EQ(queue.TryPush(Batch(1, 0, 3)), 3u);
  EXPECT_EQ(queue.TryPush(Batch(2, 0, 2)), std::nullopt);
  EXPECT_EQ(queue.TryPush(Batch(3, 0, 1)), 4u);
  EXPECT_EQ(queue.TryPush(Batch(3, 1, 1)), std::nullopt);
  EXPECT_EQ(queue.GetStats().depth, 4u);
  queue.Pop(2);
  EXPECT_EQ(queue.TryPush(Batch(2, 0, 2)), 6u);
}

TEST(CommandQueueTest, BatchLargerThanTheQueueIsRefusedAtOnce) {
  CommandQueue<> queue(2);
  EXPECT_EQ(queue.TryPush(Batch(1, 0, 5)), std::nullopt);
  EXPECT_EQ(queue.Push(Batch(1, 0, 5), kNever), std::nullopt);
}

TEST(CommandQueueTest, PushGivesUpAtItsDeadline) {
  CommandQueue<> queue(1);
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
    CommandQueue<> queue(log2_size);
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
  CommandQueue<> queue(3);
  const QueuePosition end = *queue.TryPush(Batch(1, 0, 3));
  EXPECT_FALSE(queue.WaitConsumed(end, kPast));
  queue.Pop(2);
  EXPECT_FALSE(queue.WaitConsumed(end, kPast));
  EXPECT_TRUE(queue.WaitConsumed(end - 1, kPast));
  queue.Pop(1);
  EXPECT_TRUE(queue.WaitConsumed(end, kPast));
}

TEST(CommandQueueTest, WakeIsNotForgotten) {
  CommandQueue<> queue(3);
  queue.Wake();
  EXPECT_FALSE(queue.WaitForWork(kNever));
  EXPECT_FALSE(queue.WaitForWork(kPast));
  ASSERT_TRUE(queue.TryPush(Batch(1, 0, 1)).has_value());
  EXPECT_TRUE(queue.WaitForWork(kNever));
}

TEST(CommandQueueTest, SleepersAreWoken) {
  CommandQueue<> queue(1);
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

struct StressShape {
  uint32_t log2_size;
  uint64_t producers;
  uint64_t batches;
  uint64_t max_batch;
};

class CommandQueueStress : public testing::TestWithParam<StressShape> {};

// Producers push numbered batches of changing sizes and sync now and then; the consumer checks numbers and contiguity.
// Under ThreadSanitizer this is the check of the memory orders.
TEST_P(CommandQueueStress, NothingIsLostTornOrReordered) {
  const StressShape shape = GetParam();
  CommandQueue<> queue(shape.log2_size);
  // Written by the consumer before Pop(), read by producers after WaitConsumed(): a plain variable on purpose.
  std::vector<uint64_t> seen(shape.producers, 0);
  std::vector<std::thread> producers;
  uint64_t total = 0;
  for (uint64_t b = 0; b < shape.batches; ++b) total += b % shape.max_batch + 1;
  for (uint64_t p = 0; p < shape.producers; ++p) {
    producers.emplace_back([&, p] {
      uint64_t number = 0;
      for (uint64_t b = 0; b < shape.batches; ++b) {
        const uint64_t count = b % shape.max_batch + 1;
        std::vector<RawCommand> batch;
        // The second word carries the number and how many of the batch are still to come.
        for (uint64_t i = 0; i < count; ++i) batch.push_back({p, (number + i) << 8 | (count - 1 - i)});
        number += count;
        const std::optional<QueuePosition> end = queue.Push(batch, kNever);
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

INSTANTIATE_TEST_SUITE_P(Shapes, CommandQueueStress,
                         testing::Values(StressShape{1, 4, 2000, 2}, StressShape{4, 8, 1000, 16},
                                         StressShape{7, 4, 2000, 64}, StressShape{12, 6, 2000, 63}));

}  // namespace
}  // namespace viommu::smmuv3
