#include "server/commit/starts.h"

#include <gtest/gtest.h>

#include <string>

namespace viommu::server {
namespace {

class StartsTest : public testing::Test {
 protected:
  StartsTest() {
    starts_.Add(1, "a", 0, 0);
    starts_.Add(2, "b", 100, 100);
    starts_.Add(3, "c", 150, 1150);  // after a loss of power
  }

  Starts starts_;
};

TEST_F(StartsTest, WhatAStartToldEndsWhereTheNextOneBegins) {
  EXPECT_TRUE(starts_.Told(1, "a", 100, 2000));
  EXPECT_FALSE(starts_.Told(1, "a", 101, 2000)) << "a newer store went on in that epoch; ours is a copy";
  EXPECT_TRUE(starts_.Told(2, "b", 150, 2000));
  EXPECT_TRUE(starts_.Told(2, "b", 400, 2000)) << "told and lost with the power";
  EXPECT_FALSE(starts_.Told(2, "b", 1151, 2000));
  EXPECT_TRUE(starts_.Told(3, "c", 2000, 2000));
  EXPECT_FALSE(starts_.Told(3, "c", 2001, 2000));
}

TEST_F(StartsTest, AnotherStartOfTheSameEpochIsToldApart) {
  EXPECT_FALSE(starts_.Told(2, "other", 101, 2000));
  EXPECT_FALSE(starts_.Told(3, "other", 1200, 2000)) << "however far the copy got";
  EXPECT_TRUE(starts_.Told(3, "", 1200, 2000)) << "from before there were ids";
}

TEST_F(StartsTest, WhatWasSkippedWasNeverRecorded) {
  for (const int64_t revision : {0, 100, 150, 1151, 5000}) EXPECT_TRUE(starts_.Recorded(revision)) << revision;
  for (const int64_t revision : {151, 1000, 1150}) EXPECT_FALSE(starts_.Recorded(revision)) << revision;
}

TEST_F(StartsTest, TheOldestAreForgottenAndJudgedByTheOldestThatIsLeft) {
  for (int i = 0; i < Starts::kMaxStarts; ++i) starts_.Add(4 + i, "x", 2000 + i, 2000 + i);
  EXPECT_TRUE(starts_.Told(1, "whoever", 2000, 9000));
  EXPECT_FALSE(starts_.Told(1, "whoever", 2001, 9000));
  EXPECT_LT(starts_.Encode().size(), 64u * Starts::kMaxStarts);
}

TEST_F(StartsTest, SurvivesBeingWrittenAndRefusesDamage) {
  const auto read = Starts::Decode(starts_.Encode());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->Encode(), starts_.Encode());
  EXPECT_EQ(Starts::Decode("\xff\xff\xff").status().code(), absl::StatusCode::kDataLoss);
  const Starts none = *Starts::Decode("");
  EXPECT_TRUE(none.Told(1, "a", 100, 100)) << "a store from before there were starts";
  EXPECT_FALSE(none.Told(1, "a", 101, 100));
}

}  // namespace
}  // namespace viommu::server
