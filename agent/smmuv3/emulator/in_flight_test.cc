#include "agent/smmuv3/emulator/in_flight.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>
#include <thread>
#include <vector>

namespace viommu::smmuv3 {
namespace {

TEST(InFlightTest, NobodyIsWaitedForWhenNobodyIsThere) {
  InFlight in_flight;
  in_flight.Wait();
  {
    InFlight::Section section(in_flight);
    section.End();
    in_flight.Wait();
  }
  in_flight.Wait();
}

TEST(InFlightTest, WaitsForTheSectionThatHasBegun) {
  InFlight in_flight;
  std::promise<void> begun, finish;
  std::atomic<bool> over{false};
  std::thread holder([&] {
    InFlight::Section section(in_flight);
    begun.set_value();
    finish.get_future().wait();
    over = true;
  });
  begun.get_future().wait();
  std::atomic<bool> returned{false};
  std::thread waiter([&] {
    in_flight.Wait();
    EXPECT_TRUE(over);
    returned = true;
  });
  // Sections that begin meanwhile are not waited for, and do not keep it waiting.
  for (int i = 0; i < 100; ++i) InFlight::Section section(in_flight);
  EXPECT_FALSE(returned);
  finish.set_value();
  waiter.join();
  holder.join();
}

// What a pointer led to is freed when nobody can use it any more: the sanitizers see it when that is too early.
TEST(InFlightTest, ReadersAndReclaimers) {
  InFlight in_flight;
  std::atomic<int*> shared{new int(0)};
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int reader = 0; reader < 3; ++reader) {
    threads.emplace_back([&] {
      int last = 0;
      while (!stop) {
        const InFlight::Section section(in_flight);
        const int value = *shared.load();
        ASSERT_GE(value, last);
        last = value;
      }
    });
  }
  for (int i = 1; i <= 300; ++i) {
    const std::unique_ptr<int> old(shared.exchange(new int(i)));
    in_flight.Wait();
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  delete shared.load();
}

}  // namespace
}  // namespace viommu::smmuv3
