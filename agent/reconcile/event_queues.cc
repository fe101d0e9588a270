// Viommus' event queues.

#include <cerrno>
#include <string>

#include "agent/errno_status.h"
#include "agent/reconcile/realizer.h"
#include "common/error.h"
#include "common/log.h"

namespace viommu::agent {
namespace {

// Whether the same call can work another time. A kernel that has no event queues gets none; and a queue that somebody
// else has made stays as long as the viommu.
bool IsForGood(int error_number) {
  return error_number == EOPNOTSUPP || error_number == ENOTTY || error_number == EEXIST;
}

}  // namespace

bool Realizer::MakeEventQueue(const HeldItem& item) {
  if (hooks_.events == nullptr) return true;
  lacking_queues_.erase(item.uid());
  const Made& made = *Find(item.uid());
  Context* const context = contexts_.at(made.vm).context.get();
  absl::Status status = NoteChanging(made.vm, Operation::kAllocVeventq);
  if (status.ok()) {
    const auto queue = context->AllocVeventq(made.id, VeventqType::kArmSmmuv3, GuestEvents::kQueueDepth);
    if (queue.ok()) {
      ++changes_;
      objects_.SetEventQueue(item.uid(), *queue);
      NoteObjects(made.vm, item.uid());
      hooks_.events->Add(item.uid(),
                         {.viommu = item.name(), .vm = made.vm, .context = context, .id = made.event_queue});
      return true;
    }
    NoteSettled(made.vm);
    status = queue.status();
  }
  const int error_number = StatusErrno(status);
  if (error_number == EEXIST) {
    VIOMMU_LOG(kWarning, "guest events stay unknown: the viommu has an event queue that this agent does not know",
               {{"vm", made.vm}, {"viommu", item.name()}, {"why", status}});
    return true;
  }
  if (!IsForGood(error_number)) lacking_queues_.insert(item.uid());
  // What one viommu is refused, the others are usually as well.
  if (queue_failures_.insert(error_number).second) {
    VIOMMU_LOG(kWarning, IsForGood(error_number) ? "guest events stay unknown" : "guest events unknown for now",
               {{"vm", made.vm}, {"viommu", item.name()}, {"why", status}});
  }
  return IsForGood(error_number);
}

bool Realizer::RetryEventQueue() {
  auto next = lacking_queues_.upper_bound(last_retried_queue_);
  if (next == lacking_queues_.end()) next = lacking_queues_.begin();
  if (next == lacking_queues_.end()) return false;
  last_retried_queue_ = *next;
  const Made* made = Find(last_retried_queue_);
  const HeldItem* item = held_.Find(last_retried_queue_);
  if (made == nullptr || item == nullptr || item->deleting) {
    lacking_queues_.erase(next);
    return true;
  }
  if (!MakeEventQueue(*item)) return false;
  if (made->event_queue != 0) {
    VIOMMU_LOG(kInfo, "guest events are known now", {{"vm", made->vm}, {"viommu", item->name()}});
  }
  // From here on a failure is news again.
  if (lacking_queues_.empty()) queue_failures_.clear();
  return true;
}

std::optional<Step> Realizer::EndEventQueue(const HeldItem& item) {
  if (hooks_.events != nullptr) hooks_.events->Remove(item.uid());
  const Made& made = *Find(item.uid());
  lacking_queues_.erase(item.uid());
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
