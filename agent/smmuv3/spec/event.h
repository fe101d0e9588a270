// Records of the event queue (IHI 0070, 7.3) and of the PRI queue (8.2).

#ifndef VIOMMU_AGENT_SMMUV3_SPEC_EVENT_H_
#define VIOMMU_AGENT_SMMUV3_SPEC_EVENT_H_

#include <array>
#include <cstdint>
#include <string>

#include "agent/smmuv3/spec/bits.h"

namespace viommu::smmuv3 {

// A 32-byte record.
using RawEvent = std::array<uint64_t, 4>;

// Bits 7:0 of the first word.
enum class EventId : uint8_t {
  kFUut = 0x01,              // 7.3.2, unsupported upstream transaction
  kCBadStreamId = 0x02,      // 7.3.3
  kFSteFetch = 0x03,         // 7.3.4
  kCBadSte = 0x04,           // 7.3.5
  kFBadAtsTreq = 0x05,       // 7.3.6
  kFStreamDisabled = 0x06,   // 7.3.7
  kFTranslForbidden = 0x07,  // 7.3.8
  kCBadSubstreamId = 0x08,   // 7.3.9
  kFCdFetch = 0x09,          // 7.3.10
  kCBadCd = 0x0a,            // 7.3.11
  kFWalkEabt = 0x0b,         // 7.3.12
  kFTranslation = 0x10,      // 7.3.13
  kFAddrSize = 0x11,         // 7.3.14
  kFAccess = 0x12,           // 7.3.15
  kFPermission = 0x13,       // 7.3.16
  kFTlbConflict = 0x20,      // 7.3.17
  kFCfgConflict = 0x21,      // 7.3.18
  kEPageRequest = 0x24,      // 7.3.19
  kFVmsFetch = 0x25,         // 7.3.20
};

// "F_TRANSLATION"; "EVENT_UNKNOWN" for an unknown id.
const char* EventName(uint8_t id);

namespace event {
// First word.
inline constexpr BitField kId{7, 0};
inline constexpr BitField kSsv{11, 11};
inline constexpr BitField kSsid{31, 12};
inline constexpr BitField kSid{63, 32};
// Second word.
inline constexpr BitField kStag{15, 0};
// Implementation defined: F_UUT, faults of fetches; F_TLB_CONFLICT and F_CFG_CONFLICT.
inline constexpr BitField kReason{15, 0};
inline constexpr BitField kConflictReason{31, 0};
inline constexpr BitField kStall{31, 31};
inline constexpr BitField kPnu{33, 33};
inline constexpr BitField kInd{34, 34};
inline constexpr BitField kRnw{35, 35};
inline constexpr BitField kS2{39, 39};  // stage 2 is to blame
inline constexpr BitField kClass{41, 40};
inline constexpr BitField kTtRead{44, 44};  // TTRnW: F_PERMISSION alone
// Third word.
inline constexpr BitField kInputAddress{63, 0};
inline constexpr BitField kInputPage{63, 12};  // in place: F_BAD_ATS_TREQ and E_PAGE_REQUEST
// Fourth word.
inline constexpr BitField kIpa{51, 12};          // in place
inline constexpr BitField kFetchAddress{51, 3};  // in place
}  // namespace event

// Event.CLASS: for what an address was translated that came to grief in stage 2. In stage 1 it is kInput, but for
// F_WALK_EABT, where it is kTable.
enum class EventClass : uint8_t {
  kCd = 0,     // fetching a context descriptor
  kTable = 1,  // walking a stage-1 table
  kInput = 2,  // the transaction itself
};

// "CD", "TT", "IN"; "reserved" for 3.
const char* ToString(EventClass cls);

// A record taken apart. Which members mean something depends on the id; EncodeEvent() ignores the others:
// F_STREAM_DISABLED and F_TRANSL_FORBIDDEN say no SubstreamID, C_BAD_SUBSTREAMID always does and has no SSV.
// Not modelled: the permissions and spans of F_BAD_ATS_TREQ and E_PAGE_REQUEST.
struct Event {
  EventId id = EventId::kFUut;
  uint32_t sid = 0;
  bool ssv = false;
  uint32_t ssid = 0;
  // Faults of translations (0x10 to 0x13), some also in other events.
  uint16_t stag = 0;
  bool stall = false;
  bool privileged = false;   // PnU
  bool instruction = false;  // InD
  bool read = false;         // RnW
  bool stage2 = false;       // S2
  EventClass cls = EventClass::kInput;
  bool tt_read = false;  // TTRnW: F_PERMISSION with CLASS kTable; the walk was reading, not updating
  uint64_t address = 0;  // input address
  uint64_t ipa = 0;      // faults of stage 2: page-aligned
  // F_STE_FETCH, F_CD_FETCH, F_WALK_EABT, F_VMS_FETCH.
  uint64_t fetch_address = 0;  // 8-byte aligned
  // Events without a stall tag: what the implementation wants to add.
  uint32_t reason = 0;

  friend bool operator==(const Event&, const Event&) = default;
};

RawEvent EncodeEvent(const Event& event);
// Fields of `raw`, reserved bits ignored. The id is as it stands there, known or not; with an unknown one only the
// first word is taken apart.
Event DecodeEvent(const RawEvent& raw);
// The bits that have a meaning here in events of this id.
RawEvent EventDefinedBits(EventId id);
// Whether events of this id say where the access went (Event::address).
bool HasInputAddress(EventId id);
// "F_TRANSLATION{StreamID=0x10 SSV SubstreamID=3 RnW CLASS=IN InputAddr=0x1000}", for people.
std::string ToString(const Event& event);

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
    default:
      return false;
  }
}

// `record` with the guest's StreamID in place of the physical one.
constexpr RawEvent WithSid(RawEvent record, uint32_t sid) {
  record[0] = event::kSid.Set(record[0], sid);
  return record;
}

// ---- PRI queue ----------------------------------------------------------------------------------------------------

// A 16-byte record (8.2).
using RawPageRequest = std::array<uint64_t, 2>;

namespace pri {
// First word.
inline constexpr BitField kSid{31, 0};
inline constexpr BitField kSsid{51, 32};
inline constexpr BitField kPrivileged{58, 58};
inline constexpr BitField kExecute{59, 59};
inline constexpr BitField kRead{60, 60};
inline constexpr BitField kWrite{61, 61};
inline constexpr BitField kLast{62, 62};
inline constexpr BitField kSsv{63, 63};
// Second word.
inline constexpr BitField kGroup{8, 0};
inline constexpr BitField kAddress{63, 12};  // in place
}  // namespace pri

struct PageRequest {
  uint32_t sid = 0;
  bool ssv = false;
  uint32_t ssid = 0;
  bool privileged = false, execute = false, read = false, write = false;
  bool last = false;     // of its group
  uint16_t group = 0;    // 9 bits
  uint64_t address = 0;  // page-aligned

  friend bool operator==(const PageRequest&, const PageRequest&) = default;
};

RawPageRequest EncodePageRequest(const PageRequest& request);
PageRequest DecodePageRequest(const RawPageRequest& raw);
RawPageRequest PageRequestDefinedBits();
// "PRI{StreamID=0x10 R Last PRGIndex=3 Address=0x1000}", for people.
std::string ToString(const PageRequest& request);

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_SPEC_EVENT_H_
