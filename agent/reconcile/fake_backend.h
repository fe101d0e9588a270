// A backend in memory with the reference rules of agent/backend.h, for tests of the layers above the seam: calls are
// logged, and any of them can be made to fail.
//
// Host "h1": SMMUs s0 and s1; devices 0000:01:00.0 to .3 behind s0 and 0000:01:01.0 to .3 behind s1. VMIDs belong to
// viommus, one stage 2 serves both SMMUs.

#ifndef VIOMMU_AGENT_RECONCILE_FAKE_BACKEND_H_
#define VIOMMU_AGENT_RECONCILE_FAKE_BACKEND_H_

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "agent/backend.h"
#include "agent/errno_status.h"
#include "agent/smmuv3/spec/ste.h"
#include "common/mutex.h"

namespace viommu::agent {

class FakeContext;

class FakeBackend : public Backend {
 public:
  // "BindDevice 0000:01:00.0", "AllocVdevice 7", …: every call that changed something, in order.
  std::vector<std::string> log;
  // The next calls of that name ("AllocViommu") fail with these errnos; 0 lets one pass.
  std::map<std::string, std::deque<int>> faults;
  uint32_t vmids = 255;
  // Called in Invalidate() with no lock held. Returns what Invalidate() returns.
  std::function<InvalidateResult(ObjectId, std::span<const smmuv3::RawCommand>)> on_invalidate;
  Capabilities capabilities = {.backend = "fake",
                               .stage2_sharing = Stage2Sharing::kShared,
                               .vmid_owner = VmidOwner::kViommu,
                               .invalidate_by_nested = true,
                               .reports_vmid = true,
                               .others = {{"exact_handled", true, ""}}};
  int contexts = 0;
  std::set<std::string> bound;   // PCI addresses
  std::set<std::string> broken;  // PCI addresses that cannot be bound (EIO)
  std::set<uint16_t> vmids_in_use;

  absl::StatusOr<Inventory> Discover() override {
    Inventory inventory;
    for (const char* name : {"s0", "s1"}) {
      SmmuInfo smmu;
      smmu.name = name;
      // ATS, 16-bit ASIDs and VMIDs; 16-bit StreamIDs, 8-bit SubstreamIDs; range invalidation.
      smmu.idr = {(1u << 0) | (1u << 1) | (1u << 10) | (1u << 12) | (1u << 18), 16u | (8u << 6), 0, 1u << 10, 0, 0};
      smmu.vmid_bits = 16;
      smmu.sid_bits = 16;
      smmu.ssid_bits = 8;
      smmu.ats = true;
      inventory.smmus.push_back(smmu);
    }
    for (int bus_device = 0; bus_device < 2; ++bus_device) {
      for (int function = 0; function < 4; ++function) {
        DeviceInfo device;
        device.pci_address = fmt::format("0000:01:0{}.{}", bus_device, function);
        device.smmu = bus_device == 0 ? "s0" : "s1";
        device.stream_id = static_cast<uint32_t>(0x100 + 8 * bus_device + function);
        device.iommu_group = static_cast<uint32_t>(device.stream_id - device.stream_id % group_size);
        inventory.devices.push_back(device);
      }
    }
    return inventory;
  }
  Capabilities GetCapabilities() const override { return capabilities; }
  std::vector<SmmuStats> GetStats() const override { return {{.smmu = "s0"}, {.smmu = "s1"}}; }
  absl::StatusOr<std::unique_ptr<Context>> OpenContext() override;

  // What is there now, over all contexts, by PCI address.
  struct HeldDevice {
    std::string attached_to;  // "nested", "stage2" or nothing
    ObjectId attached_id = 0;
    bool translates = false;          // it is attached to a nested one that does
    std::optional<uint64_t> virt_id;  // of its vdevice, if it has one
  };
  std::map<std::string, HeldDevice> HeldDevices() const;
  // Objects of a kind: "stage2", "viommu", "nested", "vdevice".
  size_t Count(const std::string& kind) const;

