// Wakes the watches that have nothing to send when there is something new.
//
// It also lets each watch look at the time.
//
// A commit costs the writer's thread one flag; a thread of the hub's own lets the watches look. A watch that is behind
// goes on by itself and does not concern the hub.
//
// What a change costs a watch is mostly the message, so that many watches and many changes are more than the machine
// can do when each change goes to each of them alone. After it has woken the watches, the hub therefore rests for twice
// the time that this took, at most kMaxRest, and what gathers meanwhile goes out together. A change that comes alone
// goes out at once.
//
// Thread-safe.

#ifndef VIOMMU_SERVER_API_WATCH_HUB_H_
#define VIOMMU_SERVER_API_WATCH_HUB_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "server/api/limits.h"
#include "server/commit/core.h"

namespace viommu::server {

class WatchHub final : public Listener {
 public:
  static constexpr std::chrono::milliseconds kMaxRest{20};

  class Watch {
   public:
    virtual ~Watch() = default;
    // There may be something to send, or it is time for a progress mark.
    virtual void Wake() = 0;
    // About once a second.
    virtual void Tick() = 0;
    // Ends the watch with `status` as soon as no message is under way. Any number of times.
    virtual void End(const absl::Status& status) = 0;
  };

  explicit WatchHub(size_t max_watches, size_t max_snapshots = kMaxSnapshots);
  ~WatchHub() override;

  // RESOURCE_EXHAUSTED, OVERLOADED: there are too many. UNAVAILABLE, SHUTTING_DOWN.
  absl::Status Add(const std::shared_ptr<Watch>& watch);
  void Remove(const Watch* watch);

  // One of the places for watches that read what is there; it is free again when the pointer is gone, which may outlive
  // the hub. RESOURCE_EXHAUSTED, OVERLOADED: there is none.
  absl::StatusOr<std::shared_ptr<void>> TakeSnapshotPlace();

  // Number of the last commit that the hub knows of. A watch takes it before it looks for something to send…
  uint64_t commits() const;
  // … and, having found nothing, asks to be woken when there were commits since, at the latest after a second.
  void Park(const std::shared_ptr<Watch>& watch, uint64_t commits_seen);

  // Ends every watch with SHUTTING_DOWN and takes no more. Returns at once.
  void EndAll();

  void OnCommit(const std::vector<ChangeSetPtr>& sets) override;

  int64_t count() const;

 private:
  void Loop();
  std::vector<std::shared_ptr<Watch>> All() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const size_t max_watches_;
  const size_t max_snapshots_;
  const std::shared_ptr<std::atomic<size_t>> snapshots_ = std::make_shared<std::atomic<size_t>>(0);
  mutable Mutex mu_;
  CondVar work_;
  absl::flat_hash_map<const Watch*, std::weak_ptr<Watch>> watches_ ABSL_GUARDED_BY(mu_);
  std::vector<std::shared_ptr<Watch>> parked_ ABSL_GUARDED_BY(mu_);
  uint64_t commits_ ABSL_GUARDED_BY(mu_) = 0;
  bool due_ ABSL_GUARDED_BY(mu_) = false;     // wake the parked ones now
  bool ending_ ABSL_GUARDED_BY(mu_) = false;  // no more watches
  bool stop_ ABSL_GUARDED_BY(mu_) = false;    // the thread
  std::thread thread_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_WATCH_HUB_H_
