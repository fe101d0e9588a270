#include "server/fleet/deletion.h"

#include <memory>
#include <utility>

#include "common/mutation.h"
#include "server/fleet/names.h"
#include "server/fleet/record.h"

namespace viommu::server {
namespace {

bool HasAny(const View& view, Kind kind, const std::string& prefix) {
  bool any = false;
  view.ScanRecords(kind, prefix, "", [&](const RecordPtr&) {
    any = true;
    return false;
  });
  return any;
}

bool IsEmpty(const View& view, const v1::Viommu& viommu) {
  return !HasAny(view, Kind::kVdevice, VdevicePrefix(viommu.name())) &&
         !HasAny(view, Kind::kNestedDomain, NestedDomainPrefix(viommu.name())) &&
         !HasAny(view, Kind::kHwQueue, HwQueuePrefix(viommu.name()));
}

bool IsEmpty(const View& view, const v1::Stage2Domain& stage2) {
  return view.Count(Relation::kStage2Viommus, stage2.name()) == 0;
}

template <typename T>
void AddLive(const View& view, const std::string& prefix, InTheWay& found) {
  view.ScanRecords(KindOf<T>::value, prefix, "", [&](const RecordPtr& record) {
    const auto& typed = static_cast<const T&>(*record);
    if (typed.state() != v1::STATE_DELETING) found.Add(typed.name());
    return true;
  });
}

template <typename T>
T MarkDeleting(const T& record, const Context& context, Draft& draft) {
  T next = record;
  Desire(next, v1::STATE_DELETING, context);
  draft.Put(next);
  return next;
}

// Remembers that the host has confirmed, until what is below is gone.
template <typename T>
void RememberReleased(const T& record, const Context& context, Draft& draft) {
  if (IsReleaseConfirmed(record)) return;
  T next = record;
  next.set_observed_generation(next.generation());
  next.clear_state_reason();
  Touch(next, context);
  draft.Put(std::move(next));
}

void EraseViommu(const v1::Viommu& viommu, Draft& draft) {
  draft.Erase(Kind::kViommu, viommu.name());
  const auto stage2 = MustFind<v1::Stage2Domain>(draft, viommu.stage2_domain());
  if (IsReleaseConfirmed(*stage2) && IsEmpty(draft, *stage2)) draft.Erase(Kind::kStage2Domain, stage2->name());
}

// Something in the viommu is gone.
void EraseEmptyViommu(const std::string& name, Draft& draft) {
  const auto viommu = MustFind<v1::Viommu>(draft, name);
  if (IsReleaseConfirmed(*viommu) && IsEmpty(draft, *viommu)) EraseViommu(*viommu, draft);
}

}  // namespace

void InTheWay::Add(const std::string& name) {
  if (first_.size() < kMaxNamed) first_.push_back(name);
  ++count_;
}

absl::Status InTheWay::Check(const std::string& parent, std::string_view way_out) const {
  if (count_ == 0) return absl::OkStatus();
  std::string names;
  for (const std::string& name : first_) names += (names.empty() ? "" : ", ") + name;
  return Refusal(v1::ERROR_REASON_HAS_CHILDREN, parent, "{} cannot be deleted: {} still stand on it ({}{}); {}", parent,
                 count_, names, count_ > static_cast<int64_t>(first_.size()) ? ", ..." : "", way_out)
      .Meta("count", std::to_string(count_))
      .Meta("children", names);
}

void FindInTheWay(const View& view, const std::string& viommu, InTheWay& found) {
  AddLive<v1::Vdevice>(view, VdevicePrefix(viommu), found);
  AddLive<v1::NestedDomain>(view, NestedDomainPrefix(viommu), found);
  AddLive<v1::HwQueue>(view, HwQueuePrefix(viommu), found);
}

v1::Vdevice Release(const v1::Vdevice& vdevice, const Context& context, Draft& draft) {
  if (vdevice.state() == v1::STATE_DELETING) return vdevice;
  v1::Vdevice next = vdevice;
  next.clear_nested_domain();
  Desire(next, v1::STATE_DELETING, context);
  draft.Put(next);

  v1::Device device = *MustFind<v1::Device>(draft, vdevice.device());
  SetDeviceState(device, /*releasing=*/true);
  if (Mutated(Mutation::kReuseDeviceEarly)) device.clear_owner();
  DesireSettled(device, context);
  draft.Put(std::move(device));
  return next;
}

v1::NestedDomain Release(const v1::NestedDomain& nested, const Context& context, Draft& draft) {
  if (nested.state() == v1::STATE_DELETING) return nested;
  return MarkDeleting(nested, context, draft);
}

v1::HwQueue Release(const v1::HwQueue& queue, const Context& context, Draft& draft) {
  if (queue.state() == v1::STATE_DELETING) return queue;
  return MarkDeleting(queue, context, draft);
}

v1::Viommu Release(const v1::Viommu& viommu, const Context& context, Draft& draft) {
  if (viommu.state() == v1::STATE_DELETING) return viommu;
  for (const auto& vdevice : draft.Scan<v1::Vdevice>(VdevicePrefix(viommu.name()))) Release(*vdevice, context, draft);
  for (const auto& nested : draft.Scan<v1::NestedDomain>(NestedDomainPrefix(viommu.name()))) {
    Release(*nested, context, draft);
  }
  for (const auto& queue : draft.Scan<v1::HwQueue>(HwQueuePrefix(viommu.name()))) Release(*queue, context, draft);
  return MarkDeleting(viommu, context, draft);
}

v1::Stage2Domain Release(const v1::Stage2Domain& stage2, const Context& context, Draft& draft) {
  if (stage2.state() == v1::STATE_DELETING) return stage2;
  for (const std::string& viommu : draft.Children(Relation::kStage2Viommus, stage2.name())) {
    Release(*MustFind<v1::Viommu>(draft, viommu), context, draft);
  }
  return MarkDeleting(stage2, context, draft);
}

absl::Status CheckCascade(const Draft& draft, const std::string& parent) {
  const size_t touched = draft.size();
  if (touched <= kMaxCascadeRecords) return absl::OkStatus();
  return Refusal(v1::ERROR_REASON_LIMIT_EXCEEDED, parent,
                 "deleting {} would change {} records at once, and at most {} are taken; delete what is below it first",
                 parent, touched, kMaxCascadeRecords)
      .Meta("limit", std::to_string(kMaxCascadeRecords));
}

void ConfirmReleased(const v1::Vdevice& vdevice, const Context& context, Draft& draft) {
  draft.Erase(Kind::kVdevice, vdevice.name());
  v1::Device device = *MustFind<v1::Device>(draft, vdevice.device());
  if (device.missing()) {
    draft.Erase(Kind::kDevice, device.name());
  } else {
    device.clear_owner();
    SetDeviceState(device, /*releasing=*/false);
    Touch(device, context);
    draft.Put(std::move(device));
  }
  EraseEmptyViommu(vdevice.viommu(), draft);
}

void ConfirmReleased(const v1::NestedDomain& nested, const Context&, Draft& draft) {
  draft.Erase(Kind::kNestedDomain, nested.name());
  EraseEmptyViommu(nested.viommu(), draft);
}

void ConfirmReleased(const v1::HwQueue& queue, const Context&, Draft& draft) {
  draft.Erase(Kind::kHwQueue, queue.name());
  EraseEmptyViommu(queue.viommu(), draft);
}

void ConfirmReleased(const v1::Viommu& viommu, const Context& context, Draft& draft) {
  if (IsEmpty(draft, viommu)) {
    EraseViommu(viommu, draft);
  } else {
    RememberReleased(viommu, context, draft);
  }
}

void ConfirmReleased(const v1::Stage2Domain& stage2, const Context& context, Draft& draft) {
  if (IsEmpty(draft, stage2)) {
    draft.Erase(Kind::kStage2Domain, stage2.name());
  } else {
    RememberReleased(stage2, context, draft);
  }
}

}  // namespace viommu::server
