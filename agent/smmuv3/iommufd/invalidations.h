// The way of one viommu's invalidations to the kernel: HWPT_INVALIDATE calls, each for as many callers as wait.
//
// The kernel checks the commands of a call in order and issues them in groups of 63 with a sync behind each. A call for
// several callers therefore cannot tell them apart when it fails: the count that comes back is that of the first
// command refused (Linux 7.2) or of the groups done (after it), and nothing else of that group has been issued. So what
// the failed call has certainly not done is called again, caller by caller: each gets the answer that it would have got
// alone. Doing an invalidation twice is harmless.

#ifndef VIOMMU_AGENT_SMMUV3_IOMMUFD_INVALIDATIONS_H_
#define VIOMMU_AGENT_SMMUV3_IOMMUFD_INVALIDATIONS_H_

#include <array>
#include <cstdint>
#include <span>

#include "agent/backend.h"
#include "agent/smmuv3/iommufd/kernel.h"
#include "agent/smmuv3/iommufd/smmu_counters.h"
#include "agent/smmuv3/queue/combiner.h"
#include "agent/smmuv3/spec/words.h"

namespace viommu::agent {

// How a call ended: 0 or an errno, and the kernel's count of entries.
struct InvalidateAnswer {
  int error_number = 0;
  uint32_t handled = 0;
};

// One HWPT_INVALIDATE as it is given.
InvalidateAnswer CallInvalidate(Kernel& kernel, int iommufd, ObjectId id, const InvalidateArray& array);

// Thread-safe.
class Invalidations {
 public:
  // Commands in one ioctl, whole groups: the kernel copies them into one piece of memory, which it may not find for the
  // largest array that it takes (8 MiB: ENOMEM). 64 KiB are always there, and one ioctl more for 64 syncs costs
  // nothing.
  static constexpr size_t kMaxCall = size_t{64} * kKernelGroup;
  // Commands in one call for several callers: 16 groups. The kernel wants one piece of memory for all commands of a
  // call, and a caller waits for those of the others.
  static constexpr size_t kMaxTogether = size_t{16} * kKernelGroup;

  // `kernel` and `counters` outlive it, and so does the descriptor.
  Invalidations(Kernel* kernel, int iommufd, ObjectId viommu, SmmuCounters* counters)
      : kernel_(*kernel), iommufd_(iommufd), viommu_(viommu), counters_(*counters) {}
  Invalidations(const Invalidations&) = delete;
  Invalidations& operator=(const Invalidations&) = delete;

  SmmuCounters& counters() { return counters_; }

  // Carries out 1 to kMaxInvalidateEntries commands; returns when they have taken effect, or have failed. Does not
  // allocate.
  InvalidateAnswer Invalidate(std::span<const smmuv3::RawCommand> commands);

 private:
  struct Request;
  using Requests = smmuv3::Combiner<Request>;
  struct Request : Requests::Link {
    std::span<const smmuv3::RawCommand> commands;
    InvalidateAnswer answer;
  };

  // By whoever is at work: no two at a time.
  void Serve(Request* first);
  // The row from `first` to `end`, which it does not include: together at most kMaxTogether.
  void ServeTogether(Request* first, const Request* end);
  // In as many ioctls as it takes.
  InvalidateAnswer Call(std::span<const smmuv3::RawCommand> commands);

  Kernel& kernel_;
  const int iommufd_;
  const ObjectId viommu_;
  SmmuCounters& counters_;
  Requests requests_;
  std::array<smmuv3::RawCommand, kMaxTogether> together_;  // belongs to whoever is at work
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_IOMMUFD_INVALIDATIONS_H_
