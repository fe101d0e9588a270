#include "agent/reconcile/vm_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/error.h"

namespace viommu::agent {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

VmMemory::Range Bytes(uint64_t length, VmMemory::Owner owner = 1) { return {.length = length, .owner = owner}; }

class VmMemoryTest : public testing::Test {
 protected:
  v1::ErrorReason Refusal(uint64_t iova, const VmMemory::Range& range) { return ReasonOf(memory_.Check(iova, range)); }
  void Add(uint64_t iova, const VmMemory::Range& range) {
    ASSERT_TRUE(memory_.Check(iova, range).ok());
    memory_.Add(iova, range);
  }
  VmMemory memory_;
};

TEST_F(VmMemoryTest, RangesAreWholePagesThatMeetNoOther) {
  EXPECT_EQ(Refusal(1, Bytes(0x1000)), v1::ERROR_REASON_INVALID_FIELD);
  EXPECT_EQ(Refusal(0, Bytes(0)), v1::ERROR_REASON_INVALID_FIELD);
  EXPECT_EQ(Refusal(0, Bytes(0x1001)), v1::ERROR_REASON_INVALID_FIELD);
  EXPECT_EQ(Refusal(~uint64_t{0xfff}, Bytes(0x2000)), v1::ERROR_REASON_INVALID_FIELD);
  EXPECT_EQ(Refusal(0, {.length = 0x1000, .readable = false, .writable = false}), v1::ERROR_REASON_INVALID_FIELD);
  Add(0x4000, Bytes(0x2000));
  for (const uint64_t iova : {0x3000, 0x4000, 0x5000}) {
    EXPECT_EQ(Refusal(iova, Bytes(0x2000)), v1::ERROR_REASON_MEMORY_TAKEN) << iova;
  }
  EXPECT_EQ(Refusal(0, Bytes(0x10000)), v1::ERROR_REASON_MEMORY_TAKEN) << "around it";
  Add(0x2000, Bytes(0x2000));
  Add(0x6000, Bytes(0x1000));
  Add(~uint64_t{0xfff}, Bytes(0x1000));
}

TEST_F(VmMemoryTest, ThereIsALimit) {
  for (uint64_t i = 0; i < VmMemory::kMaxRanges; ++i) Add(i * 0x1000, Bytes(0x1000));
  EXPECT_EQ(Refusal(VmMemory::kMaxRanges * 0x1000, Bytes(0x1000)), v1::ERROR_REASON_LIMIT_EXCEEDED);
}

TEST_F(VmMemoryTest, OnlyWholeRangesOfTheOwnerAreTakenAway) {
  Add(0x1000, Bytes(0x1000, 1));
  Add(0x2000, Bytes(0x1000, 2));
  Add(0x3000, Bytes(0x2000, 1));
  EXPECT_THAT(memory_.Inside(1, 0x1000, 0x4000).value(), ElementsAre(0x1000, 0x3000));
  EXPECT_EQ(ReasonOf(memory_.Inside(1, 0x1000, 0x3000).status()), v1::ERROR_REASON_MEMORY_NOT_MAPPED) << "cut";
  EXPECT_EQ(ReasonOf(memory_.Inside(2, 0x3000, 0x2000).status()), v1::ERROR_REASON_MEMORY_NOT_MAPPED) << "not its own";
  EXPECT_EQ(ReasonOf(memory_.Inside(1, 0, 0).status()), v1::ERROR_REASON_INVALID_FIELD);
  EXPECT_THAT(memory_.Of(2), ElementsAre(0x2000));
  memory_.SetLeaving(0x2000);
  EXPECT_THAT(memory_.Leaving(), ElementsAre(0x2000));
  memory_.Erase(0x2000);
  EXPECT_THAT(memory_.Of(2), IsEmpty());
}

TEST_F(VmMemoryTest, CoveringAndFree) {
  Add(0x2000, Bytes(0x2000));
  uint64_t start = 0;
  ASSERT_NE(memory_.Covering(0x3000, 0x1000, start), nullptr);
  EXPECT_EQ(start, 0x2000U);
  EXPECT_EQ(memory_.Covering(0x3000, 0x1001, start), nullptr);
  EXPECT_EQ(memory_.Covering(0x1fff, 2, start), nullptr);
  EXPECT_TRUE(memory_.IsFree(0, 0x2000));
  EXPECT_FALSE(memory_.IsFree(0, 0x2001));
  EXPECT_FALSE(memory_.IsFree(0x3fff, 1));
  EXPECT_TRUE(memory_.IsFree(0x4000, ~uint64_t{0}));
}

}  // namespace
}  // namespace viommu::agent
