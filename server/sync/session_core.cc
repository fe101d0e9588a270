#include "server/sync/session_core.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "common/error.h"
#include "common/mutation.h"

namespace viommu::server {
namespace {

absl::Status Disconnected(std::string_view why) {
  return Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_HOST_DISCONNECTED)
      .Message("{}; try again once the host is connected", why)
      .RetryAfter(kReconnectDelay);
}

absl::Status TimedOut(std::string_view why) {
  return Error(absl::StatusCode::kDeadlineExceeded, v1::ERROR_REASON_HOST_TIMEOUT).Message("{}", why);
}

bool IsKnown(v1::Outcome outcome) {
  return outcome == v1::OUTCOME_APPLIED || outcome == v1::OUTCOME_DORMANT || outcome == v1::OUTCOME_RELEASED ||
         outcome == v1::OUTCOME_FAILED;
}

// Whether the writer did not get to judge, so that the same results can be told again later.
bool IsTransient(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kDataLoss:
      return true;
    default:
      return false;
  }
}

}  // namespace

bool SessionCore::Step::empty() const {
  return hello == nullptr && results.empty() && compare == nullptr && !want_slot && !release_slot &&
         message == nullptr && !desired.has_value() && !read && !ended && answers.empty() && !cancel &&
         !finish.has_value();
}

// --- From the stream.

void SessionCore::Heard(std::unique_ptr<v1::ConnectRequest> message, MonotonicTime now) {
  reading_ = false;
  last_heard_ = now;
  if (phase_ == Phase::kClosed) return;
  if (phase_ == Phase::kHello) {
    if (!message->has_hello()) return Violation("the first message must be a hello");
    hello_ = std::make_unique<v1::Hello>(std::move(*message->mutable_hello()));
    for (const v1::Smmu& smmu : hello_->host().smmus()) smmus_.push_back(smmu.name());
    std::sort(smmus_.begin(), smmus_.end());
    inspects_ = hello_->inspect();
    phase_ = Phase::kJudging;
    return;
  }
  switch (message->kind_case()) {
    case v1::ConnectRequest::kHello:
      return Violation("a second hello");
    case v1::ConnectRequest::kResults:
      return HeardResults(std::move(*message->mutable_results()));
    case v1::ConnectRequest::kHeartbeat:
      return HeardHeartbeat(std::move(*message->mutable_heartbeat()));
    case v1::ConnectRequest::kInvalidateReply:
    case v1::ConnectRequest::kInspectReply:
      return HeardReply(std::move(*message));
    case v1::ConnectRequest::KIND_NOT_SET:
      return Violation("a message without content");
  }
}

void SessionCore::HeardResults(v1::Results results) {
  if (results.nonce() < 0 || results.nonce() > nonce_) {
    return Violation(fmt::format("results up to nonce {}, {} was the last one sent", results.nonce(), nonce_));
  }
  if (results.items_size() > limits_.max_result_items) {
    return Violation(
        fmt::format("{} results in one message, {} are the limit", results.items_size(), limits_.max_result_items));
  }
  for (const v1::ItemResult& item : results.items()) {
    if (item.uid().empty() || item.name().empty() || !IsKnown(item.outcome())) {
      return Violation(fmt::format("a result with uid '{}', name '{}' and outcome {}", item.uid(), item.name(),
                                   static_cast<int>(item.outcome())));
    }
  }
  answered_nonce_ = std::max(answered_nonce_, results.nonce());
  if (checkpoint_nonce_ != 0 && answered_nonce_ >= checkpoint_nonce_) {
    settled_ = std::max(settled_, checkpoint_revision_);
    checkpoint_nonce_ = 0;
  }
  if (!results.items().empty()) results_.push_back(std::move(results));
}

void SessionCore::HeardHeartbeat(v1::Heartbeat heartbeat) {
  if (heartbeat.epoch() <= identity_.epoch) {
    usage_.clear();
    for (v1::SmmuUsage& usage : *heartbeat.mutable_smmus()) {
      if (usage_.size() == smmus_.size()) break;
      if (std::binary_search(smmus_.begin(), smmus_.end(), usage.name())) usage_.push_back(std::move(usage));
    }
    return;
  }
  Close(Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_STALE_EPOCH)
            .Message("the agent obeys epoch {}, this server has epoch {}: stop it", heartbeat.epoch(), identity_.epoch)
            .Meta("epoch", std::to_string(identity_.epoch)));
}

