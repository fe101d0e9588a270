// What every engine keeps on disk besides the caller's keys: the version of the format (docs/store-format.md).

#ifndef VIOMMU_SERVER_STORE_FORMAT_H_
#define VIOMMU_SERVER_STORE_FORMAT_H_

#include <string_view>

namespace viommu::server {

// In KeySpace::kMeta; the engine's own: written when a store is created, checked when it is opened. The value is the
// version in decimal. Nobody else writes this key.
inline constexpr std::string_view kFormatVersionKey = "format_version";

// The version that this build writes, and the newest that it reads. Raised when an older build would misread what is
// written now, be it by the engine or by commit/; a build reads every version from 1 to this one.
inline constexpr int kFormatVersion = 2;

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_STORE_FORMAT_H_
