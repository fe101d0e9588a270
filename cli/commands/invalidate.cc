#include "cli/commands/invalidate.h"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/commands/commands.h"
#include "cli/invalidation_spec.h"
#include "cli/output/document.h"
#include "cli/show.h"
#include "cli/text.h"
#include "common/error.h"

namespace viommu::cli {
namespace {

absl::StatusOr<ExitCode> Invalidate(Session& session, const InvalidateArguments& arguments) {
  v1::InvalidateRequest request;
  VIOMMU_ASSIGN_OR_RETURN(*request.mutable_target(), InvalidationTarget(arguments.target));
  VIOMMU_ASSIGN_OR_RETURN(const auto commands, ParseSpecs(arguments.specs));
  request.mutable_commands()->Assign(commands.begin(), commands.end());
  v1::InvalidateResponse response;
  VIOMMU_RETURN_IF_ERROR(session.CallInto(request, response, "waiting for the SMMU to complete"));
  return ShowInvalidation(session, request.target(), commands, response.result());
}

}  // namespace

void DeclareInvalidateArguments(Command& command, InvalidateArguments* arguments) {
  std::string forms = "Invalidations; N is decimal or 0x hex, what is left out is 0 or false:";
  for (const std::string& form : InvalidationForms()) forms += "\n  " + form;
  forms +=
      "\nnum, scale, ttl and tg make a range of (num + 1) << scale granules. size is 2^size pages; 52 is everything.";
  command.Details(forms)
      .Positional("TARGET", &arguments->target, "a viommu, or a nested domain where the host's backend takes it",
                  {.names_of = Kind::kViommu})
      .Positionals("INVALIDATION", &arguments->specs, "in order, at most 4096", true, {.words = InvalidationNames()});
}

absl::StatusOr<std::vector<v1::Command>> ParseSpecs(const std::vector<std::string>& specs) {
  std::vector<v1::Command> commands;
  for (const std::string& spec : specs) {
    VIOMMU_ASSIGN_OR_RETURN(v1::Command command, ParseInvalidation(spec));
    commands.push_back(std::move(command));
  }
  return commands;
}

absl::StatusOr<ExitCode> ShowInvalidation(Session& session, const std::string& target,
                                          const std::vector<v1::Command>& commands,
                                          const v1::InvalidationResult& result) {
  if (session.settings().ForPrograms()) {
    ShowDocument(session, ToJson(result));
  } else if (session.settings().output == OutputFormat::kName) {
    *session.terminal().out << target << "\n";
  } else {
    *session.terminal().out << fmt::format("{}: {} of {} invalidations took effect\n", target, result.handled(),
                                           commands.size());
  }
  if (!result.has_stop()) return ExitCode::kOk;
  // Which command it was that stopped it, the host's message says: not every backend stops right behind the last one
  // that took effect.
  return Error(absl::StatusCode::kFailedPrecondition, ReasonFromName(result.stop().reason()))
      .Message("stopped after {} of {}: {}", result.handled(), commands.size(), result.stop().message())
      .Meta("errno", std::to_string(result.stop().error_number()));
}

void DeclareInvalidate(Command& root) {
  const auto arguments = std::make_shared<InvalidateArguments>();
  Command& invalidate = root.Sub("invalidate", "Carry invalidations to a host; answers when they have taken effect")
                            .WithExample("invalidate v1 tlbi-nh-all", "everything of the VM's stage 1")
                            .WithExample("invalidate v1 tlbi-nh-asid:asid=5 atc-inv:vdev_id=0x10,size=52",
                                         "one address space, then the cache of one device")
                            .WithExample("invalidate v1 tlbi-nh-va:asid=5,address=0x1000,leaf=true", "one page")
                            .WithExample("invalidate v1 raw:0x0005000000000011,0x0", "as in the guest's queue");
  DeclareInvalidateArguments(invalidate, arguments.get());
  invalidate.Runs([arguments](Session& session) { return Invalidate(session, *arguments); });
}

}  // namespace viommu::cli
