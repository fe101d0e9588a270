// How it stands: the part of Reconciler that people and metrics ask.

#include <algorithm>
#include <utility>

#include "agent/reconcile/reconciler.h"

namespace viommu::agent {
namespace {

v1::HeldObject::Outcome StandingOf(const HeldItem& item, bool attempted, Step::Kind kind) {
  if (item.deleting) return v1::HeldObject::OUTCOME_RELEASING;
  if (!attempted) return v1::HeldObject::OUTCOME_WAITING;
  switch (kind) {
    case Step::Kind::kApplied:
      return v1::HeldObject::OUTCOME_APPLIED;
    case Step::Kind::kDormant:
      return v1::HeldObject::OUTCOME_DORMANT;
    case Step::Kind::kFailed:
    case Step::Kind::kBlocked:
      return v1::HeldObject::OUTCOME_FAILED;
    default:
      return v1::HeldObject::OUTCOME_WAITING;
  }
}

}  // namespace

std::map<std::string, uint64_t> Reconciler::Counts() const {
  std::map<std::string, uint64_t> counts = {
      {"applied", 0}, {"dormant", 0}, {"failed", 0}, {"releasing", 0}, {"waiting", 0}};
  for (const auto& [uid, item] : held().items()) {
    const Runtime& runtime = *runtimes_.at(uid);
    switch (StandingOf(item, runtime.attempted, runtime.last.kind)) {
      case v1::HeldObject::OUTCOME_APPLIED:
        ++counts["applied"];
        break;
      case v1::HeldObject::OUTCOME_DORMANT:
        ++counts["dormant"];
        break;
      case v1::HeldObject::OUTCOME_FAILED:
        ++counts["failed"];
        break;
      case v1::HeldObject::OUTCOME_RELEASING:
        ++counts["releasing"];
        break;
      default:
        ++counts["waiting"];
        break;
    }
  }
  return counts;
}

std::vector<v1::HeldObject> Reconciler::List(const std::pair<std::string, std::string>& after, size_t max) const {
  std::vector<std::pair<std::string, std::string>> order;
  for (const auto& [uid, item] : held().items()) {
    std::pair<std::string, std::string> key(item.name(), uid);
    if (key > after) order.push_back(std::move(key));
  }
  std::sort(order.begin(), order.end());
  std::vector<v1::HeldObject> objects;
  for (const auto& [name, uid] : order) {
    if (objects.size() == max) break;
    const HeldItem& item = *held().Find(uid);
    const Runtime& runtime = *runtimes_.at(uid);
    v1::HeldObject& object = objects.emplace_back();
    *object.mutable_resource() = item.resource;
    object.set_outcome(StandingOf(item, runtime.attempted, runtime.last.kind));
    if (runtime.attempted && !runtime.last.reason.reason().empty()) *object.mutable_reason() = runtime.last.reason;
    const auto ids = realizer_.KernelIds(uid);
    object.mutable_kernel_ids()->insert(ids.begin(), ids.end());
  }
  return objects;
}

}  // namespace viommu::agent
