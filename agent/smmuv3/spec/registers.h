// Registers of an SMMUv3 (IHI 0070, 6.3) that the emulated one has: offsets from the base of its Non-secure page, and
// fields. Registers that are 64 bits wide say so; all others are 32 bits wide.
//
// ID registers: agent/smmuv3/spec/id_registers.h.

#ifndef VIOMMU_AGENT_SMMUV3_SPEC_REGISTERS_H_
#define VIOMMU_AGENT_SMMUV3_SPEC_REGISTERS_H_

#include <array>
#include <cstdint>

#include "agent/smmuv3/spec/bits.h"

namespace viommu::smmuv3 {

enum class Register : uint32_t {
  kIdr0 = 0x0,
  kIdr1 = 0x4,
  kIdr2 = 0x8,
  kIdr3 = 0xc,
  kIdr4 = 0x10,
  kIdr5 = 0x14,
  kIidr = 0x18,
  kAidr = 0x1c,
  kCr0 = 0x20,
  kCr0Ack = 0x24,
  kCr1 = 0x28,
  kCr2 = 0x2c,
  kGbpa = 0x44,
  kIrqCtrl = 0x50,
  kIrqCtrlAck = 0x54,
  kGerror = 0x60,
  kGerrorn = 0x64,
  kGerrorIrqCfg0 = 0x68,  // 64 bits, as all of *_IRQ_CFG0
  kGerrorIrqCfg1 = 0x70,
  kGerrorIrqCfg2 = 0x74,
  kStrtabBase = 0x80,  // 64 bits
  kStrtabBaseCfg = 0x88,
  kCmdqBase = 0x90,  // 64 bits
  kCmdqProd = 0x98,
  kCmdqCons = 0x9c,
  kEventqBase = 0xa0,  // 64 bits
  kEventqIrqCfg0 = 0xb0,
  kEventqIrqCfg1 = 0xb8,
  kEventqIrqCfg2 = 0xbc,
  kEventqProd = 0x100a8,  // in the second page, as EVENTQ_CONS and the PRI queue's two
  kEventqCons = 0x100ac,
  kPriqBase = 0xc0,  // 64 bits
  kPriqIrqCfg0 = 0xd0,
  kPriqIrqCfg1 = 0xd8,
  kPriqIrqCfg2 = 0xdc,
  kPriqProd = 0x100c8,
  kPriqCons = 0x100cc,
};

inline constexpr std::array kAllRegisters = {
    Register::kIdr0,          Register::kIdr1,          Register::kIdr2,          Register::kIdr3,
    Register::kIdr4,          Register::kIdr5,          Register::kIidr,          Register::kAidr,
    Register::kCr0,           Register::kCr0Ack,        Register::kCr1,           Register::kCr2,
    Register::kGbpa,          Register::kIrqCtrl,       Register::kIrqCtrlAck,    Register::kGerror,
    Register::kGerrorn,       Register::kStrtabBase,    Register::kStrtabBaseCfg, Register::kCmdqBase,
    Register::kCmdqProd,      Register::kCmdqCons,      Register::kEventqBase,    Register::kEventqProd,
    Register::kEventqCons,    Register::kPriqBase,      Register::kPriqProd,      Register::kPriqCons,
    Register::kGerrorIrqCfg0, Register::kGerrorIrqCfg1, Register::kGerrorIrqCfg2, Register::kEventqIrqCfg0,
    Register::kEventqIrqCfg1, Register::kEventqIrqCfg2, Register::kPriqIrqCfg0,   Register::kPriqIrqCfg1,
    Register::kPriqIrqCfg2,
};

// "SMMU_CR0"; nullptr for an offset where there is none.
const char* RegisterName(uint32_t offset);
// Whether the register is 64 bits wide.
bool IsWide(Register reg);

namespace cr0 {
inline constexpr BitField kSmmuEn{0, 0};
inline constexpr BitField kPriqEn{1, 1};
inline constexpr BitField kEventqEn{2, 2};
inline constexpr BitField kCmdqEn{3, 3};
inline constexpr BitField kAtsChk{4, 4};
}  // namespace cr0

// Attributes of the SMMU's own accesses to tables and queues.
namespace cr1 {
inline constexpr BitField kQueueIc{1, 0};
inline constexpr BitField kQueueOc{3, 2};
inline constexpr BitField kQueueSh{5, 4};
inline constexpr BitField kTableIc{7, 6};
inline constexpr BitField kTableOc{9, 8};
inline constexpr BitField kTableSh{11, 10};
}  // namespace cr1

namespace cr2 {
inline constexpr BitField kE2h{0, 0};
inline constexpr BitField kRecInvSid{1, 1};  // record C_BAD_STREAMID
inline constexpr BitField kPtm{2, 2};        // TLB maintenance that CPUs broadcast does not reach the SMMU
}  // namespace cr2

namespace gbpa {
inline constexpr BitField kAbort{20, 20};
inline constexpr BitField kUpdate{31, 31};
}  // namespace gbpa

namespace irq_ctrl {
inline constexpr BitField kGerrorIrqEn{0, 0};
inline constexpr BitField kPriqIrqEn{1, 1};
inline constexpr BitField kEventqIrqEn{2, 2};
}  // namespace irq_ctrl

// Where an interrupt is written to: *_IRQ_CFG0 has the address (0: there is a wire instead), *_IRQ_CFG1 the data,
// *_IRQ_CFG2 memory attributes.
namespace irq_cfg0 {
inline constexpr BitField kAddr{51, 2};  // in place
}  // namespace irq_cfg0
namespace priq_irq_cfg2 {
inline constexpr BitField kLo{31, 31};  // interrupt for the last request of a group alone
}  // namespace priq_irq_cfg2

// An error is active while its bit differs between GERROR and GERRORN.
namespace gerror {
inline constexpr BitField kCmdq{0, 0};
inline constexpr BitField kEventqAbt{2, 2};
inline constexpr BitField kPriqAbt{3, 3};
inline constexpr BitField kMsiCmdqAbt{4, 4};
inline constexpr BitField kMsiEventqAbt{5, 5};
inline constexpr BitField kMsiPriqAbt{6, 6};
inline constexpr BitField kMsiGerrorAbt{7, 7};
inline constexpr BitField kSfm{8, 8};
}  // namespace gerror

namespace strtab_base {
inline constexpr BitField kRa{62, 62};
inline constexpr BitField kAddr{51, 6};  // in place
}  // namespace strtab_base

namespace strtab_base_cfg {
inline constexpr BitField kLog2Size{5, 0};  // StreamIDs: 2^LOG2SIZE
inline constexpr BitField kSplit{10, 6};    // two-level: StreamID bits of a level-2 table; 6, 8 or 10
inline constexpr BitField kFmt{17, 16};     // 0 linear, 1 two-level
}  // namespace strtab_base_cfg

// Bases of the three queues.
namespace queue_base {
inline constexpr BitField kLog2Size{4, 0};
inline constexpr BitField kAddr{51, 5};  // in place
inline constexpr BitField kHint{62, 62};
}  // namespace queue_base
// PROD of the event and the PRI queue, and its acknowledgement in CONS.
inline constexpr BitField kQueueOverflow{31, 31};
// CMDQ_CONS.
namespace cmdq_cons {
inline constexpr BitField kErr{30, 24};
}  // namespace cmdq_cons

// CMDQ_CONS.ERR (7.1); 4 is NVIDIA's, for its own queues.
enum class CommandErrorCode : uint8_t { kNone = 0, kIllegal = 1, kAbort = 2, kAtcInvSync = 3, kIllegalAccess = 4 };
// "CERROR_ILL"; "CERROR_UNKNOWN" for a code that there is not.
const char* CommandErrorName(CommandErrorCode code);

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_SPEC_REGISTERS_H_
