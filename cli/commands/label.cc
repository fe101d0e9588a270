#include <fmt/format.h>

#include <map>
#include <memory>

#include "cli/commands/commands.h"
#include "cli/fetch.h"
#include "cli/show.h"
#include "cli/text.h"

namespace viommu::cli {
namespace {

struct LabelArguments {
  std::string viommu;
  std::vector<std::string> changes;
  bool replace = false;
};

// "key=value" sets, "key-" takes away.
absl::Status Apply(const std::string& change, std::map<std::string, std::string>& labels) {
  const size_t equals = change.find('=');
  if (equals != std::string::npos && equals > 0) {
    labels[change.substr(0, equals)] = change.substr(equals + 1);
  } else if (equals == std::string::npos && change.size() > 1 && change.back() == '-') {
    labels.erase(change.substr(0, change.size() - 1));
  } else {
    return UsageError(fmt::format("\"{}\" is neither KEY=VALUE, which sets, nor KEY-, which takes away", change));
  }
  return absl::OkStatus();
}

absl::StatusOr<ExitCode> Label(Session& session, const LabelArguments& arguments) {
  v1::UpdateViommuLabelsRequest request;
  VIOMMU_ASSIGN_OR_RETURN(*request.mutable_name(), FullName(Kind::kViommu, arguments.viommu));
  std::map<std::string, std::string> labels;
  std::string etag = session.settings().etag;
  if (!arguments.replace) {
    // The API replaces all labels at once. The etag of what was read keeps somebody else's change from being undone.
    VIOMMU_ASSIGN_OR_RETURN(const Fetched before, FetchOne(session, Kind::kViommu, request.name()));
    const auto& viommu = As<v1::Viommu>(before);
    labels.insert(viommu.labels().begin(), viommu.labels().end());
    if (etag.empty()) etag = viommu.etag();
  }
  for (const std::string& change : arguments.changes) VIOMMU_RETURN_IF_ERROR(Apply(change, labels));
  request.mutable_labels()->insert(labels.begin(), labels.end());
  VIOMMU_ASSIGN_OR_RETURN(const auto response, session.Change<v1::UpdateViommuLabelsResponse>(request, "", etag));
  return ShowChange(session, Kind::kViommu, {&response.viommu()}, "labelled", response.revision());
}

}  // namespace

void DeclareLabel(Command& root) {
  const auto arguments = std::make_shared<LabelArguments>();
  root.Sub("label", "Change labels")
      .Sub("viommu", "Change the labels of a viommu")
      .Changes(/*waits=*/false)
      .WithExample("label viommu v1 tier=gold owner-", "sets tier, takes owner away, keeps the others")
      .WithExample("label viommu v1 --replace tier=gold", "tier=gold and nothing else")
      .Positional("VIOMMU", &arguments->viommu, "the viommu", {.names_of = Kind::kViommu})
      .Positionals("CHANGE", &arguments->changes, "KEY=VALUE sets a label, KEY- takes it away", false)
      .Switch("--replace", &arguments->replace, "the labels given here shall be all it has")
      .Runs([arguments](Session& session) -> absl::StatusOr<ExitCode> {
        if (arguments->changes.empty() && !arguments->replace) return UsageError("say which labels to change");
        return Label(session, *arguments);
      });
}

}  // namespace viommu::cli
