#include "agent/reconcile/inspection.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

namespace viommu::agent {
namespace {

// Nothing goes before what stands on it has gone. A device is attached to what comes after it.
int OrderOfEnd(ObjectKind kind) {
  switch (kind) {
    case ObjectKind::kHwQueue:
      return 0;
    case ObjectKind::kDevice:
      return 1;
    case ObjectKind::kVdevice:
      return 2;
    case ObjectKind::kNested:
      return 3;
    case ObjectKind::kVeventq:
      return 4;
    case ObjectKind::kViommu:
      return 5;
    case ObjectKind::kHwpt:
      return 6;
    case ObjectKind::kFaultQueue:
      return 7;
    case ObjectKind::kIoas:
      return 8;
  }
  return 9;
}

ObjectKind KindOfObject(ItemKind kind) {
  switch (kind) {
    case ItemKind::kStage2Domain:
      return ObjectKind::kHwpt;
    case ItemKind::kViommu:
      return ObjectKind::kViommu;
    case ItemKind::kNestedDomain:
      return ObjectKind::kNested;
    case ItemKind::kVdevice:
      return ObjectKind::kVdevice;
    case ItemKind::kHwQueue:
      return ObjectKind::kHwQueue;
  }
  return ObjectKind::kDevice;
}

}  // namespace

std::string DescribeObject(const ObjectInfo& object) {
  std::string text = fmt::format("{} {}", ObjectKindName(object.kind), object.id);
  switch (object.kind) {
    case ObjectKind::kDevice:
      return text + fmt::format(" ({}, {})", object.pci_address,
                                object.parent == 0 ? "detached" : fmt::format("attached to {}", object.parent));
    case ObjectKind::kVdevice:
      return text +
             fmt::format(" (on viommu {}, device {}, StreamID {:#x})", object.parent, object.device, object.virt_id);
    case ObjectKind::kIoas:
    case ObjectKind::kFaultQueue:
      return text;
    default:
      return text + fmt::format(" (on {})", object.parent);
  }
}

const Inspection::Context& Inspection::ContextOf(const std::string& vm) {
  const auto [it, fresh] = contexts_.try_emplace(vm);
  if (!fresh) return it->second;
  std::optional<Listing> listing = list_(vm);
  if (!listing.has_value()) return it->second;
  it->second.told = true;
  it->second.ioas = listing->ioas;
  it->second.by_id.reserve(listing->objects.size());
  for (ObjectInfo& object : listing->objects) it->second.by_id.emplace(object.id, std::move(object));
  return it->second;
}

bool Inspection::IsBound(const Context& context, const std::string& uid, const Made& made) const {
  const auto found = context.by_id.find(made.device);
  return objects_.OwnerOf(made.vm, made.device) == uid && found != context.by_id.end() &&
         found->second.kind == ObjectKind::kDevice && found->second.pci_address == made.pci_address;
}

bool Inspection::IsThere(const Context& context, const std::string& uid, const Made& made) const {
  // The one whose it was given to last has it, where another one's was taken away without our doing.
  if (objects_.OwnerOf(made.vm, made.id) != uid) return false;
  const auto found = context.by_id.find(made.id);
  if (found == context.by_id.end() || found->second.kind != KindOfObject(made.kind)) return false;
  const ObjectInfo& object = found->second;
  if (made.kind == ItemKind::kStage2Domain) return object.parent == context.ioas;
  const std::string* parent_uid = &made.parent;
  const Made* parent = objects_.Find(*parent_uid);
  // A hardware queue is held by the one before it; the kernel's objects all stand on the viommu.
  while (made.kind == ItemKind::kHwQueue && parent != nullptr && parent->kind == ItemKind::kHwQueue) {
    parent_uid = &parent->parent;
    parent = objects_.Find(*parent_uid);
  }
  if (parent == nullptr || object.parent != parent->id || !IsThere(context, *parent_uid, *parent)) return false;
  if (made.kind == ItemKind::kViommu) {
    const HeldItem* item = held_.Find(uid);
    return item == nullptr || made.outdated || item->resource.viommu().smmu().ends_with("/" + object.smmu);
  }
  if (made.kind == ItemKind::kVdevice) return object.device == made.device && IsBound(context, uid, made);
  return true;
}

std::string Inspection::NameOfObject(const Context& context, const std::string& vm, ObjectId id) const {
  if (id == 0) return "nothing";
  if (const HeldItem* item = held_.Find(objects_.OwnerOf(vm, id)); item != nullptr) return item->name();
  const auto found = context.by_id.find(id);
  return found == context.by_id.end() ? fmt::format("object {}", id) : DescribeObject(found->second);
}

Finding Inspection::LookAtVdevice(const Context& context, const std::string& uid, const Made& made) const {
  Finding finding;
  finding.bound = IsBound(context, uid, made);
  finding.there = made.id != 0 && IsThere(context, uid, made);
  ObjectId attached = 0;
  if (finding.bound) {
    attached = context.by_id.at(made.device).parent;
    if (attached != 0) finding.attached_to = objects_.OwnerOf(made.vm, attached);
    if (attached != 0 && finding.attached_to.empty()) finding.attached_to = kUnknownObject;
  }
  if (!finding.bound || (made.id != 0 && !finding.there)) {
    finding.presence = v1::PRESENCE_MISSING;
    return finding;
  }
  if (finding.there) {
    finding.virt_id = context.by_id.at(made.id).virt_id;
    if (finding.virt_id != made.virt_id) finding.actual["vdev_id"] = std::to_string(finding.virt_id);
  }
  if (finding.attached_to != made.attached_to) {
    finding.actual["nested_domain"] = NameOfObject(context, made.vm, attached);
  }
  if (!finding.actual.empty()) {
    finding.presence = v1::PRESENCE_DIFFERENT;
  } else if (finding.there) {
    finding.presence = v1::PRESENCE_AS_BELIEVED;
  }
  return finding;
}

Finding Inspection::Look(const HeldItem& item) {
  const Made* made = objects_.Find(item.uid());
  if (made == nullptr) return {};
  const Context& context = ContextOf(made->vm);
  if (!context.told) return {.presence = v1::PRESENCE_UNKNOWN};
  if (made->kind == ItemKind::kVdevice) return LookAtVdevice(context, item.uid(), *made);
  return {.presence = IsThere(context, item.uid(), *made) ? v1::PRESENCE_AS_BELIEVED : v1::PRESENCE_MISSING};
}

bool Inspection::IoasIsMissing(const std::string& vm) {
  const Context& context = ContextOf(vm);
  if (!context.told || context.ioas == 0) return false;
  const auto found = context.by_id.find(context.ioas);
  return found == context.by_id.end() || found->second.kind != ObjectKind::kIoas;
}

bool Inspection::IsItsOwn(const Context& context, const std::string& uid, const Made& made,
                          const ObjectInfo& object) const {
  if (object.kind == ObjectKind::kDevice) return made.device == object.id && IsBound(context, uid, made);
  if (!IsThere(context, uid, made)) return false;
  return object.kind == ObjectKind::kVeventq ? made.event_queue == object.id && object.parent == made.id
                                             : made.id == object.id;
}

std::vector<ObjectInfo> Inspection::Strays(const std::string& vm) {
  const Context& context = ContextOf(vm);
  std::vector<ObjectInfo> strays;
  for (const auto& [id, object] : context.by_id) {
    if (id == context.ioas && object.kind == ObjectKind::kIoas) continue;
    const std::string& uid = objects_.OwnerOf(vm, id);
    const Made* made = objects_.Find(uid);
    if (made == nullptr || !IsItsOwn(context, uid, *made, object)) strays.push_back(object);
  }
  std::sort(strays.begin(), strays.end(), [](const ObjectInfo& a, const ObjectInfo& b) {
    // The highest of a kind first: hardware queues go in the reverse of the order in which they came.
    return std::tuple(OrderOfEnd(a.kind), b.id) < std::tuple(OrderOfEnd(b.kind), a.id);
  });
  return strays;
}

}  // namespace viommu::agent
