// Watches: a reactor with one message under way, which pulls the next one from its feed when that is sent.

#include <memory>
#include <optional>
#include <utility>

#include "common/grpc_error.h"
#include "common/mutex.h"
#include "server/api/authorise.h"
#include "server/api/fleet_service.h"
#include "server/api/watch_feed.h"

namespace viommu::server {
namespace {

class WatchReactor final : public grpc::ServerWriteReactor<v1::WatchResponse>,
                           public WatchHub::Watch,
                           public std::enable_shared_from_this<WatchReactor> {
 public:
  WatchReactor(WatchHub& hub, const Clock& clock, std::unique_ptr<WatchFeed> feed)
      : hub_(hub), clock_(clock), feed_(std::move(feed)) {}

  // Begins to send. gRPC owns the reactor from here to OnDone; the hub keeps it while it is parked.
  void Begin() {
    self_ = shared_from_this();
    SendNext();
  }

  void Wake() override {
    {
      MutexLock lock(mu_);
      if (busy_ || finished_) return;
      busy_ = true;
    }
    SendNext();
  }

  void End(const absl::Status& status) override {
    {
      MutexLock lock(mu_);
      if (!end_.has_value()) end_ = status;
      if (busy_ || finished_) return;
      finished_ = true;
    }
    Finish(ToGrpcStatus(status));
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return Close(absl::CancelledError("the caller went away"));
    SendNext();
  }

  void OnCancel() override { End(absl::CancelledError("the caller went away")); }

  void OnDone() override {
    hub_.Remove(this);
    const auto last = std::move(self_);
  }

 private:
  // The caller has the turn: busy_ is true and is its own.
  void SendNext() {
    // A message that is sent may end the call on another thread before this one is done here.
    const std::shared_ptr<WatchReactor> alive = shared_from_this();
    std::optional<absl::Status> end;
    {
      MutexLock lock(mu_);
      end = end_;
      finished_ = end.has_value();
    }
    if (end.has_value()) return Finish(ToGrpcStatus(*end));
    const uint64_t commits = hub_.commits();
    const absl::StatusOr<WatchFeed::Step> step = feed_->Next(clock_.Monotonic(), &message_);
    if (!step.ok()) return Close(step.status());
    if (*step == WatchFeed::Step::kMessage) return StartWrite(&message_);
    Rest(*step == WatchFeed::Step::kIdle ? commits : commits - 1);
  }

  // Gives the turn back and waits for the hub.
  void Rest(uint64_t commits_seen) {
    std::optional<absl::Status> end;
    {
      MutexLock lock(mu_);
      busy_ = false;
      end = end_;
      finished_ = end.has_value();
    }
    if (end.has_value()) return Finish(ToGrpcStatus(*end));
    hub_.Park(shared_from_this(), commits_seen);
  }

  // Ends the call from inside the turn.
  void Close(const absl::Status& status) {
    {
      MutexLock lock(mu_);
      finished_ = true;
    }
    Finish(ToGrpcStatus(status));
  }

  WatchHub& hub_;
  const Clock& clock_;
  const std::unique_ptr<WatchFeed> feed_;  // of whoever has the turn
  v1::WatchResponse message_;              // of whoever has the turn; gRPC's while it is sent
  std::shared_ptr<WatchReactor> self_;

  Mutex mu_;
  bool busy_ ABSL_GUARDED_BY(mu_) = true;       // somebody has the turn, or a message is under way
  bool finished_ ABSL_GUARDED_BY(mu_) = false;  // Finish was called or is about to be, once
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mu_);
};

// A watch that is refused.
class RefusedWatch final : public grpc::ServerWriteReactor<v1::WatchResponse> {
 public:
  explicit RefusedWatch(const absl::Status& status) { Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

grpc::ServerWriteReactor<v1::WatchResponse>* FleetService::Watch(Context* context, const v1::WatchRequest* request) {
  if (const absl::Status refused = CheckCaller(parts_, *context); !refused.ok()) return new RefusedWatch(refused);
  std::shared_ptr<void> place;
  if (request->start_revision() == 0) {
    auto taken = parts_.watches.TakeSnapshotPlace();
    if (!taken.ok()) return new RefusedWatch(taken.status());
    place = *std::move(taken);
  }
  auto feed = WatchFeed::Open(core(), *request, parts_.clock.Monotonic(), std::move(place));
  if (!feed.ok()) return new RefusedWatch(feed.status());
  const auto watch = std::make_shared<WatchReactor>(parts_.watches, parts_.clock, *std::move(feed));
  if (const absl::Status refused = parts_.watches.Add(watch); !refused.ok()) return new RefusedWatch(refused);
  watch->Begin();
  return watch.get();
}

}  // namespace viommu::server
