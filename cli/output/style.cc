#include "cli/output/style.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace viommu::cli {
namespace {

std::string_view Sequence(Style style) {
  switch (style) {
    case Style::kPlain:
      return "";
    case Style::kBold:
      return "\033[1m";
    case Style::kFaint:
      return "\033[2m";
    case Style::kGood:
      return "\033[32m";
    case Style::kBusy:
      return "\033[33m";
    case Style::kBad:
      return "\033[31m";
  }
  return "";
}

template <size_t N>
bool IsOneOf(std::string_view word, const std::array<std::string_view, N>& words) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

}  // namespace

std::string Styled(std::string_view text, Style style, bool colour) {
  if (!colour || style == Style::kPlain || text.empty()) return std::string(text);
  return fmt::format("{}{}\033[0m", Sequence(style), text);
}

Style StyleOfState(std::string_view state) {
  static constexpr std::array<std::string_view, 7> kGood = {"READY", "CONNECTED", "SYNCED",  "APPLIED",
                                                            "FREE",  "PUT",       "EXISTING"};
  static constexpr std::array<std::string_view, 8> kBusy = {"PENDING", "DELETING",   "RELEASING", "WAITING",
                                                            "SYNCING", "CONNECTING", "CORDONED",  "DELETED"};
  static constexpr std::array<std::string_view, 4> kBad = {"FAILED", "MISSING", "DISCONNECTED", "REFUSED"};
  const std::string_view word = state.substr(0, state.find_first_of(" ,("));
  if (IsOneOf(word, kGood)) return Style::kGood;
  if (IsOneOf(word, kBusy)) return Style::kBusy;
  if (IsOneOf(word, kBad)) return Style::kBad;
  return Style::kPlain;
}

}  // namespace viommu::cli
