#include "agent/smmuv3/spec/command.h"

#include <type_traits>

namespace viommu::smmuv3 {
namespace {

// Calls visit.Value(member, word, field) for each field of the command's opcode, and visit.Address() for those that
// keep their place in the word instead of being moved to bit 0. The one description of all layouts.
template <typename AnyCommand, typename Visitor>
constexpr void VisitFields(AnyCommand& c, Visitor& visit) {
  constexpr BitField kSsec{10, 10}, kSsv{11, 11}, kSsid{31, 12}, kAsid{63, 48};
  constexpr BitField kLeaf{0, 0}, kVa{63, 12}, kIpa{55, 12};
  const auto range_and_level = [&] {
    visit.Value(c.num, 0, BitField{16, 12});
    visit.Value(c.scale, 0, BitField{25, 20});
    visit.Value(c.leaf, 1, kLeaf);
    visit.Value(c.ttl128, 1, BitField{7, 7});
    visit.Value(c.ttl, 1, BitField{9, 8});
    visit.Value(c.tg, 1, BitField{11, 10});
  };
  const auto substream = [&] {
    visit.Value(c.ssv, 0, kSsv);
    visit.Value(c.ssid, 0, kSsid);
    visit.Value(c.sid, 0, kSidField);
  };
  switch (c.opcode) {
    case Opcode::kPrefetchConfig:
      visit.Value(c.ssec, 0, kSsec);
      substream();
      break;
    case Opcode::kPrefetchAddr:
      visit.Value(c.ssec, 0, kSsec);
      substream();
      visit.Value(c.size, 1, BitField{4, 0});
      visit.Value(c.stride, 1, BitField{9, 5});
      visit.Address(c.address, 1, kVa);
      break;
    case Opcode::kCfgiSte:
      visit.Value(c.ssec, 0, kSsec);
      visit.Value(c.sid, 0, kSidField);
      visit.Value(c.leaf, 1, kLeaf);
      break;
    case Opcode::kCfgiSteRange:
      visit.Value(c.ssec, 0, kSsec);
      visit.Value(c.sid, 0, kSidField);
      visit.Value(c.range, 1, BitField{4, 0});
      break;
    case Opcode::kCfgiCd:
      visit.Value(c.ssec, 0, kSsec);
      visit.Value(c.ssid, 0, kSsid);
      visit.Value(c.sid, 0, kSidField);
      visit.Value(c.leaf, 1, kLeaf);
      break;
    case Opcode::kCfgiCdAll:
      visit.Value(c.ssec, 0, kSsec);
      visit.Value(c.sid, 0, kSidField);
      break;
    case Opcode::kTlbiNhAll:
    case Opcode::kTlbiS12Vmall:
      visit.Value(c.vmid, 0, kVmidField);
      break;
    case Opcode::kTlbiNhAsid:
      visit.Value(c.vmid, 0, kVmidField);
      visit.Value(c.asid, 0, kAsid);
      break;
    case Opcode::kTlbiNhVa:
      visit.Value(c.vmid, 0, kVmidField);
      visit.Value(c.asid, 0, kAsid);
      range_and_level();
      visit.Address(c.address, 1, kVa);
      break;
    case Opcode::kTlbiNhVaa:
      visit.Value(c.vmid, 0, kVmidField);
      range_and_level();
      visit.Address(c.address, 1, kVa);
      break;
    case Opcode::kTlbiEl2Asid:
      visit.Value(c.asid, 0, kAsid);
      break;
    case Opcode::kTlbiEl2Va:
      visit.Value(c.asid, 0, kAsid);
      range_and_level();
      visit.Address(c.address, 1, kVa);
      break;
    case Opcode::kTlbiEl2Vaa:
      range_and_level();
      visit.Address(c.address, 1, kVa);
      break;
    case Opcode::kTlbiS2Ipa:
      visit.Value(c.vmid, 0, kVmidField);
      range_and_level();
      visit.Address(c.address, 1, kIpa);
      break;
    case Opcode::kTlbiEl2All:
    case Opcode::kTlbiNsnhAll:
      break;
    case Opcode::kAtcInv:
      visit.Value(c.global, 0, BitField{9, 9});
      substream();
      visit.Value(c.size, 1, BitField{5, 0});
      visit.Address(c.address, 1, kVa);
      break;
    case Opcode::kPriResp:
      substream();
      visit.Value(c.tag, 1, BitField{8, 0});
      visit.Value(c.response, 1, BitField{13, 12});
      break;
    case Opcode::kResume:
      visit.Value(c.ssec, 0, kSsec);
      visit.Value(c.response, 0, BitField{13, 12});
      visit.Value(c.sid, 0, kSidField);
      visit.Value(c.tag, 1, BitField{15, 0});
      break;
    case Opcode::kStallTerm:
      visit.Value(c.ssec, 0, kSsec);
      visit.Value(c.sid, 0, kSidField);
      break;
    case Opcode::kSync:
      visit.Value(c.cs, 0, BitField{13, 12});
      visit.Value(c.msh, 0, BitField{23, 22});
      visit.Value(c.msi_attr, 0, BitField{27, 24});
      visit.Value(c.msi_data, 0, BitField{63, 32});
      visit.Address(c.address, 1, BitField{55, 2});
      break;
  }
}

struct Encoder {
  RawCommand raw;

  template <typename T>
  constexpr void Value(T value, int word, BitField field) {
    uint64_t& dw = word == 0 ? raw.dw0 : raw.dw1;
    dw = field.Set(dw, static_cast<uint64_t>(value));
  }
  constexpr void Address(uint64_t value, int word, BitField field) { Value(value >> field.lo, word, field); }
};

struct Decoder {
  RawCommand raw;

  template <typename T>
  constexpr void Value(T& value, int word, BitField field) {
    value = static_cast<T>(field.Get(word == 0 ? raw.dw0 : raw.dw1));
  }
  constexpr void Address(uint64_t& value, int word, BitField field) {
    value = (word == 0 ? raw.dw0 : raw.dw1) & field.mask();
  }
};

struct Masker {
  RawCommand mask;

  template <typename T>
  constexpr void Value(const T&, int word, BitField field) {
    (word == 0 ? mask.dw0 : mask.dw1) |= field.mask();
  }
  constexpr void Address(const uint64_t& value, int word, BitField field) { Value(value, word, field); }
};

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
  Encoder encoder;
  encoder.raw.dw0 = kOpcodeField.Set(0, static_cast<uint64_t>(command.opcode));
  VisitFields(command, encoder);
  return encoder.raw;
}

std::optional<Command> Decode(const RawCommand& raw) {
  const std::optional<Opcode> opcode = OpcodeOf(raw);
  if (!opcode.has_value()) return std::nullopt;
  Command command;
  command.opcode = *opcode;
  Decoder decoder{raw};
  VisitFields(command, decoder);
  return command;
}

RawCommand DefinedBits(Opcode opcode) {
  Masker masker;
  masker.mask.dw0 = kOpcodeField.mask();
  const Command command{.opcode = opcode};
  VisitFields(command, masker);
  return masker.mask;
}

const char* OpcodeName(uint8_t opcode) {
  const char* name = Name(static_cast<Opcode>(opcode));
  return name != nullptr ? name : "CMD_UNKNOWN";
}

}  // namespace viommu::smmuv3
