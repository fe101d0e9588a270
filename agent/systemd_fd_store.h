// systemd's file descriptor store (sd_notify(3), FDSTORE=1; FileDescriptorStoreMax= of the unit) as the iommufd backend
// wants it.

#ifndef VIOMMU_AGENT_SYSTEMD_FD_STORE_H_
#define VIOMMU_AGENT_SYSTEMD_FD_STORE_H_

#include <memory>

#include "agent/smmuv3/iommufd/fd_store.h"

namespace viommu::agent {

// Null without systemd (no NOTIFY_SOCKET). systemd does not say whether the unit has a store with room: what was not
// kept is not there when the next process looks. Remove() waits for 5 s at most.
std::unique_ptr<FdStore> OpenSystemdFdStore();

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SYSTEMD_FD_STORE_H_
