#include <fmt/format.h>

#include <memory>

#include "cli/commands/ask.h"
#include "cli/commands/choose.h"
#include "cli/commands/commands.h"
#include "cli/session.h"
#include "cli/show.h"
#include "cli/text.h"
#include "viommu/v1/operations_service.pb.h"

namespace viommu::cli {
namespace {

struct DeleteArguments {
  std::string kind;
  std::vector<std::string> names;
  bool cascade = false;
};

template <typename Request, typename Response>
absl::StatusOr<Response> DeleteOne(Session& session, const std::string& name, bool cascade) {
  Request request;
  request.set_name(name);
  if constexpr (requires { request.set_cascade(cascade); }) request.set_cascade(cascade);
  return session.Change<Response>(request, fmt::format("waiting for the host to confirm that {} is gone", name));
}

absl::StatusOr<ExitCode> DeleteNamed(Session& session, Kind kind, const std::string& name, bool cascade) {
  const std::string done =
      session.settings().wait == v1::WAIT_APPLIED || session.settings().dry_run ? "deleted" : "is on its way out";
  if (kind == Kind::kStage2Domain) {
    VIOMMU_ASSIGN_OR_RETURN(
        const auto response,
        (DeleteOne<v1::DeleteStage2DomainRequest, v1::DeleteStage2DomainResponse>(session, name, cascade)));
    return ShowChange(session, kind, {&response.stage2_domain()}, done, response.revision());
  }
  if (kind == Kind::kViommu) {
    VIOMMU_ASSIGN_OR_RETURN(const auto response,
                            (DeleteOne<v1::DeleteViommuRequest, v1::DeleteViommuResponse>(session, name, cascade)));
    return ShowChange(session, kind, {&response.viommu()}, done, response.revision());
  }
  if (kind == Kind::kHwQueue) {
    VIOMMU_ASSIGN_OR_RETURN(const auto response,
                            (DeleteOne<v1::DeleteHwQueueRequest, v1::DeleteHwQueueResponse>(session, name, cascade)));
    return ShowChange(session, kind, {&response.hw_queue()}, done, response.revision());
  }
  if (kind == Kind::kQuota) {
    VIOMMU_ASSIGN_OR_RETURN(const auto response,
                            (DeleteOne<v1::DeleteQuotaRequest, v1::DeleteQuotaResponse>(session, name, cascade)));
    return ShowChange(session, kind, {&response.quota()}, "deleted", response.revision());
  }
  VIOMMU_ASSIGN_OR_RETURN(
      const auto response,
      (DeleteOne<v1::DeleteNestedDomainRequest, v1::DeleteNestedDomainResponse>(session, name, cascade)));
  return ShowChange(session, kind, {&response.nested_domain()}, done, response.revision());
}

absl::StatusOr<ExitCode> Delete(Session& session, const DeleteArguments& arguments) {
  VIOMMU_ASSIGN_OR_RETURN(const Choice choice, Choose(arguments.kind, arguments.names));
  switch (choice.kind) {
    case Kind::kStage2Domain:
    case Kind::kViommu:
      break;
    case Kind::kNestedDomain:
      if (arguments.cascade) return UsageError("--cascade: nothing is below a nested domain; detach its devices");
      break;
    case Kind::kHwQueue:
      if (arguments.cascade) return UsageError("--cascade: nothing is below a hardware queue");
      break;
    case Kind::kQuota:
      if (arguments.cascade) return UsageError("--cascade: nothing is below a quota; what its owner has stays");
      break;
    case Kind::kVdevice:
      return UsageError(fmt::format("a vdevice is taken out with: viommuctl unset vdev-id {}",
                                    choice.names.empty() ? "VDEVICE" : choice.names[0]));
    default:
      return UsageError(
          fmt::format("{} come from their hosts' agents and cannot be deleted", InfoOf(choice.kind).plural));
  }
  if (choice.names.empty()) return UsageError("say which ones: delete takes names, never all of a kind");
  if (choice.names.size() > 1 && !(session.settings().etag.empty() && session.settings().request_id.empty())) {
    return UsageError("--etag and --request-id are of one change: delete one at a time with them");
  }
  VIOMMU_RETURN_IF_ERROR(
      AskFirst(session, "delete",
               fmt::format("Delete {}{}?", Join(choice.names, ", "), arguments.cascade ? " and everything below" : ""),
               "deleted"));
  for (const std::string& name : choice.names) {
    VIOMMU_ASSIGN_OR_RETURN(const ExitCode code, DeleteNamed(session, choice.kind, name, arguments.cascade));
    if (code != ExitCode::kOk) return code;
  }
  return ExitCode::kOk;
}

}  // namespace

void DeclareDelete(Command& root) {
  const auto arguments = std::make_shared<DeleteArguments>();
  Values names;
  names.names_of_kind_before = true;
  root.Sub("delete", "Delete stage-2 domains, viommus, nested domains, hardware queues and quotas")
      .Changes()
      .Details(
          "Asks before it deletes; without a terminal it needs --yes. What a deleted thing holds (devices, VMIDs) is "
          "free once\n"
          "the host has confirmed: --wait=applied waits for that.")
      .WithExample("delete viommu v1", "refused while it has vdevices or nested domains")
      .WithExample("delete stage2domain web-1 --cascade --yes --wait=applied", "a VM with all it has, without asking")
      .WithExample("delete viommu v1 --cascade --dry-run", "only ask the server whether it would")
      .Positional("KIND", &arguments->kind, "what to delete, or a full name",
                  {.words = {"stage2domain", "viommu", "nesteddomain", "hwqueue", "quota"}})
      .Positionals("NAME", &arguments->names, "full or short names", false, names)
      .Switch("--cascade", &arguments->cascade, "delete what is below it, too")
      .Runs([arguments](Session& session) { return Delete(session, *arguments); });
}

}  // namespace viommu::cli
