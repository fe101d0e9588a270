#include "server/api/apply_waits.h"

#include <algorithm>
#include <chrono>

namespace viommu::server {
namespace {

// The clock may be another one than the one that the thread sleeps by: look at it this often while somebody waits.
constexpr std::chrono::milliseconds kMaxSleep(100);

}  // namespace

ApplyWaits::ApplyWaits(Waiters& waiters, const Clock& clock, size_t max_waits, size_t max_bytes)
    : waiters_(waiters), clock_(clock), max_waits_(max_waits), max_bytes_(max_bytes), thread_([this] { Loop(); }) {}

ApplyWaits::~ApplyWaits() {
  EndAll();
  {
    MutexLock lock(mu_);
    stop_ = true;
  }
  work_.NotifyOne();
  thread_.join();
}

int64_t ApplyWaits::Reserve(size_t bytes) {
  MutexLock lock(mu_);
  if (waits_.size() >= max_waits_ || bytes_ >= max_bytes_) return 0;
  const int64_t id = next_id_++;
  const auto wait = waits_.emplace(id, std::make_unique<Wait>()).first;
  wait->second->bytes = bytes;
  bytes_ += bytes;
  return id;
}

void ApplyWaits::Release(int64_t id) {
  MutexLock lock(mu_);
  const auto wait = waits_.find(id);
  bytes_ -= wait->second->bytes;
  waits_.erase(wait);
}

void ApplyWaits::Start(int64_t id, size_t bytes, Kind kind, std::vector<RecordPtr> seen, MonotonicTime deadline,
                       Done done) {
  {
    MutexLock lock(mu_);
    Wait& wait = *waits_.at(id);
    bytes_ = bytes_ - wait.bytes + bytes;
    wait.bytes = bytes;
    wait.kind = kind;
    wait.seen = std::move(seen);
    wait.deadline = deadline;
    wait.done = std::move(done);
    wait.started = true;
    ready_.push_back(id);
  }
  work_.NotifyOne();
}

void ApplyWaits::Cancel(int64_t id) {
  {
    MutexLock lock(mu_);
    const auto found = waits_.find(id);
    if (found == waits_.end()) return;
    found->second->cancelled = true;
    if (!found->second->started) return;
    ready_.push_back(id);
  }
  work_.NotifyOne();
}

void ApplyWaits::EndAll() {
  {
    MutexLock lock(mu_);
    ending_ = true;
    for (const auto& [id, wait] : waits_) {
      if (wait->started) ready_.push_back(id);
    }
  }
  work_.NotifyOne();
}

int64_t ApplyWaits::count() const {
  MutexLock lock(mu_);
  return static_cast<int64_t>(waits_.size());
}

size_t ApplyWaits::bytes() const {
  MutexLock lock(mu_);
  return bytes_;
}

void ApplyWaits::Notify(int64_t id, const RecordPtr& resource, int64_t revision) {
  {
    MutexLock lock(mu_);
    const auto found = waits_.find(id);
    if (found == waits_.end()) return;
    found->second->answer.emplace(resource, revision);
    ready_.push_back(id);
  }
  work_.NotifyOne();
}

bool ApplyWaits::TakeAnswer(Wait& wait) {
  MutexLock lock(mu_);
  if (!wait.answer.has_value()) return false;
  wait.settled.push_back(std::move(wait.answer->first));
  wait.revision = std::max(wait.revision, wait.answer->second);
  wait.answer.reset();
  wait.waiter = 0;
  return true;
}

void ApplyWaits::Advance(int64_t id) {
  Wait* wait = nullptr;
  bool cancelled = false;
  bool ending = false;
  {
    MutexLock lock(mu_);
    const auto found = waits_.find(id);
    if (found == waits_.end()) return;
    wait = found->second.get();
    cancelled = wait->cancelled;
    ending = ending_;
  }
  // One after the other: the last one to be answered decides, in whatever order they are asked for.
  bool going = wait->waiter == 0 || TakeAnswer(*wait);
  while (going && wait->settled.size() < wait->seen.size()) {
    wait->waiter =
        waiters_.Add(wait->kind, wait->seen[wait->settled.size()],
                     [this, id](const RecordPtr& resource, int64_t revision) { Notify(id, resource, revision); });
    going = TakeAnswer(*wait);
  }
  End end = End::kApplied;
  if (wait->settled.size() < wait->seen.size()) {
    if (cancelled) {
      end = End::kCancelled;
    } else if (ending) {
      end = End::kStopped;
    } else if (clock_.Monotonic() >= wait->deadline) {
      end = End::kDeadline;
    } else {
      if (!wait->in_deadlines) deadlines_.emplace(wait->deadline, id);
      wait->in_deadlines = true;
      return;
    }
  }
  if (wait->waiter != 0) waiters_.Cancel(wait->waiter);
  if (wait->in_deadlines) deadlines_.erase({wait->deadline, id});
  std::unique_ptr<Wait> ended;
  {
    MutexLock lock(mu_);
    const auto found = waits_.find(id);
    ended = std::move(found->second);
    bytes_ -= ended->bytes;
    waits_.erase(found);
  }
  ended->done(end, ended->settled, ended->revision);
}

void ApplyWaits::Loop() {
  while (true) {
    std::deque<int64_t> ready;
    {
      MutexLock lock(mu_);
      while (ready_.empty() && (deadlines_.empty() || deadlines_.begin()->first > clock_.Monotonic())) {
        if (stop_) return;
        if (deadlines_.empty()) {
          work_.Wait(mu_);
        } else {
          work_.WaitFor(mu_,
                        std::min<std::chrono::nanoseconds>(kMaxSleep, deadlines_.begin()->first - clock_.Monotonic()));
        }
      }
      ready.swap(ready_);
    }
    for (const int64_t id : ready) Advance(id);
    // Advance takes what is due out of the set.
    while (!deadlines_.empty() && deadlines_.begin()->first <= clock_.Monotonic()) Advance(deadlines_.begin()->second);
  }
}

}  // namespace viommu::server
