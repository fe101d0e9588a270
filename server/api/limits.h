// Limits of the fleet service; docs/limits.md lists them.

#ifndef VIOMMU_SERVER_API_LIMITS_H_
#define VIOMMU_SERVER_API_LIMITS_H_

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace viommu::server {

inline constexpr int kMaxRequestBytes = 4 << 20;  // of one request, serialized

inline constexpr int kDefaultPageSize = 100;              // entries of a page
inline constexpr int kMaxPageSize = 1000;                 // entries of a page
inline constexpr size_t kMaxPageBytes = size_t{2} << 20;  // serialized entries of a page; a page may be short
inline constexpr int64_t kMaxScanRecords = 100'000;       // looked at for one page; a page may be short
inline constexpr int64_t kScanChunkRecords = 4096;        // looked at while the writer is kept waiting
inline constexpr int64_t kMaxAuditScanEntries = 20'000;   // of the audit log, looked at for one page
inline constexpr int kMaxFilterValues = 32;               // values of one repeated filter
inline constexpr size_t kMaxPageTokenBytes = 2048;        // length of a page token

inline constexpr int kMaxInvalidateCommands = 4096;  // commands of one Invalidate
inline constexpr size_t kRawCommandBytes = 16;       // length of a raw command
inline constexpr size_t kMaxInvalidations = 16'384;  // calls of Invalidate under way

inline constexpr int kMaxInspections = 64;                 // calls of GetDrift under way
inline constexpr std::chrono::minutes kMaxInspectWait{1};  // of a call without a deadline or with a later one

inline constexpr size_t kMaxWatchMessageBytes = size_t{1} << 20;  // events of one message, unless one alone is longer
inline constexpr size_t kWatchBatchBytes = size_t{64} << 10;      // no more revisions are added to a message of these
inline constexpr size_t kWatchReadSets = 64;                      // change sets that a watch reads at a time
inline constexpr int64_t kWatchScanSets = 8192;                   // looked at before others have their turn
inline constexpr size_t kMaxWatches = 1000;                       // at the same time
inline constexpr size_t kMaxSnapshots = 64;                       // watches that read what is there, at the same time
inline constexpr std::chrono::seconds kMaxWatchSend{60};          // for one message to be taken by its reader
inline constexpr int64_t kSnapshotChunkRecords = 1024;            // looked at while the writer is kept waiting
inline constexpr std::chrono::seconds kWatchProgressInterval{5};  // between progress marks of an idle watch

inline constexpr size_t kMaxApplyWaits = 16'384;                   // calls that wait for their host at the same time
inline constexpr size_t kUsualResourceBytes = 1024;                // that a resource takes in memory, labels aside
inline constexpr std::chrono::minutes kMaxApplyWait{60};           // of a call without a deadline or with a later one
inline constexpr std::chrono::minutes kMaxInvalidateWait{5};       // of a call without a deadline or with a later one
inline constexpr std::chrono::milliseconds kMaxAnswerMargin{100};  // left of a call's deadline for the answer's way

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_LIMITS_H_
