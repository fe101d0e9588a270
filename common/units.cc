#include "common/units.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <limits>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace viommu {
namespace {

struct Unit {
  std::string_view name;
  uint64_t bytes;
};

constexpr Unit kUnits[] = {
    {"", 1},
    {"B", 1},
    {"KiB", uint64_t{1} << 10},
    {"MiB", uint64_t{1} << 20},
    {"GiB", uint64_t{1} << 30},
    {"TiB", uint64_t{1} << 40},
    {"K", uint64_t{1} << 10},
    {"M", uint64_t{1} << 20},
    {"G", uint64_t{1} << 30},
    {"T", uint64_t{1} << 40},
    {"KB", 1'000},
    {"MB", 1'000'000},
    {"GB", 1'000'000'000},
    {"TB", 1'000'000'000'000},
};

// From the largest to the smallest.
constexpr Unit kBinaryUnits[] = {
    {"TiB", uint64_t{1} << 40},
    {"GiB", uint64_t{1} << 30},
    {"MiB", uint64_t{1} << 20},
    {"KiB", uint64_t{1} << 10},
};

}  // namespace

absl::StatusOr<std::chrono::nanoseconds> ParseDuration(std::string_view text) {
  absl::Duration duration;
  if (!absl::ParseDuration(std::string(text), &duration)) {
    return absl::InvalidArgumentError(fmt::format("\"{}\" is not a duration; write it like 250ms, 10s or 1m30s", text));
  }
  if (duration < absl::ZeroDuration()) {
    return absl::InvalidArgumentError(fmt::format("\"{}\" is negative", text));
  }
  if (duration > absl::Nanoseconds(std::numeric_limits<int64_t>::max())) {
    return absl::InvalidArgumentError(fmt::format("\"{}\" is too long; at most 2562047h", text));
  }
  return std::chrono::nanoseconds(absl::ToInt64Nanoseconds(duration));
}

std::string FormatDuration(std::chrono::nanoseconds duration) {
  return absl::FormatDuration(absl::Nanoseconds(duration.count()));
}

absl::StatusOr<uint64_t> ParseByteSize(std::string_view text) {
  uint64_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  const std::string_view suffix = text.substr(static_cast<size_t>(end - text.data()));
  const auto* unit = std::ranges::find(kUnits, suffix, &Unit::name);
  if (error == std::errc::invalid_argument || unit == std::end(kUnits)) {
    return absl::InvalidArgumentError(fmt::format("\"{}\" is not a size; write it like 4096, 64KiB or 4MiB", text));
  }
  uint64_t bytes = 0;
  if (error != std::errc() || __builtin_mul_overflow(count, unit->bytes, &bytes)) {
    return absl::InvalidArgumentError(fmt::format("\"{}\" is too large; sizes are below 2^64 bytes", text));
  }
  return bytes;
}

std::string FormatByteSize(uint64_t bytes) {
  for (const Unit& unit : kBinaryUnits) {
    if (bytes != 0 && bytes % unit.bytes == 0) return fmt::format("{}{}", bytes / unit.bytes, unit.name);
  }
  return fmt::format("{}", bytes);
}

}  // namespace viommu
