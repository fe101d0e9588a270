// The objects of one context, and their table of ids, with iommufd's rules: the lowest free id first, from 1, reused at
// once, except for ids that the kernel took back by itself.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_OBJECTS_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_OBJECTS_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "agent/backend.h"
#include "agent/smmuv3/spec/words.h"
#include "agent/smmuv3/vsmmu/fault_queue.h"
#include "agent/smmuv3/vsmmu/host.h"
#include "agent/smmuv3/vsmmu/host_cmdqv.h"
#include "agent/smmuv3/vsmmu/host_memory.h"
#include "agent/smmuv3/vsmmu/host_smmu.h"
#include "agent/smmuv3/vsmmu/page_table.h"
#include "agent/smmuv3/vsmmu/veventq.h"
#include "common/mutex.h"

namespace viommu::agent {

// Members change under the context's control lock alone, unless they say otherwise.
struct Object {
  explicit Object(ObjectKind k) : kind(k) {}
  virtual ~Object() = default;

  const ObjectKind kind;
  ObjectId id = 0;
  uint32_t users = 0;  // objects and attached devices that stand on it
  std::atomic<uint32_t> in_flight =
      0;  // calls that use it without the control lock; rises under the table's lock alone
};

struct VdeviceObject;

struct DeviceObject : Object {
  static constexpr ObjectKind kKind = ObjectKind::kDevice;
  DeviceObject() : Object(kKind) {}
  HostDevice* device = nullptr;
  VdeviceObject* vdevice = nullptr;
  bool attached = false;
};

// Guest memory in an IOAS: a file that lies in one piece in the host's physical memory.
struct IoasMapping {
  uint64_t length = 0;
  uint64_t physical = 0;
  bool readable = false;
  bool writable = false;
  uint32_t pins = 0;  // hardware queues whose memory this is; while there are any, it cannot be unmapped
};

struct HwptObject;

struct IoasObject : Object {
  static constexpr ObjectKind kKind = ObjectKind::kIoas;
  IoasObject() : Object(kKind) {}
  std::map<uint64_t, IoasMapping> mappings;  // by guest-physical address
  std::vector<HwptObject*> hwpts;            // over it: their tables have these mappings
  // An SMMU did not confirm that tables over this are gone. What it may reach is not given back.
  bool abandoned = false;
};

struct FaultQueueObject : Object {
  static constexpr ObjectKind kKind = ObjectKind::kFaultQueue;
  FaultQueueObject() : Object(kKind) {}
  const std::shared_ptr<FaultQueue> queue = std::make_shared<FaultQueue>();
};

// A paging HWPT: translation tables over an IOAS.
struct HwptObject : Object {
  static constexpr ObjectKind kKind = ObjectKind::kHwpt;
  HwptObject() : Object(kKind) {}
  IoasObject* ioas = nullptr;
  std::unique_ptr<PageTable> table;
  HostSmmu* smmu = nullptr;  // null: any that can read the tables
  bool nest_parent = false;  // viommus can stand on it
  bool automatic = false;    // made by an attachment to the IOAS, goes with the last device
  FaultQueueObject* faults = nullptr;
  // Stage 2.
  std::shared_ptr<const VmidLease> vmid;  // where the HWPT owns it
  // Where viommus own VMIDs: those of devices that are attached to this without a vdevice, by SMMU.
  std::map<HostSmmu*, std::weak_ptr<const VmidLease>> direct_vmids;
  // Stage 1.
  std::shared_ptr<const AsidLease> asid;
  HostPages cd;  // the one context descriptor
};

struct HwQueueObject;

struct ViommuObject : Object {
  static constexpr ObjectKind kKind = ObjectKind::kViommu;
  ViommuObject() : Object(kKind) {}
  // These three never change.
  HostSmmu* smmu = nullptr;
  HwptObject* stage2 = nullptr;
  std::shared_ptr<const VmidLease> vmid;
  const std::shared_ptr<ViommuEvents> events = std::make_shared<ViommuEvents>();

