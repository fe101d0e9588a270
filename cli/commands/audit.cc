#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/commands/commands.h"
#include "cli/names.h"
#include "cli/output/document.h"
#include "cli/output/style.h"
#include "cli/output/table.h"
#include "cli/session.h"
#include "cli/show.h"
#include "cli/text.h"
#include "common/timestamp.h"
#include "common/units.h"
#include "viommu/v1/operations_service.pb.h"

namespace viommu::cli {
namespace {

constexpr uint64_t kDefaultEntries = 100;
constexpr uint64_t kMaxEntries = 100'000;

struct AuditArguments {
  std::string resource;
  std::string caller;
  std::vector<std::string> methods;
  std::string request_id;
  bool refused = false;
  std::string since;
  std::string limit = std::to_string(kDefaultEntries);
};

absl::StatusOr<v1::ListAuditEntriesRequest> RequestOf(const AuditArguments& arguments, WallTime now) {
  v1::ListAuditEntriesRequest request;
  // Nothing has a short name in the record: it would be found nowhere, as if nothing had been done.
  if (!arguments.resource.empty() && !KindOfFullName(arguments.resource).has_value()) {
    return UsageError(
        fmt::format("--resource: \"{}\" is no full name; write it as viommus/v1 or hosts/a/devices/0000:01:00.0",
                    arguments.resource));
  }
  request.set_resource(arguments.resource);
  request.set_caller(arguments.caller);
  request.set_request_id(arguments.request_id);
  for (const std::string& piece : arguments.methods) {
    for (const std::string& method : Split(piece, ',')) request.add_methods(method);
  }
  if (arguments.refused) request.set_refused(true);
  if (!arguments.since.empty()) {
    const auto since = ParseDuration(arguments.since);
    if (!since.ok()) return UsageError(fmt::format("--since: {}", std::string(since.status().message())));
    *request.mutable_start_time() = ToTimestamp(now - *since);
  }
  return request;
}

void Print(Session& session, const Listing& listing) {
  const Terminal& terminal = session.terminal();
  const bool wide = session.settings().output == OutputFormat::kWide;
  std::vector<Column> columns = {{"TIME"}, {"CALLER"}, {"METHOD"}, {"TARGET"}, {"RESULT"}, {"REVISION", Align::kRight}};
  if (wide) columns.insert(columns.end(), {{"PEER"}, {"REQUEST-ID"}, {"MESSAGE"}, {"CHANGED"}});
  Table table(std::move(columns));
  for (const auto& item : listing.items) {
    const auto& entry = static_cast<const v1::AuditEntry&>(*item);
    const bool ok = entry.code() == "OK";
    Row row = {FormatTime(FromTimestamp(entry.time())),
               entry.caller(),
               entry.method(),
               entry.target(),
               Cell(ok                       ? "OK"
                    : entry.reason().empty() ? entry.code()
                                             : entry.reason(),
                    ok ? Style::kGood : Style::kBad),
               entry.revision() == 0 ? std::string() : std::to_string(entry.revision())};
    if (wide) {
      std::vector<std::string> changed;
      for (const auto& change : entry.changes()) changed.push_back(change.name());
      if (entry.more_changes() > 0) changed.push_back(fmt::format("{} more", entry.more_changes()));
      row.insert(row.end(), {entry.peer(), entry.request_id(), entry.message(), Join(changed, ", ")});
    }
    table.Add(std::move(row));
  }
  *terminal.out << table.Print(terminal.ColourOut());
}

absl::StatusOr<ExitCode> ShowAudit(Session& session, const AuditArguments& arguments) {
  VIOMMU_ASSIGN_OR_RETURN(const uint64_t limit, ParseNumber(arguments.limit, "--limit", kMaxEntries));
  if (limit == 0) return UsageError("--limit: at least 1");
  VIOMMU_ASSIGN_OR_RETURN(auto request, RequestOf(arguments, session.terminal().clock->Now()));
  VIOMMU_ASSIGN_OR_RETURN(const Listing listing, ListAll(session, request, limit));
  if (session.settings().ForPrograms()) {
    nlohmann::ordered_json document;
    document["items"] = nlohmann::ordered_json::array();
    for (const auto& item : listing.items) document["items"].push_back(ToJson(*item));
    document["revision"] = listing.revision;
    if (listing.truncated) document["truncated"] = true;
    ShowDocument(session, document);
  } else if (listing.items.empty()) {
    *session.terminal().err << "no entries found\n";
  } else {
    Print(session, listing);
  }
  if (listing.truncated) {
    *session.terminal().err << fmt::format("only the latest {} are shown; see more with --limit\n",
                                           listing.items.size());
  }
  return ExitCode::kOk;
}

}  // namespace

void DeclareAudit(Command& root) {
  const auto arguments = std::make_shared<AuditArguments>();
  root.Sub("audit", "Show who changed what, or tried to; latest first")
      .Details(
          "One entry for each call that would change something and was judged. What was refused may take a second to "
          "appear.\n"
          "With -o json or yaml each entry has the resources as they were before and after.")
      .WithExample("audit --resource viommus/v1", "what was done to a viommu and to what is in it")
      .WithExample("audit --refused --since 1h", "what was refused within the last hour")
      .WithExample("audit --method SetVdevId,UnsetVdevId -o wide", "assignments, with requests and what they changed")
      .Flag("--resource", &arguments->resource, "NAME", "only about this resource (a full name) and those below it")
      .Flag("--caller", &arguments->caller, "NAME", "only of this caller")
      .Flags("--method", &arguments->methods, "METHOD,...", "only of these methods")
      .Flag("--of-request", &arguments->request_id, "UUID", "only of the call with this request id")
      .Switch("--refused", &arguments->refused, "only what was refused")
      .Flag("--since", &arguments->since, "DURATION", "only from this long ago on")
      .Flag("--limit", &arguments->limit, "N", fmt::format("at most this many; {} unless given", kDefaultEntries))
      .Runs([arguments](Session& session) { return ShowAudit(session, *arguments); });
}

}  // namespace viommu::cli
