#include "tests/simulation/checker.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/error.h"
#include "server/commit/codec.h"
#include "server/fleet/rules.h"

namespace viommu::simulation {

using server::Change;
using server::ChangeSetPtr;
using server::CommitCore;
using server::Kind;
using server::RecordPtr;
using server::Tables;

namespace {

// When the server evicted the host for its drain; 0: it did not.
int64_t EvictedAt(const google::protobuf::Message& host) {
  const auto& drain = static_cast<const v1::Host&>(host).drain();
  return drain.has_evict_time() ? drain.evict_time().seconds() * 1'000'000'000 + drain.evict_time().nanos() : 0;
}

}  // namespace

uint64_t HashOfResource(Kind kind, const google::protobuf::Message& resource) {
  return ServerDisk::HashOfRecord(server::ResourceKey(kind, server::NameOf(kind, resource)),
                                  resource.SerializeAsString());
}

uint64_t Checker::HashOfChange(const Change& change) {
  uint64_t hash = 0;
  if (change.before != nullptr) hash -= HashOfResource(change.kind, *change.before);
  if (change.after != nullptr) hash += HashOfResource(change.kind, *change.after);
  return hash;
}

void Checker::Fail(const std::string& what) {
  if (failed()) return;
  failure_ = what;
  scheduler_.Trace("FAILED", what);
}

void Checker::Attempted(Timeline& timeline, int64_t revision, uint64_t change) {
  timeline.attempted[revision].insert(timeline.published.rbegin()->second + change);
}

void Checker::Opening(Timeline& timeline, int64_t left_at, int64_t revision) {
  if (revision == left_at) return;
  timeline.attempted[revision] = timeline.attempted[left_at];
  timeline.gaps.emplace_back(left_at, revision);
}

void Checker::Take(Timeline& timeline, const ChangeSetPtr& set) {
  uint64_t hash = timeline.published.rbegin()->second;
  uint64_t own = 0;
  std::set<std::string> present, before;
  std::vector<std::string> forgotten;
  for (const Change& change : set->changes) {
    if (change.after != nullptr) present.insert(server::UidOf(change.kind, *change.after));
    const auto found = timeline.state.find({change.kind, change.name});
    if (found != timeline.state.end()) before.insert(server::UidOf(change.kind, *found->second));
    if (change.kind == Kind::kHost && change.after == nullptr) forgotten.push_back(change.name);
  }
  std::vector<const Change*> made;
  std::vector<std::string> evicted;
  for (const Change& change : set->changes) {
    const Timeline::Key key(change.kind, change.name);
    // The log leaves `before` out where nobody needs it: the state has it.
    const auto found = timeline.state.find(key);
    const Change whole{change.kind, change.name, found == timeline.state.end() ? nullptr : found->second, change.after};
    hash += HashOfChange(whole);
    own += HashOf(change.after == nullptr ? "gone" : change.after->SerializeAsString(), HashOf(change.name));
    if (change.after != nullptr) {
      if (change.kind == Kind::kHost && EvictedAt(*change.after) != 0 &&
          (found == timeline.state.end() || EvictedAt(*found->second) != EvictedAt(*change.after))) {
        evicted.push_back(change.name);
      }
      if (!before.contains(server::UidOf(change.kind, *change.after))) made.push_back(&change);
      timeline.state[key] = change.after;
      continue;
    }
    if (found == timeline.state.end()) return Fail(fmt::format("{} is gone and was not there", change.name));
    const std::string& uid = server::UidOf(change.kind, *found->second);
    if (!present.contains(uid)) {
      timeline.released.insert(uid);
      if (!forgotten.empty()) timeline.forgotten[uid] = set->revision;
    }
    timeline.state.erase(found);
  }
  for (const Change* change : made) {
    if (change->kind == Kind::kViommu) {
      CheckQuota(timeline, change->kind, static_cast<const v1::Viommu&>(*change->after).owner());
    } else if (change->kind == Kind::kVdevice) {
      CheckQuota(timeline, change->kind, static_cast<const v1::Vdevice&>(*change->after).owner());
    }
  }
  for (const std::string& host : evicted) CheckEvicted(timeline, host);
  for (const std::string& host : forgotten) {
    for (const auto& [key, record] : timeline.state) {
      if (server::HostOf(key.first, *record) == host) return Fail(fmt::format("{} left {} behind", host, key.second));
    }
  }
  const auto [told, fresh] = timeline.told.emplace(set->revision, own);
  if (!fresh && told->second != own) return Fail(fmt::format("revision {} means two things", set->revision));
  timeline.published[set->revision] = hash;
  timeline.sets[set->revision] = set;
}

void Checker::CheckQuota(const Timeline& timeline, Kind kind, const std::string& owner) {
  if (owner.empty()) return;
  auto found = timeline.state.find({Kind::kQuota, server::QuotaName(owner)});
  if (found == timeline.state.end()) found = timeline.state.find({Kind::kQuota, server::QuotaName("default")});
  if (found == timeline.state.end()) return;
  const auto& quota = static_cast<const v1::Quota&>(*found->second);
  const bool viommus = kind == Kind::kViommu;
  if (viommus ? !quota.has_max_viommus() : !quota.has_max_vdevices()) return;
  uint64_t used = 0;
  for (auto it = timeline.state.lower_bound({kind, ""}); it != timeline.state.end() && it->first.first == kind; ++it) {
    const std::string& whose = viommus ? static_cast<const v1::Viommu&>(*it->second).owner()
                                       : static_cast<const v1::Vdevice&>(*it->second).owner();
    used += whose == owner ? 1 : 0;
  }
  const uint64_t total = viommus ? quota.max_viommus() : quota.max_vdevices();
  if (used > total) Fail(fmt::format("{} was given its number {}, and {} allows {}", owner, used, quota.name(), total));
}

void Checker::CheckGroups(const Timeline& timeline) {
  std::map<std::pair<std::string, uint32_t>, const v1::Vdevice*> holders;  // by host and group
  const auto stage2_of = [&timeline](const v1::Vdevice& vdevice) {
    return static_cast<const v1::Viommu&>(*timeline.state.at({Kind::kViommu, vdevice.viommu()})).stage2_domain();
  };
  for (auto it = timeline.state.lower_bound({Kind::kVdevice, ""});
       it != timeline.state.end() && it->first.first == Kind::kVdevice; ++it) {
    const auto& vdevice = static_cast<const v1::Vdevice&>(*it->second);
    const auto device = timeline.state.find({Kind::kDevice, vdevice.device()});
    if (device == timeline.state.end()) continue;
    const uint32_t group = static_cast<const v1::Device&>(*device->second).iommu_group();
    const v1::Vdevice* const holder = holders.emplace(std::pair(vdevice.host(), group), &vdevice).first->second;
    if (stage2_of(*holder) == stage2_of(vdevice)) continue;
    return Fail(fmt::format("{} of {} and {} of {} are in one IOMMU group, and on two stage 2s", holder->name(),
                            holder->vm(), vdevice.name(), vdevice.vm()));
  }
}

void Checker::CheckEvicted(const Timeline& timeline, const std::string& host) {
  for (const auto& [key, record] : timeline.state) {
    const bool on_host = key.first != Kind::kHost && key.first != Kind::kDevice && key.first != Kind::kQuota &&
                         server::HostOf(key.first, *record) == host;
    if (!on_host) continue;
    const v1::Resource resource = server::ToResource(key.first, *record);
    const bool deleting = (resource.has_stage2_domain() && resource.stage2_domain().state() == v1::STATE_DELETING) ||
                          (resource.has_viommu() && resource.viommu().state() == v1::STATE_DELETING) ||
                          (resource.has_nested_domain() && resource.nested_domain().state() == v1::STATE_DELETING) ||
                          (resource.has_hw_queue() && resource.hw_queue().state() == v1::STATE_DELETING) ||
                          (resource.has_vdevice() && resource.vdevice().state() == v1::STATE_DELETING);
    if (!deleting) return Fail(fmt::format("{} was evicted, and {} stays", host, key.second));
  }
}

void Checker::Started(Timeline& timeline, const CommitCore& core, const ServerDisk& disk, int64_t left_at) {
  const server::Identity& identity = core.identity();
  if (identity.epoch <= timeline.epoch) {
    return Fail(fmt::format("epoch {} begins after epoch {}", identity.epoch, timeline.epoch));
  }
  timeline.epoch = identity.epoch;
  timeline.incarnation = identity.store_incarnation;
  if (left_at < timeline.acknowledged) {
    return Fail(fmt::format("revision {} was acknowledged, and the store ends at {}", timeline.acknowledged, left_at));
  }
  const uint64_t hash = disk.RecordHash();
  const auto attempted = timeline.attempted.find(left_at);
  if (attempted == timeline.attempted.end() || !attempted->second.contains(hash)) {
    return Fail(fmt::format("at revision {} the store holds what was never recorded so", left_at));
  }
  const int64_t known = timeline.published.rbegin()->first;
  if (core.revision() == left_at && core.log().oldest() <= known && known <= left_at) {
    // Nothing was lost. What a failed commit has left was not published; it is now.
    const auto sets = core.log().ReadAfter(known, 1 << 20);
    if (!sets.ok()) return Fail(fmt::format("the log cannot be read: {}", sets.status().ToString()));
    for (const ChangeSetPtr& set : *sets) Take(timeline, set);
    if (!failed() && timeline.published.rbegin()->second != hash) Fail("the log and the record differ");
    if (timeline.published.rbegin()->first != left_at) Fail("the log ends before the record");
    return;
  }
  // A gap: what was published and not synced may be gone, and the log is.
  const auto before = std::exchange(timeline.state, {});
  core.Read([&](const Tables& tables, int64_t) {
    for (const Kind kind : server::kKinds) {
      tables.ScanRecords(kind, "", "", [&](const RecordPtr& record) {
        timeline.state[{kind, server::NameOf(kind, *record)}] = record;
        timeline.released.erase(server::UidOf(kind, *record));
        timeline.forgotten.erase(server::UidOf(kind, *record));
        return true;
      });
    }
  });
  // A host may have been forgotten by a change that was not published before the server ended.
  const auto uid_of_host = [](const auto& state, const std::string& host) {
    const auto found = state.find({Kind::kHost, host});
    return found == state.end() ? std::string() : server::UidOf(Kind::kHost, *found->second);
  };
  for (const auto& [key, record] : before) {
    const std::string host = server::HostOf(key.first, *record);
    if (!host.empty() && uid_of_host(before, host) != uid_of_host(timeline.state, host)) {
      timeline.forgotten[server::UidOf(key.first, *record)] = core.revision();
    }
  }
  timeline.published = {{core.revision(), hash}};
  timeline.attempted = {{left_at, {hash}}, {core.revision(), {hash}}};
  timeline.sets.clear();
}

void Checker::Published(Timeline& timeline, const CommitCore& core, const std::vector<ChangeSetPtr>& sets) {
  for (const ChangeSetPtr& set : sets) {
    if (set->revision <= timeline.published.rbegin()->first) {
      return Fail(fmt::format("revision {} is published after {}", set->revision, timeline.published.rbegin()->first));
    }
    Take(timeline, set);
  }
  ++checks_;
  const absl::Status holds = core.Read([](const Tables& tables, int64_t) { return server::CheckInvariants(tables); });
  if (!holds.ok()) return Fail(fmt::format("a rule is broken: {}", std::string(holds.message())));
  CheckGroups(timeline);
  const auto& [revision, hash] = *timeline.published.rbegin();
  const auto attempted = timeline.attempted.find(revision);
  if (attempted == timeline.attempted.end() || !attempted->second.contains(hash)) {
    return Fail(fmt::format("what is published at revision {} is not what was written", revision));
  }
  attempted->second = {hash};
}

void Checker::Acknowledged(Timeline& timeline, const std::string& request_id, const std::string& fingerprint,
                           const absl::Status& status, int64_t revision, const Answer& answer) {
  const auto found = timeline.answers.find(request_id);
  if (found != timeline.answers.end()) {
    if (absl::IsUnavailable(status)) return;  // the store takes nothing at the moment
    const Timeline::Acknowledgement& known = found->second;
    if (fingerprint != known.fingerprint) {
      if (ReasonOf(status) == v1::ERROR_REASON_REQUEST_ID_REUSED) return;
      return Fail(fmt::format("request id {} was taken for two requests: {}", request_id, status.ToString()));
    }
    if (!status.ok() || revision != known.revision || answer.bytes != known.bytes) {
      Fail(fmt::format("request {} was answered at revision {}, and now differently: {}", request_id, known.revision,
                       status.ToString()));
    }
    return;
  }
  if (!status.ok()) return;
  timeline.answers[request_id] = {fingerprint, revision, answer.bytes};
  timeline.acknowledged = std::max(timeline.acknowledged, revision);
  // These come with budgets and usage, which are not a part of their records.
  if (answer.kind == Kind::kHost || answer.kind == Kind::kQuota) return;
  for (const RecordPtr& resource : answer.resources) {
    // As the newest change up to that revision left it. What did not change since the log was dropped is not there.
    const std::string& name = server::NameOf(answer.kind, *resource);
    RecordPtr recorded;
    for (auto set = timeline.sets.upper_bound(revision); recorded == nullptr && set != timeline.sets.begin();) {
      --set;
      for (const Change& change : set->second->changes) {
        if (change.kind == answer.kind && change.name == name) recorded = change.after;
      }
    }
    if (recorded != nullptr && recorded->SerializeAsString() != resource->SerializeAsString()) {
      return Fail(fmt::format("{} was acknowledged at revision {} as it is not recorded", name, revision));
    }
  }
}

int64_t Checker::Fork(int64_t parent, int64_t revision) {
  const int64_t id = forks_.rbegin()->first + 1;
  forks_[id] = {parent, revision};
  return id;
}

bool Checker::IsPastOf(int64_t timeline, int64_t known, int64_t revision) const {
  // What was known before two of them parted is known of both.
  while (known != 0 && revision <= forks_.at(known).second) known = forks_.at(known).first;
  if (known == 0) return true;
  while (timeline != 0) {
    if (timeline == known) return true;
    const auto& [parent, up_to] = forks_.at(timeline);
    if (revision > up_to) return false;
    timeline = parent;
  }
  return false;
}

}  // namespace viommu::simulation
