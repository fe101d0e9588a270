// Durations and sizes as people write them.

#ifndef VIOMMU_COMMON_UNITS_H_
#define VIOMMU_COMMON_UNITS_H_

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace viommu {

// "10s", "1m30s", "250ms", "0". Errors (INVALID_ARGUMENT) for negative, endless and unitless ones.
absl::StatusOr<std::chrono::nanoseconds> ParseDuration(std::string_view text);

// The shortest exact form that ParseDuration() reads back: "1m30s".
std::string FormatDuration(std::chrono::nanoseconds duration);

// "4096", "64KiB", "4MiB", "1GiB", "2TiB"; also "64K", "4M" … with the same meaning, and "KB", "MB" … in powers of
// 1000.
absl::StatusOr<uint64_t> ParseByteSize(std::string_view text);

// The shortest exact form that ParseByteSize() reads back: "64KiB", "1000".
std::string FormatByteSize(uint64_t bytes);

}  // namespace viommu

#endif  // VIOMMU_COMMON_UNITS_H_
