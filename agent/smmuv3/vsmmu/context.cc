#include "agent/smmuv3/vsmmu/context.h"

#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/smmuv3/vsmmu/context_errors.h"

namespace viommu::agent {

EmulatedContext::~EmulatedContext() {
  MutexLock lock(control_mu_);
  const std::vector<DeviceObject*> devices = table_.All<DeviceObject>();
  for (DeviceObject* device : devices) DetachDevice(*device);
  // What stands on something else goes first.
  for (NestedObject* object : table_.All<NestedObject>()) static_cast<void>(DestroyObject(*object));
  for (VdeviceObject* object : table_.All<VdeviceObject>()) static_cast<void>(DestroyObject(*object));
  for (VeventqObject* object : table_.All<VeventqObject>()) static_cast<void>(DestroyObject(*object));
  for (ViommuObject* object : table_.All<ViommuObject>()) {
    while (!object->hw_queues.empty()) static_cast<void>(DestroyObject(*object->hw_queues.back()));
    object->users -= std::exchange(object->vintf_mappings, 0);
    static_cast<void>(DestroyObject(*object));
  }
  for (HwptObject* object : table_.All<HwptObject>()) static_cast<void>(DestroyObject(*object));
  for (FaultQueueObject* object : table_.All<FaultQueueObject>()) static_cast<void>(DestroyObject(*object));
  for (IoasObject* object : table_.All<IoasObject>()) static_cast<void>(DestroyObject(*object));
  for (DeviceObject* device : devices) ForgetDevice(*device);
}

// ---- Devices ----

absl::StatusOr<ObjectId> EmulatedContext::BindDevice(std::string_view pci_address) {
  constexpr BackendOp kOp = BackendOp::kBindDevice;
  if (absl::Status status = host_->InjectedFailure(kOp); !status.ok()) return status;
  MutexLock lock(control_mu_);
  HostDevice* device = host_->FindDevice(pci_address);
  const std::string name(pci_address);
  if (device == nullptr) return CallError(kOp, ENODEV, absl::StrCat("no device ", name, " on this host"));
  if (!device->spec.dma_coherent) {
    return CallError(kOp, EINVAL, absl::StrCat("the DMA of device ", name, " is not cache coherent"));
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
    return CallError(kOp, ENOENT, absl::StrCat("device ", std::string(pci_address), " is not bound here"));
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

// ---- Ends ----

void EmulatedContext::ForgetVdevice(VdeviceObject& vdevice) {
  vdevice.device->vdevice = nullptr;
  --vdevice.viommu->users;
  if (vdevice.viommu->vintf != nullptr) vdevice.viommu->vintf->RemoveStream(vdevice.sid_slot);
  WriterLock lock(vdevice.viommu->sids_mu);
  vdevice.viommu->sids.erase(vdevice.virt_id);
}

absl::Status EmulatedContext::DestroyObject(Object& object) {
  constexpr BackendOp kOp = BackendOp::kDestroy;
  const ObjectId id = object.id;
  if (object.kind == ObjectKind::kDevice) {
    return CallError(kOp, EBUSY, absl::StrCat("device ", id, " goes by being unbound"));
  }
  const std::unique_ptr<Object> removed = table_.Remove(id);
  if (removed == nullptr) {
    return CallError(kOp, EBUSY,
                     absl::StrCat(ObjectKindName(object.kind), " ", id, " has ", object.users,
                                  " users, or calls in flight; detach or destroy what stands on it first"));
  }
  switch (removed->kind) {
    case ObjectKind::kVdevice:
      ForgetVdevice(static_cast<VdeviceObject&>(*removed));
      break;
    case ObjectKind::kNested: {
      auto& nested = static_cast<NestedObject&>(*removed);
      --nested.viommu->users;
      if (nested.faults != nullptr) --nested.faults->users;
      break;
    }
    case ObjectKind::kVeventq: {
      auto& veventq = static_cast<VeventqObject&>(*removed);
      veventq.viommu->events->Remove(veventq.type);
      --veventq.viommu->users;
      break;
    }
    case ObjectKind::kViommu:
      --static_cast<ViommuObject&>(*removed).stage2->users;
      break;
    case ObjectKind::kHwpt:
      ReleaseHwpt(static_cast<HwptObject&>(*removed));
      break;
    case ObjectKind::kIoas:
      ReleaseIoas(static_cast<IoasObject&>(*removed));
      break;
    case ObjectKind::kFaultQueue:
      for (const StallTag& tag : static_cast<FaultQueueObject&>(*removed).queue->Close()) {
        tag.smmu->Resume(tag, PageResponseCode::kInvalid);
      }
      break;
    case ObjectKind::kHwQueue:
      ReleaseHwQueue(static_cast<HwQueueObject&>(*removed));
      break;
    case ObjectKind::kDevice:
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
