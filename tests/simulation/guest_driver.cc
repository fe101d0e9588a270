#include "tests/simulation/guest_driver.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>

#include "agent/reconcile/targets.h"
#include "agent/smmuv3/spec/cmdqv.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/ste.h"
#include "agent/smmuv3/vintf/page.h"
#include "tests/simulation/guest.h"

namespace viommu::simulation {
namespace {

using smmuv3::cmdqv::QueueRegister;

// Whose the queues are that a driver has open, for the agent: of no VMM.
constexpr agent::VmMemory::Owner kDriver = 1000;

// Where the object of that viommu is, if it has one.
std::optional<agent::TargetObject> TargetOf(AgentProcess& agent, const std::string& uid) {
  const absl::StatusOr<agent::Targets::Lease> lease = agent.targets().Acquire(uid);
  if (!lease.ok()) return std::nullopt;
  return lease->object();
}

}  // namespace

std::map<std::string, std::string> GuestDriver::FillCaches() {
  std::map<std::string, std::string> reached;
  for (const agent::DeviceInfo& device : host_.machine->inventory().devices) {
    const std::string& pci = device.pci_address;
    reached[pci] = host_.machine->Read(pci).vm;
    if (!reached[pci].empty() && host_.machine->Read(pci).walked) {
      checker_.Fail(fmt::format("{} of {} does not find what it has just looked up", pci, host_.name));
    }
  }
  return reached;
}

void GuestDriver::CheckInvalidated(const v1::Viommu& viommu, const agent::Context& context, agent::ObjectId id,
                                   const std::map<std::string, std::string>& before) {
  // Those of the viommu first: they share what the first of them looks up.
  bool translates = false, walked = false;
  for (const auto& [pci, device] : host_.machine->HeldDevices()) {
    if (device.context != &context || device.viommu != id) continue;
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
    if (!reached.empty() && reached != viommu.vm() && access.walked) {
      return checker_.Fail(fmt::format("an invalidation of {} reaches {}, which {} has", viommu.name(), pci, reached));
    }
  }
  checker_.CountInvalidation();
}

void GuestDriver::Invalidate(const agent::HeldItem& viommu) {
  if (host_.doubted) return;  // ids that the agent believes in may be others' by now
  const std::optional<agent::TargetObject> target = TargetOf(agent_, viommu.uid());
  if (!target.has_value()) return;
  agent::Context& context = *target->context;
  const agent::ObjectId id = target->id;
  const auto invalidate = [&](const smmuv3::Command& command) {
    const smmuv3::RawCommand raw = smmuv3::Encode(command);
    return context.Invalidate(id, agent::InvalidateDataType::kArmSmmuv3, {&raw, 1}).status;
  };
  const std::map<std::string, std::string> before = FillCaches();
  scheduler_.Trace("guest: invalidates", host_.name, id);
  const smmuv3::Opcode all = scheduler_.random.OneIn(2) ? smmuv3::Opcode::kTlbiNhAll : smmuv3::Opcode::kTlbiNsnhAll;
  if (const absl::Status status = invalidate({.opcode = all}); !status.ok()) {
    return checker_.Fail(fmt::format("{} takes no invalidation: {}", viommu.name(), status.ToString()));
  }
  CheckInvalidated(viommu.resource.viommu(), context, id, before);
  std::set<uint64_t> virt_ids;
  for (const auto& [pci, device] : host_.machine->HeldDevices()) {
    if (device.context == &context && device.viommu == id && device.virt_id.has_value()) {
      virt_ids.insert(*device.virt_id);
    }
  }
  for (uint32_t virt_id = 0; virt_id < kVdevIds; ++virt_id) {
    const bool taken = invalidate({.opcode = smmuv3::Opcode::kCfgiCdAll, .sid = virt_id}).ok();
    if (taken == virt_ids.contains(virt_id)) continue;
    return checker_.Fail(
        fmt::format("{} {} a command for StreamID {}", viommu.name(), taken ? "takes" : "refuses", virt_id));
  }
}

void GuestDriver::UseQueue(const agent::HeldItem& queue) {
  if (host_.doubted) return;
  const agent::HeldItem* const viommu = agent_.held().FindLive(queue.resource.hw_queue().viommu());
  if (viommu == nullptr) return;
  const std::optional<agent::TargetObject> target = TargetOf(agent_, viommu->uid());
  if (!target.has_value()) return;
  absl::StatusOr<agent::OpenedHwQueue> opened = agent_.reconciler().OpenHwQueue(kDriver, std::nullopt, queue.name());
  if (!opened.ok()) return;  // not made yet
  const std::shared_ptr<smmuv3::VintfPage> page =
      smmuv3::VintfPage::Map(opened->registers.get(), opened->registers_offset, opened->registers_length);
  if (page == nullptr) return checker_.Fail(fmt::format("the registers of {} cannot be had", queue.name()));
  const std::map<std::string, std::string> before = FillCaches();
  scheduler_.Trace("guest: uses its queue", host_.name, target->id, opened->index);
  // Whatever VMID it writes, its commands bear its own.
  const std::array commands = {
      smmuv3::Encode({.opcode = smmuv3::Opcode::kTlbiNhAsid,
                      .vmid = static_cast<uint16_t>(scheduler_.random.Below(4)),
                      .asid = kGuestAsid}),
      smmuv3::Encode({.opcode = smmuv3::Opcode::kSync}),
  };
  if (::pwrite(opened->memory.get(), commands.data(), sizeof(commands), static_cast<off_t>(opened->memory_offset)) !=
      static_cast<ssize_t>(sizeof(commands))) {
    return checker_.Fail(fmt::format("the memory of {} cannot be written", queue.name()));
  }
  const auto set = [&](QueueRegister reg, uint32_t value) {
    page->Store(opened->index, reg, value);
    host_.machine->RunHwQueues();
  };
  page->Store(opened->index, QueueRegister::kProd, 0);
  page->Store(opened->index, QueueRegister::kCons, 0);
  set(QueueRegister::kConfig, smmuv3::cmdqv::kConfigEn.Set(0, 1));
  set(QueueRegister::kProd, static_cast<uint32_t>(commands.size()));
  if (const uint32_t cons = page->Load(opened->index, QueueRegister::kCons); cons != commands.size()) {
    return checker_.Fail(fmt::format("{} stands at {:#x}, and nobody has done it any harm", queue.name(), cons));
  }
  CheckInvalidated(viommu->resource.viommu(), *target->context, target->id, before);
  checker_.CountQueueUse();
  set(QueueRegister::kConfig, 0);
  agent_.reconciler().ForgetOwner(kDriver);
}

}  // namespace viommu::simulation
