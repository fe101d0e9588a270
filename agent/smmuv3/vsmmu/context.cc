#include "agent/smmuv3/vsmmu/context.h"

#include <fcntl.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/errno_status.h"
#include "agent/smmuv3/spec/command.h"

namespace viommu::agent {
namespace {

using smmuv3::Opcode;
using smmuv3::RawCommand;

constexpr uint64_t kPageSize = 4096;
constexpr uint64_t kMaxU64 = std::numeric_limits<uint64_t>::max();

absl::Status Error(BackendOp op, int error_number, absl::string_view message) {
  return ErrnoStatus(error_number, BackendOpName(op), message);
}

absl::Status NoObject(BackendOp op, absl::string_view what, ObjectId id, int error_number = ENOENT) {
  return Error(op, error_number, absl::StrCat("no ", what, " ", id));
}

absl::Status OtherSmmu(BackendOp op, const HostDevice& device, const ViommuObject& viommu) {
  return Error(op, EINVAL,
               absl::StrCat("device ", device.spec.info.pci_address, " is behind SMMU ", device.smmu->info().name,
                            ", viommu ", viommu.id, " is on SMMU ", viommu.smmu->info().name));
}

}  // namespace

EmulatedContext::~EmulatedContext() {
  MutexLock lock(control_mu_);
  const std::vector<DeviceObject*> devices = table_.All<DeviceObject>();
  for (DeviceObject* device : devices) DetachDevice(*device);
  // What stands on something else goes first.
  for (NestedObject* object : table_.All<NestedObject>()) static_cast<void>(DestroyObject(*object));
  for (VdeviceObject* object : table_.All<VdeviceObject>()) static_cast<void>(DestroyObject(*object));
  for (VeventqObject* object : table_.All<VeventqObject>()) static_cast<void>(DestroyObject(*object));
  for (ViommuObject* object : table_.All<ViommuObject>()) static_cast<void>(DestroyObject(*object));
  for (Stage2Object* object : table_.All<Stage2Object>()) static_cast<void>(DestroyObject(*object));
  for (DeviceObject* device : devices) ForgetDevice(*device);
}

// ---- Devices ----

absl::StatusOr<ObjectId> EmulatedContext::BindDevice(std::string_view pci_address) {
  constexpr BackendOp kOp = BackendOp::kBindDevice;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  HostDevice* device = host_->FindDevice(pci_address);
  const std::string name(pci_address);
  if (device == nullptr) return Error(kOp, ENODEV, absl::StrCat("no device ", name, " on this host"));
  if (!device->spec.dma_coherent) {
    return Error(kOp, EINVAL, absl::StrCat("the DMA of device ", name, " is not cache coherent"));
  }
  if (absl::Status status = host_->Claim(*device, this); !status.ok()) return status;
  auto object = std::make_unique<DeviceObject>();
  object->device = device;
  bound_[device] = object.get();
  return table_.Add(std::move(object));
}

void EmulatedContext::ForgetDevice(DeviceObject& device) {
  const HostDevice* host_device = device.device;
  bound_.erase(host_device);
  table_.Remove(device.id);
  host_->Release(*host_device);
}

absl::Status EmulatedContext::UnbindDevice(std::string_view pci_address) {
  constexpr BackendOp kOp = BackendOp::kUnbindDevice;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  const HostDevice* host_device = host_->FindDevice(pci_address);
  DeviceObject* device = host_device == nullptr ? nullptr : BoundDevice(*host_device);
  if (device == nullptr)
    return Error(kOp, ENOENT, absl::StrCat("device ", std::string(pci_address), " is not bound here"));
  DetachDevice(*device);
  if (device->vdevice != nullptr) {
    VdeviceObject* vdevice = device->vdevice;
    ForgetVdevice(*vdevice);
    // The kernel's own doing: whoever knows the id must not meet another object under it.
    table_.Remove(vdevice->id, /*keep_id=*/true);
  }
  ForgetDevice(*device);
  return absl::OkStatus();
}

absl::StatusOr<HwInfo> EmulatedContext::GetHwInfo(ObjectId device_id) {
  constexpr BackendOp kOp = BackendOp::kGetHwInfo;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  const auto* device = table_.Find<DeviceObject>(device_id);
  if (device == nullptr) return NoObject(kOp, "device", device_id);
  const SmmuInfo& smmu = device->device->smmu->info();
  const DeviceInfo& info = device->device->spec.info;
  return HwInfo{.idr = smmu.idr,
                .iidr = smmu.iidr,
                .aidr = smmu.aidr,
                .max_pasid_log2 = info.max_pasid_log2,
                .ats_not_supported = !info.ats};
}

// ---- Memory ----

absl::StatusOr<ObjectId> EmulatedContext::AllocIoas() {
  if (absl::Status status = host_->InjectedFailure(BackendOp::kAllocIoas); !status.ok()) return status;
  MutexLock lock(control_mu_);
  return table_.Add(std::make_unique<IoasObject>());
}

absl::Status EmulatedContext::MapIoas(ObjectId ioas_id, uint64_t iova, uint64_t length, const MemoryHandle& memory) {
  constexpr BackendOp kOp = BackendOp::kMapIoas;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  auto* ioas = table_.Find<IoasObject>(ioas_id);
  if (ioas == nullptr) return NoObject(kOp, "IOAS", ioas_id);
  if (!memory.readable && !memory.writable) return Error(kOp, EINVAL, "neither readable nor writable");
  if (length == 0 || (iova | length | memory.offset) % kPageSize != 0) {
    return Error(kOp, EINVAL, "address, length and offset must be multiples of 4096 bytes, and the length not 0");
  }
  if (iova > kMaxU64 - (length - 1)) return Error(kOp, EOVERFLOW, "beyond the end of the address space");
  // The first mapping behind the range must begin behind it, the one before it must end before it.
  const auto next = ioas->mappings.lower_bound(iova);
  const bool meets_next = next != ioas->mappings.end() && next->first - iova < length;
  const bool meets_previous =
      next != ioas->mappings.begin() && iova - std::prev(next)->first < std::prev(next)->second.length;
  if (meets_next || meets_previous) {
    return Error(kOp, EEXIST,
                 absl::StrCat("overlaps the mapping at ", meets_next ? next->first : std::prev(next)->first));
  }
  MappedFile file(fcntl(memory.fd, F_DUPFD_CLOEXEC, 0));
  if (file.fd() < 0) return Error(kOp, errno, absl::StrCat("file descriptor ", memory.fd, " cannot be duplicated"));
  ioas->mappings.emplace(iova, IoasMapping{length, memory.offset, memory.readable, memory.writable, std::move(file)});
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> EmulatedContext::UnmapIoas(ObjectId ioas_id, uint64_t iova, uint64_t length) {
  constexpr BackendOp kOp = BackendOp::kUnmapIoas;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  auto* ioas = table_.Find<IoasObject>(ioas_id);
  if (ioas == nullptr) return NoObject(kOp, "IOAS", ioas_id);
  const bool everything = iova == 0 && length == kMaxU64;
  if (length == 0) return Error(kOp, EINVAL, "length 0");
  if (iova > kMaxU64 - (length - 1)) return Error(kOp, EOVERFLOW, "beyond the end of the address space");
  const uint64_t last = iova + (length - 1);
  const auto begin = ioas->mappings.lower_bound(iova);
  const bool cuts_first =
      begin != ioas->mappings.begin() && iova - std::prev(begin)->first < std::prev(begin)->second.length;
  uint64_t bytes = 0;
  auto end = begin;
  for (; end != ioas->mappings.end() && end->first <= last; ++end) {
    if (last - end->first < end->second.length - 1) return Error(kOp, ENOENT, "a mapping lies only partly inside");
    bytes += end->second.length;
  }
  if (cuts_first) return Error(kOp, ENOENT, "a mapping lies only partly inside");
  if (bytes == 0) {
    if (everything) return 0;
    return Error(kOp, ENOENT, "nothing is mapped there");
  }
  ioas->mappings.erase(begin, end);
  FlushStage2Of(*ioas);
  return bytes;
}

void EmulatedContext::FlushStage2Of(const IoasObject& ioas) {
  // Guest addresses are not known here: everything of the VMIDs goes, and everything that devices have cached, as in
  // Linux.
  std::set<std::pair<HostSmmu*, uint16_t>> vmids;
  for (const ViommuObject* viommu : table_.All<ViommuObject>()) {
    if (viommu->stage2->ioas == &ioas) vmids.emplace(viommu->smmu, viommu->vmid->vmid());
  }
  for (const auto& [group, attachment] : attachments_) {
    const Stage2Object* stage2 = attachment.target->kind == ObjectKind::kStage2
                                     ? static_cast<const Stage2Object*>(attachment.target)
                                     : static_cast<const NestedObject*>(attachment.target)->viommu->stage2;
    if (stage2->ioas != &ioas) continue;
    HostSmmu* smmu = group->devices.front()->smmu;
    for (const auto& lease : attachment.vmids) vmids.emplace(smmu, lease->vmid());
  }
  for (const auto& [smmu, vmid] : vmids) {
    const RawCommand flush = smmuv3::Encode({.opcode = Opcode::kTlbiS12Vmall, .vmid = vmid});
    static_cast<void>(smmu->Issue({&flush, 1}));
  }
  for (const auto& [group, attachment] : attachments_) {
    for (const HostDevice* device : group->devices) {
      const uint32_t sid = device->spec.info.stream_id;
      const smmuv3::RawSte entry = device->smmu->hardware().ReadSte(sid);
      if (!AtsEnabled(entry) || !vmids.contains({device->smmu, VmidOf(entry)})) continue;
      const RawCommand forget = smmuv3::Encode({.opcode = Opcode::kAtcInv, .sid = sid, .size = smmuv3::kAtcSizeAll});
      static_cast<void>(device->smmu->Issue({&forget, 1}));
    }
  }
}

// ---- Domains ----

namespace {

BackendOp OpOf(const HwptAlloc& request) {
  if ((request.flags & kHwptNestParent) != 0) return BackendOp::kAllocStage2;
  return request.data_type == HwptDataType::kNone ? BackendOp::kAllocPlain : BackendOp::kAllocNested;
}

}  // namespace

absl::StatusOr<ObjectId> EmulatedContext::AllocHwpt(const HwptAlloc& request) {
  const BackendOp op = OpOf(request);
  if (absl::Status status = host_->InjectedFailure(op); !status.ok()) return status;
  MutexLock lock(control_mu_);
  if ((request.data_type == HwptDataType::kNone) != request.data.empty()) {
    return Error(op, EINVAL, "data without a data type, or the other way round");
  }
  const auto* device = table_.Find<DeviceObject>(request.device);
  if (device == nullptr) return NoObject(op, "device", request.device);
  Object* pt = table_.FindAny(request.pt);
  if (pt == nullptr) return NoObject(op, "object", request.pt, EINVAL);
  switch (pt->kind) {
    case ObjectKind::kIoas:
      return AllocOverIoas(request, device->device->smmu, static_cast<IoasObject&>(*pt));
    case ObjectKind::kViommu:
      return AllocOverViommu(request, *device->device, static_cast<ViommuObject&>(*pt));
    case ObjectKind::kStage2:
      return Error(op, EOPNOTSUPP, absl::StrCat("stage-2 HWPT ", request.pt, " as parent; name a viommu on it"));
    default:
      return Error(op, EINVAL, absl::StrCat("object ", request.pt, " is a ", ObjectKindName(pt->kind)));
  }
}

absl::StatusOr<ObjectId> EmulatedContext::AllocOverIoas(const HwptAlloc& request, HostSmmu* smmu, IoasObject& ioas) {
  const BackendOp op = OpOf(request);
  if (request.flags != kHwptNestParent || !request.data.empty()) {
    return Error(op, EOPNOTSUPP, "over an IOAS there are nesting parents without data only");
  }
  if (!smmu->can_nest()) {
    return Error(op, EOPNOTSUPP, absl::StrCat("SMMU ", smmu->info().name, " has no two stages to nest"));
  }
  auto stage2 = std::make_unique<Stage2Object>();
  stage2->ioas = &ioas;
  if (host_->personality().stage2_sharing == Stage2Sharing::kPerSmmu) stage2->smmu = smmu;
  if (host_->personality().vmid_owner == VmidOwner::kStage2) {
    stage2->vmid = smmu->TakeVmid();
    if (stage2->vmid == nullptr) {
      return Error(op, ENOSPC,
                   absl::StrCat("the VMIDs of SMMU ", smmu->info().name, " are used up; destroy a stage 2 on it"));
    }
  }
  ++ioas.users;
  return table_.Add(std::move(stage2));
}

absl::StatusOr<ObjectId> EmulatedContext::AllocOverViommu(const HwptAlloc& request, const HostDevice& device,
                                                          ViommuObject& viommu) {
  constexpr BackendOp kOp = BackendOp::kAllocNested;
  if (device.smmu != viommu.smmu) return OtherSmmu(kOp, device, viommu);
  if (request.flags != 0) return Error(kOp, EOPNOTSUPP, absl::StrCat("flags ", request.flags));
  if (request.data.empty()) return Error(kOp, EOPNOTSUPP, "no vSTE");
  smmuv3::RawVste vste;
  if (request.data_type != HwptDataType::kArmSmmuv3 || request.data.size() != sizeof(vste)) {
    return Error(kOp, EINVAL, "the data must be ARM_SMMUV3 (2), 16 bytes");
  }
  std::memcpy(&vste, request.data.data(), sizeof(vste));
  const smmuv3::VsteRule rule = ValidateVste(vste);
  if (rule != smmuv3::VsteRule::kNone) return Error(kOp, EIO, DescribeVsteRule(rule));
  auto nested = std::make_unique<NestedObject>();
  nested->viommu = &viommu;
  nested->vste = vste;
  ++viommu.users;
  return table_.Add(std::move(nested));
}

absl::StatusOr<ViommuHandle> EmulatedContext::AllocViommu(ObjectId device_id, ObjectId stage2_id, ViommuType type) {
  constexpr BackendOp kOp = BackendOp::kAllocViommu;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  if (type == ViommuType::kDefault) return Error(kOp, EOPNOTSUPP, "type DEFAULT is no type");
  const auto* device = table_.Find<DeviceObject>(device_id);
  if (device == nullptr) return NoObject(kOp, "device", device_id);
  HostSmmu* smmu = device->device->smmu;
  if (type != ViommuType::kArmSmmuv3) {
    return Error(kOp, EOPNOTSUPP,
                 absl::StrCat("viommu type ", static_cast<uint32_t>(type), " is not emulated; use ARM_SMMUV3 (1)"));
  }
  if (!smmu->can_viommu()) {
    return Error(
        kOp, EOPNOTSUPP,
        absl::StrCat("SMMU ", smmu->info().name,
                     " cannot nest, or a guest could make accesses go around the cache (IDR3.FWB, IORT CANWBS)"));
  }
  auto* stage2 = table_.Find<Stage2Object>(stage2_id);
  if (stage2 == nullptr) return NoObject(kOp, "stage-2 HWPT", stage2_id);
  if (stage2->smmu != nullptr && stage2->smmu != smmu) {
    return Error(kOp, EINVAL,
                 absl::StrCat("stage-2 HWPT ", stage2_id, " belongs to SMMU ", stage2->smmu->info().name, ", device ",
                              device->device->spec.info.pci_address, " is behind SMMU ", smmu->info().name,
                              "; allocate a stage 2 for that SMMU"));
  }
  auto viommu = std::make_unique<ViommuObject>();
  viommu->smmu = smmu;
  viommu->stage2 = stage2;
  viommu->vmid = stage2->vmid != nullptr ? stage2->vmid : smmu->TakeVmid();
  if (viommu->vmid == nullptr) {
    return Error(kOp, ENOSPC,
                 absl::StrCat("the VMIDs of SMMU ", smmu->info().name, " are used up; destroy a viommu on it"));
  }
  ++stage2->users;
  const uint16_t vmid = viommu->vmid->vmid();
  return ViommuHandle{.id = table_.Add(std::move(viommu)), .vmid = vmid};
}

absl::StatusOr<ObjectId> EmulatedContext::AllocVdevice(ObjectId viommu_id, ObjectId device_id, uint64_t virt_id) {
  constexpr BackendOp kOp = BackendOp::kAllocVdevice;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  if (host_->personality().check_virt_id && virt_id > std::numeric_limits<uint32_t>::max()) {
    return Error(kOp, EINVAL, absl::StrCat("guest StreamID ", virt_id, " is wider than 32 bits"));
  }
  auto* viommu = table_.Find<ViommuObject>(viommu_id);
  if (viommu == nullptr) return NoObject(kOp, "viommu", viommu_id);
  auto* device = table_.Find<DeviceObject>(device_id);
  if (device == nullptr) return NoObject(kOp, "device", device_id);
  if (device->device->smmu != viommu->smmu) return OtherSmmu(kOp, *device->device, *viommu);
  const EmulatedDevice& spec = device->device->spec;
  if (device->vdevice != nullptr) {
    return Error(kOp, EEXIST,
                 absl::StrCat("device ", spec.info.pci_address, " is vdevice ", device->vdevice->id, " of viommu ",
                              device->vdevice->viommu->id, "; destroy that first"));
  }
  WriterLock sids_lock(viommu->sids_mu);
  if (viommu->sids.contains(virt_id)) {
    return Error(kOp, EEXIST, absl::StrCat("guest StreamID ", virt_id, " is taken in viommu ", viommu_id));
  }
  if (spec.stream_count != 1) {
    return Error(
        kOp, EOPNOTSUPP,
        absl::StrCat("device ", spec.info.pci_address, " has ", spec.stream_count, " StreamIDs; a vdevice has one"));
  }
  auto vdevice = std::make_unique<VdeviceObject>();
  vdevice->viommu = viommu;
  vdevice->device = device;
  vdevice->virt_id = virt_id;
  device->vdevice = vdevice.get();
  ++viommu->users;
  viommu->sids.emplace(virt_id, spec.info.stream_id);
  return table_.Add(std::move(vdevice));
}

// ---- Queues ----

absl::StatusOr<ObjectId> EmulatedContext::AllocVeventq(ObjectId viommu_id, VeventqType type, uint32_t depth) {
  constexpr BackendOp kOp = BackendOp::kAllocVeventq;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  if (type == VeventqType::kDefault) return Error(kOp, EOPNOTSUPP, "type DEFAULT is no type");
  if (depth == 0 || depth > kMaxVeventqDepth) {
    return Error(kOp, EINVAL, absl::StrCat("depth ", depth, "; 1 to ", kMaxVeventqDepth, " events"));
  }
  auto* viommu = table_.Find<ViommuObject>(viommu_id);
  if (viommu == nullptr) return NoObject(kOp, "viommu", viommu_id);
  auto object = std::make_unique<VeventqObject>();
  object->viommu = viommu;
  object->type = type;
  object->queue = std::make_shared<VeventQueue>(depth);
  if (!viommu->events->Add(type, object->queue)) {
    return Error(kOp, EEXIST,
                 absl::StrCat("viommu ", viommu_id, " has an event queue of type ", static_cast<uint32_t>(type)));
  }
  ++viommu->users;
  return table_.Add(std::move(object));
}

absl::StatusOr<std::vector<Vevent>> EmulatedContext::ReadVeventq(ObjectId veventq_id, uint32_t max) {
  constexpr BackendOp kOp = BackendOp::kReadVeventq;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  auto* veventq = table_.Find<VeventqObject>(veventq_id);
  if (veventq == nullptr) return NoObject(kOp, "event queue", veventq_id);
  return veventq->queue->Read(max);
}

absl::StatusOr<ObjectId> EmulatedContext::AllocFaultQueue() {
  return Error(BackendOp::kAllocFaultQueue, EOPNOTSUPP, "not emulated");
}

absl::StatusOr<std::vector<PageFault>> EmulatedContext::ReadFaults(ObjectId id, uint32_t) {
  return NoObject(BackendOp::kReadFaults, "fault queue", id);
}

absl::Status EmulatedContext::AnswerFault(ObjectId id, uint32_t, PageResponseCode) {
  return NoObject(BackendOp::kAnswerFault, "fault queue", id);
}

absl::StatusOr<VintfMapping> EmulatedContext::MapVintf(ObjectId viommu_id) {
  constexpr BackendOp kOp = BackendOp::kMapVintf;
  MutexLock lock(control_mu_);
  if (table_.Find<ViommuObject>(viommu_id) == nullptr) return NoObject(kOp, "viommu", viommu_id);
  return Error(kOp, EOPNOTSUPP, absl::StrCat("viommu ", viommu_id, " has no hardware queues"));
}

absl::Status EmulatedContext::UnmapVintf(ObjectId viommu_id) { return MapVintf(viommu_id).status(); }

absl::StatusOr<ObjectId> EmulatedContext::AllocHwQueue(ObjectId viommu_id, HwQueueType type, uint32_t index,
                                                       uint64_t iova, uint64_t length) {
  constexpr BackendOp kOp = BackendOp::kAllocHwQueue;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  if (type == HwQueueType::kDefault) return Error(kOp, EOPNOTSUPP, "type DEFAULT is no type");
  if (length == 0) return Error(kOp, EINVAL, "length 0");
  if (iova > kMaxU64 - (length - 1)) return Error(kOp, EOVERFLOW, "beyond the end of the address space");
  if (table_.Find<ViommuObject>(viommu_id) == nullptr) return NoObject(kOp, "viommu", viommu_id);
  return Error(kOp, EOPNOTSUPP,
               absl::StrCat("viommu ", viommu_id, " of type ARM_SMMUV3 has no hardware queues (index ", index, ")"));
}

// ---- Ends ----

void EmulatedContext::ForgetVdevice(VdeviceObject& vdevice) {
  vdevice.device->vdevice = nullptr;
  --vdevice.viommu->users;
  WriterLock lock(vdevice.viommu->sids_mu);
  vdevice.viommu->sids.erase(vdevice.virt_id);
}

absl::Status EmulatedContext::DestroyObject(Object& object) {
  constexpr BackendOp kOp = BackendOp::kDestroy;
  const ObjectId id = object.id;
  if (object.kind == ObjectKind::kDevice) {
    return Error(kOp, EBUSY, absl::StrCat("device ", id, " goes by being unbound"));
  }
  const std::unique_ptr<Object> removed = table_.Remove(id);
  if (removed == nullptr) {
    return Error(kOp, EBUSY,
                 absl::StrCat(ObjectKindName(object.kind), " ", id, " has ", object.users,
                              " users, or calls in flight; detach or destroy what stands on it first"));
  }
  switch (removed->kind) {
    case ObjectKind::kVdevice:
      ForgetVdevice(static_cast<VdeviceObject&>(*removed));
      break;
    case ObjectKind::kNested:
      --static_cast<NestedObject&>(*removed).viommu->users;
      break;
    case ObjectKind::kVeventq: {
      auto& veventq = static_cast<VeventqObject&>(*removed);
      veventq.viommu->events->Remove(veventq.type);
      --veventq.viommu->users;
      break;
    }
    case ObjectKind::kViommu:
      --static_cast<ViommuObject&>(*removed).stage2->users;
      break;
    case ObjectKind::kStage2:
      --static_cast<Stage2Object&>(*removed).ioas->users;
      break;
    case ObjectKind::kDevice:
    case ObjectKind::kIoas:
      break;
  }
  return absl::OkStatus();
}

absl::Status EmulatedContext::Destroy(ObjectId id) {
  constexpr BackendOp kOp = BackendOp::kDestroy;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  Object* object = table_.FindAny(id);
  if (object == nullptr) return NoObject(kOp, "object", id);
  return DestroyObject(*object);
}

}  // namespace viommu::agent
