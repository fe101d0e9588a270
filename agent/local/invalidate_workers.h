// Threads that carry out the server's invalidations, so that neither the session nor the reconciler waits for an SMMU.
//
// Calls of one caller follow one another, because each waits for its answer; calls of several callers may overtake one
// another.

#ifndef VIOMMU_AGENT_LOCAL_INVALIDATE_WORKERS_H_
#define VIOMMU_AGENT_LOCAL_INVALIDATE_WORKERS_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "agent/local/invalidator.h"
#include "agent/session/host_work.h"
#include "common/mutex.h"

namespace viommu::agent {

class InvalidateWorkers : public InvalidateCalls {
 public:
  struct Options {
    int threads = 2;
    size_t max_waiting = 256;  // calls
  };
  // Called on a worker's thread with no lock held.
  using Done = std::function<void(int64_t session, v1::InvalidateReply reply)>;

  // `invalidator` must outlive it.
  InvalidateWorkers(Invalidator& invalidator, Options options);
  ~InvalidateWorkers() override;

  void Start(Done done);
  // Returns after the calls that are running; those that wait are dropped. Idempotent.
  void Stop();

  bool Submit(int64_t session, const v1::InvalidateCall& call) override;

  size_t waiting() const;

 private:
  void Loop();

  Invalidator& invalidator_;
  const Options options_;
  Done done_;
  mutable Mutex mu_;
  CondVar wake_;
  std::deque<std::pair<int64_t, v1::InvalidateCall>> waiting_ ABSL_GUARDED_BY(mu_);
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_LOCAL_INVALIDATE_WORKERS_H_
