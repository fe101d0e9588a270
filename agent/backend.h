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
//       ├ event queue       belongs to a viommu
//       └ fault queue       page requests and stalls of devices attached to a nested HWPT that names it
//
// Ids. An ObjectId is meaningful in its Context alone. The lowest free number is handed out, from 1, and a number is
// handed out again as soon as its object is gone: never record one as an identity. 0 is never valid.
//
// Who blocks whom. Destroy() of an object answers EBUSY while something stands on it:
//   IOAS: a HWPT on it, an attached device. HWPT: an attached device; a stage-2 HWPT also: a viommu. Viommu: a nested
//   HWPT, a vdevice, a queue, a mapping of its interface. Fault queue: a HWPT that names it. Hardware queue n: hardware
//   queue n + 1. Anything: a call in flight that uses it.
// The order of a clean end: Attach() each device to the stage 2 or Detach() it → nested HWPTs → vdevices → hardware
// queues from the highest index down → event and fault queues → viommu → stage 2 → IOAS → UnbindDevice(). Destroying
// the Context does all that by itself.
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
#include <cstddef>
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
inline constexpr uint32_t kMaxInvalidateEntries = 524288;   // commands in one Invalidate()
inline constexpr uint32_t kMaxInvalidateEntryBytes = 4096;  // of one entry of InvalidateRaw()
inline constexpr uint32_t kMaxVeventqDepth = 524288;        // events waiting in one queue

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
  std::vector<InvalidationCount> invalidations;   // by opcode; opcodes never seen are left out
  uint64_t queue_depth = 0;                       // commands waiting now
  uint64_t queue_capacity = 0;                    // commands
  uint64_t queue_pushed = 0;                      // commands
  uint64_t queue_full_waits = 0;                  // times that a producer had to wait for room
  std::chrono::nanoseconds queue_stalled_for{0};  // waited for a producer that has room in it and has not filled it
  uint64_t command_errors = 0;                    // commands that the SMMU itself refused (CERROR_ILL)
  uint64_t atc_timeouts = 0;                      // syncs that a device's silence made fail (CERROR_ATC_INV_SYNC)
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

// ---- HWPT_ALLOC, in the kernel's own terms: AllocStage2() and AllocNested() are what one usually wants.

// Flags.
inline constexpr uint32_t kHwptNestParent = 1;
inline constexpr uint32_t kHwptDirtyTracking = 2;
inline constexpr uint32_t kHwptFaultIdValid = 4;
inline constexpr uint32_t kHwptPasid = 8;

enum class HwptDataType : uint32_t { kNone = 0, kVtdS1 = 1, kArmSmmuv3 = 2, kAmdGuest = 3 };

struct HwptAlloc {
  uint32_t flags = 0;
  ObjectId device = 0;
  ObjectId pt = 0;  // an IOAS, or a viommu
  HwptDataType data_type = HwptDataType::kNone;
  std::span<const std::byte> data;  // kArmSmmuv3: the two words of a vSTE, 16 bytes
  ObjectId fault = 0;               // with kHwptFaultIdValid
};

// One transaction that waits for an answer: a stall, or (not with Linux 7.2 on Arm) a page request.
struct PageFault {
  ObjectId device = 0;  // 0: one of the group that is not bound here
  bool pasid_valid = false;
  bool last_page = true;
  uint32_t pasid = 0;
  uint32_t group = 0;  // of a stall: its tag (STAG)
  bool read = false, write = false, execute = false, privileged = false;
  uint64_t address = 0;
  uint32_t cookie = 0;  // to answer with
};

enum class PageResponseCode : uint32_t { kSuccess = 0, kInvalid = 1 };

// The page of registers through which a guest runs the hardware queues of its viommu (Tegra241 CMDQV: page 0 of the
// virtual interface). For mmap(fd, offset, length), shared, readable and writable; not executable. The caller owns
// `fd`.
struct VintfMapping {
  int fd = -1;
  uint64_t offset = 0;  // bytes
  uint64_t length = 0;  // bytes
};