  // Of type TEGRA241_CMDQV; null with others. It goes before the VMID that its commands bear.
  std::unique_ptr<VintfLease> vintf;
  uint32_t vintf_mappings = 0;            // each is a user
  std::vector<HwQueueObject*> hw_queues;  // by index

  SharedMutex sids_mu;
  // Physical StreamIDs by the guest's. 64 bits, because Linux 7.2 takes guest StreamIDs that no command can name.
  absl::flat_hash_map<uint64_t, uint32_t> sids ABSL_GUARDED_BY(sids_mu);
};

struct VdeviceObject : Object {
  static constexpr ObjectKind kKind = ObjectKind::kVdevice;
  VdeviceObject() : Object(kKind) {}
  ViommuObject* viommu = nullptr;
  DeviceObject* device = nullptr;
  uint64_t virt_id = 0;
  uint32_t sid_slot = 0;  // in the viommu's interface, where it has one
};

struct NestedObject : Object {
  static constexpr ObjectKind kKind = ObjectKind::kNested;
  NestedObject() : Object(kKind) {}
  ViommuObject* viommu = nullptr;
  smmuv3::RawVste vste;
  FaultQueueObject* faults = nullptr;
};

struct VeventqObject : Object {
  static constexpr ObjectKind kKind = ObjectKind::kVeventq;
  VeventqObject() : Object(kKind) {}
  ViommuObject* viommu = nullptr;
  VeventqType type = VeventqType::kDefault;
  std::shared_ptr<VeventQueue> queue;
};

// The host's tables behind what a group is attached to: a paging or a nested HWPT.
inline const HwptObject& TablesBelow(const Object& target) {
  return target.kind == ObjectKind::kNested ? *static_cast<const NestedObject&>(target).viommu->stage2
                                            : static_cast<const HwptObject&>(target);
}

// Each holds the one before it.
struct HwQueueObject : Object {
  static constexpr ObjectKind kKind = ObjectKind::kHwQueue;
  HwQueueObject() : Object(kKind) {}
  ViommuObject* viommu = nullptr;
  std::vector<IoasMapping*> memory;  // pinned
};

// Its own lock is held for moments only, so that Invalidate() finds its object while a control call is waiting for the
// SMMU. An object that was found stays until its owner removes it: under the control lock, or as long as it is pinned.
class ObjectTable {
 public:
  // Gives the object its id.
  ObjectId Add(std::unique_ptr<Object> object) ABSL_LOCKS_EXCLUDED(mu_);

  // Null when there is no object of this id, or, for the second, it is of another kind.
  Object* FindAny(ObjectId id) const ABSL_LOCKS_EXCLUDED(mu_);
  template <typename T>
  T* Find(ObjectId id) const {
    Object* object = FindAny(id);
    return object != nullptr && object->kind == T::kKind ? static_cast<T*>(object) : nullptr;
  }

  // Like FindAny(), and keeps the object from being removed until Unpin().
  Object* Pin(ObjectId id) ABSL_LOCKS_EXCLUDED(mu_);
  static void Unpin(Object* object) { object->in_flight.fetch_sub(1, std::memory_order_release); }

  // Takes the object out; null when it has users or calls in flight. With `keep_id`, the id stays unused and unknown
  // for ever.
  std::unique_ptr<Object> Remove(ObjectId id, bool keep_id = false) ABSL_LOCKS_EXCLUDED(mu_);

  // Calls `visit` with every object, by id, under the table's lock.
  void ForEach(const std::function<void(Object*)>& visit) const ABSL_LOCKS_EXCLUDED(mu_);
  // All objects of a kind, by id.
  template <typename T>
  std::vector<T*> All() const {
    std::vector<T*> objects;
    ForEach([&](Object* object) {
      if (object->kind == T::kKind) objects.push_back(static_cast<T*>(object));
    });
    return objects;
  }

 private:
  mutable Mutex mu_;
  // Index id - 1; null for a free or a retired id.
  std::vector<std::unique_ptr<Object>> objects_ ABSL_GUARDED_BY(mu_);
  std::priority_queue<ObjectId, std::vector<ObjectId>, std::greater<>> free_ ABSL_GUARDED_BY(mu_);
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_OBJECTS_H_
