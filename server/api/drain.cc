#include "server/api/drain.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/memory/memory.h"
#include "common/error.h"
#include "common/timestamp.h"
#include "server/api/limits.h"
#include "server/api/lookup.h"

namespace viommu::server {
namespace {

absl::Status Check(const std::string& name, int32_t max_remaining) {
  VIOMMU_RETURN_IF_ERROR(CheckName("name", Kind::kHost, name));
  if (max_remaining < 0) return InvalidField("max_remaining", "{} is negative", max_remaining);
  return absl::OkStatus();
}

// What would take away something that is still there.
std::string Why(const v1::Host& host, v1::State state, const v1::StateReason& reason, WallTime now) {
  if (state == v1::STATE_DELETING) {
    if (!reason.message().empty()) return "the host could not tear it down: " + reason.message();
    if (host.state() != v1::HOST_STATE_CONNECTED) {
      return "waits for the host to confirm that it is gone, and its agent is not connected";
    }
    return "waits for the host to confirm that it is gone";
  }
  const v1::Drain& drain = host.drain();
  if (!drain.has_deadline()) return "in use: move or end its VM, then delete it";
  const WallTime deadline = FromTimestamp(drain.deadline());
  if (now >= deadline) {
    return drain.evict() ? "in use, and past the deadline: about to be deleted"
                         : "in use, and past the deadline: move or end its VM, then delete it, or evict the host";
  }
  return fmt::format("in use: move or end its VM, then delete it{}",
                     drain.evict() ? "; at the deadline it is deleted" : "");
}

// Adds up what is read in several looks at the record.
class Counter {
 public:
  Counter(v1::DrainProgress& progress, const v1::Host& host, WallTime now, size_t max_remaining)
      : progress_(progress), host_(host), now_(now), max_remaining_(max_remaining) {}

  template <typename T>
  void Add(const T& record) {
    if (record.state() == v1::STATE_DELETING) progress_.set_deleting(progress_.deleting() + 1);
    if (static_cast<size_t>(progress_.remaining_size()) == max_remaining_) return;
    v1::Remaining& remaining = *progress_.add_remaining();
    remaining.set_name(record.name());
    remaining.set_vm(record.vm());
    remaining.set_state(record.state());
    remaining.set_why(Why(host_, record.state(), record.state_reason(), now_));
  }

 private:
  v1::DrainProgress& progress_;
  const v1::Host& host_;
  const WallTime now_;
  const size_t max_remaining_;
};

}  // namespace

absl::Status ReadDrain(const CommitCore& core, WallTime now, const v1::GetDrainRequest& request,
                       v1::GetDrainResponse* response) {
  VIOMMU_RETURN_IF_ERROR(Check(request.name(), request.max_remaining()));
  v1::DrainProgress& progress = *response->mutable_progress();
  std::shared_ptr<const v1::Host> host;
  std::vector<std::string> stage2s;
  core.Read([&](const Tables& tables, int64_t revision) {
    response->set_revision(revision);
    host = tables.Find<v1::Host>(request.name());
    if (host == nullptr) return;
    stage2s = tables.Children(Relation::kHostStage2s, host->name());
    int64_t vdevices = 0;
    for (const v1::Smmu& smmu : host->smmus()) vdevices += tables.Count(Relation::kSmmuTakenDevices, smmu.name());
    progress.set_vdevices(vdevices);
  });
  if (host == nullptr) return NotFound(Kind::kHost, request.name());
  if (host->has_drain()) *progress.mutable_drain() = host->drain();
  progress.set_stage2_domains(static_cast<int64_t>(stage2s.size()));
  Counter counter(progress, *host, now,
                  static_cast<size_t>(request.max_remaining() == 0 ? kDefaultRemaining
                                                                   : std::min(request.max_remaining(), kMaxRemaining)));
  absl::flat_hash_set<std::string> vms;
  auto next = stage2s.begin();
  while (next != stage2s.end()) {
    core.Read([&](const Tables& tables, int64_t) {
      for (int64_t looked_at = 0; next != stage2s.end() && looked_at < kScanChunkRecords; ++next, ++looked_at) {
        const auto stage2 = tables.Find<v1::Stage2Domain>(*next);
        if (stage2 == nullptr) continue;
        vms.insert(stage2->vm());
        const std::vector<std::string> viommus = tables.Children(Relation::kStage2Viommus, *next);
        if (viommus.empty()) counter.Add(*stage2);
        for (const std::string& name : viommus) {
          const auto viommu = tables.Find<v1::Viommu>(name);
          progress.set_viommus(progress.viommus() + 1);
          counter.Add(*viommu);
          ++looked_at;
        }
      }
    });
  }
  progress.set_vms(static_cast<int64_t>(vms.size()));
  progress.set_empty(stage2s.empty());
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<DrainFeed>> DrainFeed::Open(const CommitCore& core, const Clock& clock,
                                                           const v1::WatchDrainRequest& request) {
  VIOMMU_RETURN_IF_ERROR(Check(request.name(), request.max_remaining()));
  v1::GetDrainRequest asked;
  asked.set_name(request.name());
  asked.set_max_remaining(request.max_remaining());
  auto feed = absl::WrapUnique(new DrainFeed(core, clock, std::move(asked)));
  v1::WatchRequest changes;
  changes.set_host(request.name());
  // A store without a revision has no hosts either: such a watch is refused by the first look at the host.
  changes.set_start_revision(core.revision());
  for (const v1::ResourceKind kind :
       {v1::RESOURCE_KIND_HOST, v1::RESOURCE_KIND_STAGE2_DOMAIN, v1::RESOURCE_KIND_VIOMMU, v1::RESOURCE_KIND_VDEVICE}) {
    changes.add_kinds(kind);
  }
  VIOMMU_ASSIGN_OR_RETURN(feed->changes_, WatchFeed::Open(core, changes, clock.Monotonic()));
  return feed;
}

absl::StatusOr<WatchFeed::Step> DrainFeed::Next(MonotonicTime now, v1::WatchDrainResponse* message) {
  if (over_) return WatchFeed::Step::kEnd;
  v1::WatchResponse change;
  while (true) {
    VIOMMU_ASSIGN_OR_RETURN(const WatchFeed::Step step, changes_->Next(now, &change));
    if (step == WatchFeed::Step::kMessage) {
      due_ = due_ || change.has_events();
      continue;
    }
    if (step != WatchFeed::Step::kIdle || !due_) return step;
    break;
  }
  due_ = false;
  v1::GetDrainResponse read;
  if (const absl::Status status = ReadDrain(core_, clock_.Now(), request_, &read); !status.ok()) {
    // Forgotten while it was watched: that is an end as good as empty.
    if (!absl::IsNotFound(status) || last_.empty()) return status;
    return WatchFeed::Step::kEnd;
  }
  std::string progress = read.progress().SerializeAsString();
  if (progress == last_) return WatchFeed::Step::kIdle;
  last_ = std::move(progress);
  over_ = read.progress().empty() || !read.progress().has_drain();
  *message->mutable_progress() = std::move(*read.mutable_progress());
  message->set_revision(read.revision());
  return WatchFeed::Step::kMessage;
}

}  // namespace viommu::server