// The raw form of Invalidate(): entries of any length.
struct InvalidateArray {
  InvalidateDataType data_type = InvalidateDataType::kArmSmmuv3;
  const void* entries = nullptr;
  uint32_t entry_length = sizeof(smmuv3::RawCommand);  // bytes; shorter ones are filled up with zeros, of longer ones
                                                       // the rest must be zeros
  uint32_t entry_count = 0;
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

// What a context holds that an earlier process has left (Backend::AdoptContexts).
struct KeptContext {
  struct Device {
    std::string pci_address;
    ObjectId id = 0;
    ObjectId attached_to = 0;  // 0: nothing
  };
  struct OnSmmu {
    ObjectId id = 0;
    std::string smmu;  // SmmuInfo::name
  };
  struct Vdevice {
    ObjectId id = 0;
    ObjectId viommu = 0;
    uint64_t virt_id = 0;
  };
  std::string key;
  ObjectId ioas = 0;  // 0: none
  std::vector<Device> devices;
  std::vector<OnSmmu> stage2s;
  std::vector<OnSmmu> viommus;  // of type kArmSmmuv3
  std::vector<Vdevice> vdevices;
  std::vector<ObjectId> nested;
};

enum class ObjectKind : uint8_t { kDevice, kIoas, kHwpt, kViommu, kVdevice, kNested, kVeventq, kFaultQueue, kHwQueue };

// For messages.
constexpr const char* ObjectKindName(ObjectKind kind) {
  switch (kind) {
    case ObjectKind::kDevice:
      return "device";
    case ObjectKind::kIoas:
      return "IOAS";
    case ObjectKind::kHwpt:
      return "paging HWPT";
    case ObjectKind::kViommu:
      return "viommu";
    case ObjectKind::kVdevice:
      return "vdevice";
    case ObjectKind::kNested:
      return "nested HWPT";
    case ObjectKind::kVeventq:
      return "event queue";
    case ObjectKind::kFaultQueue:
      return "fault queue";
    case ObjectKind::kHwQueue:
      return "hardware queue";
  }
  return "?";
}

// An object as it is, whatever its maker remembers. What does not apply to its kind is left as it stands here.
struct ObjectInfo {
  ObjectId id = 0;
  ObjectKind kind = ObjectKind::kDevice;
  // What it stands on. Device: what it is attached to, 0: nothing. HWPT: its IOAS. Viommu: its stage 2. Vdevice, nested
  // HWPT, event and hardware queue: their viommu.
  ObjectId parent = 0;
  std::string pci_address;                 // of a device
  std::string smmu;                        // of a device, a viommu, and a HWPT that belongs to one
  ObjectId device = 0;                     // of a vdevice
  uint64_t virt_id = 0;                    // of a vdevice
  ViommuType type = ViommuType::kDefault;  // of a viommu
  smmuv3::RawVste vste = {};               // of a nested HWPT

  friend bool operator==(const ObjectInfo&, const ObjectInfo&) = default;
};

// Everything that one VM has on a host: one opened /dev/iommu with its VFIO devices. Destroying it detaches and unbinds
// every device and frees every object, in the right order, without errors; not so one that is kept
// (Backend::KeepsContexts), which stays as it is for a later process.
class Context {
 public:
  virtual ~Context() = default;

  // Takes the device for this context. Its accesses are blocked until it is attached.
  //   ENODEV  no such device here
  //   EINVAL  the device's DMA is not cache coherent
  //   EINVAL  it is bound already, here or in another context: Linux opens a VFIO device once (strict: EBUSY)
  //   EPERM   another one of its IOMMU group is bound in another context (strict: EBUSY)
  virtual absl::StatusOr<ObjectId> BindDevice(std::string_view pci_address) = 0;

  // Gives the device back (closes its VFIO device): detaches it. A vdevice that still exists goes with it; its id then
  // stays unused and unknown for the rest of the context's life.
  //   ENOENT  not bound here
  virtual absl::Status UnbindDevice(std::string_view pci_address) = 0;

  virtual absl::StatusOr<ObjectId> AllocIoas() = 0;

  // Maps `length` bytes of `memory` at guest-physical address `iova`: devices attached to a HWPT over it reach them at
  // once. The pages stay as they are until unmapped; an emulated backend, which cannot pin them, has zeros where the
  // file shrinks.
  //   ENOENT     ioas
  //   EINVAL     nothing to map, neither readable nor writable; not aligned to 4096 bytes, or to the pages of a HWPT;
  //              above what a HWPT can translate; where attached devices write interrupts (Arm: 1 MiB at 0x8000000);
  //              the file ends before `offset` + `length`
  //   EOVERFLOW  beyond the end of the address space
  //   EEXIST     overlaps a mapping
  //   EBADF      fd is not an open file
  //   EACCES     fd is not open for that
  //   ENOMEM     for tables, or no address space to put it
  virtual absl::Status MapIoas(ObjectId ioas, uint64_t iova, uint64_t length, const MemoryHandle& memory) = 0;

