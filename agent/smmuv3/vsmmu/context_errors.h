// Errors of the emulated context's calls, with the kernel's name of the call and what people need to know.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_CONTEXT_ERRORS_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_CONTEXT_ERRORS_H_

#include <cerrno>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "agent/errno_status.h"
#include "agent/smmuv3/vsmmu/host.h"
#include "agent/smmuv3/vsmmu/objects.h"

namespace viommu::agent {

inline absl::Status CallError(BackendOp op, int error_number, absl::string_view message) {
  return ErrnoStatus(error_number, BackendOpName(op), message);
}

inline absl::Status NoObject(BackendOp op, absl::string_view what, ObjectId id, int error_number = ENOENT) {
  return CallError(op, error_number, absl::StrCat("no ", what, " ", id));
}

// `object` belongs to SMMU `smmu`, the device does not.
inline absl::Status OtherSmmu(BackendOp op, const HostDevice& device, const Object& object, const HostSmmu& smmu) {
  return CallError(op, EINVAL,
                   absl::StrCat("device ", device.spec.info.pci_address, " is behind SMMU ", device.smmu->info().name,
                                ", ", ObjectKindName(object.kind), " ", object.id, " is on SMMU ", smmu.info().name));
}

inline absl::Status NoMemory(BackendOp op) { return CallError(op, ENOMEM, "no memory for translation tables"); }

inline absl::Status NoVmid(BackendOp op, const HostSmmu& smmu, absl::string_view way_out) {
  return CallError(op, ENOSPC, absl::StrCat("the VMIDs of SMMU ", smmu.info().name, " are used up; ", way_out));
}

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_CONTEXT_ERRORS_H_
