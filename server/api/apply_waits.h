// Calls that wait until the hosts have answered (wait = APPLIED): each until its resources are settled, its deadline
// comes, its caller goes away or the server stops, whichever is first. There is a limit to how many there are, and to
// the memory that they hold meanwhile: request, answer, and what they wait for.
//
// Everything about a wait happens on one thread of this class, so that the writer's thread only ever notes an answer.
//
// Thread-safe.

#ifndef VIOMMU_SERVER_API_APPLY_WAITS_H_
#define VIOMMU_SERVER_API_APPLY_WAITS_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "server/commit/waiters.h"
#include "server/fleet/view.h"

namespace viommu::server {

class ApplyWaits {
 public:
  enum class End { kApplied, kDeadline, kCancelled, kStopped };

  // `resources` with kApplied: as the hosts' answers left them, in the order of `seen`; their revision.
  using Done = std::function<void(End end, const std::vector<RecordPtr>& resources, int64_t revision)>;

  // `waiters` and `clock` must outlive it; and it must outlive every commit that `waiters` listens to. `max_bytes` may
  // be exceeded by one call, and by what Reserve was told too little.
  ApplyWaits(Waiters& waiters, const Clock& clock, size_t max_waits, size_t max_bytes);
  ~ApplyWaits();

  // Takes one of the places, to be given to Start or Release once; 0: there is none, or no memory for it. `bytes`: what
  // the call will hold, as far as that is known before it is recorded.
  int64_t Reserve(size_t bytes);
  void Release(int64_t id);

  // Waits for all of `seen`, which are of one kind and not empty. `bytes`: what the call does hold. `done` is called
  // once, on the thread of this class.
  void Start(int64_t id, size_t bytes, Kind kind, std::vector<RecordPtr> seen, MonotonicTime deadline, Done done);

  // The caller has gone away. May come before Start, and after the end.
  void Cancel(int64_t id);

  // Ends every wait with kStopped, now and from now on. Returns at once.
  void EndAll();

  int64_t count() const;
  // What they hold.
  size_t bytes() const;

 private:
  struct Wait {
    // Guarded by mu_.
    size_t bytes = 0;
    bool started = false;
    bool cancelled = false;
    std::optional<std::pair<RecordPtr, int64_t>> answer;
    // The thread's own from Start on.
    Kind kind{};
    std::vector<RecordPtr> seen;
    MonotonicTime deadline;
    Done done;
    bool in_deadlines = false;
    int64_t waiter = 0;  // under way; 0: none
    std::vector<RecordPtr> settled;
    int64_t revision = 0;
  };

  void Loop();
  // Takes a wait as far as it gets now.
  void Advance(int64_t id);
  // Whether an answer was there; it is taken over.
  bool TakeAnswer(Wait& wait);
  void Notify(int64_t id, const RecordPtr& resource, int64_t revision);

  Waiters& waiters_;
  const Clock& clock_;
  const size_t max_waits_;
  const size_t max_bytes_;

  mutable Mutex mu_;
  CondVar work_;
  int64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  // Only the thread takes started ones away.
  absl::flat_hash_map<int64_t, std::unique_ptr<Wait>> waits_ ABSL_GUARDED_BY(mu_);
  size_t bytes_ ABSL_GUARDED_BY(mu_) = 0;           // of all of them
  std::deque<int64_t> ready_ ABSL_GUARDED_BY(mu_);  // to be advanced
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;

  std::set<std::pair<MonotonicTime, int64_t>> deadlines_;  // the thread's own
  std::thread thread_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_APPLY_WAITS_H_
