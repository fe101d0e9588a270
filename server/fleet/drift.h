// Drift: where the record, what an agent believes, and what its backend holds differ. Pure.

#ifndef VIOMMU_SERVER_FLEET_DRIFT_H_
#define VIOMMU_SERVER_FLEET_DRIFT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "server/fleet/draft.h"
#include "server/fleet/rules.h"
#include "server/fleet/view.h"
#include "viommu/v1/agent_service.pb.h"
#include "viommu/v1/operations_service.pb.h"

namespace viommu::server {

// Compares one resource of an agent's host, field by field. `record`: null when the record does not know it; `item`:
// null when the agent does not hold it; not both. Nothing when they agree. What was recorded and asked at different
// times may differ for that alone: such drift is `expected` and gone the next time.
std::optional<v1::Drift> DriftOf(Kind kind, const google::protobuf::Message* record, const v1::InspectedItem* item);

// Whether the agent goes by something else than the record, which says that it is told already: only another generation
// gets it to look again. `record` and `item` as above; a change that is under way is not meant, unless the agent has
// another one under its generation.
bool GoesByOther(Kind kind, const google::protobuf::Message& record, const v1::InspectedItem* item);

// A record as it was compared.
struct Compared {
  Kind kind = Kind::kStage2Domain;
  std::string name;
  int64_t generation = 0;
};

// Gives the records another generation, so that their host is told of them anew and has to answer; what is desired
// stays as it is. Those that have another generation by now, or are gone, stay untouched.
void DesireAnew(const std::vector<Compared>& records, const Context& context, Draft& draft);

// The kind of a resource that an agent believes to be there; nothing for what no agent holds.
std::optional<Kind> KindOfBelieved(const v1::Resource& resource);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_FLEET_DRIFT_H_
