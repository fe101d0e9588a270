// The seam between the agent and whatever drives the SMMUs of its host: Linux's iommufd and VFIO, or the emulated
// SMMUv3.
//
// It speaks iommufd's object model (include/uapi/linux/iommufd.h), so that the kernel fits behind it call by call:
//
//   Backend                 the host
//    └ Context              one opened /dev/iommu: everything of one VM
//       ├ device            a bound VFIO device
//       ├ IOAS              guest-physical memory map
//       ├ stage-2 HWPT      page table over an IOAS, nesting parent
//       ├ viommu            slice of one SMMU; on top of a stage-2 HWPT
//       ├ vdevice           (viommu, device, guest StreamID)
//       ├ nested HWPT       what a guest's stream table entry asks for; belongs to a viommu
//       ├ hardware queue    guest-owned command queue; belongs to a viommu
//       └ event queue       belongs to a viommu
//
// Ids. An ObjectId is meaningful in its Context alone. The lowest free number is handed out, from 1, and a number is
// handed out again as soon as its object is gone: never record one as an identity. 0 is never valid.
//
// Who blocks whom. Destroy() of an object answers EBUSY while something stands on it:
//   IOAS: a HWPT on it. Stage-2 HWPT: an attached device, a viommu. Viommu: a nested HWPT, a vdevice, a queue.
//   Nested HWPT: an attached device. Hardware queue n: hardware queue n + 1. Anything: a call in flight that uses it.
// The order of a clean end: Attach() each device to the stage 2 or Detach() it → nested HWPTs → vdevices → hardware
// queues from the highest index down → event queues → viommu → stage 2 → IOAS → UnbindDevice(). Destroying the Context
// does all that by itself.
//
// Errors carry the kernel's errno (agent/errno_status.h), with the kernel's order of checks. An id that is unknown, of
// another kind, or of an object that the kernel removed by itself is ENOENT, unless a call says otherwise.
//
// Threads. All methods of Backend and Context may be called from any thread at any time; a Context must outlive the
// calls in flight on it. Control calls of one Context run one after the other. Invalidate() runs beside them and beside
// itself.

#ifndef VIOMMU_AGENT_BACKEND_H_
#define VIOMMU_AGENT_BACKEND_H_

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/smmuv3/spec/words.h"

namespace viommu::agent {

using ObjectId = uint32_t;

// Limits of the kernel that every backend keeps.
inline constexpr uint32_t kMaxInvalidateEntries = 524288;  // commands in one Invalidate()
inline constexpr uint32_t kMaxVeventqDepth = 524288;       // events waiting in one queue

// ---- What there is ------------------------------------------------------------------------------------------------

// Guest-owned hardware command queues of one SMMU (Tegra241 CMDQV).
struct HwQueueInventory {
  uint32_t vintfs = 0;            // virtual interfaces for guests; each serves one viommu
  uint32_t queues_per_vintf = 0;  // queues in each interface
  uint32_t sid_slots = 0;         // StreamIDs that each interface can translate

  friend bool operator==(const HwQueueInventory&, const HwQueueInventory&) = default;
};

// One physical SMMU.
struct SmmuInfo {
  std::string name;                  // unique on the host, such as "smmu3.0x0000000011000000"
  std::array<uint32_t, 6> idr = {};  // SMMU_IDR0 to SMMU_IDR5, raw (IHI 0070, 6.3.1 to 6.3.6)
  uint32_t iidr = 0;                 // SMMU_IIDR, raw
  uint32_t aidr = 0;                 // SMMU_AIDR, raw

  // Read off the registers above.
  uint32_t vmid_bits = 0;  // 8 or 16
  uint32_t sid_bits = 0;   // width of a StreamID, 0 to 32
  uint32_t ssid_bits = 0;  // width of a SubstreamID, 0 to 20; 0: none
  bool ats = false;
  bool pri = false;

  std::optional<HwQueueInventory> hw_queue;  // unset where there are none

  friend bool operator==(const SmmuInfo&, const SmmuInfo&) = default;
};

// One PCI function behind an SMMU.
struct DeviceInfo {
  std::string pci_address;      // "0000:01:00.0"
  std::string smmu;             // SmmuInfo::name
  uint32_t stream_id = 0;       // physical StreamID
  bool ats = false;             // ATS works for this device here: function, root complex and SMMU can
  uint32_t max_pasid_log2 = 0;  // log2 of the number of PASIDs; 0: none
  uint32_t iommu_group = 0;
  std::map<std::string, std::string> labels;

