#include "agent/smmuv3/spec/event.h"

#include <utility>

#include "agent/smmuv3/spec/layout.h"

namespace viommu::smmuv3 {
namespace {

// The one description of all layouts (spec/layout.h), by the event's id, which stands in front of them.
template <typename AnyEvent, typename Visitor>
constexpr void VisitFields(AnyEvent& e, Visitor& visit) {
  const auto substream = [&] {
    visit.Value("SSV", e.ssv, 0, event::kSsv);
    visit.Value("SubstreamID", e.ssid, 0, event::kSsid);
  };
  const auto attributes = [&] {
    visit.Value("PnU", e.privileged, 1, event::kPnu);
    visit.Value("InD", e.instruction, 1, event::kInd);
    visit.Value("RnW", e.read, 1, event::kRnw);
    visit.Address("InputAddr", e.address, 2, event::kInputAddress);
  };
  const auto stage = [&] {
    visit.Value("S2", e.stage2, 1, event::kS2);
    visit.Value("CLASS", e.cls, 1, event::kClass);
  };
  visit.Value("StreamID", e.sid, 0, event::kSid);
  switch (e.id) {
    case EventId::kFUut:
      substream();
      visit.Value("Reason", e.reason, 1, event::kReason);
      attributes();
      break;
    case EventId::kCBadStreamId:
    case EventId::kCBadSte:
    case EventId::kCBadCd:
      substream();
      break;
    case EventId::kFSteFetch:
    case EventId::kFCdFetch:
    case EventId::kFVmsFetch:
      substream();
      visit.Value("Reason", e.reason, 1, event::kReason);
      visit.Address("FetchAddr", e.fetch_address, 3, event::kFetchAddress);
      break;
    case EventId::kFBadAtsTreq:
    case EventId::kEPageRequest:
      substream();
      visit.Address("InputAddr", e.address, 2, event::kInputPage);
      break;
    case EventId::kFStreamDisabled:
      break;
    case EventId::kFTranslForbidden:
      visit.Value("RnW", e.read, 1, event::kRnw);
      visit.Address("InputAddr", e.address, 2, event::kInputAddress);
      break;
    case EventId::kCBadSubstreamId:
      visit.Value("SubstreamID", e.ssid, 0, event::kSsid);
      break;
    case EventId::kFWalkEabt:
      substream();
      visit.Value("Reason", e.reason, 1, event::kReason);
      stage();
      attributes();
      visit.Address("FetchAddr", e.fetch_address, 3, event::kFetchAddress);
      break;
    case EventId::kFTranslation:
    case EventId::kFAddrSize:
    case EventId::kFAccess:
    case EventId::kFPermission:
      substream();
      visit.Value("STAG", e.stag, 1, event::kStag);
      visit.Value("Stall", e.stall, 1, event::kStall);
      stage();
      if (e.id == EventId::kFPermission) visit.Value("TTRnW", e.tt_read, 1, event::kTtRead);
      attributes();
      visit.Address("IPA", e.ipa, 3, event::kIpa);
      break;
    case EventId::kFTlbConflict:
      substream();
      visit.Value("Reason", e.reason, 1, event::kConflictReason);
      visit.Value("S2", e.stage2, 1, event::kS2);
      attributes();
      visit.Address("IPA", e.ipa, 3, event::kIpa);
      break;
    case EventId::kFCfgConflict:
      substream();
      visit.Value("Reason", e.reason, 1, event::kConflictReason);
      break;
    default:
      substream();
      break;
  }
}

template <typename AnyRequest, typename Visitor>
constexpr void VisitRequest(AnyRequest& r, Visitor& visit) {
  visit.Value("StreamID", r.sid, 0, pri::kSid);
  visit.Value("SSV", r.ssv, 0, pri::kSsv);
  visit.Value("SubstreamID", r.ssid, 0, pri::kSsid);
  visit.Value("Priv", r.privileged, 0, pri::kPrivileged);
  visit.Value("X", r.execute, 0, pri::kExecute);
  visit.Value("R", r.read, 0, pri::kRead);
  visit.Value("W", r.write, 0, pri::kWrite);
  visit.Value("Last", r.last, 0, pri::kLast);
  visit.Value("PRGIndex", r.group, 1, pri::kGroup);
  visit.Address("Address", r.address, 1, pri::kAddress);
}

constexpr LayoutMasker<RawEvent> MaskOf(EventId id) {
  LayoutMasker<RawEvent> masker;
  masker.words[0] = event::kId.mask();
  const Event record{.id = id};
  VisitFields(record, masker);
  return masker;
}

constexpr bool AllDisjoint() {
  for (uint32_t id = 0; id < 256; ++id) {
    if (!MaskOf(static_cast<EventId>(id)).disjoint) return false;
  }
  return true;
}
static_assert(AllDisjoint());

constexpr LayoutMasker<RawPageRequest> RequestMask() {
  LayoutMasker<RawPageRequest> masker;
  const PageRequest request;
  VisitRequest(request, masker);
  return masker;
}
static_assert(RequestMask().disjoint);

}  // namespace

const char* EventName(uint8_t id) {
  switch (static_cast<EventId>(id)) {
    case EventId::kFUut:
      return "F_UUT";
    case EventId::kCBadStreamId:
      return "C_BAD_STREAMID";
    case EventId::kFSteFetch:
      return "F_STE_FETCH";
    case EventId::kCBadSte:
      return "C_BAD_STE";
    case EventId::kFBadAtsTreq:
      return "F_BAD_ATS_TREQ";
    case EventId::kFStreamDisabled:
      return "F_STREAM_DISABLED";
    case EventId::kFTranslForbidden:
      return "F_TRANSL_FORBIDDEN";
    case EventId::kCBadSubstreamId:
      return "C_BAD_SUBSTREAMID";
    case EventId::kFCdFetch:
      return "F_CD_FETCH";
    case EventId::kCBadCd:
      return "C_BAD_CD";
    case EventId::kFWalkEabt:
      return "F_WALK_EABT";
    case EventId::kFTranslation:
      return "F_TRANSLATION";
    case EventId::kFAddrSize:
      return "F_ADDR_SIZE";
    case EventId::kFAccess:
      return "F_ACCESS";
    case EventId::kFPermission:
      return "F_PERMISSION";
    case EventId::kFTlbConflict:
      return "F_TLB_CONFLICT";
    case EventId::kFCfgConflict:
      return "F_CFG_CONFLICT";
    case EventId::kEPageRequest:
      return "E_PAGE_REQUEST";
    case EventId::kFVmsFetch:
      return "F_VMS_FETCH";
  }
  return "EVENT_UNKNOWN";
}

const char* ToString(EventClass cls) {
  switch (cls) {
    case EventClass::kCd:
      return "CD";
    case EventClass::kTable:
      return "TT";
    case EventClass::kInput:
      return "IN";
  }
  return "reserved";
}

RawEvent EncodeEvent(const Event& record) {
  LayoutEncoder<RawEvent> encoder;
  encoder.words[0] = event::kId.Set(0, static_cast<uint64_t>(record.id));
  VisitFields(record, encoder);
  return encoder.words;
}

Event DecodeEvent(const RawEvent& raw) {
  Event record;
  record.id = static_cast<EventId>(event::kId.Get(raw[0]));
  LayoutDecoder<RawEvent> decoder{raw};
  VisitFields(record, decoder);
  return record;
}

RawEvent EventDefinedBits(EventId id) { return MaskOf(id).words; }

bool HasInputAddress(EventId id) { return EventDefinedBits(id)[2] != 0; }

std::string ToString(const Event& record) {
  LayoutPrinter printer(EventName(static_cast<uint8_t>(record.id)));
  VisitFields(record, printer);
  return std::move(printer).Finish();
}

RawPageRequest EncodePageRequest(const PageRequest& request) {
  LayoutEncoder<RawPageRequest> encoder;
  VisitRequest(request, encoder);
  return encoder.words;
}

PageRequest DecodePageRequest(const RawPageRequest& raw) {
  PageRequest request;
  LayoutDecoder<RawPageRequest> decoder{raw};
  VisitRequest(request, decoder);
  return request;
}

RawPageRequest PageRequestDefinedBits() { return RequestMask().words; }

std::string ToString(const PageRequest& request) {
  LayoutPrinter printer("PRI");
  VisitRequest(request, printer);
  return std::move(printer).Finish();
}

}  // namespace viommu::smmuv3
