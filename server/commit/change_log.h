// What changed, by revision: the source of watches and of everything else that follows the record.
//
// The last change sets are in memory, as the bytes that the store has: each in one piece, so that making and dropping
// them costs the writer little. Older ones are in the store, the oldest are compacted away by age and by size. Readers
// pull at their own pace, so a slow one costs nothing but its position. Whoever reads a set first parses it; the newest
// of those are kept for the others.
//
// Thread-safe.

#ifndef VIOMMU_SERVER_COMMIT_CHANGE_LOG_H_
#define VIOMMU_SERVER_COMMIT_CHANGE_LOG_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "server/commit/record.pb.h"
#include "server/fleet/view.h"
#include "server/store/store.h"

namespace viommu::server {

using ChangeSetPtr = std::shared_ptr<const ChangeSet>;

class ChangeLog {
 public:
  struct Options {
    int64_t max_age_s = 24 * 3600;                 // change sets older than this are compacted away
    int64_t max_bytes = int64_t{256} << 20;        // of serialized change records in the store
    size_t max_memory_sets = 16384;                // change sets kept in memory
    int64_t max_memory_bytes = int64_t{64} << 20;  // of their serialized change records
  };

  // `store` must outlive the log.
  ChangeLog(const Store& store, const Options& options) : store_(store), options_(options) {}

  // Reads what the store has; `head` is the last revision of the record, `oldest` as ReadAfter's.
  absl::Status Load(int64_t oldest, int64_t head);

  // `before` is set only where the record is gone or its labels changed.
  //
  // Change sets after `revision`, ordered, at most `max_sets`; fewer does not mean that there are no more.
  //   OUT_OF_RANGE, REVISION_COMPACTED: some after `revision` are compacted away; metadata "oldest_revision".
  //   OUT_OF_RANGE, REVISION_UNKNOWN: `revision` has not happened here.
  absl::StatusOr<std::vector<ChangeSetPtr>> ReadAfter(int64_t revision, size_t max_sets) const;

  // The oldest revision that ReadAfter takes.
  int64_t oldest() const;
  // The newest revision.
  int64_t head() const;

  // --- For the writer.

  // A change set as it is written.
  struct Entry {
    int64_t revision = 0;
    std::shared_ptr<const std::string> bytes;
  };

  // Encodes a change set into `batch`.
  static Entry Encode(const ChangeSet& set, int64_t time_s, Batch& batch);

  // After the batch is durable: its entries, in order, become readable.
  void Publish(std::vector<Entry> entries, int64_t time_s);

  // Adds to `batch` what deletes the change sets that age and size say must go, and returns the new oldest revision
  // (the present one when there are none). Give it to Compacted once the batch is durable.
  int64_t PlanCompaction(int64_t now_s, Batch& batch) const;
  void Compacted(int64_t oldest);

 private:
  // Runs of consecutive change sets; enough to compact by, without remembering each.
  struct Segment {
    int64_t last_revision;
    int64_t last_time_s;
    int64_t bytes;
    int64_t sets;
  };
  static constexpr int64_t kSegmentSets = 1024;

  // Parsed sets that are kept, each in the place of its revision modulo their number, and what one may be long.
  static constexpr size_t kParsedSets = 1024;
  static constexpr size_t kMaxParsedBytes = size_t{16} << 10;

  void Account(int64_t revision, int64_t bytes, int64_t time_s) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<std::vector<ChangeSetPtr>> ReadStore(int64_t revision, size_t max_sets) const;
  absl::StatusOr<std::vector<ChangeSetPtr>> Parse(const std::vector<Entry>& entries,
                                                  std::vector<ChangeSetPtr> parsed) const;
  ChangeSetPtr& ParsedPlace(int64_t revision) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return parsed_[static_cast<size_t>(revision) % kParsedSets];
  }

  const Store& store_;
  const Options options_;

  mutable Mutex mu_;
  int64_t oldest_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t head_ ABSL_GUARDED_BY(mu_) = 0;
  std::deque<Entry> recent_ ABSL_GUARDED_BY(mu_);
  int64_t recent_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  mutable std::array<ChangeSetPtr, kParsedSets> parsed_ ABSL_GUARDED_BY(mu_);
  std::deque<Segment> segments_ ABSL_GUARDED_BY(mu_);
  int64_t store_bytes_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_COMMIT_CHANGE_LOG_H_
