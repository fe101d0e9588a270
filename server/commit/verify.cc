#include "server/commit/verify.h"

#include <fmt/format.h>

#include <optional>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "common/error.h"
#include "server/commit/codec.h"
#include "server/commit/record.pb.h"
#include "server/commit/resources.h"
#include "server/fleet/tables.h"
#include "server/fleet/view.h"

namespace viommu::server {
namespace {

template <typename Record>
bool Parses(std::string_view bytes, Record& record) {
  return record.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
}

bool ResourceParses(uint32_t kind, std::string_view bytes) {
  return ParseRecord(static_cast<Kind>(kind), bytes) != nullptr;
}

absl::StatusOr<int64_t> NumberIn(const Store& store, std::string_view key) {
  VIOMMU_ASSIGN_OR_RETURN(const auto bytes, store.Get(KeySpace::kMeta, key));
  const auto number = bytes.has_value() ? DecodeNumber(*bytes) : std::optional<int64_t>(0);
  if (!number.has_value()) return DamagedStore(store, fmt::format("{} is no number", key));
  return *number;
}

absl::StatusOr<std::string> TextIn(const Store& store, std::string_view key) {
  VIOMMU_ASSIGN_OR_RETURN(const auto bytes, store.Get(KeySpace::kMeta, key));
  if (!bytes.has_value()) return DamagedStore(store, fmt::format("it has no {}", key));
  return *bytes;
}

// Visits what is kept under numbers, which must rise by one, and returns the last; `before` when there is nothing.
// nullopt in `before`: it may begin anywhere.
absl::StatusOr<std::optional<int64_t>> CheckNumbered(const Store& store, KeySpace space, std::string_view what,
                                                     std::optional<int64_t> before,
                                                     absl::FunctionRef<bool(std::string_view)> parses) {
  absl::Status bad;
  VIOMMU_RETURN_IF_ERROR(store.Scan(space, "", "", [&](std::string_view key, std::string_view value) {
    const auto number = DecodeNumber(key);
    if (!number.has_value()) {
      bad = DamagedStore(store, fmt::format("the {} has a key that is no number", what));
    } else if (before.has_value() && *number != *before + 1) {
      bad = DamagedStore(store, fmt::format("the {} has a gap: after {} comes {}", what, *before, *number));
    } else if (!parses(value)) {
      bad = DamagedStore(store, fmt::format("entry {} of the {} cannot be read", *number, what));
    }
    before = number;
    return bad.ok();
  }));
  VIOMMU_RETURN_IF_ERROR(bad);
  return before;
}

}  // namespace

absl::StatusOr<Verified> VerifyRecord(const Store& store) {
  Verified verified;
  VIOMMU_ASSIGN_OR_RETURN(verified.cluster_id, TextIn(store, kMetaClusterId));
  VIOMMU_ASSIGN_OR_RETURN(verified.store_incarnation, TextIn(store, kMetaIncarnation));
  VIOMMU_ASSIGN_OR_RETURN(verified.epoch, NumberIn(store, kMetaEpoch));
  VIOMMU_ASSIGN_OR_RETURN(verified.revision, NumberIn(store, kMetaRevision));
  VIOMMU_ASSIGN_OR_RETURN(const int64_t oldest, NumberIn(store, kMetaOldestRevision));
  VIOMMU_ASSIGN_OR_RETURN(const auto starts, store.Get(KeySpace::kMeta, kMetaStarts));
  StartsRecord starts_record;
  if (!Parses(starts.value_or(""), starts_record)) return DamagedStore(store, "its starts cannot be read");

  {
    Tables tables;
    VIOMMU_RETURN_IF_ERROR(LoadResources(store, tables));
    for (const Kind kind : kKinds) verified.resources += tables.size(kind);
  }

  VIOMMU_ASSIGN_OR_RETURN(
      const std::optional<int64_t> last,
      CheckNumbered(store, KeySpace::kChanges, "change log", oldest, [&](std::string_view value) {
        ++verified.changes;
        ChangeRecord record;
        if (!Parses(value, record)) return false;
        for (const auto& entry : record.entries()) {
          if (!ResourceParses(entry.kind(), entry.resource())) return false;
          if (!entry.relabelled_from().empty() && !ResourceParses(entry.kind(), entry.relabelled_from())) return false;
        }
        return true;
      }));
  if (last != verified.revision) {
    return DamagedStore(store, fmt::format("the change log ends at revision {}, the record is at revision {}",
                                           last.value_or(0), verified.revision));
  }

  absl::Status bad;
  VIOMMU_RETURN_IF_ERROR(store.Scan(KeySpace::kRequests, "", "", [&](std::string_view key, std::string_view value) {
    ++verified.requests;
    RequestRecord record;
    if (!Parses(value, record)) {
      bad = DamagedStore(store, fmt::format("the answer to request id {} cannot be read", key));
    }
    return bad.ok();
  }));
  VIOMMU_RETURN_IF_ERROR(bad);

  VIOMMU_RETURN_IF_ERROR(CheckNumbered(store, KeySpace::kAudit, "audit log", std::nullopt, [&](std::string_view value) {
                           ++verified.audit_entries;
                           AuditRecord record;
                           if (!Parses(value, record)) return false;
                           for (const auto& change : record.changes()) {
                             if (!change.before().empty() && !ResourceParses(change.kind(), change.before()))
                               return false;
                             if (!change.after().empty() && !ResourceParses(change.kind(), change.after()))
                               return false;
                           }
                           return true;
                         }).status());
  return verified;
}

}  // namespace viommu::server