void SessionCore::HeardReply(v1::ConnectRequest reply) {
  const int64_t call_id =
      reply.has_invalidate_reply() ? reply.invalidate_reply().call_id() : reply.inspect_reply().call_id();
  if (call_id <= 0 || call_id >= next_unwritten_call_) {
    return Violation(fmt::format("a reply to call {}, which was not made", call_id));
  }
  const auto call = calls_.find(call_id);
  if (call == calls_.end()) return;  // its deadline was faster
  if (reply.kind_case() != call->second.reply) {
    return Violation(fmt::format("a reply of another kind to call {}", call_id));
  }
  if (reply.has_invalidate_reply() && reply.invalidate_reply().result().handled() > call->second.commands) {
    return Violation(fmt::format("a reply to call {} tells of {} handled commands, it has {}", call_id,
                                 reply.invalidate_reply().result().handled(), call->second.commands));
  }
  EndCall(call, std::move(reply));
}

void SessionCore::StreamEnded() {
  reading_ = false;
  Close(absl::OkStatus());
}

void SessionCore::Written(bool ok) {
  writing_ = false;
  if (!ok) return StreamEnded();
  if (!mark_written_) return;
  mark_written_ = false;
  if (phase_ != Phase::kSyncing) return;
  phase_ = Phase::kFollowing;
  if (slot_) release_slot_ = true;
  slot_ = false;
}

void SessionCore::Violation(const std::string& what) {
  Close(Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_PROTOCOL_VIOLATION)
            .Message("{}; this is a fault of the agent: upgrade it or report it", what));
}

// --- From the writer.

void SessionCore::HelloJudged(const absl::Status& status, int64_t revision, std::chrono::milliseconds lease,
                              HeldItems held, MonotonicTime now) {
  if (phase_ != Phase::kJudging) return;
  if (!status.ok()) return Close(status);
  phase_ = Phase::kComparing;
  compare_ = std::make_unique<HeldItems>(std::move(held));
  welcome_due_ = true;
  settled_ = revision;
  lease_ = lease;
  last_heard_ = now;
  next_heartbeat_ = now + HeartbeatInterval();
}

void SessionCore::ResultsJudged(const absl::Status& status) {
  --judging_;
  if (status.ok()) return;
  if (IsTransient(status)) return Close(status);  // the agent comes back, and is asked again for what is not settled
  Violation(fmt::format("results were refused: {}", std::string(status.message())));
}

void SessionCore::ResultsNotTaken(v1::Results results, MonotonicTime now) {
  --judging_;
  if (phase_ == Phase::kClosed) return;
  results_.push_back(std::move(results));
  retry_at_ = now + limits_.retry_delay;
}

void SessionCore::Changed(Concern concern, ResourceKey key, const std::string& uid, int64_t revision) {
  if (phase_ == Phase::kClosed || concern == Concern::kNone) return;
  if (AllAnswered()) settled_ = revision - 1;
  if (concern == Concern::kSend) {
    if (writing_ && Mutated(Mutation::kForgetChange)) return;
    pending_.insert(std::move(key));
    return;
  }
  pending_.erase(key);
  if (concern == Concern::kTearDown) TearDown(uid);
}

void SessionCore::TearDown(const std::string& uid) {
  if (phase_ == Phase::kClosed) return;
  unknown_uids_.push_back(uid);
  if (unknown_uids_.size() > limits_.max_unknown_uids) {
    Close(Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED)
              .Message(
                  "more than {} resources went away before the agent could be told; connect again for the difference",
                  limits_.max_unknown_uids)
              .RetryAfter(kReconnectDelay));
  }
}

// --- From those who do what Next says.

void SessionCore::Compared(Difference difference) {
  if (phase_ != Phase::kComparing) return;
  for (ResourceKey& key : difference.changed) pending_.insert(std::move(key));
  unknown_uids_.insert(unknown_uids_.end(), std::make_move_iterator(difference.unknown_uids.begin()),
                       std::make_move_iterator(difference.unknown_uids.end()));
  if (pending() == 0) {
    phase_ = Phase::kSyncing;  // the mark alone costs nobody anything
    return;
  }
  phase_ = Phase::kWaiting;
  want_slot_ = true;
  slot_ = true;
}