  friend bool operator==(const DeviceInfo&, const DeviceInfo&) = default;
};

struct Inventory {
  std::map<std::string, std::string> labels;  // of the host
  std::vector<SmmuInfo> smmus;                // by name
  std::vector<DeviceInfo> devices;            // by PCI address

  friend bool operator==(const Inventory&, const Inventory&) = default;
};

// ---- What it can do -----------------------------------------------------------------------------------------------

enum class Stage2Sharing {
  kShared,   // one stage-2 HWPT serves viommus on any SMMUs of the host
  kPerSmmu,  // a stage-2 HWPT belongs to the SMMU of the device that it was allocated with (Linux 7.2)
};

enum class VmidOwner {
  kViommu,  // a VMID is taken by AllocViommu()
  kStage2,  // a VMID is taken by AllocStage2(); viommus on it share it (Linux 7.2)
};

// Something that a backend can or cannot do.
struct Capability {
  std::string name;  // "viommu", "hw_queue", "veventq", "map_ioas", ...
  bool available = false;
  std::string reason;  // why not, or how

  friend bool operator==(const Capability&, const Capability&) = default;
};

struct Capabilities {
  std::string backend;  // "emulated/strict", "emulated/linux-7.2", "iommufd"
  Stage2Sharing stage2_sharing = Stage2Sharing::kPerSmmu;
  VmidOwner vmid_owner = VmidOwner::kStage2;
  bool invalidate_by_nested = false;  // Invalidate() takes a nested HWPT as well as a viommu
  bool reports_vmid = false;          // AllocViommu() tells the VMID
  std::vector<Capability> others;
};

// ---- What it counts -----------------------------------------------------------------------------------------------

// Invalidations of one opcode that guests asked for. Every entry given to Invalidate() is counted in exactly one field,
// except those after the one that stopped the call.
struct InvalidationCount {
  uint8_t opcode = 0;
  uint64_t done = 0;     // carried out, and a sync after them completed
  uint64_t refused = 0;  // not acceptable: opcode, field or StreamID
  uint64_t failed = 0;   // accepted, but not known to have taken effect
};

// Latencies of syncs. Bucket i counts those of at most upper_bounds[i]; the last bucket, without a bound, the longer
// ones.
struct LatencyHistogram {
  std::vector<std::chrono::nanoseconds> upper_bounds;
  std::vector<uint64_t> counts;  // one more than upper_bounds
  std::chrono::nanoseconds sum{0};
};

// Counters of one SMMU since the backend was opened. Numbers are read one by one: they are each exact, not a snapshot.
struct SmmuStats {
  std::string smmu;
  std::vector<InvalidationCount> invalidations;  // by opcode; opcodes never seen are left out
  uint64_t queue_depth = 0;                      // commands waiting now
  uint64_t queue_capacity = 0;                   // commands
  uint64_t queue_pushed = 0;                     // commands
  uint64_t queue_full_waits = 0;                 // times that a producer had to wait for room
  uint64_t command_errors = 0;                   // commands that the SMMU itself refused (CERROR_ILL)
  LatencyHistogram sync_latency;
  uint64_t sync_timeouts = 0;   // syncs that did not complete in time
  uint64_t tlb_entries = 0;     // 0 where the backend cannot look
  uint64_t atc_entries = 0;     // likewise
  uint64_t config_entries = 0;  // likewise
  uint64_t vmids_used = 0;
  uint64_t vmids_total = 0;
};

// ---- Calls --------------------------------------------------------------------------------------------------------

enum class ViommuType : uint32_t {
  kDefault = 0,  // always refused
  kArmSmmuv3 = 1,
  kTegra241Cmdqv = 2,
};

enum class InvalidateDataType : uint32_t {
  kVtdS1 = 0,
  kArmSmmuv3 = 1,
};

enum class VeventqType : uint32_t {
  kDefault = 0,  // always refused
  kArmSmmuv3 = 1,
  kTegra241Cmdqv = 2,
};

enum class HwQueueType : uint32_t {
  kDefault = 0,  // always refused
  kTegra241Cmdqv = 1,
};

// Guest memory: a range of a file (memfd, hugetlbfs, dma-buf). The backend keeps its own reference to the file; the
// caller may close `fd` as soon as the call has returned.
struct MemoryHandle {
  int fd = -1;
  uint64_t offset = 0;  // bytes
  bool readable = true;
  bool writable = true;
};

struct ViommuHandle {
  ObjectId id = 0;
  std::optional<uint16_t> vmid;  // where the backend can tell
};

struct HwInfo {
  std::array<uint32_t, 6> idr = {};
  uint32_t iidr = 0;
  uint32_t aidr = 0;
  uint32_t max_pasid_log2 = 0;
  bool ats_not_supported = false;
};

// How an Invalidate() went. Linux 7.2 may count entries in `handled` that were checked and not issued: after any error,
// send the whole batch again (it is always safe), or ask Capabilities::others for "exact_handled".
struct InvalidateResult {
  absl::Status status;
  uint32_t handled = 0;  // entries
};

// One event of a viommu (IHI 0070, 7.3), with the guest's StreamID.
struct Vevent {
  bool lost = false;      // events before this place were lost; record is empty
  uint32_t sequence = 0;  // 0 to 2^31 - 1, then 0 again; a gap of n means n - 1 lost events
  std::array<uint64_t, 4> record = {};
};

// Everything that one VM has on a host: one opened /dev/iommu with its VFIO devices. Destroying it detaches and unbinds
// every device and frees every object, in the right order, without errors.
class Context {
 public:
  virtual ~Context() = default;

