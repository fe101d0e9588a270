// The queue's promises under every schedule that deviates little from running each thread until it must wait, on
// instances small enough for that.

#include <gtest/gtest.h>

#include <optional>
#include <vector>

#include "agent/smmuv3/queue/command_queue.h"
#include "agent/smmuv3/queue/model_atomics.h"

namespace viommu::smmuv3 {
namespace {

using Queue = CommandQueue<ModelAtomics>;
constexpr ModelAtomics::Clock::time_point kNever = ModelAtomics::Clock::time_point::max();

// Command `number` of `producer`.
RawCommand Tag(uint64_t producer, uint64_t number) { return {producer, number}; }

// `consumed` holds `batches` batches of `size` commands of each producer, contiguous, in order.
void ExpectBatches(const std::vector<RawCommand>& consumed, uint64_t producers, uint64_t batches, uint64_t size) {
  ASSERT_EQ(consumed.size(), producers * batches * size);
  std::vector<uint64_t> next(producers, 0);
  for (size_t i = 0; i < consumed.size(); ++i) {
    const uint64_t producer = consumed[i].dw0;
    ASSERT_LT(producer, producers);
    ASSERT_EQ(consumed[i].dw1, next[producer]++);
    if (i % size != 0) {
      ASSERT_EQ(producer, consumed[i - 1].dw0) << "a batch was torn at " << i;
    }
  }
}

void Consume(Queue& queue, uint64_t count, std::vector<RawCommand>& consumed) {
  while (consumed.size() < count) {
    ASSERT_TRUE(queue.WaitForWork(kNever));
    const std::span<const RawCommand> run = queue.Peek(2);
    consumed.insert(consumed.end(), run.begin(), run.end());
    queue.Pop(run.size());
  }
}

// Producers push `batches` batches of `size` and wait for each to be consumed, through a ring of 2^log2_size slots.
void CheckAllSchedules(uint32_t log2_size, uint64_t producers, uint64_t batches, uint64_t size, uint32_t deviations,
                       uint64_t expected_runs_at_least) {
  ModelScheduler scheduler;
  const uint64_t runs = Explore(deviations, 200'000, [&](std::vector<uint32_t> script) {
    Queue queue(log2_size);
    std::vector<RawCommand> consumed;
    std::vector<std::function<void()>> bodies;
    for (uint64_t p = 0; p < producers; ++p) {
      bodies.push_back([&, p] {
        for (uint64_t b = 0; b < batches; ++b) {
          std::vector<RawCommand> batch;
          for (uint64_t i = 0; i < size; ++i) batch.push_back(Tag(p, b * size + i));
          const std::optional<QueuePosition> end = queue.Push(batch, kNever);
          ASSERT_TRUE(end.has_value());
          ASSERT_TRUE(queue.WaitConsumed(*end, kNever));
          // A sync means that the consumer has had this very batch.
          uint64_t mine = 0;
          for (const RawCommand& command : consumed) mine += command.dw0 == p ? 1 : 0;
          ASSERT_GE(mine, (b + 1) * size);
        }
      });
    }
    bodies.push_back([&] { Consume(queue, producers * batches * size, consumed); });
    const bool finished = scheduler.Run(bodies, std::move(script));
    EXPECT_TRUE(finished) << "a wake-up was lost";
    ExpectBatches(consumed, producers, batches, size);
    return scheduler.decisions();
  });
  EXPECT_GE(runs, expected_runs_at_least);
  EXPECT_LT(runs, 200'000u) << "the bound on schedules was hit";
  testing::Test::RecordProperty("schedules", static_cast<int>(runs));
}

TEST(InterleavingTest, TwoProducersOneLap) { CheckAllSchedules(2, 2, 1, 2, 2, 1000); }

// The ring holds one batch: each push of the other producer waits for room, each lap flips the meaning of the valid
// bits.
TEST(InterleavingTest, TwoProducersThreeLaps) { CheckAllSchedules(1, 2, 2, 2, 2, 100); }

// A batch that does not divide the ring lies across its end.
TEST(InterleavingTest, BatchesAcrossTheEndOfTheRing) { CheckAllSchedules(2, 2, 2, 3, 2, 100); }

TEST(InterleavingTest, ThreeProducers) { CheckAllSchedules(2, 3, 1, 1, 2, 100); }

// A producer that is held up between reserving and publishing keeps nobody but the consumer from going on.
TEST(InterleavingTest, StalledProducerDoesNotStopOthersFromPushing) {
  ModelScheduler scheduler;
  // The script switches away from producer 0 at its n-th access; whatever n is, producer 1 gets its commands in.
  for (uint32_t n = 0; n < 12; ++n) {
    std::vector<uint32_t> script(n, 0);
    script.push_back(1);
    Queue queue(2);
    bool second_done = false;
    bool first_done = false;
    bool second_was_first = false;
    const bool finished = scheduler.Run({[&] {
                                           const RawCommand command = Tag(0, 0);
                                           EXPECT_TRUE(queue.TryPush({&command, 1}).has_value());
                                           first_done = true;
                                         },
                                         [&] {
                                           const RawCommand command = Tag(1, 0);
                                           EXPECT_TRUE(queue.TryPush({&command, 1}).has_value());
                                           second_done = true;
                                           second_was_first = !first_done;
                                         }},
                                        std::move(script));
    EXPECT_TRUE(finished);
    EXPECT_TRUE(second_done && first_done);
    if (n < 2) {
      EXPECT_TRUE(second_was_first);
    }
    EXPECT_EQ(queue.GetStats().depth, 2u);
  }
}

}  // namespace
}  // namespace viommu::smmuv3
