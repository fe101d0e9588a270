// What is in a context: its object table, as the seam tells it.

#include <vector>

#include "agent/smmuv3/vsmmu/context.h"

namespace viommu::agent {

ObjectInfo EmulatedContext::Describe(const Object& object) const {
  ObjectInfo info = {.id = object.id, .kind = object.kind};
  switch (object.kind) {
    case ObjectKind::kDevice: {
      const auto& device = static_cast<const DeviceObject&>(object);
      info.pci_address = device.device->spec.info.pci_address;
      info.smmu = device.device->smmu->info().name;
      if (device.attached) info.parent = attachments_.at(device.device->group).target->id;
      break;
    }
    case ObjectKind::kHwpt: {
      const auto& hwpt = static_cast<const HwptObject&>(object);
      info.parent = hwpt.ioas->id;
      if (hwpt.smmu != nullptr) info.smmu = hwpt.smmu->info().name;
      break;
    }
    case ObjectKind::kViommu: {
      const auto& viommu = static_cast<const ViommuObject&>(object);
      info.parent = viommu.stage2->id;
      info.smmu = viommu.smmu->info().name;
      info.type = viommu.vintf != nullptr ? ViommuType::kTegra241Cmdqv : ViommuType::kArmSmmuv3;
      break;
    }
    case ObjectKind::kVdevice: {
      const auto& vdevice = static_cast<const VdeviceObject&>(object);
      info.parent = vdevice.viommu->id;
      info.device = vdevice.device->id;
      info.virt_id = vdevice.virt_id;
      break;
    }
    case ObjectKind::kNested: {
      const auto& nested = static_cast<const NestedObject&>(object);
      info.parent = nested.viommu->id;
      info.vste = nested.vste;
      break;
    }
    case ObjectKind::kVeventq:
      info.parent = static_cast<const VeventqObject&>(object).viommu->id;
      break;
    case ObjectKind::kHwQueue:
      info.parent = static_cast<const HwQueueObject&>(object).viommu->id;
      break;
    case ObjectKind::kIoas:
    case ObjectKind::kFaultQueue:
      break;
  }
  return info;
}

absl::StatusOr<std::vector<ObjectInfo>> EmulatedContext::Objects() const {
  MutexLock lock(control_mu_);
  std::vector<const Object*> objects;
  table_.ForEach([&](const Object* object) { objects.push_back(object); });
  std::vector<ObjectInfo> infos;
  infos.reserve(objects.size());
  for (const Object* object : objects) infos.push_back(Describe(*object));
  return infos;
}

}  // namespace viommu::agent
