#include <gtest/gtest.h>

#include <cstdint>

#include "common/log.h"
#include "common/sanitizers.h"
#include "tests/simulation/world.h"

namespace viommu::simulation {
namespace {

// Under a sanitizer a seed takes several times as long.
#ifdef VIOMMU_ADDRESS_SANITIZER
constexpr bool kInstrumented = true;
#else
constexpr bool kInstrumented = false;
#endif

class SimulationTest : public testing::Test {
 protected:
  SimulationTest() {
    LogOptions quiet;
    quiet.level = LogLevel::kOff;
    InitLogging(quiet);
  }

  // A part of the seeds, so that the test can be sharded.
  static void RunSeeds(uint64_t part) {
    constexpr uint64_t kSeeds = kInstrumented ? 25 : 75;
    for (uint64_t seed = part * kSeeds + 1; seed <= (part + 1) * kSeeds; ++seed) {
      const Outcome outcome = simulation::Run(seed);
      EXPECT_EQ(outcome.failure, "") << "seed " << seed << "; bazel run //tests/simulation -- --seed " << seed
                                     << " --verbose";
    }
  }
};

TEST_F(SimulationTest, ASeedReproducesItsRun) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    const Outcome first = simulation::Run(seed), second = simulation::Run(seed);
    EXPECT_EQ(first.trace_hash, second.trace_hash) << "seed " << seed;
    EXPECT_EQ(first.steps, second.steps) << "seed " << seed;
  }
  EXPECT_NE(simulation::Run(1).trace_hash, simulation::Run(2).trace_hash);
}

TEST_F(SimulationTest, WorksWithoutFaults) {
  const Outcome outcome = simulation::Run(7, {.faults = false});
  EXPECT_EQ(outcome.failure, "");
  EXPECT_GT(outcome.answers, 100u);
  EXPECT_GT(outcome.commits, 100u);
  EXPECT_GT(outcome.watch_events, 100u);
  EXPECT_GT(outcome.reached, 100u);
  EXPECT_GT(outcome.invalidations, 0u);
  EXPECT_GT(outcome.queue_uses, 0u);
}

TEST_F(SimulationTest, HoldsThroughFaults1) { RunSeeds(0); }
TEST_F(SimulationTest, HoldsThroughFaults2) { RunSeeds(1); }
TEST_F(SimulationTest, HoldsThroughFaults3) { RunSeeds(2); }
TEST_F(SimulationTest, HoldsThroughFaults4) { RunSeeds(3); }

}  // namespace
}  // namespace viommu::simulation
