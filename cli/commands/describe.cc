#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <ostream>

#include "cli/commands/choose.h"
#include "cli/commands/commands.h"
#include "cli/hints.h"
#include "cli/history.h"
#include "cli/output/document.h"
#include "cli/output/resources.h"
#include "cli/output/style.h"
#include "cli/show.h"
#include "cli/story.h"
#include "cli/text.h"

namespace viommu::cli {
namespace {

using Json = nlohmann::ordered_json;

struct DescribeArguments {
  std::string kind;
  std::vector<std::string> names;
  bool no_history = false;
};

void PrintStory(Session& session, const Story& story) {
  std::ostream& out = *session.terminal().out;
  const bool colour = session.terminal().ColourOut();
  out << Styled(fmt::format("{} {}", story.kind, story.name), Style::kBold, colour) << "\n";
  size_t width = 0;
  for (const auto& [word, text] : story.facts) width = std::max(width, word.size());
  for (const auto& [word, cell] : story.facts) {
    out << fmt::format("  {:<{}}  {}\n", word, width, Styled(cell.text, cell.style, colour));
  }
  for (const StorySection& section : story.sections) {
    out << "\n" << Styled(section.heading, Style::kBold, colour) << "\n";
    for (const Table& table : section.tables) out << table.Print(colour, 2);
    if (section.tables.empty()) out << "  " << section.nothing << "\n";
    for (const auto& [word, text] : section.facts) out << fmt::format("  {}: {}\n", word, text);
  }
}

void AddHistory(Session& session, const History& history, Story& story) {
  const size_t skipped = history.changes.size() > kHistoryChanges ? history.changes.size() - kHistoryChanges : 0;
  Table table({{"REVISION", Align::kRight}, {"AGO", Align::kRight}, {"EVENT"}, {"WHAT"}});
  Json changes = Json::array();
  const google::protobuf::Message* before = nullptr;
  for (size_t i = 0; i < history.changes.size(); ++i) {
    const Change& change = history.changes[i];
    const google::protobuf::Message& resource = *Inside(change.event.resource());
    if (i >= skipped) {
      const std::string type = EnumWord(*v1::EventType_descriptor(), change.event.type());
      const std::string what = Difference(before, resource);
      table.Add({std::to_string(change.revision),
                 FormatAge(CommonOf(resource).update_time, session.terminal().clock->Now()),
                 Cell(type, StyleOfState(type)), what});
      Json entry = Json::object();
      entry["revision"] = change.revision;
      entry["type"] = type;
      entry["what"] = what;
      changes.push_back(std::move(entry));
    }
    before = &resource;
  }
  StorySection section;
  section.heading = "Recent changes";
  section.nothing = fmt::format("none after revision {}", history.after);
  if (!table.empty()) section.tables.push_back(std::move(table));
  if (!history.complete) section.facts.emplace_back("note", "time ran out before its last change was reached");
  story.sections.push_back(std::move(section));
  story.document["changes"] = std::move(changes);
}

// The way on from where it stands, for what stands badly.
void AddHints(const google::protobuf::Message& resource, Story& story) {
  const CommonFields common = CommonOf(resource);
  if (common.state != "FAILED" && common.state != "DISCONNECTED" && common.state != "MISSING") return;
  Facts facts{{"resource", common.name}};
  DeriveFacts(facts);
  StorySection section;
  section.heading = "Try";
  for (const std::string& hint : HintsFor(ReasonFromName(common.reason.reason()), facts)) {
    if (hint.starts_with("viommuctl describe " + common.name)) continue;  // that is what was just done
    section.nothing += (section.nothing.empty() ? "" : "\n  ") + hint;
  }
  if (!section.nothing.empty()) story.sections.push_back(std::move(section));
}

absl::StatusOr<Story> Describe(Session& session, Kind kind, const std::string& name, bool with_history) {
  VIOMMU_ASSIGN_OR_RETURN(const Fetched fetched, FetchOne(session, kind, name));
  VIOMMU_ASSIGN_OR_RETURN(Story story, TellStory(session, kind, fetched));
  AddHints(*fetched.resource, story);
  if (with_history && kind != Kind::kSmmu) {
    // A server that cannot tell of the past can still tell of the present.
    const absl::StatusOr<History> history = ReadHistory(session, *fetched.resource);
    if (history.ok()) {
      AddHistory(session, *history, story);
    } else if (IsInterrupted(history.status())) {
      return history.status();
    } else {
      StorySection section;
      section.heading = "Recent changes";
      section.nothing = fmt::format("not to be read: {}", std::string(history.status().message()));
      story.sections.push_back(std::move(section));
    }
  }
  return story;
}

absl::StatusOr<ExitCode> Run(Session& session, const DescribeArguments& arguments) {
  VIOMMU_ASSIGN_OR_RETURN(const Choice choice, Choose(arguments.kind, arguments.names));
  if (choice.names.empty()) return UsageError("say which one; `get` shows all of a kind");
  bool first = true;
  Json items = Json::array();
  for (const std::string& name : choice.names) {
    VIOMMU_ASSIGN_OR_RETURN(const Story story, Describe(session, choice.kind, name, !arguments.no_history));
    if (session.settings().ForPrograms()) {
      items.push_back(story.document);
    } else if (session.settings().output == OutputFormat::kName) {
      *session.terminal().out << story.name << "\n";
    } else {
      if (!first) *session.terminal().out << "\n";
      PrintStory(session, story);
    }
    first = false;
  }
  // One document, as with `get`: of the one that is named, or a list.
  if (session.settings().ForPrograms()) {
    ShowDocument(session, items.size() == 1 ? items[0] : Json{{"items", std::move(items)}});
  }
  return ExitCode::kOk;
}

}  // namespace

void DeclareDescribe(Command& root) {
  const auto arguments = std::make_shared<DescribeArguments>();
  Values names;
  names.names_of_kind_before = true;
  root.Sub("describe", "Tell the story of one resource: whose it is, where it stands and why, what changed")
      .WithExample("describe viommu v1", "by kind and short name")
      .WithExample("describe hosts/a/devices/0000:01:00.0", "by full name")
      .WithExample("describe host a -o json", "with what belongs to it, for programs")
      .Positional("KIND", &arguments->kind, "the kind, or a full name", KindWords())
      .Positionals("NAME", &arguments->names, "full or short names", false, names)
      .Switch("--no-history", &arguments->no_history, "leave out the recent changes")
      .Runs([arguments](Session& session) { return Run(session, *arguments); });
}

}  // namespace viommu::cli
