// Commands as a hostile guest or a broken ring would have them: decoding, the SMMU's legality, the checks of what a
// guest may send, and what the rewriting of its commands leaves.
//
// Input: six words of ID registers, then commands of 16 bytes.

#include <cstdint>
#include <optional>
#include <string>

#include "agent/smmuv3/emulator/legality.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/guest_command.h"
#include "agent/smmuv3/spec/id_registers.h"
#include "tests/fuzz/input.h"

namespace viommu::smmuv3 {
namespace {

RawCommand And(const RawCommand& a, const RawCommand& b) { return {a.dw0 & b.dw0, a.dw1 & b.dw1}; }

void CheckFeatures(const Features& features) {
  FUZZ_CHECK(features.sid_bits <= 32);
  FUZZ_CHECK(features.ssid_bits <= 20);
  FUZZ_CHECK(features.cmdq_log2_size <= 19 && features.eventq_log2_size <= 19 && features.priq_log2_size <= 19);
  Features expected = features;
  if (expected.oas_bits == 0) expected.oas_bits = 32;
  FUZZ_CHECK(DecodeIdRegisters(EncodeIdRegisters(features)) == expected);
  FUZZ_CHECK(!ToString(features).empty());
}

void CheckCommand(const RawCommand& raw, const Features& features) {
  const std::optional<Command> command = Decode(raw);
  FUZZ_CHECK(command.has_value() == OpcodeOf(raw).has_value());
  const GuestCommandRule rule = CheckGuestCommand(raw, features);
  const GuestCommandRule by_opcode = CheckGuestOpcode(OpcodeByte(raw));
  FUZZ_CHECK(std::string(DescribeGuestCommandRule(rule)) != "unknown rule");
  const std::optional<Command> legal = DecodeLegal(raw, features);
  if (!command.has_value()) {
    FUZZ_CHECK(rule == GuestCommandRule::kOpcodeUnknown && !legal.has_value());
    return;
  }

  const RawCommand defined = DefinedBits(command->opcode);
  const RawCommand again = Encode(*command);
  FUZZ_CHECK(again == And(raw, defined));
  FUZZ_CHECK(Decode(again) == command);
  FUZZ_CHECK(ToString(*command).starts_with(OpcodeName(OpcodeByte(raw))));
  if (legal.has_value()) FUZZ_CHECK(*legal == *command && again == raw);

  if (by_opcode != GuestCommandRule::kNone) {
    FUZZ_CHECK(rule == by_opcode);
    return;
  }
  if (rule != GuestCommandRule::kNone) return;
  // What all rules let through is a command that the SMMU carries out, where it has a stage 1, whatever VMID and
  // StreamID it is given.
  Features nesting = features;
  nesting.stage1 = true;
  FUZZ_CHECK(again == raw);
  FUZZ_CHECK(DecodeLegal(raw, nesting).has_value());
  Command rewritten = *command;
  rewritten.vmid = static_cast<uint16_t>(~rewritten.vmid);
  rewritten.sid = ~rewritten.sid;
  FUZZ_CHECK(DecodeLegal(Encode(rewritten), nesting).has_value());
}

// Few commands are acceptable by chance: the same words with a known opcode and without reserved bits are more often.
RawCommand Tidy(const RawCommand& raw) {
  const Opcode opcode = kAllOpcodes[OpcodeByte(raw) % kAllOpcodes.size()];
  return And({kOpcodeField.Set(raw.dw0, static_cast<uint64_t>(opcode)), raw.dw1}, DefinedBits(opcode));
}

}  // namespace
}  // namespace viommu::smmuv3

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace viommu::smmuv3;
  viommu::fuzz::Input input(data, size);
  const Features features = DecodeIdRegisters(input.Take<IdRegisters>());
  CheckFeatures(features);
  do {
    const auto raw = input.Take<RawCommand>();
    CheckCommand(raw, features);
    CheckCommand(Tidy(raw), features);
  } while (!input.empty());
  return 0;
}
