#include "server/commit/requests.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "common/error.h"
#include "server/commit/record.pb.h"

namespace viommu::server {

absl::Status Requests::Load(const Store& store) {
  absl::Status bad;
  std::vector<Age> ages;
  const absl::Status scanned =
      store.Scan(KeySpace::kRequests, "", "", [&](std::string_view key, std::string_view value) {
        RequestRecord record;
        if (!record.ParseFromArray(value.data(), static_cast<int>(value.size()))) {
          bad = Error(absl::StatusCode::kDataLoss, v1::ERROR_REASON_STORE_DAMAGED)
                    .Message(
                        "{} is damaged: the answer to request id {} cannot be read. It is left as it is; restore "
                        "it from a backup",
                        store.Describe(), key);
          return false;
        }
        entries_[std::string(key)] = {record.fingerprint(), record.revision()};
        ages.push_back({std::string(key), record.time_s(), static_cast<int64_t>(key.size() + value.size())});
        bytes_ += ages.back().bytes;
        return true;
      });
  if (!bad.ok()) return bad;
  std::stable_sort(ages.begin(), ages.end(), [](const Age& a, const Age& b) { return a.time_s < b.time_s; });
  ages_.assign(std::make_move_iterator(ages.begin()), std::make_move_iterator(ages.end()));
  return scanned;
}

const Requests::Entry* Requests::Find(const std::string& request_id) const {
  const auto it = entries_.find(request_id);
  return it == entries_.end() ? nullptr : &it->second;
}

int64_t Requests::Encode(const std::string& request_id, const std::string& fingerprint, int64_t revision,
                         int64_t time_s, std::string response, Batch& batch) {
  RequestRecord record;
  record.set_fingerprint(fingerprint);
  record.set_revision(revision);
  record.set_time_s(time_s);
  record.set_response(std::move(response));
  std::string value = record.SerializeAsString();
  const auto bytes = static_cast<int64_t>(request_id.size() + value.size());
  batch.Put(KeySpace::kRequests, request_id, std::move(value));
  return bytes;
}

void Requests::Add(const std::string& request_id, const std::string& fingerprint, int64_t revision, int64_t time_s,
                   int64_t bytes) {
  entries_[request_id] = {fingerprint, revision};
  ages_.push_back({request_id, time_s, bytes});
  bytes_ += bytes;
}

size_t Requests::PlanExpiry(int64_t now_s, const Size& coming, size_t max, Batch& batch) const {
  size_t count = 0;
  int64_t bytes = bytes_ + coming.bytes;
  while (count < ages_.size() && count < max &&
         (ages_[count].time_s + options_.ttl_s < now_s ||
          ages_.size() - count + coming.entries > options_.max_entries || bytes > options_.max_bytes)) {
    batch.Delete(KeySpace::kRequests, ages_[count].request_id);
    bytes -= ages_[count].bytes;
    ++count;
  }
  return count;
}

void Requests::Expired(size_t count) {
  for (size_t i = 0; i < count; ++i) {
    bytes_ -= ages_.front().bytes;
    entries_.erase(ages_.front().request_id);
    ages_.pop_front();
  }
}

}  // namespace viommu::server
