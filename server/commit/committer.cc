#include "server/commit/committer.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <utility>

#include "absl/types/span.h"
#include "common/error.h"

namespace viommu::server {
namespace {

// How often the core's Tick is called.
constexpr std::chrono::seconds kTickPeriod(1);

size_t BytesOf(absl::Span<Command* const> commands) {
  return std::accumulate(commands.begin(), commands.end(), size_t{0},
                         [](size_t sum, const Command* command) { return sum + command->bytes; });
}

}  // namespace

Committer::Committer(CommitCore& core, const Options& options, BatchObserver observer)
    : core_(core),
      options_(options),
      observer_(std::move(observer)),
      writer_([this] { WriteLoop(); }),
      storer_([this] { StoreLoop(); }),
      answerer_([this] { AnswerLoop(); }) {}

Committer::~Committer() { Stop(); }

absl::Status Committer::Submit(Command* command) {
  {
    MutexLock lock(mu_);
    if (stopping_) {
      return Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_SHUTTING_DOWN)
          .Message("the server is stopping; try again, at another server or later");
    }
    if (queue_.size() >= options_.max_queue_commands ||
        (!queue_.empty() && queue_bytes_ + command->bytes > options_.max_queue_bytes)) {
      return Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED)
          .Message("{} changes ({} bytes) are waiting to be recorded; try again later", queue_.size(), queue_bytes_)
          .RetryAfter(std::chrono::milliseconds(200));
    }
    queue_.push_back(command);
    queue_bytes_ += command->bytes;
    if (queue_.size() > 1) return absl::OkStatus();  // whoever came first has woken the writer
  }
  work_.NotifyOne();
  return absl::OkStatus();
}

void Committer::Stop() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
  }
  work_.NotifyOne();
  if (writer_.joinable()) writer_.join();
  {
    MutexLock lock(store_mu_);
    no_more_writes_ = true;
  }
  store_work_.NotifyOne();
  if (storer_.joinable()) storer_.join();
  {
    MutexLock lock(answers_mu_);
    no_more_answers_ = true;
  }
  answers_ready_.NotifyOne();
  if (answerer_.joinable()) answerer_.join();
}

size_t Committer::queue_depth() const {
  MutexLock lock(mu_);
  return queue_.size();
}

bool Committer::Await(const Work& work, std::chrono::steady_clock::time_point next_tick,
                      std::vector<Command*>& commands, std::optional<absl::Status>& committed) {
  commands.clear();
  MutexLock lock(mu_);
  const bool writing = work.written != nullptr;
  while (true) {
    if (writing && committed_.has_value()) break;
    if (!queue_.empty() && !work.full) break;
    if (!writing && work.open != nullptr) return true;
    if (!writing && stopping_) return false;
    const auto now = std::chrono::steady_clock::now();
    if (!writing && now >= next_tick) return true;
    // A write that is under way ends by itself.
    work_.WaitFor(mu_, writing ? std::chrono::nanoseconds(std::chrono::hours(1)) : next_tick - now);
  }
  committed = std::exchange(committed_, std::nullopt);
  if (work.full) return true;
  const size_t had = work.open == nullptr ? 0 : CommitCore::CommandsOf(*work.open).size();
  const size_t room = options_.max_batch_commands - std::min(had, options_.max_batch_commands);
  if (queue_.size() <= room) {
    commands.swap(queue_);
  } else {
    const auto end = queue_.begin() + static_cast<std::ptrdiff_t>(room);
    commands.assign(queue_.begin(), end);
    queue_.erase(queue_.begin(), end);
  }
  queue_bytes_ -= BytesOf(commands);
  return true;
}

void Committer::Judge(Work& work, const std::vector<Command*>& commands) {
  if (commands.empty()) return;
  if (work.open == nullptr) {
    work.open = core_.Begin();
    work.began = std::chrono::steady_clock::now();
  }
  const size_t taken = core_.Judge(*work.open, commands);
  work.full = taken < commands.size() || CommitCore::CommandsOf(*work.open).size() >= options_.max_batch_commands;
  if (taken == commands.size()) return;
  const absl::Span<Command* const> left = absl::MakeSpan(commands).subspan(taken);
  MutexLock lock(mu_);
  queue_.insert(queue_.begin(), left.begin(), left.end());
  queue_bytes_ += BytesOf(left);
}

void Committer::Finish(CommitCore::Pending& batch, const absl::Status& committed,
                       std::chrono::steady_clock::time_point began) {
  const std::span<Command* const> commands = CommitCore::CommandsOf(batch);
  std::vector<CommitCore::Outcome> outcomes = core_.Finish(batch, committed);
  if (observer_ && !outcomes.empty()) {
    observer_(outcomes.size(), std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
  }
  // A thread's wake is a large part of the time of a caller that is alone; nobody else waits for this thread.
  if (outcomes.size() == 1) {
    commands[0]->Done(std::move(outcomes[0].status), outcomes[0].revision);
    return;
  }
  {
    MutexLock lock(answers_mu_);
    for (size_t i = 0; i < outcomes.size(); ++i) answers_.push_back({commands[i], std::move(outcomes[i])});
  }
  answers_ready_.NotifyOne();
}

void Committer::Write(Work& work) {
  work.full = false;
  const bool alone = CommitCore::CommandsOf(*work.open).size() <= 1 && queue_depth() == 0;
  core_.Seal(*work.open);
  if (alone) {
    const CommitCore::PendingPtr batch = std::move(work.open);
    return Finish(*batch, core_.Write(*batch), work.began);
  }
  work.written = std::move(work.open);
  work.written_began = work.began;
  {
    MutexLock lock(store_mu_);
    to_write_ = work.written.get();
  }
  store_work_.NotifyOne();
}

void Committer::WriteLoop() {
  pthread_setname_np(pthread_self(), "viommu-writer");
  auto next_tick = std::chrono::steady_clock::now() + kTickPeriod;
  Work work;
  std::vector<Command*> commands;
  std::optional<absl::Status> committed;
  while (Await(work, next_tick, commands, committed)) {
    // Before the write under way is finished: afterwards the batch takes no more.
    Judge(work, commands);
    if (committed.has_value()) {
      const CommitCore::PendingPtr batch = std::move(work.written);
      Finish(*batch, *committed, work.written_began);
      committed.reset();
    }
    if (work.written != nullptr) continue;
    if (const auto now = std::chrono::steady_clock::now(); now >= next_tick) {
      core_.Tick();
      next_tick = now + kTickPeriod;
    }
    if (work.open != nullptr) Write(work);
  }
}

void Committer::StoreLoop() {
  pthread_setname_np(pthread_self(), "viommu-storer");
  while (true) {
    const CommitCore::Pending* batch = nullptr;
    {
      MutexLock lock(store_mu_);
      while (to_write_ == nullptr && !no_more_writes_) store_work_.Wait(store_mu_);
      if (to_write_ == nullptr) return;
      batch = std::exchange(to_write_, nullptr);
    }
    absl::Status status = core_.Write(*batch);
    {
      MutexLock lock(mu_);
      committed_ = std::move(status);
    }
    work_.NotifyOne();
  }
}

void Committer::AnswerLoop() {
  pthread_setname_np(pthread_self(), "viommu-answerer");
  while (true) {
    std::vector<Answer> answers;
    {
      MutexLock lock(answers_mu_);
      while (answers_.empty() && !no_more_answers_) answers_ready_.Wait(answers_mu_);
      if (answers_.empty()) return;
      answers.swap(answers_);
    }
    for (Answer& answer : answers) answer.command->Done(std::move(answer.outcome.status), answer.outcome.revision);
  }
}

}  // namespace viommu::server
