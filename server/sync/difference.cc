#include "server/sync/difference.h"

#include <algorithm>
#include <string_view>
#include <tuple>

#include "absl/container/flat_hash_map.h"
#include "server/fleet/names.h"

namespace viommu::server {
namespace {

int Rank(Kind kind) {
  switch (kind) {
    case Kind::kStage2Domain:
      return 0;
    case Kind::kViommu:
      return 1;
    case Kind::kNestedDomain:
      return 2;
    case Kind::kVdevice:
      return 3;
    case Kind::kHwQueue:
      return 4;
    case Kind::kHost:
    case Kind::kDevice:
    case Kind::kQuota:
      break;
  }
  return 5;
}

// What the desired kinds have in common.
struct Standing {
  std::string_view name;
  int64_t observed_generation = 0;
  v1::State state = v1::STATE_UNSPECIFIED;
};

template <typename T>
Standing StandingAs(const google::protobuf::Message& record) {
  const auto& resource = static_cast<const T&>(record);
  return {resource.name(), resource.observed_generation(), resource.state()};
}

// Only for desired kinds.
Standing StandingOf(Kind kind, const google::protobuf::Message& record) {
  switch (kind) {
    case Kind::kStage2Domain:
      return StandingAs<v1::Stage2Domain>(record);
    case Kind::kViommu:
      return StandingAs<v1::Viommu>(record);
    case Kind::kNestedDomain:
      return StandingAs<v1::NestedDomain>(record);
    case Kind::kVdevice:
      return StandingAs<v1::Vdevice>(record);
    case Kind::kHwQueue:
      return StandingAs<v1::HwQueue>(record);
    case Kind::kHost:
    case Kind::kDevice:
    case Kind::kQuota:
      break;
  }
  return {};
}

bool IsSettled(const Standing& standing, int64_t generation) {
  return standing.observed_generation == generation &&
         (standing.state == v1::STATE_READY || standing.state == v1::STATE_DORMANT);
}

template <typename T>
void AddWithPrefix(const View& view, const std::string& prefix, std::vector<HostRecord>& found) {
  for (auto& record : view.Scan<T>(prefix)) found.push_back({KindOf<T>::value, std::move(record)});
}

}  // namespace

bool operator<(const ResourceKey& a, const ResourceKey& b) {
  const int rank_a = Rank(a.kind), rank_b = Rank(b.kind);
  return std::tie(rank_a, a.name) < std::tie(rank_b, b.name);
}

bool IsDesired(Kind kind) { return kind != Kind::kHost && kind != Kind::kDevice; }

Concern ConcernOf(const Change& change, const ChangeSet& set) {
  if (!IsDesired(change.kind)) return Concern::kNone;
  if (change.after != nullptr) {
    // Generations rise across re-creations of a name, so this tells another record of the same name, too.
    const bool same = change.before != nullptr &&
                      GenerationOf(change.kind, *change.before) == GenerationOf(change.kind, *change.after);
    return same ? Concern::kNone : Concern::kSend;
  }
  if (change.before == nullptr) return Concern::kNone;
  if (StandingOf(change.kind, *change.before).state == v1::STATE_DELETING) return Concern::kForget;
  const std::string& uid = UidOf(change.kind, *change.before);
  const bool renamed = std::any_of(set.changes.begin(), set.changes.end(), [&](const Change& other) {
    return other.kind == change.kind && other.after != nullptr && UidOf(other.kind, *other.after) == uid;
  });
  return renamed ? Concern::kForget : Concern::kTearDown;
}

std::vector<HostRecord> RecordsOfHost(const View& view, const std::string& host) {
  std::vector<HostRecord> found;
  std::vector<std::string> viommus;
  for (const std::string& name : view.Children(Relation::kHostStage2s, host)) {
    if (auto record = view.Find<v1::Stage2Domain>(name)) found.push_back({Kind::kStage2Domain, std::move(record)});
    for (std::string& viommu : view.Children(Relation::kStage2Viommus, name)) viommus.push_back(std::move(viommu));
  }
  std::sort(viommus.begin(), viommus.end());
  for (const std::string& name : viommus) {
    if (auto record = view.Find<v1::Viommu>(name)) found.push_back({Kind::kViommu, std::move(record)});
  }
  for (const std::string& name : viommus) AddWithPrefix<v1::NestedDomain>(view, NestedDomainPrefix(name), found);
  for (const std::string& name : viommus) AddWithPrefix<v1::Vdevice>(view, VdevicePrefix(name), found);
  for (const std::string& name : viommus) AddWithPrefix<v1::HwQueue>(view, HwQueuePrefix(name), found);
  return found;
}

Difference Compare(const std::vector<HostRecord>& records,
                   const google::protobuf::RepeatedPtrField<v1::HeldItem>& held) {
  absl::flat_hash_map<std::string_view, const v1::HeldItem*> unmatched;
  unmatched.reserve(static_cast<size_t>(held.size()));
  for (const v1::HeldItem& item : held) unmatched[item.uid()] = &item;

  Difference difference;
  for (const HostRecord& each : records) {
    const int64_t generation = GenerationOf(each.kind, *each.record);
    bool has_it = false;
    if (const auto found = unmatched.find(UidOf(each.kind, *each.record)); found != unmatched.end()) {
      has_it = found->second->settled() && found->second->generation() == generation;
      unmatched.erase(found);
    }
    const Standing standing = StandingOf(each.kind, *each.record);
    if (has_it && IsSettled(standing, generation)) continue;
    difference.changed.push_back({each.kind, std::string(standing.name)});
  }
  difference.unknown_uids.reserve(unmatched.size());
  for (const auto& [uid, item] : unmatched) difference.unknown_uids.emplace_back(uid);
  std::sort(difference.unknown_uids.begin(), difference.unknown_uids.end());
  return difference;
}

}  // namespace viommu::server
