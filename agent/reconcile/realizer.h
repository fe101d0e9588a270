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
// With a backend that keeps contexts (Backend::KeepsContexts) every step that changes one is noted before and after, so
// that the next process can go on with it (agent/reconcile/kept.h).
//
// Pure but for the backend: no threads, no clock. Not thread-safe.

#ifndef VIOMMU_AGENT_RECONCILE_REALIZER_H_
#define VIOMMU_AGENT_RECONCILE_REALIZER_H_

#include <cerrno>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "agent/backend.h"
#include "agent/errno_status.h"
#include "agent/reconcile/guest_events.h"
#include "agent/reconcile/held_state.h"
#include "agent/reconcile/inspection.h"
#include "agent/reconcile/kept.h"
#include "agent/reconcile/objects.h"
#include "agent/reconcile/reasons.h"
#include "agent/reconcile/targets.h"
#include "agent/reconcile/vm_memory.h"
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

// A hardware queue as it is handed out: for two mmap() calls.
struct OpenedHwQueue {
  FileDescriptor registers;
  uint64_t registers_offset = 0;  // bytes
  uint64_t registers_length = 0;  // bytes
  FileDescriptor memory;
  uint64_t memory_offset = 0;  // bytes
  uint64_t memory_length = 0;  // bytes
  uint32_t index = 0;
};

class Realizer {
 public:
  static constexpr size_t kMaxVms = 16384;  // whose memory is known

  // What the realizer asks of whoever drives it.
  struct Hooks {
    // Called before the first change at the backend for an item's generation; an error keeps it from happening.
    std::function<absl::Status(const HeldItem& item, Operation operation)> begin;
    // Whether the resource is there and its last attempt failed.
    std::function<bool(const std::string& uid)> has_failed;
    // Writes what happens to a context that is kept.
    std::function<absl::Status(journal::Kept note)> note;
    // Writes whose a VM is.
    std::function<absl::Status(journal::VmUser user)> note_user;
    // Who reads viommus' event queues; without, none are made.
    GuestEvents* events = nullptr;
  };

  // Everything must outlive it. `held` is what its owner's journal says, and may change between the calls.
  Realizer(Backend& backend, Targets& targets, const HeldState& held, const Inventory& inventory, Hooks hooks);
  // Destroys the contexts, and with them all objects of those that are not kept. Nobody may hold a lease on a target
  // any more.
  ~Realizer() = default;

  // Goes on with a context that an earlier process has left, as `held` knows it. Before anything else is done;
  // resources that targets can name have been declared.
  void Adopt(AdoptedContext adopted);

  // Binds the device of a vdevice, so that what needs one can be made. Only for items that are not deleting.
  Step Bind(const HeldItem& vdevice);
  // Goes as far as possible towards what the item should be.
  Step Advance(const HeldItem& item);

  // Memory that devices of the VM shall reach, now and whenever the VM's context is made anew. What its owner maps goes
  // when the owner is forgotten. In a context that was adopted memory is still mapped: the same range of the same file
  // is its owner's again, and nothing changes for devices; what else was there at these addresses goes.
  //
  // Who hands memory of a VM over first has the VM, and so it stays across restarts of the agent: until all of the
  // memory is gone and the last of it was theirs, or until nothing of the VM is here any more.
  //
  // Hardware queues that lie where the agent has supplied the memory, or one who is gone has left his, are made anew in
  // what is handed over there: their uids are added to `ended`, also with an error.
  //   errors of VmMemory::Check(); PERMISSION_DENIED NOT_AUTHORIZED: another one has the VM;
  //   RESOURCE_EXHAUSTED LIMIT_EXCEEDED; UNAVAILABLE STORE_UNAVAILABLE: the journal; BACKEND_FAILED
  absl::Status MapMemory(const std::string& vm, uint64_t iova, VmMemory::Range range, std::vector<std::string>& ended);
  // Bytes that no device reaches any more.
  //   errors of VmMemory::Inside(); FAILED_PRECONDITION BACKEND_FAILED: a hardware queue lies in it
  absl::StatusOr<uint64_t> UnmapMemory(VmMemory::Owner owner, const std::string& vm, uint64_t iova, uint64_t length);
  // Hands a queue out; its viommu cannot go before the owner is forgotten.
  //   NOT_FOUND            HW_QUEUE_NOT_FOUND
  //   PERMISSION_DENIED    NOT_AUTHORIZED: see VmMemory::CheckReader(); or another one has the VM
  //   FAILED_PRECONDITION  NOT_REALIZED
  //   UNAVAILABLE          BACKEND_FAILED
  absl::StatusOr<OpenedHwQueue> OpenHwQueue(VmMemory::Owner owner, VmMemory::User user, const std::string& name);
  // Whether processes of `user` may know of a viommu by this name what its guest does: as with OpenHwQueue().
  //   NOT_FOUND          VIOMMU_NOT_FOUND
  //   PERMISSION_DENIED  NOT_AUTHORIZED
  absl::Status CheckReader(VmMemory::User user, const std::string& viommu) const;
  // By VM: bytes that are mapped in a context that was adopted, and that nobody has handed over again.
  std::map<std::string, uint64_t> UnclaimedBytes() const;
  // Takes back what it has mapped and what was handed out to it.
  void ForgetOwner(VmMemory::Owner owner);
  // Forgets whose VMs are that an earlier process has noted, in another boot or of VMs of which nothing is here. At the
  // beginning.
  void ForgetUsers(const std::string& boot_id);

