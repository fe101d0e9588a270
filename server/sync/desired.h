// Desired messages: what of a host's record is put into the next one. Pure.

#ifndef VIOMMU_SERVER_SYNC_DESIRED_H_
#define VIOMMU_SERVER_SYNC_DESIRED_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "server/fleet/view.h"
#include "server/sync/difference.h"
#include "viommu/v1/agent_service.pb.h"

namespace viommu::server {

// Items of one Desired message.
inline constexpr size_t kMaxDesiredItems = 1024;

// What a message is to be made of.
struct DesiredWork {
  std::vector<ResourceKey> keys;  // in order, at most kMaxDesiredItems
  std::vector<std::string> unknown_uids;
  int64_t revision = 0;     // of the record that has been followed so far
  bool everything = false;  // there is nothing else to be sent up to that revision
  bool mark = false;        // the sync mark is due after it
  size_t max_bytes = 0;
};

// What became of it.
struct DesiredMessage {
  std::unique_ptr<v1::ConnectResponse> message;  // without nonce and epoch; null when there is nothing to say
  size_t items = 0;                              // in it
  ResourceKey last{Kind::kStage2Domain, ""};     // the last key that it deals with, where there are keys
  int64_t revision = 0;                          // that it brings the agent up to; 0: no further than before
  bool mark = false;
  // Did not fit.
  std::vector<ResourceKey> keys_left;
  std::vector<std::string> uids_left;
};

// The records of work.keys as they are now, null for those that are gone. To be called while the view stands still;
// BuildDesired then works without it.
std::vector<RecordPtr> FetchRecords(const View& view, const DesiredWork& work);

// `records` as FetchRecords gave them. The message has at most work.max_bytes, unless a single resource is larger.
DesiredMessage BuildDesired(DesiredWork work, const std::vector<RecordPtr>& records);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_SYNC_DESIRED_H_
