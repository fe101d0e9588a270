// StreamIDs of PCI functions by ACPI's IO Remapping Table (Arm DEN 0049), which the kernel does not tell otherwise.
//
// The table is firmware's, and is taken for nothing but bytes: any are parsed in a time that their number bounds.

#ifndef VIOMMU_AGENT_SMMUV3_IOMMUFD_IORT_H_
#define VIOMMU_AGENT_SMMUV3_IOMMUFD_IORT_H_

#include <cstdint>
#include <optional>
#include <string_view>

namespace viommu::agent {

// As the SMMUv3 whose registers are at `smmu_base` sees the function with requester id `rid` in PCI segment `segment`:
// by the first mapping of a root complex of this segment that has it. Nothing when that leads elsewhere, when there is
// none, or when the table is damaged before it is found.
std::optional<uint32_t> IortStreamId(std::string_view table, uint32_t segment, uint16_t rid, uint64_t smmu_base);

// The same for names of sysfs: "0000:01:00.0" behind "smmu3.0x0000000009050000".
std::optional<uint32_t> IortStreamId(std::string_view table, std::string_view pci_address, std::string_view smmu);

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_IOMMUFD_IORT_H_
