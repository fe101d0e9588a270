#include "server/sync/agent_session.h"

#include <utility>

#include "server/sync/agent_sessions.h"

namespace viommu::server {

AgentSession::AgentSession(AgentSessions& owner, int64_t id, AgentStream* stream, Peer peer)
    : owner_(owner),
      id_(id),
      stream_(stream),
      peer_(std::move(peer)),
      since_(owner.clock().Now()),
      core_(owner.limits(), owner.identity(), id, owner.clock().Monotonic()),
      next_due_ns_(owner.clock().Monotonic().time_since_epoch().count()) {}

// --- From the stream.

void AgentSession::Heard(std::unique_ptr<v1::ConnectRequest> message) {
  {
    MutexLock lock(mu_);
    core_.Heard(std::move(message), owner_.clock().Monotonic());
  }
  Drive();
}

void AgentSession::StreamEnded() {
  {
    MutexLock lock(mu_);
    core_.StreamEnded();
  }
  Drive();
}

void AgentSession::Written(bool ok) {
  {
    MutexLock lock(mu_);
    core_.Written(ok);
  }
  Drive();
}

void AgentSession::Gone() { owner_.Gone(*this); }

// --- From commands.

void AgentSession::HelloJudged(const absl::Status& status, int64_t revision, SessionCore::HeldItems held,
                               HelloMemory::Share memory) {
  const std::chrono::milliseconds lease = owner_.Lease();
  bool made_ready;
  {
    MutexLock lock(mu_);
    core_.HelloJudged(status, revision, lease, std::move(held), owner_.clock().Monotonic());
    hello_memory_.emplace(std::move(memory));
    made_ready = SetReady();
  }
  if (made_ready) owner_.MakeReady({shared_from_this()});
}

void AgentSession::ResultsJudged(const absl::Status& status) {
  bool made_ready;
  {
    MutexLock lock(mu_);
    core_.ResultsJudged(status);
    made_ready = core_.WantsNext() && SetReady();
  }
  if (made_ready) owner_.MakeReady({shared_from_this()});
}

// --- From AgentSessions.

bool AgentSession::SetReady() {
  if (ready_) return false;
  ready_ = true;
  return true;
}

void AgentSession::ClearReady() {
  MutexLock lock(mu_);
  ready_ = false;
}

bool AgentSession::Changed(Concern concern, ResourceKey key, const std::string& uid, int64_t revision) {
  MutexLock lock(mu_);
  core_.Changed(concern, std::move(key), uid, revision);
  return core_.WantsNext() && SetReady();
}

bool AgentSession::TearDown(const std::vector<std::string>& uids) {
  MutexLock lock(mu_);
  for (const std::string& uid : uids) core_.TearDown(uid);
  return core_.WantsNext() && SetReady();
}

bool AgentSession::SlotGranted() {
  MutexLock lock(mu_);
  core_.SlotGranted();
  return SetReady();
}

MonotonicTime AgentSession::DueAt(WallTime deadline, MonotonicTime now) const {
  const WallTime wall_now = owner_.clock().Now();
  return deadline > wall_now ? now + (deadline - wall_now) : now;
}

void AgentSession::Invalidate(const std::string& target_uid, const std::vector<v1::Command>& commands,
                              WallTime deadline, Sessions::InvalidateCallback done) {
  const MonotonicTime now = owner_.clock().Monotonic();
  const MonotonicTime due = DueAt(deadline, now);
  absl::Status status;
  {
    MutexLock lock(mu_);
    status = core_.Invalidate(target_uid, commands, due, done, now);
  }
  if (!status.ok()) return done(status);
  Drive();
}

void AgentSession::Inspect(const v1::InspectCall& call, WallTime deadline, Sessions::InspectCallback done) {
  const MonotonicTime now = owner_.clock().Monotonic();
  const MonotonicTime due = DueAt(deadline, now);
  absl::Status status;
  {
    MutexLock lock(mu_);
    status = core_.Inspect(call, due, done, now);
  }
  if (!status.ok()) return done(status);
  Drive();
}

void AgentSession::Close(const absl::Status& status) {
  {
    MutexLock lock(mu_);
    core_.Close(status);
  }
  Drive();
}

void AgentSession::Abort(const absl::Status& status) {
  {
    MutexLock lock(mu_);
    core_.Close(status);
    core_.Abort();
  }
  Drive();
}

void AgentSession::Tick(MonotonicTime now) {
  {
    MutexLock lock(mu_);
    core_.Tick(now);
  }
  Drive();
}

void AgentSession::Drive() {
  {
    MutexLock lock(mu_);
    if (driven_) return;
    driven_ = true;
  }
  const std::shared_ptr<AgentSession> self = shared_from_this();  // Finish lets go of the stream's hold on it
  for (;;) {
    const int64_t followed = owner_.followed();  // before the core is asked: it must know all changes up to there
    SessionCore::Step step;
    {
      MutexLock lock(mu_);
      step = core_.Next(followed, owner_.clock().Monotonic());
      if (step.empty()) {
        next_due_ns_ = core_.NextDue().time_since_epoch().count();
        driven_ = false;
        const SessionCore::Phase phase = core_.phase();
        if (phase == SessionCore::Phase::kFollowing || phase == SessionCore::Phase::kClosed) hello_memory_.reset();
        return;
      }
    }
    Do(std::move(step));
  }
}

void AgentSession::Do(SessionCore::Step step) {
  if (step.hello != nullptr) {
    host_ = step.hello->host().name();
    if (const absl::Status admitted = owner_.Admit(shared_from_this(), std::move(*step.hello)); !admitted.ok()) {
      MutexLock lock(mu_);
      core_.Close(admitted);
    }
  }
  bool taken = true;
  for (v1::Results& results : step.results) {
    taken = taken && owner_.JudgeResults(shared_from_this(), host_, results).ok();
    if (taken) continue;
    MutexLock lock(mu_);
    core_.ResultsNotTaken(std::move(results), owner_.clock().Monotonic());
  }
  if (step.compare != nullptr) {
    Difference difference = owner_.DifferenceOf(host_, *step.compare);
    step.compare.reset();
    size_t left = difference.unknown_uids.capacity() * sizeof(std::string);
    for (const std::string& uid : difference.unknown_uids) left += uid.size();
    MutexLock lock(mu_);
    core_.Compared(std::move(difference));
    hello_memory_->ShrinkTo(left);
  }
  if (step.want_slot && owner_.WantSlot(*this)) {
    MutexLock lock(mu_);
    core_.SlotGranted();
  }
  if (step.release_slot) owner_.ReleaseSlot(*this);
  if (step.message != nullptr) stream_->Write(std::move(step.message));
  if (step.desired.has_value()) SendDesired(*std::move(step.desired));
  if (step.read) stream_->Read();
  if (step.ended) {
    absl::Status why;
    {
      MutexLock lock(mu_);
      why = core_.why();
    }
    owner_.Ended(*this, host_, why);
  }
  for (SessionCore::Answer& answer : step.answers) answer.done(std::move(answer.reply));
  if (step.cancel) stream_->Cancel();
  if (step.finish.has_value()) stream_->Finish(*step.finish);
}

void AgentSession::SendDesired(DesiredWork work) {
  const std::vector<RecordPtr> records = owner_.Fetch(work);
  DesiredMessage built = BuildDesired(std::move(work), records);
  std::unique_ptr<v1::ConnectResponse> message;
  {
    MutexLock lock(mu_);
    message = core_.Built(std::move(built), owner_.clock().Monotonic());
  }
  if (message != nullptr) stream_->Write(std::move(message));
}

// --- What is known about it.

bool AgentSession::LeaseRanOut(MonotonicTime now) const {
  MutexLock lock(mu_);
  return core_.LeaseRanOut(now);
}

AgentSession::Progress AgentSession::progress(int64_t followed) const {
  MutexLock lock(mu_);
  return {core_.welcomed(), core_.phase() == SessionCore::Phase::kFollowing, core_.pending(), core_.Lag(followed)};
}

std::vector<v1::SmmuUsage> AgentSession::usage() const {
  MutexLock lock(mu_);
  return core_.welcomed() ? core_.usage() : std::vector<v1::SmmuUsage>();
}

}  // namespace viommu::server
