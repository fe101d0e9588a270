// The combiner's promises with real threads; combiner_model_test.cc has every schedule of small instances.

#include "agent/smmuv3/queue/combiner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <thread>
#include <vector>

namespace viommu::smmuv3 {
namespace {

struct Work : Combiner<Work>::Link {
  uint64_t caller = 0;
  uint64_t number = 0;
  bool done = false;
};

TEST(CombinerTest, ManyThreads) {
  constexpr uint64_t kCallers = 8;
  constexpr uint64_t kCalls = 2000;
  Combiner<Work> combiner;
  std::vector<uint64_t> next(kCallers, 0);  // touched by whoever serves alone
  bool in_order = true;
  uint64_t longest = 0;
  std::vector<std::thread> threads;
  for (uint64_t caller = 0; caller < kCallers; ++caller) {
    threads.emplace_back([&, caller] {
      for (uint64_t i = 0; i < kCalls; ++i) {
        Work request;
        request.caller = caller;
        request.number = i;
        combiner.Run(request, [&](Work* first) {
          uint64_t length = 0;
          for (Work* r = first; r != nullptr; r = r->next) {
            in_order = in_order && r->number == next[r->caller]++;
            r->done = true;
            ++length;
          }
          longest = std::max(longest, length);
        });
        if (!request.done) std::abort();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(in_order);
  EXPECT_EQ(next, std::vector<uint64_t>(kCallers, kCalls));
  EXPECT_LE(longest, kCallers);
}

}  // namespace
}  // namespace viommu::smmuv3
