// Who may sync: at most so many sessions at once are sent what their agents lack, the others wait in order.
//
// Thread-safe.

#ifndef VIOMMU_SERVER_SYNC_SYNC_SLOTS_H_
#define VIOMMU_SERVER_SYNC_SYNC_SLOTS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>

#include "absl/container/flat_hash_set.h"
#include "common/mutex.h"

namespace viommu::server {

class SyncSlots {
 public:
  explicit SyncSlots(size_t max_active) : max_active_(max_active) {}

  // Whether session `id` has a slot at once; else it waits until a Release returns it. Ids rise, so that their order is
  // the order of arrival.
  bool Want(int64_t id) {
    MutexLock lock(mu_);
    if (active_.size() < max_active_) {
      active_.insert(id);
      return true;
    }
    waiting_.insert(id);
    return false;
  }

  // `id` gives back its slot, or waits no longer. Returns the session that has a slot now instead, if any.
  std::optional<int64_t> Release(int64_t id) {
    MutexLock lock(mu_);
    waiting_.erase(id);
    if (active_.erase(id) == 0 || waiting_.empty()) return std::nullopt;
    const int64_t next = *waiting_.begin();
    waiting_.erase(waiting_.begin());
    active_.insert(next);
    return next;
  }

  size_t active() const {
    MutexLock lock(mu_);
    return active_.size();
  }
  size_t waiting() const {
    MutexLock lock(mu_);
    return waiting_.size();
  }

 private:
  const size_t max_active_;
  mutable Mutex mu_;
  absl::flat_hash_set<int64_t> active_ ABSL_GUARDED_BY(mu_);
  std::set<int64_t> waiting_ ABSL_GUARDED_BY(mu_);
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_SYNC_SYNC_SLOTS_H_
