#include "server/api/invalidate.h"

#include <fmt/format.h>

#include <memory>

#include "common/error.h"
#include "server/api/limits.h"
#include "server/api/lookup.h"
#include "server/fleet/names.h"

namespace viommu::server {
namespace {

template <typename T>
absl::StatusOr<InvalidateTarget> TargetIn(const View& view, const std::string& name) {
  const auto found = view.Find<T>(name);
  if (found == nullptr) return NotFound(KindOf<T>::value, name);
  if (found->state() == v1::STATE_DELETING) {
    return Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_BEING_DELETED)
        .Message("{} is being deleted: its host forgets all its translations by itself; nothing is left to invalidate",
                 name)
        .Meta("name", name)
        .Precondition("BEING_DELETED", name, "nothing is left to invalidate");
  }
  if constexpr (std::is_same_v<T, v1::NestedDomain>) {
    const auto host = view.Find<v1::Host>(found->host());
    if (host == nullptr || !host->invalidate_by_nested_domain()) {
      return Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_TARGET_NOT_SUPPORTED)
          .Message("{} takes invalidations by viommu only; send them to {}", found->host(), found->viommu())
          .Meta("host", found->host())
          .Meta("viommu", found->viommu())
          .Precondition("TARGET_NOT_SUPPORTED", name, "the host's backend takes no invalidation by nested domain");
    }
  }
  return InvalidateTarget{found->host(), found->uid()};
}

}  // namespace

absl::Status CheckInvalidate(const v1::InvalidateRequest& request) {
  if (!IsViommuName(request.target()) && !IsNestedDomainName(request.target())) {
    return InvalidField("target",
                        "must be viommus/{{viommu}} or viommus/{{viommu}}/nestedDomains/{{nested_domain}}, not \"{}\"",
                        request.target().substr(0, 256));
  }
  if (request.commands().empty()) return InvalidField("commands", "at least one is needed");
  if (request.commands_size() > kMaxInvalidateCommands) {
    return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_LIMIT_EXCEEDED)
        .Message("commands: {} are more than the {} of one call; split them into several calls, in order",
                 request.commands_size(), kMaxInvalidateCommands)
        .Meta("field", "commands")
        .Meta("limit", std::to_string(kMaxInvalidateCommands))
        .Field("commands", "too many");
  }
  for (int i = 0; i < request.commands_size(); ++i) {
    const v1::Command& command = request.commands(i);
    if (command.kind_case() == v1::Command::KIND_NOT_SET) {
      return InvalidField(fmt::format("commands[{}]", i), "one of its kinds must be set");
    }
    if (command.kind_case() == v1::Command::kRaw && command.raw().size() != kRawCommandBytes) {
      return InvalidField(fmt::format("commands[{}].raw", i), "must be {} bytes, not {}", kRawCommandBytes,
                          command.raw().size());
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<InvalidateTarget> FindInvalidateTarget(const CommitCore& core, const std::string& target) {
  return core.Read([&](const Tables& tables, int64_t revision) -> absl::StatusOr<InvalidateTarget> {
    auto found =
        IsViommuName(target) ? TargetIn<v1::Viommu>(tables, target) : TargetIn<v1::NestedDomain>(tables, target);
    if (found.ok()) found->revision = revision;
    return found;
  });
}

}  // namespace viommu::server