  uint32_t group_size = 1;    // functions .0 on of a device that are in one IOMMU group
  int refused_for_group = 0;  // binds of a device of whose group another context has one
  bool lists_objects = true;
  // The context that was opened i-th of those that are open: for what happens behind the agent's back.
  Context& OpenedContext(size_t i);
  size_t opened() const { return open_.size(); }

  // What ReadVeventq() returns; nothing without it.
  std::function<std::vector<Vevent>(ObjectId veventq, uint32_t max)> on_read_events;

  // Contexts that outlive their process: what was in them, by key.
  bool keeps_contexts = false;
  bool KeepsContexts() const override { return keeps_contexts; }
  absl::StatusOr<std::unique_ptr<Context>> OpenKeptContext(const std::string& key) override;
  std::vector<absl::StatusOr<std::unique_ptr<Context>>> AdoptContexts(const std::vector<KeptContext>& wanted) override;
  struct Object {
    std::string kind;
    std::string smmu = {};
    ObjectId parent = 0;  // of a device: what it is attached to
    ObjectId device = 0;
    uint64_t virt_id = 0;
    uint16_t vmid = 0;
    int children = 0;         // objects whose parent it is
    bool translates = false;  // of a nested one
  };
  struct Content {
    std::map<ObjectId, Object> objects_;
    std::map<std::string, ObjectId> devices_;
    ObjectId lowest_ = 1;                               // no smaller one is free
    std::map<ObjectId, ObjectId> viommu_of_device_;     // of devices that have a vdevice
    std::set<std::pair<ObjectId, uint64_t>> virt_ids_;  // viommu and guest StreamID of vdevices
  };
  std::map<std::string, Content> left;

  // The fault that the next call of that name is to have.
  absl::Status Fault(const std::string& call) {
    auto it = faults.find(call);
    if (it == faults.end() || it->second.empty()) return absl::OkStatus();
    const int error_number = it->second.front();
    it->second.pop_front();
    return error_number == 0 ? absl::OkStatus() : ErrnoStatus(error_number, call, "injected");
  }

 private:
  friend class FakeContext;
  std::vector<FakeContext*> open_;
};

class FakeContext : public Context, private FakeBackend::Content {
 public:
  explicit FakeContext(FakeBackend& backend, std::string key = "", Content content = {})
      : Content(std::move(content)), backend_(backend), key_(std::move(key)) {
    ++backend_.contexts;
    backend_.open_.push_back(this);
  }
  ~FakeContext() override {
    --backend_.contexts;
    std::erase(backend_.open_, this);
    if (!key_.empty()) {
      backend_.left[key_] = std::move(static_cast<Content&>(*this));
      return;
    }
    for (const auto& [pci, device] : devices_) backend_.bound.erase(pci);
    for (const auto& [id, object] : objects_) backend_.vmids_in_use.erase(object.vmid);
    backend_.log.push_back("CloseContext");
  }

