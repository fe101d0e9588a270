#include "agent/smmuv3/spec/cd.h"

#include <utility>

#include "agent/smmuv3/spec/layout.h"

namespace viommu::smmuv3 {
namespace {

// The one description of the layout (spec/layout.h).
template <typename AnyCd, typename Visitor>
constexpr void VisitFields(AnyCd& c, Visitor& visit) {
  visit.Value("V", c.valid, 0, cd::kValid);
  visit.Value("T0SZ", c.ttb0.tsz, 0, cd::kT0Sz);
  visit.Coded("TG0", c.ttb0.granule, 0, cd::kTg0, Tg0Codec{});
  visit.Value("IR0", c.ttb0.ir, 0, cd::kIr0);
  visit.Value("OR0", c.ttb0.orgn, 0, cd::kOr0);
  visit.Value("SH0", c.ttb0.sh, 0, cd::kSh0);
  visit.Value("EPD0", c.ttb0.disabled, 0, cd::kEpd0);
  visit.Value("ENDI", c.big_endian, 0, cd::kEndi);
  visit.Value("T1SZ", c.ttb1.tsz, 0, cd::kT1Sz);
  visit.Coded("TG1", c.ttb1.granule, 0, cd::kTg1, Tg1Codec{});
  visit.Value("IR1", c.ttb1.ir, 0, cd::kIr1);
  visit.Value("OR1", c.ttb1.orgn, 0, cd::kOr1);
  visit.Value("SH1", c.ttb1.sh, 0, cd::kSh1);
  visit.Value("EPD1", c.ttb1.disabled, 0, cd::kEpd1);
  visit.Value("IPS", c.ips, 0, cd::kIps);
  visit.Value("AFFD", c.affd, 0, cd::kAffd);
  visit.Value("WXN", c.wxn, 0, cd::kWxn);
  visit.Value("UWXN", c.uwxn, 0, cd::kUwxn);
  visit.Value("TBI0", c.ttb0.tbi, 0, cd::kTbi0);
  visit.Value("TBI1", c.ttb1.tbi, 0, cd::kTbi1);
  visit.Value("PAN", c.pan, 0, cd::kPan);
  visit.Value("AA64", c.aa64, 0, cd::kAa64);
  visit.Value("HD", c.hd, 0, cd::kHd);
  visit.Value("HA", c.ha, 0, cd::kHa);
  visit.Value("S", c.stall, 0, cd::kS);
  visit.Value("R", c.record, 0, cd::kR);
  visit.Value("A", c.abort, 0, cd::kA);
  visit.Value("ASET", c.aset, 0, cd::kAset);
  visit.Value("ASID", c.asid, 0, cd::kAsid);
  visit.Value("HAD0", c.ttb0.had, 1, cd::kHad);
  visit.Address("TTB0", c.ttb0.ttb, 1, cd::kTtb);
  visit.Value("HAD1", c.ttb1.had, 2, cd::kHad);
  visit.Address("TTB1", c.ttb1.ttb, 2, cd::kTtb);
  visit.Value("MAIR", c.mair, 3, cd::kMair);
}

constexpr LayoutMasker<RawCd> Mask() {
  LayoutMasker<RawCd> masker;
  const Cd descriptor;
  VisitFields(descriptor, masker);
  return masker;
}
static_assert(Mask().disjoint);

}  // namespace

Cd DecodeCd(const RawCd& raw) {
  Cd descriptor;
  LayoutDecoder<RawCd> decoder{raw};
  VisitFields(descriptor, decoder);
  return descriptor;
}

RawCd EncodeCd(const Cd& descriptor) {
  LayoutEncoder<RawCd> encoder;
  VisitFields(descriptor, encoder);
  return encoder.words;
}

RawCd CdDefinedBits() { return Mask().words; }

std::string ToString(const Cd& descriptor) {
  LayoutPrinter printer("CD");
  VisitFields(descriptor, printer);
  return std::move(printer).Finish();
}

}  // namespace viommu::smmuv3