void SessionCore::SlotGranted() {
  if (phase_ == Phase::kWaiting) phase_ = Phase::kSyncing;
}

std::unique_ptr<v1::ConnectResponse> SessionCore::Built(DesiredMessage built, MonotonicTime now) {
  building_ = false;
  if (phase_ == Phase::kClosed) return nullptr;
  // Rounds: after a message that did not take everything the next one goes on where it stopped, else from the start.
  last_sent_ = built.revision > 0 ? ResourceKey{Kind::kStage2Domain, ""} : std::move(built.last);
  for (ResourceKey& key : built.keys_left) pending_.insert(std::move(key));
  unknown_uids_.insert(unknown_uids_.end(), std::make_move_iterator(built.uids_left.begin()),
                       std::make_move_iterator(built.uids_left.end()));
  claimed_ = std::max(claimed_, built.revision);
  if (built.message == nullptr) return nullptr;
  v1::Desired& desired = *built.message->mutable_desired();
  desired.set_nonce(++nonce_);
  desired.set_epoch(identity_.epoch);
  desired.set_revision(claimed_);
  if (built.items > 0) last_items_nonce_ = nonce_;
  if (built.items > 0 && built.revision > 0 && checkpoint_nonce_ == 0) {
    checkpoint_nonce_ = nonce_;
    checkpoint_revision_ = built.revision;
  }
  mark_written_ = built.mark;
  StartWrite(now);
  return std::move(built.message);
}

// --- From elsewhere.

absl::Status SessionCore::CheckCall(MonotonicTime deadline, size_t bytes, MonotonicTime now) const {
  if (!welcomed()) return Disconnected("the host's agent is not connected");
  if (deadline <= now) return TimedOut("the deadline has passed before anything was sent");
  if (calls_.size() < limits_.max_calls && call_bytes_ + bytes <= limits_.max_call_bytes) return absl::OkStatus();
  return Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED)
      .Message("{} calls ({} bytes) are in flight for this host; try again when some are answered", calls_.size(),
               call_bytes_)
      .RetryAfter(limits_.retry_delay);
}

absl::Status SessionCore::Invalidate(const std::string& target_uid, const std::vector<v1::Command>& commands,
                                     MonotonicTime deadline, Sessions::InvalidateCallback& done, MonotonicTime now) {
  auto message = std::make_unique<v1::ConnectResponse>();
  v1::InvalidateCall& call = *message->mutable_invalidate_call();
  call.set_call_id(last_call_id_ + 1);
  call.set_target_uid(target_uid);
  for (const v1::Command& command : commands) *call.add_commands() = command;
  const size_t bytes = message->ByteSizeLong();
  VIOMMU_RETURN_IF_ERROR(CheckCall(deadline, bytes, now));
  StartCall({.deadline = deadline,
             .done =
                 [done = std::move(done)](absl::StatusOr<v1::ConnectRequest> reply) {
                   if (!reply.ok()) return done(reply.status());
                   done(std::move(*reply->mutable_invalidate_reply()->mutable_result()));
                 },
             .reply = v1::ConnectRequest::kInvalidateReply,
             .bytes = bytes,
             .commands = static_cast<uint32_t>(commands.size()),
             .message = std::move(message)});
  return absl::OkStatus();
}

absl::Status SessionCore::Inspect(const v1::InspectCall& call, MonotonicTime deadline, Sessions::InspectCallback& done,
                                  MonotonicTime now) {
  auto message = std::make_unique<v1::ConnectResponse>();
  *message->mutable_inspect_call() = call;
  message->mutable_inspect_call()->set_call_id(last_call_id_ + 1);
  const size_t bytes = message->ByteSizeLong();
  VIOMMU_RETURN_IF_ERROR(CheckCall(deadline, bytes, now));
  if (!inspects_) {
    return Error(absl::StatusCode::kUnimplemented, v1::ERROR_REASON_NOT_OFFERED)
        .Message("the host's agent is of a version that does not tell what it holds; upgrade it");
  }
  if (inspect_calls_ >= limits_.max_inspect_calls) {
    return Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED)
        .Message("{} inspections of this host are under way, which is the limit; try again when one is answered",
                 inspect_calls_)
        .RetryAfter(limits_.retry_delay);
  }
  ++inspect_calls_;
  StartCall({.deadline = deadline,
             .done =
                 [done = std::move(done)](absl::StatusOr<v1::ConnectRequest> reply) {
                   if (!reply.ok()) return done(reply.status());
                   done(std::move(*reply->mutable_inspect_reply()));
                 },
             .reply = v1::ConnectRequest::kInspectReply,
             .bytes = bytes,
             .message = std::move(message)});
  return absl::OkStatus();
}

