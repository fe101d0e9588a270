#include "server/commit/resources.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "common/error.h"
#include "server/commit/codec.h"
#include "server/fleet/names.h"
#include "server/fleet/rules.h"
#include "server/fleet/view.h"

namespace viommu::server {
namespace {

// Calls `f` with each kind, on a thread for each: nearly all records of a large fleet are devices and vdevices, as many
// of these as of those. The first error in the order of the kinds.
absl::Status ForEachKind(absl::FunctionRef<absl::Status(Kind)> f) {
  std::array<absl::Status, std::size(kKinds)> statuses;
  std::vector<std::thread> threads;
  for (size_t i = 0; i < std::size(kKinds); ++i) {
    threads.emplace_back([&, i] { statuses[i] = f(kKinds[i]); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& status : statuses) VIOMMU_RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

// Reads what the store has under the kind; under the first and the last one also what has no kind.
absl::Status LoadKind(const Store& store, Kind kind, Tables& tables) {
  const Kind* const next = std::find(std::begin(kKinds), std::end(kKinds), kind) + 1;
  const std::string begin = kind == kKinds[0] ? "" : ResourceKey(kind, "");
  const std::string end = next == std::end(kKinds) ? "" : ResourceKey(*next, "");
  absl::Status bad;
  std::shared_ptr<google::protobuf::Message> record;
  VIOMMU_RETURN_IF_ERROR(
      store.Scan(KeySpace::kResources, begin, end, [&](std::string_view key, std::string_view value) {
        // Parsed into again, unless the tables have kept it.
        if (record.use_count() != 1) record = NewRecord(kind);
        const std::string_view name = key.empty() ? key : key.substr(1);
        if (key.empty() || static_cast<Kind>(key[0]) != kind ||
            !record->ParseFromArray(value.data(), static_cast<int>(value.size()))) {
          bad = DamagedStore(store, fmt::format("resource {} cannot be read", name));
        } else if (KindOfName(name) != kind || NameOf(kind, *record) != name) {
          bad = DamagedStore(store, fmt::format("under the name {} there is a record of {} {}", name, KindName(kind),
                                                NameOf(kind, *record)));
        } else {
          tables.Append(kind, record, value);
        }
        return bad.ok();
      }));
  return bad;
}

}  // namespace

absl::Status DamagedStore(const Store& store, std::string_view what) {
  return Error(absl::StatusCode::kDataLoss, v1::ERROR_REASON_STORE_DAMAGED)
      .Message("{} is damaged: {}. It is left as it is; restore it from a backup", store.Describe(), what)
      .Meta("store", store.Describe());
}

absl::Status LoadResources(const Store& store, Tables& tables) {
  VIOMMU_RETURN_IF_ERROR(ForEachKind([&](Kind kind) { return LoadKind(store, kind, tables); }));
  const absl::Status broken = ForEachKind([&](Kind kind) { return CheckInvariants(tables, kind); });
  return broken.ok() ? absl::OkStatus() : DamagedStore(store, std::string(broken.message()));
}

}  // namespace viommu::server
