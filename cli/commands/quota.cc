#include <memory>

#include "cli/commands/commands.h"
#include "cli/session.h"
#include "cli/show.h"
#include "cli/text.h"
#include "viommu/v1/operations_service.pb.h"

namespace viommu::cli {
namespace {

struct QuotaArguments {
  std::string owner;
  std::string max_viommus;
  std::string max_vdevices;
};

absl::StatusOr<ExitCode> SetQuota(Session& session, const QuotaArguments& arguments) {
  v1::SetQuotaRequest request;
  v1::Quota& quota = *request.mutable_quota();
  VIOMMU_ASSIGN_OR_RETURN(*quota.mutable_name(), FullName(Kind::kQuota, arguments.owner));
  if (!arguments.max_viommus.empty()) {
    VIOMMU_ASSIGN_OR_RETURN(const uint64_t limit, ParseNumber(arguments.max_viommus, "--max-viommus"));
    quota.set_max_viommus(limit);
  }
  if (!arguments.max_vdevices.empty()) {
    VIOMMU_ASSIGN_OR_RETURN(const uint64_t limit, ParseNumber(arguments.max_vdevices, "--max-vdevices"));
    quota.set_max_vdevices(limit);
  }
  VIOMMU_ASSIGN_OR_RETURN(const auto response, session.Change<v1::SetQuotaResponse>(request, ""));
  return ShowChange(session, Kind::kQuota, {&response.quota()}, "set", response.revision());
}

}  // namespace

void DeclareSetQuota(Command& set) {
  const auto quota = std::make_shared<QuotaArguments>();
  set.Sub("quota", "Set how much the VMs of one owner may have, fleet-wide")
      .Changes(/*waits=*/false)
      .Details(
          "The owner is the label \"owner\" of a VM's stage-2 domains. What is not given has no limit; what is there "
          "already stays.\n"
          "The quota \"default\" holds for every owner without one of its own.")
      .WithExample("set quota acme --max-viommus 16 --max-vdevices 64", "both limits")
      .WithExample("set quota default --max-viommus 4", "for all others")
      .Positional("OWNER", &quota->owner, "the owner, or default", {.names_of = Kind::kQuota})
      .Flag("--max-viommus", &quota->max_viommus, "N", "at most N viommus")
      .Flag("--max-vdevices", &quota->max_vdevices, "N", "at most N vdevices")
      .Runs([quota](Session& session) { return SetQuota(session, *quota); });
}

}  // namespace viommu::cli
