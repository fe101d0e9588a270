#include "server/api/watch_feed.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
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
    case Kind::kQuota: {
      static const auto& none = *new Labels;
      return {&none, nullptr};
    }
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
    case Kind::kQuota:
      return PlanNames({});  // on no host
  }
  auto viommus = ViommusOfHost(view, host);
  if (!viommus.has_value()) return PlanAll();
  return kind == Kind::kViommu ? PlanNames(*std::move(viommus)) : PlanBelow(*std::move(viommus));
}

absl::Status CheckRequest(const v1::WatchRequest& request) {
  if (request.start_revision() < 0) {
    return InvalidField("start_revision", "{} is negative", request.start_revision());
  }
  if (request.kinds_size() > kMaxFilterValues) return TooMany("kinds", kMaxFilterValues);
  if (static_cast<int>(request.labels().size()) > kMaxLabels) return TooMany("labels", kMaxLabels);
  for (const int kind : request.kinds()) {
    if (kind == 0 || !v1::ResourceKind_IsValid(kind)) return InvalidField("kinds", "{} is no kind", kind);
  }
  if (request.host().empty()) return absl::OkStatus();
  return CheckName("host", Kind::kHost, request.host());
}

// Where revisions come from: the store and the server's start on it.
std::string OriginOf(const Identity& identity) {
  return fmt::format("{}/{}/{}", identity.store_incarnation, identity.epoch, identity.start_id);
}

absl::Status CheckOrigin(const CommitCore& core, const v1::WatchRequest& request) {
  if (request.origin().empty() || request.start_revision() == 0) return absl::OkStatus();
  const std::vector<std::string> parts = absl::StrSplit(request.origin(), '/');
  int64_t epoch = 0;
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[1], &epoch) || epoch < 1) {
    return InvalidField("origin", "is not what a watch was told");
  }
  const int64_t head = core.revision();
  if (parts[0] == core.identity().store_incarnation && epoch <= core.identity().epoch &&
      core.starts().Told(epoch, parts[2], request.start_revision(), head)) {
    return absl::OkStatus();
  }
  return Error(absl::StatusCode::kOutOfRange, v1::ERROR_REASON_REVISION_UNKNOWN)
      .Message(
          "revision {} is not of this store, or of a newer state of it than was restored; forget what was read there, "
          "and watch from 0",
          request.start_revision())
      .Meta("newest_revision", std::to_string(head));
}

}  // namespace

WatchFeed::WatchFeed(const CommitCore& core, const v1::WatchRequest& request, MonotonicTime now)
    : core_(core), request_(request), last_message_(now) {
  // The numbers of v1::ResourceKind are those of Kind.
  for (const int kind : request.kinds()) kinds_ |= 1U << static_cast<unsigned>(kind);
  if (kinds_ == 0) kinds_ = ~0U;
}

