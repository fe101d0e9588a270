// Registers of NVIDIA's CMDQV, the block beside each SMMU of a Tegra241 that gives it further command queues: offsets
// and fields as Linux's driver uses them (drivers/iommu/arm/arm-smmu-v3/tegra241-cmdqv.c). It is no part of IHI 0070.
//
//   VINTF    virtual interface: a window on some queues for one owner. Number 0 is the host's, the others are guests'.
//   VCMDQ    a command queue; inside an interface it is LVCMDQ n, counted from 0.
//   page 0   what the owner of an interface uses without a trap: a block of registers for each of its LVCMDQs.
//   page 1   where the queues are in memory: the host's alone.

#ifndef VIOMMU_AGENT_SMMUV3_SPEC_CMDQV_H_
#define VIOMMU_AGENT_SMMUV3_SPEC_CMDQV_H_

#include <cstdint>

#include "agent/smmuv3/spec/bits.h"

namespace viommu::smmuv3::cmdqv {

// What the registers have room for.
inline constexpr uint32_t kMaxVintfs = 64;            // with number 0; bits of VINTF_ERR_MAP
inline constexpr uint32_t kMaxLvcmdqsPerVintf = 128;  // bits of LVCMDQ_ERR_MAP
inline constexpr uint32_t kMaxSidSlots = 16;          // words from SID_MATCH to SID_REPLACE

inline constexpr uint64_t kPageBytes = 0x10000;  // of a page 0 or page 1

// ---- Page 0 of an interface -----------------------------------------------------------------------------------------

inline constexpr uint32_t kLvcmdqStride = 0x80;  // bytes from the registers of one queue to those of the next

// 32-bit registers of one queue.
enum class QueueRegister : uint32_t {
  kCons = 0x0,     // hardware writes; software only while the queue is off
  kProd = 0x4,     // software writes
  kConfig = 0x8,   // software writes
  kStatus = 0xc,   // hardware writes
  kGerror = 0x10,  // hardware writes
  kGerrorn = 0x14  // software writes
};

// Byte offset in page 0.
constexpr uint32_t Offset(uint32_t lvcmdq, QueueRegister reg) {
  return lvcmdq * kLvcmdqStride + static_cast<uint32_t>(reg);
}

// CONS and PROD hold an index in their low LOG2SIZE bits and the lap's parity in the bit above, as SMMU_CMDQ_CONS and
// SMMU_CMDQ_PROD do (IHI 0070, 3.5.1).
inline constexpr BitField kConsErr{30, 24};
inline constexpr BitField kConfigEn{0, 0};
inline constexpr BitField kStatusEnOk{0, 0};
inline constexpr BitField kGerrorCmdqErr{0, 0};

// ---- Page 1 ---------------------------------------------------------------------------------------------------------

// BASE, 64 bits.
inline constexpr BitField kBaseLog2Size{4, 0};
inline constexpr BitField kBaseAddr{47, 5};  // in place

// ---- Configuration of an interface
// ------------------------------------------------------------------------------------

inline constexpr BitField kVintfEn{0, 0};
inline constexpr BitField kVintfVmid{16, 1};
inline constexpr BitField kVintfHypOwn{17, 17};
// SID_MATCH.
inline constexpr BitField kSidMatchEn{0, 0};
inline constexpr BitField kSidMatchVirtSid{20, 1};

// ---- What the emulated one adds
// --------------------------------------------------------------------------------------- Hardware sees every write to
// PROD. A thread has to look, and sleeps when there is nothing for a while. These words of page 0, behind the last
// queue, let a producer wake it; one that does not know them is served late, not never.

// Reads kWakeMagicValue where the wake word exists; 0 on hardware.
inline constexpr uint32_t kWakeMagicOffset = 0xff00;
inline constexpr uint32_t kWakeMagicValue = 0x314b5756;  // "VWK1"

// 1 while the hardware sleeps, or is about to. Who has written a register, then reads 1 here (both sequentially
// consistent), sets it to 0 and wakes one waiter of the word: FUTEX_WAKE, not private.
inline constexpr uint32_t kWakeWordOffset = 0xff40;
inline constexpr uint32_t kWakeWordAwake = 0;
inline constexpr uint32_t kWakeWordSleeping = 1;

}  // namespace viommu::smmuv3::cmdqv

#endif  // VIOMMU_AGENT_SMMUV3_SPEC_CMDQV_H_
