// Which request ids were answered, so that a retry is answered alike and nothing is done twice.
//
// Rule of expiry: an answer is kept for `ttl_s`; when there are more than `max_entries`, or they are longer than
// `max_bytes`, the oldest go first. Each batch that adds some may take twice as many away.
// Not thread-safe: the writer's own.

#ifndef VIOMMU_SERVER_COMMIT_REQUESTS_H_
#define VIOMMU_SERVER_COMMIT_REQUESTS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

#include "absl/container/node_hash_map.h"
#include "absl/status/status.h"
#include "server/store/store.h"

namespace viommu::server {

class Requests {
 public:
  struct Options {
    int64_t ttl_s = 24 * 3600;
    size_t max_entries = 1'000'000;        // about 200 bytes of memory each
    int64_t max_bytes = int64_t{1} << 30;  // of all of them in the store
  };

  // Of answers.
  struct Size {
    size_t entries = 0;
    int64_t bytes = 0;
  };

  struct Entry {
    std::string fingerprint;
    int64_t revision = 0;
  };

  explicit Requests(const Options& options) : options_(options) {}

  absl::Status Load(const Store& store);

  // nullptr when the id is not known.
  const Entry* Find(const std::string& request_id) const;

  // What is kept under the request id.
  static std::string Encode(std::string_view fingerprint, int64_t revision, int64_t time_s, std::string_view response);

  // After the batch is durable; `bytes`: of the id and what is kept under it.
  void Add(const std::string& request_id, const std::string& fingerprint, int64_t revision, int64_t time_s,
           int64_t bytes);

  // Adds to `batch`, which also adds `coming`, what deletes expired entries, at most `max`, and returns how many there
  // are; give that to Expired once the batch is durable.
  size_t PlanExpiry(int64_t now_s, const Size& coming, size_t max, Batch& batch) const;
  void Expired(size_t count);

  Size size() const { return {entries_.size(), bytes_}; }

 private:
  struct Age {
    const std::string* request_id;  // in entries_
    int64_t time_s;
    int64_t bytes;
  };

  const Options options_;
  absl::node_hash_map<std::string, Entry> entries_;
  std::deque<Age> ages_;  // oldest first
  int64_t bytes_ = 0;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_COMMIT_REQUESTS_H_
