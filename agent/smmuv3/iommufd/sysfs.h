// PCI functions behind SMMUs as sysfs shows them, and which driver has them.
//
// Only links and small files are read:
//   /sys/bus/pci/devices/ADDRESS/iommu         → the SMMU: "smmu3.0x…" after its registers' address
//                               iommu_group    → the group's number
//                               driver         → "vfio-pci" when VFIO has it
//                               vfio-dev/vfioN the name of its /dev/vfio/devices/vfioN
//   /sys/firmware/acpi/tables/IORT

#ifndef VIOMMU_AGENT_SMMUV3_IOMMUFD_SYSFS_H_
#define VIOMMU_AGENT_SMMUV3_IOMMUFD_SYSFS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace viommu::agent {

struct PciFunction {
  std::string address;  // "0000:01:00.0"
  std::string smmu;     // empty: behind none
  uint32_t group = 0;
  std::string driver;     // empty: none
  std::string vfio_name;  // "vfio0"; empty: VFIO does not have it
};

// Whose a function is, to be given back to.
struct FormerDriver {
  std::string address;
  std::string driver;           // empty: none
  std::string driver_override;  // empty: none
};

// Thread-safe: it keeps nothing.
class Sysfs {
 public:
  // `root` stands in front of /sys.
  explicit Sysfs(std::string root) : root_(std::move(root)) {}
  virtual ~Sysfs() = default;

  // Whether `address` is written as the kernel writes it: a name, and never a path.
  static bool IsAddress(std::string_view address);

  // All functions behind an SMMUv3, by address.
  std::vector<PciFunction> Functions() const;
  // One of them; without address when there is no such function.
  PciFunction Find(std::string_view address) const;

  FormerDriver DriverOf(const std::string& address) const;
  // Gives the function to vfio-pci and to nobody else (driver_override). Errors carry an errno; then the function has
  // its driver and override again that it had, or the message says why not.
  absl::Status BindToVfio(const std::string& address) const;
  // Takes it away from vfio-pci, and gives it back.
  absl::Status UnbindFromVfio(const FormerDriver& former) const;

  // ACPI's IO Remapping Table; empty when there is none that can be read. At most kMaxIortBytes of it.
  std::string Iort() const;
  static constexpr size_t kMaxIortBytes = size_t{1} << 20;

  // The path of a function's folder in sysfs.
  std::string Folder(std::string_view address) const;

 protected:
  // One write() of `text`, which is one command to sysfs. Virtual for tests, whose files have no kernel that reacts.
  virtual absl::Status Write(const std::string& path, const std::string& text) const;

 private:
  absl::Status GiveToVfio(const PciFunction& function) const;
  // The opposite, for a function that vfio-pci does not have.
  absl::Status GiveBack(const FormerDriver& former) const;
  absl::Status WriteOverride(const FormerDriver& former) const;

  const std::string root_;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_IOMMUFD_SYSFS_H_
