// Callers that wait until the host has answered about a resource (wait = APPLIED).
//
// Thread-safe.

#ifndef VIOMMU_SERVER_COMMIT_WAITERS_H_
#define VIOMMU_SERVER_COMMIT_WAITERS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/mutex.h"
#include "server/commit/core.h"
#include "server/fleet/view.h"

namespace viommu::server {

class Waiters final : public Listener {
 public:
  // `resource` is its state as of `revision`; when it is gone, its last one.
  using Callback = std::function<void(const RecordPtr& resource, int64_t revision)>;

  // `core` must outlive the waiters; the waiters must be one of its listeners.
  explicit Waiters(const CommitCore& core) : core_(core) {}

  // Calls `callback` once: as soon as the host has answered about `generation` or a later one of the resource `uid`
  // (READY, DORMANT or FAILED), or it is gone; at once, if that is so already. `seen` is the resource as the caller
  // knows it: it tells where to look. The callback runs on the caller's thread or the writer's; it must not block and
  // must not call Add or Cancel. Returns an id for Cancel.
  int64_t Add(Kind kind, const RecordPtr& seen, Callback callback);

  // After it returned true the callback will not be called; false: it was, or is being called.
  bool Cancel(int64_t id);

  void OnCommit(const std::vector<ChangeSetPtr>& sets) override;

  int64_t count() const;

 private:
  struct Waiter {
    int64_t id;
    int64_t generation;
    Callback callback;
  };

  const CommitCore& core_;
  mutable Mutex mu_;
  int64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  absl::flat_hash_map<std::string, std::vector<Waiter>> by_uid_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<int64_t, std::string> uid_of_ ABSL_GUARDED_BY(mu_);
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_COMMIT_WAITERS_H_
