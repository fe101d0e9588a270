// What hosts answer about the things that should be on them.

#include <memory>
#include <string>
#include <utility>

#include "common/mutation.h"
#include "server/fleet/deletion.h"
#include "server/fleet/record.h"
#include "server/fleet/rules.h"

namespace viommu::server {
namespace {

// What an answer says about the record; false when it says nothing new.
template <typename T>
bool TakeOver(const v1::ItemResult& result, T& next) {
  if (next.state() == v1::STATE_DELETING && result.outcome() != v1::OUTCOME_FAILED) return false;
  switch (result.outcome()) {
    case v1::OUTCOME_APPLIED:
      next.set_state(v1::STATE_READY);
      next.clear_state_reason();
      break;
    case v1::OUTCOME_DORMANT:
      next.set_state(v1::STATE_DORMANT);
      next.clear_state_reason();
      break;
    case v1::OUTCOME_FAILED:
      if (Mutated(Mutation::kDropNack)) return false;
      if (next.state() != v1::STATE_DELETING) next.set_state(v1::STATE_FAILED);
      *next.mutable_state_reason() = result.reason();
      CutText(*next.mutable_state_reason()->mutable_reason(), kMaxReportedTextBytes);
      CutText(*next.mutable_state_reason()->mutable_message(), kMaxReasonBytes);
      break;
    default:
      return false;
  }
  next.set_observed_generation(result.generation());
  return true;
}

// What only one kind of record takes over.
void TakeOverMore(const v1::ItemResult& result, v1::Vdevice& next) {
  // The host has the new vdev_id, so the old one is free.
  if (result.outcome() != v1::OUTCOME_FAILED) next.clear_previous_vdev_id();
}
void TakeOverMore(const v1::ItemResult& result, v1::Viommu& next) {
  if (result.vmid() != 0) next.set_vmid(result.vmid());
}
template <typename T>
void TakeOverMore(const v1::ItemResult&, T&) {}

template <typename T>
bool SameStatus(const T& a, const T& b) {
  return a.state() == b.state() && a.observed_generation() == b.observed_generation() &&
         a.has_state_reason() == b.has_state_reason() && a.state_reason().reason() == b.state_reason().reason() &&
         a.state_reason().message() == b.state_reason().message() &&
         a.state_reason().error_number() == b.state_reason().error_number();
}
bool SameMore(const v1::Vdevice& a, const v1::Vdevice& b) {
  return a.has_previous_vdev_id() == b.has_previous_vdev_id();
}
bool SameMore(const v1::Viommu& a, const v1::Viommu& b) { return a.vmid() == b.vmid(); }
template <typename T>
bool SameMore(const T&, const T&) {
  return true;
}

template <typename T>
absl::Status JudgeResult(const std::string& host, const v1::ItemResult& result, const std::shared_ptr<const T>& present,
                         const Context& context, Draft& draft) {
  if (present == nullptr || present->uid() != result.uid()) return absl::OkStatus();
  if (present->host() != host) {
    return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_PROTOCOL_VIOLATION)
        .Message("{} answers for {}, which is on {}", host, present->name(), present->host())
        .Meta("name", present->name())
        .Meta("host", present->host());
  }
  if (present->generation() != result.generation() && !Mutated(Mutation::kBelieveOldResults)) return absl::OkStatus();
  if (result.outcome() == v1::OUTCOME_RELEASED) {
    if (present->state() == v1::STATE_DELETING) ConfirmReleased(*present, context, draft);
    return absl::OkStatus();
  }
  // Once it is confirmed gone, a failure to delete it is an echo.
  if (IsReleaseConfirmed(*present)) return absl::OkStatus();
  T next = *present;
  if (!TakeOver(result, next)) return absl::OkStatus();
  TakeOverMore(result, next);
  if (SameStatus(*present, next) && SameMore(*present, next)) return absl::OkStatus();
  Touch(next, context);
  draft.Put(std::move(next));
  return absl::OkStatus();
}

// The vdevice of that name, or the one that a rebind took the name from.
std::shared_ptr<const v1::Vdevice> FindVdevice(const View& view, const std::string& name) {
  auto vdevice = view.Find<v1::Vdevice>(name);
  if (vdevice != nullptr) return vdevice;
  for (const std::string& present : view.Children(Relation::kReservedNames, name)) {
    vdevice = view.Find<v1::Vdevice>(present);
  }
  return vdevice;
}

absl::Status JudgeItem(const std::string& host, const v1::ItemResult& result, const Context& context, Draft& draft) {
  const auto kind = KindOfName(result.name());
  if (!kind.has_value()) return absl::OkStatus();
  switch (*kind) {
    case Kind::kStage2Domain:
      return JudgeResult(host, result, draft.Find<v1::Stage2Domain>(result.name()), context, draft);
    case Kind::kViommu:
      return JudgeResult(host, result, draft.Find<v1::Viommu>(result.name()), context, draft);
    case Kind::kVdevice:
      return JudgeResult(host, result, FindVdevice(draft, result.name()), context, draft);
    case Kind::kNestedDomain:
      return JudgeResult(host, result, draft.Find<v1::NestedDomain>(result.name()), context, draft);
    case Kind::kHwQueue:
      return JudgeResult(host, result, draft.Find<v1::HwQueue>(result.name()), context, draft);
    case Kind::kHost:
    case Kind::kDevice:
    case Kind::kQuota:
      break;  // nothing is asked of hosts about these
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status JudgeResults(const std::string& host, const v1::Results& results, const Context& context, Draft& draft) {
  for (const v1::ItemResult& result : results.items()) {
    VIOMMU_RETURN_IF_ERROR(JudgeItem(host, result, context, draft));
  }
  return absl::OkStatus();
}

}  // namespace viommu::server
