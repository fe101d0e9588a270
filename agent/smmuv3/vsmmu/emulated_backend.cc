#include "agent/smmuv3/vsmmu/emulated_backend.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "agent/smmuv3/vsmmu/context.h"

namespace viommu::agent {

absl::StatusOr<std::unique_ptr<EmulatedBackend>> EmulatedBackend::Create(EmulatedInventory inventory) {
  if (absl::Status status = ValidateInventory(inventory); !status.ok()) return status;
  const auto by_name = [](const auto& a, const auto& b) { return a.info.name < b.info.name; };
  const auto by_address = [](const auto& a, const auto& b) { return a.info.pci_address < b.info.pci_address; };
  std::sort(inventory.smmus.begin(), inventory.smmus.end(), by_name);
  std::sort(inventory.devices.begin(), inventory.devices.end(), by_address);
  absl::StatusOr<std::unique_ptr<Host>> host = Host::Create(std::move(inventory));
  if (!host.ok()) return host.status();
  return std::unique_ptr<EmulatedBackend>(new EmulatedBackend(*std::move(host)));
}

absl::StatusOr<Inventory> EmulatedBackend::Discover() {
  if (absl::Status status = host_->InjectedFailure(BackendOp::kDiscover); !status.ok()) return status;
  Inventory inventory;
  inventory.labels = host_->inventory().labels;
  for (const EmulatedSmmuSpec& smmu : host_->inventory().smmus) inventory.smmus.push_back(smmu.info);
  for (const EmulatedDevice& device : host_->inventory().devices) inventory.devices.push_back(device.info);
  return inventory;
}

Capabilities EmulatedBackend::GetCapabilities() const {
  const Personality& personality = host_->personality();
  Capabilities capabilities;
  capabilities.backend = absl::StrCat("emulated/", personality.name);
  capabilities.stage2_sharing = personality.stage2_sharing;
  capabilities.vmid_owner = personality.vmid_owner;
  capabilities.invalidate_by_nested = personality.invalidate_by_nested;
  capabilities.reports_vmid = true;
  const bool any =
      std::any_of(host_->smmus().begin(), host_->smmus().end(), [](const auto& s) { return s->can_viommu(); });
  const bool any_queues = std::any_of(host_->smmus().begin(), host_->smmus().end(),
                                      [](const auto& s) { return s->can_viommu() && s->cmdqv() != nullptr; });
  capabilities.others = {
      {"viommu", any, any ? "type ARM_SMMUV3" : "no SMMU can nest (IDR0.S1P, S2P) and keep guests cache coherent"},
      {"veventq", true, "types ARM_SMMUV3 and TEGRA241_CMDQV"},
      {"fault_queue", true, "stalled transactions; page requests (PRI) are denied"},
      {"map_ioas", true, "files; devices reach them through translation tables"},
      {"device_dma", true, "devices access memory on request"},
      {"list_objects", true, "drift is seen: what is there can be compared with what should be"},
      {"hw_queue", any_queues,
       any_queues ? "type TEGRA241_CMDQV" : "no SMMU with viommus has hardware queues, by this host's inventory"},
      {"exact_handled", personality.exact_handled,
       personality.exact_handled ? "the count of an invalidation is what has taken effect"
                                 : "after an error, send the whole batch again"},
      {"no_memory_handled_none", personality.no_memory_handled_none,
       "an invalidation that fails for want of memory (ENOMEM) counts nothing as handled"},
      {"empty_invalidate", personality.empty_invalidate, "an invalidation without commands probes for the data type"},
      {"virt_id_checked", personality.check_virt_id, "a guest StreamID above 32 bits is refused"},
      {"command_fields_checked", personality.check_command_fields,
       personality.check_command_fields
           ? "bad fields of a command are refused"
           : "bad fields of a command stop the SMMU, which skips it; the caller is not told"},
  };
  return capabilities;
}

absl::StatusOr<std::unique_ptr<Context>> EmulatedBackend::OpenContext() {
  if (absl::Status status = host_->InjectedFailure(BackendOp::kOpenContext); !status.ok()) return status;
  return std::make_unique<EmulatedContext>(host_.get());
}

std::vector<SmmuStats> EmulatedBackend::GetStats() const {
  std::vector<SmmuStats> stats;
  for (const auto& smmu : host_->smmus()) stats.push_back(smmu->GetStats());
  return stats;
}

smmuv3::EmulatedSmmu* EmulatedBackend::FindSmmu(std::string_view name) {
  HostSmmu* smmu = host_->FindSmmu(name);
  return smmu == nullptr ? nullptr : &smmu->hardware();
}

void EmulatedBackend::RunHwQueues() {
  for (const auto& smmu : host_->smmus()) {
    if (smmu->cmdqv() != nullptr) smmu->cmdqv()->RunTurns();
  }
}

smmuv3::RawSte EmulatedBackend::ReadSte(std::string_view name, uint32_t sid) {
  const HostSmmu* smmu = host_->FindSmmu(name);
  return smmu == nullptr ? smmuv3::MakeAbortSte() : smmu->ReadSte(sid);
}

}  // namespace viommu::agent
