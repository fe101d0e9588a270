#include "agent/smmuv3/iommufd/context.h"

#include <algorithm>
#include <cerrno>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "agent/errno_status.h"
#include "agent/smmuv3/iommufd/uapi.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/guest_command.h"

namespace viommu::agent {
namespace {

constexpr uint64_t kMaxU64 = std::numeric_limits<uint64_t>::max();
std::string DeviceName(ObjectId device) { return absl::StrCat("device ", device); }

}  // namespace

std::string StoredIommufd(const std::string& key) { return absl::StrCat("iommufd.", key); }

std::string StoredDevice(const std::string& key, std::string_view pci_address) {
  // systemd separates names by colons.
  return absl::StrReplaceAll(absl::StrCat("vfio.", key, ".", std::string(pci_address)), {{":", "-"}});
}

absl::StatusOr<std::unique_ptr<IommufdContext>> IommufdContext::Open(IommufdHost* host, std::string key) {
  const std::string path = host->DevPath("iommu");
  const int fd = host->kernel().Open(path);
  if (fd < 0) return ErrnoStatus(-fd, "open", absl::StrCat(path, " (CONFIG_IOMMUFD)"));
  if (host->store() == nullptr) key.clear();
  if (!key.empty()) host->store()->Add(StoredIommufd(key), fd);
  return std::unique_ptr<IommufdContext>(new IommufdContext(host, KernelFile(&host->kernel(), fd), std::move(key)));
}

IommufdContext::~IommufdContext() {
  MutexLock lock(control_mu_);
  if (!key_.empty()) {
    // Whoever adopts it counts anew.
    for (const auto& [id, smmu] : smmu_of_stage2_) host_.Counters(smmu).stage2s.fetch_sub(1, std::memory_order_relaxed);
    return;
  }
  // No device reaches memory any more when the rest goes. What stands on what the kernel knows: with the last
  // descriptor it frees everything from the top down; queues' descriptors and devices would keep it.
  for (auto& [id, device] : devices_) {
    uapi::VfioDetachPt detach;
    static_cast<void>(CallKernel(kernel(), device.file.get(), uapi::kVfioDetachPt, detach));
  }
  {
    WriterLock viommus_lock(viommus_mu_);
    for (auto& [id, viommu] : viommus_) UnmapVintfs(*viommu);
    viommus_.clear();
  }
  event_queues_.CloseAll();
  fault_queues_.CloseAll();
  devices_.clear();
  for (const auto& [key, mapped] : mapped_) kernel().Unmap(mapped.address, mapped.length);
  for (const auto& [id, smmu] : smmu_of_stage2_) host_.Counters(smmu).stage2s.fetch_sub(1, std::memory_order_relaxed);
}

// ---- Contexts that outlive the process ----

void IommufdContext::StopKeeping() {
  MutexLock lock(control_mu_);
  StopKeepingLocked();
}

void IommufdContext::StopKeepingLocked() {
  if (key_.empty()) return;
  for (const auto& [id, device] : devices_) StopKeepingDevice(device);
  host_.store()->Remove(StoredIommufd(key_));
  key_.clear();
}

void IommufdContext::StopKeepingDevice(const Device& device) {
  if (key_.empty()) return;
  host_.store()->Remove(StoredDevice(key_, device.address));
  host_.SetKept(device.address, false);
}

absl::StatusOr<std::unique_ptr<IommufdContext>> IommufdContext::Adopt(IommufdHost* host, const KeptContext& kept,
                                                                      std::map<std::string, KernelFile> files) {
  const auto take = [&files](const std::string& name) {
    const auto node = files.extract(name);
    return node.empty() ? KernelFile() : std::move(node.mapped());
  };
  // Destroying the context on an error takes what is in it out of the store.
  std::unique_ptr<IommufdContext> context(new IommufdContext(host, take(StoredIommufd(kept.key)), kept.key));
  absl::Status status;
  if (context->iommufd_.get() < 0) status = ErrnoStatus(ENOENT, "adopt", "its /dev/iommu was not kept");
  {
    MutexLock lock(context->control_mu_);
    for (const KeptContext::Device& device : kept.devices) {
      KernelFile file = take(StoredDevice(kept.key, device.pci_address));
      if (file.get() < 0) {
        status = ErrnoStatus(ENOENT, "adopt", absl::StrCat("device ", device.pci_address, " was not kept"));
        continue;
      }
      const PciFunction function = host->sysfs().Find(device.pci_address);
      host->SetKept(device.pci_address, true);
      context->devices_.emplace(device.id, Device{std::move(file), device.pci_address, function.smmu});
    }
    for (const auto& [name, file] : files) {
      if (status.ok()) status = ErrnoStatus(EINVAL, "adopt", absl::StrCat(name, " was kept, and should not be there"));
      host->store()->Remove(name);
    }
    for (const KeptContext::OnSmmu& stage2 : kept.stage2s) {
      host->Counters(stage2.smmu).stage2s.fetch_add(1, std::memory_order_relaxed);
      context->smmu_of_stage2_[stage2.id] = stage2.smmu;
    }
    WriterLock viommus_lock(context->viommus_mu_);
    for (const KeptContext::OnSmmu& viommu : kept.viommus) {
      auto adopted = std::make_shared<Viommu>();
      adopted->invalidations = std::make_unique<Invalidations>(&host->kernel(), context->iommufd_.get(), viommu.id,
                                                               &host->Counters(viommu.smmu));
      context->viommus_[viommu.id] = std::move(adopted);
    }
  }
  if (status.ok()) status = context->Verify(kept);
  if (status.ok()) return context;
  context->StopKeeping();
  return status;
}

int IommufdContext::TryInvalidate(ObjectId id, const smmuv3::RawCommand& command) {
  return CallInvalidate(kernel(), iommufd_.get(), id, {InvalidateDataType::kArmSmmuv3, &command, sizeof(command), 1})
      .error_number;
}

absl::Status IommufdContext::Verify(const KeptContext& kept) {
  const auto wrong = [](int error, const char* kind, ObjectId id) {
    return ErrnoStatus(error == 0 ? EINVAL : error, "adopt", absl::StrCat(kind, " ", id, " is not what it was"));
  };
  if (kept.ioas != 0) {
    uapi::IoasIovaRanges ranges;
    ranges.ioas_id = kept.ioas;
    const int error = Call(uapi::kIoasIovaRanges, ranges);
    if (error != 0 && error != EMSGSIZE) return wrong(error, "IOAS", kept.ioas);
  }
  // Each kind of object refuses an invalidation in its own way (Linux 7.2, iommufd_hwpt_invalidate()). One of an ASID
  // does no more to a viommu than to make it slower.
  const smmuv3::RawCommand harmless = smmuv3::Encode({.opcode = smmuv3::Opcode::kTlbiNhAsid});
  for (const KeptContext::OnSmmu& stage2 : kept.stage2s) {
    if (const int error = TryInvalidate(stage2.id, harmless); error != EINVAL)
      return wrong(error, "stage 2", stage2.id);
  }
  for (const KeptContext::OnSmmu& viommu : kept.viommus) {
    if (const int error = TryInvalidate(viommu.id, harmless); error != 0) return wrong(error, "viommu", viommu.id);
  }
  for (const ObjectId nested : kept.nested) {
    if (const int error = TryInvalidate(nested, harmless); error != EOPNOTSUPP) {
      return wrong(error, "nested HWPT", nested);
    }
  }
  for (const KeptContext::Vdevice& vdevice : kept.vdevices) {
    // By its StreamID, which only its vdevice makes known.
    const smmuv3::RawCommand configuration =
        smmuv3::Encode({.opcode = smmuv3::Opcode::kCfgiCdAll, .sid = static_cast<uint32_t>(vdevice.virt_id)});
    if (const int error = TryInvalidate(vdevice.viommu, configuration); error != 0) {
      return wrong(error, "vdevice", vdevice.id);
    }
    if (const int error = TryInvalidate(vdevice.id, harmless); error != EINVAL) {
      return wrong(error, "vdevice", vdevice.id);
    }
  }
  for (const KeptContext::Device& device : kept.devices) {
    if (absl::Status status = GetHwInfo(device.id).status(); !status.ok()) return status;
    if (device.attached_to == 0) continue;
    // To what it is attached to: nothing happens.
    if (absl::Status status = Attach(device.id, device.attached_to); !status.ok()) return status;
  }
  return absl::OkStatus();
}

// ---- Devices ----

absl::StatusOr<ObjectId> IommufdContext::BindDevice(std::string_view pci_address) {
  constexpr char kCall[] = "BIND_IOMMUFD";
  MutexLock lock(control_mu_);
  const std::string name(pci_address);
  const PciFunction function = host_.sysfs().Find(pci_address);
  if (function.address.empty()) return ErrnoStatus(ENODEV, kCall, absl::StrCat("no PCI function ", name));
  if (function.vfio_name.empty()) {
    return ErrnoStatus(ENODEV, kCall,
                       absl::StrCat("device ", name, " is no VFIO device: ",
                                    function.driver.empty() ? "it has no driver" : "its driver is " + function.driver,
                                    "; bind it to vfio-pci (CONFIG_VFIO_DEVICE_CDEV)"));
  }
  const std::string path = host_.DevPath("vfio/devices/" + function.vfio_name);
  const int fd = kernel().Open(path);
  if (fd < 0) return ErrnoStatus(-fd, "open", absl::StrCat(path, ", device ", name));
  KernelFile file(&kernel(), fd);
  uapi::VfioBindIommufd bind;
  bind.iommufd = iommufd_.get();
  if (const int error = CallKernel(kernel(), fd, uapi::kVfioBindIommufd, bind); error != 0) {
    const char* hint = error == EINVAL ? "; is it bound elsewhere, or its DMA not cache coherent?" : "";
    return ErrnoStatus(error, kCall, absl::StrCat("device ", name, hint));
  }
  if (!key_.empty()) {
    host_.store()->Add(StoredDevice(key_, name), fd);
    host_.SetKept(name, true);
  }
  devices_.emplace(bind.out_devid, Device{std::move(file), name, function.smmu});
  return bind.out_devid;
}

absl::Status IommufdContext::UnbindDevice(std::string_view pci_address) {
  MutexLock lock(control_mu_);
  const auto device = std::find_if(devices_.begin(), devices_.end(),
                                   [&](const auto& entry) { return entry.second.address == pci_address; });
  if (device == devices_.end()) {
    return ErrnoStatus(ENOENT, "UNBIND", absl::StrCat("device ", std::string(pci_address), " is not bound here"));
  }
  StopKeepingDevice(device->second);
  devices_.erase(device);
  return absl::OkStatus();
}

std::string IommufdContext::SmmuOf(ObjectId device) const {
  const auto found = devices_.find(device);
  return found == devices_.end() ? "" : found->second.smmu;
}

int IommufdContext::DeviceFile(std::string_view pci_address) const {
  MutexLock lock(control_mu_);
  for (const auto& [id, device] : devices_) {
    if (device.address == pci_address) return device.file.get();
  }
  return -1;
}

absl::StatusOr<HwInfo> IommufdContext::GetHwInfo(ObjectId device) {
  constexpr char kCall[] = "GET_HW_INFO";
  uapi::HwInfoArmSmmuv3 data;
  uapi::GetHwInfo call;
  call.dev_id = device;
  call.data_len = sizeof(data);
  call.data_uptr = reinterpret_cast<uintptr_t>(&data);
  if (const int error = Call(uapi::kGetHwInfo, call); error != 0) return ErrnoStatus(error, kCall, DeviceName(device));
  if (call.data_type != uapi::kHwInfoArmSmmuv3) {
    return ErrnoStatus(EOPNOTSUPP, kCall,
                       absl::StrCat(DeviceName(device), " is behind no SMMUv3, its data are of type ", call.data_type));
  }
  HwInfo info;
  std::copy(std::begin(data.idr), std::end(data.idr), info.idr.begin());
  info.iidr = data.iidr;
  info.aidr = data.aidr;
  info.max_pasid_log2 = call.out_max_pasid_log2;
  info.ats_not_supported = (call.out_capabilities & uapi::kHwCapAtsNotSupported) != 0;
  return info;
}

std::optional<HwQueueInventory> IommufdContext::GetHwQueues(ObjectId device) {
  // The registers have room for 64 interfaces, of which one is the host's. How many there are is not told: a viommu too
  // many is refused with ENOSPC.
  constexpr uint32_t kMostVintfs = 63;
  uapi::HwInfoTegra241Cmdqv data;
  uapi::GetHwInfo call;
  call.flags = uapi::kHwInfoInputType;
  call.dev_id = device;
  call.data_len = sizeof(data);
  call.data_uptr = reinterpret_cast<uintptr_t>(&data);
  call.data_type = uapi::kHwInfoTegra241Cmdqv;
  if (Call(uapi::kGetHwInfo, call) != 0) return std::nullopt;
  return HwQueueInventory{.vintfs = kMostVintfs,
                          .queues_per_vintf = uint32_t{1} << (data.log2_vcmdqs & 31),
                          .sid_slots = uint32_t{1} << (data.log2_vsids & 31)};
}

// ---- Memory ----

absl::StatusOr<ObjectId> IommufdContext::AllocIoas() {
  MutexLock lock(control_mu_);
  uapi::IoasAlloc call;
  if (const int error = Call(uapi::kIoasAlloc, call); error != 0) return ErrnoStatus(error, "IOAS_ALLOC", "an IOAS");
  return call.out_ioas_id;
}

absl::Status IommufdContext::MapIoas(ObjectId ioas, uint64_t iova, uint64_t length, const MemoryHandle& memory) {
  MutexLock lock(control_mu_);
  uapi::IoasMapFile call;
  call.flags =
      uapi::kMapFixedIova | (memory.writable ? uapi::kMapWriteable : 0) | (memory.readable ? uapi::kMapReadable : 0);
  call.ioas_id = ioas;
  call.fd = memory.fd;
  call.start = memory.offset;
  call.length = length;
  call.iova = iova;
  const uint32_t flags = call.flags;
  const int error = Call(uapi::kIoasMapFile, call);
  if (error == 0) return absl::OkStatus();
  // A kernel before 6.14, or a file on a disk: those can only be mapped by their address in this process. The same
  // EINVAL may have another cause; then it is the answer.
  if (error == ENOTTY || error == EINVAL) {
    const absl::Status status = MapByAddress(ioas, iova, length, memory, flags);
    if (status.ok() || error == ENOTTY) return status;
  }
  return ErrnoStatus(error, "IOAS_MAP_FILE",
                     absl::StrCat("IOAS ", ioas, ", ", length, " bytes at 0x", absl::Hex(iova), " from offset ",
                                  memory.offset, " of file descriptor ", memory.fd));
}

absl::Status IommufdContext::MapByAddress(ObjectId ioas, uint64_t iova, uint64_t length, const MemoryHandle& memory,
                                          uint32_t flags) {
  MappedFile mapped{.length = length};
  if (const int result =
          kernel().Map(memory.fd, memory.offset, length, memory.readable, memory.writable, &mapped.address);
      result < 0) {
    return ErrnoStatus(-result, "mmap", absl::StrCat(length, " bytes of file descriptor ", memory.fd));
  }
  uapi::IoasMap call;
  call.flags = flags;
  call.ioas_id = ioas;
  call.user_va = reinterpret_cast<uintptr_t>(mapped.address);
  call.length = length;
  call.iova = iova;
  if (const int error = Call(uapi::kIoasMap, call); error != 0) {
    kernel().Unmap(mapped.address, length);
    return ErrnoStatus(error, "IOAS_MAP", absl::StrCat("IOAS ", ioas, ", ", length, " bytes at 0x", absl::Hex(iova)));
  }
  // The kernel takes the pages when tables need them: until it is unmapped there, it has to stay here.
  StopKeepingLocked();
  // An unmap that failed half way does not tell what it took: what was at this address went with one.
  MappedFile& here = mapped_[{ioas, iova}];
  if (here.length != 0) kernel().Unmap(here.address, here.length);
  here = mapped;
  return absl::OkStatus();
}

void IommufdContext::ForgetMapped(ObjectId ioas, uint64_t iova, uint64_t length) {
  for (auto it = mapped_.lower_bound({ioas, iova}); it != mapped_.end() && it->first.first == ioas;) {
    if (it->first.second - iova > length - it->second.length) return;
    kernel().Unmap(it->second.address, it->second.length);
    it = mapped_.erase(it);
  }
}

absl::StatusOr<uint64_t> IommufdContext::UnmapIoas(ObjectId ioas, uint64_t iova, uint64_t length) {
  MutexLock lock(control_mu_);
  uapi::IoasUnmap call;
  call.ioas_id = ioas;
  call.iova = iova;
  call.length = length;
  if (const int error = Call(uapi::kIoasUnmap, call); error != 0) {
    return ErrnoStatus(error, "IOAS_UNMAP", absl::StrCat("IOAS ", ioas, ", ", length, " bytes at 0x", absl::Hex(iova)));
  }
  ForgetMapped(ioas, iova, length);
  return call.length;
}

// ---- HWPTs, viommus and what stands on them ----

absl::StatusOr<ObjectId> IommufdContext::AllocHwpt(const HwptAlloc& request) {
  MutexLock lock(control_mu_);
  uapi::HwptAlloc call;
  call.flags = request.flags;
  call.dev_id = request.device;
  call.pt_id = request.pt;
  call.data_type = static_cast<uint32_t>(request.data_type);
  call.data_len = static_cast<uint32_t>(request.data.size());
  call.data_uptr = reinterpret_cast<uintptr_t>(request.data.data());
  call.fault_id = request.fault;
  if (const int error = Call(uapi::kHwptAlloc, call); error != 0) {
    return ErrnoStatus(
        error, "HWPT_ALLOC",
        absl::StrCat(DeviceName(request.device), ", over object ", request.pt, ", flags 0x", absl::Hex(request.flags)));
  }
  if ((request.flags & kHwptNestParent) != 0) {
    const std::string smmu = SmmuOf(request.device);
    host_.Counters(smmu).stage2s.fetch_add(1, std::memory_order_relaxed);
    smmu_of_stage2_[call.out_hwpt_id] = smmu;
  }
  if ((request.flags & kHwptFaultIdValid) != 0) fault_queues_.HwptNames(call.out_hwpt_id, request.fault);
  return call.out_hwpt_id;
}

absl::StatusOr<ViommuHandle> IommufdContext::AllocViommu(ObjectId device, ObjectId stage2, ViommuType type) {
  MutexLock lock(control_mu_);
  uapi::ViommuTegra241Cmdqv vintf;
  uapi::ViommuAlloc call;
  call.type = static_cast<uint32_t>(type);
  call.dev_id = device;
  call.hwpt_id = stage2;
  if (type == ViommuType::kTegra241Cmdqv) {
    StopKeepingLocked();
    call.data_len = sizeof(vintf);
    call.data_uptr = reinterpret_cast<uintptr_t>(&vintf);
  }
  if (const int error = Call(uapi::kViommuAlloc, call); error != 0) {
    const char* hint = error == EOPNOTSUPP && type == ViommuType::kArmSmmuv3
                           ? "; the SMMU has to nest, and firmware to say CANWBS of its root complex or IDR3 S2FWB"
                           : "";
    return ErrnoStatus(error, "VIOMMU_ALLOC",
                       absl::StrCat("type ", call.type, ", ", DeviceName(device), ", stage 2 ", stage2, hint));
  }
  auto viommu = std::make_shared<Viommu>();
  viommu->invalidations =
      std::make_unique<Invalidations>(&kernel(), iommufd_.get(), call.out_viommu_id, &host_.Counters(SmmuOf(device)));
  viommu->vintf_offset = vintf.out_vintf_mmap_offset;
  viommu->vintf_length = vintf.out_vintf_mmap_length;
  WriterLock viommus_lock(viommus_mu_);
  viommus_[call.out_viommu_id] = std::move(viommu);
  return ViommuHandle{.id = call.out_viommu_id, .vmid = std::nullopt};
}

absl::StatusOr<ObjectId> IommufdContext::AllocVdevice(ObjectId viommu, ObjectId device, uint64_t virt_id) {
  MutexLock lock(control_mu_);
  uapi::VdeviceAlloc call;
  call.viommu_id = viommu;
  call.dev_id = device;
  call.virt_id = virt_id;
  if (const int error = Call(uapi::kVdeviceAlloc, call); error != 0) {
    return ErrnoStatus(error, "VDEVICE_ALLOC",
                       absl::StrCat("viommu ", viommu, ", ", DeviceName(device), ", guest StreamID ", virt_id));
  }
  return call.out_vdevice_id;
}

absl::Status IommufdContext::Attach(ObjectId device, ObjectId pt) {
  constexpr char kCall[] = "ATTACH_IOMMUFD_PT";
  MutexLock lock(control_mu_);
  const auto found = devices_.find(device);
  if (found == devices_.end()) return ErrnoStatus(ENOENT, kCall, absl::StrCat("no device ", device));
  uapi::VfioAttachPt call;
  call.pt_id = pt;
  return CallStatus(CallKernel(kernel(), found->second.file.get(), uapi::kVfioAttachPt, call), kCall,
                    absl::StrCat("device ", found->second.address, " to object ", pt));
}

absl::Status IommufdContext::Detach(ObjectId device) {
  constexpr char kCall[] = "DETACH_IOMMUFD_PT";
  MutexLock lock(control_mu_);
  const auto found = devices_.find(device);
  if (found == devices_.end()) return ErrnoStatus(ENOENT, kCall, absl::StrCat("no device ", device));
  uapi::VfioDetachPt call;
  return CallStatus(CallKernel(kernel(), found->second.file.get(), uapi::kVfioDetachPt, call), kCall,
                    absl::StrCat("device ", found->second.address));
}

// ---- Invalidations ----

InvalidateResult IommufdContext::InvalidateRaw(ObjectId id, const InvalidateArray& array) {
  using smmuv3::RawCommand;
  std::shared_ptr<Viommu> viommu;
  {
    ReaderLock lock(viommus_mu_);
    if (const auto found = viommus_.find(id); found != viommus_.end()) viommu = found->second;
  }
  const bool plain = array.data_type == InvalidateDataType::kArmSmmuv3 && array.entries != nullptr &&
                     array.entry_length == sizeof(RawCommand) && array.entry_count != 0 &&
                     array.entry_count <= kMaxInvalidateEntries &&
                     reinterpret_cast<uintptr_t>(array.entries) % alignof(RawCommand) == 0;
  std::span<const RawCommand> commands;
  InvalidateAnswer answer;
  if (viommu != nullptr && plain) {
    commands = {static_cast<const RawCommand*>(array.entries), array.entry_count};
    answer = viommu->invalidations->Invalidate(commands);
  } else {
    // What is wrong with it is the kernel's to say.
    answer = CallInvalidate(kernel(), iommufd_.get(), id, array);
  }
  if (answer.error_number == 0) return {absl::OkStatus(), answer.handled};
  std::string what = absl::StrCat("object ", id, ", ", array.entry_count, " commands, ", answer.handled, " handled");
  if (answer.error_number == EIO && answer.handled < commands.size()) {
    const uint8_t opcode = smmuv3::OpcodeByte(commands[answer.handled]);
    const char* reason = smmuv3::DescribeGuestOpcode(opcode);
    absl::StrAppend(&what, "; the next is ", smmuv3::OpcodeName(opcode), ": ",
                    reason != nullptr ? reason : "no vdevice has its StreamID");
  }
  return {ErrnoStatus(answer.error_number, "HWPT_INVALIDATE", what), answer.handled};
}

// ---- Queues ----

absl::StatusOr<ObjectId> IommufdContext::AllocVeventq(ObjectId viommu, VeventqType type, uint32_t depth) {
  MutexLock lock(control_mu_);
  uapi::VeventqAlloc call;
  call.viommu_id = viommu;
  call.type = static_cast<uint32_t>(type);
  call.veventq_depth = depth;
  if (const int error = Call(uapi::kVeventqAlloc, call); error != 0) {
    return ErrnoStatus(error, "VEVENTQ_ALLOC",
                       absl::StrCat("viommu ", viommu, ", type ", call.type, ", depth ", depth));
  }
  event_queues_.Add(call.out_veventq_id, KernelFile(&kernel(), call.out_veventq_fd), type);
  return call.out_veventq_id;
}

absl::StatusOr<std::vector<Vevent>> IommufdContext::ReadVeventq(ObjectId id, uint32_t max) {
  return event_queues_.Read(id, max);
}

absl::StatusOr<ObjectId> IommufdContext::AllocFaultQueue() {
  MutexLock lock(control_mu_);
  uapi::FaultQueueAlloc call;
  if (const int error = Call(uapi::kFaultQueueAlloc, call); error != 0) {
    return ErrnoStatus(error, "FAULT_QUEUE_ALLOC", "a fault queue");
  }
  StopKeepingLocked();
  fault_queues_.Add(call.out_fault_id, KernelFile(&kernel(), call.out_fault_fd));
  return call.out_fault_id;
}

absl::StatusOr<std::vector<PageFault>> IommufdContext::ReadFaults(ObjectId id, uint32_t max) {
  MutexLock lock(control_mu_);
  return fault_queues_.Read(id, max);
}

absl::Status IommufdContext::AnswerFault(ObjectId id, uint32_t cookie, PageResponseCode code) {
  MutexLock lock(control_mu_);
  return fault_queues_.Answer(id, cookie, code);
}

absl::StatusOr<ObjectId> IommufdContext::AllocHwQueue(ObjectId viommu, HwQueueType type, uint32_t index, uint64_t iova,
                                                      uint64_t length) {
  MutexLock lock(control_mu_);
  uapi::HwQueueAlloc call;
  call.viommu_id = viommu;
  call.type = static_cast<uint32_t>(type);
  call.index = index;
  call.nesting_parent_iova = iova;
  call.length = length;
  if (const int error = Call(uapi::kHwQueueAlloc, call); error != 0) {
    return ErrnoStatus(
        error, "HW_QUEUE_ALLOC",
        absl::StrCat("viommu ", viommu, ", queue ", index, ", ", length, " bytes at 0x", absl::Hex(iova)));
  }
  return call.out_hw_queue_id;
}

absl::StatusOr<VintfMapping> IommufdContext::MapVintf(ObjectId id) {
  constexpr char kCall[] = "mmap(VINTF)";
  MutexLock lock(control_mu_);
  WriterLock viommus_lock(viommus_mu_);
  const auto found = viommus_.find(id);
  if (found == viommus_.end()) return ErrnoStatus(ENOENT, kCall, absl::StrCat("no viommu ", id));
  Viommu& viommu = *found->second;
  if (viommu.vintf_length == 0) {
    return ErrnoStatus(EOPNOTSUPP, kCall, absl::StrCat("viommu ", id, " has no hardware queues"));
  }
  void* address = nullptr;
  if (const int result = kernel().Map(iommufd_.get(), viommu.vintf_offset, viommu.vintf_length, true, true, &address);
      result < 0) {
    return ErrnoStatus(-result, kCall, absl::StrCat("viommu ", id));
  }
  const int fd = kernel().Duplicate(iommufd_.get());
  if (fd < 0) {
    kernel().Unmap(address, viommu.vintf_length);
    return ErrnoStatus(-fd, kCall, absl::StrCat("viommu ", id, ": no descriptor"));
  }
  viommu.vintf_mappings.push_back(address);
  return VintfMapping{.fd = fd, .offset = viommu.vintf_offset, .length = viommu.vintf_length};
}

absl::Status IommufdContext::UnmapVintf(ObjectId id) {
  constexpr char kCall[] = "munmap(VINTF)";
  MutexLock lock(control_mu_);
  WriterLock viommus_lock(viommus_mu_);
  const auto found = viommus_.find(id);
  if (found == viommus_.end()) return ErrnoStatus(ENOENT, kCall, absl::StrCat("no viommu ", id));
  Viommu& viommu = *found->second;
  if (viommu.vintf_mappings.empty()) {
    return ErrnoStatus(EINVAL, kCall, absl::StrCat("viommu ", id, " has not been mapped"));
  }
  kernel().Unmap(viommu.vintf_mappings.back(), viommu.vintf_length);
  viommu.vintf_mappings.pop_back();
  return absl::OkStatus();
}

void IommufdContext::UnmapVintfs(Viommu& viommu) {
  for (void* address : viommu.vintf_mappings) kernel().Unmap(address, viommu.vintf_length);
  viommu.vintf_mappings.clear();
}

// ---- Ends ----

absl::Status IommufdContext::Destroy(ObjectId id) {
  constexpr char kCall[] = "DESTROY";
  MutexLock lock(control_mu_);
  // The descriptor of a queue is one of its users, and there is no way back to it.
  if (absl::Status status = fault_queues_.Close(id); !status.ok()) return status;
  event_queues_.Close(id);
  uapi::Destroy call;
  call.id = id;
  if (const int error = Call(uapi::kDestroy, call); error != 0) {
    return ErrnoStatus(error, kCall, absl::StrCat("object ", id));
  }
  Forget(id);
  return absl::OkStatus();
}

void IommufdContext::Forget(ObjectId id) {
  fault_queues_.HwptIsGone(id);
  if (const auto stage2 = smmu_of_stage2_.find(id); stage2 != smmu_of_stage2_.end()) {
    host_.Counters(stage2->second).stage2s.fetch_sub(1, std::memory_order_relaxed);
    smmu_of_stage2_.erase(stage2);
  }
  // An IOAS takes what is mapped in it along.
  ForgetMapped(id, 0, kMaxU64);
  WriterLock lock(viommus_mu_);
  viommus_.erase(id);
}

}  // namespace viommu::agent
