#include <fmt/format.h>

#include <memory>

#include "cli/commands/choose.h"
#include "cli/commands/commands.h"
#include "cli/fetch.h"
#include "cli/show.h"
#include "cli/text.h"

namespace viommu::cli {
namespace {

struct GetArguments {
  std::string kind;
  std::vector<std::string> names;
  Filters filters;
  std::string limit = std::to_string(kDefaultLimit);
};

absl::StatusOr<ExitCode> Get(Session& session, const GetArguments& arguments) {
  VIOMMU_ASSIGN_OR_RETURN(const Choice choice, Choose(arguments.kind, arguments.names));
  VIOMMU_ASSIGN_OR_RETURN(const uint64_t limit, ParseNumber(arguments.limit, "--limit", kMaxLimit));
  if (limit == 0) return UsageError("--limit: at least 1");
  if (choice.names.empty()) {
    VIOMMU_ASSIGN_OR_RETURN(const Listing listing, FetchList(session, choice.kind, arguments.filters, limit));
    ShowList(session, choice.kind, listing);
    return ExitCode::kOk;
  }
  if (!arguments.filters.fields.empty() || !arguments.filters.labels.empty()) {
    return UsageError("--field and -l choose from a list; a resource that is named needs none");
  }
  Listing named;
  for (const std::string& name : choice.names) {
    VIOMMU_ASSIGN_OR_RETURN(Fetched fetched, FetchOne(session, choice.kind, name));
    if (named.items.empty()) named.revision = fetched.revision;
    named.items.push_back(std::move(fetched.resource));
  }
  if (named.items.size() == 1) {
    ShowOne(session, choice.kind, *named.items[0]);
  } else {
    ShowList(session, choice.kind, named);
  }
  return ExitCode::kOk;
}

std::string FilterHelp() {
  std::string text = "What --field can choose by:";
  for (const KindInfo& info : AllKinds()) {
    const std::vector<std::string> keys = FilterKeysOf(info.kind);
    if (!keys.empty()) text += fmt::format("\n  {:<14} {}", info.plural, Join(keys, ", "));
  }
  text += "\n\nOther words for the kinds:";
  for (const KindInfo& info : AllKinds()) {
    text += fmt::format("\n  {:<14} {}, {}", info.plural, info.singular, fmt::join(info.aliases, ", "));
  }
  return text;
}

}  // namespace

void DeclareGet(Command& root) {
  const auto arguments = std::make_shared<GetArguments>();
  Values names;
  names.names_of_kind_before = true;
  root.Sub("get", "Show resources: a list, or the ones that are named")
      .Details(FilterHelp())
      .WithExample("get hosts", "all hosts")
      .WithExample("get devices --field host=a,free=true", "devices of host a that can be assigned now")
      .WithExample("get vdevices --field vm=web-1 -o wide", "what a VM has, with generations and reasons")
      .WithExample("get viommu v1 -o json", "one resource, for programs")
      .WithExample("get hosts/a/devices/0000:01:00.0", "a full name tells its kind")
      .Positional("KIND", &arguments->kind, "what to show, or a full name", KindWords())
      .Positionals("NAME", &arguments->names, "full or short names; none: all", false, names)
      .Flags("--field", &arguments->filters.fields, "KEY=VALUE,...", "only those of which all of this holds")
      .Flags("-l,--label", &arguments->filters.labels, "KEY=VALUE,...", "only those with all of these labels")
      .Flag("--limit", &arguments->limit, "N", fmt::format("at most this many; {} unless given", kDefaultLimit))
      .Runs([arguments](Session& session) { return Get(session, *arguments); });
}

}  // namespace viommu::cli
