// A small host for tests of the emulated backend: SMMUs a (16-bit VMIDs, ATS), b (8-bit VMIDs), c (one stage), d
// (guests could go around the cache).

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_TEST_HOST_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_TEST_HOST_H_

#include <memory>
#include <string>
#include <utility>

#include "agent/smmuv3/spec/id_registers.h"
#include "agent/smmuv3/vsmmu/emulated_backend.h"
#include "agent/smmuv3/vsmmu/inventory.h"

namespace viommu::agent {

inline constexpr char kDeviceA0[] = "0000:01:00.0";           // ATS, PASIDs
inline constexpr char kDeviceA1[] = "0000:01:00.1";           // neither
inline constexpr char kDeviceB0[] = "0000:02:00.0";           // behind b
inline constexpr char kDeviceOneStage[] = "0000:03:00.0";     // behind c
inline constexpr char kDeviceAroundCache[] = "0000:04:00.0";  // behind d
// The rest is behind a, too.
inline constexpr char kDeviceGroup0[] = "0000:05:00.0";
inline constexpr char kDeviceGroup1[] = "0000:05:00.1";
inline constexpr char kDeviceTwoStreams[] = "0000:06:00.0";
inline constexpr char kDeviceIncoherent[] = "0000:07:00.0";

inline constexpr uint32_t kSidA0 = 0x100;
inline constexpr uint32_t kSidA1 = 0x101;
inline constexpr uint32_t kSidGroup0 = 0x500;
inline constexpr uint32_t kSidGroup1 = 0x501;

inline EmulatedInventory MakeTestInventory(Personality personality) {
  smmuv3::Features rich = {.stage2 = true,
                           .stage1 = true,
                           .aarch64 = true,
                           .ats = true,
                           .asid_bits = 16,
                           .pri = true,
                           .vmid_bits = 16,
                           .two_level_cd = true,
                           .stall_model = smmuv3::StallModel::kStallOrTerminate,
                           .two_level_st = true,
                           .sid_bits = 16,
                           .ssid_bits = 20,
                           .priq_log2_size = 5,
                           .eventq_log2_size = 5,
                           .fwb = true,
                           .ril = true,
                           .oas_bits = 48,
                           .gran4k = true};
  smmuv3::Features narrow = rich;
  narrow.vmid_bits = 8;
  smmuv3::Features one_stage = rich;
  one_stage.stage2 = false;
  smmuv3::Features no_fwb = rich;
  no_fwb.fwb = false;
  const auto smmu = [](const std::string& name, const smmuv3::Features& features, bool canwbs) {
    return EmulatedSmmuSpec{MakeSmmuInfo(name, smmuv3::EncodeIdRegisters(features), 0, 0), canwbs};
  };
  const auto device = [](const std::string& pci, const std::string& behind, uint32_t sid, uint32_t group) {
    return EmulatedDevice{.info = {.pci_address = pci, .smmu = behind, .stream_id = sid, .iommu_group = group}};
  };
  EmulatedInventory inventory;
  inventory.personality = std::move(personality);
  inventory.smmus = {smmu("a", rich, true), smmu("b", narrow, true), smmu("c", one_stage, true),
                     smmu("d", no_fwb, false)};
  inventory.devices = {device(kDeviceA0, "a", kSidA0, 1),         device(kDeviceA1, "a", kSidA1, 2),
                       device(kDeviceB0, "b", 0x200, 3),          device(kDeviceOneStage, "c", 0x300, 4),
                       device(kDeviceAroundCache, "d", 0x400, 5), device(kDeviceGroup0, "a", kSidGroup0, 6),
                       device(kDeviceGroup1, "a", kSidGroup1, 6), device(kDeviceTwoStreams, "a", 0x600, 7),
                       device(kDeviceIncoherent, "a", 0x700, 8)};
  inventory.devices[0].info.ats = true;
  inventory.devices[0].info.max_pasid_log2 = 20;
  inventory.devices[7].stream_count = 2;
  inventory.devices[8].dma_coherent = false;
  return inventory;
}

inline std::unique_ptr<EmulatedBackend> MakeTestBackend(Personality personality) {
  return *EmulatedBackend::Create(MakeTestInventory(std::move(personality)));
}

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_TEST_HOST_H_
