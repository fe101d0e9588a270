#include "agent/smmuv3/spec/command.h"

#include <array>
#include <utility>

#include "agent/smmuv3/spec/layout.h"

namespace viommu::smmuv3 {
namespace {

// The one description of all layouts (spec/layout.h), by the command's opcode.
template <typename AnyCommand, typename Visitor>
constexpr void VisitFields(AnyCommand& c, Visitor& visit) {
  constexpr BitField kSsec{10, 10}, kSsv{11, 11}, kSsid{31, 12}, kAsid{63, 48};
  constexpr BitField kLeaf{0, 0}, kVa{63, 12}, kIpa{55, 12};
  const auto range_and_level = [&] {
    visit.Value("NUM", c.num, 0, BitField{16, 12});
    visit.Value("SCALE", c.scale, 0, BitField{25, 20});
    visit.Value("Leaf", c.leaf, 1, kLeaf);
    visit.Value("TTL128", c.ttl128, 1, BitField{7, 7});
    visit.Value("TTL", c.ttl, 1, BitField{9, 8});
    visit.Value("TG", c.tg, 1, BitField{11, 10});
  };
  const auto substream = [&] {
    visit.Value("SSV", c.ssv, 0, kSsv);
    visit.Value("SubstreamID", c.ssid, 0, kSsid);
    visit.Value("StreamID", c.sid, 0, kSidField);
  };
  switch (c.opcode) {
    case Opcode::kPrefetchConfig:
      visit.Value("SSec", c.ssec, 0, kSsec);
      substream();
      break;
    case Opcode::kPrefetchAddr:
      visit.Value("SSec", c.ssec, 0, kSsec);
      substream();
      visit.Value("Size", c.size, 1, BitField{4, 0});
      visit.Value("Stride", c.stride, 1, BitField{9, 5});
      visit.Address("Address", c.address, 1, kVa);
      break;
    case Opcode::kCfgiSte:
      visit.Value("SSec", c.ssec, 0, kSsec);
      visit.Value("StreamID", c.sid, 0, kSidField);
      visit.Value("Leaf", c.leaf, 1, kLeaf);
      break;
    case Opcode::kCfgiSteRange:
      visit.Value("SSec", c.ssec, 0, kSsec);
      visit.Value("StreamID", c.sid, 0, kSidField);
      visit.Value("Range", c.range, 1, BitField{4, 0});
      break;
    case Opcode::kCfgiCd:
      visit.Value("SSec", c.ssec, 0, kSsec);
      visit.Value("SubstreamID", c.ssid, 0, kSsid);
      visit.Value("StreamID", c.sid, 0, kSidField);
      visit.Value("Leaf", c.leaf, 1, kLeaf);
      break;
    case Opcode::kCfgiCdAll:
      visit.Value("SSec", c.ssec, 0, kSsec);
      visit.Value("StreamID", c.sid, 0, kSidField);
      break;
    case Opcode::kTlbiNhAll:
    case Opcode::kTlbiS12Vmall:
      visit.Value("VMID", c.vmid, 0, kVmidField);
      break;
    case Opcode::kTlbiNhAsid:
      visit.Value("VMID", c.vmid, 0, kVmidField);
      visit.Value("ASID", c.asid, 0, kAsid);
      break;
    case Opcode::kTlbiNhVa:
      visit.Value("VMID", c.vmid, 0, kVmidField);
      visit.Value("ASID", c.asid, 0, kAsid);
      range_and_level();
      visit.Address("Address", c.address, 1, kVa);
      break;
    case Opcode::kTlbiNhVaa:
      visit.Value("VMID", c.vmid, 0, kVmidField);
      range_and_level();
      visit.Address("Address", c.address, 1, kVa);
      break;
    case Opcode::kTlbiEl2Asid:
      visit.Value("ASID", c.asid, 0, kAsid);
      break;
    case Opcode::kTlbiEl2Va:
      visit.Value("ASID", c.asid, 0, kAsid);
      range_and_level();
      visit.Address("Address", c.address, 1, kVa);
      break;
    case Opcode::kTlbiEl2Vaa:
      range_and_level();
      visit.Address("Address", c.address, 1, kVa);
      break;
    case Opcode::kTlbiS2Ipa:
      visit.Value("VMID", c.vmid, 0, kVmidField);
      range_and_level();
      visit.Address("Address", c.address, 1, kIpa);
      break;
    case Opcode::kTlbiEl2All:
    case Opcode::kTlbiNsnhAll:
      break;
    case Opcode::kAtcInv:
      visit.Value("Global", c.global, 0, BitField{9, 9});
      substream();
      visit.Value("Size", c.size, 1, BitField{5, 0});
      visit.Address("Address", c.address, 1, kVa);
      break;
    case Opcode::kPriResp:
      substream();
      visit.Value("PRGIndex", c.tag, 1, BitField{8, 0});
      visit.Value("Resp", c.response, 1, BitField{13, 12});
      break;
    case Opcode::kResume:
      visit.Value("SSec", c.ssec, 0, kSsec);
      visit.Value("Resp", c.response, 0, BitField{13, 12});
      visit.Value("StreamID", c.sid, 0, kSidField);
      visit.Value("STAG", c.tag, 1, BitField{15, 0});
      break;
    case Opcode::kStallTerm:
      visit.Value("SSec", c.ssec, 0, kSsec);
      visit.Value("StreamID", c.sid, 0, kSidField);
      break;
    case Opcode::kSync:
      visit.Value("CS", c.cs, 0, BitField{13, 12});
      visit.Value("MSH", c.msh, 0, BitField{23, 22});
      visit.Value("MSIAttr", c.msi_attr, 0, BitField{27, 24});
      visit.Value("MSIData", c.msi_data, 0, BitField{63, 32});
      visit.Address("MSIAddress", c.address, 1, BitField{55, 2});
      break;
  }
}

// The same words, for the visitors.
using Words = std::array<uint64_t, 2>;
constexpr Words ToWords(const RawCommand& raw) { return {raw.dw0, raw.dw1}; }
constexpr RawCommand ToRaw(const Words& words) { return {words[0], words[1]}; }

constexpr LayoutMasker<Words> MaskOf(Opcode opcode) {
  LayoutMasker<Words> masker;
  masker.words[0] = kOpcodeField.mask();
  const Command command{.opcode = opcode};
  VisitFields(command, masker);
  return masker;
}

constexpr bool AllDisjoint() {
  for (const Opcode opcode : kAllOpcodes) {
    if (!MaskOf(opcode).disjoint) return false;
  }
  return true;
}
static_assert(AllDisjoint());

const char* Name(Opcode opcode) {
  switch (opcode) {
    case Opcode::kPrefetchConfig:
      return "CMD_PREFETCH_CONFIG";
    case Opcode::kPrefetchAddr:
      return "CMD_PREFETCH_ADDR";
    case Opcode::kCfgiSte:
      return "CMD_CFGI_STE";
    case Opcode::kCfgiSteRange:
      return "CMD_CFGI_STE_RANGE";
    case Opcode::kCfgiCd:
      return "CMD_CFGI_CD";
    case Opcode::kCfgiCdAll:
      return "CMD_CFGI_CD_ALL";
    case Opcode::kTlbiNhAll:
      return "CMD_TLBI_NH_ALL";
    case Opcode::kTlbiNhAsid:
      return "CMD_TLBI_NH_ASID";
    case Opcode::kTlbiNhVa:
      return "CMD_TLBI_NH_VA";
    case Opcode::kTlbiNhVaa:
      return "CMD_TLBI_NH_VAA";
    case Opcode::kTlbiEl2All:
      return "CMD_TLBI_EL2_ALL";
    case Opcode::kTlbiEl2Asid:
      return "CMD_TLBI_EL2_ASID";
    case Opcode::kTlbiEl2Va:
      return "CMD_TLBI_EL2_VA";
    case Opcode::kTlbiEl2Vaa:
      return "CMD_TLBI_EL2_VAA";
    case Opcode::kTlbiS12Vmall:
      return "CMD_TLBI_S12_VMALL";
    case Opcode::kTlbiS2Ipa:
      return "CMD_TLBI_S2_IPA";
    case Opcode::kTlbiNsnhAll:
      return "CMD_TLBI_NSNH_ALL";
    case Opcode::kAtcInv:
      return "CMD_ATC_INV";
    case Opcode::kPriResp:
      return "CMD_PRI_RESP";
    case Opcode::kResume:
      return "CMD_RESUME";
    case Opcode::kStallTerm:
      return "CMD_STALL_TERM";
    case Opcode::kSync:
      return "CMD_SYNC";
  }
  return nullptr;
}

}  // namespace

std::optional<Opcode> OpcodeOf(const RawCommand& raw) {
  const auto opcode = static_cast<Opcode>(OpcodeByte(raw));
  if (Name(opcode) == nullptr) return std::nullopt;
  return opcode;
}

RawCommand Encode(const Command& command) {
  LayoutEncoder<Words> encoder;
  encoder.words[0] = kOpcodeField.Set(0, static_cast<uint64_t>(command.opcode));
  VisitFields(command, encoder);
  return ToRaw(encoder.words);
}

std::optional<Command> Decode(const RawCommand& raw) {
  const std::optional<Opcode> opcode = OpcodeOf(raw);
  if (!opcode.has_value()) return std::nullopt;
  Command command;
  command.opcode = *opcode;
  const Words words = ToWords(raw);
  LayoutDecoder<Words> decoder{words};
  VisitFields(command, decoder);
  return command;
}

RawCommand DefinedBits(Opcode opcode) { return ToRaw(MaskOf(opcode).words); }

std::string ToString(const Command& command) {
  LayoutPrinter printer(OpcodeName(static_cast<uint8_t>(command.opcode)));
  VisitFields(command, printer);
  return std::move(printer).Finish();
}

const char* OpcodeName(uint8_t opcode) {
  const char* name = Name(static_cast<Opcode>(opcode));
  return name != nullptr ? name : "CMD_UNKNOWN";
}

}  // namespace viommu::smmuv3
