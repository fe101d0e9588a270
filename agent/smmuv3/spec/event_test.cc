#include "agent/smmuv3/spec/event.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <cstring>
#include <set>
#include <string>

namespace viommu::smmuv3 {
namespace {

RawEvent AnyEvent() {
  RawEvent raw;
  for (uint64_t& word : raw) word = *rc::gen::arbitrary<uint64_t>();
  // Half of them known.
  if (*rc::gen::arbitrary<bool>()) raw[0] = event::kId.Set(raw[0], *rc::gen::inRange(0, 0x26));
  return raw;
}

RC_GTEST_PROP(EventProperty, EncodeAfterDecodeKeepsEveryDefinedBit, ()) {
  const RawEvent raw = AnyEvent();
  const Event decoded = DecodeEvent(raw);
  const RawEvent defined = EventDefinedBits(decoded.id);
  RawEvent expected;
  for (size_t i = 0; i < raw.size(); ++i) expected[i] = raw[i] & defined[i];
  RC_ASSERT(EncodeEvent(decoded) == expected);
  RC_ASSERT(DecodeEvent(expected) == decoded);
  RC_ASSERT(!ToString(decoded).empty());
}

RC_GTEST_PROP(EventProperty, WhoIsTheSameForAllWays, (uint32_t sid)) {
  const RawEvent raw = AnyEvent();
  RC_ASSERT(EventSid(raw) == DecodeEvent(raw).sid);
  const RawEvent moved = WithSid(raw, sid);
  RC_ASSERT(EventSid(moved) == sid);
  RC_ASSERT(static_cast<uint32_t>(moved[0]) == static_cast<uint32_t>(raw[0]));
  RC_ASSERT(IsForGuest(moved) == IsForGuest(raw));
}

RC_GTEST_PROP(PageRequestProperty, KeepsEveryDefinedBit, (uint64_t first, uint64_t second)) {
  const RawPageRequest defined = PageRequestDefinedBits();
  const PageRequest decoded = DecodePageRequest({first, second});
  RC_ASSERT(EncodePageRequest(decoded) == (RawPageRequest{first & defined[0], second & defined[1]}));
  RC_ASSERT(DecodePageRequest(EncodePageRequest(decoded)) == decoded);
  RC_ASSERT(!ToString(decoded).empty());
}

TEST(EventTest, NamesAreTotalAndDistinct) {
  const std::set<int> known = {0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a,
                               0x0b, 0x10, 0x11, 0x12, 0x13, 0x20, 0x21, 0x24, 0x25};
  std::set<std::string> names;
  for (int id = 0; id < 256; ++id) {
    const std::string name = EventName(static_cast<uint8_t>(id));
    EXPECT_EQ(name != "EVENT_UNKNOWN", known.contains(id)) << id;
    names.insert(name);
  }
  EXPECT_EQ(names.size(), known.size() + 1);
  for (int cls = 0; cls < 4; ++cls) EXPECT_NE(std::strlen(ToString(static_cast<EventClass>(cls))), 0u);
}

// Bit positions against 7.3, written out once by hand.
TEST(EventTest, LayoutsOfTheSpecification) {
  const Event fault = {.id = EventId::kFPermission,
                       .sid = 0xdead'beef,
                       .ssv = true,
                       .ssid = 0x12345,
                       .stag = 0xabcd,
                       .stall = true,
                       .privileged = true,
                       .instruction = true,
                       .read = true,
                       .stage2 = true,
                       .cls = EventClass::kTable,
                       .tt_read = true,
                       .address = 0xffff'8000'0000'0123,
                       .ipa = 0xf'1234'5678'9000};
  const RawEvent raw = {0xdead'beef'1234'5813, 0x0000'118e'8000'abcd, 0xffff'8000'0000'0123, 0xf'1234'5678'9000};
  EXPECT_EQ(EncodeEvent(fault), raw);
  EXPECT_EQ(DecodeEvent(raw), fault);
  EXPECT_EQ(ToString(fault),
            "F_PERMISSION{StreamID=0xdeadbeef SSV SubstreamID=0x12345 STAG=0xabcd Stall S2 CLASS=TT TTRnW PnU InD RnW "
            "InputAddr=0xffff800000000123 IPA=0xf123456789000}");

  EXPECT_EQ(EncodeEvent({.id = EventId::kFCdFetch, .sid = 1, .fetch_address = 0x1008, .reason = 7}),
            (RawEvent{0x1'0000'0009, 7, 0, 0x1008}));
  // The only event whose SubstreamID needs no SSV; and one that names none.
  EXPECT_EQ(EncodeEvent({.id = EventId::kCBadSubstreamId, .sid = 1, .ssv = true, .ssid = 2}),
            (RawEvent{0x1'0000'2008, 0, 0, 0}));
  EXPECT_EQ(EncodeEvent({.id = EventId::kFStreamDisabled, .sid = 1, .ssv = true, .ssid = 2}),
            (RawEvent{0x1'0000'0006, 0, 0, 0}));
  EXPECT_EQ(EncodeEvent({.id = EventId::kFTranslForbidden, .sid = 1, .privileged = true, .read = true, .address = 5}),
            (RawEvent{0x1'0000'0007, uint64_t{1} << 35, 5, 0}));
  // A record that no version of the architecture has: who is still told.
  EXPECT_EQ(ToString(DecodeEvent({0x7'0000'00ff, ~uint64_t{0}, 1, 1})), "EVENT_UNKNOWN{StreamID=7}");
}

TEST(EventTest, GuestsSeeWhatTheyCause) {
  const std::set<int> for_guests = {0x04, 0x06, 0x08, 0x0a, 0x10, 0x11, 0x12, 0x13};
  for (uint64_t id = 0; id < 256; ++id) {
    const bool expected = for_guests.contains(static_cast<int>(id));
    EXPECT_EQ(IsForGuest({id, 0, 0, 0}), expected) << id;
    EXPECT_FALSE(IsForGuest({id, event::kStall.mask(), 0, 0})) << id;
    EXPECT_FALSE(IsForGuest({id, event::kS2.mask(), 0, 0})) << id;
  }
}

TEST(PageRequestTest, LayoutOfTheSpecification) {
  const PageRequest request = {.sid = 0x10,
                               .ssv = true,
                               .ssid = 3,
                               .privileged = false,
                               .execute = false,
                               .read = true,
                               .write = true,
                               .last = true,
                               .group = 0x1ff,
                               .address = 0x1234'5000};
  EXPECT_EQ(EncodePageRequest(request), (RawPageRequest{0xf000'0003'0000'0010, 0x1234'51ff}));
  EXPECT_EQ(EncodePageRequest({.privileged = true})[0], uint64_t{1} << 58);
  EXPECT_EQ(EncodePageRequest({.execute = true})[0], uint64_t{1} << 59);
  EXPECT_EQ(ToString(request), "PRI{StreamID=0x10 SSV SubstreamID=3 R W Last PRGIndex=0x1ff Address=0x12345000}");
}

}  // namespace
}  // namespace viommu::smmuv3