  // Unmaps the mappings inside the range, all of them when iova is 0 and length is UINT64_MAX; returns the bytes
  // unmapped. When it returns, no device reaches them any more. Mappings go one by one in the order of their addresses,
  // up to the first that cannot: those before it are gone then, too, and how many is not told. Whoever wants all or
  // nothing unmaps one mapping at a time.
  //   EINVAL     length 0
  //   EOVERFLOW  beyond the end of the address space
  //   ENOENT     ioas; there is no mapping; the next one lies only partly inside
  //   EBUSY      the next one is memory of a hardware queue, however much of it lies inside
  virtual absl::StatusOr<uint64_t> UnmapIoas(ObjectId ioas, uint64_t iova, uint64_t length) = 0;

  // A HWPT over an IOAS (a stage 2 with kHwptNestParent, else tables of the host's alone: stage 1 where the SMMU has
  // it), or a nested one over a viommu. Checks are made in this order; the two calls below list what of them can come
  // up there.
  //   EINVAL      data without data type, or the other way round
  //   ENOENT      device
  //   EINVAL      pt is unknown (not ENOENT: the kernel's choice), or neither IOAS, paging HWPT nor viommu
  //   over an IOAS
  //   EOPNOTSUPP  an unknown flag; kHwptFaultIdValid, kHwptDirtyTracking or kHwptPasid with kHwptNestParent;
  //               kHwptDirtyTracking where the SMMU does not update dirty state; data; no two stages for a nesting
  //               parent
  //   ENOSPC      VMIDs or ASIDs used up
  //   ENOMEM      for the tables
  //   EADDRINUSE  something is mapped above what the tables can translate
  //   ENOENT      fault
  //   over a viommu
  //   EINVAL      the device is behind another SMMU
  //   EOPNOTSUPP  a flag other than kHwptFaultIdValid; no data
  //   EINVAL      data of another type, or not 16 bytes
  //   EIO         the vSTE breaks a rule of smmuv3::ValidateVste()
  //   ENOENT      fault
  //   over a paging HWPT
  //   EOPNOTSUPP  Arm nests by viommu alone
  virtual absl::StatusOr<ObjectId> AllocHwpt(const HwptAlloc& request) = 0;

  // A stage-2 HWPT over `ioas` that can be a nesting parent; for the SMMU of `device` where stage 2 is per SMMU.
  //   ENOENT      device
  //   EINVAL      ioas (not ENOENT: the kernel's choice)
  //   EOPNOTSUPP  the SMMU has no two stages
  //   ENOSPC      VMIDs used up, where stage 2 owns them
  absl::StatusOr<ObjectId> AllocStage2(ObjectId device, ObjectId ioas) {
    return AllocHwpt({.flags = kHwptNestParent, .device = device, .pt = ioas});
  }

  // A viommu on the SMMU of `device`, on top of `stage2`.
  //   EOPNOTSUPP  type, or the SMMU cannot
  //   ENOENT      device, or stage2 is no paging HWPT
  //   EINVAL      stage2 is no nesting parent; it belongs to another SMMU, where it is per SMMU, or its tables are of a
  //               kind that this SMMU does not read
  //   ENOSPC      VMIDs used up, where viommus own them
  virtual absl::StatusOr<ViommuHandle> AllocViommu(ObjectId device, ObjectId stage2, ViommuType type) = 0;

  // Tells the SMMU that the guest of `viommu` knows `device` by StreamID `virt_id`.
  //   ENOENT      viommu or device
  //   EINVAL      the device is behind another SMMU; virt_id is wider than 32 bits and the backend looks (Linux 7.2
  //               does not)
  //   EEXIST      the device has a vdevice already, or virt_id is taken in this viommu
  //   EOPNOTSUPP  the device has not exactly one StreamID
  virtual absl::StatusOr<ObjectId> AllocVdevice(ObjectId viommu, ObjectId device, uint64_t virt_id) = 0;

