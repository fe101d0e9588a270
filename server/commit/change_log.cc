#include "server/commit/change_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "common/error.h"
#include "server/commit/codec.h"

namespace viommu::server {
namespace {

absl::Status Damaged(int64_t revision) {
  return Error(absl::StatusCode::kDataLoss, v1::ERROR_REASON_STORE_DAMAGED)
      .Message("the change log's entry of revision {} is damaged; watch from 0, and restore the store from a backup",
               revision)
      .Meta("revision", std::to_string(revision));
}

template <typename T>
bool SameLabels(const google::protobuf::Message& a, const google::protobuf::Message& b) {
  const auto& before = static_cast<const T&>(a).labels();
  const auto& after = static_cast<const T&>(b).labels();
  return before.size() == after.size() && std::all_of(before.begin(), before.end(), [&](const auto& label) {
           const auto found = after.find(label.first);
           return found != after.end() && found->second == label.second;
         });
}

bool Relabelled(const Change& change) {
  if (change.before == nullptr || change.after == nullptr) return false;
  switch (change.kind) {
    case Kind::kHost:
      return !SameLabels<v1::Host>(*change.before, *change.after);
    case Kind::kDevice:
      return !SameLabels<v1::Device>(*change.before, *change.after);
    case Kind::kStage2Domain:
      return !SameLabels<v1::Stage2Domain>(*change.before, *change.after);
    case Kind::kViommu:
      return !SameLabels<v1::Viommu>(*change.before, *change.after);
    case Kind::kVdevice:
      return !SameLabels<v1::Vdevice>(*change.before, *change.after);
    case Kind::kNestedDomain:
      return !SameLabels<v1::NestedDomain>(*change.before, *change.after);
    case Kind::kHwQueue:
      return !SameLabels<v1::HwQueue>(*change.before, *change.after);
    case Kind::kQuota:
      return false;  // has none
  }
  return false;
}

int64_t SizeOf(const ChangeLog::Entry& entry) { return static_cast<int64_t>(entry.bytes->size()); }

absl::StatusOr<ChangeSetPtr> Decode(int64_t revision, std::string_view bytes) {
  ChangeRecord record;
  if (!record.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return Damaged(revision);
  auto set = std::make_shared<ChangeSet>();
  set->revision = revision;
  set->changes.reserve(static_cast<size_t>(record.entries_size()));
  for (const auto& entry : record.entries()) {
    const auto kind = static_cast<Kind>(entry.kind());
    RecordPtr resource = ParseRecord(kind, entry.resource());
    if (resource == nullptr) return Damaged(revision);
    Change change{kind, entry.name(), nullptr, nullptr};
    (entry.deleted() ? change.before : change.after) = std::move(resource);
    if (!entry.relabelled_from().empty()) {
      change.before = ParseRecord(kind, entry.relabelled_from());
      if (change.before == nullptr) return Damaged(revision);
    }
    set->changes.push_back(std::move(change));
  }
  return set;
}

}  // namespace

absl::Status ChangeLog::Load(int64_t oldest, int64_t head) {
  MutexLock lock(mu_);
  oldest_ = oldest;
  head_ = head;
  absl::Status bad;
  ChangeRecord record;  // each is parsed into the memory of those before
  const absl::Status scanned =
      store_.Scan(KeySpace::kChanges, EncodeNumber(oldest + 1), "",
                  [&](std::string_view key, std::string_view value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
                    const auto revision = DecodeNumber(key);
                    if (!revision.has_value() || *revision > head ||
                        !record.ParseFromArray(value.data(), static_cast<int>(value.size()))) {
                      bad = Damaged(revision.value_or(-1));
                      return false;
                    }
                    Account(*revision, static_cast<int64_t>(value.size()), record.time_s());
                    return true;
                  });
  return bad.ok() ? scanned : bad;
}

absl::StatusOr<std::vector<ChangeSetPtr>> ChangeLog::ReadAfter(int64_t revision, size_t max_sets) const {
  std::vector<Entry> entries;
  std::vector<ChangeSetPtr> parsed;  // one for each entry; null: not yet
  {
    MutexLock lock(mu_);
    if (revision > head_) {
      return Error(absl::StatusCode::kOutOfRange, v1::ERROR_REASON_REVISION_UNKNOWN)
          .Message(
              "revision {} has not happened in this store, whose newest is {}; it belongs to another store: list anew",
              revision, head_)
          .Meta("newest_revision", std::to_string(head_));
    }
    if (revision < oldest_) {
      return Error(absl::StatusCode::kOutOfRange, v1::ERROR_REASON_REVISION_COMPACTED)
          .Message(
              "changes after revision {} are partly compacted away; the oldest that can be resumed from is {}: list "
              "anew and watch from the revision of that",
              revision, oldest_)
          .Meta("oldest_revision", std::to_string(oldest_));
    }
    if (revision == head_) return std::vector<ChangeSetPtr>();
    if (!recent_.empty() && recent_.front().revision <= revision + 1) {
      const auto begin = std::upper_bound(recent_.begin(), recent_.end(), revision,
                                          [](int64_t after, const Entry& entry) { return after < entry.revision; });
      for (auto it = begin; it != recent_.end() && entries.size() < max_sets; ++it) {
        const ChangeSetPtr& known = ParsedPlace(it->revision);
        const bool hit = known != nullptr && known->revision == it->revision;
        entries.push_back(*it);
        parsed.push_back(hit ? known : nullptr);
      }
    }
  }
  if (!entries.empty()) return Parse(entries, std::move(parsed));
  absl::StatusOr<std::vector<ChangeSetPtr>> sets = ReadStore(revision, max_sets);
  // What was there when we looked may have been compacted away while we read: then the first one may be missing.
  if (sets.ok() && revision < oldest()) return ReadAfter(revision, max_sets);
  return sets;
}

absl::StatusOr<std::vector<ChangeSetPtr>> ChangeLog::Parse(const std::vector<Entry>& entries,
                                                           std::vector<ChangeSetPtr> parsed) const {
  std::vector<ChangeSetPtr> to_keep;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (parsed[i] != nullptr) continue;
    VIOMMU_ASSIGN_OR_RETURN(parsed[i], Decode(entries[i].revision, *entries[i].bytes));
    if (entries[i].bytes->size() <= kMaxParsedBytes) to_keep.push_back(parsed[i]);
  }
  if (to_keep.empty()) return parsed;
  MutexLock lock(mu_);
  for (ChangeSetPtr& set : to_keep) {
    // What is displaced is freed with `to_keep`, without the lock; newer ones stay, for whoever is behind reads each
    // once.
    ChangeSetPtr& place = ParsedPlace(set->revision);
    if (place == nullptr || place->revision < set->revision) place.swap(set);
  }
  return parsed;
}

absl::StatusOr<std::vector<ChangeSetPtr>> ChangeLog::ReadStore(int64_t revision, size_t max_sets) const {
  std::vector<ChangeSetPtr> sets;
  absl::Status bad;
  // Up to the published head only: the store may be ahead of what is published.
  const absl::Status scanned = store_.Scan(KeySpace::kChanges, EncodeNumber(revision + 1), EncodeNumber(head() + 1),
                                           [&](std::string_view key, std::string_view value) {
                                             if (sets.size() == max_sets) return false;
                                             auto set = Decode(DecodeNumber(key).value_or(-1), value);
                                             if (!set.ok()) {
                                               bad = set.status();
                                               return false;
                                             }
                                             sets.push_back(*std::move(set));
                                             return true;
                                           });
  if (!bad.ok()) return bad;
  if (!scanned.ok()) return scanned;
  return sets;
}

int64_t ChangeLog::oldest() const {
  MutexLock lock(mu_);
  return oldest_;
}

int64_t ChangeLog::head() const {
  MutexLock lock(mu_);
  return head_;
}

ChangeLog::Entry ChangeLog::Encode(const ChangeSet& set, int64_t time_s, Batch& batch) {
  using Field = ChangeRecord::Entry;
  std::string bytes;
  bytes.reserve(std::accumulate(set.changes.begin(), set.changes.end(), size_t{8}, [](size_t sum, const Change& each) {
    return sum + each.name.size() + each.bytes.size() + 16;
  }));
  MessageWriter record(bytes);
  std::string entry_bytes;
  for (const Change& change : set.changes) {
    const bool gone = change.after == nullptr;
    entry_bytes.clear();
    entry_bytes.reserve(change.name.size() + change.bytes.size() + 16);
    MessageWriter entry(entry_bytes);
    entry.Number(Field::kKindFieldNumber, static_cast<uint64_t>(change.kind));
    entry.Bytes(Field::kNameFieldNumber, change.name);
    entry.Number(Field::kDeletedFieldNumber, gone ? 1 : 0);
    if (!gone && !change.bytes.empty()) {
      entry.Bytes(Field::kResourceFieldNumber, change.bytes);
    } else {
      entry.Bytes(Field::kResourceFieldNumber, (gone ? change.before : change.after)->SerializeAsString());
    }
    if (Relabelled(change)) entry.Bytes(Field::kRelabelledFromFieldNumber, change.before->SerializeAsString());
    record.Message(ChangeRecord::kEntriesFieldNumber, entry_bytes);
  }
  record.Number(ChangeRecord::kTimeSFieldNumber, static_cast<uint64_t>(time_s));
  batch.Put(KeySpace::kChanges, EncodeNumber(set.revision), bytes);
  return {set.revision, std::make_shared<const std::string>(std::move(bytes))};
}

void ChangeLog::Publish(std::vector<Entry> entries, int64_t time_s) {
  MutexLock lock(mu_);
  for (Entry& entry : entries) {
    const int64_t bytes = SizeOf(entry);
    recent_bytes_ += bytes;
    head_ = entry.revision;
    Account(head_, bytes, time_s);
    recent_.push_back(std::move(entry));
  }
  while (!recent_.empty() && (recent_.size() > options_.max_memory_sets || recent_bytes_ > options_.max_memory_bytes)) {
    recent_bytes_ -= SizeOf(recent_.front());
    recent_.pop_front();
  }
}

void ChangeLog::Account(int64_t revision, int64_t bytes, int64_t time_s) {
  if (segments_.empty() || segments_.back().sets == kSegmentSets) segments_.push_back({revision, time_s, 0, 0});
  Segment& segment = segments_.back();
  segment.last_revision = revision;
  segment.last_time_s = time_s;
  segment.bytes += bytes;
  ++segment.sets;
  store_bytes_ += bytes;
}

int64_t ChangeLog::PlanCompaction(int64_t now_s, Batch& batch) const {
  MutexLock lock(mu_);
  int64_t oldest = oldest_;
  int64_t bytes = store_bytes_;
  // The newest segment stays, whatever its age: it is still growing.
  for (size_t i = 0; i + 1 < segments_.size(); ++i) {
    const Segment& segment = segments_[i];
    if (segment.last_time_s + options_.max_age_s >= now_s && bytes <= options_.max_bytes) break;
    oldest = segment.last_revision;
    bytes -= segment.bytes;
  }
  if (oldest > oldest_) {
    batch.DeleteRange(KeySpace::kChanges, EncodeNumber(0), EncodeNumber(oldest + 1));
    batch.Put(KeySpace::kMeta, kMetaOldestRevision, EncodeNumber(oldest));
  }
  return oldest;
}

void ChangeLog::Compacted(int64_t oldest) {
  MutexLock lock(mu_);
  oldest_ = std::max(oldest_, oldest);
  while (!segments_.empty() && segments_.front().last_revision <= oldest_) {
    store_bytes_ -= segments_.front().bytes;
    segments_.pop_front();
  }
  while (!recent_.empty() && recent_.front().revision <= oldest_) {
    recent_bytes_ -= SizeOf(recent_.front());
    recent_.pop_front();
  }
}

}  // namespace viommu::server