absl::StatusOr<std::unique_ptr<WatchFeed>> WatchFeed::Open(const CommitCore& core, const v1::WatchRequest& request,
                                                           MonotonicTime now, std::shared_ptr<void> place) {
  VIOMMU_RETURN_IF_ERROR(CheckRequest(request));
  VIOMMU_RETURN_IF_ERROR(CheckOrigin(core, request));
  auto feed = absl::WrapUnique(new WatchFeed(core, request, now));
  if (request.start_revision() == 0) {
    feed->place_ = std::move(place);
    feed->reading_ = true;
    feed->sync_mark_due_ = true;
    feed->position_ = core.revision();
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

bool WatchFeed::ScanKind(const Tables& tables, int64_t& left, size_t& bytes, v1::WatchResponse::Events* events) {
  const Kind kind = kKinds[kind_];
  if (!WantsKind(kind)) return true;
  if (!plan_.has_value()) plan_ = request_.host().empty() ? PlanAll() : PlanForHost(tables, kind, request_.host());
  bool ended = true;
  ScanPlanned(tables, kind, *plan_, after_, [&](const RecordPtr& record) {
    if (left == 0 || bytes > kMaxWatchMessageBytes) {
      ended = false;
      return false;
    }
    --left;
    after_ = NameOf(kind, *record);
    // What has changed since the watch began comes from the log.
    if (RevisionOf(kind, *record) > position_ || !Matches(kind, *record)) return true;
    auto* event = events->add_events();
    event->set_type(v1::EVENT_TYPE_EXISTING);
    event->set_revision(RevisionOf(kind, *record));
    *event->mutable_resource() = ToResource(kind, *record);
    bytes += event->ByteSizeLong();
    return true;
  });
  return ended;
}

void WatchFeed::ReadChunk(v1::WatchResponse* message) {
  auto* events = message->mutable_events();
  int64_t left = kSnapshotChunkRecords;
  size_t bytes = 0;
  core_.Read([&](const Tables& tables, int64_t) {
    while (kind_ < std::size(kKinds) && ScanKind(tables, left, bytes, events)) {
      ++kind_;
      plan_.reset();
      after_.clear();
    }
  });
  reading_ = kind_ < std::size(kKinds);
  events->set_more(reading_);
  if (reading_) return;
  sync_mark_at_ = core_.revision();
  place_.reset();
}

size_t WatchFeed::AddEvent(const Change& change, int64_t revision, v1::WatchResponse::Events* events) const {
  const bool matched = change.before != nullptr && Matches(change.kind, *change.before);
  const bool matches = change.after != nullptr && Matches(change.kind, *change.after);
  if (!matched && !matches) return 0;
  // What leaves the filter is gone as far as this watch can see.
  auto* event = events->add_events();
  event->set_type(matches ? v1::EVENT_TYPE_PUT : v1::EVENT_TYPE_DELETED);
  *event->mutable_resource() = ToResource(change.kind, matches ? *change.after : *change.before);
  event->set_revision(revision);
  return event->ByteSizeLong();
}

void WatchFeed::TakeChanges(size_t& bytes, v1::WatchResponse* message) {
  const ChangeSet& set = *ahead_.front();
  auto* events = message->mutable_events();
  const int others = events->events_size();
  for (; changes_done_ < set.changes.size(); ++changes_done_) {
    const size_t added = AddEvent(set.changes[changes_done_], set.revision, events);
    if (added > 0 && bytes + added > kMaxWatchMessageBytes && events->events_size() > others + 1) {
      events->mutable_events()->RemoveLast();
      events->set_more(true);
      break;
    }
    bytes += added;
  }
  if (events->events_size() > others) message->set_revision(set.revision);
  if (events->more()) return;
  position_ = set.revision;
  changes_done_ = 0;
  ahead_.pop_front();
}

absl::StatusOr<WatchFeed::Step> WatchFeed::Next(MonotonicTime now, v1::WatchResponse* message) {
  message->Clear();
  VIOMMU_ASSIGN_OR_RETURN(const Step step, NextStep(now, message));
  if (step != Step::kMessage) return step;
  if (first_) message->set_origin(OriginOf(core_.identity()));
  first_ = false;
  last_message_ = now;
  return step;
}

absl::StatusOr<WatchFeed::Step> WatchFeed::NextStep(MonotonicTime now, v1::WatchResponse* message) {
  if (reading_) {
    ReadChunk(message);
    message->set_revision(position_);
    if (!message->events().events().empty() || (!reading_ && more_promised_)) {
      more_promised_ = reading_;
      return Step::kMessage;
    }
    if (reading_) return Step::kBusy;
    message->Clear();
  }

  int64_t scanned = 0;
  size_t bytes = 0;
  for (; scanned < kWatchScanSets && bytes < kWatchBatchBytes && !message->events().more(); ++scanned) {
    if (sync_mark_due_ && position_ >= sync_mark_at_) {
      if (bytes > 0) break;  // what comes before the mark
      sync_mark_due_ = false;
      message->mutable_sync_mark();
      message->set_revision(position_);
      return Step::kMessage;
    }
    if (ahead_.empty()) {
      VIOMMU_ASSIGN_OR_RETURN(const auto sets, core_.log().ReadAfter(position_, kWatchReadSets));
      ahead_.assign(sets.begin(), sets.end());
    }
    if (ahead_.empty()) break;
    TakeChanges(bytes, message);
  }
  if (bytes > 0) return Step::kMessage;
  message->Clear();
  const bool caught_up = ahead_.empty() && scanned < kWatchScanSets;
  if (request_.progress() && !sync_mark_due_ && (!caught_up || now - last_message_ >= kWatchProgressInterval)) {
    message->mutable_progress();
    message->set_revision(position_);
    return Step::kMessage;
  }
  return caught_up ? Step::kIdle : Step::kBusy;
}

}  // namespace viommu::server
