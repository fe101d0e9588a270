#include "agent/reconcile/objects.h"

#include <cstdlib>

namespace viommu::agent {
namespace {

const std::string kNobody;
const std::set<std::string> kNone;

}  // namespace

void Objects::Put(Sets& sets, const std::string& key, const std::string& uid) {
  if (!key.empty()) sets[key].insert(uid);
}

void Objects::Take(Sets& sets, const std::string& key, const std::string& uid) {
  const auto it = sets.find(key);
  if (it == sets.end()) return;
  it->second.erase(uid);
  if (it->second.empty()) sets.erase(it);
}

void Objects::Count(Counts& counts, const std::string& key, bool more) {
  if (key.empty()) return;
  if (more) {
    ++counts[key];
    return;
  }
  const auto it = counts.find(key);
  if (it == counts.end()) std::abort();
  if (--it->second == 0) counts.erase(it);
}

void Objects::TakeId(const std::string& uid, const std::string& vm, ObjectId id) {
  const auto it = by_id_.find({vm, id});
  if (it != by_id_.end() && it->second == uid) by_id_.erase(it);
}

const Made* Objects::Find(const std::string& uid) const {
  const auto it = made_.find(uid);
  return it == made_.end() ? nullptr : &it->second;
}

void Objects::Add(const std::string& uid, Made made) {
  const auto [it, fresh] = made_.emplace(uid, std::move(made));
  if (!fresh || !it->second.attached_to.empty()) std::abort();
  const Made& added = it->second;
  Put(standing_on_, added.parent, uid);
  Count(of_vm_, added.vm, true);
  for (const ObjectId id : {added.id, added.device, added.event_queue}) {
    if (id != 0) by_id_[{added.vm, id}] = uid;
  }
  if (added.kind != ItemKind::kVdevice || added.device == 0) return;
  if (!by_pci_.emplace(added.pci_address, uid).second) std::abort();
  Put(bound_by_viommu_, added.parent, uid);
  Put(bound_by_stage2_, added.stage2_name, uid);
}

void Objects::Erase(const std::string& uid) {
  const auto it = made_.find(uid);
  if (it == made_.end()) return;
  if (it->second.kind == ItemKind::kVdevice) {
    SetAttached(uid, "");
    SetVdevice(uid, 0, 0);
  }
  const Made& made = it->second;
  if (made.device != 0) {
    by_pci_.erase(made.pci_address);
    Take(bound_by_viommu_, made.parent, uid);
    Take(bound_by_stage2_, made.stage2_name, uid);
  }
  TakeId(uid, made.vm, made.id);
  TakeId(uid, made.vm, made.device);
  TakeId(uid, made.vm, made.event_queue);
  Take(standing_on_, made.parent, uid);
  Count(of_vm_, made.vm, false);
  made_.erase(it);
}

void Objects::SetVdevice(const std::string& uid, ObjectId id, uint64_t virt_id) {
  Made& made = made_.at(uid);
  const auto it = by_virt_id_.find({made.parent, made.virt_id});
  if (it != by_virt_id_.end() && it->second == uid) by_virt_id_.erase(it);
  TakeId(uid, made.vm, made.id);
  made.id = id;
  made.virt_id = virt_id;
  if (id == 0) return;
  by_virt_id_[{made.parent, virt_id}] = uid;
  by_id_[{made.vm, id}] = uid;
}

void Objects::SetEventQueue(const std::string& uid, ObjectId id) {
  Made& made = made_.at(uid);
  TakeId(uid, made.vm, made.event_queue);
  made.event_queue = id;
  if (id != 0) by_id_[{made.vm, id}] = uid;
}

void Objects::SetOutdated(const std::string& uid) { made_.at(uid).outdated = true; }

void Objects::SetAttached(const std::string& uid, const std::string& to) {
  Made& made = made_.at(uid);
  Take(standing_on_, made.attached_to, uid);
  made.attached_to = to;
  Put(standing_on_, made.attached_to, uid);
}

const std::string& Objects::OwnerOf(const std::string& vm, ObjectId id) const {
  const auto it = by_id_.find({vm, id});
  return it == by_id_.end() ? kNobody : it->second;
}

const std::string& Objects::HolderOf(const std::string& pci_address) const {
  const auto it = by_pci_.find(pci_address);
  return it == by_pci_.end() ? kNobody : it->second;
}

const std::string& Objects::HolderOf(const std::string& viommu_uid, uint64_t virt_id) const {
  const auto it = by_virt_id_.find({viommu_uid, virt_id});
  return it == by_virt_id_.end() ? kNobody : it->second;
}

const std::set<std::string>& Objects::StandingOn(const std::string& uid) const {
  const auto it = standing_on_.find(uid);
  return it == standing_on_.end() ? kNone : it->second;
}

const std::set<std::string>& Objects::BoundToViommu(const std::string& viommu_uid) const {
  const auto it = bound_by_viommu_.find(viommu_uid);
  return it == bound_by_viommu_.end() ? kNone : it->second;
}

const std::set<std::string>& Objects::BoundToStage2(const std::string& stage2_name) const {
  const auto it = bound_by_stage2_.find(stage2_name);
  return it == bound_by_stage2_.end() ? kNone : it->second;
}

}  // namespace viommu::agent
