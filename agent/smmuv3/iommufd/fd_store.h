// A place outside of the process that keeps descriptors for the next one: systemd's file descriptor store.

#ifndef VIOMMU_AGENT_SMMUV3_IOMMUFD_FD_STORE_H_
#define VIOMMU_AGENT_SMMUV3_IOMMUFD_FD_STORE_H_

#include <string>
#include <vector>

namespace viommu::agent {

// Thread-safe.
class FdStore {
 public:
  struct Entry {
    std::string name;
    int fd = -1;
  };

  virtual ~FdStore() = default;

  // What earlier processes have left; the caller owns the descriptors. Once.
  virtual std::vector<Entry> Take() = 0;
  // Keeps the file of `fd`, too. Names are of letters, digits, "-" and ".". Nobody says whether there was room for it.
  virtual void Add(const std::string& name, int fd) = 0;
  // Lets go of it: when it returns the store has closed its descriptor, unless it takes very long.
  virtual void Remove(const std::string& name) = 0;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_IOMMUFD_FD_STORE_H_
