#include "server/commit/requests.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "common/error.h"
#include "server/commit/codec.h"
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
        const auto entry = entries_.emplace(key, Entry{record.fingerprint(), record.revision()}).first;
        ages.push_back({&entry->first, record.time_s(), static_cast<int64_t>(key.size() + value.size())});
        bytes_ += ages.back().bytes;
        return true;
      });
  if (!bad.ok()) return bad;
  std::stable_sort(ages.begin(), ages.end(), [](const Age& a, const Age& b) { return a.time_s < b.time_s; });
  ages_.assign(ages.begin(), ages.end());
  return scanned;
}

const Requests::Entry* Requests::Find(const std::string& request_id) const {
  const auto it = entries_.find(request_id);
  return it == entries_.end() ? nullptr : &it->second;
}

std::string Requests::Encode(std::string_view fingerprint, int64_t revision, int64_t time_s,
                             std::string_view response) {
  std::string bytes;
  bytes.reserve(fingerprint.size() + response.size() + 32);
  MessageWriter record(bytes);
  record.Bytes(RequestRecord::kFingerprintFieldNumber, fingerprint);
  record.Number(RequestRecord::kRevisionFieldNumber, static_cast<uint64_t>(revision));
  record.Number(RequestRecord::kTimeSFieldNumber, static_cast<uint64_t>(time_s));
  record.Bytes(RequestRecord::kResponseFieldNumber, response);
  return bytes;
}

void Requests::Add(const std::string& request_id, const std::string& fingerprint, int64_t revision, int64_t time_s,
                   int64_t bytes) {
  const auto entry = entries_.emplace(request_id, Entry{fingerprint, revision}).first;
  ages_.push_back({&entry->first, time_s, bytes});
  bytes_ += bytes;
}

size_t Requests::PlanExpiry(int64_t now_s, const Size& coming, size_t max, Batch& batch) const {
  size_t count = 0;
  int64_t bytes = bytes_ + coming.bytes;
  while (count < ages_.size() && count < max &&
         (ages_[count].time_s + options_.ttl_s < now_s ||
          ages_.size() - count + coming.entries > options_.max_entries || bytes > options_.max_bytes)) {
    batch.Delete(KeySpace::kRequests, *ages_[count].request_id);
    bytes -= ages_[count].bytes;
    ++count;
  }
  return count;
}

void Requests::Expired(size_t count) {
  for (size_t i = 0; i < count; ++i) {
    bytes_ -= ages_.front().bytes;
    entries_.erase(entries_.find(*ages_.front().request_id));
    ages_.pop_front();
  }
}

}  // namespace viommu::server
