// What hardware an emulated backend pretends to have.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_INVENTORY_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_INVENTORY_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "agent/backend.h"
#include "agent/smmuv3/emulator/smmu.h"
#include "agent/smmuv3/vsmmu/personality.h"

namespace viommu::agent {

// A device with what the seam does not tell about it.
struct EmulatedDevice {
  DeviceInfo info;
  // StreamIDs of the device, from info.stream_id on. A vdevice needs exactly one.
  uint32_t stream_count = 1;
  // Whether the device's DMA is cache coherent; binding needs it.
  bool dma_coherent = true;
};

struct EmulatedSmmuSpec {
  SmmuInfo info;
  // Whether the guest cannot make accesses go around the cache: firmware says so for the root complexes (IORT CANWBS).
  // A viommu needs this or IDR3.FWB.
  bool canwbs = true;
};

struct EmulatedInventory {
  std::map<std::string, std::string> labels;  // of the host
  Personality personality = Strict();
  std::vector<EmulatedSmmuSpec> smmus;
  std::vector<EmulatedDevice> devices;
  smmuv3::SmmuOptions smmu_options;
  // How long a sync may take, and a batch may wait for room in the queue, before it counts as failed. Linux: 1 s.
  std::chrono::nanoseconds sync_timeout = std::chrono::seconds(1);
};

// SmmuInfo for these registers: what is derived from them is filled in.
SmmuInfo MakeSmmuInfo(std::string name, const std::array<uint32_t, 6>& idr, uint32_t iidr, uint32_t aidr);

// Whether the inventory makes sense: names and addresses unique, every device behind an SMMU that is there and within
// its abilities, StreamIDs within the SMMU's width and not used twice. The error names the first thing that does not.
absl::Status ValidateInventory(const EmulatedInventory& inventory);

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_INVENTORY_H_
