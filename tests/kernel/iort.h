// ACPI's IO Remapping Table (Arm DEN 0049), as far as it decides whether Linux makes viommus.
//
// A guest that owns stage 1 could have its devices write around the CPU's caches. Linux makes a viommu only where that
// cannot be: the SMMU forces write-back (S2FWB), or firmware says so of the root complex (CANWBS). QEMU's firmware does
// neither, although nothing there bypasses a cache that is not there.

#ifndef VIOMMU_TESTS_KERNEL_IORT_H_
#define VIOMMU_TESTS_KERNEL_IORT_H_

#include <optional>
#include <string>

namespace viommu::kernel {

// The table with CANWBS on every root complex that leads to an SMMU, all whose requesters then lead there: firmware
// lists the buses that it has found, and a table that was read on another machine would miss some. Its OEM revision is
// one higher, without which Linux would not take it in place of the firmware's. Nothing if `table` is no such table.
std::optional<std::string> AssertCanwbs(std::string table);

}  // namespace viommu::kernel

#endif  // VIOMMU_TESTS_KERNEL_IORT_H_
