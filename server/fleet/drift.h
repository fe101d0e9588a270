// Drift: where the record, what an agent believes, and what its backend holds differ. Pure.

#ifndef VIOMMU_SERVER_FLEET_DRIFT_H_
#define VIOMMU_SERVER_FLEET_DRIFT_H_

#include <optional>

#include "server/fleet/view.h"
#include "viommu/v1/agent_service.pb.h"
#include "viommu/v1/operations_service.pb.h"

namespace viommu::server {

// Compares one resource of an agent's host, field by field. `record`: null when the record does not know it; `item`:
// null when the agent does not hold it; not both. Nothing when they agree. What was recorded and asked at different
// times may differ for that alone: such drift is `expected` and gone the next time.
std::optional<v1::Drift> DriftOf(Kind kind, const google::protobuf::Message* record, const v1::InspectedItem* item);

// The kind of a resource that an agent believes to be there; nothing for what no agent holds.
std::optional<Kind> KindOfBelieved(const v1::Resource& resource);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_FLEET_DRIFT_H_
