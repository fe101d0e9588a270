#include "server/api/watch_feed.h"

#include <algorithm>
#include <string>

#include "absl/memory/memory.h"
#include "common/error.h"
#include "server/api/limits.h"
#include "server/api/lookup.h"
#include "server/api/scan.h"
#include "server/fleet/names.h"
#include "server/fleet/rules.h"

namespace viommu::server {
namespace {

using Labels = google::protobuf::Map<std::string, std::string>;

// What the filter asks about. `vm` is null for kinds that belong to no VM.
struct Facts {
  const Labels* labels = nullptr;
  const std::string* vm = nullptr;
};

template <typename T>
Facts FactsAs(const google::protobuf::Message& record) {
  const auto& typed = static_cast<const T&>(record);
  Facts facts{&typed.labels(), nullptr};
  if constexpr (requires { typed.vm(); }) facts.vm = &typed.vm();
  return facts;
}

Facts FactsOf(Kind kind, const google::protobuf::Message& record) {
  switch (kind) {
    case Kind::kHost:
      return FactsAs<v1::Host>(record);
    case Kind::kDevice:
      return FactsAs<v1::Device>(record);
    case Kind::kStage2Domain:
      return FactsAs<v1::Stage2Domain>(record);
    case Kind::kViommu:
      return FactsAs<v1::Viommu>(record);
    case Kind::kVdevice:
      return FactsAs<v1::Vdevice>(record);
    case Kind::kNestedDomain:
      return FactsAs<v1::NestedDomain>(record);
    case Kind::kHwQueue:
      return FactsAs<v1::HwQueue>(record);
  }
  return {};
}

// The records of a kind that can be on `host`.
ScanPlan PlanForHost(const View& view, Kind kind, const std::string& host) {
  switch (kind) {
    case Kind::kHost:
      return PlanNames({host});
    case Kind::kDevice:
      return PlanPrefix(DevicePrefix(host));
    case Kind::kStage2Domain:
      return PlanNames(view.Children(Relation::kHostStage2s, host));
    case Kind::kViommu:
    case Kind::kVdevice:
    case Kind::kNestedDomain:
    case Kind::kHwQueue:
      break;
  }
  auto viommus = ViommusOfHost(view, host);
  if (!viommus.has_value()) return PlanAll();
  return kind == Kind::kViommu ? PlanNames(*std::move(viommus)) : PlanBelow(*std::move(viommus));
}

absl::Status CheckRequest(const v1::WatchRequest& request) {
  if (request.start_revision() < 0) {
    return InvalidField("start_revision", "{} is negative", request.start_revision());
  }
  if (request.kinds_size() > kMaxFilterValues || static_cast<int>(request.labels().size()) > kMaxLabels) {
    return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_LIMIT_EXCEEDED)
        .Message("at most {} kinds and {} labels can be asked for", kMaxFilterValues, kMaxLabels);
  }
  for (const int kind : request.kinds()) {
    if (kind == 0 || !v1::ResourceKind_IsValid(kind)) return InvalidField("kinds", "{} is no kind", kind);
  }
  if (request.host().empty()) return absl::OkStatus();
  return CheckName("host", Kind::kHost, request.host());
}

}  // namespace

WatchFeed::WatchFeed(const CommitCore& core, const v1::WatchRequest& request, MonotonicTime now)
    : core_(core), request_(request), last_message_(now) {
  // The numbers of v1::ResourceKind are those of Kind.
  for (const int kind : request.kinds()) kinds_ |= 1U << static_cast<unsigned>(kind);
  if (kinds_ == 0) kinds_ = ~0U;
}

absl::StatusOr<std::unique_ptr<WatchFeed>> WatchFeed::Open(const CommitCore& core, const v1::WatchRequest& request,
                                                           MonotonicTime now) {
  VIOMMU_RETURN_IF_ERROR(CheckRequest(request));
  auto feed = absl::WrapUnique(new WatchFeed(core, request, now));
  if (request.start_revision() == 0) {
    feed->TakeSnapshot();
  } else {
    feed->position_ = request.start_revision();
    VIOMMU_ASSIGN_OR_RETURN(const auto sets, core.log().ReadAfter(feed->position_, kWatchReadSets));
    feed->ahead_.assign(sets.begin(), sets.end());
  }
  return feed;
}