  // Takes the device for this context. Its accesses are blocked until it is attached.
  //   ENODEV  no such device here
  //   EINVAL  the device's DMA is not cache coherent
  //   EBUSY   the device, or another one of its IOMMU group, is bound in another context; or it is bound here already
  virtual absl::StatusOr<ObjectId> BindDevice(std::string_view pci_address) = 0;

  // Gives the device back (closes its VFIO device): detaches it. A vdevice that still exists goes with it; its id then
  // stays unused and unknown for the rest of the context's life.
  //   ENOENT  not bound here
  virtual absl::Status UnbindDevice(std::string_view pci_address) = 0;

  virtual absl::StatusOr<ObjectId> AllocIoas() = 0;

  // Maps `length` bytes of `memory` at guest-physical address `iova`.
  //   EINVAL     nothing to map, neither readable nor writable, or not aligned to 4096 bytes
  //   EOVERFLOW  beyond the end of the address space
  //   EEXIST     overlaps a mapping
  //   EBADF      fd is not an open file
  virtual absl::Status MapIoas(ObjectId ioas, uint64_t iova, uint64_t length, const MemoryHandle& memory) = 0;

  // Unmaps the mappings inside the range, all of them when iova is 0 and length is UINT64_MAX; returns the bytes
  // unmapped.
  //   ENOENT  there is none, or one lies only partly inside; nothing is unmapped
  virtual absl::StatusOr<uint64_t> UnmapIoas(ObjectId ioas, uint64_t iova, uint64_t length) = 0;

  // A stage-2 HWPT over `ioas` that can be a nesting parent; for the SMMU of `device` where stage 2 is per SMMU.
  //   ENOENT      device
  //   EINVAL      ioas (not ENOENT: the kernel's choice)
  //   EOPNOTSUPP  the SMMU has no two stages
  //   ENOSPC      VMIDs used up, where stage 2 owns them
  virtual absl::StatusOr<ObjectId> AllocStage2(ObjectId device, ObjectId ioas) = 0;

  // A viommu on the SMMU of `device`, on top of `stage2`.
  //   EOPNOTSUPP  type, or the SMMU cannot
  //   ENOENT      device, or stage2 is no stage-2 HWPT
  //   EINVAL      stage2 belongs to another SMMU, where it is per SMMU
  //   ENOSPC      VMIDs used up, where viommus own them
  virtual absl::StatusOr<ViommuHandle> AllocViommu(ObjectId device, ObjectId stage2, ViommuType type) = 0;

