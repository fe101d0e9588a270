// An emulated host's inventory from YAML.
//
//   labels: {rack: a7}                   # optional: the host's labels
//   personality: strict                  # or linux-7.2; optional
//   smmus:
//     - name: smmu0
//       idr: [0x0d5d17eb, 0x00e64510, 0, 0x00001d14, 0, 0xffff0475]   # SMMU_IDR0 to SMMU_IDR5
//       iidr: 0x4871143b                 # optional
//       aidr: 0x2                        # optional
//       canwbs: true                     # optional
//       hw_queue: {vintfs: 63, queues_per_vintf: 2, sid_slots: 16}    # optional
//   devices:
//     - pci: "0000:01:00.0"
//       smmu: smmu0
//       stream_id: 0x100
//       iommu_group: 12
//       ats: true                        # optional, false
//       max_pasid_log2: 20               # optional, 0
//       streams: 1                       # optional
//       dma_coherent: true               # optional
//       labels: {model: nic}             # optional
//
// A key that is not one of these is an error, with the line it stands in.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_INVENTORY_YAML_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_INVENTORY_YAML_H_

#include <string>

#include "absl/status/statusor.h"
#include "agent/smmuv3/vsmmu/inventory.h"

namespace viommu::agent {

// The largest inventory file that is read, in bytes.
inline constexpr size_t kMaxInventoryBytes = 4 << 20;

// `origin` names the text in errors: "<origin>:<line>: <key>: <what>".
absl::StatusOr<EmulatedInventory> ParseInventoryYaml(const std::string& text, const std::string& origin);

// NotFound when the file cannot be opened.
absl::StatusOr<EmulatedInventory> LoadInventoryYaml(const std::string& path);

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_INVENTORY_YAML_H_
