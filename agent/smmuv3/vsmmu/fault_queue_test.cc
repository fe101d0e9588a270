#include "agent/smmuv3/vsmmu/fault_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace viommu::agent {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

StallTag Tag(uint32_t sid, uint16_t stag) { return {.sid = sid, .stag = stag}; }

TEST(FaultQueueTest, CookiesAreTheLowestFreeOnes) {
  FaultQueue queue;
  for (uint16_t i = 0; i < 5; ++i) EXPECT_TRUE(queue.Push({.address = i}, Tag(1, i)));
  const auto first = queue.Read(3);
  ASSERT_EQ(first.size(), 3u);
  EXPECT_EQ(first[2].cookie, 2u);
  EXPECT_EQ(first[2].address, 2u);
  EXPECT_EQ(queue.Take(3), std::nullopt);  // not read yet
  EXPECT_EQ(queue.Take(1), Tag(1, 1));
  EXPECT_EQ(queue.Take(1), std::nullopt);
  const auto next = queue.Read(9);
  ASSERT_EQ(next.size(), 2u);
  EXPECT_EQ(next[0].cookie, 1u);
  EXPECT_EQ(next[0].address, 3u);
  EXPECT_EQ(next[1].cookie, 3u);
  EXPECT_THAT(queue.Read(9), IsEmpty());
  EXPECT_EQ(queue.Take(3), Tag(1, 4));
}

TEST(FaultQueueTest, AStreamsFaultsGoReadOrNot) {
  FaultQueue queue;
  EXPECT_TRUE(queue.Push({}, Tag(1, 1)));
  EXPECT_TRUE(queue.Push({}, Tag(2, 2)));
  queue.Read(2);
  EXPECT_TRUE(queue.Push({}, Tag(1, 3)));
  EXPECT_THAT(queue.TakeStream(nullptr, 1), ElementsAre(Tag(1, 1), Tag(1, 3)));
  EXPECT_EQ(queue.Take(0), std::nullopt);
  EXPECT_EQ(queue.Take(1), Tag(2, 2));
  EXPECT_THAT(queue.TakeStream(nullptr, 1), IsEmpty());
}

TEST(FaultQueueTest, NothingComesIntoAClosedOrFullOne) {
  FaultQueue queue;
  for (size_t i = 0; i < FaultQueue::kMaxWaiting; ++i) ASSERT_TRUE(queue.Push({}, Tag(1, static_cast<uint16_t>(i))));
  EXPECT_FALSE(queue.Push({}, Tag(1, 0)));
  queue.Read(10);
  EXPECT_FALSE(queue.Push({}, Tag(1, 0)));
  EXPECT_EQ(queue.Close().size(), FaultQueue::kMaxWaiting);
  EXPECT_FALSE(queue.Push({}, Tag(1, 0)));
  EXPECT_THAT(queue.Close(), IsEmpty());
}

}  // namespace
}  // namespace viommu::agent
