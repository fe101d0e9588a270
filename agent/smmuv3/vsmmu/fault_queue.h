// Transactions that wait for somebody's answer after a fault: what Linux keeps behind a FAULT file descriptor.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_FAULT_QUEUE_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_FAULT_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "agent/backend.h"
#include "common/mutex.h"

namespace viommu::agent {

class HostSmmu;

// Which transaction: what CMD_RESUME names.
struct StallTag {
  HostSmmu* smmu = nullptr;
  uint32_t sid = 0;
  uint16_t stag = 0;

  friend bool operator==(const StallTag&, const StallTag&) = default;
};

// Thread-safe: faults come from the SMMU's side while others are read and answered.
class FaultQueue {
 public:
  // Faults that may wait at a time; SMMUs have fewer tags for stalls.
  static constexpr size_t kMaxWaiting = 65536;

  // False: it is full or closed, nobody will answer.
  [[nodiscard]] bool Push(const PageFault& fault, const StallTag& tag) ABSL_LOCKS_EXCLUDED(mu_);
  // Takes up to `max`, with the lowest free cookies, from 0; they wait for their answers.
  std::vector<PageFault> Read(uint32_t max) ABSL_LOCKS_EXCLUDED(mu_);
  // What waits under this cookie; it does not any more.
  std::optional<StallTag> Take(uint32_t cookie) ABSL_LOCKS_EXCLUDED(mu_);
  // Everything of one stream, read or not.
  std::vector<StallTag> TakeStream(const HostSmmu* smmu, uint32_t sid) ABSL_LOCKS_EXCLUDED(mu_);
  // Everything; and nothing comes in any more.
  std::vector<StallTag> Close() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  Mutex mu_;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  std::deque<std::pair<PageFault, StallTag>> unread_ ABSL_GUARDED_BY(mu_);
  std::map<uint32_t, StallTag> waiting_ ABSL_GUARDED_BY(mu_);  // by cookie
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_FAULT_QUEUE_H_
