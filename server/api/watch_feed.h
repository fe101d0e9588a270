// What one watch is sent, message by message: what is there, a mark, then changes. It pulls: nothing is queued for a
// reader that is slow, except the change sets of one read (kWatchReadSets), which are shared.

#ifndef VIOMMU_SERVER_API_WATCH_FEED_H_
#define VIOMMU_SERVER_API_WATCH_FEED_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "server/commit/change_log.h"
#include "server/commit/core.h"
#include "server/fleet/view.h"
#include "viommu/v1/fleet_service.pb.h"

namespace viommu::server {

// For one thread at a time.
class WatchFeed {
 public:
  enum class Step {
    kMessage,  // a message to send
    kIdle,     // nothing to send until there is another commit, or the time for a progress mark
    kBusy,     // nothing yet: looked at kWatchScanSets change sets; go on, after others had their turn
  };

  // `core` must outlive the feed. For start_revision 0 this takes the snapshot: shared pointers to what matches.
  //   INVALID_ARGUMENT: INVALID_FIELD, LIMIT_EXCEEDED.
  //   OUT_OF_RANGE: REVISION_COMPACTED, REVISION_UNKNOWN.
  static absl::StatusOr<std::unique_ptr<WatchFeed>> Open(const CommitCore& core, const v1::WatchRequest& request,
                                                         MonotonicTime now);

  // Errors end the watch: REVISION_COMPACTED when the reader was too slow, or what the store says.
  absl::StatusOr<Step> Next(MonotonicTime now, v1::WatchResponse* message);

 private:
  WatchFeed(const CommitCore& core, const v1::WatchRequest& request, MonotonicTime now);

  void TakeSnapshot();
  bool Matches(Kind kind, const google::protobuf::Message& record) const;
  bool WantsKind(Kind kind) const { return (kinds_ & (1U << static_cast<unsigned>(kind))) != 0; }
  // Adds what the change means under the filter; returns how many bytes that are.
  size_t AddEvent(const Change& change, v1::WatchResponse::Events* events) const;
  void TakeSnapshotPage(v1::WatchResponse* message);
  // Whether the set at the head has something to send (or more of it).
  bool TakeChanges(v1::WatchResponse* message);

  const CommitCore& core_;
  const v1::WatchRequest request_;
  unsigned kinds_ = 0;

  std::vector<std::pair<Kind, RecordPtr>> snapshot_;
  size_t snapshot_sent_ = 0;
  bool sync_mark_due_ = false;

  int64_t position_ = 0;            // everything up to this revision is done with
  std::deque<ChangeSetPtr> ahead_;  // read and not done with
  size_t changes_done_ = 0;         // of the first of them
  MonotonicTime last_message_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_WATCH_FEED_H_
