#include "server/commit/audit.h"

#include <algorithm>
#include <chrono>
#include <string_view>

#include "common/error.h"
#include "server/commit/codec.h"

namespace viommu::server {
namespace {

constexpr int64_t kNanosecondsPerSecond = 1'000'000'000;

// Of an entry with two resources.
constexpr size_t kUsualBytes = 1000;

bool Parse(std::string_view bytes, AuditRecord& record) {
  return record.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
}

int64_t SizeOf(std::string_view value) { return static_cast<int64_t>(sizeof(int64_t) + value.size()); }

}  // namespace

absl::Status Audit::Damaged(int64_t id) const {
  return Error(absl::StatusCode::kDataLoss, v1::ERROR_REASON_STORE_DAMAGED)
      .Message("{} is damaged: entry {} of the audit log cannot be read. It is left as it is; restore it from a backup",
               store_.Describe(), id);
}

absl::Status Audit::Load() {
  MutexLock lock(mu_);
  absl::Status bad;
  const absl::Status scanned = store_.Scan(
      KeySpace::kAudit, "", "", [&](std::string_view key, std::string_view value) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        const auto id = DecodeNumber(key);
        // Only the first of a segment is read: there may be millions.
        AuditRecord record;
        const bool first = segments_.empty() || (id.has_value() && *id >= segments_.back().first_id + kSegmentEntries);
        if (!id.has_value() || (!segments_.empty() && *id != next_id_) || (first && !Parse(value, record))) {
          bad = Damaged(id.value_or(-1));
          return false;
        }
        Account(*id, record.time_ns(), SizeOf(value));
        return true;
      });
  return bad.ok() ? scanned : bad;
}

void Audit::Account(int64_t id, int64_t time_ns, int64_t bytes) {
  if (segments_.empty() || id >= segments_.back().first_id + kSegmentEntries) segments_.push_back({id, time_ns, 0});
  segments_.back().bytes += bytes;
  stats_.bytes += bytes;
  next_id_ = id + 1;
}

absl::Status Audit::ReadBefore(int64_t before,
                               absl::FunctionRef<bool(int64_t id, const AuditRecord& record)> visit) const {
  int64_t end = std::min(before, next_id());
  while (true) {
    int64_t oldest = end;
    {
      MutexLock lock(mu_);
      if (!segments_.empty()) oldest = segments_.front().first_id;
    }
    if (end <= oldest) return absl::OkStatus();
    const int64_t begin = std::max(oldest, end - kReadEntries);
    std::vector<std::pair<int64_t, AuditRecord>> entries;
    absl::Status bad;
    VIOMMU_RETURN_IF_ERROR(store_.Scan(KeySpace::kAudit, EncodeNumber(begin), EncodeNumber(end),
                                       [&](std::string_view key, std::string_view value) {
                                         const auto id = DecodeNumber(key);
                                         AuditRecord record;
                                         if (!id.has_value() || !Parse(value, record)) {
                                           bad = Damaged(id.value_or(-1));
                                           return false;
                                         }
                                         entries.emplace_back(*id, std::move(record));
                                         return true;
                                       }));
    VIOMMU_RETURN_IF_ERROR(bad);
    for (auto entry = entries.rbegin(); entry != entries.rend(); ++entry) {
      if (!visit(entry->first, entry->second)) return absl::OkStatus();
    }
    end = begin;
  }
}

std::optional<WallTime> Audit::oldest_time() const {
  MutexLock lock(mu_);
  if (segments_.empty()) return std::nullopt;
  return WallTime(std::chrono::nanoseconds(segments_.front().first_time_ns));
}

int64_t Audit::next_id() const {
  MutexLock lock(mu_);
  return next_id_;
}

Audit::Stats Audit::stats() const {
  MutexLock lock(mu_);
  return stats_;
}

Audit::Entries Audit::Begin(WallTime now) const { return Entries(options_.max_bytes > 0, now, waiting_, dropped_); }

