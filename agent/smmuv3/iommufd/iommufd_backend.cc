#include "agent/smmuv3/iommufd/iommufd_backend.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "agent/errno_status.h"
#include "agent/smmuv3/iommufd/context.h"
#include "agent/smmuv3/iommufd/iort.h"
#include "agent/smmuv3/spec/id_registers.h"

namespace viommu::agent {
namespace {

SmmuInfo ToSmmuInfo(const ProbedDevice& device) {
  const smmuv3::Features features = smmuv3::DecodeIdRegisters(device.hw.idr);
  return {.name = device.info.smmu,
          .idr = device.hw.idr,
          .iidr = device.hw.iidr,
          .aidr = device.hw.aidr,
          .vmid_bits = features.vmid_bits,
          .sid_bits = features.sid_bits,
          .ssid_bits = features.ssid_bits,
          .ats = features.ats,
          .pri = features.pri,
          .hw_queue = device.hw_queue};
}

// Of `devices_`.
std::string KeyOf(const PciFunction& function) { return function.address + " " + function.vfio_name; }

}  // namespace

IommufdBackend::IommufdBackend(Kernel* kernel, Options options)
    : host_(kernel, options.store),
      options_(std::move(options)),
      bindings_(&host_.sysfs(), options_.state_dir, options_.boot_id) {
  if (options_.store == nullptr) return;
  for (const FdStore::Entry& entry : options_.store->Take()) stored_[entry.name] = KernelFile(kernel, entry.fd);
}

absl::StatusOr<std::unique_ptr<IommufdBackend>> IommufdBackend::Create(Kernel* kernel, Options options) {
  std::unique_ptr<IommufdBackend> backend(new IommufdBackend(kernel, std::move(options)));
  if (absl::Status status = IommufdContext::Open(&backend->host_).status(); !status.ok()) return status;
  for (const std::string& address : backend->options_.bind) {
    if (absl::Status status = backend->bindings_.Take(address); !status.ok()) return status;
  }
  if (absl::Status status = backend->Discover().status(); !status.ok()) return status;
  return backend;
}

IommufdBackend::~IommufdBackend() {
  bindings_.GiveBack([this](const std::string& address) { return StaysOpen(address); },
                     [this](const std::string& address, const absl::Status& why) {
                       if (options_.on_left_out) options_.on_left_out(address, why);
                     });
}

absl::StatusOr<Inventory> IommufdBackend::Discover() {
  MutexLock lock(mu_);
  const std::string iort = host_.sysfs().Iort();
  std::set<std::string> present;
  std::string without_stream_id;
  Inventory inventory;
  std::map<std::string, SmmuInfo> smmus;
  for (const PciFunction& function : host_.sysfs().Functions()) {
    if (function.driver != "vfio-pci" || function.vfio_name.empty()) continue;
    const std::string key = KeyOf(function);
    present.insert(key);
    auto device = devices_.find(key);
    if (device == devices_.end() && IsStored(function.address)) continue;
    if (device == devices_.end()) {
      auto probed = ProbeDevice(host_, function);
      if (!probed.ok()) {
        if (options_.on_left_out) options_.on_left_out(function.address, probed.status());
        continue;
      }
      device = devices_.emplace(key, *std::move(probed)).first;
    }
    inventory.devices.push_back(device->second.info);
    const auto stream_id = IortStreamId(iort, function.address, function.smmu);
    if (!stream_id) without_stream_id = function.address;
    inventory.devices.back().stream_id = stream_id.value_or(0);
    smmus.emplace(function.smmu, ToSmmuInfo(device->second));
  }
  std::erase_if(devices_, [&](const auto& entry) { return !present.contains(entry.first); });
  for (auto& [name, smmu] : smmus) inventory.smmus.push_back(std::move(smmu));
  inventory_ = inventory;
  without_stream_id_ = without_stream_id;
  return inventory;
}

Capabilities IommufdBackend::GetCapabilities() const {
  Capabilities capabilities;
  capabilities.backend = "iommufd";
  capabilities.stage2_sharing = Stage2Sharing::kPerSmmu;
  capabilities.vmid_owner = VmidOwner::kStage2;
  MutexLock lock(mu_);
  // What one device can is there; what none can, with the first one's reason.
  for (const auto& [key, device] : devices_) {
    for (const Capability& ability : device.abilities) {
      const auto known = std::find_if(capabilities.others.begin(), capabilities.others.end(),
                                      [&](const Capability& c) { return c.name == ability.name; });
      if (known == capabilities.others.end()) {
        capabilities.others.push_back(ability);
      } else if (!known->available && ability.available) {
        *known = ability;
      }
    }
  }
  if (devices_.empty()) {
    capabilities.others.push_back({"viommu", false, "no device behind an SMMUv3 is bound to vfio-pci"});
  }
  const std::vector<Capability> fixed = {
      {"list_objects", false, "Linux has no call that lists what an iommufd holds"},
      {"device_dma", false, "devices are real"},
      {"exact_handled", false, "after an error, send the whole batch again"},
      {"no_memory_handled_none", false, "an invalidation that fails for want of memory leaves its count as it was"},
      {"empty_invalidate", false, "an invalidation without commands is refused (EINVAL)"},
      {"virt_id_checked", false, "the kernel takes guest StreamIDs above 32 bits, which no command can name"},
      {"command_fields_checked", false,
       "bad fields of a command stop the SMMU, which skips it; the caller is not told"},
  };
  capabilities.others.insert(capabilities.others.end(), fixed.begin(), fixed.end());
  if (without_stream_id_.empty()) {
    capabilities.others.push_back({"stream_ids", true, "from firmware's IORT"});
  } else {
    capabilities.others.push_back(
        {"stream_ids", false, without_stream_id_ + " is not in firmware's IORT; its StreamID is reported as 0"});
  }
  return capabilities;
}

absl::StatusOr<std::unique_ptr<Context>> IommufdBackend::OpenKeptContext(const std::string& key) {
  auto context = IommufdContext::Open(&host_, key);
  if (!context.ok()) return context.status();
  return std::unique_ptr<Context>(*std::move(context));
}

bool IommufdBackend::StaysOpen(const std::string& address) const {
  MutexLock lock(mu_);
  return host_.IsKept(address) || IsStored(address);
}

bool IommufdBackend::IsStored(const std::string& address) const {
  return std::any_of(stored_.begin(), stored_.end(), [&](const auto& entry) {
    return absl::EndsWith(entry.first, StoredDevice("", address).substr(std::string_view("vfio.").size()));
  });
}

std::vector<absl::StatusOr<std::unique_ptr<Context>>> IommufdBackend::AdoptContexts(
    const std::vector<KeptContext>& contexts) {
  MutexLock lock(mu_);
  std::vector<absl::StatusOr<std::unique_ptr<Context>>> answers;
  for (const KeptContext& kept : contexts) {
    std::map<std::string, KernelFile> files;
    for (auto entry = stored_.begin(); entry != stored_.end();) {
      const auto next = std::next(entry);
      if (entry->first == StoredIommufd(kept.key) || absl::StartsWith(entry->first, StoredDevice(kept.key, ""))) {
        files.insert(stored_.extract(entry));
      }
      entry = next;
    }
    if (files.empty()) {
      answers.emplace_back(ErrnoStatus(ENOENT, "adopt", "nothing of it is in the file descriptor store"));
      continue;
    }
    auto context = IommufdContext::Adopt(&host_, kept, std::move(files));
    if (!context.ok()) {
      answers.emplace_back(context.status());
      continue;
    }
    for (const KeptContext::Device& device : kept.devices) {
      const PciFunction function = host_.sysfs().Find(device.pci_address);
      auto probed = ProbeAdopted(**context, device.id, function);
      if (probed.ok()) devices_.insert_or_assign(KeyOf(function), *std::move(probed));
    }
    answers.emplace_back(std::unique_ptr<Context>(*std::move(context)));
  }
  // With its last descriptor the kernel takes what is left of a context.
  for (const auto& [name, file] : stored_) host_.store()->Remove(name);
  stored_.clear();
  return answers;
}

std::vector<SmmuStats> IommufdBackend::GetStats() const {
  MutexLock lock(mu_);
  std::vector<SmmuStats> all;
  for (const SmmuInfo& smmu : inventory_.smmus) {
    SmmuStats stats = host_.Counters(smmu.name).Get();
    stats.smmu = smmu.name;
    stats.vmids_total = (uint64_t{1} << smmu.vmid_bits) - 1;
    all.push_back(std::move(stats));
  }
  return all;
}

}  // namespace viommu::agent
