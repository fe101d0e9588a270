#include "server/commit/committer.h"

#include <pthread.h>

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

void Committer::WriteLoop() {
  pthread_setname_np(pthread_self(), "viommu-writer");
  auto next_tick = std::chrono::steady_clock::now() + kTickPeriod;
  while (true) {
    std::vector<Command*> batch;
    {
      MutexLock lock(mu_);
      while (queue_.empty() && !stopping_) {
        const auto now = std::chrono::steady_clock::now();
        if (now >= next_tick) break;
        work_.WaitFor(mu_, next_tick - now);
      }
      if (queue_.empty() && stopping_) return;
      if (queue_.size() <= options_.max_batch_commands) {
        batch.swap(queue_);
      } else {
        const auto end = queue_.begin() + static_cast<std::ptrdiff_t>(options_.max_batch_commands);
        batch.assign(queue_.begin(), end);
        queue_.erase(queue_.begin(), end);
      }
      queue_bytes_ -= BytesOf(batch);
    }
    const auto begin = std::chrono::steady_clock::now();
    if (!batch.empty()) {
      std::vector<CommitCore::Outcome> outcomes = core_.Run(batch);
      if (observer_) {
        observer_(outcomes.size(), std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
      }
      // A thread's wake is a large part of the time of a caller that is alone; nobody else waits for this thread.
      if (outcomes.size() == 1) {
        batch[0]->Done(std::move(outcomes[0].status), outcomes[0].revision);
      } else {
        {
          MutexLock lock(answers_mu_);
          for (size_t i = 0; i < outcomes.size(); ++i) answers_.push_back({batch[i], std::move(outcomes[i])});
        }
        answers_ready_.NotifyOne();
      }
      if (outcomes.size() < batch.size()) {
        const absl::Span<Command* const> left = absl::MakeSpan(batch).subspan(outcomes.size());
        MutexLock lock(mu_);
        queue_.insert(queue_.begin(), left.begin(), left.end());
        queue_bytes_ += BytesOf(left);
      }
    }
    if (begin >= next_tick) {
      core_.Tick();
      next_tick = begin + kTickPeriod;
    }
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
