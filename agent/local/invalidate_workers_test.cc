#include "agent/local/invalidate_workers.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>

#include "agent/reconcile/fake_backend.h"
#include "common/mutex.h"

namespace viommu::agent {
namespace {

using std::chrono::seconds;

class InvalidateWorkersTest : public testing::Test {
 protected:
  InvalidateWorkersTest() : invalidator_(targets_, backend_.capabilities, {}) {
    context_ = backend_.OpenContext().value();
    targets_.Declare("v", "viommus/v");
    targets_.Publish("v", {.context = context_.get(), .id = 3});
  }
  static v1::InvalidateCall Call(int64_t id) {
    v1::InvalidateCall call;
    call.set_call_id(id);
    call.set_target_uid("v");
    call.add_commands()->mutable_tlbi_nh_all();
    return call;
  }
  void Remember(int64_t session, const v1::InvalidateReply& reply) {
    MutexLock lock(mu_);
    EXPECT_EQ(session, 1);
    EXPECT_EQ(reply.result().handled(), 1u);
    done_.insert(reply.call_id());
    cv_.NotifyAll();
  }
  bool WaitForDone(size_t count) {
    MutexLock lock(mu_);
    while (done_.size() < count) {
      if (!cv_.WaitFor(mu_, seconds(20))) return false;
    }
    return true;
  }

  FakeBackend backend_;
  Targets targets_;
  Invalidator invalidator_;
  std::unique_ptr<Context> context_;
  Mutex mu_;
  CondVar cv_;
  std::set<int64_t> done_ ABSL_GUARDED_BY(mu_);
  bool open_ ABSL_GUARDED_BY(mu_) = false;
};

TEST_F(InvalidateWorkersTest, EveryCallIsAnsweredOnce) {
  InvalidateWorkers workers(invalidator_, {.threads = 4, .max_waiting = 1000});
  workers.Start([this](int64_t session, const v1::InvalidateReply& reply) { Remember(session, reply); });
  for (int64_t id = 1; id <= 500; ++id) ASSERT_TRUE(workers.Submit(1, Call(id)));
  EXPECT_TRUE(WaitForDone(500));
}

TEST_F(InvalidateWorkersTest, TakesNoMoreThanItsBound) {
  backend_.on_invalidate = [this](ObjectId, std::span<const smmuv3::RawCommand>) {
    MutexLock lock(mu_);
    while (!open_) cv_.Wait(mu_);
    return InvalidateResult{absl::OkStatus(), 1};
  };
  InvalidateWorkers workers(invalidator_, {.threads = 1, .max_waiting = 3});
  workers.Start([this](int64_t session, const v1::InvalidateReply& reply) { Remember(session, reply); });
  int taken = 0;
  while (workers.Submit(1, Call(taken + 1))) ++taken;
  EXPECT_GE(taken, 3);
  EXPECT_LE(taken, 4) << "three that wait and one that runs";
  {
    MutexLock lock(mu_);
    open_ = true;
    cv_.NotifyAll();
  }
  EXPECT_TRUE(WaitForDone(static_cast<size_t>(taken)));
}

TEST_F(InvalidateWorkersTest, NothingIsTakenAfterTheStop) {
  InvalidateWorkers workers(invalidator_, {});
  workers.Start([](int64_t, const v1::InvalidateReply&) {});
  workers.Stop();
  EXPECT_FALSE(workers.Submit(1, Call(1)));
}

}  // namespace
}  // namespace viommu::agent
