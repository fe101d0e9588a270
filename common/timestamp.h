// Wall clock time to and from google.protobuf.Timestamp and RFC 3339.

#ifndef VIOMMU_COMMON_TIMESTAMP_H_
#define VIOMMU_COMMON_TIMESTAMP_H_

#include <string>

#include "common/clock.h"
#include "google/protobuf/timestamp.pb.h"

namespace viommu {

google::protobuf::Timestamp ToTimestamp(WallTime time);

// Times beyond what 64 bits of nanoseconds hold (the years 1677 to 2262) become the nearest one that fits.
WallTime FromTimestamp(const google::protobuf::Timestamp& timestamp);

// "2026-11-23T22:16:18.123456Z": UTC, microseconds, always of the same length (years 0 to 9999).
std::string FormatTime(WallTime time);

}  // namespace viommu

#endif  // VIOMMU_COMMON_TIMESTAMP_H_
