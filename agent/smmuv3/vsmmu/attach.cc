// Attaching devices: what a stream table entry becomes.

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/errno_status.h"
#include "agent/smmuv3/vsmmu/context.h"

namespace viommu::agent {
namespace {

absl::Status Error(int error_number, absl::string_view message) {
  return ErrnoStatus(error_number, BackendOpName(BackendOp::kAttach), message);
}

absl::Status WrongSmmu(const HostDevice& device, const Object& target, const HostSmmu& smmu) {
  return Error(EINVAL,
               absl::StrCat("device ", device.spec.info.pci_address, " is behind SMMU ", device.smmu->info().name, ", ",
                            ObjectKindName(target.kind), " ", target.id, " belongs to SMMU ", smmu.info().name));
}

}  // namespace

DeviceObject* EmulatedContext::BoundDevice(const HostDevice& device) {
  const auto found = bound_.find(&device);
  return found == bound_.end() ? nullptr : found->second;
}

absl::StatusOr<EmulatedContext::AttachStep> EmulatedContext::PlanNested(HostDevice& device,
                                                                        const NestedObject& nested) {
  ViommuObject& viommu = *nested.viommu;
  if (device.smmu != viommu.smmu) return WrongSmmu(device, nested, *viommu.smmu);
  const DeviceObject* bound = BoundDevice(device);
  const VdeviceObject* vdevice = bound == nullptr ? nullptr : bound->vdevice;
  if (vdevice != nullptr && vdevice->viommu != &viommu) vdevice = nullptr;
  // The guest's StreamID is what events of its stage 1 are reported under, so there must be one.
  if (VsteKindOf(nested.vste) == smmuv3::VsteKind::kTranslate && vdevice == nullptr) {
    return Error(ENOENT, absl::StrCat("device ", device.spec.info.pci_address, " has no vdevice in viommu ", viommu.id,
                                      "; allocate one before attaching it to a nested HWPT that translates"));
  }
  AttachStep step;
  step.device = &device;
  step.vmid = viommu.vmid;
  step.ste = MakeNestedSte(nested.vste, device.smmu->Stage2For(step.vmid->vmid()), device.spec.info.ats);
  if (vdevice != nullptr) {
    step.events = viommu.events;
    step.virt_id = static_cast<uint32_t>(vdevice->virt_id);
  }
  return step;
}

absl::StatusOr<EmulatedContext::AttachStep> EmulatedContext::PlanStage2(HostDevice& device, Stage2Object& stage2) {
  if (stage2.smmu != nullptr && stage2.smmu != device.smmu) return WrongSmmu(device, stage2, *stage2.smmu);
  AttachStep step;
  step.device = &device;
  step.vmid = stage2.vmid;
  if (step.vmid == nullptr) {
    // Viommus own the VMIDs. The device goes under that of its own viommu on this stage 2; one without a vdevice goes
    // under a VMID that the stage 2 takes on this SMMU for as long as such devices are attached.
    const DeviceObject* bound = BoundDevice(device);
    if (bound != nullptr && bound->vdevice != nullptr && bound->vdevice->viommu->stage2 == &stage2) {
      step.vmid = bound->vdevice->viommu->vmid;
    } else {
      std::weak_ptr<const VmidLease>& direct = stage2.direct_vmids[device.smmu];
      step.vmid = direct.lock();
      if (step.vmid == nullptr) direct = step.vmid = device.smmu->TakeVmid();
    }
    if (step.vmid == nullptr) {
      return Error(
          ENOSPC, absl::StrCat("the VMIDs of SMMU ", device.smmu->info().name, " are used up; destroy a viommu on it"));
    }
  }
  step.ste = MakeStage2Ste(device.smmu->Stage2For(step.vmid->vmid()), device.spec.info.ats);
  return step;
}

absl::StatusOr<std::vector<EmulatedContext::AttachStep>> EmulatedContext::PlanAttach(const HostGroup& group,
                                                                                     Object& target) {
  std::vector<AttachStep> steps;
  for (HostDevice* device : group.devices) {
    absl::StatusOr<AttachStep> step = target.kind == ObjectKind::kNested
                                          ? PlanNested(*device, static_cast<NestedObject&>(target))
                                          : PlanStage2(*device, static_cast<Stage2Object&>(target));
    if (!step.ok()) return step.status();
    steps.push_back(*std::move(step));
  }
  return steps;
}

void EmulatedContext::Install(const AttachStep& step) {
  const EmulatedDevice& spec = step.device->spec;
  for (uint32_t i = 0; i < spec.stream_count; ++i) {
    const uint32_t sid = spec.info.stream_id + i;
    step.device->smmu->InstallSte(sid, step.ste);
    // The guest's StreamID of this very moment: a vdevice that comes or goes later changes nothing until the next
    // attach.
    step.device->smmu->SetEventTarget(sid, step.events, step.virt_id);
  }
}

absl::Status EmulatedContext::Attach(ObjectId device_id, ObjectId pt) {
  if (absl::Status status = host_->InjectedFailure(BackendOp::kAttach); !status.ok()) return status;
  MutexLock lock(control_mu_);
  auto* device = table_.Find<DeviceObject>(device_id);
  if (device == nullptr) return Error(ENOENT, absl::StrCat("no device ", device_id));
  Object* target = table_.FindAny(pt);
  if (target == nullptr) return Error(ENOENT, absl::StrCat("no object ", pt));
  if (target->kind != ObjectKind::kStage2 && target->kind != ObjectKind::kNested) {
    return Error(EINVAL, absl::StrCat("object ", pt, " is a ", ObjectKindName(target->kind),
                                      "; attach to a stage-2 or nested HWPT"));
  }
  const HostGroup& group = *device->device->group;
  const auto current = attachments_.find(&group);
  const bool group_attached = current != attachments_.end();
  if (group_attached && !device->attached && current->second.target != target) {
    return Error(
        EINVAL, absl::StrCat("IOMMU group ", group.id, " is attached to ", ObjectKindName(current->second.target->kind),
                             " ", current->second.target->id, "; attach to that first"));
  }
  absl::StatusOr<std::vector<AttachStep>> steps = PlanAttach(group, *target);
  if (!steps.ok()) return steps.status();

  Attachment attachment;
  attachment.target = target;
  attachment.devices = (group_attached ? current->second.devices : 0) + (device->attached ? 0 : 1);
  for (const AttachStep& step : *steps) {
    Install(step);
    attachment.vmids.push_back(step.vmid);
  }
  if (group_attached) current->second.target->users -= current->second.devices;
  target->users += attachment.devices;
  device->attached = true;
  // Lets go of the old entries' VMIDs, now that no entry names them.
  attachments_[&group] = std::move(attachment);
  return absl::OkStatus();
}

void EmulatedContext::DetachDevice(DeviceObject& device) {
  if (!device.attached) return;
  device.attached = false;
  const auto attachment = attachments_.find(device.device->group);
  --attachment->second.target->users;
  if (--attachment->second.devices != 0) return;
  for (HostDevice* member : device.device->group->devices) {
    AttachStep step;
    step.device = member;
    step.ste = smmuv3::MakeAbortSte();
    Install(step);
  }
  attachments_.erase(attachment);
}

absl::Status EmulatedContext::Detach(ObjectId device_id) {
  if (absl::Status status = host_->InjectedFailure(BackendOp::kDetach); !status.ok()) return status;
  MutexLock lock(control_mu_);
  auto* device = table_.Find<DeviceObject>(device_id);
  if (device == nullptr) {
    return ErrnoStatus(ENOENT, BackendOpName(BackendOp::kDetach), absl::StrCat("no device ", device_id));
  }
  DetachDevice(*device);
  return absl::OkStatus();
}

}  // namespace viommu::agent
