#include "tests/simulation/machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <span>
#include <string_view>
#include <utility>

#include "agent/errno_status.h"
#include "agent/smmuv3/spec/id_registers.h"
#include "agent/smmuv3/spec/ste.h"
#include "agent/smmuv3/vsmmu/inventory.h"
#include "agent/smmuv3/vsmmu/personality.h"
#include "tests/simulation/guest.h"

namespace viommu::simulation {
namespace {

using agent::ObjectId;
using agent::ObjectKind;

constexpr const char* kSmmus[] = {"s0", "s1"};

agent::EmulatedInventory MakeInventory(const Machine::Hardware& hardware) {
  agent::EmulatedInventory inventory;
  inventory.personality = hardware.linux72 ? agent::Linux72() : agent::Strict();
  // Small, since there may be many: a run makes two of them for each host and each of its boots.
  inventory.smmu_options = {
      .queue_log2_size = 7, .tlb_capacity = 128, .config_capacity = 64, .atc_capacity = 16, .own_thread = false};
  smmuv3::Features features = {.stage2 = true,
                               .stage1 = true,
                               .aarch64 = true,
                               .coherent = true,
                               .asid_bits = 16,
                               .vmid_bits = 16,
                               .stall_model = smmuv3::StallModel::kStallOrTerminate,
                               .two_level_st = true,
                               .sid_bits = 16,
                               .ssid_bits = 8,
                               .eventq_log2_size = 5,
                               .cmdq_log2_size = 7,
                               .fwb = true,
                               .ril = true,
                               .oas_bits = 48,
                               .gran4k = true};
  for (const char* name : kSmmus) {
    inventory.smmus.push_back({agent::MakeSmmuInfo(name, smmuv3::EncodeIdRegisters(features), 0, 0), /*canwbs=*/true});
    features.vmid_bits = 8;  // of the second one
  }
  // As few as can run out.
  if (hardware.hw_queues) {
    inventory.smmus.front().info.hw_queue = agent::HwQueueInventory{.vintfs = 3, .queues_per_vintf = 2, .sid_slots = 3};
  }
  for (uint32_t behind = 0; behind < std::size(kSmmus); ++behind) {
    for (uint32_t function = 0; function < 4; ++function) {
      agent::EmulatedDevice device;
      device.info.pci_address = fmt::format("0000:01:0{}.{}", behind, function);
      device.info.smmu = kSmmus[behind];
      device.info.stream_id = 0x100 + 8 * behind + function;
      device.info.iommu_group = device.info.stream_id - device.info.stream_id % hardware.group_size;
      inventory.devices.push_back(device);
    }
  }
  return inventory;
}

std::unique_ptr<agent::EmulatedBackend> MakeBackend(const Machine::Hardware& hardware) {
  auto made = agent::EmulatedBackend::Create(MakeInventory(hardware));
  if (!made.ok()) std::abort();
  return *std::move(made);
}

}  // namespace

// Goes through to a context of the emulated backend, unless a call is to fail.
class MachineContext final : public agent::Context {
 public:
  // With a key it is kept.
  MachineContext(Machine& machine, std::string key, std::unique_ptr<Machine::Content> content)
      : machine_(machine), key_(std::move(key)), content_(std::move(content)), emulated_(content_->emulated.get()) {
    machine_.contexts_.push_back(this);
    content_->open = this;
    ++machine_.changes_;
  }
  ~MachineContext() override {
    std::erase(machine_.contexts_, this);
    content_->open = nullptr;
    if (key_.empty()) {
      std::erase(machine_.contents_, content_.get());
    } else {
      machine_.kept_[key_] = std::move(content_);
    }
    ++machine_.changes_;
  }
  void StopKeeping() override { key_.clear(); }

