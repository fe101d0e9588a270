// Rules of quotas: how much the VMs of one owner may have.

#include <optional>
#include <utility>

#include "common/mutation.h"
#include "server/fleet/quota.h"
#include "server/fleet/rules.h"

namespace viommu::server {
namespace {

constexpr char kDefaultQuota[] = "quotas/default";
constexpr std::string_view kCollection = "quotas/";

absl::Status CheckRoom(const View& view, const std::string& owner, Relation relation, std::string_view what,
                       std::optional<uint64_t> (*limit)(const v1::Quota&)) {
  if (owner.empty()) return absl::OkStatus();
  auto quota = view.Find<v1::Quota>(QuotaName(owner));
  if (quota == nullptr) quota = view.Find<v1::Quota>(kDefaultQuota);
  if (quota == nullptr) return absl::OkStatus();
  const std::optional<uint64_t> total = limit(*quota);
  const auto used = static_cast<uint64_t>(view.Count(relation, owner));
  if (!total.has_value() || used < *total || Mutated(Mutation::kIgnoreQuota)) return absl::OkStatus();
  return Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_QUOTA_EXCEEDED)
      .Message("'{}' has {} {}, and {} allows {}; delete what is not needed, or raise the quota", owner, used, what,
               quota->name(), *total)
      .Meta("owner", owner)
      .Meta("quota", quota->name())
      .Meta("used", std::to_string(used))
      .Meta("total", std::to_string(*total))
      .Resource("viommu.v1.Quota", quota->name(), owner);
}

}  // namespace

absl::Status CheckOwnerLabel(std::string_view field, const Labels& labels) {
  const auto label = labels.find(kOwnerLabel);
  if (label == labels.end() || IsOwner(label->second)) return absl::OkStatus();
  return InvalidField(field,
                      "the label \"owner\" names whose quota the VM counts against: letters, digits, '-', '_', '.', "
                      "':', at most {}",
                      kMaxSmmuIdBytes);
}

const std::string& OwnerOf(const v1::Stage2Domain& stage2) {
  static const auto& none = *new std::string;
  const auto label = stage2.labels().find(kOwnerLabel);
  return label == stage2.labels().end() ? none : label->second;
}

absl::Status CheckViommuQuota(const View& view, const std::string& owner) {
  return CheckRoom(view, owner, Relation::kOwnerViommus, "viommus", [](const v1::Quota& quota) {
    return quota.has_max_viommus() ? std::optional(quota.max_viommus()) : std::nullopt;
  });
}

absl::Status CheckVdeviceQuota(const View& view, const std::string& owner) {
  return CheckRoom(view, owner, Relation::kOwnerVdevices, "vdevices", [](const v1::Quota& quota) {
    return quota.has_max_vdevices() ? std::optional(quota.max_vdevices()) : std::nullopt;
  });
}

v1::Quota WithUsage(const v1::Quota& quota, const View& view) {
  v1::Quota shown = quota;
  if (quota.name() == kDefaultQuota) return shown;
  const std::string owner = quota.name().substr(kCollection.size());
  shown.mutable_usage()->set_viommus(static_cast<uint64_t>(view.Count(Relation::kOwnerViommus, owner)));
  shown.mutable_usage()->set_vdevices(static_cast<uint64_t>(view.Count(Relation::kOwnerVdevices, owner)));
  return shown;
}

absl::StatusOr<v1::SetQuotaResponse> Judge(const v1::SetQuotaRequest& request, const Context& context, Draft& draft) {
  if (!request.has_quota()) return InvalidField("quota", "is required");
  const v1::Quota& asked = request.quota();
  VIOMMU_RETURN_IF_ERROR(CheckName(Kind::kQuota, "quota.name", asked.name()));
  const auto present = draft.Find<v1::Quota>(asked.name());
  v1::Quota next;
  if (present != nullptr) {
    VIOMMU_RETURN_IF_ERROR(CheckEtag(*present, request.etag()));
    next = *present;
  } else if (!request.etag().empty()) {
    return NotFound(Kind::kQuota, asked.name());
  } else {
    next.set_name(asked.name());
    Begin(next, context);
  }
  next.clear_max_viommus();
  next.clear_max_vdevices();
  if (asked.has_max_viommus()) next.set_max_viommus(asked.max_viommus());
  if (asked.has_max_vdevices()) next.set_max_vdevices(asked.max_vdevices());
  v1::SetQuotaResponse response;
  const bool same = present != nullptr && present->SerializeAsString() == next.SerializeAsString();
  if (!same) {
    DesireSettled(next, context);
    draft.Put(next);
  }
  *response.mutable_quota() = WithUsage(next, draft);
  return response;
}

absl::StatusOr<v1::DeleteQuotaResponse> Judge(const v1::DeleteQuotaRequest& request, const Context& /*context*/,
                                              Draft& draft) {
  VIOMMU_ASSIGN_OR_RETURN(const auto quota, Get<v1::Quota>(draft, "name", request.name()));
  VIOMMU_RETURN_IF_ERROR(CheckEtag(*quota, request.etag()));
  draft.Erase(Kind::kQuota, quota->name());
  v1::DeleteQuotaResponse response;
  *response.mutable_quota() = WithUsage(*quota, draft);
  return response;
}

}  // namespace viommu::server
