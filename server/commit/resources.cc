#include "server/commit/resources.h"

#include <fmt/format.h>

#include <string>
#include <utility>

#include "common/error.h"
#include "server/fleet/names.h"
#include "server/fleet/rules.h"
#include "server/fleet/view.h"

namespace viommu::server {

absl::Status DamagedStore(const Store& store, std::string_view what) {
  return Error(absl::StatusCode::kDataLoss, v1::ERROR_REASON_STORE_DAMAGED)
      .Message("{} is damaged: {}. It is left as it is; restore it from a backup", store.Describe(), what)
      .Meta("store", store.Describe());
}

absl::Status LoadResources(const Store& store, Tables& tables) {
  absl::Status bad;
  VIOMMU_RETURN_IF_ERROR(store.Scan(KeySpace::kResources, "", "", [&](std::string_view key, std::string_view value) {
    const Kind kind = key.empty() ? Kind{} : static_cast<Kind>(key[0]);
    const std::string name(key.empty() ? key : key.substr(1));
    RecordPtr record = key.empty() ? nullptr : ParseRecord(kind, value);
    if (record == nullptr) {
      bad = DamagedStore(store, fmt::format("resource {} cannot be read", name));
    } else if (KindOfName(name) != kind || NameOf(kind, *record) != name) {
      bad = DamagedStore(store, fmt::format("under the name {} there is a record of {} {}", name, KindName(kind),
                                            NameOf(kind, *record)));
    } else {
      tables.Apply({kind, name, nullptr, std::move(record)});
    }
    return bad.ok();
  }));
  VIOMMU_RETURN_IF_ERROR(bad);
  const absl::Status broken = CheckInvariants(tables);
  return broken.ok() ? absl::OkStatus() : DamagedStore(store, std::string(broken.message()));
}

}  // namespace viommu::server
