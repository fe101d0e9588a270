// Small conversions between what people type or read and values. Pure; any thread.
//
// Parsers answer usage errors (UsageError below): they speak of the command line, not of the server.

#ifndef VIOMMU_CLI_TEXT_H_
#define VIOMMU_CLI_TEXT_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/clock.h"

namespace viommu::cli {

// The command line is wrong: INVALID_ARGUMENT with a mark, by which exit codes tell it from a refusal by the server.
absl::Status UsageError(std::string_view message);
bool IsUsageError(const absl::Status& status);

// Ctrl-C: CANCELLED with a mark.
absl::Status InterruptedError(std::string_view message);
bool IsInterrupted(const absl::Status& status);

// An unsigned number, decimal or 0x hex, at most `max`. `what` names it in the error.
absl::StatusOr<uint64_t> ParseNumber(std::string_view text, std::string_view what, uint64_t max = UINT64_MAX);

// true/false, yes/no, 1/0.
absl::StatusOr<bool> ParseBool(std::string_view text, std::string_view what);

// A wait: "250ms", "10s", "1m30s" (common/units.h). Above zero, at most 24 h.
absl::StatusOr<std::chrono::milliseconds> ParseTimeout(std::string_view text, std::string_view what);

// "a=1,b=2" pieces, each may hold several: {"a": "1", "b": "2"}. The same key twice with different values is an error.
absl::StatusOr<std::map<std::string, std::string>> ParsePairs(const std::vector<std::string>& pieces,
                                                              std::string_view what);

// Parts between `separator`; empty parts are kept, an empty text is no part.
std::vector<std::string> Split(std::string_view text, char separator);

std::string Join(const std::vector<std::string>& parts, std::string_view separator);

std::string_view Trim(std::string_view text);

std::string Lower(std::string_view text);

// How long ago, in at most two units: "8s", "3m12s", "5h", "12d". The future reads as "0s".
std::string FormatAge(WallTime then, WallTime now);

// "0x100 (256)".
std::string HexAndDecimal(uint64_t value);

// "0x100".
std::string Hex(uint64_t value);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_TEXT_H_
