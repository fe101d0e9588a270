#include "agent/smmuv3/vsmmu/host.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/errno_status.h"
#include "agent/smmuv3/spec/id_registers.h"

namespace viommu::agent {

const char* BackendOpName(BackendOp op) {
  switch (op) {
    case BackendOp::kDiscover:
      return "DISCOVER";
    case BackendOp::kOpenContext:
      return "OPEN";
    case BackendOp::kBindDevice:
      return "BIND_IOMMUFD";
    case BackendOp::kUnbindDevice:
      return "UNBIND";
    case BackendOp::kAllocIoas:
      return "IOAS_ALLOC";
    case BackendOp::kMapIoas:
      return "IOAS_MAP_FILE";
    case BackendOp::kUnmapIoas:
      return "IOAS_UNMAP";
    case BackendOp::kAllocStage2:
      return "HWPT_ALLOC(NEST_PARENT)";
    case BackendOp::kAllocViommu:
      return "VIOMMU_ALLOC";
    case BackendOp::kAllocVdevice:
      return "VDEVICE_ALLOC";
    case BackendOp::kAllocNested:
      return "HWPT_ALLOC(nested)";
    case BackendOp::kAllocPlain:
      return "HWPT_ALLOC";
    case BackendOp::kAttach:
      return "ATTACH_IOMMUFD_PT";
    case BackendOp::kDetach:
      return "DETACH_IOMMUFD_PT";
    case BackendOp::kInvalidate:
      return "HWPT_INVALIDATE";
    case BackendOp::kAllocVeventq:
      return "VEVENTQ_ALLOC";
    case BackendOp::kReadVeventq:
      return "read(VEVENTQ)";
    case BackendOp::kAllocFaultQueue:
      return "FAULT_QUEUE_ALLOC";
    case BackendOp::kReadFaults:
      return "read(FAULT)";
    case BackendOp::kAnswerFault:
      return "write(FAULT)";
    case BackendOp::kAllocHwQueue:
      return "HW_QUEUE_ALLOC";
    case BackendOp::kMapVintf:
      return "mmap(VINTF)";
    case BackendOp::kGetHwInfo:
      return "GET_HW_INFO";
    case BackendOp::kDestroy:
      return "DESTROY";
  }
  return "?";
}

namespace {

// Physical addresses that every SMMU can put out, and every page table can hold.
uint32_t AddressBits(const EmulatedInventory& inventory) {
  uint32_t bits = 48;
  for (const EmulatedSmmuSpec& smmu : inventory.smmus) {
    // One that says nothing usable has no tables either.
    const uint32_t oas_bits = smmuv3::DecodeIdRegisters(smmu.info.idr).oas_bits;
    if (oas_bits != 0) bits = std::min(bits, oas_bits);
  }
  return std::max(bits, 32u);
}

}  // namespace

Host::Host(EmulatedInventory inventory) : inventory_(std::move(inventory)), memory_(AddressBits(inventory_)) {}

absl::StatusOr<std::unique_ptr<Host>> Host::Create(EmulatedInventory inventory) {
  std::unique_ptr<Host> host(new Host(std::move(inventory)));
  if (absl::Status status = host->Build(); !status.ok()) return status;
  return host;
}

absl::Status Host::Build() {
  const absl::Status no_memory = absl::ResourceExhaustedError("no memory for the tables of the emulated SMMUs");
  for (const EmulatedSmmuSpec& spec : inventory_.smmus) {
    auto smmu = HostSmmu::Create(spec, inventory_.smmu_options, inventory_.sync_timeout, &memory_);
    if (smmu == nullptr) return no_memory;
    smmus_.push_back(std::move(smmu));
  }
  for (const EmulatedDevice& spec : inventory_.devices) {
    auto device = std::make_unique<HostDevice>();
    device->spec = spec;
    device->smmu = FindSmmu(spec.info.smmu);
    HostGroup& group = groups_[spec.info.iommu_group];
    group.id = spec.info.iommu_group;
    group.devices.push_back(device.get());
    device->group = &group;
    for (uint32_t i = 0; i < spec.stream_count; ++i) {
      const uint32_t sid = spec.info.stream_id + i;
      if (!device->smmu->HasSte(sid)) {
        return absl::InvalidArgumentError(absl::StrCat("device ", spec.info.pci_address, ": StreamID ", sid,
                                                       " is beyond the stream table of SMMU ", spec.info.smmu));
      }
      // Aborts until somebody attaches it.
      if (!device->smmu->ReserveSte(sid)) return no_memory;
    }
    devices_.emplace(spec.info.pci_address, std::move(device));
  }
  return absl::OkStatus();
}

HostDevice* Host::FindDevice(std::string_view pci_address) {
  const auto found = devices_.find(pci_address);
  return found == devices_.end() ? nullptr : found->second.get();
}

HostSmmu* Host::FindSmmu(std::string_view name) {
  for (const auto& smmu : smmus_) {
    if (smmu->info().name == name) return smmu.get();
  }
  return nullptr;
}

absl::Status Host::Claim(const HostDevice& device, const void* owner) {
  MutexLock lock(mu_);
  for (const HostDevice* member : device.group->devices) {
    const auto found = owners_.find(member);
    if (found == owners_.end() || (member != &device && found->second == owner)) continue;
    const std::string whose = found->second == owner ? "this context" : "another context";
    const int error = personality().bound_device_is_busy ? EBUSY : member == &device ? EINVAL : EPERM;
    return ErrnoStatus(error, BackendOpName(BackendOp::kBindDevice),
                       absl::StrCat("device ", member->spec.info.pci_address, " of IOMMU group ", device.group->id,
                                    " is bound in ", whose, "; unbind it there first"));
  }
  owners_[&device] = owner;
  return absl::OkStatus();
}

void Host::Release(const HostDevice& device) {
  MutexLock lock(mu_);
  owners_.erase(&device);
}

void Host::FailNext(BackendOp op, int error_number, uint32_t skip) {
  MutexLock lock(mu_);
  faults_[op] = {error_number, skip};
  faults_armed_.store(static_cast<uint32_t>(faults_.size()), std::memory_order_release);
}

absl::Status Host::TakeFailure(BackendOp op) {
  MutexLock lock(mu_);
  const auto found = faults_.find(op);
  if (found == faults_.end()) return absl::OkStatus();
  if (found->second.skip > 0) {
    --found->second.skip;
    return absl::OkStatus();
  }
  const int error_number = found->second.error_number;
  faults_.erase(found);
  faults_armed_.store(static_cast<uint32_t>(faults_.size()), std::memory_order_release);
  return ErrnoStatus(error_number, BackendOpName(op), "injected failure");
}

}  // namespace viommu::agent
