// Attaching devices: what a stream table entry becomes.

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/smmuv3/vsmmu/context.h"
#include "agent/smmuv3/vsmmu/context_errors.h"
#include "common/mutation.h"

namespace viommu::agent {
namespace {

// Attributes of accesses to context descriptors: write-back, inner shareable.
constexpr uint8_t kWriteBack = 1;
constexpr uint8_t kInnerShareable = 3;

// The entry as an SMMU wants it on which every fault stalls (IDR0.STALL_MODEL): S2S is set there, and there is no ATS.
smmuv3::RawSte AdaptStalls(smmuv3::RawSte ste, const smmuv3::Features& features) {
  const smmuv3::SteConfig config = ConfigOf(ste);
  const bool stage2 = config == smmuv3::SteConfig::kStage2 || config == smmuv3::SteConfig::kNested;
  if (features.stall_model != smmuv3::StallModel::kStall || !stage2) return ste;
  ste.dw[2] |= smmuv3::ste::kS2S.mask();
  ste.dw[1] &= ~smmuv3::ste::kEats.mask();
  return ste;
}

smmuv3::Stage2Config Stage2Of(const HwptObject& hwpt, uint16_t vmid) {
  const TableFormat& format = hwpt.table->format();
  return {.vmid = vmid,
          .vtcr = smmuv3::Vtcr(format.granule, format.address_bits),
          .s2ttb = hwpt.table->root(),
          .fwb = format.fwb};
}

}  // namespace

DeviceObject* EmulatedContext::BoundDevice(const HostDevice& device) {
  const auto found = bound_.find(&device);
  return found == bound_.end() ? nullptr : found->second;
}

// ---- Plans ----

absl::StatusOr<EmulatedContext::AttachStep> EmulatedContext::PlanNested(HostDevice& device,
                                                                        const NestedObject& nested) {
  ViommuObject& viommu = *nested.viommu;
  if (device.smmu != viommu.smmu) return OtherSmmu(BackendOp::kAttach, device, nested, *viommu.smmu);
  const DeviceObject* bound = BoundDevice(device);
  const VdeviceObject* vdevice = bound == nullptr ? nullptr : bound->vdevice;
  if (vdevice != nullptr && vdevice->viommu != &viommu) vdevice = nullptr;
  // The guest's StreamID is what events of its stage 1 are reported under, so there must be one.
  if (VsteKindOf(nested.vste) == smmuv3::VsteKind::kTranslate && vdevice == nullptr) {
    return CallError(BackendOp::kAttach, ENOENT,
                     absl::StrCat("device ", device.spec.info.pci_address, " has no vdevice in viommu ", viommu.id,
                                  "; allocate one before attaching it to a nested HWPT that translates"));
  }
  AttachStep step;
  step.device = &device;
  step.vmid = viommu.vmid;
  const uint16_t vmid = Mutated(Mutation::kShareVmid) ? 1 : step.vmid->vmid();
  step.ste = AdaptStalls(MakeNestedSte(nested.vste, Stage2Of(*viommu.stage2, vmid), device.spec.info.ats),
                         device.smmu->features());
  if (vdevice != nullptr) {
    step.owner.events = viommu.events;
    // The guest's StreamID of this very moment: a vdevice that comes or goes later changes nothing until the next
    // attach. Events have room for 32 bits of it.
    step.owner.virt_id = static_cast<uint32_t>(vdevice->virt_id);
  }
  if (nested.faults != nullptr) step.owner.faults = nested.faults->queue;
  return step;
}

absl::StatusOr<EmulatedContext::AttachStep> EmulatedContext::PlanStage1(HostDevice& device, const HwptObject& hwpt) {
  if (hwpt.smmu != device.smmu) return OtherSmmu(BackendOp::kAttach, device, hwpt, *hwpt.smmu);
  smmuv3::Ste ste;
  ste.valid = true;
  ste.config = smmuv3::SteConfig::kStage1;
  ste.s1_context_ptr = hwpt.cd.address();
  ste.s1_cir = kWriteBack;
  ste.s1_cor = kWriteBack;
  ste.s1_csh = kInnerShareable;
  ste.s1_stalld = device.smmu->features().stall_model == smmuv3::StallModel::kStallOrTerminate;
  ste.eats = device.spec.info.ats ? smmuv3::kEatsTranslate : smmuv3::kEatsAbort;
  AttachStep step;
  step.device = &device;
  step.ste = smmuv3::EncodeSte(ste);
  if (hwpt.faults != nullptr) step.owner.faults = hwpt.faults->queue;
  return step;
}

absl::StatusOr<EmulatedContext::AttachStep> EmulatedContext::PlanStage2(HostDevice& device, HwptObject& hwpt) {
  if (hwpt.smmu != nullptr && hwpt.smmu != device.smmu) {
    return OtherSmmu(BackendOp::kAttach, device, hwpt, *hwpt.smmu);
  }
  if (!device.smmu->can_translate() || !CanRead(device.smmu->features(), hwpt.table->format())) {
    return CallError(BackendOp::kAttach, EINVAL,
                     absl::StrCat("SMMU ", device.smmu->info().name, " does not read the tables of paging HWPT ",
                                  hwpt.id, " (IDR5, IDR3.FWB)"));
  }
  AttachStep step;
  step.device = &device;
  step.vmid = hwpt.vmid;
  if (step.vmid == nullptr) {
    // Viommus own the VMIDs. The device goes under that of its own viommu on this stage 2; one without a vdevice goes
    // under a VMID that the stage 2 takes on this SMMU for as long as such devices are attached.
    const DeviceObject* bound = BoundDevice(device);
    if (bound != nullptr && bound->vdevice != nullptr && bound->vdevice->viommu->stage2 == &hwpt) {
      step.vmid = bound->vdevice->viommu->vmid;
    } else {
      std::weak_ptr<const VmidLease>& direct = hwpt.direct_vmids[device.smmu];
      step.vmid = direct.lock();
      if (step.vmid == nullptr) direct = step.vmid = device.smmu->TakeVmid();
    }
    if (step.vmid == nullptr) return NoVmid(BackendOp::kAttach, *device.smmu, "destroy a viommu on it");
  }
  step.ste =
      AdaptStalls(MakeStage2Ste(Stage2Of(hwpt, step.vmid->vmid()), device.spec.info.ats), device.smmu->features());
  if (hwpt.faults != nullptr) step.owner.faults = hwpt.faults->queue;
  return step;
}

absl::StatusOr<std::vector<EmulatedContext::AttachStep>> EmulatedContext::PlanAttach(const HostGroup& group,
                                                                                     Object& target) {
  std::vector<AttachStep> steps;
  for (HostDevice* device : group.devices) {
    absl::StatusOr<AttachStep> step;
    if (target.kind == ObjectKind::kNested) {
      step = PlanNested(*device, static_cast<NestedObject&>(target));
    } else {
      auto& hwpt = static_cast<HwptObject&>(target);
      step = hwpt.asid != nullptr ? PlanStage1(*device, hwpt) : PlanStage2(*device, hwpt);
    }
    if (!step.ok()) return step.status();
    const DeviceObject* bound = BoundDevice(*device);
    step->owner.device = bound == nullptr ? 0 : bound->id;
    steps.push_back(*std::move(step));
  }
  return steps;
}

void EmulatedContext::Install(const AttachStep& step) {
  const EmulatedDevice& spec = step.device->spec;
  for (uint32_t i = 0; i < spec.stream_count; ++i) {
    step.device->smmu->InstallSte(spec.info.stream_id + i, step.ste, step.owner);
  }
}

// ---- Attach and detach ----

absl::Status EmulatedContext::Attach(ObjectId device_id, ObjectId pt) {
  constexpr BackendOp kOp = BackendOp::kAttach;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  auto* device = table_.Find<DeviceObject>(device_id);
  if (device == nullptr) return NoObject(kOp, "device", device_id);
  Object* target = table_.FindAny(pt);
  if (target == nullptr) return NoObject(kOp, "object", pt);
  switch (target->kind) {
    case ObjectKind::kHwpt:
    case ObjectKind::kNested:
      return AttachTo(*device, *target);
    case ObjectKind::kIoas:
      break;
    default:
      return CallError(kOp, EINVAL,
                       absl::StrCat("object ", pt, " is a ", ObjectKindName(target->kind),
                                    "; attach to an IOAS, or a paging or nested HWPT"));
  }
  auto& ioas = static_cast<IoasObject&>(*target);
  for (HwptObject* hwpt : ioas.hwpts) {
    if (hwpt->automatic && hwpt->smmu == device->device->smmu) return AttachTo(*device, *hwpt);
  }
  const absl::StatusOr<HwptObject*> made = AllocPaging(kOp, {}, device->device->smmu, ioas);
  if (!made.ok()) return made.status();
  (*made)->automatic = true;
  absl::Status status = AttachTo(*device, **made);
  if (!status.ok()) static_cast<void>(DestroyObject(**made));
  return status;
}

absl::Status EmulatedContext::AttachTo(DeviceObject& device, Object& target) {
  const HostGroup& group = *device.device->group;
  const auto current = attachments_.find(&group);
  Attachment old;
  if (current != attachments_.end()) old = current->second;
  if (old.target != nullptr && !device.attached && old.target != &target) {
    return CallError(BackendOp::kAttach, EINVAL,
                     absl::StrCat("IOMMU group ", group.id, " is attached to ", ObjectKindName(old.target->kind), " ",
                                  old.target->id, "; attach to that first"));
  }
  const IoasObject* ioas = TablesBelow(target).ioas;
  const bool same_ioas = old.target != nullptr && TablesBelow(*old.target).ioas == ioas;
  if (!same_ioas && IsMapped(*ioas, kMsiWindow, kMsiWindowBytes)) {
    return CallError(BackendOp::kAttach, EADDRINUSE,
                     absl::StrCat("memory is mapped in IOAS ", ioas->id,
                                  " where the device's interrupts go, at 0x8000000 to 0x80fffff"));
  }
  absl::StatusOr<std::vector<AttachStep>> steps = PlanAttach(group, target);
  if (!steps.ok()) return steps.status();

  Attachment attachment;
  attachment.target = &target;
  attachment.devices = old.devices + (device.attached ? 0 : 1);
  for (const AttachStep& step : *steps) {
    Install(step);
    if (step.vmid != nullptr) attachment.vmids.push_back(step.vmid);
  }
  target.users += attachment.devices;
  device.attached = true;
  attachments_[&group] = std::move(attachment);
  // Lets go of the old entries' VMIDs, now that no entry names them.
  old.vmids.clear();
  if (old.target != nullptr) LeaveTarget(group, *old.target, old.devices);
  return absl::OkStatus();
}

void EmulatedContext::LeaveTarget(const HostGroup& group, Object& target, uint32_t devices) {
  target.users -= devices;
  const FaultQueueObject* faults = target.kind == ObjectKind::kNested ? static_cast<NestedObject&>(target).faults
                                                                      : static_cast<HwptObject&>(target).faults;
  if (faults != nullptr) {
    // Nobody is to answer for what the device did under the old tables.
    for (const HostDevice* device : group.devices) {
      for (uint32_t i = 0; i < device->spec.stream_count; ++i) {
        for (const StallTag& tag : faults->queue->TakeStream(device->smmu, device->spec.info.stream_id + i)) {
          tag.smmu->Resume(tag, PageResponseCode::kInvalid);
        }
      }
    }
  }
  if (target.users == 0 && target.kind == ObjectKind::kHwpt && static_cast<HwptObject&>(target).automatic) {
    static_cast<void>(DestroyObject(target));
  }
}

void EmulatedContext::DetachDevice(DeviceObject& device) {
  if (!device.attached) return;
  device.attached = false;
  const auto current = attachments_.find(device.device->group);
  Attachment& attachment = current->second;
  if (--attachment.devices != 0) {
    --attachment.target->users;
    return;
  }
  for (HostDevice* member : device.device->group->devices) {
    AttachStep step;
    step.device = member;
    step.ste = smmuv3::MakeAbortSte();
    if (!Mutated(Mutation::kStayAttached)) Install(step);
  }
  Object& target = *attachment.target;
  attachments_.erase(current);
  LeaveTarget(*device.device->group, target, 1);
}

absl::Status EmulatedContext::Detach(ObjectId device_id) {
  constexpr BackendOp kOp = BackendOp::kDetach;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  auto* device = table_.Find<DeviceObject>(device_id);
  if (device == nullptr) return NoObject(kOp, "device", device_id);
  DetachDevice(*device);
  return absl::OkStatus();
}

}  // namespace viommu::agent
