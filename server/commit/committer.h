// The one writer: a thread that gathers waiting commands into batches for the CommitCore, and a thread that answers.
//
// Callers share a sync: while one batch is being written, the next one gathers. Answers are given on a thread of their
// own, so that sending them does not hold up the next batch; that of a batch of one is given by the writer itself.
//
// Thread-safe.

#ifndef VIOMMU_SERVER_COMMIT_COMMITTER_H_
#define VIOMMU_SERVER_COMMIT_COMMITTER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
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

  void WriteLoop();
  void AnswerLoop();

  CommitCore& core_;
  const Options options_;
  const BatchObserver observer_;

  mutable Mutex mu_;
  CondVar work_;
  std::vector<Command*> queue_ ABSL_GUARDED_BY(mu_);
  size_t queue_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;

  Mutex answers_mu_;
  CondVar answers_ready_;
  std::vector<Answer> answers_ ABSL_GUARDED_BY(answers_mu_);
  bool no_more_answers_ ABSL_GUARDED_BY(answers_mu_) = false;

  std::thread writer_;
  std::thread answerer_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_COMMIT_COMMITTER_H_
