#include "agent/smmuv3/emulator/wait_any.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <thread>

namespace viommu::smmuv3 {
namespace {

using std::chrono::steady_clock;

TEST(WaitAnyTest, ReturnsAtOnceWhenAWordHasChanged) {
  uint32_t a = 1, b = 2;
  const std::array<WaitWord, 2> words = {WaitWord{&a, 1, false}, WaitWord{&b, 1, true}};
  EXPECT_EQ(WaitAny(words, steady_clock::time_point::max()), std::nullopt);
}

TEST(WaitAnyTest, ReturnsAtItsDeadline) {
  uint32_t a = 1;
  const auto deadline = steady_clock::now() + std::chrono::milliseconds(2);
  const std::array<WaitWord, 1> words = {WaitWord{&a, 1, false}};
  while (steady_clock::now() < deadline) EXPECT_EQ(WaitAny(words, deadline), std::nullopt);
  EXPECT_EQ(WaitAny(words, steady_clock::now()), std::nullopt);
}

TEST(WaitAnyTest, IsWokenByItsWord) {
  uint32_t a = 1, b = 1;
  std::thread waker([&] {
    std::atomic_ref<uint32_t>(b).store(2);
    WakePrivate(&b);
  });
  const std::array<WaitWord, 2> words = {WaitWord{&a, 1, false}, WaitWord{&b, 1, false}};
  // Without the wake, or the look at the word before sleeping, this does not end.
  while (std::atomic_ref<uint32_t>(b).load() == 1) WaitAny(words, steady_clock::time_point::max());
  waker.join();
}

}  // namespace
}  // namespace viommu::smmuv3
