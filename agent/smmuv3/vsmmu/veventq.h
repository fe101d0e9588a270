// Event queues of a viommu, with the kernel's rules for what is lost.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_VEVENTQ_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_VEVENTQ_H_

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "agent/backend.h"
#include "agent/smmuv3/spec/event.h"
#include "common/mutex.h"

namespace viommu::agent {

// Thread-safe.
//
// When it is full, events are dropped, and one mark "lost" stands at the end: until it is read, or until a later event
// is queued, whose number then tells of the gap.
class VeventQueue {
 public:
  // Holds `depth` (> 0) events.
  explicit VeventQueue(uint32_t depth) : depth_(depth) {}

  void Push(const smmuv3::RawEvent& record) ABSL_LOCKS_EXCLUDED(mu_);
  // Takes out up to `max` events; a mark counts as one.
  std::vector<Vevent> Read(uint32_t max) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  const uint32_t depth_;
  Mutex mu_;
  uint32_t next_sequence_ ABSL_GUARDED_BY(mu_) = 0;
  bool lost_ ABSL_GUARDED_BY(mu_) = false;
  uint32_t lost_sequence_ ABSL_GUARDED_BY(mu_) = 0;
  std::deque<Vevent> events_ ABSL_GUARDED_BY(mu_);
};

// The event queues of one viommu, at most one of each type. Thread-safe: events come from the SMMU's side while queues
// come and go.
class ViommuEvents {
 public:
  // False when there is one of this type.
  bool Add(VeventqType type, std::shared_ptr<VeventQueue> queue) ABSL_LOCKS_EXCLUDED(mu_);
  void Remove(VeventqType type) ABSL_LOCKS_EXCLUDED(mu_);
  // Queues an SMMU's record, with the guest's StreamID. False, and nothing happens, where there is no queue of the
  // SMMU's type; a queue that is full counts it as lost.
  bool Deliver(const smmuv3::RawEvent& record) ABSL_LOCKS_EXCLUDED(mu_);
  // Queues an event of the hardware queues: one bit for each that stands at an error; drops it where there is no queue
  // of the CMDQV's type. In Vevent::record it is the first two words.
  void DeliverQueueErrors(const std::array<uint64_t, 2>& map) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  bool Push(VeventqType type, const smmuv3::RawEvent& record) ABSL_LOCKS_EXCLUDED(mu_);

  Mutex mu_;
  std::map<VeventqType, std::shared_ptr<VeventQueue>> queues_ ABSL_GUARDED_BY(mu_);
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_VEVENTQ_H_
