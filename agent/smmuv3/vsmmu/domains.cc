// HWPTs, viommus and vdevices.

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/smmuv3/spec/cd.h"
#include "agent/smmuv3/spec/cmdqv.h"
#include "agent/smmuv3/vsmmu/context.h"
#include "agent/smmuv3/vsmmu/context_errors.h"

namespace viommu::agent {
namespace {

constexpr uint32_t kAllHwptFlags = kHwptNestParent | kHwptDirtyTracking | kHwptFaultIdValid | kHwptPasid;
// Attributes of the SMMU's accesses to tables: write-back, inner shareable.
constexpr uint8_t kWriteBack = 1;
constexpr uint8_t kInnerShareable = 3;

BackendOp OpOf(const HwptAlloc& request) {
  if ((request.flags & kHwptNestParent) != 0) return BackendOp::kAllocStage2;
  return request.data_type == HwptDataType::kNone ? BackendOp::kAllocPlain : BackendOp::kAllocNested;
}

// The context descriptor of tables that the host has for itself.
smmuv3::RawCd MakeCd(const PageTable& table, uint16_t asid, const smmuv3::Features& features) {
  const TableFormat& format = table.format();
  smmuv3::Cd cd;
  cd.valid = true;
  cd.ttb0.tsz = static_cast<uint8_t>(64 - format.address_bits);
  cd.ttb0.granule = format.granule;
  cd.ttb0.ir = kWriteBack;
  cd.ttb0.orgn = kWriteBack;
  cd.ttb0.sh = kInnerShareable;
  cd.ttb0.ttb = table.root();
  cd.ttb1.disabled = true;
  // Coded alike in both.
  cd.ips = static_cast<uint8_t>(
      smmuv3::ste::kS2Ps.Get(uint64_t{smmuv3::Vtcr(format.granule, format.address_bits)} << smmuv3::ste::kVtcr.lo));
  cd.aa64 = true;
  cd.stall = features.stall_model == smmuv3::StallModel::kStall;
  cd.record = true;
  cd.abort = true;
  cd.aset = true;
  cd.asid = asid;
  cd.mair = kHostMair;
  return smmuv3::EncodeCd(cd);
}

}  // namespace

// ---- HWPTs ----

absl::StatusOr<ObjectId> EmulatedContext::AllocHwpt(const HwptAlloc& request) {
  const BackendOp op = OpOf(request);
  if (absl::Status status = host_->InjectedFailure(op); !status.ok()) return status;
  MutexLock lock(control_mu_);
  if ((request.data_type == HwptDataType::kNone) != request.data.empty()) {
    return CallError(op, EINVAL, "data without a data type, or the other way round");
  }
  const auto* device = table_.Find<DeviceObject>(request.device);
  if (device == nullptr) return NoObject(op, "device", request.device);
  Object* pt = table_.FindAny(request.pt);
  if (pt == nullptr) return NoObject(op, "object", request.pt, EINVAL);
  switch (pt->kind) {
    case ObjectKind::kIoas: {
      const absl::StatusOr<HwptObject*> hwpt =
          AllocPaging(op, request, device->device->smmu, static_cast<IoasObject&>(*pt));
      if (!hwpt.ok()) return hwpt.status();
      return (*hwpt)->id;
    }
    case ObjectKind::kViommu:
      return AllocOverViommu(request, *device->device, static_cast<ViommuObject&>(*pt));
    case ObjectKind::kHwpt:
      return CallError(op, EOPNOTSUPP, absl::StrCat("paging HWPT ", request.pt, " as parent; name a viommu on it"));
    default:
      return CallError(op, EINVAL, absl::StrCat("object ", request.pt, " is a ", ObjectKindName(pt->kind)));
  }
}

absl::StatusOr<FaultQueueObject*> EmulatedContext::FaultQueueOf(BackendOp op, const HwptAlloc& request) {
  if ((request.flags & kHwptFaultIdValid) == 0) return nullptr;
  auto* faults = table_.Find<FaultQueueObject>(request.fault);
  if (faults == nullptr) return NoObject(op, "fault queue", request.fault);
  return faults;
}

absl::StatusOr<HwptObject*> EmulatedContext::AllocPaging(BackendOp op, const HwptAlloc& request, HostSmmu* smmu,
                                                         IoasObject& ioas) {
  const bool nest_parent = (request.flags & kHwptNestParent) != 0;
  const bool stage2 = nest_parent || !smmu->features().stage1;
  if ((request.flags & ~kAllHwptFlags) != 0) {
    return CallError(op, EOPNOTSUPP, absl::StrCat("flags ", request.flags));
  }
  if (nest_parent && request.flags != kHwptNestParent) {
    return CallError(op, EOPNOTSUPP, "NEST_PARENT goes with no other flag on Arm");
  }
  if ((request.flags & kHwptDirtyTracking) != 0) {
    return CallError(op, EOPNOTSUPP, absl::StrCat("SMMU ", smmu->info().name, " does not track dirty pages"));
  }
  if ((request.flags & kHwptPasid) != 0 && stage2) {
    return CallError(op, EOPNOTSUPP, "PASIDs need tables of stage 1");
  }
  if (!request.data.empty()) return CallError(op, EOPNOTSUPP, "tables over an IOAS take no data");
  if (nest_parent ? !smmu->can_nest() : !smmu->can_translate()) {
    return CallError(op, EOPNOTSUPP,
                     absl::StrCat("SMMU ", smmu->info().name,
                                  nest_parent ? " has no two stages to nest" : " has no table format that is known"));
  }
  const Personality& personality = host_->personality();
  auto hwpt = std::make_unique<HwptObject>();
  hwpt->ioas = &ioas;
  hwpt->nest_parent = nest_parent;
  if (!nest_parent || personality.stage2_sharing == Stage2Sharing::kPerSmmu) hwpt->smmu = smmu;
  if (!stage2) {
    hwpt->asid = smmu->TakeAsid();
    if (hwpt->asid == nullptr) {
      return CallError(op, ENOSPC, absl::StrCat("the ASIDs of SMMU ", smmu->info().name, " are used up"));
    }
  } else if (!nest_parent || personality.vmid_owner == VmidOwner::kStage2) {
    hwpt->vmid = smmu->TakeVmid();
    if (hwpt->vmid == nullptr) return NoVmid(op, *smmu, "destroy a stage 2 on it");
  }
  hwpt->table = PageTable::Create(TableFormatFor(smmu->features(), stage2), &host_->memory());
  if (hwpt->table == nullptr) return NoMemory(op);
  if (absl::Status status = FillTable(op, ioas, *hwpt->table); !status.ok()) return status;
  if (!stage2) {
    hwpt->cd = HostPages::Allocate(&host_->memory(), HostMemory::kMinSizeLog2);
    if (hwpt->cd.empty()) return NoMemory(op);
    const smmuv3::RawCd cd = MakeCd(*hwpt->table, hwpt->asid->asid(), smmu->features());
    uint64_t* words = hwpt->cd.words();
    for (size_t i = 0; i < cd.size(); ++i) std::atomic_ref(words[i]).store(cd[i], std::memory_order_release);
  }
  const absl::StatusOr<FaultQueueObject*> faults = FaultQueueOf(op, request);
  if (!faults.ok()) return faults.status();
  hwpt->faults = *faults;
  if (hwpt->faults != nullptr) ++hwpt->faults->users;
  ++ioas.users;
  HwptObject* added = hwpt.get();
  ioas.hwpts.push_back(added);
  table_.Add(std::move(hwpt));
  return added;
}

absl::StatusOr<ObjectId> EmulatedContext::AllocOverViommu(const HwptAlloc& request, const HostDevice& device,
                                                          ViommuObject& viommu) {
  const BackendOp op = OpOf(request);
  if (device.smmu != viommu.smmu) return OtherSmmu(op, device, viommu, *viommu.smmu);
  if ((request.flags & ~kHwptFaultIdValid) != 0) {
    return CallError(op, EOPNOTSUPP, absl::StrCat("flags ", request.flags, " over a viommu"));
  }
  if (request.data.empty()) return CallError(op, EOPNOTSUPP, "no vSTE");
  smmuv3::RawVste vste;
  if (request.data_type != HwptDataType::kArmSmmuv3 || request.data.size() != sizeof(vste)) {
    return CallError(op, EINVAL, "the data must be ARM_SMMUV3 (2), 16 bytes");
  }
  std::memcpy(&vste, request.data.data(), sizeof(vste));
  const smmuv3::VsteRule rule = ValidateVste(vste);
  if (rule != smmuv3::VsteRule::kNone) return CallError(op, EIO, DescribeVsteRule(rule));
  const absl::StatusOr<FaultQueueObject*> faults = FaultQueueOf(op, request);
  if (!faults.ok()) return faults.status();
  auto nested = std::make_unique<NestedObject>();
  nested->viommu = &viommu;
  nested->vste = vste;
  nested->faults = *faults;
  if (nested->faults != nullptr) ++nested->faults->users;
  ++viommu.users;
  return table_.Add(std::move(nested));
}

// ---- Viommus and vdevices ----

absl::StatusOr<ViommuHandle> EmulatedContext::AllocViommu(ObjectId device_id, ObjectId stage2_id, ViommuType type) {
  constexpr BackendOp kOp = BackendOp::kAllocViommu;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  if (type == ViommuType::kDefault) return CallError(kOp, EOPNOTSUPP, "type DEFAULT is no type");
  const auto* device = table_.Find<DeviceObject>(device_id);
  if (device == nullptr) return NoObject(kOp, "device", device_id);
  HostSmmu* smmu = device->device->smmu;
  if (type != ViommuType::kArmSmmuv3 && type != ViommuType::kTegra241Cmdqv) {
    return CallError(kOp, EOPNOTSUPP, absl::StrCat("there is no viommu type ", static_cast<uint32_t>(type)));
  }
  if (type == ViommuType::kTegra241Cmdqv && smmu->cmdqv() == nullptr) {
    return CallError(
        kOp, EOPNOTSUPP,
        absl::StrCat("SMMU ", smmu->info().name, " has no hardware queues; use viommu type ARM_SMMUV3 (1)"));
  }
  if (!smmu->can_viommu()) {
    return CallError(
        kOp, EOPNOTSUPP,
        absl::StrCat("SMMU ", smmu->info().name,
                     " cannot nest, or a guest could make accesses go around the cache (IDR3.FWB, IORT CANWBS)"));
  }
  auto* stage2 = table_.Find<HwptObject>(stage2_id);
  if (stage2 == nullptr) return NoObject(kOp, "paging HWPT", stage2_id);
  if (!stage2->nest_parent) {
    return CallError(kOp, EINVAL, absl::StrCat("paging HWPT ", stage2_id, " is no nesting parent"));
  }
  if (stage2->smmu != nullptr && stage2->smmu != smmu) {
    return OtherSmmu(kOp, *device->device, *stage2, *stage2->smmu);
  }
  if (!CanRead(smmu->features(), stage2->table->format())) {
    return CallError(
        kOp, EINVAL,
        absl::StrCat("SMMU ", smmu->info().name, " does not read the tables of paging HWPT ", stage2_id,
                     " (IDR5, IDR3.FWB); allocate one with device ", device->device->spec.info.pci_address));
  }
  auto viommu = std::make_unique<ViommuObject>();
  viommu->smmu = smmu;
  viommu->stage2 = stage2;
  viommu->vmid = stage2->vmid != nullptr ? stage2->vmid : smmu->TakeVmid();
  if (viommu->vmid == nullptr) {
    return NoVmid(kOp, *smmu, "destroy a viommu on it");
  }
  if (type == ViommuType::kTegra241Cmdqv) {
    int error = 0;
    viommu->vintf = smmu->cmdqv()->TakeVintf(viommu->vmid->vmid(), viommu->events, error);
    if (viommu->vintf == nullptr) {
      return CallError(kOp, error,
                       error == ENOSPC ? absl::StrCat("the hardware queues' interfaces of SMMU ", smmu->info().name,
                                                      " are used up; use type ARM_SMMUV3 (1), or destroy a viommu")
                                       : "no page for the interface");
    }
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
    return CallError(kOp, EINVAL, absl::StrCat("guest StreamID ", virt_id, " is wider than 32 bits"));
  }
  auto* viommu = table_.Find<ViommuObject>(viommu_id);
  if (viommu == nullptr) return NoObject(kOp, "viommu", viommu_id);
  auto* device = table_.Find<DeviceObject>(device_id);
  if (device == nullptr) return NoObject(kOp, "device", device_id);
  if (device->device->smmu != viommu->smmu) return OtherSmmu(kOp, *device->device, *viommu, *viommu->smmu);
  const EmulatedDevice& spec = device->device->spec;
  if (device->vdevice != nullptr) {
    return CallError(kOp, EEXIST,
                     absl::StrCat("device ", spec.info.pci_address, " is vdevice ", device->vdevice->id, " of viommu ",
                                  device->vdevice->viommu->id, "; destroy that first"));
  }
  WriterLock sids_lock(viommu->sids_mu);
  if (viommu->sids.contains(virt_id)) {
    return CallError(kOp, EEXIST, absl::StrCat("guest StreamID ", virt_id, " is taken in viommu ", viommu_id));
  }
  if (spec.stream_count != 1) {
    return CallError(
        kOp, EOPNOTSUPP,
        absl::StrCat("device ", spec.info.pci_address, " has ", spec.stream_count, " StreamIDs; a vdevice has one"));
  }
  uint32_t sid_slot = 0;
  if (viommu->vintf != nullptr) {
    if (virt_id > smmuv3::cmdqv::kSidMatchVirtSid.max()) {
      return CallError(kOp, EINVAL,
                       absl::StrCat("guest StreamID ", virt_id, " is wider than the 20 bits of a hardware queue"));
    }
    const std::optional<uint32_t> slot = viommu->vintf->AddStream(static_cast<uint32_t>(virt_id), spec.info.stream_id);
    if (!slot.has_value()) {
      return CallError(
          kOp, ENOSPC,
          absl::StrCat("viommu ", viommu_id, " has as many devices as its hardware queues can tell apart"));
    }
    sid_slot = *slot;
  }
  auto vdevice = std::make_unique<VdeviceObject>();
  vdevice->viommu = viommu;
  vdevice->device = device;
  vdevice->virt_id = virt_id;
  vdevice->sid_slot = sid_slot;
  device->vdevice = vdevice.get();
  ++viommu->users;
  viommu->sids.emplace(virt_id, spec.info.stream_id);
  return table_.Add(std::move(vdevice));
}

}  // namespace viommu::agent