  // A look at what the backend really holds. Over before the next step.
  Inspection Inspect() const;
  // VMs whose context is open, by name.
  std::vector<std::string> OpenVms() const;
  // Takes note of what was found of the item's objects, so that the next Advance() begins from there. Nothing is
  // changed at the backend.
  void Learn(const HeldItem& item, const Finding& finding);
  // The same of the IOAS of a VM's context, which was found missing; the next stage 2 makes another one.
  void LoseIoas(const std::string& vm);
  // Ends objects of a VM's context that are nobody's, in this order. Returns how many are left.
  size_t EndStrays(const std::string& vm, const std::vector<ObjectInfo>& strays);

  // A later generation of the item cannot come of the objects that are there: they are to end first, and before them
  // what stands on them. Nothing is changed at the backend. Returns the uids of all that MustUnmake() is true of now,
  // for the item's sake.
  std::set<std::string> Outdate(const HeldItem& item);
  // Whether Unmake() comes before Advance(); of items that are not deleting.
  bool MustUnmake(const HeldItem& item) const;
  // Ends the item's objects if they are not what its record can come of, or stand on such; a device that is only
  // attached to such is detached. Done when the Step is kReleased; until then what stands on it is waited for.
  Step Unmake(const HeldItem& item);

  // Whether there are viommus whose event queue could not be made, and may be another time.
  bool LacksEventQueues() const { return !lacking_queues_.empty(); }
  // Tries one of them, each in its turn. False when that failed, or there is none.
  bool RetryEventQueue();

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
    bool kept = false;                                 // and noted
    std::map<uint64_t, journal::KeptRange> unclaimed;  // of an adopted one: mapped, and nobody has come for it yet
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
  // event_queues.cc: of a viommu that is made and has none. One that gets none serves all the same; the log says so.
  // False when it is to be tried again: then it is among those that RetryEventQueue() tries.
  bool MakeEventQueue(const HeldItem& item);
  // Ends its event queue; nothing when done.
  std::optional<Step> EndEventQueue(const HeldItem& item);
  // hw_queues.cc
  Step AdvanceHwQueue(const HeldItem& item);
  // Memory of the agent's own for a queue that lies where nothing is mapped.
  absl::Status SupplyMemory(Vm& vm, VmMemory& memory, uint64_t iova, uint64_t length);
  // Ends the VM's hardware queues in what is nobody's and overlaps [iova, iova + length), and the memory with them; see
  // MapMemory(). Where that fails, the memory stays in the way.
  void MakeWay(const std::string& vm, uint64_t iova, uint64_t length, std::vector<std::string>& ended);
  // A queue, after those above it.
  void EndQueue(const std::string& uid, std::vector<std::string>& ended);
  // Of a VM: unmaps what the agent supplied for queues that are gone, and what owners have left behind.
  void TidyMemory(const std::string& vm);
  // Whether somebody else has the VM; whether `user` may read what is its guest's.
  absl::Status CheckUser(VmMemory::User user, const std::string& vm) const;
  absl::Status CheckReaderOf(VmMemory::User user, const std::string& vm) const;
  // Writes it down if the VM is nobody's yet; that it is nobody's any more.
  absl::Status NoteUser(VmMemory::User user, const std::string& vm);
  void NoteNobody(const std::string& vm);
  // After memory or objects of the VM have gone; with `last`: memory, and whose the last of it was.
  void ForgetUserIfGone(const std::string& vm, std::optional<VmMemory::User> last = std::nullopt);
  // Whether something of the VM is here or is to be.
  bool Knows(const std::string& vm) const;
  // Into an IOAS that was just made.
  absl::Status MapEverything(Context& context, ObjectId ioas, const std::string& vm);
  absl::Status Map(const std::string& vm, uint64_t iova, const VmMemory::Range& range);
  // Whether the range is there from an earlier process; what else overlaps it goes.
  absl::StatusOr<bool> Claim(const std::string& vm, uint64_t iova, const VmMemory::Range& range);
  absl::Status Unmap(const std::string& vm, uint64_t iova, uint64_t length);
  Step Release(const HeldItem& item);
  // The parts of a vdevice's release; done when the Step is kReleased.
  Step ReleaseVdevice(const HeldItem& item, const Made& made);
  // Of a vdevice's device; nothing when done.
  std::optional<Step> Detach(const HeldItem& item, const Made& made);
  // Detaches, destroys the vdevice; nothing when done.
  std::optional<Step> Unset(const HeldItem& item, const Made& made);
  Step AttachVdevice(const HeldItem& item, const Made& made, const std::string& stage2_uid);
  // The name of what a vdevice is to be attached to: its nested domain, or its viommu's stage 2.
  std::string AttachmentOf(const HeldItem& vdevice) const;
  // A bound vdevice of the same IOMMU group that is to be attached to something else; null when there is none. The
  // backend attaches whole groups: without this the last one would take the others along unasked.
  const HeldItem* AtOdds(const HeldItem& vdevice) const;
  // Why it could not be attached to a nested domain, where that is for want of a vdevice of another device of its IOMMU
  // group: where the guest's stage 1 translates, the kernel wants one of each, bound or not.
  std::optional<Step> WaitForGroup(const HeldItem& vdevice) const;

