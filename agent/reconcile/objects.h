// The kernel objects behind held resources, and who stands on whom: what the realizer has made so far.
//
// Every question that it answers takes a few look-ups, however many objects there are. Pure; not thread-safe.

#ifndef VIOMMU_AGENT_RECONCILE_OBJECTS_H_
#define VIOMMU_AGENT_RECONCILE_OBJECTS_H_

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/node_hash_map.h"
#include "agent/backend.h"
#include "agent/reconcile/resource.h"

namespace viommu::agent {

// The objects of one held resource.
struct Made {
  ItemKind kind = ItemKind::kStage2Domain;
  std::string vm;
  std::string parent;  // uid; of a viommu: its stage 2; of a nested domain or vdevice: its viommu
  ObjectId id = 0;     // 0: none yet
  // It was made of something that cannot be changed to what is recorded now, and is to go.
  bool outdated = false;

  // Of a viommu.
  uint32_t vmid = 0;
  ObjectId event_queue = 0;  // 0: none

  // Of a vdevice.
  std::string pci_address;
  std::string stage2_name;  // of its viommu
  ObjectId device = 0;      // 0: not bound
  uint64_t virt_id = 0;
  std::string attached_to;  // uid of a nested domain or stage-2 domain; empty: detached
};

class Objects {
 public:
  // Null when the resource has none. Valid until it is erased.
  const Made* Find(const std::string& uid) const;
  size_t size() const { return made_.size(); }

  // Of a resource that has none yet. Not yet attached; a vdevice has no id yet.
  void Add(const std::string& uid, Made made);
  void Erase(const std::string& uid);

  // A vdevice's own object; id 0: it is gone.
  void SetVdevice(const std::string& uid, ObjectId id, uint64_t virt_id);
  // The event queue of a viommu; 0: it is gone.
  void SetEventQueue(const std::string& uid, ObjectId id);
  // See Made.
  void SetOutdated(const std::string& uid);
  // What a vdevice's device is attached to; empty: nothing.
  void SetAttached(const std::string& uid, const std::string& to);

  // uid of the resource whose object, event queue or device has this id in the VM's context; empty when none has.
  const std::string& OwnerOf(const std::string& vm, ObjectId id) const;
  // uid of the vdevice that has this device bound; empty when none has.
  const std::string& HolderOf(const std::string& pci_address) const;
  // uid of the vdevice that has this StreamID in this viommu; empty when none has.
  const std::string& HolderOf(const std::string& viommu_uid, uint64_t virt_id) const;
  // uids of the vdevices of a viommu that have their device bound, and those of the viommus on a stage-2 domain by that
  // name.
  const std::set<std::string>& BoundToViommu(const std::string& viommu_uid) const;
  const std::set<std::string>& BoundToStage2(const std::string& stage2_name) const;
  // uids of what has it as its parent or is attached to it.
  const std::set<std::string>& StandingOn(const std::string& uid) const;
  bool SomethingStandsOn(const std::string& uid) const { return standing_on_.contains(uid); }
  bool VmHasObjects(const std::string& vm) const { return of_vm_.contains(vm); }

 private:
  using Counts = absl::flat_hash_map<std::string, size_t>;
  using Sets = absl::node_hash_map<std::string, std::set<std::string>>;

  static void Count(Counts& counts, const std::string& key, bool more);
  static void Put(Sets& sets, const std::string& key, const std::string& uid);
  static void Take(Sets& sets, const std::string& key, const std::string& uid);
  // A later object may have the id by now, where this one was gone at the backend without our doing.
  void TakeId(const std::string& uid, const std::string& vm, ObjectId id);

  absl::node_hash_map<std::string, Made> made_;           // by uid
  absl::flat_hash_map<std::string, std::string> by_pci_;  // of bound devices
  absl::flat_hash_map<std::pair<std::string, uint64_t>, std::string> by_virt_id_;
  absl::flat_hash_map<std::pair<std::string, ObjectId>, std::string> by_id_;  // by VM and id
  Sets bound_by_viommu_;
  Sets bound_by_stage2_;
  Sets standing_on_;
  Counts of_vm_;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_RECONCILE_OBJECTS_H_
