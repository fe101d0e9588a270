// Reads the event queues of the host's viommus: what their guests have done wrong, as the SMMU records it (IHI 0070,
// 7.3), with the guests' own StreamIDs.
//
// One thread reads all queues in turns, because the seam has no descriptor to wait for. Of each queue a turn takes
// kMaxPerTurn events at most, the last kMaxKept of each viommu are kept, and lines of the log have limits of their own:
// a guest whose device faults without end fills its own queue, and what does not fit there is lost and counted.
//
// As with Targets, a queue may only be destroyed after Remove() has returned.
//
// Thread-safe. Only the reconciler adds and removes.

#ifndef VIOMMU_AGENT_RECONCILE_GUEST_EVENTS_H_
#define VIOMMU_AGENT_RECONCILE_GUEST_EVENTS_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "agent/backend.h"
#include "agent/smmuv3/spec/event.h"
#include "common/clock.h"
#include "common/mutex.h"

namespace viommu::agent {

// An event of a viommu.
struct GuestEvent {
  // The viommu's events are numbered from 1, those that were lost as well.
  uint64_t number = 0;
  WallTime time;  // when it was read
  smmuv3::RawEvent record = {};
};

class GuestEvents {
 public:
  static constexpr uint32_t kQueueDepth = 256;  // events of one viommu that wait to be read
  static constexpr uint32_t kMaxPerTurn = 64;   // that are read of one viommu
  static constexpr size_t kMaxKept = 128;       // of one viommu
  static constexpr std::chrono::milliseconds kTurnEvery{100};
  static constexpr std::chrono::seconds kLogEvery{60};  // one line about one viommu
  static constexpr int kMaxLines = 10;                  // in kLogEvery, about all viommus

  struct Options {
    const Clock* clock = &RealClock();
    // Optional, and called with a lock held: each event, by its id; as many as were lost.
    std::function<void(uint8_t id)> on_event;
    std::function<void(uint64_t count)> on_lost;
  };

  // A queue that is there.
  struct Queue {
    std::string viommu;  // name
    std::string vm;
    Context* context = nullptr;
    ObjectId id = 0;
  };

  // What is known of the events of a viommu.
  struct Events {
    std::vector<GuestEvent> kept;  // by number
    uint64_t count = 0;            // so far, those that were lost as well
    uint64_t lost = 0;
    WallTime since;  // when the queue was made
  };

  explicit GuestEvents(Options options) : options_(std::move(options)) {}
  ~GuestEvents() { Stop(); }

  // `uid`: of the viommu, which has no queue here.
  void Add(const std::string& uid, Queue queue);
  // Its queue is about to be destroyed; does nothing when it has none. Returns when nobody reads it any more. What is
  // kept of it is gone.
  void Remove(const std::string& uid);

  // Events of a viommu with a number above `after`; with one that no event has yet, those of another queue that had the
  // viommu's name, all. Nothing when it has no queue.
  std::optional<Events> List(std::string_view viommu, uint64_t after) const;
  size_t queues() const;

  // Reads each queue once.
  void Turn();

  // Takes turns in a thread, one every kTurnEvery as long as there are queues.
  void Start();
  // Idempotent.
  void Stop();

 private:
  struct Entry {
    Queue queue;
    Events events;  // without those that are kept
    std::deque<GuestEvent> kept;
    uint32_t next_sequence = 0;
    bool being_read = false;
    bool failed = false;  // the last time
    std::optional<MonotonicTime> logged;
    uint64_t unlogged = 0;  // events since
  };

  // The queue behind `uid`, for EndRead(); sets `uid` to its own. Nothing behind the last.
  std::optional<Queue> BeginRead(std::string& uid) ABSL_LOCKS_EXCLUDED(mu_);
  void EndRead(const std::string& uid, const absl::StatusOr<std::vector<Vevent>>& events) ABSL_LOCKS_EXCLUDED(mu_);
  void Take(Entry& entry, const Vevent& event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Tell(Entry& entry, const smmuv3::RawEvent& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Loop();

  const Options options_;
  mutable Mutex mu_;
  CondVar changed_;                                            // a queue came, was read, or stop_ was set
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mu_);  // by uid
  std::optional<MonotonicTime> lines_since_ ABSL_GUARDED_BY(mu_);
  int lines_ ABSL_GUARDED_BY(mu_) = 0;  // since then
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_RECONCILE_GUEST_EVENTS_H_
