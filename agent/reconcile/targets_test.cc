#include "agent/reconcile/targets.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "common/error.h"

namespace viommu::agent {
namespace {

TEST(TargetsTest, FollowsTheLifeOfAnObject) {
  Targets targets;
  EXPECT_EQ(ReasonOf(targets.Acquire("viommus/v").status()), v1::ERROR_REASON_VIOMMU_NOT_FOUND);
  targets.Declare("u", "viommus/v");
  EXPECT_EQ(ReasonOf(targets.Acquire("viommus/v").status()), v1::ERROR_REASON_NOT_REALIZED);
  targets.Publish("u", {.id = 5});
  EXPECT_EQ(targets.Acquire("u")->object().id, 5u);
  targets.Withdraw("u");
  EXPECT_EQ(ReasonOf(targets.Acquire("u").status()), v1::ERROR_REASON_NOT_REALIZED);
  targets.Forget("u");
  EXPECT_EQ(ReasonOf(targets.Acquire("u").status()), v1::ERROR_REASON_VIOMMU_NOT_FOUND);
}

TEST(TargetsTest, ANamesNewBearerStaysWhenTheOldOneGoes) {
  Targets targets;
  targets.Declare("old", "viommus/v");
  targets.Publish("old", {.id = 1});
  targets.Declare("new", "viommus/v");
  targets.Publish("new", {.id = 2});
  EXPECT_EQ(targets.Acquire("viommus/v")->object().id, 2u);
  targets.Withdraw("old");
  targets.Forget("old");
  EXPECT_EQ(targets.Acquire("viommus/v")->object().id, 2u);
}

// An object's id is used only between Publish() and the return of Withdraw(): afterwards it may be another object's.
TEST(TargetsTest, NobodyUsesWhatWasWithdrawn) {
  Targets targets;
  targets.Declare("u", "viommus/v");
  std::atomic<bool> alive{false};
  std::atomic<bool> stop{false};
  std::atomic<int> uses{0};
  std::vector<std::thread> users;
  for (int i = 0; i < 4; ++i) {
    users.emplace_back([&] {
      while (!stop.load()) {
        const auto lease = targets.Acquire("u");
        if (!lease.ok()) continue;
        for (int look = 0; look < 20; ++look) EXPECT_TRUE(alive.load());
        ++uses;
      }
    });
  }
  for (int round = 0; round < 200 || uses.load() < 50; ++round) {
    alive = true;
    targets.Publish("u", {.id = 7});
    std::this_thread::yield();
    targets.Withdraw("u");
    alive = false;
  }
  stop = true;
  for (auto& user : users) user.join();
}

}  // namespace
}  // namespace viommu::agent
