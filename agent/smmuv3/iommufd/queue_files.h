// The queues that a context reads: each is an object of the kernel with a file of its own, which nobody can have again
// once it is closed. Guests' events, and page requests that devices have made.
//
// Ids are the kernel's. What is read is handed on as it is; a queue that is not here is an ENOENT.

#ifndef VIOMMU_AGENT_SMMUV3_IOMMUFD_QUEUE_FILES_H_
#define VIOMMU_AGENT_SMMUV3_IOMMUFD_QUEUE_FILES_H_

#include <cstdint>
#include <map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/backend.h"
#include "agent/smmuv3/iommufd/kernel.h"
#include "common/mutex.h"

namespace viommu::agent {

// Thread-safe, with a lock of its own: whoever reads the events of all VMs does not wait for one's control calls.
class EventQueues {
 public:
  // `kernel` outlives it.
  explicit EventQueues(Kernel* kernel) : kernel_(*kernel) {}

  void Add(ObjectId id, KernelFile file, VeventqType type);
  // At most `max` events, none when there are no more. EIO: what was read is not made of whole records.
  absl::StatusOr<std::vector<Vevent>> Read(ObjectId id, uint32_t max);
  // Of an event queue or of nothing.
  void Close(ObjectId id);
  void CloseAll();

 private:
  struct Queue {
    KernelFile file;
    VeventqType type;
  };

  Kernel& kernel_;
  Mutex mu_;
  std::map<ObjectId, Queue> queues_ ABSL_GUARDED_BY(mu_);
};

// Not thread-safe.
class FaultQueues {
 public:
  // `kernel` outlives it.
  explicit FaultQueues(Kernel* kernel) : kernel_(*kernel) {}

  void Add(ObjectId id, KernelFile file);
  // The HWPT was made with the queue; it is gone. Of HWPTs without one: nothing.
  void HwptNames(ObjectId hwpt, ObjectId id);
  void HwptIsGone(ObjectId hwpt);
  // At most `max`, of one read().
  absl::StatusOr<std::vector<PageFault>> Read(ObjectId id, uint32_t max);
  absl::Status Answer(ObjectId id, uint32_t cookie, PageResponseCode code);
  // Of a fault queue or of nothing. EBUSY: HWPTs name it, and the kernel would keep it without a way back to it.
  absl::Status Close(ObjectId id);
  void CloseAll() { queues_.clear(); }

 private:
  struct Queue {
    KernelFile file;
    uint32_t hwpts = 0;  // that name it
  };

  Kernel& kernel_;
  std::map<ObjectId, Queue> queues_;
  std::map<ObjectId, ObjectId> queue_of_hwpt_;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_IOMMUFD_QUEUE_FILES_H_
