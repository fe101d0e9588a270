// Rules of hardware queues: which a viommu may have, and in which order they come and go. They are those of the
// hardware (Tegra241 CMDQV) and of Linux's IOMMU_HW_QUEUE_ALLOC, as far as they can be told before the guest's memory
// is looked at.

#include <bit>
#include <limits>
#include <string>
#include <utility>

#include "agent/smmuv3/spec/id_registers.h"
#include "agent/smmuv3/spec/words.h"
#include "server/fleet/deletion.h"
#include "server/fleet/record.h"
#include "server/fleet/rules.h"

namespace viommu::server {
namespace {

constexpr uint64_t kMinLengthBytes = 32;  // two commands

uint64_t MaxLengthBytes(const v1::Smmu& smmu) {
  smmuv3::IdRegisters idr = {};
  for (int i = 0; i < smmu.idr_size() && i < static_cast<int>(idr.size()); ++i) {
    idr[static_cast<size_t>(i)] = smmu.idr(i);
  }
  return sizeof(smmuv3::RawCommand) << smmuv3::DecodeIdRegisters(idr).cmdq_log2_size;
}

absl::Status CheckMemory(const v1::HwQueue& asked, const v1::Smmu& smmu) {
  const uint64_t length = asked.length_bytes();
  const uint64_t most = MaxLengthBytes(smmu);
  if (!std::has_single_bit(length) || length < kMinLengthBytes || length > most) {
    return InvalidField("hw_queue.length_bytes", "{} must be a power of two from {} to {}, which {} can have", length,
                        kMinLengthBytes, most, smmu.name());
  }
  const uint64_t start = asked.nesting_parent_iova();
  if (start % length != 0 || start > std::numeric_limits<uint64_t>::max() - (length - 1)) {
    return InvalidField("hw_queue.nesting_parent_iova", "{:#x} must be a multiple of the length, {:#x}", start, length);
  }
  return absl::OkStatus();
}

// Whether the viommu's interface has a queue of this index.
absl::Status CheckIndex(const v1::Viommu& viommu, const v1::Smmu& smmu, uint32_t index) {
  if (viommu.type() != v1::VIOMMU_TYPE_TEGRA241_CMDQV) {
    return Refusal(v1::ERROR_REASON_SMMU_INCAPABLE, viommu.name(),
                   "{} is of the type ARM_SMMUV3, which has no hardware queues; create a viommu of the type "
                   "TEGRA241_CMDQV",
                   viommu.name())
        .Meta("viommu", viommu.name())
        .Meta("smmu", smmu.name());
  }
  const uint32_t total = smmu.hw_queue().queues_per_interface();
  if (index < total) return absl::OkStatus();
  return Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_HW_QUEUE_EXHAUSTED)
      .Message("an interface of {} has {} hardware queues, so {} can have none of index {}", smmu.name(), total,
               viommu.name(), index)
      .Meta("viommu", viommu.name())
      .Meta("smmu", smmu.name())
      .Meta("total", std::to_string(total));
}

template <typename... Args>
Error WrongOrder(const std::string& name, const std::string& other, fmt::format_string<Args...> format,
                 Args&&... args) {
  return Refusal(v1::ERROR_REASON_HW_QUEUE_ORDER, name, format, std::forward<Args>(args)...)
      .Meta("name", name)
      .Meta("other", other);
}

}  // namespace

absl::StatusOr<v1::CreateHwQueueResponse> Judge(const v1::CreateHwQueueRequest& request, const Context& context,
                                                Draft& draft) {
  if (!request.has_hw_queue()) return InvalidField("hw_queue", "is required");
  const v1::HwQueue& asked = request.hw_queue();
  VIOMMU_RETURN_IF_ERROR(CheckLabels("hw_queue.labels", asked.labels()));
  VIOMMU_ASSIGN_OR_RETURN(const auto viommu, Get<v1::Viommu>(draft, "viommu", request.viommu()));
  if (viommu->state() == v1::STATE_DELETING) return BeingDeleted(Kind::kViommu, viommu->name());
  const auto host = MustFind<v1::Host>(draft, viommu->host());
  const v1::Smmu* smmu = FindSmmu(*host, viommu->smmu());
  if (smmu == nullptr) return SmmuNotFound(viommu->smmu());
  VIOMMU_RETURN_IF_ERROR(CheckIndex(*viommu, *smmu, asked.index()));
  VIOMMU_RETURN_IF_ERROR(CheckMemory(asked, *smmu));
  const std::string name = HwQueueName(viommu->name(), asked.index());
  if (const auto present = draft.Find<v1::HwQueue>(name); present != nullptr) {
    return NameTaken(Kind::kHwQueue, name, present->state() == v1::STATE_DELETING);
  }
  if (asked.index() > 0) {
    const std::string lower = HwQueueName(viommu->name(), asked.index() - 1);
    const auto below = draft.Find<v1::HwQueue>(lower);
    if (below == nullptr || below->state() == v1::STATE_DELETING) {
      return WrongOrder(name, lower, "{} comes after {}, which is {}; create that first", name, lower,
                        below == nullptr ? "not there" : "being deleted");
    }
  }

  v1::HwQueue queue;
  queue.set_name(name);
  *queue.mutable_labels() = asked.labels();
  queue.set_viommu(viommu->name());
  queue.set_index(asked.index());
  queue.set_nesting_parent_iova(asked.nesting_parent_iova());
  queue.set_length_bytes(asked.length_bytes());
  queue.set_host(viommu->host());
  queue.set_vm(viommu->vm());
  Begin(queue, context);
  Desire(queue, v1::STATE_PENDING, context);
  v1::CreateHwQueueResponse response;
  *response.mutable_hw_queue() = queue;
  draft.Put(std::move(queue));
  return response;
}

absl::StatusOr<v1::DeleteHwQueueResponse> Judge(const v1::DeleteHwQueueRequest& request, const Context& context,
                                                Draft& draft) {
  VIOMMU_ASSIGN_OR_RETURN(const auto queue, Get<v1::HwQueue>(draft, "name", request.name()));
  VIOMMU_RETURN_IF_ERROR(CheckEtag(*queue, request.etag()));
  const std::string higher = HwQueueName(queue->viommu(), queue->index() + 1);
  const auto above = draft.Find<v1::HwQueue>(higher);
  if (above != nullptr && above->state() != v1::STATE_DELETING) {
    return WrongOrder(queue->name(), higher, "{} goes after {}; delete that first", queue->name(), higher);
  }
  v1::DeleteHwQueueResponse response;
  *response.mutable_hw_queue() = Release(*queue, context, draft);
  return response;
}

}  // namespace viommu::server
