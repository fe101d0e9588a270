// Which devices the agent has taken from their drivers for vfio-pci, and to whom they go back.
//
// It is written down before a device is taken: whoever finds the device with vfio-pci could not tell any more, and the
// agent that gives it back may be another than the one that took it. A boot makes it void, with everything it tells of.

#ifndef VIOMMU_AGENT_SMMUV3_IOMMUFD_BINDINGS_H_
#define VIOMMU_AGENT_SMMUV3_IOMMUFD_BINDINGS_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "agent/smmuv3/iommufd/sysfs.h"

namespace viommu::agent {

// Not thread-safe.
class Bindings {
 public:
  // Reads what earlier agents of this boot have taken. `directory`, where it is written, belongs to one agent at a
  // time; empty: it is kept in memory alone.
  Bindings(const Sysfs* sysfs, const std::string& directory, std::string boot_id);

  // Takes a device, unless vfio-pci has it already. Errors carry an errno.
  absl::Status Take(const std::string& address);

  // Gives all devices back but those that are to stay; what fails is told, and tried again by the next agent.
  void GiveBack(const std::function<bool(const std::string& address)>& stays,
                const std::function<void(const std::string& address, const absl::Status& why)>& on_error);

 private:
  void Read();
  absl::Status Write() const;

  const Sysfs& sysfs_;
  const std::string path_;
  const std::string boot_id_;
  std::vector<FormerDriver> taken_;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_IOMMUFD_BINDINGS_H_
