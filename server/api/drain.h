// How far the emptying of a host is.

#ifndef VIOMMU_SERVER_API_DRAIN_H_
#define VIOMMU_SERVER_API_DRAIN_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "server/api/watch_feed.h"
#include "server/commit/core.h"
#include "viommu/v1/operations_service.pb.h"

namespace viommu::server {

inline constexpr int32_t kDefaultRemaining = 20;  // entries of DrainProgress.remaining
inline constexpr int32_t kMaxRemaining = 1000;

// Fills in the host's progress and the revision it was read at. What changes while a long list is being read may or may
// not be counted. Any thread. INVALID_FIELD, HOST_NOT_FOUND.
absl::Status ReadDrain(const CommitCore& core, WallTime now, const v1::GetDrainRequest& request,
                       v1::GetDrainResponse* response);

// What a WatchDrain is sent: the progress, then again whenever it has changed. For one thread at a time.
class DrainFeed {
 public:
  // As ReadDrain. `core` and `clock` must outlive the feed.
  static absl::StatusOr<std::unique_ptr<DrainFeed>> Open(const CommitCore& core, const Clock& clock,
                                                         const v1::WatchDrainRequest& request);

  // kEnd: the host is empty, is no longer drained or is no longer recorded; that was said before.
  absl::StatusOr<WatchFeed::Step> Next(MonotonicTime now, v1::WatchDrainResponse* message);

  // As of a WatchFeed; the end counts.
  bool behind() const { return over_ || due_; }

 private:
  DrainFeed(const CommitCore& core, const Clock& clock, v1::GetDrainRequest request)
      : core_(core), clock_(clock), request_(std::move(request)) {}

  const CommitCore& core_;
  const Clock& clock_;
  const v1::GetDrainRequest request_;
  std::unique_ptr<WatchFeed> changes_;  // of the host
  bool due_ = true;                     // something has changed
  bool over_ = false;                   // the last message was the last one
  std::string last_;                    // the progress that was sent
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_DRAIN_H_
