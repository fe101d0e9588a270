#include "agent/smmuv3/vsmmu/veventq.h"

#include <gtest/gtest.h>

namespace viommu::agent {
namespace {

TEST(VeventQueueTest, NumbersEvents) {
  VeventQueue queue(4);
  EXPECT_TRUE(queue.Read(4).empty());
  queue.Push({10});
  queue.Push({11});
  queue.Push({12});
  auto events = queue.Read(2);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].sequence, 0u);
  EXPECT_EQ(events[1].record[0], 11u);
  events = queue.Read(9);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].sequence, 2u);
}

TEST(VeventQueueTest, OneMarkStandsForAllThatWasLost) {
  VeventQueue queue(2);
  for (uint64_t i = 0; i < 5; ++i) queue.Push({i});
  auto events = queue.Read(9);
  ASSERT_EQ(events.size(), 3u);
  EXPECT_FALSE(events[1].lost);
  EXPECT_TRUE(events[2].lost);
  EXPECT_EQ(events[2].sequence, 4u);
  EXPECT_TRUE(queue.Read(9).empty());
  queue.Push({5});
  events = queue.Read(9);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_FALSE(events[0].lost);
  EXPECT_EQ(events[0].sequence, 5u);
}

TEST(VeventQueueTest, ALaterEventReplacesTheMark) {
  VeventQueue queue(2);
  for (uint64_t i = 0; i < 3; ++i) queue.Push({i});
  ASSERT_EQ(queue.Read(1).size(), 1u);
  queue.Push({3});
  const auto events = queue.Read(9);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].sequence, 1u);
  EXPECT_EQ(events[1].sequence, 3u);
  EXPECT_FALSE(events[1].lost);
}

TEST(ViommuEventsTest, OneQueueOfEachType) {
  ViommuEvents events;
  auto queue = std::make_shared<VeventQueue>(2);
  EXPECT_TRUE(events.Add(VeventqType::kArmSmmuv3, queue));
  EXPECT_FALSE(events.Add(VeventqType::kArmSmmuv3, queue));
  auto foreign = std::make_shared<VeventQueue>(2);
  EXPECT_TRUE(events.Add(VeventqType::kTegra241Cmdqv, foreign));
  EXPECT_TRUE(events.Deliver({1}));
  EXPECT_EQ(queue->Read(9).size(), 1u);
  EXPECT_TRUE(foreign->Read(9).empty());
  events.Remove(VeventqType::kArmSmmuv3);
  EXPECT_FALSE(events.Deliver({2}));  // for the host to log
  EXPECT_TRUE(queue->Read(9).empty());
}

}  // namespace
}  // namespace viommu::agent
