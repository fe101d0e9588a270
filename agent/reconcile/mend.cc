// Drift: looking at what the backend holds, and going on from what was found.

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

std::optional<Step> Realizer::Unmake(const HeldItem& item, std::vector<std::string>& ended) {
  if (Find(item.uid()) == nullptr) return std::nullopt;
  for (const auto& [uid, above] : held_.items()) {
    const Made* made = Find(uid);
    if (made == nullptr) continue;
    if (made->parent == item.uid()) {
      if (auto failure = Unmake(above, ended)) return failure;
    } else if (made->attached_to == item.uid()) {
      if (auto failure = Detach(above, *made)) return failure;
      ended.push_back(uid);
    }
  }
  if (Step step = Release(item); step.kind != Step::Kind::kReleased) return step;
  ended.push_back(item.uid());
  return std::nullopt;
}

}  // namespace viommu::agent