void SessionCore::StartCall(Call call) {
  call_bytes_ += call.bytes;
  calls_.emplace(++last_call_id_, std::move(call));
}

void SessionCore::EndCall(absl::btree_map<int64_t, Call>::iterator call, absl::StatusOr<v1::ConnectRequest> reply) {
  call_bytes_ -= call->second.bytes;
  if (call->second.reply == v1::ConnectRequest::kInspectReply) --inspect_calls_;
  answers_.push_back({std::move(call->second.done), std::move(reply)});
  calls_.erase(call);
}

void SessionCore::Close(const absl::Status& status) {
  if (phase_ == Phase::kClosed) return;
  phase_ = Phase::kClosed;
  why_ = status;
  while (!calls_.empty()) {
    EndCall(calls_.begin(), Disconnected("the session of the host's agent ended, what was asked may have been done"));
  }
  if (slot_) release_slot_ = true;
  slot_ = false;
  want_slot_ = false;
  compare_.reset();
  hello_.reset();
  results_.clear();
  pending_.clear();
  unknown_uids_.clear();
  next_heartbeat_ = MonotonicTime::max();
}

void SessionCore::Tick(MonotonicTime now) {
  if (phase_ == Phase::kClosed) return;
  const auto expired = [this](std::string_view what) {
    Close(Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_LEASE_EXPIRED)
              .Message("{} for {} ms; connect again", what, lease_.count()));
  };
  if (LeaseRanOut(now)) return expired("nothing was heard from the agent");
  if (writing_ && now - write_started_ >= lease_) return expired("the agent has not read what it was sent");
  if (now >= next_heartbeat_) {
    heartbeat_due_ = true;
    next_heartbeat_ = now + HeartbeatInterval();
  }
  for (auto call = calls_.begin(); call != calls_.end();) {
    const auto next = std::next(call);
    if (call->second.deadline <= now) {
      const int64_t id = call->first;
      EndCall(call,
              TimedOut("the host's agent did not answer in time; what was asked may have been done, and may be asked "
                       "again"));
      call = calls_.upper_bound(id);
      continue;
    }
    call = next;
  }
}

// --- Outputs.

SessionCore::Step SessionCore::Next(int64_t followed, MonotonicTime now) {
  Step step;
  step.answers = std::exchange(answers_, {});
  step.release_slot = std::exchange(release_slot_, false);
  if (phase_ == Phase::kClosed) {
    if (!ended_told_) {
      ended_told_ = true;
      closed_at_ = now;
      step.ended = true;
    }
    if (finished_) return step;
    if (!writing_ && !building_) {
      finished_ = true;
      step.finish = why_;
    } else if (writing_ && !aborted_ && (abort_ || now - closed_at_ >= limits_.close_grace)) {
      aborted_ = true;
      step.cancel = true;
    }
    return step;
  }
  step.hello = std::move(hello_);
  step.compare = std::move(compare_);
  step.want_slot = std::exchange(want_slot_, false);
  if (!results_.empty() && now >= retry_at_) {
    step.results = std::exchange(results_, {});
    judging_ += step.results.size();
  }
  NextWrite(step, followed, now);
  if (!reading_) {
    const bool may_read = (phase_ == Phase::kHello || welcomed()) && results_.size() + judging_ < limits_.max_results;
    if (may_read) {
      if (paused_) last_heard_ = now;
      reading_ = true;
      step.read = true;
    }
    paused_ = !may_read;
  }
  return step;
}

std::chrono::nanoseconds SessionCore::HeartbeatInterval() const {
  constexpr int64_t kSteps = 64;  // of the spread
  const std::chrono::nanoseconds third = std::chrono::nanoseconds(lease_) / 3;
  return third - third / 4 * (id_ % kSteps) / kSteps;
}

