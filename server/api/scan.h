// What part of the record a query has to look at.

#ifndef VIOMMU_SERVER_API_SCAN_H_
#define VIOMMU_SERVER_API_SCAN_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "server/fleet/view.h"

namespace viommu::server {

// Names that begin with `key`, or `key` alone.
struct ScanRange {
  std::string key;
  bool exact = false;
};

// Ranges that do not overlap, in the order of the names in them.
using ScanPlan = std::vector<ScanRange>;

// Everything of the kind.
ScanPlan PlanAll();
// The names that begin with `prefix`.
ScanPlan PlanPrefix(std::string prefix);
// These names.
ScanPlan PlanNames(std::vector<std::string> names);
// Everything below these parents: names that begin with one of them and a slash.
ScanPlan PlanBelow(std::vector<std::string> parents);

// The viommus of a host or an SMMU; nullopt when they are so many that looking at all viommus is no more work.
std::optional<std::vector<std::string>> ViommusOfHost(const View& view, const std::string& host);
std::optional<std::vector<std::string>> ViommusOfSmmu(const View& view, const std::string& smmu);

// Visits the records of `plan` whose names are greater than `after`, in order, until `visit` returns false.
void ScanPlanned(const View& view, Kind kind, const ScanPlan& plan, const std::string& after,
                 absl::FunctionRef<bool(const RecordPtr&)> visit);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_API_SCAN_H_
