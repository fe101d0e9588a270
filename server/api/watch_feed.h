// What one watch is sent, message by message: what is there, a mark, then changes. It pulls: nothing is queued for a
// reader that is slow, except the change sets of one read (kWatchReadSets), which are shared; what has gathered
// meanwhile comes in one message (up to kWatchBatchBytes), so that whoever is behind catches up at a lower cost a
// change.
//
// What is there is read in chunks, like a list, so that the writer is never kept waiting for long. What changes while
// that goes on is left to the log, which is read from the revision at which the watch began; the mark comes when the
// log has been followed to where the reading ended.

#ifndef VIOMMU_SERVER_API_WATCH_FEED_H_
#define VIOMMU_SERVER_API_WATCH_FEED_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "common/clock.h"
#include "server/api/scan.h"
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
    kBusy,     // nothing yet: looked at a chunk of records or at kWatchScanSets change sets; go on, after others
    kEnd,      // nothing more will come; watches of the record never end by themselves
  };

  // `core` must outlive the feed. `place`, among the watches that read what is there, is let go once that is done.
  //   INVALID_ARGUMENT: INVALID_FIELD, LIMIT_EXCEEDED.
  //   OUT_OF_RANGE: REVISION_COMPACTED, REVISION_UNKNOWN.
  static absl::StatusOr<std::unique_ptr<WatchFeed>> Open(const CommitCore& core, const v1::WatchRequest& request,
                                                         MonotonicTime now, std::shared_ptr<void> place = nullptr);

  // Errors end the watch: REVISION_COMPACTED when the reader was too slow, or what the store says.
  absl::StatusOr<Step> Next(MonotonicTime now, v1::WatchResponse* message);

  // Whether there was more to send already when the last message was made.
  bool behind() const { return reading_ || sync_mark_due_ || !ahead_.empty(); }

 private:
  WatchFeed(const CommitCore& core, const v1::WatchRequest& request, MonotonicTime now);

  // Fills in one chunk of what is there; the message may stay without events.
  void ReadChunk(v1::WatchResponse* message);
  // Looks at the next records of the kind in turn, as many as are `left`; whether they end here.
  bool ScanKind(const Tables& tables, int64_t& left, size_t& bytes, v1::WatchResponse::Events* events);
  absl::StatusOr<Step> NextStep(MonotonicTime now, v1::WatchResponse* message);
  bool Matches(Kind kind, const google::protobuf::Message& record) const;
  bool WantsKind(Kind kind) const { return (kinds_ & (1U << static_cast<unsigned>(kind))) != 0; }
  // Adds what the change means under the filter; returns how many bytes that are.
  size_t AddEvent(const Change& change, int64_t revision, v1::WatchResponse::Events* events) const;
  // Adds what the set at the head has to send, or the next part of it; `bytes` are those of the message's events.
  void TakeChanges(size_t& bytes, v1::WatchResponse* message);

  const CommitCore& core_;
  const v1::WatchRequest request_;
  unsigned kinds_ = 0;

  // Reading what is there.
  std::shared_ptr<void> place_;
  bool reading_ = false;
  size_t kind_ = 0;  // in kKinds
  std::optional<ScanPlan> plan_;
  std::string after_;  // the last name that was looked at
  bool more_promised_ = false;
  bool sync_mark_due_ = false;
  int64_t sync_mark_at_ = 0;  // once everything up to this revision is done with

  bool first_ = true;               // no message was made yet
  int64_t position_ = 0;            // everything up to this revision is done with
  std::deque<ChangeSetPtr> ahead_;  // read and not done with
  size_t changes_done_ = 0;         // of the first of them
  MonotonicTime last_message_;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_WATCH_FEED_H_
