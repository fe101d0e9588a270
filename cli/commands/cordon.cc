#include <memory>

#include "cli/commands/commands.h"
#include "cli/session.h"
#include "cli/show.h"

namespace viommu::cli {
namespace {

template <typename Request, typename Response>
absl::StatusOr<ExitCode> Mark(Session& session, const std::string& host, std::string_view done) {
  Request request;
  VIOMMU_ASSIGN_OR_RETURN(*request.mutable_name(), FullName(Kind::kHost, host));
  VIOMMU_ASSIGN_OR_RETURN(const Response response, session.Change<Response>(request, ""));
  return ShowChange(session, Kind::kHost, {&response.host()}, done, response.revision());
}

}  // namespace

void DeclareCordon(Command& root) {
  const auto cordon = std::make_shared<std::string>();
  root.Sub("cordon", "Stop new assignments to a host; what is there stays")
      .Changes(/*waits=*/false)
      .WithExample("cordon a", "before maintenance of host a")
      .Positional("HOST", cordon.get(), "the host", {.names_of = Kind::kHost})
      .Runs([cordon](Session& session) {
        return Mark<v1::CordonHostRequest, v1::CordonHostResponse>(session, *cordon, "cordoned");
      });
  const auto uncordon = std::make_shared<std::string>();
  root.Sub("uncordon", "Let a host take assignments again")
      .Changes(/*waits=*/false)
      .WithExample("uncordon a", "after it")
      .Positional("HOST", uncordon.get(), "the host", {.names_of = Kind::kHost})
      .Runs([uncordon](Session& session) {
        return Mark<v1::UncordonHostRequest, v1::UncordonHostResponse>(session, *uncordon, "uncordoned");
      });
}

}  // namespace viommu::cli
