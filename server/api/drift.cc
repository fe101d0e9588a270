#include "server/api/drift.h"

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/error.h"
#include "server/api/digest.h"
#include "server/api/limits.h"
#include "server/api/lookup.h"
#include "server/api/page_token.h"
#include "server/fleet/drift.h"
#include "server/sync/difference.h"

namespace viommu::server {
namespace {

// Of one uid.
struct Sides {
  Kind kind = Kind::kStage2Domain;
  RecordPtr record;
  const v1::InspectedItem* item = nullptr;
};

std::string UidOfBelieved(Kind kind, const v1::Resource& believed) {
  switch (kind) {
    case Kind::kStage2Domain:
      return believed.stage2_domain().uid();
    case Kind::kViommu:
      return believed.viommu().uid();
    case Kind::kVdevice:
      return believed.vdevice().uid();
    case Kind::kNestedDomain:
      return believed.nested_domain().uid();
    default:
      return believed.hw_queue().uid();
  }
}

}  // namespace

absl::StatusOr<v1::InspectCall> AskForDrift(const CommitCore& core, const v1::GetDriftRequest& request) {
  VIOMMU_RETURN_IF_ERROR(CheckName("host", Kind::kHost, request.host()));
  if (request.page_size() < 0) return InvalidField("page_size", "{} is negative", request.page_size());
  v1::InspectCall call;
  VIOMMU_ASSIGN_OR_RETURN(*call.mutable_after_uid(),
                          ReadPageToken(core.identity().store_incarnation, QueryDigest(request), request.page_token()));
  call.set_max_items(request.page_size() == 0 ? kDefaultPageSize : std::min(request.page_size(), kMaxPageSize));
  call.set_repair(request.repair());
  const bool known =
      core.Read([&](const Tables& tables, int64_t) { return tables.Find<v1::Host>(request.host()) != nullptr; });
  if (!known) return NotFound(Kind::kHost, request.host());
  return call;
}

absl::StatusOr<ToTell> FillDrift(const CommitCore& core, const v1::GetDriftRequest& request,
                                 const v1::InspectCall& call, const v1::InspectReply& reply,
                                 v1::GetDriftResponse* response) {
  std::map<std::string, Sides> by_uid;
  std::string last = call.after_uid();
  for (const v1::InspectedItem& item : reply.items()) {
    const auto kind = KindOfBelieved(item.believed());
    std::string uid = kind ? UidOfBelieved(*kind, item.believed()) : "";
    if (uid <= last) {
      return Error(absl::StatusCode::kInternal, v1::ERROR_REASON_PROTOCOL_VIOLATION)
          .Message("the agent of {} told what it holds out of order; upgrade it or report it", request.host());
    }
    last = uid;
    by_uid[std::move(uid)] = {.kind = *kind, .item = &item};
  }
  const bool more = reply.more() && !reply.items().empty();
  core.Read([&](const Tables& tables, int64_t revision) {
    response->set_revision(revision);
    for (HostRecord& each : RecordsOfHost(tables, request.host())) {
      const std::string& uid = UidOf(each.kind, *each.record);
      if (uid <= call.after_uid() || (more && uid > last)) continue;
      Sides& sides = by_uid[uid];
      sides.kind = each.kind;
      sides.record = std::move(each.record);
    }
    if (const auto host = tables.Find<v1::Host>(request.host()); host != nullptr) {
      const auto& abilities = host->capabilities();
      response->set_backend_can_tell(std::any_of(abilities.begin(), abilities.end(), [](const v1::Capability& each) {
        return each.name() == "list_objects" && each.available();
      }));
    }
  });
  ToTell to_tell;
  for (const auto& [uid, sides] : by_uid) {
    auto drift = DriftOf(sides.kind, sides.record.get(), sides.item);
    if (!drift) continue;
    if (sides.record == nullptr) {
      if (!drift->expected()) to_tell.unknown.push_back(uid);
    } else if (GoesByOther(sides.kind, *sides.record, sides.item)) {
      to_tell.anew.push_back(
          {.kind = sides.kind, .name = drift->name(), .generation = GenerationOf(sides.kind, *sides.record)});
    }
    *response->add_drifts() = *std::move(drift);
  }
  response->set_compared(static_cast<int64_t>(by_uid.size()));
  if (more) {
    response->set_next_page_token(MakePageToken(core.identity().store_incarnation, QueryDigest(request), last));
  } else {
    *response->mutable_strays() = reply.strays();
  }
  return to_tell;
}

}  // namespace viommu::server
