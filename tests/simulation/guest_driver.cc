#include "tests/simulation/guest_driver.h"

#include <fmt/format.h>

#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "agent/backend.h"
#include "agent/reconcile/targets.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/ste.h"
#include "tests/simulation/guest.h"

namespace viommu::simulation {

void GuestDriver::Invalidate(const agent::HeldItem& viommu) {
  if (host_.doubted) return;  // ids that the agent believes in may be others' by now
  const absl::StatusOr<agent::Targets::Lease> lease = agent_.targets().Acquire(viommu.uid());
  if (!lease.ok()) return;
  agent::Context& context = *lease->object().context;
  const agent::ObjectId id = lease->object().id;
  const std::string& vm = viommu.resource.viommu().vm();
  const auto invalidate = [&](const smmuv3::Command& command) {
    const smmuv3::RawCommand raw = smmuv3::Encode(command);
    return context.Invalidate(id, agent::InvalidateDataType::kArmSmmuv3, {&raw, 1}).status;
  };
  std::map<std::string, std::string> before;
  for (const agent::DeviceInfo& device : host_.machine->inventory().devices) {
    const std::string& pci = device.pci_address;
    before[pci] = host_.machine->Read(pci).vm;
    if (!before[pci].empty() && host_.machine->Read(pci).walked) {
      return checker_.Fail(fmt::format("{} of {} does not find what it has just looked up", pci, host_.name));
    }
  }
  scheduler_.Trace("guest: invalidates", host_.name, id);
  const smmuv3::Opcode all = scheduler_.random.OneIn(2) ? smmuv3::Opcode::kTlbiNhAll : smmuv3::Opcode::kTlbiNsnhAll;
  if (const absl::Status status = invalidate({.opcode = all}); !status.ok()) {
    return checker_.Fail(fmt::format("{} takes no invalidation: {}", viommu.name(), status.ToString()));
  }
  // Those of the viommu first: they share what the first of them looks up.
  std::set<uint64_t> virt_ids;
  bool translates = false, walked = false;
  for (const auto& [pci, device] : host_.machine->HeldDevices()) {
    if (device.context != &context || device.viommu != id) continue;
    if (device.virt_id.has_value()) virt_ids.insert(*device.virt_id);
    const bool own_tables = device.attached_to == agent::ObjectKind::kNested &&
                            smmuv3::VsteKindOf(device.vste) == smmuv3::VsteKind::kTranslate;
    if (!own_tables || before.at(pci).empty()) continue;
    translates = true;
    walked = host_.machine->Read(pci).walked || walked;
  }
  if (translates && !walked) {
    return checker_.Fail(fmt::format("an invalidation of {} does not reach {}", viommu.name(), host_.name));
  }
  for (const auto& [pci, reached] : before) {
    const Machine::Access access = host_.machine->Read(pci);
    if (access.vm != reached) return checker_.Fail(fmt::format("{} of {} loses its way", pci, host_.name));
    if (!reached.empty() && reached != vm && access.walked) {
      return checker_.Fail(fmt::format("an invalidation of {} reaches {}, which {} has", viommu.name(), pci, reached));
    }
  }
  checker_.CountInvalidation();
  for (uint32_t virt_id = 0; virt_id < kVdevIds; ++virt_id) {
    const bool taken = invalidate({.opcode = smmuv3::Opcode::kCfgiCdAll, .sid = virt_id}).ok();
    if (taken == virt_ids.contains(virt_id)) continue;
    return checker_.Fail(
        fmt::format("{} {} a command for StreamID {}", viommu.name(), taken ? "takes" : "refuses", virt_id));
  }
}

}  // namespace viommu::simulation