bool WatchFeed::Matches(Kind kind, const google::protobuf::Message& record) const {
  if (!WantsKind(kind)) return false;
  if (!request_.host().empty() && HostOf(kind, record) != request_.host()) return false;
  const Facts facts = FactsOf(kind, record);
  if (!request_.vm().empty() && (facts.vm == nullptr || *facts.vm != request_.vm())) return false;
  return std::all_of(request_.labels().begin(), request_.labels().end(), [&](const auto& wanted) {
    const auto found = facts.labels->find(wanted.first);
    return found != facts.labels->end() && found->second == wanted.second;
  });
}

void WatchFeed::TakeSnapshot() {
  core_.Read([this](const Tables& tables, int64_t revision) {
    position_ = revision;
    for (const Kind kind : kKinds) {
      if (!WantsKind(kind)) continue;
      const ScanPlan plan = request_.host().empty() ? PlanAll() : PlanForHost(tables, kind, request_.host());
      ScanPlanned(tables, kind, plan, "", [&](const RecordPtr& record) {
        if (Matches(kind, *record)) snapshot_.emplace_back(kind, record);
        return true;
      });
    }
  });
  sync_mark_due_ = true;
}

size_t WatchFeed::AddEvent(const Change& change, v1::WatchResponse::Events* events) const {
  const bool matched = change.before != nullptr && Matches(change.kind, *change.before);
  const bool matches = change.after != nullptr && Matches(change.kind, *change.after);
  if (!matched && !matches) return 0;
  // What leaves the filter is gone as far as this watch can see.
  auto* event = events->add_events();
  event->set_type(matches ? v1::EVENT_TYPE_PUT : v1::EVENT_TYPE_DELETED);
  *event->mutable_resource() = ToResource(change.kind, matches ? *change.after : *change.before);
  return event->ByteSizeLong();
}

void WatchFeed::TakeSnapshotPage(v1::WatchResponse* message) {
  auto* events = message->mutable_events();
  size_t bytes = 0;
  for (; snapshot_sent_ < snapshot_.size(); ++snapshot_sent_) {
    const auto& [kind, record] = snapshot_[snapshot_sent_];
    bytes += record->ByteSizeLong();
    if (events->events_size() > 0 && bytes > kMaxWatchMessageBytes) break;
    auto* event = events->add_events();
    event->set_type(v1::EVENT_TYPE_EXISTING);
    *event->mutable_resource() = ToResource(kind, *record);
  }
  events->set_more(snapshot_sent_ < snapshot_.size());
  if (!events->more()) {
    snapshot_.clear();
    snapshot_.shrink_to_fit();
    snapshot_sent_ = 0;
  }
}

bool WatchFeed::TakeChanges(v1::WatchResponse* message) {
  const ChangeSet& set = *ahead_.front();
  auto* events = message->mutable_events();
  size_t bytes = 0;
  while (changes_done_ < set.changes.size()) {
    const size_t added = AddEvent(set.changes[changes_done_], events);
    bytes += added;
    if (added > 0 && bytes > kMaxWatchMessageBytes && events->events_size() > 1) {
      events->mutable_events()->RemoveLast();
      events->set_more(true);
      return true;
    }
    ++changes_done_;
  }
  position_ = set.revision;
  changes_done_ = 0;
  ahead_.pop_front();
  return events->events_size() > 0;
}

absl::StatusOr<WatchFeed::Step> WatchFeed::Next(MonotonicTime now, v1::WatchResponse* message) {
  message->Clear();
  if (!snapshot_.empty() || sync_mark_due_) {
    if (!snapshot_.empty()) {
      TakeSnapshotPage(message);
    } else {
      message->mutable_sync_mark();
      sync_mark_due_ = false;
    }
    message->set_revision(position_);
    last_message_ = now;
    return Step::kMessage;
  }

  int64_t scanned = 0;
  for (; scanned < kWatchScanSets; ++scanned) {
    if (ahead_.empty()) {
      VIOMMU_ASSIGN_OR_RETURN(const auto sets, core_.log().ReadAfter(position_, kWatchReadSets));
      ahead_.assign(sets.begin(), sets.end());
    }
    if (ahead_.empty()) break;
    const int64_t revision = ahead_.front()->revision;
    if (TakeChanges(message)) {
      message->set_revision(revision);
      last_message_ = now;
      return Step::kMessage;
    }
    message->Clear();
  }
  const bool caught_up = ahead_.empty() && scanned < kWatchScanSets;
  if (request_.progress() && (!caught_up || now - last_message_ >= kWatchProgressInterval)) {
    message->mutable_progress();
    message->set_revision(position_);
    last_message_ = now;
    return Step::kMessage;
  }
  return caught_up ? Step::kIdle : Step::kBusy;
}

}  // namespace viommu::server
