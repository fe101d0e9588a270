#include "server/api/planning.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "server/api/limits.h"
#include "server/api/lookup.h"
#include "server/fleet/comparison.h"
#include "server/fleet/names.h"
#include "server/fleet/placement.h"

namespace viommu::server {
namespace {

std::vector<std::shared_ptr<const v1::Device>> DevicesOf(const CommitCore& core, const std::string& host) {
  std::vector<std::shared_ptr<const v1::Device>> devices;
  const std::string prefix = DevicePrefix(host);
  while (true) {
    const size_t before = devices.size();
    core.Read([&](const Tables& tables, int64_t) {
      auto more = tables.Scan<v1::Device>(prefix, before == 0 ? "" : devices.back()->name(),
                                          static_cast<size_t>(kScanChunkRecords));
      devices.insert(devices.end(), more.begin(), more.end());
    });
    if (devices.size() - before < static_cast<size_t>(kScanChunkRecords)) return devices;
  }
}

absl::Status SmmuNotFound(const std::string& name) {
  return Error(absl::StatusCode::kNotFound, v1::ERROR_REASON_SMMU_NOT_FOUND)
      .Message("there is no SMMU '{}'; get {} to see which ones it has", name, ParentName(name))
      .Meta("name", name)
      .Resource("viommu.v1.Smmu", name);
}

// One side of a comparison.
struct Side {
  std::shared_ptr<const v1::Viommu> viommu;  // null: none was named
  std::shared_ptr<const v1::Host> host;
  std::vector<const v1::Smmu*> smmus;  // in *host
};

absl::StatusOr<Side> FindSide(const View& view, std::string_view field, std::string name, bool may_be_viommu) {
  Side side;
  if (may_be_viommu && IsViommuName(name)) {
    side.viommu = view.Find<v1::Viommu>(name);
    if (side.viommu == nullptr) return NotFound(Kind::kViommu, name);
    name = side.viommu->smmu();
  }
  const bool whole = IsHostName(name);
  if (!whole && !IsSmmuName(name)) {
    return InvalidField(field, "must be {}hosts/{{host}} or hosts/{{host}}/smmus/{{smmu}}",
                        may_be_viommu ? "viommus/{viommu}, " : "");
  }
  const std::string host = whole ? name : std::string(ParentName(name));
  side.host = view.Find<v1::Host>(host);
  if (side.host == nullptr) return NotFound(Kind::kHost, host);
  for (const v1::Smmu& smmu : side.host->smmus()) {
    if (whole || smmu.name() == name) side.smmus.push_back(&smmu);
  }
  if (!whole && side.smmus.empty()) return SmmuNotFound(name);
  return side;
}

}  // namespace

absl::Status FindPlacement(const CommitCore& core, const v1::FindPlacementRequest& asked,
                           v1::FindPlacementResponse* response) {
  VIOMMU_RETURN_IF_ERROR(CheckFindPlacement(asked));
  v1::FindPlacementRequest request = asked;
  std::vector<std::shared_ptr<const v1::Host>> hosts;
  VIOMMU_RETURN_IF_ERROR(core.Read([&](const Tables& tables, int64_t revision) -> absl::Status {
    response->set_revision(revision);
    VIOMMU_RETURN_IF_ERROR(NarrowToStage2(tables, request));
    hosts = tables.Scan<v1::Host>(request.host());  // they are kept parsed: this takes pointers
    return absl::OkStatus();
  }));
  std::vector<v1::Placement> placements;
  std::vector<v1::Refusal> refusals;
  bool is_there = request.host().empty();
  for (const auto& host : hosts) {
    is_there = is_there || host->name() == request.host();
    if (!IsCandidate(request, *host)) continue;
    response->set_hosts(response->hosts() + 1);
    if (auto refused = RefuseHost(*host); refused.has_value()) {
      refusals.push_back(*std::move(refused));
      continue;
    }
    const auto devices = DevicesOf(core, host->name());
    VIOMMU_RETURN_IF_ERROR(core.Read([&](const Tables& tables, int64_t) -> absl::Status {
      VIOMMU_RETURN_IF_ERROR(NarrowToStage2(tables, request));  // it may have gone meanwhile
      PlaceOnHost(tables, request, *host, devices, placements, refusals);
      return absl::OkStatus();
    }));
  }
  if (!is_there) return NotFound(Kind::kHost, request.host());
  RankPlacements(request, placements);
  for (v1::Placement& placement : placements) *response->add_placements() = std::move(placement);
  if (refusals.size() > kMaxRefusals) refusals.resize(kMaxRefusals);
  for (v1::Refusal& refusal : refusals) *response->add_refusals() = std::move(refusal);
  return absl::OkStatus();
}

absl::Status CompareHosts(const CommitCore& core, const v1::CompareHostsRequest& request,
                          v1::CompareHostsResponse* response) {
  return core.Read([&](const Tables& tables, int64_t revision) -> absl::Status {
    response->set_revision(revision);
    VIOMMU_ASSIGN_OR_RETURN(const Side source, FindSide(tables, "source", request.source(), /*may_be_viommu=*/true));
    VIOMMU_ASSIGN_OR_RETURN(const Side target, FindSide(tables, "target", request.target(), /*may_be_viommu=*/false));
    if (source.smmus.size() * target.smmus.size() > kMaxComparisons) {
      return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_LIMIT_EXCEEDED)
          .Message("{} SMMUs with {} are more than {} comparisons; name one SMMU", source.smmus.size(),
                   target.smmus.size(), kMaxComparisons)
          .Meta("limit", std::to_string(kMaxComparisons))
          .Field("source", "too many SMMUs");
    }
    for (const v1::Smmu* from : source.smmus) {
      for (const v1::Smmu* to : target.smmus) {
        *response->add_comparisons() =
            CompareSmmus(tables, *source.host, *from, *target.host, *to, source.viommu.get());
      }
    }
    return absl::OkStatus();
  });
}

}  // namespace viommu::server
