// From a backend's error to the reason that a resource's state carries.

#ifndef VIOMMU_AGENT_RECONCILE_REASONS_H_
#define VIOMMU_AGENT_RECONCILE_REASONS_H_

#include <string>

#include "absl/status/status.h"
#include "viommu/v1/errors.pb.h"
#include "viommu/v1/resources.pb.h"

namespace viommu::agent {

// Which call failed.
enum class Operation {
  kOpenContext,
  kBind,
  kAllocIoas,
  kAllocStage2,
  kAllocViommu,
  kAllocVdevice,
  kAllocNested,
  kAllocHwQueue,
  kAllocVeventq,
  kMapMemory,
  kAttach,
  kDetach,
  kDestroy,
  kUnbind,
  kJournal,
};

// "VDEVICE_ALLOC": the call's name in the kernel's interface.
const char* OperationName(Operation operation);

v1::StateReason MakeReason(v1::ErrorReason reason, std::string message, int error_number = 0);

// The nearest reason there is; BACKEND_FAILED when none is nearer. The errno goes along.
v1::StateReason ReasonOfFailure(Operation operation, const absl::Status& status);

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_RECONCILE_REASONS_H_