  // A nested HWPT from what the guest wrote in its stream table. With `fault`, transactions that stall of devices
  // attached to it wait in that queue for answers; without, they are terminated.
  //   ENOENT      device, fault
  //   EINVAL      viommu is neither viommu nor HWPT nor IOAS (not ENOENT: the kernel's choice); the device is behind
  //               another SMMU
  //   EOPNOTSUPP  viommu names a paging HWPT or an IOAS: Arm nests by viommu alone
  //   EIO         the words break a rule of smmuv3::ValidateVste()
  absl::StatusOr<ObjectId> AllocNested(ObjectId viommu, ObjectId device, const smmuv3::RawVste& vste,
                                       ObjectId fault = 0) {
    return AllocHwpt({.flags = fault != 0 ? kHwptFaultIdValid : 0,
                      .device = device,
                      .pt = viommu,
                      .data_type = HwptDataType::kArmSmmuv3,
                      .data = std::as_bytes(std::span(&vste, 1)),
                      .fault = fault});
  }

  // Attaches the device, and the others of its IOMMU group, to a HWPT, or to an IOAS: tables of the host's alone are
  // made over it, or shared when there are some for the same SMMU. Such a HWPT takes an id and goes with the last
  // device that is attached to it. Replaces what the group is attached to: no access sees anything but what was, what
  // will be, or, where the entry cannot be changed in one piece, an abort.
  //   ENOENT  device or pt; or a nested HWPT translates and the device, or another one of its group, bound or not, has
  //           no vdevice in its viommu
  //   EINVAL  pt can not be attached to; it belongs to another SMMU; the group is attached to something else
  //   ENOSPC  VMIDs or ASIDs used up: where viommus own VMIDs, a device without vdevice takes one for its stage 2
  //   EADDRINUSE  something is mapped where the device writes interrupts (Arm: 1 MiB at 0x8000000)
  //   ENOMEM, EADDRINUSE, EOPNOTSUPP  as AllocHwpt(), for the tables of an IOAS
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
  InvalidateResult Invalidate(ObjectId id, InvalidateDataType data_type, std::span<const smmuv3::RawCommand> commands) {
    if (commands.size() > kMaxInvalidateEntries) return InvalidateRaw(id, {data_type, commands.data(), 16, ~0u});
    return InvalidateRaw(id, {data_type, commands.data(), 16, static_cast<uint32_t>(commands.size())});
  }

  // The same with entries as the kernel takes them. Further errors, before all others:
  //   EINVAL  there are entries, and their address is null, their length is 0 or above a page (4096 bytes)
  // and with them:
  //   E2BIG   an entry is longer than a command and its rest is not zero
  virtual InvalidateResult InvalidateRaw(ObjectId id, const InvalidateArray& array) = 0;

  // A queue for events of the viommu's devices.
  //   EOPNOTSUPP  type kDefault
  //   EINVAL      depth 0 or above kMaxVeventqDepth
  //   ENOENT      viommu
  //   EEXIST      the viommu has a queue of this type
  virtual absl::StatusOr<ObjectId> AllocVeventq(ObjectId viommu, VeventqType type, uint32_t depth) = 0;

  // Takes up to `max` events out of the queue; empty when there are none. Never blocks.
  virtual absl::StatusOr<std::vector<Vevent>> ReadVeventq(ObjectId veventq, uint32_t max) = 0;

  // A queue for what waits for answers. Destroying it, or taking a device off a HWPT that names it, answers what is
  // left with kInvalid.
  virtual absl::StatusOr<ObjectId> AllocFaultQueue() = 0;

  // Takes up to `max` faults out of the queue; empty when there are none. Never blocks. What was read waits for its
  // answer.
  //   ENOENT  fault_queue
  virtual absl::StatusOr<std::vector<PageFault>> ReadFaults(ObjectId fault_queue, uint32_t max) = 0;

  // Lets a transaction that was read go on: kSuccess tries it again, kInvalid aborts it.
  //   ENOENT  fault_queue
  //   EINVAL  no fault of this cookie waits, or no such code
  virtual absl::Status AnswerFault(ObjectId fault_queue, uint32_t cookie, PageResponseCode code) = 0;

  // A guest-owned command queue (Tegra241 VCMDQ) in guest memory at `iova`, `length` bytes long: the viommu's logical
  // queue `index`. Indices are given out in rising order and taken back in falling order. The memory stays mapped as
  // long as the queue is there (UnmapIoas(): EBUSY). The guest enables it by itself through MapVintf().
  //   EOPNOTSUPP  type kDefault
  //   EINVAL      length 0
  //   EOVERFLOW   iova + length
  //   ENOENT      viommu
  //   EOPNOTSUPP  the viommu has no hardware queues, or none of this type
  //   ENOENT      the range is not all mapped
  //   EFAULT      the range is not contiguous in physical memory
  //   EINVAL      index is not below the queues of an interface
  //   EEXIST      index is taken
  //   EIO         index - 1 does not exist
  //   EINVAL      length is not a power of two, below 32 or above 16 << IDR1.CMDQS; the memory is not aligned to it
  virtual absl::StatusOr<ObjectId> AllocHwQueue(ObjectId viommu, HwQueueType type, uint32_t index, uint64_t iova,
                                                uint64_t length) = 0;

