#include "tests/simulation/operator.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>

#include "common/error.h"
#include "common/timestamp.h"

namespace viommu::simulation {
namespace {

using server::Kind;

// Where a stale server had a host forgotten, its agent was told to tear down what the other server still records, and
// takes it for released.
bool WasReleasedForAnother(const Timeline& timeline, const Host& host) {
  const auto refused = [&host](const auto& resource) {
    return resource.host() == host.name() && resource.state() == v1::STATE_FAILED &&
           resource.state_reason().reason() == ReasonName(v1::ERROR_REASON_BEING_DELETED);
  };
  return std::any_of(timeline.state.begin(), timeline.state.end(), [&refused](const auto& entry) {
    const auto& [key, record] = entry;
    return (key.first == Kind::kStage2Domain && refused(static_cast<const v1::Stage2Domain&>(*record))) ||
           (key.first == Kind::kViommu && refused(static_cast<const v1::Viommu&>(*record))) ||
           (key.first == Kind::kHwQueue && refused(static_cast<const v1::HwQueue&>(*record))) ||
           (key.first == Kind::kNestedDomain && refused(static_cast<const v1::NestedDomain&>(*record))) ||
           (key.first == Kind::kVdevice && refused(static_cast<const v1::Vdevice&>(*record)));
  });
}

}  // namespace

Operator::Operator(Fleet& fleet)
    : fleet_(fleet),
      client_(
          fleet.scheduler, fleet.weather, fleet.lost_calls, /*operations=*/0, [&fleet] { return fleet.server.get(); },
          "operator") {
  client_.Quiesce();
}

bool Operator::SettleGroup() {
  using Group = std::pair<std::string, uint32_t>;  // host and number
  std::map<Group, std::string> stuck;
  std::map<Group, std::string> nested;
  for (auto it = fleet_.timeline->state.lower_bound({Kind::kVdevice, ""});
       it != fleet_.timeline->state.end() && it->first.first == Kind::kVdevice; ++it) {
    const auto& vdevice = static_cast<const v1::Vdevice&>(*it->second);
    const auto device = fleet_.timeline->state.find({Kind::kDevice, vdevice.device()});
    if (device == fleet_.timeline->state.end()) continue;
    const auto& taken = static_cast<const v1::Device&>(*device->second);
    if (!taken.iommu_group_shared()) continue;
    const Group group(vdevice.host(), taken.iommu_group());
    if (!vdevice.nested_domain().empty()) nested[group] = vdevice.name();
    if (vdevice.state() == v1::STATE_FAILED &&
        vdevice.state_reason().reason() == ReasonName(v1::ERROR_REASON_DEPENDENCY_NOT_READY)) {
      stuck[group] = vdevice.name();
    }
  }
  if (stuck.empty() || !client_.idle()) return false;
  const auto& [group, vdevice] = *stuck.begin();
  if (const auto found = nested.find(group); found != nested.end()) {
    client_.Detach(found->second);
  } else {
    client_.Unset(vdevice);
  }
  return true;
}

// An operator settles by hand what knows another store (docs/store-format.md, "After a restore").
bool Operator::Repair() {
  bool at_work = SettleGroup();
  for (const auto& host : fleet_.hosts) {
    if (host->journal_damaged() && fleet_.server != nullptr) {
      fleet_.server->RepairDrift(host->name(), [host = host.get()](const absl::StatusOr<int64_t>& drifts) {
        if (drifts.ok() && *drifts == 0) host->JournalIsMended();
      });
      at_work = true;
    }
    if (host->drift() != 0) {
      host->MendDrift();
      at_work = true;
    }
    if (fleet_.checker.forked() && WasReleasedForAnother(*fleet_.timeline, *host) &&
        started_over_.insert(host.get()).second) {
      host->StartOver();
      at_work = true;
      continue;
    }
    switch (host->refused()) {
      case v1::ERROR_REASON_STORE_INCARNATION_MISMATCH:
      case v1::ERROR_REASON_STALE_EPOCH:
      case v1::ERROR_REASON_STORE_OUT_OF_DATE:
        if (fleet_.checker.forked()) {
          host->StartOver();
          at_work = true;
        } else {
          fleet_.checker.Fail(fmt::format("{} is refused ({}), and there is only one store", host->name(),
                                          static_cast<int>(host->refused())));
        }
        break;
      default:
        break;
    }
  }
  return at_work;
}

std::string Operator::Unsettled() const {
  if (fleet_.server == nullptr) return "the server does not run";
  if (!client_.idle()) return "nobody answers the operator: " + client_.Pending();
  for (const auto& client : fleet_.clients) {
    if (!client->idle()) return "nobody answers " + client->Pending();
  }
  if (fleet_.server->waiting() != 0) return fmt::format("{} callers wait for a host", fleet_.server->waiting());
  const auto stats = fleet_.server->stats();
  if (stats.synced != static_cast<int64_t>(fleet_.hosts.size()))
    return fmt::format("{} agents are in sync", stats.synced);
  for (const auto& host : fleet_.hosts) {
    if (!host->has_all_memory()) return "a VMM of " + host->name() + " is starting";
  }
  for (const auto& [key, record] : fleet_.timeline->state) {
    const auto unsettled = [&key = key](const auto& resource) -> std::string {
      if (resource.state() == v1::STATE_READY || resource.state() == v1::STATE_DORMANT) return "";
      return fmt::format("{} is {} ({})", key.second, v1::State_Name(resource.state()),
                         resource.state_reason().message());
    };
    std::string why;
    if (key.first == Kind::kStage2Domain) why = unsettled(static_cast<const v1::Stage2Domain&>(*record));
    if (key.first == Kind::kViommu) why = unsettled(static_cast<const v1::Viommu&>(*record));
    if (key.first == Kind::kHwQueue) why = unsettled(static_cast<const v1::HwQueue&>(*record));
    if (key.first == Kind::kNestedDomain) why = unsettled(static_cast<const v1::NestedDomain&>(*record));
    if (key.first == Kind::kVdevice) {
      const auto& vdevice = static_cast<const v1::Vdevice&>(*record);
      why = unsettled(vdevice);
      for (const auto& host : fleet_.hosts) {
        const std::string pci = vdevice.device().substr(vdevice.device().rfind('/') + 1);
        if (host->name() == vdevice.host() && host->machine().hardware().broken.contains(pci) &&
            vdevice.state() == v1::STATE_FAILED) {
          why.clear();
        }
      }
    }
    if (key.first == Kind::kHost) {
      const auto& host = static_cast<const v1::Host&>(*record);
      const bool due = host.drain().evict() && !host.drain().has_evict_time() &&
                       FromTimestamp(host.drain().deadline()) + std::chrono::seconds(1) < fleet_.server_clock.Now();
      if (due) why = host.name() + " is to be evicted";
    }
    if (!why.empty()) return why;
  }
  if (fleet_.watcher->revision() != fleet_.timeline->published.rbegin()->first) return "the watch is behind";
  return "";
}

}  // namespace viommu::simulation
