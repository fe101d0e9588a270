#include "server/commit/requests.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "server/commit/record.pb.h"

namespace viommu::server {

absl::Status Requests::Load(const Store& store) {
  absl::Status bad;
  std::vector<Age> ages;
  const absl::Status scanned =
      store.Scan(KeySpace::kRequests, "", "", [&](std::string_view key, std::string_view value) {
        RequestRecord record;
        if (!record.ParseFromArray(value.data(), static_cast<int>(value.size()))) {
          bad = absl::DataLossError(fmt::format("the answer to request id {} is damaged", key));
          return false;
        }
        entries_[std::string(key)] = {record.fingerprint(), record.revision()};
        ages.push_back({std::string(key), record.time_s()});
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

void Requests::Encode(const std::string& request_id, const std::string& fingerprint, int64_t revision, int64_t time_s,
                      std::string response, Batch& batch) {
  RequestRecord record;
  record.set_fingerprint(fingerprint);
  record.set_revision(revision);
  record.set_time_s(time_s);
  record.set_response(std::move(response));
  batch.Put(KeySpace::kRequests, request_id, record.SerializeAsString());
}

void Requests::Add(const std::string& request_id, const std::string& fingerprint, int64_t revision, int64_t time_s) {
  entries_[request_id] = {fingerprint, revision};
  ages_.push_back({request_id, time_s});
}

size_t Requests::PlanExpiry(int64_t now_s, Batch& batch) const {
  size_t count = 0;
  while (count < ages_.size() && count < kMaxExpiriesPerBatch &&
         (ages_[count].time_s + options_.ttl_s < now_s || ages_.size() - count > options_.max_entries)) {
    batch.Delete(KeySpace::kRequests, ages_[count].request_id);
    ++count;
  }
  return count;
}

void Requests::Expired(size_t count) {
  for (size_t i = 0; i < count; ++i) {
    entries_.erase(ages_.front().request_id);
    ages_.pop_front();
  }
}

}  // namespace viommu::server
