#include "server/api/watch_hub.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "common/error.h"

namespace viommu::server {
namespace {

// Follows a number that commits raise, as a watch follows the record: looks, and parks when there is nothing new.
class Follower final : public WatchHub::Watch, public std::enable_shared_from_this<Follower> {
 public:
  Follower(WatchHub& hub, const std::atomic<int>& head) : hub_(hub), head_(head) {}

  void Wake() override {
    const uint64_t commits = hub_.commits();
    position_ = head_.load();
    position_.notify_all();
    hub_.Park(shared_from_this(), commits);
  }
  void Tick() override {
    ++ticks_;
    ticks_.notify_all();
  }
  void End(const absl::Status& status) override {
    reason_ = ReasonOf(status);
    ++ends_;
  }

  void AwaitPosition(int wanted) const {
    for (int at = position_; at < wanted; at = position_) position_.wait(at);
  }
  void AwaitTicks(int wanted) const {
    for (int at = ticks_; at < wanted; at = ticks_) ticks_.wait(at);
  }
  int ticks() const { return ticks_; }
  int ends() const { return ends_; }
  v1::ErrorReason reason() const { return reason_; }

 private:
  WatchHub& hub_;
  const std::atomic<int>& head_;
  std::atomic<int> position_ = 0;
  std::atomic<int> ticks_ = 0;
  std::atomic<int> ends_ = 0;
  v1::ErrorReason reason_ = v1::ERROR_REASON_UNSPECIFIED;
};

TEST(WatchHubTest, NoCommitIsSleptThrough) {
  std::atomic<int> head = 0;
  WatchHub hub(8);
  const auto follower = std::make_shared<Follower>(hub, head);
  ASSERT_TRUE(hub.Add(follower).ok());
  follower->Wake();
  const auto begin = std::chrono::steady_clock::now();
  constexpr int kCommits = 2000;
  for (int i = 1; i <= kCommits; ++i) {
    head = i;
    hub.OnCommit({});
    follower->AwaitPosition(i);
  }
  // Every wake that was missed would cost the second after which the hub looks by itself.
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(kCommits / 20));
  hub.Remove(follower.get());
  EXPECT_EQ(hub.count(), 0);
}

// Also one that is never parked: its reader may take nothing.
TEST(WatchHubTest, LetsEachWatchLookAtTheTime) {
  std::atomic<int> head = 0;
  WatchHub hub(8);
  const auto parked = std::make_shared<Follower>(hub, head);
  const auto sending = std::make_shared<Follower>(hub, head);
  const auto gone = std::make_shared<Follower>(hub, head);
  for (const auto& watch : {parked, sending, gone}) ASSERT_TRUE(hub.Add(watch).ok());
  hub.Remove(gone.get());
  parked->Wake();
  parked->AwaitTicks(2);
  sending->AwaitTicks(2);
  EXPECT_EQ(gone->ticks(), 0);
}

TEST(WatchHubTest, EndsAllAndTakesNoMore) {
  std::atomic<int> head = 0;
  WatchHub hub(1);
  const auto follower = std::make_shared<Follower>(hub, head);
  ASSERT_TRUE(hub.Add(follower).ok());
  const absl::Status full = hub.Add(std::make_shared<Follower>(hub, head));
  EXPECT_EQ(ReasonOf(full), v1::ERROR_REASON_OVERLOADED);
  EXPECT_GT(DetailOf<google::rpc::RetryInfo>(full).retry_delay().seconds(), 0) << full;
  hub.EndAll();
  EXPECT_EQ(follower->ends(), 1);
  EXPECT_EQ(follower->reason(), v1::ERROR_REASON_SHUTTING_DOWN);
  hub.Remove(follower.get());
  EXPECT_EQ(ReasonOf(hub.Add(std::make_shared<Follower>(hub, head))), v1::ERROR_REASON_SHUTTING_DOWN);
}

}  // namespace
}  // namespace viommu::server