  // The registers of the viommu's queues; the viommu has one user more until UnmapVintf() has been called as often.
  //   ENOENT      viommu
  //   EOPNOTSUPP  it has no hardware queues
  virtual absl::StatusOr<VintfMapping> MapVintf(ObjectId viommu) = 0;
  //   ENOENT  viommu
  //   EINVAL  it has not been mapped
  virtual absl::Status UnmapVintf(ObjectId viommu) = 0;

  virtual absl::StatusOr<HwInfo> GetHwInfo(ObjectId device) = 0;

  // A context that is kept is not any more: it goes with its destruction, as others do.
  virtual void StopKeeping() {}

  // Frees an object. Devices are not freed this way (EBUSY), see UnbindDevice().
  //   ENOENT  id
  //   EBUSY   something stands on it, see the head of this file
  virtual absl::Status Destroy(ObjectId id) = 0;

  // Everything that is there, by id, at one moment between control calls.
  //   UNIMPLEMENTED  the backend cannot look: Linux has no call that lists the objects of an iommufd
  virtual absl::StatusOr<std::vector<ObjectInfo>> Objects() const {
    return absl::UnimplementedError("this backend cannot list the objects of a context");
  }
};

// ---- Accesses of devices, for tests, demonstrations and debugging --------------------------------------------------

struct DmaRequest {
  std::string pci_address;
  std::optional<uint32_t> pasid;
  uint64_t address = 0;
  bool privileged = false;
  bool instruction = false;
  bool use_ats = false;                     // ask for a translation first, and go by the device's own cache
  std::chrono::nanoseconds stall_limit{0};  // how long an access may wait for an answer before it is terminated
};

// How an access went. Not a Status: that a device is refused is what one wants to see.
struct DmaResult {
  enum class Outcome : uint8_t { kDone, kAborted, kIgnored, kTimedOut, kNoMemory };
  Outcome outcome = Outcome::kDone;
  uint64_t bytes = 0;     // that were read or written before it ended
  uint64_t output = 0;    // physical address of the first byte; kDone
  uint8_t span_log2 = 0;  // of the block that the translation of the first byte holds for
  std::string event;      // what the SMMU recorded, in words; empty: nothing
};

// Thread-safe.
class DeviceDma {
 public:
  virtual ~DeviceDma() = default;
  // ENODEV: no such device; EINVAL: a PASID that it cannot have, or ATS that it does not have.
  virtual absl::StatusOr<DmaResult> Translate(const DmaRequest& request, bool write) = 0;
  virtual absl::StatusOr<DmaResult> Read(const DmaRequest& request, std::span<std::byte> out) = 0;
  virtual absl::StatusOr<DmaResult> Write(const DmaRequest& request, std::span<const std::byte> in) = 0;
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

  // Whether there is OpenKeptContext().
  virtual bool KeepsContexts() const { return false; }
  // As OpenContext(), and the context outlives the process, if it can: a backend may find out later that it does not,
  // for want of room, or because of what is in it. `key`: no other context ever has it; letters, digits and "-", at
  // most 64.
  virtual absl::StatusOr<std::unique_ptr<Context>> OpenKeptContext(const std::string&) { return OpenContext(); }
  // Takes over contexts that an earlier process has kept; one answer for each. What it holds has to be what is there,
  // as far as one can see: else, as with all that was kept and is not asked for, it is destroyed.
  //   ENOENT  nothing was kept under this key, or not all of it
  //   others  of the call that showed what is not as it should be
  // Once, before anything else is opened.
  virtual std::vector<absl::StatusOr<std::unique_ptr<Context>>> AdoptContexts(
      const std::vector<KeptContext>& contexts) {
    std::vector<absl::StatusOr<std::unique_ptr<Context>>> none;
    for (size_t i = 0; i < contexts.size(); ++i) none.emplace_back(absl::NotFoundError("this backend keeps none"));
    return none;
  }

  // One entry a SMMU, in the order of Discover().
  virtual std::vector<SmmuStats> GetStats() const = 0;

  // Makes devices access memory on request; null where devices are real. As long as the backend lives.
  virtual DeviceDma* device_dma() { return nullptr; }
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_BACKEND_H_