  static Step Failed(Operation operation, const absl::Status& status);
  // Runs one change at the backend; nothing when it worked.
  template <typename F>
  std::optional<Step> Try(const HeldItem& item, const std::string& vm, Operation operation, F&& change);
  // The same for the end of an object: what is unknown to the backend is gone already.
  template <typename F>
  std::optional<Step> TryEnd(const HeldItem& item, const std::string& vm, Operation operation, F&& change);

  // Of a context that is kept, else nothing: a change begins; has failed; has happened. Between the first and one of
  // the others nothing of the context is sure. Should the last not be written, the context is in doubt from then on.
  absl::Status NoteChanging(const std::string& vm, Operation operation);
  void NoteSettled(const std::string& vm);
  void Note(const std::string& vm, journal::Kept note);
  // The objects of an item as they are now.
  void NoteObjects(const std::string& vm, const std::string& uid);
  void NoteMapped(const std::string& vm, uint64_t iova, const VmMemory::Range& range);
  // An IOAS that was just made, with what is mapped in it.
  void NoteMemory(const std::string& vm);

  Lineage LineageOf(std::string_view viommu_name) const;
  // Waiting, or blocked when that resource has failed.
  Step WaitFor(const HeldItem* needed, std::string_view name) const;
  // Nothing to wait for unless what is there of `below` is outdated; null: it is not held.
  std::optional<Step> WaitForEnd(const HeldItem* below) const;
  const Made* Find(const std::string& uid) const { return objects_.Find(uid); }
  // Whether it was made of something that cannot be changed to what is held now, or stands on what was.
  bool IsOutdated(const Made& made) const;
  // What others can be made on or attached to: null also when it is outdated.
  const Made* FindCurrent(const std::string& uid) const;
  // A bound device of the viommu; of any viommu on the stage 2; none that is to be let go first. 0: none.
  ObjectId DeviceOfViommu(const std::string& viommu_uid) const;
  ObjectId DeviceOfStage2(const HeldItem& stage2) const;
  std::optional<Step> OpenContext(const HeldItem& item, const std::string& vm, Vm& context);
  void CloseIfUnused(const std::string& vm);
  // Of a viommu or nested domain.
  void PublishTarget(const HeldItem& item, const Made& made);
  smmuv3::Features FeaturesOf(const HeldItem& viommu) const;

  Backend& backend_;
  Targets& targets_;
  const HeldState& held_;
  const Hooks hooks_;
  std::map<std::string, smmuv3::Features> features_;               // by SmmuInfo::name
  std::map<std::string, std::vector<std::string>> group_members_;  // the others of its IOMMU group, by PCI address
  absl::btree_map<std::string, Vm> contexts_;                      // by VM name
  Objects objects_;                                                // only of items that have some
  struct QueueMemory {
    std::string vm;
    uint64_t iova = 0;
    uint64_t length = 0;
  };
  struct OpenVintf {
    std::string vm;
    std::string viommu;  // uid
    ObjectId id = 0;     // of the viommu, at the time
  };
  std::map<std::string, VmMemory> memory_;     // by VM name
  std::map<std::string, QueueMemory> queues_;  // by uid, of hardware queues that are made
  std::map<VmMemory::Owner, std::vector<OpenVintf>> open_vintfs_;
  std::set<int> queue_failures_;          // errnos with which event queues were refused, as the log has said
  std::set<std::string> lacking_queues_;  // uids of viommus
  std::string last_retried_queue_;        // uid
  uint64_t changes_ = 0;
};

template <typename F>
std::optional<Step> Realizer::Try(const HeldItem& item, const std::string& vm, Operation operation, F&& change) {
  if (absl::Status begun = hooks_.begin(item, operation); !begun.ok()) return Failed(Operation::kJournal, begun);
  if (absl::Status noted = NoteChanging(vm, operation); !noted.ok()) return Failed(Operation::kJournal, noted);
  if (absl::Status status = change(); !status.ok()) {
    NoteSettled(vm);
    return Failed(operation, status);
  }
  ++changes_;
  return std::nullopt;
}

template <typename F>
std::optional<Step> Realizer::TryEnd(const HeldItem& item, const std::string& vm, Operation operation, F&& change) {
  return Try(item, vm, operation, [&change]() -> absl::Status {
    absl::Status status = change();
    if (StatusErrno(status) == ENOENT) return absl::OkStatus();
    return status;
  });
}

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_RECONCILE_REALIZER_H_
