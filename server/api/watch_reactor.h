// A call that streams what a feed has, whenever the hub says that there may be something new.

#ifndef VIOMMU_SERVER_API_WATCH_REACTOR_H_
#define VIOMMU_SERVER_API_WATCH_REACTOR_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/grpc_error.h"
#include "common/log.h"
#include "common/mutex.h"
#include "server/api/limits.h"
#include "server/api/watch_feed.h"
#include "server/api/watch_hub.h"

namespace viommu::server {

// `Feed` has Next(now, Message*), which answers a WatchFeed::Step or the status that the stream ends with, and
// behind(), whether there was more to send already when it last made a message.
//
// Who has caught up waits for the hub, also while changes come without a pause: the hub sees to it that they come in
// numbers.
template <typename Message, typename Feed>
class WatchReactor final : public grpc::ServerWriteReactor<Message>,
                           public WatchHub::Watch,
                           public std::enable_shared_from_this<WatchReactor<Message, Feed>> {
 public:
  WatchReactor(WatchHub& hub, const Clock& clock, grpc::CallbackServerContext* context, std::unique_ptr<Feed> feed)
      : hub_(hub), clock_(clock), context_(context), feed_(std::move(feed)) {}

  // Begins to send. gRPC owns the reactor from here to OnDone; the hub keeps it while it is parked.
  void Begin() {
    self_ = this->shared_from_this();
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
    this->Finish(ToGrpcStatus(status));
  }

  // A reader that takes nothing would keep a message's memory, and a place for watches, for good.
  void Tick() override {
    {
      MutexLock lock(mu_);
      if (breaking_off_ || !sending_since_.has_value()) return;
      if (clock_.Monotonic() - *sending_since_ < kMaxWatchSend) return;
      breaking_off_ = true;
    }
    VIOMMU_LOG(kWarning, "watch broken off: its reader takes nothing", {{"peer", context_->peer()}});
    // The context is there until Finish(), which is nobody else's meanwhile. Without the lock: what is broken off may
    // end on this thread.
    context_->TryCancel();
    {
      MutexLock lock(mu_);
      breaking_off_ = false;
      if (sending_since_.has_value()) return;  // OnWriteDone() is still to come
      finished_ = true;
    }
    this->Finish(ToGrpcStatus(absl::CancelledError("nothing was read")));
  }

  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(mu_);
      sending_since_.reset();
      if (breaking_off_) return;
    }
    if (!ok) return Close(absl::CancelledError("the caller went away"));
    if (feed_->behind()) return SendNext();
    Rest(commits_seen_);
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
    const std::shared_ptr<WatchReactor> alive = this->shared_from_this();
    std::optional<absl::Status> end;
    {
      MutexLock lock(mu_);
      end = end_;
      finished_ = end.has_value();
    }
    if (end.has_value()) return this->Finish(ToGrpcStatus(*end));
    commits_seen_ = hub_.commits();
    const absl::StatusOr<WatchFeed::Step> step = feed_->Next(clock_.Monotonic(), &message_);
    if (!step.ok()) return Close(step.status());
    if (*step == WatchFeed::Step::kEnd) return Close(absl::OkStatus());
    if (*step == WatchFeed::Step::kMessage) return Send();
    Rest(*step == WatchFeed::Step::kIdle ? commits_seen_ : commits_seen_ - 1);
  }

  void Send() {
    {
      MutexLock lock(mu_);
      sending_since_ = clock_.Monotonic();
    }
    this->StartWrite(&message_);
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
    if (end.has_value()) return this->Finish(ToGrpcStatus(*end));
    hub_.Park(this->shared_from_this(), commits_seen);
  }

  // Ends the call from inside the turn.
  void Close(const absl::Status& status) {
    {
      MutexLock lock(mu_);
      finished_ = true;
    }
    this->Finish(ToGrpcStatus(status));
  }

  WatchHub& hub_;
  const Clock& clock_;
  grpc::CallbackServerContext* const context_;
  const std::unique_ptr<Feed> feed_;  // of whoever has the turn
  uint64_t commits_seen_ = 0;         // before the last look; of whoever has the turn
  Message message_;                   // of whoever has the turn; gRPC's while it is sent
  std::shared_ptr<WatchReactor> self_;

  Mutex mu_;
  bool busy_ ABSL_GUARDED_BY(mu_) = true;       // somebody has the turn, or a message is under way
  bool finished_ ABSL_GUARDED_BY(mu_) = false;  // Finish was called or is about to be, once
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mu_);
  std::optional<MonotonicTime> sending_since_ ABSL_GUARDED_BY(mu_);  // a message is under way
  bool breaking_off_ ABSL_GUARDED_BY(mu_) = false;                   // Tick() has the turn of the message under way
};

// A watch that is refused.
template <typename Message>
class RefusedWatch final : public grpc::ServerWriteReactor<Message> {
 public:
  explicit RefusedWatch(const absl::Status& status) { this->Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

// Begins the stream of `feed`, or refuses it.
template <typename Message, typename Feed>
grpc::ServerWriteReactor<Message>* StartWatch(WatchHub& hub, const Clock& clock, grpc::CallbackServerContext* context,
                                              absl::StatusOr<std::unique_ptr<Feed>> feed) {
  if (!feed.ok()) return new RefusedWatch<Message>(feed.status());
  const auto watch = std::make_shared<WatchReactor<Message, Feed>>(hub, clock, context, *std::move(feed));
  if (const absl::Status refused = hub.Add(watch); !refused.ok()) return new RefusedWatch<Message>(refused);
  watch->Begin();
  return watch.get();
}

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_WATCH_REACTOR_H_
