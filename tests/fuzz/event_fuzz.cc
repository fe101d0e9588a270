// Records of the event queue and the PRI queue, as something that only claims to be an SMMU may have written them.
//
// Input: records of 32 bytes, each also taken as two of 16.

#include <cstdint>

#include "agent/smmuv3/spec/event.h"
#include "tests/fuzz/input.h"

namespace viommu::smmuv3 {
namespace {

void CheckEvent(const RawEvent& raw) {
  const Event decoded = DecodeEvent(raw);
  const RawEvent defined = EventDefinedBits(decoded.id);
  RawEvent expected;
  for (size_t i = 0; i < raw.size(); ++i) expected[i] = raw[i] & defined[i];
  FUZZ_CHECK(EncodeEvent(decoded) == expected);
  FUZZ_CHECK(DecodeEvent(expected) == decoded);
  FUZZ_CHECK(decoded.sid == EventSid(raw));
  FUZZ_CHECK(ToString(decoded).starts_with(EventName(static_cast<uint8_t>(decoded.id))));
  // What a guest is shown has its own StreamID and is otherwise what the SMMU wrote.
  const RawEvent shown = WithSid(raw, ~decoded.sid);
  FUZZ_CHECK(EventSid(shown) == static_cast<uint32_t>(~decoded.sid));
  FUZZ_CHECK(IsForGuest(shown) == IsForGuest(raw));
  if (IsForGuest(raw)) FUZZ_CHECK(!decoded.stage2 && !decoded.stall && decoded.fetch_address == 0);
}

void CheckPageRequest(const RawPageRequest& raw) {
  const PageRequest decoded = DecodePageRequest(raw);
  const RawPageRequest defined = PageRequestDefinedBits();
  FUZZ_CHECK(EncodePageRequest(decoded) == (RawPageRequest{raw[0] & defined[0], raw[1] & defined[1]}));
  FUZZ_CHECK(decoded.address % 4096 == 0 && decoded.group < 512 && decoded.ssid < 1u << 20);
  FUZZ_CHECK(!ToString(decoded).empty());
}

}  // namespace
}  // namespace viommu::smmuv3

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace viommu::smmuv3;
  viommu::fuzz::Input input(data, size);
  do {
    const auto raw = input.Take<RawEvent>();
    CheckEvent(raw);
    CheckPageRequest({raw[0], raw[1]});
    CheckPageRequest({raw[2], raw[3]});
  } while (!input.empty());
  return 0;
}
