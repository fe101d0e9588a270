#include "server/api/watch_hub.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "common/error.h"

namespace viommu::server {
namespace {

// Progress marks and deadlines are exact to this.
constexpr std::chrono::seconds kTick(1);

absl::Status ShuttingDown() {
  return Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_SHUTTING_DOWN)
      .Message("the server is stopping; watch again from the last revision you were sent");
}

}  // namespace

WatchHub::WatchHub(size_t max_watches, size_t max_snapshots)
    : max_watches_(max_watches), max_snapshots_(max_snapshots), thread_([this] { Loop(); }) {}

WatchHub::~WatchHub() {
  {
    MutexLock lock(mu_);
    stop_ = true;
  }
  work_.NotifyOne();
  thread_.join();
}

absl::Status WatchHub::Add(const std::shared_ptr<Watch>& watch) {
  MutexLock lock(mu_);
  if (ending_) return ShuttingDown();
  if (watches_.size() >= max_watches_) {
    return Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED)
        .Message("there are {} watches already, which is the limit; try again later, or share a watch", max_watches_)
        .RetryAfter(std::chrono::seconds(5));
  }
  watches_.emplace(watch.get(), watch);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<void>> WatchHub::TakeSnapshotPlace() {
  size_t taken = snapshots_->load();
  do {
    if (taken >= max_snapshots_) {
      return Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED)
          .Message("{} watches are being sent what is there, which is the limit; try again later", taken)
          .RetryAfter(std::chrono::seconds(1));
    }
  } while (!snapshots_->compare_exchange_weak(taken, taken + 1));
  return std::shared_ptr<void>(nullptr, [snapshots = snapshots_](void*) { --*snapshots; });
}

void WatchHub::Remove(const Watch* watch) {
  MutexLock lock(mu_);
  watches_.erase(watch);
}

uint64_t WatchHub::commits() const {
  MutexLock lock(mu_);
  return commits_;
}

void WatchHub::Park(const std::shared_ptr<Watch>& watch, uint64_t commits_seen) {
  {
    MutexLock lock(mu_);
    parked_.push_back(watch);
    if (commits_ == commits_seen || due_) return;
    due_ = true;
  }
  work_.NotifyOne();
}

void WatchHub::OnCommit(const std::vector<ChangeSetPtr>& /*sets*/) {
  {
    MutexLock lock(mu_);
    ++commits_;
    if (parked_.empty() || due_) return;
    due_ = true;
  }
  work_.NotifyOne();
}

std::vector<std::shared_ptr<WatchHub::Watch>> WatchHub::All() const {
  std::vector<std::shared_ptr<Watch>> all;
  for (const auto& entry : watches_) {
    if (auto watch = entry.second.lock()) all.push_back(std::move(watch));
  }
  return all;
}

void WatchHub::EndAll() {
  std::vector<std::shared_ptr<Watch>> watches;
  {
    MutexLock lock(mu_);
    ending_ = true;
    watches = All();
  }
  for (const auto& watch : watches) watch->End(ShuttingDown());
}

int64_t WatchHub::count() const {
  MutexLock lock(mu_);
  return static_cast<int64_t>(watches_.size());
}

void WatchHub::Loop() {
  using Clock = std::chrono::steady_clock;
  Clock::time_point ticked = Clock::now();
  Clock::time_point rested = ticked;
  while (true) {
    std::vector<std::shared_ptr<Watch>> woken;
    std::vector<std::shared_ptr<Watch>> all;
    {
      MutexLock lock(mu_);
      for (auto now = Clock::now(); !stop_ && now < rested; now = Clock::now()) work_.WaitFor(mu_, rested - now);
      while (!stop_ && !due_ && work_.WaitFor(mu_, kTick)) {
      }
      if (stop_) return;
      due_ = false;
      woken.swap(parked_);
      if (const auto now = Clock::now(); now - ticked >= kTick) {
        ticked = now;
        all = All();
      }
    }
    const Clock::time_point began = Clock::now();
    for (const auto& watch : woken) watch->Wake();
    const Clock::time_point woke = Clock::now();
    rested = woke + std::min<Clock::duration>(2 * (woke - began), kMaxRest);
    for (const auto& watch : all) watch->Tick();
  }
}

}  // namespace viommu::server