void Audit::Entries::Add(const Command& command, const absl::Status& status, int64_t revision,
                         std::span<const Change> changes) {
  if (!on_ || command.method.empty()) return;
  if (changes.empty() && ++waiting_ > kMaxWaiting) {
    ++dropped_;
    return;
  }
  using Field = AuditRecord::Change;
  std::string bytes;
  bytes.reserve(kUsualBytes);
  MessageWriter record(bytes);
  record.Number(AuditRecord::kTimeNsFieldNumber, static_cast<uint64_t>(now_.time_since_epoch().count()));
  record.Bytes(AuditRecord::kCallerFieldNumber, command.caller);
  record.Bytes(AuditRecord::kPeerFieldNumber, command.peer);
  record.Bytes(AuditRecord::kMethodFieldNumber, command.method);
  record.Bytes(AuditRecord::kRequestIdFieldNumber, command.request_id);
  record.Bytes(AuditRecord::kTargetFieldNumber, command.target);
  record.Number(AuditRecord::kCodeFieldNumber, static_cast<uint64_t>(status.code()));
  if (!status.ok()) {
    record.Number(AuditRecord::kReasonFieldNumber, static_cast<uint64_t>(ReasonOf(status)));
    record.Bytes(AuditRecord::kMessageFieldNumber, std::string(status.message().substr(0, kMaxMessageBytes)));
  }
  record.Number(AuditRecord::kRevisionFieldNumber, static_cast<uint64_t>(revision));
  int shown = 0;
  uint64_t more = 0;
  std::string entry_bytes;
  for (const Change& change : changes) {
    const bool inventory = change.kind == Kind::kHost || change.kind == Kind::kDevice;
    if (shown == kMaxChanges || (inventory && !command.Names(change.name))) {
      ++more;
      continue;
    }
    ++shown;
    entry_bytes.clear();
    entry_bytes.reserve(change.name.size() + 2 * change.bytes.size() + 16);
    MessageWriter entry(entry_bytes);
    entry.Number(Field::kKindFieldNumber, static_cast<uint64_t>(change.kind));
    entry.Bytes(Field::kNameFieldNumber, change.name);
    if (change.before != nullptr) entry.Bytes(Field::kBeforeFieldNumber, change.before->SerializeAsString());
    if (!change.bytes.empty()) {
      entry.Bytes(Field::kAfterFieldNumber, change.bytes);
    } else if (change.after != nullptr) {
      entry.Bytes(Field::kAfterFieldNumber, change.after->SerializeAsString());
    }
    record.Message(AuditRecord::kChangesFieldNumber, entry_bytes);
  }
  record.Number(AuditRecord::kMoreChangesFieldNumber, more);
  Add(std::move(bytes));
}

void Audit::Encode(Entries& entries, Batch& batch) const {
  if (entries.dropped_ > 0) {
    AuditRecord record;
    record.set_time_ns(entries.now_.time_since_epoch().count());
    record.set_caller("server");
    record.set_method("Audit");
    record.set_code(static_cast<uint32_t>(absl::StatusCode::kResourceExhausted));
    record.set_reason(v1::ERROR_REASON_OVERLOADED);
    record.set_message(std::to_string(entries.dropped_) + " calls that changed nothing were left out");
    entries.Add(record.SerializeAsString());
  }
  int64_t id = next_id();
  for (const std::string& value : entries.encoded_) {
    entries.sizes_.push_back(SizeOf(value));
    batch.Put(KeySpace::kAudit, EncodeNumber(id++), value);
  }
}

void Audit::Recorded(const Entries& entries) {
  waiting_.clear();
  dropped_ = 0;
  MutexLock lock(mu_);
  for (const int64_t bytes : entries.sizes_) Account(next_id_, entries.now_.time_since_epoch().count(), bytes);
  stats_.entries += entries.sizes_.size();
  stats_.dropped += entries.dropped_;
}

void Audit::Wait(Entries entries) {
  waiting_ = std::move(entries.encoded_);
  dropped_ = entries.dropped_;
}

int64_t Audit::PlanRotation(int64_t now_s, Batch& batch) const {
  MutexLock lock(mu_);
  const int64_t oldest_ns = (now_s - options_.max_age_s) * kNanosecondsPerSecond;
  int64_t bytes = stats_.bytes;
  int64_t oldest = segments_.empty() ? next_id_ : segments_.front().first_id;
  const int64_t oldest_now = oldest;
  // The newest segment stays, whatever its age: it is still growing.
  for (size_t i = 0; i + 1 < segments_.size(); ++i) {
    const Segment& next = segments_[i + 1];
    // All entries of the segment are older than the first of the next one.
    if (next.first_time_ns >= oldest_ns && bytes <= options_.max_bytes) break;
    oldest = next.first_id;
    bytes -= segments_[i].bytes;
  }
  if (oldest > oldest_now) batch.DeleteRange(KeySpace::kAudit, EncodeNumber(0), EncodeNumber(oldest));
  return oldest;
}

void Audit::Rotated(int64_t oldest) {
  MutexLock lock(mu_);
  while (!segments_.empty() && segments_.front().first_id < oldest) {
    stats_.bytes -= segments_.front().bytes;
    segments_.pop_front();
  }
}

}  // namespace viommu::server
