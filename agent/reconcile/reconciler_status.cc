// How it stands, and whether that is so: the part of Reconciler that people, metrics and the server ask.

#include <fmt/format.h>

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

void Reconciler::Inspect(const v1::InspectCall& call, v1::InspectReply& reply) {
  Inspection inspection = realizer_.Inspect();
  reply.set_call_id(call.call_id());
  const int max_items = std::clamp(call.max_items(), 1, kMaxInspectedItems);
  std::vector<std::pair<std::string, Finding>> found;  // what to begin from, by uid
  size_t bytes = 0;
  auto next = held().items().upper_bound(call.after_uid());
  for (; next != held().items().end() && reply.items_size() < max_items && bytes < kMaxInspectReplyBytes; ++next) {
    const auto& [uid, item] = *next;
    const Runtime& runtime = *runtimes_.at(uid);
    Finding finding = inspection.Look(item);
    v1::InspectedItem& told = *reply.add_items();
    *told.mutable_believed() = item.resource;
    if (runtime.answer) {
      told.set_outcome(runtime.answer->outcome());
      if (runtime.answer->has_reason()) *told.mutable_reason() = runtime.answer->reason();
    }
    told.set_presence(finding.presence);
    told.mutable_actual()->insert(finding.actual.begin(), finding.actual.end());
    bytes += told.ByteSizeLong();
    const bool drifted = finding.presence == v1::PRESENCE_MISSING || finding.presence == v1::PRESENCE_DIFFERENT;
    if (drifted || told.outcome() == v1::OUTCOME_FAILED) found.emplace_back(uid, std::move(finding));
  }
  reply.set_more(next != held().items().end());
  std::vector<std::pair<std::string, std::vector<ObjectInfo>>> strays;  // by VM
  std::vector<std::string> without_ioas;                                // VMs
  for (const std::string& vm : realizer_.OpenVms()) {
    if (inspection.IoasIsMissing(vm)) without_ioas.push_back(vm);
    if (!reply.more()) strays.emplace_back(vm, inspection.Strays(vm));
  }
  for (const auto& [vm, objects] : strays) {
    for (const ObjectInfo& object : objects) {
      if (reply.strays_size() == kMaxStrays) break;
      reply.add_strays(fmt::format("{} in the context of {}", DescribeObject(object), vm));
    }
  }
  if (!reply.more()) {
    for (const std::string& vm : without_ioas)
      reply.add_strays(fmt::format("no IOAS any more in the context of {}", vm));
  }
  if (!call.repair()) return;
  // Before the stage 2s on it, which went first.
  for (const std::string& vm : without_ioas) realizer_.LoseIoas(vm);
  for (const auto& [uid, finding] : found) {
    realizer_.Learn(*held().Find(uid), finding);
    Activate(uid);
  }
  for (const auto& [vm, objects] : strays) static_cast<void>(realizer_.EndStrays(vm, objects));
  ++bumps_;
}

Reconciler::DriftCounts Reconciler::CountDrift() const {
  Inspection inspection = realizer_.Inspect();
  DriftCounts counts;
  for (const auto& [uid, item] : held().items()) {
    switch (inspection.Look(item).presence) {
      case v1::PRESENCE_MISSING:
        ++counts.missing;
        break;
      case v1::PRESENCE_DIFFERENT:
        ++counts.different;
        break;
      case v1::PRESENCE_UNKNOWN:
        ++counts.unknown;
        break;
      default:
        break;
    }
  }
  for (const std::string& vm : realizer_.OpenVms()) {
    counts.missing += inspection.IoasIsMissing(vm) ? 1 : 0;
    counts.strays += inspection.Strays(vm).size();
  }
  return counts;
}

}  // namespace viommu::agent