  // Tells the SMMU that the guest of `viommu` knows `device` by StreamID `virt_id`.
  //   ENOENT      viommu or device
  //   EINVAL      the device is behind another SMMU; virt_id is wider than 32 bits and the backend looks (Linux 7.2
  //   does not) EEXIST      the device has a vdevice already, or virt_id is taken in this viommu EOPNOTSUPP  the device
  //   has not exactly one StreamID
  virtual absl::StatusOr<ObjectId> AllocVdevice(ObjectId viommu, ObjectId device, uint64_t virt_id) = 0;

  // A nested HWPT from what the guest wrote in its stream table.
  //   ENOENT      device
  //   EINVAL      viommu is no viommu (not ENOENT: the kernel's choice); the device is behind another SMMU
  //   EOPNOTSUPP  viommu names a stage-2 HWPT: Arm nests by viommu alone
  //   EIO         the words break a rule of smmuv3::ValidateVste()
  virtual absl::StatusOr<ObjectId> AllocNested(ObjectId viommu, ObjectId device, const smmuv3::RawVste& vste) = 0;

  // Attaches the device, and the others of its IOMMU group, to a stage-2 or nested HWPT. Replaces what it is attached
  // to in one step: no access sees a state between the two.
  //   ENOENT  device or pt; or a nested HWPT translates and the device has no vdevice in its viommu
  //   EINVAL  pt can not be attached to; it belongs to another SMMU; the group is attached to something else
  //   ENOSPC  VMIDs used up: where viommus own them, a device without vdevice takes one for its stage 2
  virtual absl::Status Attach(ObjectId device, ObjectId pt) = 0;

  // Blocks the device's accesses. Does nothing when it is not attached.
  virtual absl::Status Detach(ObjectId device) = 0;

  // Carries out `commands` in order, for a viommu or, where Capabilities say so, a nested HWPT; returns after all of
  // them have taken effect. The VM's VMID and physical StreamIDs replace what the commands say. Does not allocate.
  //   EINVAL      more than kMaxInvalidateEntries; the object takes no invalidations; another data_type;
  //               no command at all (Linux 7.2)
  //   ENOENT      id
  //   EOPNOTSUPP  a nested HWPT, where the backend takes viommus only
  //   EIO         a command that a guest may not send, or an unknown StreamID in it
  //   ETIMEDOUT   the SMMU did not complete a sync in time
  virtual InvalidateResult Invalidate(ObjectId id, InvalidateDataType data_type,
                                      std::span<const smmuv3::RawCommand> commands) = 0;

  // A queue for events of the viommu's devices.
  //   EOPNOTSUPP  type kDefault
  //   EINVAL      depth 0 or above kMaxVeventqDepth
  //   ENOENT      viommu
  //   EEXIST      the viommu has a queue of this type
  virtual absl::StatusOr<ObjectId> AllocVeventq(ObjectId viommu, VeventqType type, uint32_t depth) = 0;

  // Takes up to `max` events out of the queue; empty when there are none. Never blocks.
  virtual absl::StatusOr<std::vector<Vevent>> ReadVeventq(ObjectId veventq, uint32_t max) = 0;

  // A guest-owned command queue in guest memory at `iova`, `length` bytes long.
  //   EOPNOTSUPP  type kDefault, or the viommu has no hardware queues
  //   EINVAL      length 0
  //   EOVERFLOW   iova + length
  //   ENOENT      viommu
  virtual absl::StatusOr<ObjectId> AllocHwQueue(ObjectId viommu, HwQueueType type, uint32_t index, uint64_t iova,
                                                uint64_t length) = 0;

  virtual absl::StatusOr<HwInfo> GetHwInfo(ObjectId device) = 0;

  // Frees an object. Devices are not freed this way (EBUSY), see UnbindDevice().
  //   ENOENT  id
  //   EBUSY   something stands on it, see the head of this file
  virtual absl::Status Destroy(ObjectId id) = 0;
};

// The SMMUs of one host.
class Backend {
 public:
  virtual ~Backend() = default;

  // What is there now. Unchanging with the emulated backend; hotplug changes it with a real one.
  virtual absl::StatusOr<Inventory> Discover() = 0;

  virtual Capabilities GetCapabilities() const = 0;

  // A new context without objects. It must not outlive the backend.
  virtual absl::StatusOr<std::unique_ptr<Context>> OpenContext() = 0;

  // One entry a SMMU, in the order of Discover().
  virtual std::vector<SmmuStats> GetStats() const = 0;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_BACKEND_H_
