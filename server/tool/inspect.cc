#include "server/tool/inspect.h"

#include <fmt/format.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <deque>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "common/error.h"
#include "common/timestamp.h"
#include "server/commit/codec.h"
#include "server/commit/record.pb.h"
#include "server/commit/resources.h"
#include "server/fleet/names.h"
#include "server/fleet/view.h"

namespace viommu::server {
namespace {

using Json = nlohmann::ordered_json;

// As their names begin, or for what is below others, are called there.
constexpr std::array<std::pair<std::string_view, Kind>, 8> kPlurals = {{{"hosts", Kind::kHost},
                                                                        {"devices", Kind::kDevice},
                                                                        {"stage2Domains", Kind::kStage2Domain},
                                                                        {"viommus", Kind::kViommu},
                                                                        {"vdevices", Kind::kVdevice},
                                                                        {"nestedDomains", Kind::kNestedDomain},
                                                                        {"hwQueues", Kind::kHwQueue},
                                                                        {"quotas", Kind::kQuota}}};

Json MessageJson(const google::protobuf::Message& message) {
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(message, &text).ok()) return nullptr;
  return Json::parse(text, nullptr, /*allow_exceptions=*/false);
}

// null: there is none, or it cannot be read.
Json ResourceJson(uint32_t kind, std::string_view bytes) {
  const RecordPtr record = bytes.empty() ? nullptr : ParseRecord(static_cast<Kind>(kind), bytes);
  return record == nullptr ? Json(nullptr) : MessageJson(*record);
}

std::string Time(int64_t nanoseconds) { return FormatTime(WallTime(std::chrono::nanoseconds(nanoseconds))); }

std::optional<Json> ChangeJson(int64_t revision, std::string_view bytes) {
  ChangeRecord record;
  if (!record.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return std::nullopt;
  Json json = {{"revision", revision}, {"time", Time(record.time_s() * 1'000'000'000)}, {"changes", Json::array()}};
  for (const auto& entry : record.entries()) {
    json["changes"].push_back({{"name", entry.name()},
                               {"deleted", entry.deleted()},
                               {"resource", ResourceJson(entry.kind(), entry.resource())}});
  }
  return json;
}

std::optional<Json> AuditJson(int64_t id, std::string_view bytes) {
  AuditRecord record;
  if (!record.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return std::nullopt;
  Json json = {{"id", id},
               {"time", Time(record.time_ns())},
               {"caller", record.caller()},
               {"peer", record.peer()},
               {"method", record.method()},
               {"requestId", record.request_id()},
               {"target", record.target()},
               {"code", std::string(absl::StatusCodeToString(static_cast<absl::StatusCode>(record.code())))},
               {"reason", record.reason() == 0 ? "" : ReasonName(static_cast<v1::ErrorReason>(record.reason()))},
               {"message", record.message()},
               {"revision", record.revision()},
               {"changes", Json::array()},
               {"moreChanges", record.more_changes()}};
  for (const auto& change : record.changes()) {
    json["changes"].push_back({{"name", change.name()},
                               {"before", ResourceJson(change.kind(), change.before())},
                               {"after", ResourceJson(change.kind(), change.after())}});
  }
  return json;
}

absl::Status InspectMeta(const Store& store, std::ostream& out) {
  Json json = Json::object();
  absl::Status bad;
  VIOMMU_RETURN_IF_ERROR(store.Scan(KeySpace::kMeta, "", "", [&](std::string_view key, std::string_view value) {
    const std::string name(key);
    if (key == kMetaEpoch || key == kMetaRevision || key == kMetaOldestRevision) {
      const auto number = DecodeNumber(value);
      json[name] = number.has_value() ? Json(*number) : Json(nullptr);
    } else if (key == kMetaStarts) {
      StartsRecord record;
      if (!record.ParseFromArray(value.data(), static_cast<int>(value.size()))) {
        bad = DamagedStore(store, "its starts cannot be read");
        return false;
      }
      json[name] = MessageJson(record);
    } else {
      json[name] = std::string(value);
    }
    return true;
  }));
  VIOMMU_RETURN_IF_ERROR(bad);
  out << json.dump() << "\n";
  return absl::OkStatus();
}

// The last `limit` of a key space under numbers.
template <typename ToJson>
absl::Status InspectLog(const Store& store, KeySpace space, std::string_view what, int64_t limit, std::ostream& out,
                        std::ostream& note, ToJson to_json) {
  std::deque<std::pair<std::string, std::string>> last;
  int64_t left_out = 0;
  VIOMMU_RETURN_IF_ERROR(store.Scan(space, "", "", [&](std::string_view key, std::string_view value) {
    last.emplace_back(key, value);
    if (last.size() > static_cast<size_t>(limit)) {
      last.pop_front();
      ++left_out;
    }
    return true;
  }));
  for (const auto& [key, value] : last) {
    const int64_t number = DecodeNumber(key).value_or(-1);
    const std::optional<Json> json = to_json(number, value);
    if (!json.has_value()) return DamagedStore(store, fmt::format("entry {} of the {} cannot be read", number, what));
    out << json->dump() << "\n";
  }
  if (left_out > 0) note << fmt::format("{} earlier ones are not shown; see more with --limit\n", left_out);
  return absl::OkStatus();
}

absl::Status InspectResources(const Store& store, std::optional<Kind> kind, int64_t limit, std::ostream& out,
                              std::ostream& note) {
  const std::string begin = kind.has_value() ? ResourceKey(*kind, "") : std::string();
  const std::string end = kind.has_value() ? std::string(1, static_cast<char>(static_cast<int>(*kind) + 1)) : "";
  int64_t shown = 0;
  int64_t left_out = 0;
  absl::Status bad;
  VIOMMU_RETURN_IF_ERROR(
      store.Scan(KeySpace::kResources, begin, end, [&](std::string_view key, std::string_view value) {
        if (shown == limit) {
          ++left_out;
          return true;
        }
        const RecordPtr record = key.empty() ? nullptr : ParseRecord(static_cast<Kind>(key[0]), value);
        if (record == nullptr) {
          bad = DamagedStore(store,
                             fmt::format("resource {} cannot be read", key.substr(std::min<size_t>(1, key.size()))));
          return false;
        }
        out << MessageJson(*record).dump() << "\n";
        ++shown;
        return true;
      }));
  VIOMMU_RETURN_IF_ERROR(bad);
  if (left_out > 0) note << fmt::format("{} more are not shown; see more with --limit\n", left_out);
  return absl::OkStatus();
}

}  // namespace

absl::Status Inspect(const Store& store, const std::string& what, int64_t limit, std::ostream& out,
                     std::ostream& note) {
  if (what == "meta") return InspectMeta(store, out);
  if (what == "changes") {
    return InspectLog(store, KeySpace::kChanges, "change log", limit, out, note, ChangeJson);
  }
  if (what == "audit") return InspectLog(store, KeySpace::kAudit, "audit log", limit, out, note, AuditJson);
  if (what.empty()) return InspectResources(store, std::nullopt, limit, out, note);
  const auto plural =
      std::find_if(kPlurals.begin(), kPlurals.end(), [&](const auto& each) { return each.first == what; });
  if (plural != kPlurals.end()) return InspectResources(store, plural->second, limit, out, note);
  const auto kind = KindOfName(what);
  if (!kind.has_value()) {
    return absl::InvalidArgumentError(fmt::format(
        "\"{}\" is none of meta, changes, audit, a kind of resources such as viommus, or a resource's name", what));
  }
  VIOMMU_ASSIGN_OR_RETURN(const auto bytes, store.Get(KeySpace::kResources, ResourceKey(*kind, what)));
  if (!bytes.has_value()) return absl::NotFoundError(fmt::format("there is no {}", what));
  const RecordPtr record = ParseRecord(*kind, *bytes);
  if (record == nullptr) return DamagedStore(store, fmt::format("resource {} cannot be read", what));
  out << MessageJson(*record).dump() << "\n";
  return absl::OkStatus();
}

}  // namespace viommu::server
