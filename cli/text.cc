#include "cli/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>

#include "absl/strings/cord.h"
#include "common/units.h"

namespace viommu::cli {
namespace {

constexpr char kUsageMark[] = "viommuctl/usage";
constexpr char kInterruptedMark[] = "viommuctl/interrupted";
constexpr std::chrono::hours kMaxTimeout{24};

}  // namespace

absl::Status UsageError(std::string_view message) {
  absl::Status status(absl::StatusCode::kInvalidArgument, std::string(message));
  status.SetPayload(kUsageMark, absl::Cord());
  return status;
}

bool IsUsageError(const absl::Status& status) { return status.GetPayload(kUsageMark).has_value(); }

absl::Status InterruptedError(std::string_view message) {
  absl::Status status(absl::StatusCode::kCancelled, std::string(message));
  status.SetPayload(kInterruptedMark, absl::Cord());
  return status;
}

bool IsInterrupted(const absl::Status& status) { return status.GetPayload(kInterruptedMark).has_value(); }

absl::StatusOr<uint64_t> ParseNumber(std::string_view text, std::string_view what, uint64_t max) {
  std::string_view digits = text;
  int base = 10;
  if (digits.starts_with("0x") || digits.starts_with("0X")) {
    digits.remove_prefix(2);
    base = 16;
  }
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error == std::errc::result_out_of_range || (error == std::errc() && value > max)) {
    return UsageError(fmt::format("{}: {} is too large; the largest is {:#x}", what, text, max));
  }
  if (error != std::errc() || end != digits.data() + digits.size()) {
    return UsageError(fmt::format("{}: \"{}\" is not a number; write it in decimal or as 0x hex", what, text));
  }
  return value;
}

absl::StatusOr<bool> ParseBool(std::string_view text, std::string_view what) {
  const std::string word = Lower(text);
  if (word == "true" || word == "yes" || word == "1") return true;
  if (word == "false" || word == "no" || word == "0") return false;
  return UsageError(fmt::format("{}: \"{}\" is neither true nor false", what, text));
}

absl::StatusOr<std::chrono::milliseconds> ParseTimeout(std::string_view text, std::string_view what) {
  const absl::StatusOr<std::chrono::nanoseconds> parsed = ParseDuration(text);
  if (!parsed.ok() || *parsed < std::chrono::milliseconds(1) || *parsed > kMaxTimeout) {
    return UsageError(
        fmt::format("{}: \"{}\" is not a time to wait; write it as 500ms, 10s or 2m (at most 24h)", what, text));
  }
  return std::chrono::duration_cast<std::chrono::milliseconds>(*parsed);
}

absl::StatusOr<std::map<std::string, std::string>> ParsePairs(const std::vector<std::string>& pieces,
                                                              std::string_view what) {
  std::map<std::string, std::string> pairs;
  for (const std::string& piece : pieces) {
    for (const std::string& part : Split(piece, ',')) {
      const size_t equals = part.find('=');
      if (equals == std::string::npos || equals == 0) {
        return UsageError(fmt::format("{}: \"{}\" is not of the form KEY=VALUE", what, part));
      }
      const std::string key = part.substr(0, equals);
      const std::string value = part.substr(equals + 1);
      const auto [existing, inserted] = pairs.emplace(key, value);
      if (!inserted && existing->second != value) {
        return UsageError(fmt::format("{}: {} is given as \"{}\" and as \"{}\"", what, key, existing->second, value));
      }
    }
  }
  return pairs;
}

std::vector<std::string> Split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  if (text.empty()) return parts;
  size_t begin = 0;
  while (true) {
    const size_t end = text.find(separator, begin);
    parts.emplace_back(text.substr(begin, end == std::string_view::npos ? end : end - begin));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

std::string Join(const std::vector<std::string>& parts, std::string_view separator) {
  return fmt::format("{}", fmt::join(parts, separator));
}

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return lower;
}

std::string FormatAge(WallTime then, WallTime now) {
  const int64_t seconds = std::max<int64_t>(0, std::chrono::duration_cast<std::chrono::seconds>(now - then).count());
  const int64_t minutes = seconds / 60;
  const int64_t hours = minutes / 60;
  const int64_t days = hours / 24;
  if (seconds < 120) return fmt::format("{}s", seconds);
  if (minutes < 10)
    return seconds % 60 == 0 ? fmt::format("{}m", minutes) : fmt::format("{}m{}s", minutes, seconds % 60);
  if (hours < 3) return fmt::format("{}m", minutes);
  if (hours < 8) return minutes % 60 == 0 ? fmt::format("{}h", hours) : fmt::format("{}h{}m", hours, minutes % 60);
  if (hours < 48) return fmt::format("{}h", hours);
  return fmt::format("{}d", days);
}

std::string HexAndDecimal(uint64_t value) { return fmt::format("{:#x} ({})", value, value); }

std::string Hex(uint64_t value) { return fmt::format("{:#x}", value); }

}  // namespace viommu::cli
