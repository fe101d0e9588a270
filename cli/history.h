// Recent changes of one resource, from the server's change log.

#ifndef VIOMMU_CLI_HISTORY_H_
#define VIOMMU_CLI_HISTORY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/session.h"
#include "viommu/v1/fleet_service.pb.h"

namespace viommu::cli {

// Revisions looked at, from the newest back.
inline constexpr int64_t kHistoryRevisions = 20'000;
// Changes kept, the newest ones.
inline constexpr size_t kHistoryChanges = 12;
// Longest time that is spent on looking.
inline constexpr std::chrono::milliseconds kHistoryTime{2000};

struct Change {
  int64_t revision;
  v1::Event event;
};

struct History {
  // Oldest first.
  std::vector<Change> changes;
  // Revisions after this one were looked at.
  int64_t after = 0;
  // Up to the resource's own last change; false when time ran out before.
  bool complete = false;
};

// `resource` is a message of any kind that has a uid; a rebind changes the name, so changes are told by uid.
absl::StatusOr<History> ReadHistory(Session& session, const google::protobuf::Message& resource);

// What changed from one state of a resource to the next, in words: "state PENDING -> READY, observed_generation 7 ->
// 9".
std::string Difference(const google::protobuf::Message* before, const google::protobuf::Message& after);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_HISTORY_H_
