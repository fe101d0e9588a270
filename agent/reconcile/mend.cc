// Drift: looking at what the backend holds, and going on from what was found.

#include <fmt/format.h>

#include <utility>

#include "agent/reconcile/realizer.h"
#include "common/log.h"

namespace viommu::agent {

Inspection Realizer::Inspect() const {
  return Inspection(objects_, held_, [this](const std::string& vm) -> std::optional<Inspection::Listing> {
    const auto found = contexts_.find(vm);
    if (found == contexts_.end() || found->second.context == nullptr) return std::nullopt;
    auto objects = found->second.context->Objects();
    if (!objects.ok()) return std::nullopt;
    return Inspection::Listing{.objects = *std::move(objects), .ioas = found->second.ioas};
  });
}

std::vector<std::string> Realizer::OpenVms() const {
  std::vector<std::string> vms;
  for (const auto& [name, vm] : contexts_) {
    if (vm.context != nullptr) vms.push_back(name);
  }
  return vms;
}

void Realizer::Learn(const HeldItem& item, const Finding& finding) {
  if (finding.presence != v1::PRESENCE_MISSING && finding.presence != v1::PRESENCE_DIFFERENT) return;
  const std::string uid = item.uid();
  const Made* found = Find(uid);
  if (found == nullptr) return;
  const Made made = *found;
  ++changes_;
  if (made.kind == ItemKind::kVdevice) {
    if (made.id != 0) targets_.RemoveVdevId(made.parent, made.virt_id);
    if (finding.bound) {
      objects_.SetVdevice(uid, finding.there ? made.id : 0, finding.virt_id);
      if (finding.there) targets_.AddVdevId(made.parent, finding.virt_id);
      objects_.SetAttached(uid, finding.attached_to);
    } else {
      objects_.Erase(uid);
    }
  } else {
    targets_.Withdraw(uid);
    if (hooks_.events != nullptr) hooks_.events->Remove(uid);
    objects_.Erase(uid);
    // Its memory is supplied anew with the queue.
    if (queues_.erase(uid) != 0) TidyMemory(made.vm);
  }
  NoteObjects(made.vm, uid);
  CloseIfUnused(made.vm);
}

void Realizer::LoseIoas(const std::string& vm) {
  const auto found = contexts_.find(vm);
  if (found == contexts_.end()) return;
  found->second.ioas = 0;
  found->second.unclaimed.clear();
  journal::Kept note;
  note.set_ioas(0);
  Note(vm, std::move(note));
  ++changes_;
}

size_t Realizer::EndStrays(const std::string& vm, const std::vector<ObjectInfo>& strays) {
  const auto found = contexts_.find(vm);
  if (found == contexts_.end()) return 0;  // they went with it
  Context& context = *found->second.context;
  size_t left = 0;
  for (const ObjectInfo& stray : strays) {
    absl::Status status = NoteChanging(vm, Operation::kDestroy);
    if (status.ok()) {
      if (stray.kind != ObjectKind::kDevice) {
        status = context.Destroy(stray.id);
      } else {
        if (stray.parent != 0) status = context.Detach(stray.id);
        if (status.ok()) status = context.UnbindDevice(stray.pci_address);
      }
      NoteSettled(vm);
    }
    ++changes_;
    if (!status.ok()) ++left;
    VIOMMU_LOG(kInfo, "stray object is ended", {{"vm", vm}, {"object", DescribeObject(stray)}, {"status", status}});
  }
  return left;
}

std::set<std::string> Realizer::Outdate(const HeldItem& item) {
  if (Find(item.uid()) != nullptr) {
    objects_.SetOutdated(item.uid());
    ++changes_;
  }
  std::set<std::string> found;
  std::vector<std::string> next = {item.uid()};
  // Devices are bound before what they are to stand on is made.
  if (item.kind == ItemKind::kStage2Domain) {
    const auto& bound = objects_.BoundToStage2(item.name());
    next.insert(next.end(), bound.begin(), bound.end());
  }
  while (!next.empty()) {
    const std::string uid = std::move(next.back());
    next.pop_back();
    if (!found.insert(uid).second) continue;
    const auto& above = objects_.StandingOn(uid);
    next.insert(next.end(), above.begin(), above.end());
  }
  std::erase_if(found, [this](const std::string& uid) {
    const HeldItem* each = held_.Find(uid);
    return each == nullptr || each->deleting || !MustUnmake(*each);
  });
  return found;
}

bool Realizer::MustUnmake(const HeldItem& item) const {
  const Made* made = Find(item.uid());
  if (made == nullptr) return false;
  if (IsOutdated(*made)) return true;
  const Made* attached_to = Find(made->attached_to);
  return attached_to != nullptr && IsOutdated(*attached_to);
}

Step Realizer::Unmake(const HeldItem& item) {
  const Made* made = Find(item.uid());
  if (made == nullptr || !MustUnmake(item)) return {.kind = Step::Kind::kReleased};
  if (!IsOutdated(*made)) return Detach(item, *made).value_or(Step{.kind = Step::Kind::kReleased});
  for (const std::string& above : objects_.StandingOn(item.uid())) {
    if (!hooks_.has_failed(above)) continue;
    return {.kind = Step::Kind::kBlocked,
            .reason = MakeReason(v1::ERROR_REASON_DEPENDENCY_NOT_READY,
                                 fmt::format("is to be made anew, and {} on it cannot be ended; it goes on by itself "
                                             "once that is gone",
                                             held_.Find(above)->name()))};
  }
  return Release(item);
}

}  // namespace viommu::agent
