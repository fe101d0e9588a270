// Reading resources of any kind: one by name, or lists.

#ifndef VIOMMU_CLI_FETCH_H_
#define VIOMMU_CLI_FETCH_H_

#include <google/protobuf/message.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cli/filters.h"
#include "cli/names.h"
#include "cli/session.h"

namespace viommu::cli {

// Items of one list unless --limit says otherwise.
inline constexpr size_t kDefaultLimit = 10'000;
// Largest --limit.
inline constexpr uint64_t kMaxLimit = 1'000'000;

struct Fetched {
  std::unique_ptr<google::protobuf::Message> resource;
  int64_t revision = 0;
};

// `name` is a full name of that kind. An SMMU is read from its host.
absl::StatusOr<Fetched> FetchOne(Session& session, Kind kind, const std::string& name);

// All pages up to `limit`. SMMUs are read from their hosts, in the order of the hosts' names.
absl::StatusOr<Listing> FetchList(Session& session, Kind kind, const Filters& filters, size_t limit = kDefaultLimit);

// The keys of --field for this kind.
std::vector<std::string> FilterKeysOf(Kind kind);

// The message of FetchOne as what it is. The caller knows the kind.
template <typename T>
const T& As(const Fetched& fetched) {
  return static_cast<const T&>(*fetched.resource);
}

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_FETCH_H_
