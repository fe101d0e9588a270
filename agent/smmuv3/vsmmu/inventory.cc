#include "agent/smmuv3/vsmmu/inventory.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/smmuv3/spec/cmdqv.h"
#include "agent/smmuv3/spec/id_registers.h"

namespace viommu::agent {
namespace {

absl::Status CheckDevice(const EmulatedDevice& device, const SmmuInfo& smmu) {
  const DeviceInfo& info = device.info;
  const std::string who = absl::StrCat("device ", info.pci_address, ": ");
  if (device.stream_count == 0) return absl::InvalidArgumentError(absl::StrCat(who, "has no StreamID"));
  const uint64_t last = uint64_t{info.stream_id} + device.stream_count - 1;
  if (last >> smmu.sid_bits != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(who, "StreamID ", last, " is wider than the ", smmu.sid_bits, " bits of SMMU ", smmu.name));
  }
  if (info.ats && !smmu.ats) {
    return absl::InvalidArgumentError(absl::StrCat(who, "has ATS, but SMMU ", smmu.name, " has not (IDR0.ATS)"));
  }
  if (info.max_pasid_log2 > smmu.ssid_bits) {
    return absl::InvalidArgumentError(absl::StrCat(who, "has ", info.max_pasid_log2, " bits of PASID, SMMU ", smmu.name,
                                                   " takes ", smmu.ssid_bits, " (IDR1.SSIDSIZE)"));
  }
  return absl::OkStatus();
}

// What the registers have room for.
absl::Status CheckHwQueue(const SmmuInfo& smmu) {
  if (!smmu.hw_queue.has_value()) return absl::OkStatus();
  const auto check = [&](const char* what, uint32_t value, uint32_t max) {
    if (value >= 1 && value <= max) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("SMMU ", smmu.name, ": hw_queue.", what, " is ", value, "; 1 to ", max));
  };
  if (absl::Status status = check("vintfs", smmu.hw_queue->vintfs, smmuv3::cmdqv::kMaxVintfs - 1); !status.ok()) {
    return status;
  }
  const uint32_t queues = smmu.hw_queue->queues_per_vintf;
  if (absl::Status status = check("queues_per_vintf", queues, smmuv3::cmdqv::kMaxLvcmdqsPerVintf); !status.ok()) {
    return status;
  }
  return check("sid_slots", smmu.hw_queue->sid_slots, smmuv3::cmdqv::kMaxSidSlots);
}

}  // namespace

SmmuInfo MakeSmmuInfo(std::string name, const std::array<uint32_t, 6>& idr, uint32_t iidr, uint32_t aidr) {
  const smmuv3::Features features = smmuv3::DecodeIdRegisters(idr);
  SmmuInfo info;
  info.name = std::move(name);
  info.idr = idr;
  info.iidr = iidr;
  info.aidr = aidr;
  info.vmid_bits = features.vmid_bits;
  info.sid_bits = features.sid_bits;
  info.ssid_bits = features.ssid_bits;
  info.ats = features.ats;
  info.pri = features.pri;
  return info;
}

absl::Status ValidateInventory(const EmulatedInventory& inventory) {
  if (inventory.smmus.empty()) return absl::InvalidArgumentError("the inventory has no SMMU");
  if (inventory.personality.stage2_sharing == Stage2Sharing::kShared &&
      inventory.personality.vmid_owner == VmidOwner::kStage2) {
    return absl::InvalidArgumentError("a stage 2 that several SMMUs share cannot own the VMID of one of them");
  }
  std::map<std::string, const SmmuInfo*> smmus;
  for (const EmulatedSmmuSpec& smmu : inventory.smmus) {
    if (smmu.info.name.empty()) return absl::InvalidArgumentError("an SMMU has no name");
    if (absl::Status status = CheckHwQueue(smmu.info); !status.ok()) return status;
    if (!smmus.emplace(smmu.info.name, &smmu.info).second) {
      return absl::InvalidArgumentError(absl::StrCat("SMMU ", smmu.info.name, " is listed twice"));
    }
  }
  std::set<std::string> addresses;
  std::set<std::pair<std::string, uint64_t>> streams;
  std::map<uint32_t, std::string> smmu_of_group;
  for (const EmulatedDevice& device : inventory.devices) {
    const DeviceInfo& info = device.info;
    if (!addresses.insert(info.pci_address).second) {
      return absl::InvalidArgumentError(absl::StrCat("device ", info.pci_address, " is listed twice"));
    }
    const auto smmu = smmus.find(info.smmu);
    if (smmu == smmus.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("device ", info.pci_address, ": there is no SMMU \"", info.smmu, "\""));
    }
    if (absl::Status status = CheckDevice(device, *smmu->second); !status.ok()) return status;
    for (uint64_t i = 0; i < device.stream_count; ++i) {
      if (!streams.emplace(info.smmu, info.stream_id + i).second) {
        return absl::InvalidArgumentError(absl::StrCat("device ", info.pci_address, ": StreamID ", info.stream_id + i,
                                                       " of SMMU ", info.smmu, " is used twice"));
      }
    }
    if (smmu_of_group.emplace(info.iommu_group, info.smmu).first->second != info.smmu) {
      return absl::InvalidArgumentError(absl::StrCat("device ", info.pci_address, ": IOMMU group ", info.iommu_group,
                                                     " has devices behind another SMMU"));
    }
  }
  return absl::OkStatus();
}

}  // namespace viommu::agent
