#include "agent/reconcile/kept.h"

#include <fmt/format.h>

#include <string_view>
#include <utility>

#include "common/log.h"

namespace viommu::agent {
namespace {

absl::Status InDoubt(std::string why) { return absl::FailedPreconditionError(std::move(why)); }

// "s0" of "hosts/h/smmus/s0".
std::string LastSegment(std::string_view name) { return std::string(name.substr(name.rfind('/') + 1)); }

// Id of the object of that item; 0 when it has none.
ObjectId IdOf(const KeptState& kept, const std::string& uid) {
  const auto object = kept.objects.find(uid);
  return object == kept.objects.end() ? 0 : object->second.id();
}

absl::Status AddVdevice(const KeptState& kept, const journal::KeptObject& object, KeptContext& context) {
  KeptContext::Device device{.pci_address = object.pci_address(), .id = object.device()};
  if (!object.attached_to().empty()) {
    device.attached_to = IdOf(kept, object.attached_to());
    if (device.attached_to == 0) return InDoubt("what a device is attached to is not known");
  }
  if (device.id != 0) context.devices.push_back(std::move(device));
  if (object.id() == 0) return absl::OkStatus();
  const ObjectId viommu = IdOf(kept, object.parent());
  if (viommu == 0) return InDoubt("the viommu of a vdevice is not known");
  context.vdevices.push_back({.id = object.id(), .viommu = viommu, .virt_id = object.virt_id()});
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<KeptContext> DescribeKept(const KeptState& kept, const HeldState& held, const std::string& boot_id) {
  if (held.synced_boot_id() != boot_id) return InDoubt("the server has not said in this boot what should be");
  if (!kept.changing.empty()) return InDoubt(fmt::format("{} was under way", kept.changing));
  KeptContext context{.key = kept.key, .ioas = kept.ioas};
  for (const auto& [uid, object] : kept.objects) {
    const HeldItem* item = held.Find(uid);
    if (item == nullptr) return InDoubt(fmt::format("{} is in it and not held", uid));
    // The journal has what it is to be, and not the SMMU that it is on.
    if (object.outdated() && (item->kind == ItemKind::kStage2Domain || item->kind == ItemKind::kViommu)) {
      return InDoubt(fmt::format("{} was made of something else than is held", item->name()));
    }
    switch (item->kind) {
      case ItemKind::kStage2Domain:
        context.stage2s.push_back({object.id(), LastSegment(item->resource.stage2_domain().smmu())});
        break;
      case ItemKind::kViommu:
        context.viommus.push_back({object.id(), LastSegment(item->resource.viommu().smmu())});
        break;
      case ItemKind::kNestedDomain:
        context.nested.push_back(object.id());
        break;
      case ItemKind::kVdevice:
        if (absl::Status status = AddVdevice(kept, object, context); !status.ok()) return status;
        break;
      case ItemKind::kHwQueue:
        return InDoubt("it has hardware queues");
    }
  }
  return context;
}

std::vector<AdoptedContext> AdoptKept(const HeldState& held, Backend& backend, const std::string& boot_id) {
  const auto lost = [&held](const std::string& vm, const absl::Status& why) {
    VIOMMU_LOG(kWarning, "context lost: its devices are cut off until it is made anew",
               {{"vm", vm}, {"resources", held.kept().at(vm).objects.size()}, {"why", why}});
  };
  std::vector<KeptContext> wanted;
  std::vector<std::string> vms;
  for (const auto& [vm, kept] : held.kept()) {
    if (kept.boot_id != boot_id) continue;  // it went with the boot, as everything did
    auto context = DescribeKept(kept, held, boot_id);
    if (!context.ok()) {
      lost(vm, context.status());
      continue;
    }
    wanted.push_back(*std::move(context));
    vms.push_back(vm);
  }
  std::vector<AdoptedContext> adopted;
  auto answers = backend.AdoptContexts(wanted);
  for (size_t i = 0; i < answers.size(); ++i) {
    if (!answers[i].ok()) {
      lost(vms[i], answers[i].status());
      continue;
    }
    VIOMMU_LOG(kInfo, "context found again",
               {{"vm", vms[i]}, {"key", wanted[i].key}, {"resources", held.kept().at(vms[i]).objects.size()}});
    adopted.push_back({vms[i], *std::move(answers[i])});
  }
  return adopted;
}

}  // namespace viommu::agent
