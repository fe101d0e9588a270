#include "agent/smmuv3/vsmmu/tag_allocator.h"

#include <gtest/gtest.h>

namespace viommu::agent {
namespace {

TEST(TagAllocatorTest, LowestFreeFirstFromOne) {
  TagAllocator vmids(8);
  EXPECT_EQ(vmids.Allocate(), 1);
  EXPECT_EQ(vmids.Allocate(), 2);
  EXPECT_EQ(vmids.Allocate(), 3);
  vmids.Free(2);
  EXPECT_EQ(vmids.used(), 2u);
  EXPECT_EQ(vmids.Allocate(), 2);
  EXPECT_EQ(vmids.Allocate(), 4);
}

TEST(TagAllocatorTest, EndsAtItsWidth) {
  for (const uint32_t bits : {8u, 16u}) {
    TagAllocator vmids(bits);
    EXPECT_EQ(vmids.total(), (1u << bits) - 1);
    for (uint32_t i = 1; i <= vmids.total(); ++i) ASSERT_EQ(vmids.Allocate(), i);
    EXPECT_EQ(vmids.Allocate(), std::nullopt);
    vmids.Free(200);
    EXPECT_EQ(vmids.Allocate(), 200);
  }
}

TEST(TagAllocatorDeathTest, FreeingTwiceStopsTheProcess) {
  TagAllocator vmids(8);
  EXPECT_DEATH(vmids.Free(1), "");
  EXPECT_DEATH(vmids.Free(0), "");
}

}  // namespace
}  // namespace viommu::agent
