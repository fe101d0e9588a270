#include "cli/show.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/failure.h"
#include "cli/output/document.h"
#include "cli/output/resources.h"
#include "cli/output/style.h"
#include "cli/output/table.h"
#include "cli/text.h"

namespace viommu::cli {
namespace {

using google::protobuf::Message;
using Json = nlohmann::ordered_json;

void ShowTable(Session& session, Kind kind, const std::vector<const Message*>& resources) {
  const Terminal& terminal = session.terminal();
  const bool wide = session.settings().output == OutputFormat::kWide;
  *terminal.out << ResourceTable(kind, resources, wide, terminal.clock->Now()).Print(terminal.ColourOut());
}

Json ListDocument(const std::vector<const Message*>& resources, int64_t revision) {
  Json items = Json::array();
  for (const Message* resource : resources) items.push_back(ToJson(*resource));
  Json document = Json::object();
  document["items"] = std::move(items);
  document["revision"] = revision;
  return document;
}

std::string ChangeLine(const Session& session, const CommonFields& common, std::string_view done, int64_t revision) {
  const bool colour = session.terminal().ColourOut();
  if (session.settings().dry_run) return fmt::format("{} would be {} (dry run: nothing changed)\n", common.name, done);
  // A deleted thing that was waited for is gone: the state that the reply carries is its last one.
  const bool gone = common.state == "DELETING" && session.settings().wait == v1::WAIT_APPLIED;
  std::string state;
  if (!gone && !common.state.empty()) state = ": " + Styled(common.state, StyleOfState(common.state), colour);
  return fmt::format("{} {}{} (revision {})\n", common.name, done, state, revision);
}

}  // namespace

void ShowDocument(Session& session, const Json& document) {
  *session.terminal().out << (session.settings().output == OutputFormat::kYaml ? PrintYaml(document)
                                                                               : PrintJson(document));
}

void ShowOne(Session& session, Kind kind, const Message& resource) {
  if (session.settings().ForPrograms()) {
    ShowDocument(session, ToJson(resource));
  } else if (session.settings().output == OutputFormat::kName) {
    *session.terminal().out << CommonOf(resource).name << "\n";
  } else {
    ShowTable(session, kind, {&resource});
  }
}

void ShowList(Session& session, Kind kind, const Listing& listing) {
  const Terminal& terminal = session.terminal();
  std::vector<const Message*> resources;
  for (const auto& item : listing.items) resources.push_back(item.get());
  if (session.settings().ForPrograms()) {
    Json document = ListDocument(resources, listing.revision);
    if (listing.truncated) document["truncated"] = true;
    ShowDocument(session, document);
  } else if (session.settings().output == OutputFormat::kName) {
    for (const Message* resource : resources) *terminal.out << CommonOf(*resource).name << "\n";
  } else if (resources.empty()) {
    *terminal.err << fmt::format("no {} found\n", InfoOf(kind).plural);
  } else {
    ShowTable(session, kind, resources);
  }
  if (listing.truncated) {
    *terminal.err << fmt::format("only the first {} are shown; see more with --limit, or fewer with --field\n",
                                 listing.items.size());
  }
}

absl::StatusOr<ExitCode> ShowChange(Session& session, Kind kind, const std::vector<const Message*>& resources,
                                    std::string_view done, int64_t revision) {
  const Settings& settings = session.settings();
  if (settings.ForPrograms()) {
    ShowDocument(session, resources.size() == 1 ? ToJson(*resources[0]) : ListDocument(resources, revision));
  } else if (settings.output == OutputFormat::kName) {
    for (const Message* resource : resources) *session.terminal().out << CommonOf(*resource).name << "\n";
  } else if (settings.output_given) {
    ShowTable(session, kind, resources);
  } else {
    for (const Message* resource : resources) {
      *session.terminal().out << ChangeLine(session, CommonOf(*resource), done, revision);
    }
  }
  if (settings.wait != v1::WAIT_APPLIED || settings.dry_run) return ExitCode::kOk;
  for (const Message* resource : resources) {
    const CommonFields common = CommonOf(*resource);
    if (common.state == "FAILED") return FailedOnHost(common.name, common.reason);
  }
  return ExitCode::kOk;
}

}  // namespace viommu::cli
