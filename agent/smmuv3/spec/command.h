// Commands of the Non-secure command queue (IHI 0070, chapter 4): raw words to fields and back.
//
// Left out are the commands of other queues and regimes (EL3, Secure, Realm) and of MPAM (CMD_CFGI_VMS_PIDM): on the
// queue that this project serves they are unknown opcodes, and so is every IMPLEMENTATION DEFINED one.

#ifndef VIOMMU_AGENT_SMMUV3_SPEC_COMMAND_H_
#define VIOMMU_AGENT_SMMUV3_SPEC_COMMAND_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "agent/smmuv3/spec/bits.h"
#include "agent/smmuv3/spec/words.h"

namespace viommu::smmuv3 {

// 4.1.1. The value is bits 7:0 of a command's first word.
enum class Opcode : uint8_t {
  kPrefetchConfig = 0x01,  // 4.2.1
  kPrefetchAddr = 0x02,    // 4.2.2
  kCfgiSte = 0x03,         // 4.3.1
  kCfgiSteRange = 0x04,    // 4.3.2; with range 31 it is CMD_CFGI_ALL, 4.3.6
  kCfgiCd = 0x05,          // 4.3.3
  kCfgiCdAll = 0x06,       // 4.3.4
  kTlbiNhAll = 0x10,       // 4.4.2.1
  kTlbiNhAsid = 0x11,      // 4.4.2.2
  kTlbiNhVa = 0x12,        // 4.4.2.4
  kTlbiNhVaa = 0x13,       // 4.4.2.3
  kTlbiEl2All = 0x20,      // 4.4.2.7
  kTlbiEl2Asid = 0x21,     // 4.4.2.10
  kTlbiEl2Va = 0x22,       // 4.4.2.8
  kTlbiEl2Vaa = 0x23,      // 4.4.2.9
  kTlbiS12Vmall = 0x28,    // 4.4.3.2
  kTlbiS2Ipa = 0x2a,       // 4.4.3.1
  kTlbiNsnhAll = 0x30,     // 4.4.4.1
  kAtcInv = 0x40,          // 4.5.1
  kPriResp = 0x41,         // 4.5.2
  kResume = 0x44,          // 4.7.1
  kStallTerm = 0x45,       // 4.7.2
  kSync = 0x46,            // 4.7.3
};

inline constexpr std::array kAllOpcodes = {
    Opcode::kPrefetchConfig, Opcode::kPrefetchAddr, Opcode::kCfgiSte,    Opcode::kCfgiSteRange, Opcode::kCfgiCd,
    Opcode::kCfgiCdAll,      Opcode::kTlbiNhAll,    Opcode::kTlbiNhAsid, Opcode::kTlbiNhVa,     Opcode::kTlbiNhVaa,
    Opcode::kTlbiEl2All,     Opcode::kTlbiEl2Asid,  Opcode::kTlbiEl2Va,  Opcode::kTlbiEl2Vaa,   Opcode::kTlbiS12Vmall,
    Opcode::kTlbiS2Ipa,      Opcode::kTlbiNsnhAll,  Opcode::kAtcInv,     Opcode::kPriResp,      Opcode::kResume,
    Opcode::kStallTerm,      Opcode::kSync,
};

// Fields that layers above rewrite in place.
inline constexpr BitField kOpcodeField = {7, 0};  // first word
inline constexpr BitField kVmidField = {47, 32};  // first word of CMD_TLBI_*
inline constexpr BitField kSidField = {63, 32};   // first word of CMD_CFGI_*, CMD_ATC_INV, ...

// CMD_CFGI_STE_RANGE.Range that means every StreamID (4.3.6).
inline constexpr uint8_t kCfgiRangeAll = 31;
// CMD_ATC_INV.Size that means every address; larger ones are not used (4.5.1).
inline constexpr uint8_t kAtcSizeAll = 52;
// CMD_SYNC.CS (4.7.3).
inline constexpr uint8_t kSyncSignalNone = 0;
inline constexpr uint8_t kSyncSignalIrq = 1;
inline constexpr uint8_t kSyncSignalSev = 2;

// A command taken apart. Which members mean something depends on the opcode; Encode() ignores the others, Decode()
// leaves them as they are here.
struct Command {
  Opcode opcode = Opcode::kSync;

  // Who.
  uint32_t sid = 0;   // StreamID
  uint32_t ssid = 0;  // SubstreamID, 20 bits
  bool ssv = false;   // whether ssid counts; CMD_CFGI_CD has no such bit, there it always counts
  bool ssec = false;  // must be 0 on this queue
  uint16_t vmid = 0;
  uint16_t asid = 0;

  // Where. An address has its low 12 bits clear, except for MSIAddr, which has its low 2 bits clear.
  uint64_t address = 0;
  bool leaf = false;    // last level alone
  uint8_t range = 0;    // CMD_CFGI_STE_RANGE: 2^(range + 1) StreamIDs
  uint8_t num = 0;      // 4.4.1.1, 5 bits
  uint8_t scale = 0;    // 4.4.1.1, 6 bits of which the highest needs IDR5.DS
  uint8_t ttl = 0;      // 4.4.1.1, 2 bits
  uint8_t tg = 0;       // 4.4.1.1: 0 none, 1 = 4 KiB, 2 = 16 KiB, 3 = 64 KiB
  bool ttl128 = false;  // 4.4.1.1
  bool global = false;  // CMD_ATC_INV
  uint8_t size = 0;     // CMD_ATC_INV: 2^size pages of 4 KiB, 6 bits; CMD_PREFETCH_ADDR: 5 bits
  uint8_t stride = 0;   // CMD_PREFETCH_ADDR, 5 bits

  // Answers.
  uint8_t response = 0;  // CMD_PRI_RESP.Resp; CMD_RESUME: bit 0 Ac, bit 1 Ab
  uint16_t tag = 0;      // CMD_PRI_RESP.PRGIndex, 9 bits; CMD_RESUME.STAG, 16 bits

  // CMD_SYNC.
  uint8_t cs = 0;
  uint8_t msh = 0;
  uint8_t msi_attr = 0;
  uint32_t msi_data = 0;

  friend bool operator==(const Command&, const Command&) = default;
};

// The opcode byte, known or not.
constexpr uint8_t OpcodeByte(const RawCommand& raw) { return static_cast<uint8_t>(kOpcodeField.Get(raw.dw0)); }

// The opcode, unless it is unknown here.
std::optional<Opcode> OpcodeOf(const RawCommand& raw);

// Raw words of `command`; values that do not fit their field are cut to it.
RawCommand Encode(const Command& command);

// Fields of `raw`, reserved bits ignored; nothing when its opcode is unknown.
std::optional<Command> Decode(const RawCommand& raw);

// The bits that the architecture gives a meaning in commands of this opcode. All others are reserved (4.1.5).
RawCommand DefinedBits(Opcode opcode);

// "CMD_TLBI_NH_VA"; "CMD_UNKNOWN" for an unknown opcode.
const char* OpcodeName(uint8_t opcode);

// "CMD_TLBI_NH_VA{VMID=3 ASID=5 Leaf Address=0x1000}", for people.
std::string ToString(const Command& command);

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_SPEC_COMMAND_H_
