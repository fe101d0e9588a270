// Queues of events and of faults.

#include <cerrno>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/smmuv3/vsmmu/context.h"
#include "agent/smmuv3/vsmmu/context_errors.h"

namespace viommu::agent {
absl::StatusOr<ObjectId> EmulatedContext::AllocVeventq(ObjectId viommu_id, VeventqType type, uint32_t depth) {
  constexpr BackendOp kOp = BackendOp::kAllocVeventq;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  if (type == VeventqType::kDefault) return CallError(kOp, EOPNOTSUPP, "type DEFAULT is no type");
  if (depth == 0 || depth > kMaxVeventqDepth) {
    return CallError(kOp, EINVAL, absl::StrCat("depth ", depth, "; 1 to ", kMaxVeventqDepth, " events"));
  }
  auto* viommu = table_.Find<ViommuObject>(viommu_id);
  if (viommu == nullptr) return NoObject(kOp, "viommu", viommu_id);
  auto object = std::make_unique<VeventqObject>();
  object->viommu = viommu;
  object->type = type;
  object->queue = std::make_shared<VeventQueue>(depth);
  if (!viommu->events->Add(type, object->queue)) {
    return CallError(kOp, EEXIST,
                     absl::StrCat("viommu ", viommu_id, " has an event queue of type ", static_cast<uint32_t>(type)));
  }
  ++viommu->users;
  return table_.Add(std::move(object));
}

absl::StatusOr<std::vector<Vevent>> EmulatedContext::ReadVeventq(ObjectId veventq_id, uint32_t max) {
  constexpr BackendOp kOp = BackendOp::kReadVeventq;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  auto* veventq = table_.Find<VeventqObject>(veventq_id);
  if (veventq == nullptr) return NoObject(kOp, "event queue", veventq_id);
  return veventq->queue->Read(max);
}

absl::StatusOr<ObjectId> EmulatedContext::AllocFaultQueue() {
  if (absl::Status status = host_->InjectedFailure(BackendOp::kAllocFaultQueue); !status.ok()) return status;
  MutexLock lock(control_mu_);
  return table_.Add(std::make_unique<FaultQueueObject>());
}

absl::StatusOr<std::vector<PageFault>> EmulatedContext::ReadFaults(ObjectId id, uint32_t max) {
  constexpr BackendOp kOp = BackendOp::kReadFaults;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  auto* faults = table_.Find<FaultQueueObject>(id);
  if (faults == nullptr) return NoObject(kOp, "fault queue", id);
  return faults->queue->Read(max);
}

absl::Status EmulatedContext::AnswerFault(ObjectId id, uint32_t cookie, PageResponseCode code) {
  constexpr BackendOp kOp = BackendOp::kAnswerFault;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  auto* faults = table_.Find<FaultQueueObject>(id);
  if (faults == nullptr) return NoObject(kOp, "fault queue", id);
  if (code != PageResponseCode::kSuccess && code != PageResponseCode::kInvalid) {
    return CallError(kOp, EINVAL, absl::StrCat("code ", static_cast<uint32_t>(code), "; SUCCESS (0) or INVALID (1)"));
  }
  const std::optional<StallTag> tag = faults->queue->Take(cookie);
  if (!tag.has_value()) return CallError(kOp, EINVAL, absl::StrCat("no fault waits under cookie ", cookie));
  tag->smmu->Resume(*tag, code);
  return absl::OkStatus();
}

}  // namespace viommu::agent
