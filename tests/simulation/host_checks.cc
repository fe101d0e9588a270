#include "tests/simulation/host_checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <utility>

#include "agent/backend.h"

namespace viommu::simulation {
namespace {

using server::Kind;

// The vdevice of a forgotten host that still has the device, here; nullptr: none.
const agent::HeldItem* ForgottenHolder(const Timeline& timeline, const AgentProcess& agent, const std::string& device) {
  for (const auto& [uid, item] : agent.held().items()) {
    if (item.resource.has_vdevice() && item.resource.vdevice().device() == device && timeline.forgotten.contains(uid)) {
      return &item;
    }
  }
  return nullptr;
}

}  // namespace

HostChecks::Looked HostChecks::Look(const Timeline& timeline, const AgentProcess* agent) const {
  const bool open = agent != nullptr && !agent->dying();
  return {host_.machine->changes(),
          timeline.id,
          timeline.published.rbegin()->first,
          open ? agent->journal().size_bytes() : 0,
          open ? agent->journal().compactions() : 0,
          host_.synced_this_boot};
}

void HostChecks::Check(const Timeline& timeline, const AgentProcess* agent) {
  if (host_.machine->refused_for_group() > 0 && !host_.doubted && !host_.outdated &&
      host_.MayObey(checker_, timeline)) {
    return checker_.Fail(fmt::format("{} would give an IOMMU group to two VMs at once", host_.name));
  }
  if (const Looked now = Look(timeline, agent); std::exchange(looked_, now) == now) return;
  const auto& held = host_.machine->HeldDevices();
  CheckReached();
  if (!host_.synced_this_boot && host_.machine->opened() > 0) {
    return checker_.Fail(fmt::format("{} has objects before it was told everything in this boot", host_.name));
  }
  if (!host_.MayObey(checker_, timeline)) return;  // it knows another store, and goes by that one
  for (const auto& [pci, device] : held) {
    // What is kept while there is no agent may have been given up for lost.
    if (host_.doubted || agent == nullptr) break;
    const auto recorded = timeline.state.find({Kind::kDevice, host_.name + "/devices/" + pci});
    const std::string owner =
        recorded == timeline.state.end() ? "" : static_cast<const v1::Device&>(*recorded->second).owner();
    const auto found = timeline.state.find({Kind::kVdevice, owner});
    if (const agent::HeldItem* old = ForgottenHolder(timeline, *agent, host_.name + "/devices/" + pci)) {
      // Whoever declared the host dead has vouched for it. Once it is back, it tears down before it builds.
      const bool in_use =
          found != timeline.state.end() && static_cast<const v1::Vdevice&>(*found->second).state() == v1::STATE_READY;
      if (!in_use || old->deleting) continue;
      return checker_.Fail(fmt::format("{} has {} READY, and {} was never torn down", host_.name, owner, old->name()));
    }
    if (owner.empty()) return checker_.Fail(fmt::format("{} holds {}, which is free", host_.name, pci));
    if (found == timeline.state.end()) return checker_.Fail(fmt::format("{} has no owner {}", pci, owner));
    const auto& vdevice = static_cast<const v1::Vdevice&>(*found->second);
    if (device.virt_id.has_value() && *device.virt_id != vdevice.vdev_id() &&
        !(vdevice.has_previous_vdev_id() && *device.virt_id == vdevice.previous_vdev_id())) {
      return checker_.Fail(fmt::format("{} has {} as vdev_id {}, and {} is recorded", host_.name, pci, *device.virt_id,
                                       vdevice.vdev_id()));
    }
    if (const auto reached = host_.machine->Reached().find(pci);
        reached != host_.machine->Reached().end() && reached->second != vdevice.vm()) {
      return checker_.Fail(fmt::format("{} of {} reaches the memory of {}, and is {}'s", pci, host_.name,
                                       reached->second, vdevice.vm()));
    }
  }
  if (agent == nullptr || agent->dying() || host_.outdated || host_.doubted) return;
  for (const auto& [uid, item] : agent->held().items()) {
    if (!item.deleting && timeline.released.contains(uid) && !timeline.forgotten.contains(uid)) {
      return checker_.Fail(fmt::format("{} holds {} again, which was released", host_.name, item.name()));
    }
  }
}

void HostChecks::CheckReached() {
  const auto& held = host_.machine->HeldDevices();
  const auto& reached = host_.machine->Reached();
  checker_.CountReached(reached.size());
  for (const auto& [pci, vm] : reached) {
    if (!host_.lent.contains(vm) && !(host_.leaving.contains(vm) && QueueLiesIn(vm))) {
      return checker_.Fail(fmt::format("{} of {} reaches memory of {}, which nobody lends it", pci, host_.name, vm));
    }
    if (held.contains(pci)) continue;
    // The IOMMU group goes as a whole.
    const bool with_group = std::any_of(held.begin(), held.end(), [&, &pci = pci, &vm = vm](const auto& device) {
      const auto found = reached.find(device.first);
      return host_.machine->GroupOf(device.first) == host_.machine->GroupOf(pci) && found != reached.end() &&
             found->second == vm;
    });
    if (!with_group)
      return checker_.Fail(fmt::format("{} of {} is free, and reaches memory of {}", pci, host_.name, vm));
  }
}

bool HostChecks::QueueLiesIn(const std::string& vm) const {
  const auto& held = host_.machine->HeldDevices();
  return std::any_of(held.begin(), held.end(), [&](const auto& device) {
    const auto found = host_.machine->Reached().find(device.first);
    return found != host_.machine->Reached().end() && found->second == vm && device.second.context != nullptr &&
           Machine::CountIn(*device.second.context, agent::ObjectKind::kHwQueue) != 0;
  });
}

void HostChecks::CheckSettled(const Timeline& timeline) {
  size_t viommus = 0, nested = 0, vdevices = 0, queues = 0;
  std::set<std::pair<std::string, std::string>> stage2s;  // with the SMMU, where each has its own
  const auto& held = host_.machine->HeldDevices();
  const auto& reached = host_.machine->Reached();
  std::map<uint32_t, agent::ObjectId> groups;
  for (const agent::DeviceInfo& device : host_.machine->inventory().devices) {
    const auto found = held.find(device.pci_address);
    if (found == held.end()) continue;
    const agent::ObjectId attached = found->second.attached_id;
    if (groups.emplace(device.iommu_group, attached).first->second == attached) continue;
    checker_.Fail(
        fmt::format("{} of {} is attached to something else than its IOMMU group", device.pci_address, host_.name));
  }
  for (const auto& [key, record] : timeline.state) {
    if (!IsForHosts(key.first) || server::HostOf(key.first, *record) != host_.name) continue;
    const auto check = [&](const auto& resource, size_t* count) {
      if (count != nullptr && resource.state() == v1::STATE_READY) ++*count;
      if (resource.state() == v1::STATE_READY || resource.state() == v1::STATE_DORMANT) return;
      if (resource.state() == v1::STATE_FAILED) return;  // judged by its device
      checker_.Fail(fmt::format("{} never got out of {}", resource.name(), v1::State_Name(resource.state())));
    };
    if (key.first == Kind::kStage2Domain) {
      const auto& stage2 = static_cast<const v1::Stage2Domain&>(*record);
      check(stage2, nullptr);
      if (stage2.state() == v1::STATE_READY && !host_.machine->hardware().linux72) stage2s.insert({stage2.name(), ""});
    }
    if (key.first == Kind::kViommu) {
      const auto& viommu = static_cast<const v1::Viommu&>(*record);
      check(viommu, &viommus);
      if (viommu.state() == v1::STATE_READY && host_.machine->hardware().linux72) {
        stage2s.insert({viommu.stage2_domain(), viommu.smmu()});
      }
    }
    if (key.first == Kind::kHwQueue) check(static_cast<const v1::HwQueue&>(*record), &queues);
    if (key.first == Kind::kNestedDomain) check(static_cast<const v1::NestedDomain&>(*record), &nested);
    if (key.first != Kind::kVdevice) continue;
    const auto& vdevice = static_cast<const v1::Vdevice&>(*record);
    check(vdevice, &vdevices);
    const std::string pci = vdevice.device().substr(vdevice.device().rfind('/') + 1);
    const auto found = held.find(pci);
    if (host_.machine->hardware().broken.contains(pci)) {
      if (vdevice.state() != v1::STATE_FAILED) checker_.Fail(fmt::format("{} cannot work, and is not FAILED", pci));
      continue;
    }
    if (found == held.end() || found->second.virt_id != vdevice.vdev_id() ||
        found->second.attached_to !=
            (vdevice.nested_domain().empty() ? agent::ObjectKind::kHwpt : agent::ObjectKind::kNested)) {
      checker_.Fail(fmt::format("{} of {} is not on its host as it is recorded", vdevice.name(), host_.name));
      continue;
    }
    bool aborts = false;
    if (const auto domain = timeline.state.find({Kind::kNestedDomain, vdevice.nested_domain()});
        domain != timeline.state.end()) {
      aborts = static_cast<const v1::NestedDomain&>(*domain->second).config().has_abort();
    }
    // What is mapped in an IOAS no backend tells: that it is not the agent's own is a drift that nobody sees.
    if (reached.contains(pci) == aborts && (aborts || !host_.foreign_ioas)) {
      checker_.Fail(fmt::format("{} of {} {} memory, as it should {}", vdevice.name(), host_.name,
                                aborts ? "reaches" : "does not reach", aborts ? "not" : ""));
    }
  }
  const std::array counts = {
      host_.machine->Count(agent::ObjectKind::kHwpt), host_.machine->Count(agent::ObjectKind::kViommu),
      host_.machine->Count(agent::ObjectKind::kNested), host_.machine->Count(agent::ObjectKind::kVdevice),
      host_.machine->Count(agent::ObjectKind::kHwQueue)};
  if (counts != std::array{stage2s.size(), viommus, nested, vdevices, queues}) {
    checker_.Fail(fmt::format(
        "{} has {} stage 2s, {} viommus, {} nested domains, {} vdevices and {} hardware queues; recorded are {}, {}, "
        "{}, {} and {}",
        host_.name, counts[0], counts[1], counts[2], counts[3], counts[4], stage2s.size(), viommus, nested, vdevices,
        queues));
  }
  if (const std::string lost = host_.machine->LostVmids(); !lost.empty()) checker_.Fail(host_.name + ": " + lost);
}

void HostChecks::CheckLeftovers() {
  if (const std::string left = host_.machine->Leftovers(); !left.empty()) {
    checker_.Fail(fmt::format("the agent of {} has ended, and left {}", host_.name, left));
  }
}

}  // namespace viommu::simulation
