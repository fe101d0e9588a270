// What an SMMU says about itself: SMMU_IDR0 to SMMU_IDR5 and SMMU_IIDR (IHI 0070, 6.3.1 to 6.3.7), as far as this
// project goes by it.

#ifndef VIOMMU_AGENT_SMMUV3_SPEC_ID_REGISTERS_H_
#define VIOMMU_AGENT_SMMUV3_SPEC_ID_REGISTERS_H_

#include <array>
#include <cstdint>
#include <string>

namespace viommu::smmuv3 {

// SMMU_IDR0 to SMMU_IDR5, raw.
using IdRegisters = std::array<uint32_t, 6>;

// IDR0.STALL_MODEL: what may become of a transaction that faults.
enum class StallModel : uint8_t {
  kStallOrTerminate = 0,  // as CD.S and STE.S2S say
  kTerminate = 1,         // never waits: CD.S and STE.S2S must be 0
  kStall = 2,             // always waits: CD.S and STE.S2S must be 1
  kReserved = 3,
};

// IDR0.TTENDIAN: byte orders of translation tables.
enum class TableEndianness : uint8_t { kMixed = 0, kReserved = 1, kLittle = 2, kBig = 3 };

// The registers taken apart.
struct Features {
  // IDR0 (6.3.1)
  bool stage2 = false;        // S2P, bit 0
  bool stage1 = false;        // S1P, bit 1
  bool aarch32 = false;       // TTF, bit 2: tables of VMSAv8-32 LPAE
  bool aarch64 = false;       // TTF, bit 3: tables of VMSAv8-64
  bool coherent = false;      // COHACC, bit 4
  bool hyp = false;           // Hyp, bit 9
  bool ats = false;           // ATS, bit 10
  uint32_t asid_bits = 8;     // ASID16, bit 12
  bool msi = false;           // MSI, bit 13: interrupts by writing to memory, CMD_SYNC's too
  bool sev = false;           // SEV, bit 14: CMD_SYNC can send an event to the CPUs
  bool pri = false;           // PRI, bit 16
  uint32_t vmid_bits = 8;     // VMID16, bit 18
  bool two_level_cd = false;  // CD2L, bit 19
  TableEndianness table_endianness = TableEndianness::kMixed;  // TTENDIAN, bits 22:21
  StallModel stall_model = StallModel::kTerminate;             // STALL_MODEL, bits 25:24
  // TERM_MODEL, bit 26: terminated transactions are always aborted, CD.A must be 1. Else CD.A chooses between that and
  // RAZ/WI.
  bool terminate_aborts = false;
  bool two_level_st = false;  // ST_LEVEL, bits 28:27

  // IDR1 (6.3.2)
  uint32_t sid_bits = 0;          // SIDSIZE, bits 5:0
  uint32_t ssid_bits = 0;         // SSIDSIZE, bits 10:6
  uint32_t priq_log2_size = 0;    // PRIQS, bits 15:11: log2 of the most entries of the PRI queue
  uint32_t eventq_log2_size = 0;  // EVENTQS, bits 20:16: likewise, event queue
  uint32_t cmdq_log2_size = 0;    // CMDQS, bits 25:21: likewise, command queue
  bool override_perms = false;    // ATTR_PERMS_OVR, bit 26: STE.INSTCFG and PRIVCFG work
  bool override_types = false;    // ATTR_TYPES_OVR, bit 27: STE.MTCFG, MemAttr, SHCFG and ALLOCCFG work

  // IDR3 (6.3.4)
  bool had = false;  // HAD, bit 2: CD.HAD0 and HAD1 work
  bool xnx = false;  // XNX, bit 4: stage 2 tells privileged from unprivileged execution
  bool fwb = false;  // FWB, bit 8: stage 2 can force write-back
  bool ril = false;  // RIL, bit 10: range invalidation and level hint
  uint8_t bbml = 0;  // BBML, bits 12:11: how much break-before-make a change of block size needs; 2: none

  // IDR5 (6.3.6)
  uint32_t oas_bits = 0;   // OAS, bits 2:0: width of a physical address; 0 for the reserved value
  bool gran4k = false;     // GRAN4K, bit 4
  bool gran16k = false;    // GRAN16K, bit 5
  bool gran64k = false;    // GRAN64K, bit 6
  bool ds = false;         // DS, bit 7: 52-bit addresses with small granules
  bool vax = false;        // VAX, bits 11:10: 52-bit virtual addresses, else 48
  uint16_t stall_max = 0;  // STALL_MAX, bits 31:16: transactions that can wait at a time

  // Whether transactions can wait for software: CMD_RESUME and CMD_STALL_TERM exist.
  bool CanStall() const { return stall_model == StallModel::kStallOrTerminate || stall_model == StallModel::kStall; }

  friend bool operator==(const Features&, const Features&) = default;
};

const char* ToString(StallModel model);
const char* ToString(TableEndianness endianness);

Features DecodeIdRegisters(const IdRegisters& idr);

// Registers that say `features`; what Features does not hold is 0. Reserved widths are rounded down to the next one
// there is.
IdRegisters EncodeIdRegisters(const Features& features);

// "IDR{S1P S2P ... OAS=0x30}", for people.
std::string ToString(const Features& features);

// Whether Linux nests on this SMMU: it has both stages, and is not one of the Arm MMU-600 and MMU-700 releases whose
// errata make the driver give nesting up (arm_smmu_device_iidr_probe()). `iidr` is SMMU_IIDR.
bool CanNest(const Features& features, uint32_t iidr);

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_SPEC_ID_REGISTERS_H_
