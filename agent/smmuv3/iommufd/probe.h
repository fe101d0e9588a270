// Finds out what a host's kernel and SMMUs can do, by asking for it: versions and configuration files do not tell.

#ifndef VIOMMU_AGENT_SMMUV3_IOMMUFD_PROBE_H_
#define VIOMMU_AGENT_SMMUV3_IOMMUFD_PROBE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "agent/backend.h"
#include "agent/smmuv3/iommufd/context.h"
#include "agent/smmuv3/iommufd/host.h"
#include "agent/smmuv3/iommufd/sysfs.h"

namespace viommu::agent {

// What was learned with one device.
struct ProbedDevice {
  DeviceInfo info;
  HwInfo hw;
  std::optional<HwQueueInventory> hw_queue;
  // Each call that agents need, in the order of a VM's life, with the kernel's answer where it was refused.
  std::vector<Capability> abilities;
};

// Binds the device to a context of its own for a moment, and makes one of everything. Opening a VFIO device may reset
// it: not for one in use, which is refused (EINVAL, EBUSY) without harm.
absl::StatusOr<ProbedDevice> ProbeDevice(IommufdHost& host, const PciFunction& function);

// The same with a device that a context has that was adopted: nothing is made in it, so that abilities are those that
// what is there shows.
absl::StatusOr<ProbedDevice> ProbeAdopted(IommufdContext& context, ObjectId device, const PciFunction& function);

// Whether VMs' memory can be pinned, for a process that may lock `limit` bytes (RLIMIT_MEMLOCK) or has CAP_IPC_LOCK.
Capability MemlockAbility(uint64_t limit, bool has_ipc_lock);

// What `viommu-agent --check-host` prints.
struct HostCheck {
  std::vector<Capability> items;
  bool can_serve = false;  // some device can be given to a VM behind a viommu
};

// Asks all devices that vfio-pci has. Without privileges it says what it could not open.
HostCheck CheckHost(IommufdHost& host);

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_IOMMUFD_PROBE_H_
