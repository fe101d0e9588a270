// Makes and unmakes the kernel objects behind held resources, one resource at a time.
//
// One Context per VM: all stage-2 domains of a VM on this host and everything on them. It is opened with the VM's first
// device and closed when its last object is gone.
//
// The kernel makes stage-2 HWPTs, viommus and nested HWPTs for a device that is bound, so they are made along with the
// first vdevice (until then they are dormant). Once made they stay until they are released, also when the last vdevice
// goes: the kernel keeps a stage-2 HWPT and a viommu without devices, the VMID stays the VM's own, and a device that
// comes back finds everything in place. A nested domain that is recorded while no device is bound is dormant again.
//
// Away from what it is attached to, for its release or a rebind, a device is detached, so that its accesses are blocked
// until they mean the right thing again. Attaching it to the bare stage 2 instead would let its untranslated accesses
// through in between, and would need a VMID of its own where VMIDs belong to viommus.
//
// Pure but for the backend: no threads, no clock. Not thread-safe.

#ifndef VIOMMU_AGENT_RECONCILE_REALIZER_H_
#define VIOMMU_AGENT_RECONCILE_REALIZER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "agent/backend.h"
#include "agent/reconcile/held_state.h"
#include "agent/reconcile/objects.h"
#include "agent/reconcile/reasons.h"
#include "agent/reconcile/targets.h"
#include "agent/smmuv3/spec/id_registers.h"

namespace viommu::agent {

// Where a resource stands after an attempt.
struct Step {
  enum class Kind {
    kWaiting,   // for a resource that is not there yet, or not gone yet
    kDormant,   // for a device
    kApplied,   // as it should be
    kReleased,  // gone
    kBlocked,   // what it needs has failed; reason says what
    kFailed,    // reason says why
  };
  Kind kind = Kind::kWaiting;
  v1::StateReason reason = {};
  uint32_t vmid = 0;  // kApplied, of a viommu: where the backend tells
};

class Realizer {
 public:
  // What the realizer asks of whoever drives it.
  struct Hooks {
    // Called before the first change at the backend for an item's generation; an error keeps it from happening.
    std::function<absl::Status(const HeldItem& item, Operation operation)> begin;
    // Whether the resource is there and its last attempt failed.
    std::function<bool(const std::string& uid)> has_failed;
  };

  // Everything must outlive it. `held` is what its owner's journal says, and may change between the calls.
  Realizer(Backend& backend, Targets& targets, const HeldState& held, const Inventory& inventory, Hooks hooks);
  // Destroys the contexts, and with them all objects. Nobody may hold a lease on a target any more.
  ~Realizer() = default;

  // Binds the device of a vdevice, so that what needs one can be made. Only for items that are not deleting.
  Step Bind(const HeldItem& vdevice);
  // Goes as far as possible towards what the item should be.
  Step Advance(const HeldItem& item);

  // Kernel ids by kind, of the item's own objects; empty when it has none.
  std::map<std::string, uint32_t> KernelIds(const std::string& uid) const;
  bool HasObjects(const std::string& uid) const { return Find(uid) != nullptr; }
  // Changes made at the backend so far.
  uint64_t changes() const { return changes_; }
  size_t contexts() const { return contexts_.size(); }

 private:
  struct Vm {
    std::unique_ptr<Context> context;
    ObjectId ioas = 0;
  };
  // What a vdevice or nested domain stands on; null where it is not held.
  struct Lineage {
    const HeldItem* viommu = nullptr;
    const HeldItem* stage2 = nullptr;
    bool whole() const { return stage2 != nullptr; }
  };

  Step AdvanceStage2(const HeldItem& item);
  Step AdvanceViommu(const HeldItem& item);
  Step AdvanceNested(const HeldItem& item);
  Step AdvanceVdevice(const HeldItem& item);
  Step Release(const HeldItem& item);
  // The parts of a vdevice's release; done when the Step is kReleased.
  Step ReleaseVdevice(const HeldItem& item, const Made& made);
  // Detaches, destroys the vdevice; nothing when done.
  std::optional<Step> Unset(const HeldItem& item, const Made& made);
  Step AttachVdevice(const HeldItem& item, const Made& made, const std::string& stage2_uid);

  // Runs one change at the backend; nothing when it worked.
  template <typename F>
  std::optional<Step> Try(const HeldItem& item, Operation operation, F&& change);
  // The same for the end of an object: what is unknown to the backend is gone already.
  template <typename F>
  std::optional<Step> TryEnd(const HeldItem& item, Operation operation, F&& change);

  Lineage LineageOf(std::string_view viommu_name) const;
  // Waiting, or blocked when that resource has failed.
  Step WaitFor(const HeldItem* needed, std::string_view name) const;
  const Made* Find(const std::string& uid) const { return objects_.Find(uid); }
  // A bound device of the viommu; of any viommu on the stage 2. 0: none.
  ObjectId DeviceOfViommu(const std::string& viommu_uid) const;
  ObjectId DeviceOfStage2(const HeldItem& stage2) const;
  void CloseIfUnused(const std::string& vm);
  smmuv3::Features FeaturesOf(const HeldItem& viommu) const;

  Backend& backend_;
  Targets& targets_;
  const HeldState& held_;
  const Hooks hooks_;
  std::map<std::string, smmuv3::Features> features_;  // by SmmuInfo::name
  absl::btree_map<std::string, Vm> contexts_;         // by VM name
  Objects objects_;                                   // only of items that have some
  uint64_t changes_ = 0;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_RECONCILE_REALIZER_H_
