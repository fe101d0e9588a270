// The combiner's promises under every schedule of small instances.

#include <gtest/gtest.h>

#include <cstdio>
#include <functional>
#include <memory>
#include <vector>

#include "agent/smmuv3/queue/combiner.h"
#include "agent/smmuv3/queue/model_atomics.h"

namespace viommu::smmuv3 {
namespace {

template <typename Policy>
struct Work : Combiner<Work<Policy>, Policy>::Link {
  uint64_t caller = 0;
  uint64_t number = 0;
  bool done = false;
};

template <ModelOptions kOptions>
class Instance {
 public:
  using Policy = ModelAtomics<kOptions>;
  using Request = Work<Policy>;

  Instance(size_t callers, size_t calls) : calls_(calls), next_(callers, 0) {}

  std::vector<std::function<void()>> Threads() {
    std::vector<std::function<void()>> threads;
    for (size_t i = 0; i < next_.size(); ++i) threads.emplace_back([this, i] { Call(i); });
    return threads;
  }
  bool ok() const { return ok_ && served_ == next_.size() * calls_; }

 private:
  void Call(size_t caller) {
    for (size_t i = 0; i < calls_; ++i) {
      Request request;
      request.caller = caller;
      request.number = i;
      combiner_.Run(request, [&](Request* first) { Serve(first); });
      ok_ = ok_ && request.done;
    }
  }
  void Serve(Request* first) {
    ok_ = ok_ && !busy_;  // never beside itself
    busy_ = true;
    Pass();
    for (Request* request = first; request != nullptr; request = request->next) {
      ModelScheduler::Current()->Note(request->caller);
      ok_ = ok_ && !request->done && request->number == next_[request->caller]++;
      request->done = true;
      ++served_;
    }
    Pass();
    busy_ = false;
  }
  // Others may run now; and this thread is further on than before.
  static void Pass() {
    ModelScheduler::Current()->Point();
    ModelScheduler::Current()->Note(1);
  }

  const size_t calls_;
  Combiner<Request, Policy> combiner_;
  std::vector<uint64_t> next_;
  uint64_t served_ = 0;
  bool busy_ = false;
  bool ok_ = true;
};

struct Outcome {
  ModelResult result;
  uint64_t wrong = 0;
};

template <ModelOptions kOptions = ModelOptions()>
Outcome Explore(size_t callers, size_t calls, uint64_t most) {
  Outcome outcome;
  ModelScheduler scheduler;
  outcome.result = scheduler.Explore(
      [&] {
        const auto instance = std::make_shared<Instance<kOptions>>(callers, calls);
        return ModelProgram{instance->Threads(), [instance, &outcome] {
                              if (!instance->ok()) ++outcome.wrong;
                            }};
      },
      most);
  std::printf("%lu schedules, %lu states, %lu ends, %lu stuck, %lu wrong%s\n", outcome.result.schedules,
              outcome.result.states, outcome.result.completed, outcome.result.stuck, outcome.wrong,
              outcome.result.exhausted ? "" : ", not all");
  return outcome;
}

void ExpectAllWell(const Outcome& outcome, bool all) {
  EXPECT_EQ(outcome.result.exhausted, all);
  EXPECT_EQ(outcome.result.stuck, 0u) << "a wake-up was lost";
  EXPECT_EQ(outcome.wrong, 0u);
  EXPECT_GT(outcome.result.completed, 0u);
}

constexpr uint64_t kAll = ~uint64_t{0};

TEST(CombinerModelTest, OneCaller) { ExpectAllWell(Explore(1, 2, kAll), true); }
TEST(CombinerModelTest, TwoCallers) { ExpectAllWell(Explore(2, 1, kAll), true); }
TEST(CombinerModelTest, TwoCallersTwice) { ExpectAllWell(Explore(2, 2, kAll), true); }
// Too many states for every run of the tests: some of the schedules.
TEST(CombinerModelTest, SomeOfThreeCallers) { ExpectAllWell(Explore(3, 2, 30'000), false); }

constexpr ModelOptions kNoWakes = {.wakes = false};
TEST(CombinerModelTest, NoticesMissingWakes) { EXPECT_GT(Explore<kNoWakes>(2, 1, kAll).result.stuck, 0u); }

}  // namespace
}  // namespace viommu::smmuv3
