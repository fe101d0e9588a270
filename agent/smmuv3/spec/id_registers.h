// What an SMMU says about itself: SMMU_IDR0 to SMMU_IDR5 and SMMU_IIDR (IHI 0070, 6.3.1 to 6.3.7), as far as this
// project goes by it.

#ifndef VIOMMU_AGENT_SMMUV3_SPEC_ID_REGISTERS_H_
#define VIOMMU_AGENT_SMMUV3_SPEC_ID_REGISTERS_H_

#include <array>
#include <cstdint>

namespace viommu::smmuv3 {

// SMMU_IDR0 to SMMU_IDR5, raw.
using IdRegisters = std::array<uint32_t, 6>;

// The registers taken apart.
struct Features {
  // IDR0 (6.3.1)
  bool stage2 = false;        // S2P, bit 0
  bool stage1 = false;        // S1P, bit 1
  bool coherent = false;      // COHACC, bit 4
  bool hyp = false;           // Hyp, bit 9
  bool ats = false;           // ATS, bit 10
  uint32_t asid_bits = 8;     // ASID16, bit 12
  bool pri = false;           // PRI, bit 16
  uint32_t vmid_bits = 8;     // VMID16, bit 18
  bool stall = false;         // STALL_MODEL, bits 25:24, other than 1: transactions can wait for software
  bool two_level_st = false;  // ST_LEVEL, bits 28:27

  // IDR1 (6.3.2)
  uint32_t sid_bits = 0;        // SIDSIZE, bits 5:0
  uint32_t ssid_bits = 0;       // SSIDSIZE, bits 10:6
  uint32_t cmdq_log2_size = 0;  // CMDQS, bits 25:21: log2 of the most entries of the command queue

  // IDR3 (6.3.4)
  bool fwb = false;  // FWB, bit 8: stage 2 can force write-back
  bool ril = false;  // RIL, bit 10: range invalidation and level hint

  // IDR5 (6.3.6)
  uint32_t oas_bits = 0;  // OAS, bits 2:0: width of a physical address; 0 for the reserved value
  bool gran4k = false;    // GRAN4K, bit 4
  bool gran16k = false;   // GRAN16K, bit 5
  bool gran64k = false;   // GRAN64K, bit 6
  bool ds = false;        // DS, bit 7: 52-bit addresses with small granules

  friend bool operator==(const Features&, const Features&) = default;
};

Features DecodeIdRegisters(const IdRegisters& idr);

// Registers that say `features`; what Features does not hold is 0. Reserved widths are rounded down to the next one
// there is.
IdRegisters EncodeIdRegisters(const Features& features);

// Whether Linux nests on this SMMU: it has both stages, and is not one of the Arm MMU-600 and MMU-700 releases whose
// errata make the driver give nesting up (arm_smmu_device_iidr_probe()). `iidr` is SMMU_IIDR.
bool CanNest(const Features& features, uint32_t iidr);

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_SPEC_ID_REGISTERS_H_
