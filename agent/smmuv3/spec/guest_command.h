// Which commands a guest may send through IOMMU_HWPT_INVALIDATE, and what they may say.
//
// Linux passes on eight opcodes (arm_vsmmu_convert_user_cmd()). Linux 7.2 looks at the opcode, replaces VMID and
// StreamID and leaves every other bit to the hardware; later kernels look at every bit. CheckGuestOpcode() is the
// former, CheckGuestCommand() the latter.

#ifndef VIOMMU_AGENT_SMMUV3_SPEC_GUEST_COMMAND_H_
#define VIOMMU_AGENT_SMMUV3_SPEC_GUEST_COMMAND_H_

#include <cstdint>

#include "agent/smmuv3/spec/id_registers.h"
#include "agent/smmuv3/spec/words.h"

namespace viommu::smmuv3 {

enum class GuestCommandRule : uint8_t {
  kNone,            // acceptable
  kOpcodeUnknown,   // no such command on this queue
  kOpcodeHost,      // a command, but not for a guest; DescribeGuestOpcode() says why
  kReservedBits,    // a bit that means nothing in this command on this SMMU
  kNoAts,           // CMD_ATC_INV without IDR0.ATS
  kAtcSize,         // CMD_ATC_INV.Size above 52
  kSubstream,       // CMD_ATC_INV or CMD_CFGI_CD with a SubstreamID wider than IDR1.SSIDSIZE
  kAsidWidth,       // an ASID wider than IDR0.ASID16 says
  kRangeWithoutTg,  // NUM, SCALE or TTL with TG 0
  kRangeReserved,   // TG with neither level nor range
  kRangeLevel,      // TG 2 (16 KiB) with TTL 1, or SCALE above 31, without IDR5.DS
};

// By opcode alone: kNone, kOpcodeUnknown or kOpcodeHost.
GuestCommandRule CheckGuestOpcode(uint8_t opcode);

// Every rule, for an SMMU with `features`. VMID and StreamID are not looked at: they are replaced. The first rule
// broken, in the order of the enumeration.
GuestCommandRule CheckGuestCommand(const RawCommand& raw, const Features& features);

// For people: the rule, and the way out.
const char* DescribeGuestCommandRule(GuestCommandRule rule);

// Why a guest may not send this opcode and what to do instead; nullptr when it may.
const char* DescribeGuestOpcode(uint8_t opcode);

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_SPEC_GUEST_COMMAND_H_
