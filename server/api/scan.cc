#include "server/api/scan.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "server/api/limits.h"

namespace viommu::server {

ScanPlan PlanAll() { return {{"", false}}; }

ScanPlan PlanPrefix(std::string prefix) { return {{std::move(prefix), false}}; }

ScanPlan PlanNames(std::vector<std::string> names) {
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  ScanPlan plan;
  plan.reserve(names.size());
  for (std::string& name : names) plan.push_back({std::move(name), true});
  return plan;
}

ScanPlan PlanBelow(std::vector<std::string> parents) {
  // With its slash: "viommus/a-b/…" comes before "viommus/a/…", although "viommus/a" comes before "viommus/a-b".
  for (std::string& parent : parents) parent += '/';
  ScanPlan plan = PlanNames(std::move(parents));
  for (ScanRange& range : plan) range.exact = false;
  return plan;
}

std::optional<std::vector<std::string>> ViommusOfHost(const View& view, const std::string& host) {
  if (view.Count(Relation::kHostStage2s, host) > kMaxScanRecords) return std::nullopt;
  const std::vector<std::string> stage2s = view.Children(Relation::kHostStage2s, host);
  int64_t count = 0;
  for (const std::string& stage2 : stage2s) count += view.Count(Relation::kStage2Viommus, stage2);
  if (count > kMaxScanRecords) return std::nullopt;
  std::vector<std::string> viommus;
  viommus.reserve(static_cast<size_t>(count));
  for (const std::string& stage2 : stage2s) {
    for (std::string& viommu : view.Children(Relation::kStage2Viommus, stage2)) viommus.push_back(std::move(viommu));
  }
  return viommus;
}

std::optional<std::vector<std::string>> ViommusOfSmmu(const View& view, const std::string& smmu) {
  if (view.Count(Relation::kSmmuViommus, smmu) > kMaxScanRecords) return std::nullopt;
  return view.Children(Relation::kSmmuViommus, smmu);
}

void ScanPlanned(const View& view, Kind kind, const ScanPlan& plan, const std::string& after,
                 absl::FunctionRef<bool(const RecordPtr&)> visit) {
  // The first range that can hold something greater than `after`: all before the last one that begins at or before it
  // are behind us.
  auto range = std::upper_bound(plan.begin(), plan.end(), after,
                                [](const std::string& name, const ScanRange& each) { return name < each.key; });
  if (range != plan.begin()) --range;
  bool more = true;
  for (; more && range != plan.end(); ++range) {
    if (range->exact) {
      if (range->key <= after) continue;
      if (const RecordPtr record = view.FindRecord(kind, range->key); record != nullptr) more = visit(record);
      continue;
    }
    const bool inside = absl::StartsWith(after, range->key);
    if (!inside && range->key < after) continue;
    view.ScanRecords(kind, range->key, inside ? after : std::string(), [&](const RecordPtr& record) {
      more = visit(record);
      return more;
    });
  }
}

}  // namespace viommu::server
