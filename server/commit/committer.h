// The one writer: a thread that judges waiting commands and publishes them, batch by batch, for the CommitCore; a
// thread that writes batches to the store; and a thread that answers.
//
// Callers share a sync: while one batch is being written, the next one gathers, and is judged. Answers are given on a
// thread of their own, so that sending them does not hold up the next batch. A batch of one, when nobody else waits, is
// written and answered by the writer itself: it has nothing else to do.
//
// Thread-safe.

#ifndef VIOMMU_SERVER_COMMIT_COMMITTER_H_
#define VIOMMU_SERVER_COMMIT_COMMITTER_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "common/mutex.h"
#include "server/commit/command.h"
#include "server/commit/core.h"

namespace viommu::server {

class Committer {
 public:
  struct Options {
    size_t max_queue_commands = 8192;  // waiting ones; more are refused with OVERLOADED
    // Of the messages that these were made of. One that is longer is taken when nothing else waits.
    size_t max_queue_bytes = size_t{256} << 20;
    size_t max_batch_commands = 1024;  // in one write; the core's own limits may make it less
  };

  // Sizes and times of one batch, for metrics; called on the writer's thread.
  using BatchObserver = std::function<void(size_t commands, double seconds)>;

  // `core` must outlive the committer.
  Committer(CommitCore& core, const Options& options, BatchObserver observer = nullptr);
  // Stops, if Stop was not called.
  ~Committer();

  // Takes the command; its Done will be called. On an error it is not taken and Done is not called:
  //   RESOURCE_EXHAUSTED, OVERLOADED: the queue is full.
  //   UNAVAILABLE, SHUTTING_DOWN: after Stop.
  absl::Status Submit(Command* command);

  // Carries out what was taken, then ends both threads.
  void Stop();

  CommitCore& core() { return core_; }
  size_t queue_depth() const;

 private:
  struct Answer {
    Command* command;
    CommitCore::Outcome outcome;
  };

  // What the writer has at hand.
  struct Work {
    CommitCore::PendingPtr open{nullptr, nullptr};     // being judged
    CommitCore::PendingPtr written{nullptr, nullptr};  // at the store's thread
    bool full = false;                                 // the open one takes no more
    std::chrono::steady_clock::time_point began;       // the open one
    std::chrono::steady_clock::time_point written_began;
  };

  void WriteLoop();
  void StoreLoop();
  void AnswerLoop();
  // The commands to judge next, and the end of the write under way, as soon as there is one of them or a tick is due;
  // false when there is nothing left to do.
  bool Await(const Work& work, std::chrono::steady_clock::time_point next_tick, std::vector<Command*>& commands,
             std::optional<absl::Status>& committed);
  void Judge(Work& work, const std::vector<Command*>& commands);
  // Writes the open batch, or gives it to the store's thread to write.
  void Write(Work& work);
  void Finish(CommitCore::Pending& batch, const absl::Status& committed, std::chrono::steady_clock::time_point began);

  CommitCore& core_;
  const Options options_;
  const BatchObserver observer_;

  mutable Mutex mu_;
  CondVar work_;
  std::vector<Command*> queue_ ABSL_GUARDED_BY(mu_);
  size_t queue_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<absl::Status> committed_ ABSL_GUARDED_BY(mu_);  // the write under way is over

  Mutex store_mu_;
  CondVar store_work_;
  const CommitCore::Pending* to_write_ ABSL_GUARDED_BY(store_mu_) = nullptr;
  bool no_more_writes_ ABSL_GUARDED_BY(store_mu_) = false;

  Mutex answers_mu_;
  CondVar answers_ready_;
  std::vector<Answer> answers_ ABSL_GUARDED_BY(answers_mu_);
  bool no_more_answers_ ABSL_GUARDED_BY(answers_mu_) = false;

  std::thread writer_;
  std::thread storer_;
  std::thread answerer_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_COMMIT_COMMITTER_H_
