#include "agent/smmuv3/iommufd/probe.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "agent/errno_status.h"
#include "agent/smmuv3/iommufd/context.h"
#include "agent/smmuv3/iommufd/iort.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/ste.h"

namespace viommu::agent {
namespace {

constexpr uint64_t kPage = 65536;  // of any granule

class Abilities {
 public:
  explicit Abilities(std::vector<Capability>& list) : list_(list) {}

  // Notes how a call went, and passes its id on: 0, which every call refuses, when it failed.
  template <typename T>
  T Note(const char* name, absl::StatusOr<T> result) {
    Note(name, result.status());
    return result.ok() ? *std::move(result) : T{};
  }
  void Note(const char* name, const absl::Status& status) {
    list_.push_back({name, status.ok(), std::string(status.ok() ? "" : status.message())});
  }

 private:
  std::vector<Capability>& list_;
};

absl::Status MapOnePage(Context& context, ObjectId ioas) {
  const int fd = ::memfd_create("probe", MFD_CLOEXEC);
  if (fd < 0 || ::ftruncate(fd, kPage) != 0) {
    const int error = errno;
    if (fd >= 0) ::close(fd);
    return ErrnoStatus(error, "memfd_create", "a page to map");
  }
  absl::Status status = context.MapIoas(ioas, 0x4000'0000, kPage, {.fd = fd});
  ::close(fd);
  return status;
}

// Only attaching shows whether faults will come.
absl::Status UseFaultQueue(Context& context, ObjectId viommu, ObjectId device) {
  const auto queue = context.AllocFaultQueue();
  if (!queue.ok()) return queue.status();
  const auto nested = context.AllocNested(viommu, device, smmuv3::kAbortVste, *queue);
  if (!nested.ok()) return nested.status();
  absl::Status status = context.Attach(device, *nested);
  if (StatusErrno(status) == EOPNOTSUPP) {
    return ErrnoStatus(EOPNOTSUPP, "ATTACH_IOMMUFD_PT", "to a HWPT that names a fault queue (CONFIG_ARM_SMMU_V3_SVA)");
  }
  return status;
}

void AskForEverything(IommufdContext& context, ObjectId device, bool hw_queues, Abilities abilities) {
  const ObjectId ioas = abilities.Note("ioas", context.AllocIoas());
  abilities.Note("map_ioas", MapOnePage(context, ioas));
  const ObjectId stage2 = abilities.Note("stage2", context.AllocStage2(device, ioas));
  const ObjectId viommu = abilities.Note("viommu", context.AllocViommu(device, stage2, ViommuType::kArmSmmuv3)).id;
  abilities.Note("vdevice", context.AllocVdevice(viommu, device, 0));
  abilities.Note("nested", context.AllocNested(viommu, device, smmuv3::kAbortVste));
  const smmuv3::RawCommand command = smmuv3::Encode({.opcode = smmuv3::Opcode::kTlbiNhAll});
  abilities.Note("invalidate", context.Invalidate(viommu, InvalidateDataType::kArmSmmuv3, {&command, 1}).status);
  abilities.Note("veventq", context.AllocVeventq(viommu, VeventqType::kArmSmmuv3, 1));
  abilities.Note("fault_queue", UseFaultQueue(context, viommu, device));
  if (hw_queues) {
    abilities.Note("hw_queue", absl::OkStatus());
  } else {
    // Tells a kernel without the call (ENOTTY) from one whose SMMU has no such queues (EOPNOTSUPP).
    abilities.Note("hw_queue", context.AllocHwQueue(viommu, HwQueueType::kTegra241Cmdqv, 0, 0x4000'0000, kPage));
  }
}

bool Has(const std::vector<Capability>& list, std::string_view name) {
  return std::any_of(list.begin(), list.end(), [&](const Capability& c) { return c.name == name && c.available; });
}

bool HasIpcLock() {
  constexpr int kCapIpcLock = 14;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    absl::string_view rest = line;
    uint64_t effective = 0;
    if (absl::ConsumePrefix(&rest, "CapEff:") && absl::SimpleHexAtoi(absl::StripAsciiWhitespace(rest), &effective)) {
      return ((effective >> kCapIpcLock) & 1) != 0;
    }
  }
  return false;
}

// What the kernel tells of it.
absl::StatusOr<ProbedDevice> Ask(IommufdContext& context, ObjectId device, const PciFunction& function) {
  auto hw = context.GetHwInfo(device);
  if (!hw.ok()) return hw.status();
  ProbedDevice probed{.hw = *hw, .hw_queue = context.GetHwQueues(device)};
  probed.info.pci_address = function.address;
  probed.info.smmu = function.smmu;
  probed.info.iommu_group = function.group;
  probed.info.ats = !hw->ats_not_supported;
  probed.info.max_pasid_log2 = hw->max_pasid_log2;
  return probed;
}

}  // namespace

absl::StatusOr<ProbedDevice> ProbeDevice(IommufdHost& host, const PciFunction& function) {
  auto context = IommufdContext::Open(&host);
  if (!context.ok()) return context.status();
  const auto device = (*context)->BindDevice(function.address);
  if (!device.ok()) return device.status();
  auto probed = Ask(**context, *device, function);
  if (probed.ok()) {
    AskForEverything(**context, *device, probed->hw_queue.has_value(), Abilities(probed->abilities));
  }
  return probed;
}

absl::StatusOr<ProbedDevice> ProbeAdopted(IommufdContext& context, ObjectId device, const PciFunction& function) {
  auto probed = Ask(context, device, function);
  if (!probed.ok()) return probed;
  for (const char* name : {"ioas", "map_ioas", "stage2", "viommu", "vdevice", "nested", "invalidate"}) {
    probed->abilities.push_back({name, true, ""});
  }
  if (probed->hw_queue) probed->abilities.push_back({"hw_queue", true, ""});
  return probed;
}

Capability MemlockAbility(uint64_t limit, bool has_ipc_lock) {
  if (has_ipc_lock) return {"memlock", true, "CAP_IPC_LOCK: nothing is counted"};
  if (limit == RLIM_INFINITY) return {"memlock", true, "unlimited"};
  return {"memlock", false,
          absl::StrCat("this user may pin ", limit,
                       " bytes in all, and a VM's whole memory counts: above it maps and attaches are ENOMEM; "
                       "LimitMEMLOCK=infinity, or CAP_IPC_LOCK")};
}

HostCheck CheckHost(IommufdHost& host) {
  HostCheck check;
  const auto note = [&](std::string name, const absl::Status& status, std::string how = "") {
    check.items.push_back({std::move(name), status.ok(), status.ok() ? how : std::string(status.message())});
    return status.ok();
  };
  const bool iommufd = note("/dev/iommu", IommufdContext::Open(&host).status());
  rlimit memlock = {};
  ::getrlimit(RLIMIT_MEMLOCK, &memlock);
  check.items.push_back(MemlockAbility(memlock.rlim_cur, HasIpcLock()));
  const std::string iort = host.sysfs().Iort();
  const std::vector<PciFunction> functions = host.sysfs().Functions();
  if (functions.empty()) {
    note("SMMUv3", ErrnoStatus(ENODEV, "sysfs", "no PCI function is behind an SMMUv3 (CONFIG_ARM_SMMU_V3)"));
  }
  bool any = false;
  for (const PciFunction& function : functions) {
    const std::string name = absl::StrCat(function.address, " behind ", function.smmu);
    if (function.driver != "vfio-pci") continue;
    any = true;
    if (function.vfio_name.empty()) {
      note(name, ErrnoStatus(ENODEV, "sysfs", "no vfio-dev: a kernel without CONFIG_VFIO_DEVICE_CDEV"));
      continue;
    }
    if (!iommufd) continue;
    const auto probed = ProbeDevice(host, function);
    if (!note(name, probed.status(), "IOMMU group " + std::to_string(function.group))) continue;
    std::vector<Capability> abilities = probed->abilities;
    const auto stream_id = IortStreamId(iort, function.address, function.smmu);
    abilities.push_back({"stream_ids", stream_id.has_value(),
                         stream_id ? absl::StrCat("0x", absl::Hex(*stream_id), " in firmware's IORT")
                                   : "not in firmware's IORT, or it cannot be read; reported as 0"});
    abilities.push_back({"ats", probed->info.ats, probed->info.ats ? "" : "the device or its SMMU has none"});
    const uint32_t pasid_bits = probed->info.max_pasid_log2;
    abilities.push_back({"pasid", pasid_bits != 0,
                         pasid_bits != 0 ? absl::StrCat(pasid_bits, " bits") : "the device or its SMMU has none"});
    for (const Capability& ability : abilities) {
      check.items.push_back({absl::StrCat("  ", ability.name), ability.available, ability.reason});
    }
    check.can_serve = check.can_serve || (Has(probed->abilities, "vdevice") && Has(probed->abilities, "nested") &&
                                          Has(probed->abilities, "invalidate"));
  }
  if (!any && !functions.empty()) {
    note("VFIO devices",
         ErrnoStatus(ENODEV, "sysfs",
                     absl::StrCat("none of ", functions.size(), " PCI functions behind SMMUs is bound to vfio-pci")));
  }
  return check;
}

}  // namespace viommu::agent
