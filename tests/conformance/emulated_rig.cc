// The suite on the emulated backend: in both personalities, and with caches that forget.

#include <cstdlib>
#include <iostream>
#include <optional>
#include <utility>

#include "agent/smmuv3/spec/id_registers.h"
#include "agent/smmuv3/vsmmu/emulated_backend.h"
#include "agent/smmuv3/vsmmu/inventory.h"
#include "tests/conformance/rig.h"

namespace viommu::conformance {
namespace {

using agent::EmulatedBackend;
using agent::EmulatedDevice;
using agent::EmulatedInventory;
using agent::EmulatedSmmuSpec;

constexpr char kDeviceA0[] = "0000:01:00.0";  // ATS and PASIDs
constexpr char kDeviceA1[] = "0000:01:00.1";  // neither
constexpr char kDeviceB0[] = "0000:02:00.0";
constexpr char kDeviceOneStage[] = "0000:03:00.0";
constexpr char kDeviceAroundCache[] = "0000:04:00.0";
constexpr char kDeviceGroup0[] = "0000:05:00.0";
constexpr char kDeviceGroup1[] = "0000:05:00.1";
constexpr char kDeviceTwoStreams[] = "0000:06:00.0";
constexpr char kDeviceIncoherent[] = "0000:07:00.0";
constexpr char kDeviceQueue0[] = "0000:08:00.0";
constexpr char kDeviceQueue1[] = "0000:08:00.1";

EmulatedInventory MakeInventory(agent::Personality personality) {
  smmuv3::Features rich;
  rich.stage1 = rich.stage2 = rich.aarch64 = rich.coherent = rich.ats = rich.two_level_cd = rich.two_level_st = true;
  rich.stall_model = smmuv3::StallModel::kStallOrTerminate;
  rich.stall_max = 64;
  rich.asid_bits = rich.vmid_bits = rich.sid_bits = 16;
  rich.ssid_bits = 20;
  rich.cmdq_log2_size = rich.eventq_log2_size = rich.priq_log2_size = 12;
  rich.fwb = rich.ril = rich.had = true;
  rich.oas_bits = 48;
  rich.gran4k = rich.gran16k = rich.gran64k = true;
  smmuv3::Features narrow = rich;
  narrow.vmid_bits = 8;
  smmuv3::Features one_stage = rich;
  one_stage.stage2 = false;
  smmuv3::Features no_fwb = rich;
  no_fwb.fwb = false;
  const auto smmu = [](const std::string& name, const smmuv3::Features& features, bool canwbs) {
    return EmulatedSmmuSpec{agent::MakeSmmuInfo(name, smmuv3::EncodeIdRegisters(features), 0, 0), canwbs};
  };
  const auto device = [](const std::string& pci, const std::string& behind, uint32_t sid, uint32_t group) {
    return EmulatedDevice{.info = {.pci_address = pci, .smmu = behind, .stream_id = sid, .iommu_group = group}};
  };
  EmulatedInventory inventory;
  inventory.personality = std::move(personality);
  inventory.smmus = {smmu("a", rich, true), smmu("b", narrow, true), smmu("c", one_stage, true),
                     smmu("d", no_fwb, false), smmu("q", rich, true)};
  inventory.smmus[4].info.hw_queue = agent::HwQueueInventory{.vintfs = 3, .queues_per_vintf = 2, .sid_slots = 1};
  inventory.devices = {device(kDeviceA0, "a", 0x100, 1),          device(kDeviceA1, "a", 0x101, 2),
                       device(kDeviceB0, "b", 0x200, 3),          device(kDeviceOneStage, "c", 0x300, 4),
                       device(kDeviceAroundCache, "d", 0x400, 5), device(kDeviceGroup0, "a", 0x500, 6),
                       device(kDeviceGroup1, "a", 0x501, 6),      device(kDeviceTwoStreams, "a", 0x600, 7),
                       device(kDeviceIncoherent, "a", 0x700, 8),  device(kDeviceQueue0, "q", 0x800, 9),
                       device(kDeviceQueue1, "q", 0x801, 10)};
  inventory.devices[0].info.ats = true;
  inventory.devices[0].info.max_pasid_log2 = 20;
  inventory.devices[9].info.ats = true;
  inventory.devices[7].stream_count = 2;
  inventory.devices[8].dma_coherent = false;
  return inventory;
}

class EmulatedRig final : public Rig, public EmulationHooks {
 public:
  EmulatedRig(std::unique_ptr<EmulatedBackend> backend, const Expectations& expectations, bool keeps_stale_entries)
      : backend_(std::move(backend)),
        expectations_(expectations),
        dma_(MakeBackendDma(*backend_)),
        keeps_stale_entries_(keeps_stale_entries) {}

