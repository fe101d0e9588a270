// Every mutation is found. Only with --config=mutations: ./test --mutations.
//
// Prints for each how many seeds it took: the median of five searches, each over seeds of its own. docs/track-record.md
// keeps the figures.

#include "tests/simulation/mutations.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "common/log.h"
#include "tests/simulation/world.h"

namespace viommu::simulation {
namespace {

constexpr int kSearches = 5;
constexpr uint64_t kMaxSeeds = 1000;  // of one search
constexpr uint64_t kControlSeeds = 50;

class ControlTest : public testing::Test {
 protected:
  void SetUp() override {
#ifndef VIOMMU_MUTATIONS
    GTEST_SKIP() << "build with --config=mutations";
#endif
    LogOptions quiet;
    quiet.level = LogLevel::kOff;
    InitLogging(quiet);
  }
  void TearDown() override { SetActiveMutation(Mutation::kNone); }
};

class MutationsTest : public ControlTest, public testing::WithParamInterface<int> {};

TEST_P(MutationsTest, IsFound) {
  const auto mutation = static_cast<Mutation>(GetParam());
  SetActiveMutation(mutation);
  std::vector<uint64_t> took;
  std::string how;
  for (int search = 0; search < kSearches; ++search) {
    const uint64_t first = 1 + static_cast<uint64_t>(search) * kMaxSeeds;
    uint64_t seeds = 0;
    while (how = simulation::Run(first + seeds++).failure, how.empty()) {
      ASSERT_LT(seeds, kMaxSeeds) << MutationName(mutation) << " is not found";
    }
    took.push_back(seeds);
  }
  std::sort(took.begin(), took.end());
  fmt::print("mutation {:<24} median {:>4} seeds, {} to {}; last: {}\n", MutationName(mutation), took[kSearches / 2],
             took.front(), took.back(), how);
  std::fflush(stdout);
}

// Any failure counts as found; so without a mutation there must be none, in this build and over these seeds.
TEST_F(ControlTest, NothingIsFoundWithoutAMutation) {
  for (uint64_t seed = 1; seed <= kControlSeeds; ++seed) {
    EXPECT_EQ(simulation::Run(seed).failure, "") << "seed " << seed;
  }
}

std::string NameOfParam(const testing::TestParamInfo<int>& info) {
  std::string name(MutationName(static_cast<Mutation>(info.param)));
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(All, MutationsTest, testing::Range(1, kMutations), NameOfParam);

}  // namespace
}  // namespace viommu::simulation
