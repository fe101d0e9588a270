#include "common/shutdown.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <thread>

namespace viommu {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(ShutdownTest, FirstSignalWakesEveryWaiterForGood) {
  auto shutdown = ShutdownSignal::Install();
  ASSERT_TRUE(shutdown.ok()) << shutdown.status();
  EXPECT_FALSE((*shutdown)->WaitFor(milliseconds(1)).has_value());
  int other = 0;
  std::thread waiter([&] { other = (*shutdown)->Wait(); });
  kill(getpid(), SIGTERM);
  EXPECT_EQ((*shutdown)->Wait(), SIGTERM);
  waiter.join();
  EXPECT_EQ(other, SIGTERM);
  EXPECT_EQ((*shutdown)->WaitFor(seconds(0)), SIGTERM);
}

TEST(ShutdownTest, RequestIsNoSignal) {
  auto shutdown = ShutdownSignal::Install();
  ASSERT_TRUE(shutdown.ok()) << shutdown.status();
  (*shutdown)->Request();
  (*shutdown)->Request();
  EXPECT_EQ((*shutdown)->Wait(), 0);
}

TEST(ShutdownTest, OnlyOneAtATime) {
  auto first = ShutdownSignal::Install();
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(ShutdownSignal::Install().status().code(), absl::StatusCode::kFailedPrecondition);
  first->reset();
  EXPECT_TRUE(ShutdownSignal::Install().ok());
}

TEST(ShutdownDeathTest, SecondSignalEndsTheProcess) {
  EXPECT_EXIT(
      {
        auto shutdown = ShutdownSignal::Install();
        raise(SIGINT);
        if ((*shutdown)->Wait() != SIGINT) _exit(1);
        raise(SIGTERM);
        _exit(0);
      },
      testing::ExitedWithCode(128 + SIGTERM), "");
}

TEST(ShutdownDeathTest, SignalAfterRequestStaysGraceful) {
  EXPECT_EXIT(
      {
        auto shutdown = ShutdownSignal::Install();
        (*shutdown)->Request();
        raise(SIGTERM);
        _exit((*shutdown)->Wait());
      },
      testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace viommu