  agent::Backend& backend() override { return *backend_; }
  const Expectations& expectations() const override { return expectations_; }
  DmaEngine* dma() override { return dma_.get(); }
  EmulationHooks* hooks() override { return this; }
  bool keeps_stale_entries() const override { return keeps_stale_entries_; }

  std::string Device(Role role) const override {
    switch (role) {
      case Role::kA0:
      case Role::kAts:
      case Role::kPasid:
        return kDeviceA0;
      case Role::kA1:
        return kDeviceA1;
      case Role::kB0:
        return kDeviceB0;
      case Role::kTwoStreams:
        return kDeviceTwoStreams;
      case Role::kGroup0:
        return kDeviceGroup0;
      case Role::kGroup1:
        return kDeviceGroup1;
      case Role::kIncoherent:
        return kDeviceIncoherent;
      case Role::kOneStage:
        return kDeviceOneStage;
      case Role::kAroundCache:
        return kDeviceAroundCache;
      case Role::kQueue0:
        return kDeviceQueue0;
      case Role::kQueue1:
        return kDeviceQueue1;
    }
    return "";
  }

  void Pause(const std::string& smmu) override { backend_->FindSmmu(smmu)->Pause(); }
  void Resume(const std::string& smmu) override { backend_->FindSmmu(smmu)->Resume(); }
  void SetResponding(const std::string& device, bool responding) override {
    const auto inventory = backend_->Discover();
    for (const agent::DeviceInfo& info : inventory->devices) {
      if (info.pci_address == device) backend_->FindSmmu(info.smmu)->SetDeviceResponding(info.stream_id, responding);
    }
  }
  uint64_t Executed(const std::string& smmu, uint8_t opcode) override {
    return backend_->FindSmmu(smmu)->GetCounters().executed[opcode];
  }

 private:
  const std::unique_ptr<EmulatedBackend> backend_;
  const Expectations& expectations_;
  const std::unique_ptr<DmaEngine> dma_;
  const bool keeps_stale_entries_;
};

// With `eviction_seed` entries of all caches go at random, as they may at any time: what holds only because an entry
// happens to be there fails.
RigFactory Factory(std::string name, agent::Personality (*personality)(), const Expectations& expectations,
                   std::optional<uint64_t> eviction_seed = std::nullopt) {
  return {std::move(name),
          [personality, &expectations, eviction_seed](const RigRequest& request) -> std::unique_ptr<Rig> {
            EmulatedInventory inventory = MakeInventory(personality());
            inventory.smmu_options.eviction_seed = eviction_seed;
            // Few places, so that most evictions find something.
            if (eviction_seed.has_value()) inventory.smmu_options.tlb_capacity = 32;
            if (request.short_sync_timeout) inventory.sync_timeout = std::chrono::milliseconds(50);
            auto backend = EmulatedBackend::Create(std::move(inventory));
            if (!backend.ok()) {
              std::cerr << backend.status() << std::endl;
              return nullptr;
            }
            return std::make_unique<EmulatedRig>(*std::move(backend), expectations, !eviction_seed.has_value());
          }};
}

}  // namespace
}  // namespace viommu::conformance

int main(int argc, char** argv) {
  using viommu::conformance::Factory;
  viommu::conformance::RegisterRig(Factory("emulated_linux72", viommu::agent::Linux72, viommu::conformance::kLinux72));
  viommu::conformance::RegisterRig(Factory("emulated_strict", viommu::agent::Strict, viommu::conformance::kStrict));
  viommu::conformance::RegisterRig(
      Factory("emulated_forgetful", viommu::agent::Linux72, viommu::conformance::kLinux72, 1));
  return viommu::conformance::RunSuite(argc, argv);
}
