// Records of the event queue (IHI 0070, 7.3), as far as a host passes them on to a VM.

#ifndef VIOMMU_AGENT_SMMUV3_SPEC_EVENT_H_
#define VIOMMU_AGENT_SMMUV3_SPEC_EVENT_H_

#include <array>
#include <cstdint>

#include "agent/smmuv3/spec/bits.h"

namespace viommu::smmuv3 {

// A 32-byte record.
using RawEvent = std::array<uint64_t, 4>;

// Bits 7:0 of the first word. Only those that can be passed on; the rest concern the host.
enum class EventId : uint8_t {
  kCBadSte = 0x04,          // 7.3.5
  kFStreamDisabled = 0x06,  // 7.3.7
  kCBadSubstreamId = 0x08,  // 7.3.9
  kCBadCd = 0x0a,           // 7.3.11
  kFTranslation = 0x10,     // 7.3.13
  kFAddrSize = 0x11,        // 7.3.14
  kFAccess = 0x12,          // 7.3.15
  kFPermission = 0x13,      // 7.3.16
};

namespace event {
inline constexpr BitField kId{7, 0};       // first word
inline constexpr BitField kSid{63, 32};    // first word
inline constexpr BitField kStall{31, 31};  // second word
inline constexpr BitField kS2{39, 39};     // second word: stage 2 is to blame
}  // namespace event

constexpr uint32_t EventSid(const RawEvent& record) { return static_cast<uint32_t>(event::kSid.Get(record[0])); }

// Whether Linux shows such a record to the VM that has the device: a fault of what the guest controls, and not one that
// is waiting for an answer. Faults of stage 2 hold host-side facts and stay with the host.
constexpr bool IsForGuest(const RawEvent& record) {
  if (event::kStall.Get(record[1]) != 0 || event::kS2.Get(record[1]) != 0) return false;
  switch (static_cast<EventId>(event::kId.Get(record[0]))) {
    case EventId::kCBadSte:
    case EventId::kFStreamDisabled:
    case EventId::kCBadSubstreamId:
    case EventId::kCBadCd:
    case EventId::kFTranslation:
    case EventId::kFAddrSize:
    case EventId::kFAccess:
    case EventId::kFPermission:
      return true;
  }
  return false;
}

// `record` with the guest's StreamID in place of the physical one.
constexpr RawEvent WithSid(RawEvent record, uint32_t sid) {
  record[0] = event::kSid.Set(record[0], sid);
  return record;
}

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_SPEC_EVENT_H_
