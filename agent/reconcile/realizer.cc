#include "agent/reconcile/realizer.h"

#include <fmt/format.h>

#include <cerrno>
#include <utility>

#include "agent/errno_status.h"
#include "agent/smmuv3/spec/ste.h"
#include "common/log.h"
#include "common/mutation.h"
#include "common/uuid.h"

namespace viommu::agent {
namespace {

// "0000:01:00.0" of "hosts/h/devices/0000:01:00.0".
std::string LastSegment(std::string_view name) { return std::string(name.substr(name.rfind('/') + 1)); }

smmuv3::RawVste VsteOf(const v1::NestedConfig& config) {
  switch (config.kind_case()) {
    case v1::NestedConfig::kBypass:
      return smmuv3::kBypassVste;
    case v1::NestedConfig::kTranslate:
      return {config.translate().word0(), config.translate().word1()};
    default:
      return smmuv3::kAbortVste;
  }
}

ViommuType BackendType(v1::ViommuType type) {
  return type == v1::VIOMMU_TYPE_TEGRA241_CMDQV ? ViommuType::kTegra241Cmdqv : ViommuType::kArmSmmuv3;
}

}  // namespace

Step Realizer::Failed(Operation operation, const absl::Status& status) {
  return {.kind = Step::Kind::kFailed, .reason = ReasonOfFailure(operation, status)};
}

Realizer::Realizer(Backend& backend, Targets& targets, const HeldState& held, const Inventory& inventory, Hooks hooks)
    : backend_(backend), targets_(targets), held_(held), hooks_(std::move(hooks)) {
  for (const auto& smmu : inventory.smmus) features_[smmu.name] = smmuv3::DecodeIdRegisters(smmu.idr);
  std::map<uint32_t, std::vector<std::string>> groups;
  for (const auto& device : inventory.devices) groups[device.iommu_group].push_back(device.pci_address);
  for (const auto& [group, members] : groups) {
    if (members.size() < 2) continue;
    for (const std::string& member : members) {
      group_members_[member] = members;
      std::erase(group_members_[member], member);
    }
  }
}

Step Realizer::Advance(const HeldItem& item) {
  if (item.deleting) return Release(item);
  switch (item.kind) {
    case ItemKind::kStage2Domain:
      return AdvanceStage2(item);
    case ItemKind::kViommu:
      return AdvanceViommu(item);
    case ItemKind::kNestedDomain:
      return AdvanceNested(item);
    case ItemKind::kVdevice:
      return AdvanceVdevice(item);
    case ItemKind::kHwQueue:
      return AdvanceHwQueue(item);
  }
  return {};
}

Step Realizer::Bind(const HeldItem& item) {
  const auto& vdevice = item.resource.vdevice();
  const Lineage lineage = LineageOf(vdevice.viommu());
  if (!lineage.whole()) return WaitFor(lineage.viommu, vdevice.viommu());
  if (auto step = WaitForEnd(lineage.viommu)) return *step;
  if (auto step = WaitForEnd(lineage.stage2)) return *step;
  const std::string pci_address = LastSegment(vdevice.device());
  if (const Made* made = Find(item.uid()); made != nullptr) {
    if (made->parent == lineage.viommu->uid() && made->device != 0) return {.kind = Step::Kind::kApplied};
    // The viommu's name has another bearer now: nothing of the old one can be kept.
    if (Step step = ReleaseVdevice(item, *made); step.kind != Step::Kind::kReleased) return step;
  }
  if (const std::string& holder = objects_.HolderOf(pci_address); !holder.empty()) {
    return WaitFor(held_.Find(holder), holder);  // its release comes first
  }
  const std::string& vm = lineage.stage2->resource.stage2_domain().vm();
  // Likewise of a device of its IOMMU group in another VM: a backend gives a group to one context.
  if (const auto members = group_members_.find(pci_address); members != group_members_.end()) {
    for (const std::string& mate : members->second) {
      const std::string& holder = objects_.HolderOf(mate);
      if (const Made* made = Find(holder); made != nullptr && made->vm != vm) {
        return WaitFor(held_.Find(holder), holder);
      }
    }
  }
  Vm& context = contexts_[vm];
  std::optional<Step> failure;
  if (context.context == nullptr) failure = OpenContext(item, vm, context);
  Made made = {.kind = ItemKind::kVdevice,
               .vm = vm,
               .parent = lineage.viommu->uid(),
               .pci_address = pci_address,
               .stage2_name = lineage.stage2->name()};
  if (!failure) {
    failure = Try(item, vm, Operation::kBind, [&]() -> absl::Status {
      auto device = context.context->BindDevice(pci_address);
      if (!device.ok()) return device.status();
      made.device = *device;
      return absl::OkStatus();
    });
  }
  if (failure) {
    CloseIfUnused(vm);
    return *failure;
  }
  objects_.Add(item.uid(), made);
  NoteObjects(vm, item.uid());
  return {.kind = Step::Kind::kApplied};
}

Step Realizer::AdvanceStage2(const HeldItem& item) {
  if (Find(item.uid()) != nullptr) return {.kind = Step::Kind::kApplied};
  const ObjectId device = DeviceOfStage2(item);
  if (device == 0) return {.kind = Step::Kind::kDormant};
  Made made = {.kind = ItemKind::kStage2Domain, .vm = item.resource.stage2_domain().vm()};
  Vm& vm = contexts_.at(made.vm);
  if (vm.ioas == 0) {
    TidyMemory(made.vm);  // or what its owner has left behind would come back
    const auto failure = Try(item, made.vm, Operation::kAllocIoas, [&]() -> absl::Status {
      auto ioas = vm.context->AllocIoas();
      if (!ioas.ok()) return ioas.status();
      if (auto mapped = MapEverything(*vm.context, *ioas, made.vm); !mapped.ok()) {
        static_cast<void>(vm.context->Destroy(*ioas));
        return mapped;
      }
      vm.ioas = *ioas;
      return absl::OkStatus();
    });
    if (failure) return *failure;
    NoteMemory(made.vm);
  }
  const auto failure = Try(item, made.vm, Operation::kAllocStage2, [&]() -> absl::Status {
    auto id = vm.context->AllocStage2(device, vm.ioas);
    if (!id.ok()) return id.status();
    made.id = *id;
    return absl::OkStatus();
  });
  if (failure) return *failure;
  objects_.Add(item.uid(), made);
  NoteObjects(made.vm, item.uid());
  return {.kind = Step::Kind::kApplied};
}

Step Realizer::AdvanceViommu(const HeldItem& item) {
  if (const Made* made = Find(item.uid())) return {.kind = Step::Kind::kApplied, .vmid = made->vmid};
  const auto& viommu = item.resource.viommu();
  const HeldItem* stage2 = held_.FindLive(viommu.stage2_domain());
  if (auto step = WaitForEnd(stage2)) return *step;
  const ObjectId device = DeviceOfViommu(item.uid());
  if (device == 0) return {.kind = Step::Kind::kDormant};
  const Made* below = stage2 != nullptr ? Find(stage2->uid()) : nullptr;
  if (below == nullptr) return WaitFor(stage2, viommu.stage2_domain());
  Made made = {.kind = ItemKind::kViommu, .vm = below->vm, .parent = stage2->uid()};
  Context* const context = contexts_.at(made.vm).context.get();
  const auto failure = Try(item, made.vm, Operation::kAllocViommu, [&]() -> absl::Status {
    auto handle = context->AllocViommu(device, below->id, BackendType(viommu.type()));
    if (!handle.ok()) return handle.status();
    made.id = handle->id;
    made.vmid = handle->vmid.value_or(0);
    return absl::OkStatus();
  });
  if (failure) return *failure;
  objects_.Add(item.uid(), made);
  NoteObjects(made.vm, item.uid());
  PublishTarget(item, made);
  MakeEventQueue(item);
  return {.kind = Step::Kind::kApplied, .vmid = made.vmid};
}

Step Realizer::AdvanceNested(const HeldItem& item) {
  if (Find(item.uid()) != nullptr) return {.kind = Step::Kind::kApplied};
  const auto& nested = item.resource.nested_domain();
  const HeldItem* viommu = held_.FindLive(nested.viommu());
  if (viommu == nullptr) return WaitFor(nullptr, nested.viommu());
  if (auto step = WaitForEnd(viommu)) return *step;
  const ObjectId device = DeviceOfViommu(viommu->uid());
  if (device == 0) return {.kind = Step::Kind::kDormant};
  const Made* below = Find(viommu->uid());
  if (below == nullptr) return WaitFor(viommu, nested.viommu());
  Made made = {.kind = ItemKind::kNestedDomain, .vm = below->vm, .parent = viommu->uid()};
  Context* const context = contexts_.at(made.vm).context.get();
  const auto failure = Try(item, made.vm, Operation::kAllocNested, [&]() -> absl::Status {
    auto id = context->AllocNested(below->id, device, VsteOf(nested.config()));
    if (!id.ok()) return id.status();
    made.id = *id;
    return absl::OkStatus();
  });
  if (failure) return *failure;
  objects_.Add(item.uid(), made);
  NoteObjects(made.vm, item.uid());
  PublishTarget(item, made);
  return {.kind = Step::Kind::kApplied};
}

Step Realizer::AdvanceVdevice(const HeldItem& item) {
  if (Step bound = Bind(item); bound.kind != Step::Kind::kApplied) return bound;
  const auto& vdevice = item.resource.vdevice();
  const Lineage lineage = LineageOf(vdevice.viommu());
  const Made& made = *Find(item.uid());
  if (made.id != 0 && made.virt_id != vdevice.vdev_id()) {
    // The guest's StreamID of an attached device is fixed at attach time: away first, then the other vdevice.
    if (auto step = Unset(item, made)) return *step;
  }
  if (Find(lineage.stage2->uid()) == nullptr) return WaitFor(lineage.stage2, lineage.stage2->name());
  const Made* viommu = Find(lineage.viommu->uid());
  if (viommu == nullptr) return WaitFor(lineage.viommu, vdevice.viommu());
  if (made.id == 0) {
    if (const std::string& holder = objects_.HolderOf(made.parent, vdevice.vdev_id()); !holder.empty()) {
      return WaitFor(held_.Find(holder), holder);  // its release or rebind comes first
    }
    const auto failure = Try(item, made.vm, Operation::kAllocVdevice, [&]() -> absl::Status {
      auto id = contexts_.at(made.vm).context->AllocVdevice(viommu->id, made.device, vdevice.vdev_id());
      if (!id.ok()) return id.status();
      objects_.SetVdevice(item.uid(), *id, vdevice.vdev_id());
      return absl::OkStatus();
    });
    if (failure) return *failure;
    NoteObjects(made.vm, item.uid());
    targets_.AddVdevId(made.parent, made.virt_id);
  }
  return AttachVdevice(item, made, lineage.stage2->uid());
}

Step Realizer::AttachVdevice(const HeldItem& item, const Made& made, const std::string& stage2_uid) {
  const std::string& nested_name = item.resource.vdevice().nested_domain();
  std::string wanted = stage2_uid;
  if (!nested_name.empty()) {
    const HeldItem* nested = held_.FindLive(nested_name);
    if (nested == nullptr || FindCurrent(nested->uid()) == nullptr) return WaitFor(nested, nested_name);
    wanted = nested->uid();
  }
  if (made.attached_to == wanted) return {.kind = Step::Kind::kApplied};
  if (const HeldItem* other = AtOdds(item); other != nullptr) {
    const bool same_viommu = other->resource.vdevice().viommu() == item.resource.vdevice().viommu();
    return {
        .kind = Step::Kind::kBlocked,
        .reason = MakeReason(
            v1::ERROR_REASON_DEPENDENCY_NOT_READY,
            fmt::format("{} is in one IOMMU group with {}, and a group is attached as a whole: {}; it goes on by "
                        "itself then",
                        LastSegment(item.resource.vdevice().device()), LastSegment(other->resource.vdevice().device()),
                        same_viommu ? fmt::format("attach {} to the same", other->name())
                                    : fmt::format("{} is in another viommu: set both in one, or detach both where "
                                                  "one stage 2 serves both",
                                                  other->name())))};
  }
  absl::Status attached;
  const auto failure = Try(item, made.vm, Operation::kAttach, [&] {
    return attached = contexts_.at(made.vm).context->Attach(made.device, Find(wanted)->id);
  });
  if (failure && StatusErrno(attached) == ENOENT && !nested_name.empty()) return WaitForGroup(item).value_or(*failure);
  if (failure) return *failure;
  objects_.SetAttached(item.uid(), wanted);
  NoteObjects(made.vm, item.uid());
  return {.kind = Step::Kind::kApplied};
}

std::string Realizer::AttachmentOf(const HeldItem& vdevice) const {
  const v1::Vdevice& resource = vdevice.resource.vdevice();
  if (!resource.nested_domain().empty()) return resource.nested_domain();
  const HeldItem* viommu = held_.FindLive(resource.viommu());
  return viommu == nullptr ? "" : viommu->resource.viommu().stage2_domain();
}

const HeldItem* Realizer::AtOdds(const HeldItem& vdevice) const {
  const auto members = group_members_.find(LastSegment(vdevice.resource.vdevice().device()));
  if (members == group_members_.end()) return nullptr;
  const std::string wanted = AttachmentOf(vdevice);
  for (const std::string& pci_address : members->second) {
    const HeldItem* other = held_.Find(objects_.HolderOf(pci_address));
    if (other == nullptr || other->deleting || AttachmentOf(*other) == wanted) continue;
    return other;
  }
  return nullptr;
}

std::optional<Step> Realizer::WaitForGroup(const HeldItem& vdevice) const {
  const v1::Vdevice& resource = vdevice.resource.vdevice();
  const auto members = group_members_.find(LastSegment(resource.device()));
  if (members == group_members_.end()) return std::nullopt;
  for (const std::string& pci_address : members->second) {
    const auto& items = held_.items();
    const auto other = std::find_if(items.begin(), items.end(), [&](const auto& entry) {
      const HeldItem& item = entry.second;
      return item.kind == ItemKind::kVdevice && !item.deleting &&
             LastSegment(item.resource.vdevice().device()) == pci_address;
    });
    if (other == items.end()) {
      return Step{.kind = Step::Kind::kBlocked,
                  .reason = MakeReason(
                      v1::ERROR_REASON_DEPENDENCY_NOT_READY,
                      fmt::format("{} is in one IOMMU group with {}, and a guest's stage 1 needs a vdevice of every "
                                  "device of a group: set one of {} in {}, or detach {}; it goes on by itself then",
                                  LastSegment(resource.device()), pci_address, pci_address, resource.viommu(),
                                  resource.name()))};
    }
    const Made* made = Find(other->first);
    if (made == nullptr || made->id == 0) return WaitFor(&other->second, other->second.name());
  }
  return std::nullopt;
}

std::optional<Step> Realizer::Detach(const HeldItem& item, const Made& made) {
  if (made.attached_to.empty()) return std::nullopt;
  Context& context = *contexts_.at(made.vm).context;
  if (auto failure = TryEnd(item, made.vm, Operation::kDetach, [&] { return context.Detach(made.device); })) {
    return failure;
  }
  objects_.SetAttached(item.uid(), "");
  NoteObjects(made.vm, item.uid());
  return std::nullopt;
}

std::optional<Step> Realizer::Unset(const HeldItem& item, const Made& made) {
  if (auto failure = Detach(item, made)) return failure;
  Context& context = *contexts_.at(made.vm).context;
  if (made.id != 0) {
    if (auto failure = TryEnd(item, made.vm, Operation::kDestroy, [&] { return context.Destroy(made.id); })) {
      return failure;
    }
    targets_.RemoveVdevId(made.parent, made.virt_id);
    objects_.SetVdevice(item.uid(), 0, 0);
    NoteObjects(made.vm, item.uid());
  }
  return std::nullopt;
}

Step Realizer::ReleaseVdevice(const HeldItem& item, const Made& made) {
  if (auto failure = Unset(item, made)) return *failure;
  if (made.device != 0 && !Mutated(Mutation::kStayBound)) {
    Context& context = *contexts_.at(made.vm).context;
    if (auto failure =
            TryEnd(item, made.vm, Operation::kUnbind, [&] { return context.UnbindDevice(made.pci_address); })) {
      return *failure;
    }
  }
  const std::string vm = made.vm;
  objects_.Erase(item.uid());
  NoteObjects(vm, item.uid());
  CloseIfUnused(vm);
  return {.kind = Step::Kind::kReleased};
}

Step Realizer::Release(const HeldItem& item) {
  const Made* found = Find(item.uid());
  if (found == nullptr) {
    if (item.kind == ItemKind::kStage2Domain) ForgetUserIfGone(item.resource.stage2_domain().vm());
    return {.kind = Step::Kind::kReleased};
  }
  const Made& made = *found;
  if (item.kind == ItemKind::kVdevice) return ReleaseVdevice(item, made);
  if (objects_.SomethingStandsOn(item.uid())) return {.kind = Step::Kind::kWaiting};
  targets_.Withdraw(item.uid());
  if (auto failure = EndEventQueue(item)) return *failure;
  Context& context = *contexts_.at(made.vm).context;
  const bool stays = item.kind == ItemKind::kHwQueue && Mutated(Mutation::kKeepQueue);
  const auto destroy = [&] { return stays ? absl::OkStatus() : context.Destroy(made.id); };
  if (auto failure = TryEnd(item, made.vm, Operation::kDestroy, destroy)) return *failure;
  const std::string vm = made.vm;
  objects_.Erase(item.uid());
  NoteObjects(vm, item.uid());
  if (queues_.erase(item.uid()) != 0) TidyMemory(vm);
  CloseIfUnused(vm);
  return {.kind = Step::Kind::kReleased};
}

Realizer::Lineage Realizer::LineageOf(std::string_view viommu_name) const {
  Lineage lineage;
  lineage.viommu = held_.FindLive(viommu_name);
  if (lineage.viommu != nullptr) {
    lineage.stage2 = held_.FindLive(lineage.viommu->resource.viommu().stage2_domain());
  }
  return lineage;
}

std::optional<Step> Realizer::WaitForEnd(const HeldItem* below) const {
  if (below == nullptr || Find(below->uid()) == nullptr || FindCurrent(below->uid()) != nullptr) return std::nullopt;
  return WaitFor(below, below->name());
}

Step Realizer::WaitFor(const HeldItem* needed, std::string_view name) const {
  if (needed == nullptr || !hooks_.has_failed(needed->uid())) return {.kind = Step::Kind::kWaiting};
  return {.kind = Step::Kind::kBlocked,
          .reason = MakeReason(v1::ERROR_REASON_DEPENDENCY_NOT_READY,
                               fmt::format("needs {}, which has failed; it goes on by itself once that is in place",
                                           IsHeldKind(needed->resource) ? needed->name() : std::string(name)))};
}

bool Realizer::IsOutdated(const Made& made) const {
  if (made.outdated) return true;
  if (made.kind == ItemKind::kVdevice) {
    // Bound on the way to a viommu that is not made yet, and by now to be on another stage 2.
    const HeldItem* viommu = held_.Find(made.parent);
    if (viommu != nullptr && !viommu->deleting) {
      const HeldItem* stage2 = held_.FindLive(viommu->resource.viommu().stage2_domain());
      if (stage2 != nullptr &&
          (stage2->name() != made.stage2_name || stage2->resource.stage2_domain().vm() != made.vm)) {
        return true;
      }
    }
  }
  const Made* parent = Find(made.parent);
  return parent != nullptr && IsOutdated(*parent);
}

const Made* Realizer::FindCurrent(const std::string& uid) const {
  const Made* made = Find(uid);
  return made == nullptr || IsOutdated(*made) ? nullptr : made;
}

ObjectId Realizer::DeviceOfViommu(const std::string& viommu_uid) const {
  for (const std::string& uid : objects_.BoundToViommu(viommu_uid)) {
    if (const Made* made = FindCurrent(uid)) return made->device;
  }
  return 0;
}

ObjectId Realizer::DeviceOfStage2(const HeldItem& stage2) const {
  for (const std::string& uid : objects_.BoundToStage2(stage2.name())) {
    const Made& made = *Find(uid);
    const HeldItem* viommu = held_.Find(made.parent);
    if (viommu == nullptr || viommu->deleting || IsOutdated(made)) continue;
    if (held_.FindLive(stage2.name()) == &stage2) return made.device;
  }
  return 0;
}

void Realizer::CloseIfUnused(const std::string& vm) {
  if (objects_.VmHasObjects(vm)) return;
  if (const auto found = contexts_.find(vm); found != contexts_.end()) {
    if (found->second.context != nullptr) found->second.context->StopKeeping();
    journal::Kept closed;
    closed.set_closed(true);
    Note(vm, std::move(closed));
    contexts_.erase(found);
  }
  TidyMemory(vm);
  ForgetUserIfGone(vm);
}

void Realizer::PublishTarget(const HeldItem& item, const Made& made) {
  const HeldItem& viommu = made.kind == ItemKind::kViommu ? item : *held_.Find(made.parent);
  targets_.Publish(item.uid(), {.context = contexts_.at(made.vm).context.get(),
                                .id = made.id,
                                .kind = item.kind,
                                .viommu = viommu.uid(),
                                .features = FeaturesOf(viommu)});
}

std::optional<Step> Realizer::OpenContext(const HeldItem& item, const std::string& vm, Vm& context) {
  const std::string key = backend_.KeepsContexts() ? NewUuid() : "";
  const auto failure = Try(item, vm, Operation::kOpenContext, [&]() -> absl::Status {
    auto opened = key.empty() ? backend_.OpenContext() : backend_.OpenKeptContext(key);
    if (!opened.ok()) return opened.status();
    context.context = *std::move(opened);
    return absl::OkStatus();
  });
  if (failure || key.empty()) return failure;
  context.kept = true;
  journal::Kept note;
  note.mutable_opened()->set_key(key);
  Note(vm, std::move(note));
  return failure;
}

void Realizer::Adopt(AdoptedContext adopted) {
  const std::string& name = adopted.vm;
  const KeptState& kept = held_.kept().at(name);
  Vm& vm = contexts_[name];
  vm.context = std::move(adopted.context);
  vm.ioas = kept.ioas;
  vm.kept = true;
  vm.unclaimed = kept.ranges;
  std::vector<const HeldItem*> viommus;
  for (const auto& [uid, object] : kept.objects) {
    const HeldItem& item = *held_.Find(uid);
    const bool vdevice = item.kind == ItemKind::kVdevice;
    Made made{.kind = item.kind,
              .vm = name,
              .parent = object.parent(),
              .id = vdevice ? 0 : object.id(),
              .outdated = object.outdated(),
              .vmid = object.vmid(),
              .event_queue = object.event_queue(),
              .pci_address = object.pci_address(),
              .stage2_name = object.stage2_name(),
              .device = object.device()};
    objects_.Add(uid, made);
    if (vdevice && object.id() != 0) {
      objects_.SetVdevice(uid, object.id(), object.virt_id());
      targets_.AddVdevId(made.parent, object.virt_id());
    }
    if (!object.attached_to().empty()) objects_.SetAttached(uid, object.attached_to());
    if (item.kind == ItemKind::kViommu || item.kind == ItemKind::kNestedDomain) PublishTarget(item, made);
    if (item.kind == ItemKind::kViommu && !item.deleting) viommus.push_back(&item);
  }
  // The descriptors of event queues went with the earlier process, and nobody else can read what was in them.
  for (const HeldItem* viommu : viommus) {
    if (hooks_.events == nullptr) continue;
    if (const auto failure = EndEventQueue(*viommu)) {
      VIOMMU_LOG(kWarning, "guest events stay unknown: the event queue of an earlier agent cannot be ended",
                 {{"vm", name}, {"viommu", viommu->name()}, {"why", failure->reason.message()}});
    } else {
      MakeEventQueue(*viommu);
    }
  }
}

absl::Status Realizer::NoteChanging(const std::string& vm, Operation operation) {
  const auto found = contexts_.find(vm);
  if (found == contexts_.end() || !found->second.kept) return absl::OkStatus();
  journal::Kept note;
  note.set_vm(vm);
  note.set_changing(OperationName(operation));
  return hooks_.note(std::move(note));
}

void Realizer::NoteSettled(const std::string& vm) {
  journal::Kept note;
  note.set_settled(true);
  Note(vm, std::move(note));
}

void Realizer::Note(const std::string& vm, journal::Kept note) {
  const auto found = contexts_.find(vm);
  if (found == contexts_.end() || !found->second.kept) return;
  note.set_vm(vm);
  // What was begun stays begun, for whoever reads the journal.
  if (!hooks_.note(std::move(note)).ok()) found->second.kept = false;
}

void Realizer::NoteObjects(const std::string& vm, const std::string& uid) {
  if (const auto found = contexts_.find(vm); found == contexts_.end() || !found->second.kept) return;
  journal::Kept note;
  const Made* made = Find(uid);
  if (made == nullptr) {
    note.set_gone(uid);
    return Note(vm, std::move(note));
  }
  journal::KeptObject& object = *note.mutable_object();
  object.set_uid(uid);
  object.set_parent(made->parent);
  object.set_id(made->id);
  object.set_vmid(made->vmid);
  object.set_event_queue(made->event_queue);
  object.set_pci_address(made->pci_address);
  object.set_stage2_name(made->stage2_name);
  object.set_device(made->device);
  object.set_virt_id(made->virt_id);
  object.set_attached_to(made->attached_to);
  object.set_outdated(made->outdated);
  Note(vm, std::move(note));
}

smmuv3::Features Realizer::FeaturesOf(const HeldItem& viommu) const {
  const auto it = features_.find(LastSegment(viommu.resource.viommu().smmu()));
  return it == features_.end() ? smmuv3::Features{} : it->second;
}

std::map<std::string, uint32_t> Realizer::KernelIds(const std::string& uid) const {
  std::map<std::string, uint32_t> ids;
  const Made* made = Find(uid);
  if (made == nullptr) return ids;
  if (made->id != 0) ids[std::string(ItemKindName(made->kind))] = made->id;
  if (made->device != 0) ids["device"] = made->device;
  if (made->event_queue != 0) ids["event_queue"] = made->event_queue;
  return ids;
}

}  // namespace viommu::agent
