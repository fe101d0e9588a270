#include "agent/local/invalidator.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "agent/errno_status.h"
#include "agent/local/commands.h"
#include "common/error.h"

namespace viommu::agent {
namespace {

bool HasCapability(const Capabilities& capabilities, std::string_view name) {
  return std::any_of(capabilities.others.begin(), capabilities.others.end(),
                     [name](const Capability& c) { return c.name == name && c.available; });
}

void SetStop(v1::InvalidationResult& result, v1::ErrorReason reason, std::string message, int error_number) {
  result.mutable_stop()->set_reason(ReasonName(reason));
  result.mutable_stop()->set_message(std::move(message));
  result.mutable_stop()->set_error_number(error_number);
}

}  // namespace

Invalidator::Invalidator(Targets& targets, const Capabilities& capabilities, Options options)
    : targets_(targets),
      by_nested_(capabilities.invalidate_by_nested),
      exact_(HasCapability(capabilities, "exact_handled")),
      options_(std::move(options)) {}

absl::StatusOr<v1::InvalidationResult> Invalidator::Invalidate(
    std::string_view target, const google::protobuf::RepeatedPtrField<v1::Command>& commands) {
  if (commands.size() > kMaxCommands) {
    return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_LIMIT_EXCEEDED)
        .Message("{} commands, one request takes at most {}; send them in several", commands.size(), kMaxCommands)
        .Field("commands", "too many");
  }
  std::vector<smmuv3::RawCommand> raw(static_cast<size_t>(commands.size()));
  for (size_t i = 0; i < raw.size(); ++i) {
    VIOMMU_ASSIGN_OR_RETURN(raw[i], ToRaw(commands[static_cast<int>(i)], i));
  }
  v1::InvalidationResult result;
  auto lease = targets_.Acquire(target);
  VIOMMU_RETURN_IF_ERROR(lease.status());
  const TargetObject& object = lease->object();
  if (object.kind == ItemKind::kNestedDomain && !by_nested_) {
    SetStop(result, v1::ERROR_REASON_TARGET_NOT_SUPPORTED,
            "this host's backend takes invalidations for viommus only; name the nested domain's viommu", 0);
    return result;
  }
  // Linux 7.2 refuses an empty call; there is nothing to do anyway.
  if (raw.empty()) return result;

  const MonotonicTime start = options_.clock->Monotonic();
  const InvalidateResult done = object.context->Invalidate(object.id, InvalidateDataType::kArmSmmuv3, raw);
  const auto time = options_.clock->Monotonic() - start;
  v1::ErrorReason reason = v1::ERROR_REASON_UNSPECIFIED;
  uint32_t handled = std::min(done.handled, static_cast<uint32_t>(raw.size()));
  if (!done.status.ok()) {
    StopReason stop = ExplainStop(raw, handled, done.status, object.features,
                                  [&](uint32_t id) { return targets_.HasVdevId(object.viommu, id); });
    reason = stop.reason;
    SetStop(result, stop.reason, std::move(stop.message), StatusErrno(done.status));
    // Where commands of a group may be counted that were never issued, only whole groups before it are sure; a count of
    // everything together with an error says nothing at all.
    if (!exact_) handled = done.handled >= raw.size() ? 0 : handled - handled % kCommandGroup;
  }
  result.set_handled(handled);
  if (options_.on_done) options_.on_done(commands.size(), time, reason);
  return result;
}

v1::InvalidationResult Invalidator::InvalidateOrStop(std::string_view target,
                                                     const google::protobuf::RepeatedPtrField<v1::Command>& commands) {
  auto result = Invalidate(target, commands);
  if (result.ok()) return *std::move(result);
  v1::InvalidationResult stopped;
  const v1::ErrorReason reason = ReasonOf(result.status());
  SetStop(stopped, reason == v1::ERROR_REASON_UNSPECIFIED ? v1::ERROR_REASON_BACKEND_FAILED : reason,
          std::string(result.status().message()), StatusErrno(result.status()));
  return stopped;
}

}  // namespace viommu::agent