  absl::StatusOr<ObjectId> BindDevice(std::string_view pci_address) override {
    const std::string pci(pci_address);
    if (auto s = backend_.Fault("BindDevice"); !s.ok()) return s;
    if (pci.substr(0, 6) != "0000:0") return ErrnoStatus(ENODEV, "BindDevice", pci);
    if (backend_.broken.contains(pci)) return ErrnoStatus(EIO, "BindDevice", pci);
    for (const FakeContext* other : backend_.open_) {
      if (other == this || !other->HasOfGroup(pci)) continue;
      ++backend_.refused_for_group;
      return ErrnoStatus(EPERM, "BindDevice", pci + ", whose IOMMU group another context has");
    }
    if (!backend_.bound.insert(pci).second) return ErrnoStatus(EBUSY, "BindDevice", pci);
    const ObjectId id = Add({.kind = "device", .smmu = pci[9] == '0' ? "s0" : "s1"});
    devices_[pci] = id;
    Log("BindDevice " + pci);
    return id;
  }
  absl::Status UnbindDevice(std::string_view pci_address) override {
    if (auto s = backend_.Fault("UnbindDevice"); !s.ok()) return s;
    const auto it = devices_.find(std::string(pci_address));
    if (it == devices_.end()) return ErrnoStatus(ENOENT, "UnbindDevice", std::string(pci_address));
    Erase(objects_.find(it->second));
    backend_.bound.erase(it->first);
    Log("UnbindDevice " + it->first);
    devices_.erase(it);
    return absl::OkStatus();
  }
  absl::StatusOr<ObjectId> AllocIoas() override {
    if (auto s = backend_.Fault("AllocIoas"); !s.ok()) return s;
    return Add({.kind = "ioas"});
  }
  absl::Status MapIoas(ObjectId, uint64_t iova, uint64_t, const MemoryHandle&) override {
    if (auto s = backend_.Fault("MapIoas"); !s.ok()) return s;
    Log(fmt::format("MapIoas {:#x}", iova));
    return absl::OkStatus();
  }
  absl::StatusOr<uint64_t> UnmapIoas(ObjectId, uint64_t iova, uint64_t length) override {
    if (auto s = backend_.Fault("UnmapIoas"); !s.ok()) return s;
    Log(fmt::format("UnmapIoas {:#x}", iova));
    return length;
  }
  // Logged, and made to fail, under the name of the wrapper that asks for it.
  absl::StatusOr<ObjectId> AllocHwpt(const HwptAlloc& request) override {
    const bool stage2 = request.data_type == HwptDataType::kNone;
    const std::string call = stage2 ? "AllocStage2" : "AllocNested";
    if (auto s = backend_.Fault(call); !s.ok()) return s;
    if (!Is(request.device, "device")) return ErrnoStatus(ENOENT, call, "device");
    if (!Is(request.pt, stage2 ? "ioas" : "viommu")) return ErrnoStatus(EINVAL, call, "pt");
    if (stage2) {
      Log(call);
    } else {
      uint64_t dw0 = 0;
      if (request.data.size() != sizeof(smmuv3::RawVste)) return ErrnoStatus(EINVAL, call, "data");
      std::memcpy(&dw0, request.data.data(), sizeof(dw0));
      Log(fmt::format("AllocNested {:#x}", dw0));
      const bool translates = smmuv3::VsteKindOf({dw0, 0}) == smmuv3::VsteKind::kTranslate;
      return Add({.kind = "nested", .parent = request.pt, .translates = translates});
    }
    return Add({.kind = "stage2", .parent = request.pt});
  }
  absl::StatusOr<ViommuHandle> AllocViommu(ObjectId device, ObjectId stage2, ViommuType) override {
    if (auto s = backend_.Fault("AllocViommu"); !s.ok()) return s;
    if (!Is(device, "device") || !Is(stage2, "stage2")) return ErrnoStatus(ENOENT, "AllocViommu", "id");
    uint16_t vmid = 1;
    while (backend_.vmids_in_use.contains(vmid)) ++vmid;
    if (vmid > backend_.vmids) return ErrnoStatus(ENOSPC, "AllocViommu", "VMIDs used up");
    backend_.vmids_in_use.insert(vmid);
    Log("AllocViommu " + objects_[device].smmu);
    return ViommuHandle{Add({.kind = "viommu", .smmu = objects_[device].smmu, .parent = stage2, .vmid = vmid}), vmid};
  }
  absl::StatusOr<ObjectId> AllocVdevice(ObjectId viommu, ObjectId device, uint64_t virt_id) override {
    if (auto s = backend_.Fault("AllocVdevice"); !s.ok()) return s;
    if (!Is(viommu, "viommu") || !Is(device, "device")) return ErrnoStatus(ENOENT, "AllocVdevice", "id");
    if (objects_[viommu].smmu != objects_[device].smmu) return ErrnoStatus(EINVAL, "AllocVdevice", "SMMU");
    if (viommu_of_device_.contains(device) || !virt_ids_.emplace(viommu, virt_id).second) {
      return ErrnoStatus(EEXIST, "AllocVdevice", "taken");
    }
    viommu_of_device_[device] = viommu;
    Log(fmt::format("AllocVdevice {}", virt_id));
    return Add({.kind = "vdevice", .parent = viommu, .device = device, .virt_id = virt_id});
  }
  absl::Status Attach(ObjectId device, ObjectId pt) override {
    if (auto s = backend_.Fault("Attach"); !s.ok()) return s;
    if (!Is(device, "device") || (!Is(pt, "nested") && !Is(pt, "stage2"))) return ErrnoStatus(ENOENT, "Attach", "id");
    if (Is(pt, "nested")) {
      const auto vdevice = viommu_of_device_.find(device);
      if (vdevice == viommu_of_device_.end() || vdevice->second != objects_[pt].parent)
        return ErrnoStatus(ENOENT, "Attach", "no vdevice");
      if (objects_[pt].translates && !GroupHasVdevices(device, objects_[pt].parent)) {
        return ErrnoStatus(ENOENT, "Attach", "no vdevice of another one of the group");
      }
    }
    SetParent(objects_[device], pt);
    Log("Attach " + objects_[pt].kind);
    return absl::OkStatus();
  }
  absl::Status Detach(ObjectId device) override {
    if (auto s = backend_.Fault("Detach"); !s.ok()) return s;
    if (!Is(device, "device")) return ErrnoStatus(ENOENT, "Detach", "device");
    SetParent(objects_[device], 0);
    Log("Detach");
    return absl::OkStatus();
  }
  InvalidateResult InvalidateRaw(ObjectId id, const InvalidateArray& array) override {
    const std::span commands(static_cast<const smmuv3::RawCommand*>(array.entries), array.entry_count);
    if (backend_.on_invalidate) return backend_.on_invalidate(id, commands);
    return {absl::OkStatus(), array.entry_count};
  }
  absl::StatusOr<ObjectId> AllocVeventq(ObjectId viommu, VeventqType, uint32_t) override {
    if (auto s = backend_.Fault("AllocVeventq"); !s.ok()) return s;
    if (!Is(viommu, "viommu")) return ErrnoStatus(ENOENT, "AllocVeventq", "viommu");
    for (const auto& [id, object] : objects_) {
      if (object.kind == "veventq" && object.parent == viommu) return ErrnoStatus(EEXIST, "AllocVeventq", "taken");
    }
    Log("AllocVeventq");
    return Add({.kind = "veventq", .parent = viommu});
  }
  absl::StatusOr<std::vector<Vevent>> ReadVeventq(ObjectId veventq, uint32_t max) override {
    if (!Is(veventq, "veventq")) return ErrnoStatus(ENOENT, "ReadVeventq", "id");
    if (backend_.on_read_events) return backend_.on_read_events(veventq, max);
    return std::vector<Vevent>();
  }
  absl::StatusOr<ObjectId> AllocFaultQueue() override {
    return ErrnoStatus(EOPNOTSUPP, "AllocFaultQueue", "none here");
  }
  absl::StatusOr<std::vector<PageFault>> ReadFaults(ObjectId, uint32_t) override {
    return ErrnoStatus(ENOENT, "ReadFaults", "none here");
  }
  absl::Status AnswerFault(ObjectId, uint32_t, PageResponseCode) override {
    return ErrnoStatus(ENOENT, "AnswerFault", "none here");
  }
  absl::StatusOr<ObjectId> AllocHwQueue(ObjectId viommu, HwQueueType, uint32_t, uint64_t, uint64_t) override {
    if (!Is(viommu, "viommu")) return ErrnoStatus(ENOENT, "AllocHwQueue", "viommu");
    return Add({.kind = "hw_queue", .parent = viommu});
  }
  absl::StatusOr<VintfMapping> MapVintf(ObjectId viommu) override {
    if (!Is(viommu, "viommu")) return ErrnoStatus(ENOENT, "MapVintf", "viommu");
    return VintfMapping{.fd = ::memfd_create("vintf", MFD_CLOEXEC), .offset = 0, .length = 0x10000};
  }
  absl::Status UnmapVintf(ObjectId) override { return absl::OkStatus(); }
  absl::StatusOr<HwInfo> GetHwInfo(ObjectId) override { return HwInfo{}; }
  void StopKeeping() override { key_.clear(); }
  // What is in it, for AdoptContexts().
  bool Has(ObjectId id, const std::string& kind) const { return Is(id, kind); }
  absl::Status Destroy(ObjectId id) override {
    if (auto s = backend_.Fault("Destroy"); !s.ok()) return s;
    const auto it = objects_.find(id);
    if (it == objects_.end()) return ErrnoStatus(ENOENT, "Destroy", "id");
    if (it->second.kind == "device") return ErrnoStatus(EBUSY, "Destroy", "a device");
    if (it->second.children != 0) return ErrnoStatus(EBUSY, "Destroy", "something stands on it");
    Log("Destroy " + it->second.kind);
    backend_.vmids_in_use.erase(it->second.vmid);
    if (it->second.kind == "vdevice") {
      viommu_of_device_.erase(it->second.device);
      virt_ids_.erase({it->second.parent, it->second.virt_id});
    }
    Erase(it);
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<ObjectInfo>> Objects() const override {
    static const std::map<std::string, ObjectKind> kKinds = {
        {"device", ObjectKind::kDevice},    {"ioas", ObjectKind::kIoas},       {"stage2", ObjectKind::kHwpt},
        {"viommu", ObjectKind::kViommu},    {"vdevice", ObjectKind::kVdevice}, {"nested", ObjectKind::kNested},
        {"hw_queue", ObjectKind::kHwQueue}, {"veventq", ObjectKind::kVeventq}};
    if (!backend_.lists_objects) return ErrnoStatus(EOPNOTSUPP, "Objects", "not told");
    std::vector<ObjectInfo> infos;
    for (const auto& [id, object] : objects_) {
      infos.push_back({.id = id, .kind = kKinds.at(object.kind), .parent = object.parent, .smmu = object.smmu});
      infos.back().device = object.device;
      infos.back().virt_id = object.virt_id;
    }
    for (const auto& [pci, id] : devices_) {
      const auto info = std::find_if(infos.begin(), infos.end(), [id = id](const auto& each) { return each.id == id; });
      info->pci_address = pci;
    }
    return infos;
  }

  void AddHeldDevices(std::map<std::string, FakeBackend::HeldDevice>& held) const {
    for (const auto& [pci, id] : devices_) {
      const auto attached = objects_.find(objects_.at(id).parent);
      held[pci].attached_to = attached == objects_.end() ? "" : attached->second.kind;
      held[pci].attached_id = objects_.at(id).parent;
      held[pci].translates = attached != objects_.end() && attached->second.translates;
      for (const auto& [other, object] : objects_) {
        if (object.kind == "vdevice" && object.device == id) held[pci].virt_id = object.virt_id;
      }
    }
  }
  size_t Count(const std::string& kind) const {
    return static_cast<size_t>(
        std::count_if(objects_.begin(), objects_.end(), [&](const auto& each) { return each.second.kind == kind; }));
  }

 private:
  using Object = FakeBackend::Object;

  ObjectId Add(Object object) {
    while (objects_.contains(lowest_)) ++lowest_;
    const ObjectId parent = std::exchange(object.parent, 0);
    Object& added = objects_[lowest_];
    added = std::move(object);
    SetParent(added, parent);
    return lowest_;
  }
  void SetParent(Object& object, ObjectId parent) {
    if (const auto old = objects_.find(object.parent); old != objects_.end()) --old->second.children;
    object.parent = parent;
    if (const auto now = objects_.find(parent); now != objects_.end()) ++now->second.children;
  }
  void Erase(std::map<ObjectId, Object>::iterator it) {
    SetParent(it->second, 0);
    lowest_ = std::min(lowest_, it->first);
    objects_.erase(it);
  }
  bool SameGroup(const std::string& a, const std::string& b) const {
    const auto group = [this](const std::string& of) {
      return std::make_pair(of.substr(0, of.size() - 1), static_cast<uint32_t>(of.back() - '0') / backend_.group_size);
    };
    return group(a) == group(b);
  }
  bool HasOfGroup(const std::string& pci) const {
    return std::any_of(devices_.begin(), devices_.end(),
                       [&](const auto& device) { return SameGroup(device.first, pci); });
  }
  bool GroupHasVdevices(ObjectId device, ObjectId viommu) const {
    const auto self = std::find_if(devices_.begin(), devices_.end(), [&](const auto& d) { return d.second == device; });
    return std::count_if(devices_.begin(), devices_.end(), [&](const auto& other) {
             const auto vdevice = viommu_of_device_.find(other.second);
             return SameGroup(other.first, self->first) && vdevice != viommu_of_device_.end() &&
                    vdevice->second == viommu;
           }) == backend_.group_size;
  }
  bool Is(ObjectId id, const std::string& kind) const {
    const auto it = objects_.find(id);
    return it != objects_.end() && it->second.kind == kind;
  }
  void Log(std::string what) { backend_.log.push_back(std::move(what)); }

  FakeBackend& backend_;
  std::string key_;  // empty: it is not kept
};

inline std::map<std::string, FakeBackend::HeldDevice> FakeBackend::HeldDevices() const {
  std::map<std::string, HeldDevice> held;
  for (const FakeContext* context : open_) context->AddHeldDevices(held);
  return held;
}

inline Context& FakeBackend::OpenedContext(size_t i) { return *open_.at(i); }

inline size_t FakeBackend::Count(const std::string& kind) const {
  size_t count = 0;
  for (const FakeContext* context : open_) count += context->Count(kind);
  return count;
}

inline absl::StatusOr<std::unique_ptr<Context>> FakeBackend::OpenContext() {
  if (auto s = Fault("OpenContext"); !s.ok()) return s;
  log.push_back("OpenContext");
  return std::make_unique<FakeContext>(*this);
}

inline absl::StatusOr<std::unique_ptr<Context>> FakeBackend::OpenKeptContext(const std::string& key) {
  if (auto s = Fault("OpenContext"); !s.ok()) return s;
  log.push_back("OpenContext");
  return std::make_unique<FakeContext>(*this, key);
}

inline std::vector<absl::StatusOr<std::unique_ptr<Context>>> FakeBackend::AdoptContexts(
    const std::vector<KeptContext>& wanted) {
  std::vector<absl::StatusOr<std::unique_ptr<Context>>> answers;
  for (const KeptContext& kept : wanted) {
    const auto found = left.find(kept.key);
    if (found == left.end()) {
      answers.emplace_back(ErrnoStatus(ENOENT, "AdoptContexts", kept.key));
      continue;
    }
    auto context = std::make_unique<FakeContext>(*this, kept.key, std::move(left.extract(found).mapped()));
    bool whole = true;
    for (const auto& [id, smmu] : kept.stage2s) whole = whole && context->Has(id, "stage2");
    for (const auto& [id, smmu] : kept.viommus) whole = whole && context->Has(id, "viommu");
    for (const auto& vdevice : kept.vdevices) whole = whole && context->Has(vdevice.id, "vdevice");
    for (const auto& device : kept.devices) whole = whole && context->Has(device.id, "device");
    for (const ObjectId nested : kept.nested) whole = whole && context->Has(nested, "nested");
    if (!whole) {
      context->StopKeeping();
      answers.emplace_back(ErrnoStatus(EINVAL, "AdoptContexts", "not what it was"));
      continue;
    }
    log.push_back("AdoptContext");
    answers.emplace_back(std::move(context));
  }
  for (auto& [key, content] : std::exchange(left, {})) FakeContext(*this, "", std::move(content));
  return answers;
}

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_RECONCILE_FAKE_BACKEND_H_
