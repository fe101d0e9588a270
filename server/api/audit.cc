#include "server/api/audit.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "common/error.h"
#include "common/timestamp.h"
#include "server/api/digest.h"
#include "server/api/page_token.h"
#include "server/commit/audit.h"
#include "server/commit/codec.h"
#include "server/fleet/view.h"

namespace viommu::server {
namespace {

// A clock that was set back by less than this hides no entry from a query that begins at a time.
constexpr std::chrono::minutes kClockSlack(5);

WallTime TimeOf(const AuditRecord& record) { return WallTime(std::chrono::nanoseconds(record.time_ns())); }

bool IsOrIsBelow(std::string_view name, std::string_view ancestor) {
  return name.substr(0, ancestor.size()) == ancestor &&
         (name.size() == ancestor.size() || name[ancestor.size()] == '/');
}

bool IsAbout(const AuditRecord& record, std::string_view resource) {
  return IsOrIsBelow(record.target(), resource) ||
         std::any_of(record.changes().begin(), record.changes().end(),
                     [&](const AuditRecord::Change& change) { return IsOrIsBelow(change.name(), resource); });
}

bool Matches(const AuditRecord& record, const v1::ListAuditEntriesRequest& request) {
  if (!request.caller().empty() && record.caller() != request.caller()) return false;
  if (!request.request_id().empty() && record.request_id() != request.request_id()) return false;
  if (request.has_refused() && request.refused() != (record.code() != 0)) return false;
  if (!request.methods().empty() &&
      std::find(request.methods().begin(), request.methods().end(), record.method()) == request.methods().end()) {
    return false;
  }
  if (request.has_start_time() && TimeOf(record) < FromTimestamp(request.start_time())) return false;
  if (request.has_end_time() && TimeOf(record) >= FromTimestamp(request.end_time())) return false;
  return request.resource().empty() || IsAbout(record, request.resource());
}

// As it stands in the record; nullopt when it cannot be read.
std::optional<v1::Resource> ResourceOf(uint32_t kind, std::string_view bytes) {
  const RecordPtr resource = ParseRecord(static_cast<Kind>(kind), bytes);
  if (resource == nullptr) return std::nullopt;
  return ToResource(static_cast<Kind>(kind), *resource);
}

// False: a resource cannot be read.
bool Fill(int64_t id, const AuditRecord& record, v1::AuditEntry& entry) {
  entry.set_id(id);
  *entry.mutable_time() = ToTimestamp(TimeOf(record));
  entry.set_caller(record.caller());
  entry.set_peer(record.peer());
  entry.set_method(record.method());
  entry.set_request_id(record.request_id());
  entry.set_target(record.target());
  entry.set_code(absl::StatusCodeToString(static_cast<absl::StatusCode>(record.code())));
  if (record.reason() != 0) entry.set_reason(ReasonName(static_cast<v1::ErrorReason>(record.reason())));
  entry.set_message(record.message());
  entry.set_revision(record.revision());
  entry.set_more_changes(record.more_changes());
  for (const AuditRecord::Change& change : record.changes()) {
    v1::AuditedChange& audited = *entry.add_changes();
    audited.set_name(change.name());
    for (const auto& [bytes, is_before] : {std::pair(&change.before(), true), std::pair(&change.after(), false)}) {
      if (bytes->empty()) continue;
      auto resource = ResourceOf(change.kind(), *bytes);
      if (!resource.has_value()) return false;
      *(is_before ? audited.mutable_before() : audited.mutable_after()) = *std::move(resource);
    }
  }
  return true;
}

}  // namespace

absl::Status ListAuditEntries(const CommitCore& core, const v1::ListAuditEntriesRequest& request,
                              v1::ListAuditEntriesResponse* response, int64_t scan_entries) {
  if (request.page_size() < 0) return InvalidField("page_size", "{} is negative", request.page_size());
  if (request.methods_size() > kMaxFilterValues) {
    return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_LIMIT_EXCEEDED)
        .Message("methods: {} values, at most {} are allowed", request.methods_size(), kMaxFilterValues)
        .Field("methods", "too many values")
        .Meta("limit", std::to_string(kMaxFilterValues));
  }
  const int page_size = request.page_size() == 0 ? kDefaultPageSize : std::min(request.page_size(), kMaxPageSize);
  const std::string& store = core.identity().store_incarnation;
  const std::string query = QueryDigest(request);
  VIOMMU_ASSIGN_OR_RETURN(const std::string after, ReadPageToken(store, query, request.page_token()));
  int64_t before = INT64_MAX;
  if (!after.empty()) before = DecodeNumber(after).value_or(0);

  response->set_revision(core.revision());
  if (const auto oldest = core.audit().oldest_time(); oldest.has_value()) {
    *response->mutable_oldest_time() = ToTimestamp(*oldest);
  }
  std::optional<WallTime> no_older_than;
  if (request.has_start_time()) no_older_than = FromTimestamp(request.start_time()) - kClockSlack;
  int64_t looked_at = 0;
  size_t bytes = 0;
  bool more = false;
  int64_t last = 0;
  absl::Status bad;
  VIOMMU_RETURN_IF_ERROR(core.audit().ReadBefore(before, [&](int64_t id, const AuditRecord& record) {
    if (no_older_than.has_value() && TimeOf(record) < *no_older_than) return false;
    more = looked_at == scan_entries || response->entries_size() == page_size || bytes >= kMaxPageBytes;
    if (more) return false;
    ++looked_at;
    last = id;
    if (!Matches(record, request)) return true;
    v1::AuditEntry& entry = *response->add_entries();
    if (!Fill(id, record, entry)) {
      bad = Error(absl::StatusCode::kDataLoss, v1::ERROR_REASON_STORE_DAMAGED)
                .Message("entry {} of the audit log has a resource that cannot be read", id);
      return false;
    }
    bytes += entry.ByteSizeLong();
    return true;
  }));
  VIOMMU_RETURN_IF_ERROR(bad);
  if (more) response->set_next_page_token(MakePageToken(store, query, EncodeNumber(last)));
  return absl::OkStatus();
}

}  // namespace viommu::server
