// What the backend and its contexts share: the kernel, and what has been learned about the host's SMMUs and devices.

#ifndef VIOMMU_AGENT_SMMUV3_IOMMUFD_HOST_H_
#define VIOMMU_AGENT_SMMUV3_IOMMUFD_HOST_H_

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "agent/backend.h"
#include "agent/errno_status.h"
#include "agent/smmuv3/iommufd/fd_store.h"
#include "agent/smmuv3/iommufd/kernel.h"
#include "agent/smmuv3/iommufd/smmu_counters.h"
#include "agent/smmuv3/iommufd/sysfs.h"
#include "common/mutex.h"

namespace viommu::agent {

// Thread-safe.
class IommufdHost {
 public:
  // `store` may be null: then no context can outlive the process.
  explicit IommufdHost(Kernel* kernel, FdStore* store = nullptr)
      : kernel_(*kernel), store_(store), sysfs_(kernel->root()) {}
  IommufdHost(const IommufdHost&) = delete;
  IommufdHost& operator=(const IommufdHost&) = delete;

  Kernel& kernel() { return kernel_; }
  FdStore* store() const { return store_; }
  const Sysfs& sysfs() const { return sysfs_; }
  std::string DevPath(const std::string& name) const { return kernel_.root() + "/dev/" + name; }

  // Those of this SMMU; as long as the host lives.
  SmmuCounters& Counters(const std::string& smmu) ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(mu_);
    std::unique_ptr<SmmuCounters>& counters = counters_[smmu];
    if (counters == nullptr) counters = std::make_unique<SmmuCounters>();
    return *counters;
  }

  // Devices that stay bound when the process ends.
  void SetKept(const std::string& pci_address, bool kept) ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(mu_);
    if (kept) {
      kept_.insert(pci_address);
    } else {
      kept_.erase(pci_address);
    }
  }
  bool IsKept(const std::string& pci_address) const ABSL_LOCKS_EXCLUDED(mu_) {
    MutexLock lock(mu_);
    return kept_.contains(pci_address);
  }

 private:
  Kernel& kernel_;
  FdStore* const store_;
  const Sysfs sysfs_;
  mutable Mutex mu_;
  std::map<std::string, std::unique_ptr<SmmuCounters>> counters_ ABSL_GUARDED_BY(mu_);
  std::set<std::string> kept_ ABSL_GUARDED_BY(mu_);
};

// A call on `fd`; its size goes into the first member, where every request has it. 0 or an errno.
template <typename Request>
int CallKernel(Kernel& kernel, int fd, unsigned long number, Request& request) {
  *reinterpret_cast<uint32_t*>(&request) = sizeof(Request);
  const int result = kernel.Ioctl(fd, number, &request);
  return result < 0 ? -result : 0;
}

// OK for errno 0.
inline absl::Status CallStatus(int error_number, absl::string_view call, absl::string_view what) {
  return error_number == 0 ? absl::OkStatus() : ErrnoStatus(error_number, call, what);
}

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_IOMMUFD_HOST_H_
