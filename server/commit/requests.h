// Which request ids were answered, so that a retry is answered alike and nothing is done twice.
//
// Rule of expiry: an answer is kept for `ttl_s`; when there are more than `max_entries`, the oldest go first.
// Not thread-safe: the writer's own.

#ifndef VIOMMU_SERVER_COMMIT_REQUESTS_H_
#define VIOMMU_SERVER_COMMIT_REQUESTS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "server/store/store.h"

namespace viommu::server {

class Requests {
 public:
  struct Options {
    int64_t ttl_s = 24 * 3600;
    size_t max_entries = 1'000'000;  // about 100 bytes of memory each
  };

  struct Entry {
    std::string fingerprint;
    int64_t revision = 0;
  };

  explicit Requests(const Options& options) : options_(options) {}

  absl::Status Load(const Store& store);

  // nullptr when the id is not known.
  const Entry* Find(const std::string& request_id) const;

  static void Encode(const std::string& request_id, const std::string& fingerprint, int64_t revision, int64_t time_s,
                     std::string response, Batch& batch);

  // After the batch is durable.
  void Add(const std::string& request_id, const std::string& fingerprint, int64_t revision, int64_t time_s);

  // Adds to `batch` what deletes expired entries, at most kMaxExpiriesPerBatch, and returns how many there are; give
  // that to Expired once the batch is durable.
  size_t PlanExpiry(int64_t now_s, Batch& batch) const;
  void Expired(size_t count);

  size_t size() const { return entries_.size(); }

 private:
  static constexpr size_t kMaxExpiriesPerBatch = 1024;

  struct Age {
    std::string request_id;
    int64_t time_s;
  };

  const Options options_;
  absl::flat_hash_map<std::string, Entry> entries_;
  std::deque<Age> ages_;  // oldest first
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_COMMIT_REQUESTS_H_
