// The VMIDs, or the ASIDs, of one SMMU: what tags the entries of its TLB. 1 to 2^bits - 1, the lowest free one first,
// as in Linux. 0 is nobody's.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_TAG_ALLOCATOR_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_TAG_ALLOCATOR_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"

namespace viommu::agent {

// Thread-safe.
class TagAllocator {
 public:
  // `bits`: 8 or 16.
  explicit TagAllocator(uint32_t bits);

  // Nothing when all are taken.
  std::optional<uint16_t> Allocate() ABSL_LOCKS_EXCLUDED(mu_);
  // `tag` must be taken.
  void Free(uint16_t tag) ABSL_LOCKS_EXCLUDED(mu_);

  uint32_t used() const ABSL_LOCKS_EXCLUDED(mu_);
  uint32_t total() const { return total_; }

 private:
  const uint32_t total_;
  mutable Mutex mu_;
  uint32_t used_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<uint64_t> taken_ ABSL_GUARDED_BY(mu_);  // a bit per tag; 0 counts as taken
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_TAG_ALLOCATOR_H_
