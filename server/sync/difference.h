// What of the record concerns a host's agent: which changes it must hear of, and what it lacks after its hello. Pure.

#ifndef VIOMMU_SERVER_SYNC_DIFFERENCE_H_
#define VIOMMU_SERVER_SYNC_DIFFERENCE_H_

#include <google/protobuf/repeated_ptr_field.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "server/fleet/view.h"
#include "viommu/v1/agent_service.pb.h"

namespace viommu::server {

// A resource to be sent to an agent. Ordered as things depend on each other: stage-2 domains, viommus, nested domains,
// vdevices; then by name.
struct ResourceKey {
  Kind kind;
  std::string name;

  friend bool operator==(const ResourceKey& a, const ResourceKey& b) = default;
  friend bool operator<(const ResourceKey& a, const ResourceKey& b);
};

// Whether agents make records of this kind real; hosts and devices they report themselves.
bool IsDesired(Kind kind);

// What a change means for the agent of the record's host.
enum class Concern {
  kNone,      // nothing: only where the record stands changed, which the agent itself has told
  kSend,      // to be sent in its latest state
  kForget,    // gone, as its agent has confirmed: nothing is left to be sent
  kTearDown,  // gone without the agent's word: it must be told that the uid is unknown
};

// `set` is the change set that `change` is part of: a vdevice that a rebind moved to another name is gone under the old
// one and lives on. O(1), except for records that are gone: O(changes of the set).
Concern ConcernOf(const Change& change, const ChangeSet& set);

struct HostRecord {
  Kind kind;
  RecordPtr record;
};

// Every desired record of `host`, in the order of ResourceKey.
std::vector<HostRecord> RecordsOfHost(const View& view, const std::string& host);

struct Difference {
  std::vector<ResourceKey> changed;       // to be sent, in order
  std::vector<std::string> unknown_uids;  // that the agent holds and the record does not know
};

// What the agent lacks: records that it does not hold in this generation or has not settled, records that are not
// settled here (its answer got lost, or it failed), and uids that are no record's.
Difference Compare(const std::vector<HostRecord>& records,
                   const google::protobuf::RepeatedPtrField<v1::HeldItem>& held);

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_SYNC_DIFFERENCE_H_
