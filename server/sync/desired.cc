#include "server/sync/desired.h"

#include <utility>

namespace viommu::server {
namespace {

// Tag and length of an element in a repeated field of a message below 2 GiB.
constexpr size_t kElementOverheadBytes = 6;
// Nonce, epoch, revision, mark, and the frame around the message.
constexpr size_t kFrameBytes = 64;

}  // namespace

std::vector<RecordPtr> FetchRecords(const View& view, const DesiredWork& work) {
  std::vector<RecordPtr> records;
  records.reserve(work.keys.size());
  for (const ResourceKey& key : work.keys) records.push_back(view.FindRecord(key.kind, key.name));
  return records;
}

DesiredMessage BuildDesired(DesiredWork work, const std::vector<RecordPtr>& records) {
  DesiredMessage built;
  auto message = std::make_unique<v1::ConnectResponse>();
  v1::Desired& desired = *message->mutable_desired();
  size_t bytes = kFrameBytes;

  // What is to be torn down comes first: a name may be in use again.
  size_t uids = 0;
  for (; uids < work.unknown_uids.size(); ++uids) {
    bytes += work.unknown_uids[uids].size() + kElementOverheadBytes;
    if (bytes > work.max_bytes && uids > 0) break;
    desired.add_unknown_uids(work.unknown_uids[uids]);
  }

  size_t keys = 0;
  if (uids == work.unknown_uids.size()) {
    for (; keys < work.keys.size(); ++keys) {
      if (records[keys] == nullptr) continue;
      // A resource is wrapped twice, in its union and in the list.
      const size_t size = records[keys]->ByteSizeLong() + 2 * kElementOverheadBytes;
      const bool first = desired.items_size() == 0 && uids == 0;
      if (bytes + size > work.max_bytes && !first) break;
      bytes += size;
      *desired.add_items() = ToResource(work.keys[keys].kind, *records[keys]);
    }
  }
  if (keys > 0) built.last = work.keys[keys - 1];

  const auto key_left = work.keys.begin() + static_cast<std::ptrdiff_t>(keys);
  const auto uid_left = work.unknown_uids.begin() + static_cast<std::ptrdiff_t>(uids);
  built.keys_left.assign(std::make_move_iterator(key_left), std::make_move_iterator(work.keys.end()));
  built.uids_left.assign(std::make_move_iterator(uid_left), std::make_move_iterator(work.unknown_uids.end()));

  built.items = static_cast<size_t>(desired.items_size());
  if (work.everything && built.keys_left.empty() && built.uids_left.empty()) {
    built.revision = work.revision;
    built.mark = work.mark;
    desired.set_sync_mark(work.mark);
  }
  if (built.items > 0 || desired.unknown_uids_size() > 0 || built.mark) built.message = std::move(message);
  return built;
}

}  // namespace viommu::server