void SessionCore::StartWrite(MonotonicTime now) {
  writing_ = true;
  write_started_ = now;
  heartbeat_due_ = false;
  next_heartbeat_ = now + HeartbeatInterval();
}

void SessionCore::NextWrite(Step& step, int64_t followed, MonotonicTime now) {
  if (writing_ || building_ || !welcomed()) return;
  if (welcome_due_) {
    welcome_due_ = false;
    step.message = std::make_unique<v1::ConnectResponse>();
    v1::Welcome& welcome = *step.message->mutable_welcome();
    welcome.set_cluster_id(identity_.cluster_id);
    welcome.set_store_incarnation(identity_.store_incarnation);
    welcome.set_epoch(identity_.epoch);
    welcome.mutable_lease()->set_seconds(lease_.count() / 1000);
    welcome.mutable_lease()->set_nanos(static_cast<int32_t>(lease_.count() % 1000 * 1'000'000));
    welcome.set_revision(settled_);
    welcome.set_start_id(identity_.start_id);
    return StartWrite(now);
  }
  if (heartbeat_due_) {
    // The changes that passed by and concern other hosts count as known, too.
    if (phase_ == Phase::kFollowing && !HasDesired()) claimed_ = std::max(claimed_, followed);
    step.message = std::make_unique<v1::ConnectResponse>();
    step.message->mutable_heartbeat()->set_revision(claimed_);
    step.message->mutable_heartbeat()->set_epoch(identity_.epoch);
    return StartWrite(now);
  }
  if (calls_first_) {
    if (NextCall(step)) {
      calls_first_ = false;
    } else {
      NextDesired(step, followed);
    }
  } else if (NextDesired(step, followed)) {
    calls_first_ = true;
  } else {
    NextCall(step);
  }
  if (step.message != nullptr) StartWrite(now);
}

bool SessionCore::NextCall(Step& step) {
  const auto call = calls_.lower_bound(next_unwritten_call_);
  if (call == calls_.end()) return false;
  next_unwritten_call_ = call->first + 1;
  step.message = std::move(call->second.message);
  return true;
}

bool SessionCore::HasDesired() const {
  return phase_ == Phase::kSyncing || (phase_ == Phase::kFollowing && pending() > 0);
}

bool SessionCore::NextDesired(Step& step, int64_t followed) {
  if (!HasDesired()) return false;
  DesiredWork work;
  work.revision = followed;
  work.mark = phase_ == Phase::kSyncing;
  work.max_bytes = limits_.max_message_bytes;
  work.unknown_uids = std::exchange(unknown_uids_, {});
  work.everything = pending_.size() <= kMaxDesiredItems;
  work.keys.reserve(std::min(pending_.size(), kMaxDesiredItems));
  auto next = pending_.upper_bound(last_sent_);
  while (!pending_.empty() && work.keys.size() < kMaxDesiredItems) {
    if (next == pending_.end()) next = pending_.begin();
    work.keys.push_back(*next);
    next = pending_.erase(next);
  }
  building_ = true;
  step.desired = std::move(work);
  return true;
}

bool SessionCore::WantsNext() const {
  if (phase_ == Phase::kClosed) return !ended_told_;
  return (!writing_ && !building_ && HasDesired()) ||
         (paused_ && welcomed() && results_.size() + judging_ < limits_.max_results);
}

bool SessionCore::AllAnswered() const {
  return phase_ == Phase::kFollowing && pending() == 0 && !building_ && answered_nonce_ >= last_items_nonce_;
}

int64_t SessionCore::Lag(int64_t followed) const {
  if (!welcomed() || AllAnswered()) return 0;
  return std::max<int64_t>(0, followed - settled_);
}

MonotonicTime SessionCore::NextDue() const {
  if (phase_ == Phase::kClosed) {
    return ended_told_ && !finished_ ? closed_at_ + limits_.close_grace : MonotonicTime::max();
  }
  MonotonicTime due = next_heartbeat_;
  if (!paused_) due = std::min<MonotonicTime>(due, last_heard_ + lease_);
  if (writing_) due = std::min<MonotonicTime>(due, write_started_ + lease_);
  if (!results_.empty()) due = std::min(due, retry_at_);
  for (const auto& [id, call] : calls_) due = std::min(due, call.deadline);
  return due;
}

}  // namespace viommu::server
