// Where a set of devices could be put: for schedulers, before they ask for anything. Pure, like the rules, and by the
// same checks; reserves nothing, so what fits now may be taken a moment later.

#ifndef VIOMMU_SERVER_FLEET_PLACEMENT_H_
#define VIOMMU_SERVER_FLEET_PLACEMENT_H_

#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/fleet/view.h"
#include "viommu/v1/operations_service.pb.h"

namespace viommu::server {

inline constexpr int kMaxDeviceWishes = 32;     // in one FindPlacement
inline constexpr int kMaxWishedDevices = 1024;  // over all its wishes
inline constexpr int kMaxPlacements = 100;      // in one answer
inline constexpr int kDefaultPlacements = 10;
inline constexpr int kMaxRefusals = 1000;  // in one answer

// INVALID_FIELD, LIMIT_EXCEEDED.
absl::Status CheckFindPlacement(const v1::FindPlacementRequest& request);

// Of a request for a stage-2 domain that is to be shared: asks for its host. Others stay as they are.
//   NOT_FOUND            STAGE2_DOMAIN_NOT_FOUND
//   FAILED_PRECONDITION  HOST_MISMATCH: another host is asked for
//   INVALID_ARGUMENT     INVALID_FIELD: another VM is asked for
absl::Status NarrowToStage2(const View& view, v1::FindPlacementRequest& request);

// Whether the host is to be looked at: it has the labels, and is the one asked for. Others are no part of the question,
// and get no refusal: in a large fleet theirs would be all that fits into the answer.
bool IsCandidate(const v1::FindPlacementRequest& request, const v1::Host& host);

// Why nothing can be put on the host, whatever its SMMUs are like.
std::optional<v1::Refusal> RefuseHost(const v1::Host& host);

// Looks at each SMMU of a host that is not refused: adds a placement or a refusal. `devices` are all of the host, as
// recorded in `view` or a moment before. The request has been narrowed in `view`.
void PlaceOnHost(const View& view, const v1::FindPlacementRequest& request, const v1::Host& host,
                 absl::Span<const std::shared_ptr<const v1::Device>> devices, std::vector<v1::Placement>& placements,
                 std::vector<v1::Refusal>& refusals);

// Puts the tightest fit first and cuts to what was asked for.
void RankPlacements(const v1::FindPlacementRequest& request, std::vector<v1::Placement>& placements);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_FLEET_PLACEMENT_H_
