#include "agent/reconcile/reasons.h"

#include <cerrno>
#include <cstdlib>
#include <utility>

#include "agent/errno_status.h"
#include "common/error.h"

namespace viommu::agent {
namespace {

v1::ErrorReason Nearest(Operation operation, int error_number) {
  switch (operation) {
    case Operation::kJournal:
      return v1::ERROR_REASON_STORE_UNAVAILABLE;
    case Operation::kBind:
      if (error_number == ENODEV) return v1::ERROR_REASON_DEVICE_NOT_FOUND;
      break;
    case Operation::kAllocStage2:
    case Operation::kAllocViommu:
      if (error_number == ENOSPC) return v1::ERROR_REASON_VMID_EXHAUSTED;
      if (error_number == EOPNOTSUPP) return v1::ERROR_REASON_SMMU_INCAPABLE;
      break;
    case Operation::kAllocNested:
      if (error_number == EIO) return v1::ERROR_REASON_VSTE_INVALID;
      break;
    case Operation::kAllocHwQueue:
      if (error_number == ENOENT) return v1::ERROR_REASON_MEMORY_NOT_MAPPED;
      if (error_number == EOPNOTSUPP) return v1::ERROR_REASON_SMMU_INCAPABLE;
      break;
    case Operation::kAttach:
      if (error_number == ENOSPC) return v1::ERROR_REASON_VMID_EXHAUSTED;
      break;
    default:
      break;
  }
  return v1::ERROR_REASON_BACKEND_FAILED;
}

}  // namespace

const char* OperationName(Operation operation) {
  switch (operation) {
    case Operation::kOpenContext:
      return "OPEN";
    case Operation::kBind:
      return "BIND_IOMMUFD";
    case Operation::kAllocIoas:
      return "IOAS_ALLOC";
    case Operation::kAllocStage2:
      return "HWPT_ALLOC(stage 2)";
    case Operation::kAllocViommu:
      return "VIOMMU_ALLOC";
    case Operation::kAllocVdevice:
      return "VDEVICE_ALLOC";
    case Operation::kAllocNested:
      return "HWPT_ALLOC(nested)";
    case Operation::kAllocHwQueue:
      return "HW_QUEUE_ALLOC";
    case Operation::kAllocVeventq:
      return "VEVENTQ_ALLOC";
    case Operation::kMapMemory:
      return "IOAS_MAP_FILE";
    case Operation::kAttach:
      return "ATTACH_IOMMUFD_PT";
    case Operation::kDetach:
      return "DETACH_IOMMUFD_PT";
    case Operation::kDestroy:
      return "DESTROY";
    case Operation::kUnbind:
      return "UNBIND";
    case Operation::kJournal:
      return "journal";
  }
  std::abort();
}

v1::StateReason MakeReason(v1::ErrorReason reason, std::string message, int error_number) {
  v1::StateReason result;
  result.set_reason(ReasonName(reason));
  result.set_message(std::move(message));
  result.set_error_number(error_number);
  return result;
}

v1::StateReason ReasonOfFailure(Operation operation, const absl::Status& status) {
  const int error_number = StatusErrno(status);
  return MakeReason(Nearest(operation, error_number), std::string(status.message()), error_number);
}

}  // namespace viommu::agent