  absl::StatusOr<ObjectId> BindDevice(std::string_view pci) override {
    if (absl::Status status = machine_.Fault("BindDevice"); !status.ok()) return status;
    if (machine_.hardware_.broken.contains(std::string(pci)))
      return agent::ErrnoStatus(EIO, "BindDevice", std::string(pci));
    if (machine_.AnotherHasOfGroup(this, pci)) ++machine_.refused_for_group_;
    return Changed(emulated_->BindDevice(pci));
  }
  absl::Status UnbindDevice(std::string_view pci) override {
    if (absl::Status status = machine_.Fault("UnbindDevice"); !status.ok()) return status;
    return Changed(emulated_->UnbindDevice(pci));
  }
  absl::StatusOr<ObjectId> AllocIoas() override {
    if (absl::Status status = machine_.Fault("AllocIoas"); !status.ok()) return status;
    return Changed(emulated_->AllocIoas());
  }
  absl::Status MapIoas(ObjectId ioas, uint64_t iova, uint64_t length, const agent::MemoryHandle& memory) override {
    if (absl::Status status = machine_.Fault("MapIoas"); !status.ok()) return status;
    return Changed(emulated_->MapIoas(ioas, iova, length, memory));
  }
  absl::StatusOr<uint64_t> UnmapIoas(ObjectId ioas, uint64_t iova, uint64_t length) override {
    if (absl::Status status = machine_.Fault("UnmapIoas"); !status.ok()) return status;
    return Changed(emulated_->UnmapIoas(ioas, iova, length));
  }
  // Made to fail under the name of the wrapper that asks for it.
  absl::StatusOr<ObjectId> AllocHwpt(const agent::HwptAlloc& request) override {
    const bool stage2 = request.data_type == agent::HwptDataType::kNone;
    if (absl::Status status = machine_.Fault(stage2 ? "AllocStage2" : "AllocNested"); !status.ok()) return status;
    return Changed(emulated_->AllocHwpt(request));
  }
  absl::StatusOr<agent::ViommuHandle> AllocViommu(ObjectId device, ObjectId stage2, agent::ViommuType type) override {
    if (absl::Status status = machine_.Fault("AllocViommu"); !status.ok()) return status;
    auto handle = Changed(emulated_->AllocViommu(device, stage2, type));
    if (handle.ok() && handle->vmid.has_value()) content_->vmids[handle->id] = *handle->vmid;
    return handle;
  }
  absl::StatusOr<ObjectId> AllocVdevice(ObjectId viommu, ObjectId device, uint64_t virt_id) override {
    if (absl::Status status = machine_.Fault("AllocVdevice"); !status.ok()) return status;
    return Changed(emulated_->AllocVdevice(viommu, device, virt_id));
  }
  absl::Status Attach(ObjectId device, ObjectId pt) override {
    if (absl::Status status = machine_.Fault("Attach"); !status.ok()) return status;
    return Changed(emulated_->Attach(device, pt));
  }
  absl::Status Detach(ObjectId device) override {
    if (absl::Status status = machine_.Fault("Detach"); !status.ok()) return status;
    return Changed(emulated_->Detach(device));
  }
  agent::InvalidateResult InvalidateRaw(ObjectId id, const agent::InvalidateArray& array) override {
    return emulated_->InvalidateRaw(id, array);
  }
  absl::StatusOr<ObjectId> AllocVeventq(ObjectId viommu, agent::VeventqType type, uint32_t depth) override {
    if (absl::Status status = machine_.Fault("AllocVeventq"); !status.ok()) return status;
    return Changed(emulated_->AllocVeventq(viommu, type, depth));
  }
  absl::StatusOr<std::vector<agent::Vevent>> ReadVeventq(ObjectId veventq, uint32_t max) override {
    return emulated_->ReadVeventq(veventq, max);
  }
  absl::StatusOr<ObjectId> AllocFaultQueue() override { return Changed(emulated_->AllocFaultQueue()); }
  absl::StatusOr<std::vector<agent::PageFault>> ReadFaults(ObjectId queue, uint32_t max) override {
    return emulated_->ReadFaults(queue, max);
  }
  absl::Status AnswerFault(ObjectId queue, uint32_t cookie, agent::PageResponseCode code) override {
    return emulated_->AnswerFault(queue, cookie, code);
  }
  absl::StatusOr<ObjectId> AllocHwQueue(ObjectId viommu, agent::HwQueueType type, uint32_t index, uint64_t iova,
                                        uint64_t length) override {
    if (absl::Status status = machine_.Fault("AllocHwQueue"); !status.ok()) return status;
    return Changed(emulated_->AllocHwQueue(viommu, type, index, iova, length));
  }
  absl::StatusOr<agent::VintfMapping> MapVintf(ObjectId viommu) override { return emulated_->MapVintf(viommu); }
  absl::Status UnmapVintf(ObjectId viommu) override { return emulated_->UnmapVintf(viommu); }
  absl::StatusOr<agent::HwInfo> GetHwInfo(ObjectId device) override { return emulated_->GetHwInfo(device); }
  absl::Status Destroy(ObjectId id) override {
    if (absl::Status status = machine_.Fault("Destroy"); !status.ok()) return status;
    absl::Status status = Changed(emulated_->Destroy(id));
    if (status.ok()) content_->vmids.erase(id);
    return status;
  }
  absl::StatusOr<std::vector<agent::ObjectInfo>> Objects() const override { return emulated_->Objects(); }

