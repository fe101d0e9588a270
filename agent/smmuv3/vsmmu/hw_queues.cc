// Hardware queues: what iommufd and Linux's tegra241-cmdqv driver do for viommus of that type.

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/smmuv3/spec/cmdqv.h"
#include "agent/smmuv3/spec/words.h"
#include "agent/smmuv3/vsmmu/context.h"
#include "agent/smmuv3/vsmmu/context_errors.h"
#include "common/mutation.h"

namespace viommu::agent {
namespace {

constexpr uint64_t kCommandBytes = sizeof(smmuv3::RawCommand);
constexpr uint64_t kMinQueueBytes = kCommandBytes << smmuv3::Vcmdq::kMinLog2Size;

uint64_t MaxQueueBytes(const smmuv3::Features& features) {
  const uint32_t architecture = features.cmdq_log2_size == 0 ? smmuv3::Vcmdq::kMaxLog2Size : features.cmdq_log2_size;
  return kCommandBytes << std::min(architecture, smmuv3::Vcmdq::kMaxLog2Size);
}

absl::Status NoQueues(BackendOp op, ObjectId id) {
  return CallError(op, EOPNOTSUPP,
                   absl::StrCat("viommu ", id, " has no hardware queues; allocate one of type TEGRA241_CMDQV (2)"));
}

}  // namespace

absl::StatusOr<std::vector<IoasMapping*>> EmulatedContext::MappingsOf(BackendOp op, IoasObject& ioas, uint64_t iova,
                                                                      uint64_t length, uint64_t* physical) {
  std::vector<IoasMapping*> mappings;
  auto mapping = ioas.mappings.upper_bound(iova);
  if (mapping == ioas.mappings.begin()) return CallError(op, ENOENT, "the queue's memory is not mapped");
  --mapping;
  bool contiguous = true;
  for (uint64_t done = 0; done < length; ++mapping) {
    const uint64_t place = iova + done;
    if (mapping == ioas.mappings.end() || place < mapping->first || place - mapping->first >= mapping->second.length) {
      return CallError(op, ENOENT, "the queue's memory is not all mapped");
    }
    const uint64_t offset = place - mapping->first;
    if (done == 0) *physical = mapping->second.physical + offset;
    contiguous = contiguous && mapping->second.physical + offset == *physical + done;
    mappings.push_back(&mapping->second);
    done += std::min(length - done, mapping->second.length - offset);
  }
  if (!contiguous) {
    return CallError(op, EFAULT, "the queue's memory is in several pieces; map it from one file, in one piece");
  }
  return mappings;
}

absl::StatusOr<ObjectId> EmulatedContext::AllocHwQueue(ObjectId viommu_id, HwQueueType type, uint32_t index,
                                                       uint64_t iova, uint64_t length) {
  constexpr BackendOp kOp = BackendOp::kAllocHwQueue;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  if (type == HwQueueType::kDefault) return CallError(kOp, EOPNOTSUPP, "type DEFAULT is no type");
  if (length == 0) return CallError(kOp, EINVAL, "length 0");
  if (iova > std::numeric_limits<uint64_t>::max() - (length - 1)) {
    return CallError(kOp, EOVERFLOW, "beyond the end of the address space");
  }
  auto* viommu = table_.Find<ViommuObject>(viommu_id);
  if (viommu == nullptr) return NoObject(kOp, "viommu", viommu_id);
  if (viommu->vintf == nullptr) return NoQueues(kOp, viommu_id);
  if (type != HwQueueType::kTegra241Cmdqv) {
    return CallError(kOp, EOPNOTSUPP, absl::StrCat("queue type ", static_cast<uint32_t>(type), "; TEGRA241_CMDQV (1)"));
  }
  uint64_t physical = 0;
  const absl::StatusOr<std::vector<IoasMapping*>> mappings =
      MappingsOf(kOp, *viommu->stage2->ioas, iova, length, &physical);
  if (!mappings.ok()) return mappings.status();
  const uint32_t queues = viommu->vintf->queues();
  if (index >= viommu->vintf->max_queues()) {
    return CallError(kOp, EINVAL,
                     absl::StrCat("index ", index, "; an interface has ", viommu->vintf->max_queues(), " queues"));
  }
  if (index < queues) {
    return CallError(kOp, EEXIST, absl::StrCat("index ", index, " of viommu ", viommu_id, " is taken"));
  }
  if (index > queues) {
    return CallError(kOp, EIO, absl::StrCat("queue ", index - 1, " does not exist; the next one is ", queues));
  }
  const uint64_t max_bytes = MaxQueueBytes(viommu->smmu->features());
  if (!std::has_single_bit(length) || length < kMinQueueBytes || length > max_bytes) {
    return CallError(kOp, EINVAL,
                     absl::StrCat("length ", length, "; a power of two from ", kMinQueueBytes, " to ", max_bytes));
  }
  if (physical % length != 0) {
    return CallError(kOp, EINVAL, absl::StrCat("the memory is not aligned to its length of ", length, " bytes"));
  }
  auto queue = std::make_unique<HwQueueObject>();
  queue->viommu = viommu;
  queue->memory = *mappings;
  if (Mutated(Mutation::kForgetPin)) queue->memory.clear();
  for (IoasMapping* mapping : queue->memory) ++mapping->pins;
  if (!viommu->hw_queues.empty()) ++viommu->hw_queues.back()->users;
  viommu->hw_queues.push_back(queue.get());
  ++viommu->users;
  viommu->vintf->AddQueue(physical, static_cast<uint32_t>(std::countr_zero(length / kCommandBytes)));
  return table_.Add(std::move(queue));
}

void EmulatedContext::ReleaseHwQueue(HwQueueObject& queue) {
  ViommuObject& viommu = *queue.viommu;
  // Nobody stands on it: it is the last one.
  viommu.vintf->RemoveQueue();
  viommu.hw_queues.pop_back();
  if (!viommu.hw_queues.empty()) --viommu.hw_queues.back()->users;
  for (IoasMapping* mapping : queue.memory) --mapping->pins;
  --viommu.users;
}

absl::StatusOr<VintfMapping> EmulatedContext::MapVintf(ObjectId viommu_id) {
  constexpr BackendOp kOp = BackendOp::kMapVintf;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  auto* viommu = table_.Find<ViommuObject>(viommu_id);
  if (viommu == nullptr) return NoObject(kOp, "viommu", viommu_id);
  if (viommu->vintf == nullptr) return NoQueues(kOp, viommu_id);
  const int fd = viommu->vintf->DupPage();
  if (fd < 0) return CallError(kOp, errno, "no descriptor for the page");
  ++viommu->vintf_mappings;
  ++viommu->users;
  return VintfMapping{.fd = fd, .offset = 0, .length = smmuv3::cmdqv::kPageBytes};
}

absl::Status EmulatedContext::UnmapVintf(ObjectId viommu_id) {
  constexpr BackendOp kOp = BackendOp::kMapVintf;
  MutexLock lock(control_mu_);
  auto* viommu = table_.Find<ViommuObject>(viommu_id);
  if (viommu == nullptr) return NoObject(kOp, "viommu", viommu_id);
  if (viommu->vintf_mappings == 0) {
    return CallError(kOp, EINVAL, absl::StrCat("nothing of viommu ", viommu_id, " is mapped"));
  }
  --viommu->vintf_mappings;
  --viommu->users;
  return absl::OkStatus();
}

}  // namespace viommu::agent
