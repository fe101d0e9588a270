// Viommus' event queues.

#include <string>

#include "agent/errno_status.h"
#include "agent/reconcile/realizer.h"
#include "common/error.h"
#include "common/log.h"

namespace viommu::agent {

void Realizer::MakeEventQueue(const HeldItem& item) {
  if (hooks_.events == nullptr) return;
  const Made& made = *Find(item.uid());
  Context* const context = contexts_.at(made.vm).context.get();
  absl::Status status = NoteChanging(made.vm, Operation::kAllocVeventq);
  if (status.ok()) {
    const auto queue = context->AllocVeventq(made.id, VeventqType::kArmSmmuv3, GuestEvents::kQueueDepth);
    if (queue.ok()) {
      ++changes_;
      objects_.SetEventQueue(item.uid(), *queue);
      NoteObjects(made.vm, item.uid());
      return hooks_.events->Add(item.uid(),
                                {.viommu = item.name(), .vm = made.vm, .context = context, .id = made.event_queue});
    }
    NoteSettled(made.vm);
    status = queue.status();
  }
  // A backend that has none has none for all.
  if (!queue_failures_.insert(StatusErrno(status)).second) return;
  VIOMMU_LOG(kWarning, "guest events stay unknown", {{"vm", made.vm}, {"viommu", item.name()}, {"why", status}});
}

std::optional<Step> Realizer::EndEventQueue(const HeldItem& item) {
  if (hooks_.events != nullptr) hooks_.events->Remove(item.uid());
  const Made& made = *Find(item.uid());
  if (made.event_queue == 0) return std::nullopt;
  Context& context = *contexts_.at(made.vm).context;
  if (auto failure = TryEnd(item, made.vm, Operation::kDestroy, [&] { return context.Destroy(made.event_queue); })) {
    return failure;
  }
  objects_.SetEventQueue(item.uid(), 0);
  NoteObjects(made.vm, item.uid());
  return std::nullopt;
}

absl::Status Realizer::CheckReader(VmMemory::User user, const std::string& viommu) const {
  const HeldItem* item = held_.FindLive(viommu);
  if (item == nullptr || item->kind != ItemKind::kViommu) {
    return Error(absl::StatusCode::kNotFound, v1::ERROR_REASON_VIOMMU_NOT_FOUND)
        .Message("this host holds no viommu {}", viommu)
        .Meta("name", viommu);
  }
  const HeldItem* stage2 = held_.FindLive(item->resource.viommu().stage2_domain());
  if (stage2 == nullptr) return VmMemory().CheckReader(user);
  return CheckReaderOf(user, stage2->resource.stage2_domain().vm());
}

}  // namespace viommu::agent