 private:
  // Also what has failed may have changed something on its way.
  template <typename Result>
  Result Changed(Result result) {
    ++machine_.changes_;
    return result;
  }

  Machine& machine_;
  std::string key_;
  std::unique_ptr<Machine::Content> content_;
  agent::Context* const emulated_;
};

Machine::Machine(const Hardware& hardware)
    : hardware_(hardware), emulated_(MakeBackend(hardware)), inventory_(*emulated_->Discover()) {
  at_boot_ = emulated_->GetMemoryStats();
}

absl::StatusOr<std::unique_ptr<agent::Context>> Machine::OpenContext() { return Open(""); }

absl::StatusOr<std::unique_ptr<agent::Context>> Machine::OpenKeptContext(const std::string& key) { return Open(key); }

absl::StatusOr<std::unique_ptr<agent::Context>> Machine::Open(const std::string& key) {
  if (absl::Status status = Fault("OpenContext"); !status.ok()) return status;
  auto emulated = emulated_->OpenContext();
  if (!emulated.ok()) return emulated.status();
  auto content = std::make_unique<Content>();
  content->emulated = *std::move(emulated);
  contents_.push_back(content.get());
  return std::make_unique<MachineContext>(*this, key, std::move(content));
}

bool Machine::Has(const Content& content, const agent::KeptContext& wanted) {
  const std::vector<agent::ObjectInfo> objects = *content.emulated->Objects();
  const auto has = [&](ObjectId id, ObjectKind kind, auto fits) {
    return std::any_of(objects.begin(), objects.end(), [&](const agent::ObjectInfo& object) {
      return object.id == id && object.kind == kind && fits(object);
    });
  };
  const auto any = [](const agent::ObjectInfo&) { return true; };
  bool whole = wanted.ioas == 0 || has(wanted.ioas, ObjectKind::kIoas, any);
  for (const auto& device : wanted.devices) {
    whole = whole && has(device.id, ObjectKind::kDevice, [&](const auto& object) {
              return object.pci_address == device.pci_address && object.parent == device.attached_to;
            });
  }
  for (const auto& stage2 : wanted.stage2s) whole = whole && has(stage2.id, ObjectKind::kHwpt, any);
  for (const auto& viommu : wanted.viommus) {
    whole =
        whole && has(viommu.id, ObjectKind::kViommu, [&](const auto& object) { return object.smmu == viommu.smmu; });
  }
  for (const auto& vdevice : wanted.vdevices) {
    whole = whole && has(vdevice.id, ObjectKind::kVdevice, [&](const auto& object) {
              return object.parent == vdevice.viommu && object.virt_id == vdevice.virt_id;
            });
  }
  for (const ObjectId nested : wanted.nested) whole = whole && has(nested, ObjectKind::kNested, any);
  return whole;
}

std::vector<absl::StatusOr<std::unique_ptr<agent::Context>>> Machine::AdoptContexts(
    const std::vector<agent::KeptContext>& wanted) {
  std::vector<absl::StatusOr<std::unique_ptr<agent::Context>>> answers;
  for (const agent::KeptContext& context : wanted) {
    const auto found = kept_.find(context.key);
    if (found == kept_.end()) {
      answers.emplace_back(agent::ErrnoStatus(ENOENT, "AdoptContexts", context.key));
    } else if (!Has(*found->second, context)) {
      answers.emplace_back(agent::ErrnoStatus(EINVAL, "AdoptContexts", "it is not as it was"));
    } else {
      answers.emplace_back(
          std::make_unique<MachineContext>(*this, context.key, std::move(kept_.extract(found).mapped())));
    }
  }
  DropKept();
  return answers;
}

void Machine::DropKept() {
  for (const auto& [key, content] : kept_) std::erase(contents_, content.get());
  kept_.clear();
  ++changes_;
}

absl::Status Machine::Fault(const std::string& call) {
  const auto found = faults.find(call);
  if (found == faults.end() || found->second.empty()) return absl::OkStatus();
  const int error_number = found->second.front();
  found->second.pop_front();
  return agent::ErrnoStatus(error_number, call, "injected");
}

void Machine::Heal() {
  faults.clear();
  emulated_->CancelAllocationFailure();
}

agent::Context& Machine::OpenedContext(size_t i) const { return *contexts_.at(i); }

bool Machine::AnotherHasOfGroup(const agent::Context* context, std::string_view pci) const {
  const auto& held = HeldDevices();
  return std::any_of(held.begin(), held.end(), [&](const auto& device) {
    return device.second.context != context && GroupOf(device.first) == GroupOf(pci);
  });
}

uint32_t Machine::GroupOf(std::string_view pci) const {
  for (const agent::DeviceInfo& device : inventory_.devices) {
    if (device.pci_address == pci) return device.iommu_group;
  }
  return UINT32_MAX;
}

const std::map<std::string, Machine::HeldDevice>& Machine::HeldDevices() const {
  if (held_.changes == changes_) return held_.value;
  held_.changes = changes_;
  held_.value.clear();
  for (const Content* content : contents_) {
    const std::vector<agent::ObjectInfo> objects = *content->emulated->Objects();
    const auto find = [&](ObjectId id) {
      return std::find_if(objects.begin(), objects.end(), [id](const auto& object) { return object.id == id; });
    };
    for (const agent::ObjectInfo& object : objects) {
      if (object.kind != ObjectKind::kDevice) continue;
      HeldDevice& device = held_.value[object.pci_address];
      device.context = content->open;
      device.attached_id = object.parent;
      if (const auto target = find(object.parent); target != objects.end()) {
        device.attached_to = target->kind;
        device.vste = target->vste;
      }
    }
    for (const agent::ObjectInfo& object : objects) {
      if (object.kind != ObjectKind::kVdevice) continue;
      HeldDevice& device = held_.value[find(object.device)->pci_address];
      device.virt_id = object.virt_id;
      device.viommu = object.parent;
    }
  }
  return held_.value;
}

size_t Machine::CountIn(const agent::Context& context, ObjectKind kind) {
  const std::vector<agent::ObjectInfo> objects = *context.Objects();
  return static_cast<size_t>(
      std::count_if(objects.begin(), objects.end(), [kind](const auto& object) { return object.kind == kind; }));
}

size_t Machine::Count(ObjectKind kind) const {
  size_t count = 0;
  for (const Content* content : contents_) count += CountIn(*content->emulated, kind);
  return count;
}

Machine::Access Machine::Read(const std::string& pci) const {
  const auto device = std::find_if(inventory_.devices.begin(), inventory_.devices.end(),
                                   [&](const auto& each) { return each.pci_address == pci; });
  const auto walks = [&] { return emulated_->FindSmmu(device->smmu)->GetCounters().walks; };
  const uint64_t before = walks();
  uint64_t word = 0;
  const auto result = emulated_->device_dma()->Read({.pci_address = pci, .address = kWhoseAddress},
                                                    std::as_writable_bytes(std::span(&word, 1)));
  Access access;
  access.walked = walks() != before;
  if (result.ok() && result->outcome == agent::DmaResult::Outcome::kDone) access.vm = WhoseVm(word);
  return access;
}

const std::map<std::string, std::string>& Machine::Reached() const {
  if (reached_.changes == changes_) return reached_.value;
  reached_.changes = changes_;
  reached_.value.clear();
  for (const agent::DeviceInfo& device : inventory_.devices) {
    if (std::string vm = Read(device.pci_address).vm; !vm.empty()) reached_.value[device.pci_address] = std::move(vm);
  }
  return reached_.value;
}

uint64_t Machine::commands() const {
  uint64_t commands = 0;
  for (const agent::SmmuStats& stats : emulated_->GetStats()) commands += stats.queue_pushed;
  return commands;
}

uint64_t Machine::walks() const {
  uint64_t walks = 0;
  for (const agent::SmmuInfo& smmu : inventory_.smmus) walks += emulated_->FindSmmu(smmu.name)->GetCounters().walks;
  return walks;
}

std::string Machine::LostVmids() const {
  for (const agent::SmmuStats& stats : emulated_->GetStats()) {
    std::set<uint16_t> needed;
    size_t stage2s = 0;
    for (const Content* content : contents_) {
      const std::vector<agent::ObjectInfo> objects = *content->emulated->Objects();
      for (const agent::ObjectInfo& object : objects) {
        if (object.smmu != stats.smmu) continue;
        if (object.kind == ObjectKind::kHwpt) ++stage2s;
        if (object.kind == ObjectKind::kViommu) needed.insert(content->vmids.at(object.id));
      }
    }
    for (const agent::DeviceInfo& device : inventory_.devices) {
      if (device.smmu != stats.smmu) continue;
      const smmuv3::Ste ste = smmuv3::DecodeSte(emulated_->ReadSte(device.smmu, device.stream_id));
      if (ste.valid && ste.config != smmuv3::SteConfig::kAbort) needed.insert(ste.s2_vmid);
    }
    const size_t expected = hardware_.linux72 ? stage2s : needed.size();
    if (stats.vmids_used == expected) continue;
    return fmt::format("{} VMIDs of {} are taken, and {} needed", stats.vmids_used, stats.smmu, expected);
  }
  return "";
}

std::string Machine::Leftovers() const {
  if (!contents_.empty()) return "";
  const agent::HostMemoryStats memory = emulated_->GetMemoryStats();
  if (memory != at_boot_) {
    return fmt::format("{} files, and {} bytes of tables instead of {}", memory.files, memory.table_bytes,
                       at_boot_.table_bytes);
  }
  for (const agent::SmmuStats& stats : emulated_->GetStats()) {
    if (stats.tlb_entries != 0) return fmt::format("{} TLB entries of {}", stats.tlb_entries, stats.smmu);
    if (stats.vmids_used != 0) return fmt::format("{} VMIDs of {}", stats.vmids_used, stats.smmu);
    if (stats.command_errors != 0) return fmt::format("{} bad commands of {}", stats.command_errors, stats.smmu);
    if (stats.sync_timeouts != 0) return fmt::format("{} late syncs of {}", stats.sync_timeouts, stats.smmu);
  }
  if (const auto& reached = Reached(); !reached.empty()) return "a way to memory of " + reached.begin()->first;
  return "";
}

}  // namespace viommu::simulation
