#include "cli/watch_position.h"

#include <utility>

#include "cli/output/resources.h"

namespace viommu::cli {

void WatchPosition::BeginStream() { seen_in_this_stream_.clear(); }

std::vector<v1::Event> WatchPosition::Accept(const v1::WatchResponse& response) {
  std::vector<v1::Event> news;
  switch (response.kind_case()) {
    case v1::WatchResponse::kEvents:
      for (const v1::Event& event : response.events().events()) {
        const google::protobuf::Message* resource = Inside(event.resource());
        if (resource == nullptr) continue;  // a kind of a newer server
        const CommonFields common = CommonOf(*resource);
        if (synced_) {
          if (said_of_next_.emplace(event.revision(), common.name).second) news.push_back(event);
          continue;
        }
        if (event.type() == v1::EVENT_TYPE_DELETED) {
          if (existing_.erase(common.name) > 0) news.push_back(event);
          seen_in_this_stream_.erase(common.name);
          continue;
        }
        seen_in_this_stream_.insert(common.name);
        const auto said = existing_.find(common.name);
        if (said != existing_.end() && said->second.revision == common.revision) continue;
        existing_[common.name] = {common.revision, event.resource()};
        news.push_back(event);
      }
      if (synced_ && !response.events().more()) {
        revision_ = response.revision();
        said_of_next_.erase(said_of_next_.begin(), said_of_next_.upper_bound({revision_ + 1, ""}));
      }
      break;
    case v1::WatchResponse::kSyncMark:
      for (auto& [name, said] : existing_) {
        if (seen_in_this_stream_.contains(name)) continue;
        v1::Event gone;
        gone.set_type(v1::EVENT_TYPE_DELETED);
        *gone.mutable_resource() = std::move(said.resource);
        news.push_back(std::move(gone));
      }
      existing_.clear();
      synced_ = true;
      revision_ = response.revision();
      break;
    case v1::WatchResponse::kProgress:
      // Inside a revision or before the sync mark there is no complete revision to note.
      if (synced_ && said_of_next_.empty() && response.revision() > revision_) revision_ = response.revision();
      break;
    case v1::WatchResponse::KIND_NOT_SET:
      break;
  }
  return news;
}

}  // namespace viommu::cli
