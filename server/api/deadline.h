// How long a call may be worked on.

#ifndef VIOMMU_SERVER_API_DEADLINE_H_
#define VIOMMU_SERVER_API_DEADLINE_H_

#include <algorithm>
#include <chrono>

#include "common/clock.h"
#include "server/api/limits.h"

namespace viommu::server {

// The time from `now` until a call with that deadline should be answered: so long before the deadline that the answer
// still arrives in time (a tenth of what is left, at most kMaxAnswerMargin), and not more than `limit`.
inline std::chrono::nanoseconds TimeToAnswer(WallTime now, std::chrono::system_clock::time_point deadline,
                                             std::chrono::nanoseconds limit) {
  // In whole microseconds first: a call without a deadline has one at the end of time, which nanoseconds cannot hold.
  const auto left = std::chrono::duration_cast<std::chrono::microseconds>(
      deadline - std::chrono::time_point_cast<std::chrono::system_clock::duration>(now));
  if (left <= std::chrono::microseconds::zero()) return std::chrono::nanoseconds::zero();
  if (left > std::chrono::hours(24 * 365)) return limit;
  const std::chrono::nanoseconds margin = std::min<std::chrono::nanoseconds>(kMaxAnswerMargin, left / 10);
  return std::min<std::chrono::nanoseconds>(limit, std::chrono::nanoseconds(left) - margin);
}

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_DEADLINE_H_
