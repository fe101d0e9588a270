#include "cli/vste.h"

#include <fmt/format.h>

#include <cstdint>
#include <vector>

#include "cli/text.h"
#include "common/error.h"

namespace viommu::cli {
namespace {

// Bits [high:low] of a word.
constexpr uint64_t Bits(uint64_t word, unsigned high, unsigned low) {
  return (word >> low) & ((uint64_t{1} << (high - low + 1)) - 1);
}

// Config values that a guest may choose (IHI 0070, 5.2, STE.Config).
constexpr uint64_t kConfigAbort = 0;
constexpr uint64_t kConfigBypass = 4;
constexpr uint64_t kConfigStage1 = 5;

}  // namespace

absl::StatusOr<v1::Vste> ParseVste(std::string_view text) {
  const std::vector<std::string> words = Split(text, ',');
  if (words.size() != 2) {
    return UsageError(fmt::format("--vste: \"{}\" is not two words; write W0,W1, such as 0x80001000b,0x2", text));
  }
  v1::Vste vste;
  VIOMMU_ASSIGN_OR_RETURN(const uint64_t word0, ParseNumber(Trim(words[0]), "--vste, word 0"));
  VIOMMU_ASSIGN_OR_RETURN(const uint64_t word1, ParseNumber(Trim(words[1]), "--vste, word 1"));
  vste.set_word0(word0);
  vste.set_word1(word1);
  return vste;
}

std::string FormatVste(const v1::Vste& vste) { return fmt::format("{:#018x},{:#018x}", vste.word0(), vste.word1()); }

std::string FormatNestedKind(const v1::NestedConfig& config) {
  switch (config.kind_case()) {
    case v1::NestedConfig::kAbort:
      return "abort";
    case v1::NestedConfig::kBypass:
      return "bypass";
    case v1::NestedConfig::kTranslate:
      return "translate";
    case v1::NestedConfig::KIND_NOT_SET:
      break;
  }
  return "";
}

std::string DescribeVste(const v1::Vste& vste) {
  const uint64_t word0 = vste.word0();
  const uint64_t word1 = vste.word1();
  if (Bits(word0, 0, 0) == 0) return "not valid (V=0): every access is aborted";
  const uint64_t config = Bits(word0, 3, 1);
  if (config == kConfigAbort) return "abort";
  if (config == kConfigBypass) return "bypass of stage 1";
  if (config != kConfigStage1) return fmt::format("Config {}, which a guest may not choose", config);
  const uint64_t table = word0 & 0x000f'ffff'ffff'ffc0;
  const uint64_t format = Bits(word0, 5, 4);
  return fmt::format("stage 1: context descriptors at guest-physical {:#x}, {} of 2^{} entries, ATS {}", table,
                     format == 0 ? "a linear table" : "a two-level table", Bits(word0, 63, 59),
                     Bits(word1, 29, 28) == 1 ? "on" : "off");
}

}  // namespace viommu::cli
