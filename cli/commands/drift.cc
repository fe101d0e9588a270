// Drift: what is recorded, what a host's agent believes, what its backend holds, where they differ.

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/commands/ask.h"
#include "cli/commands/commands.h"
#include "cli/output/document.h"
#include "cli/output/table.h"
#include "cli/session.h"
#include "cli/show.h"
#include "cli/text.h"
#include "viommu/v1/operations_service.pb.h"

namespace viommu::cli {
namespace {

constexpr int kPageSize = 500;

struct DriftArguments {
  std::string host;
  bool repair = false;
  bool all = false;
};

// All pages in one.
absl::StatusOr<v1::GetDriftResponse> Fetch(Session& session, const std::string& host, bool repair) {
  v1::GetDriftRequest request;
  request.set_host(host);
  request.set_repair(repair);
  request.set_page_size(kPageSize);
  v1::GetDriftResponse whole;
  while (true) {
    VIOMMU_ASSIGN_OR_RETURN(auto page, session.Call<v1::GetDriftResponse>(request));
    const int64_t compared = whole.compared() + page.compared();
    const std::string next = page.next_page_token();
    page.clear_next_page_token();
    whole.MergeFrom(page);
    whole.set_compared(compared);
    if (next.empty()) return whole;
    request.set_page_token(next);
  }
}

void Print(Session& session, const v1::GetDriftResponse& response, bool all) {
  std::ostream& out = *session.terminal().out;
  const bool colour = session.terminal().ColourOut();
  Table table({{"NAME"}, {"FIELD"}, {"RECORDED"}, {"BELIEVED"}, {"ACTUAL"}, {"EXPECTED"}});
  const auto cell = [](const std::string& text) { return text.empty() ? std::string("-") : text; };
  for (const v1::Drift& drift : response.drifts()) {
    if (drift.expected() && !all) continue;
    std::string name = drift.name();
    for (const v1::DriftField& field : drift.fields()) {
      table.Add({name, field.field(), cell(field.recorded()), cell(field.believed()), cell(field.actual()),
                 Cell(drift.expected() ? "yes" : "no", drift.expected() ? Style::kPlain : Style::kBad)});
      name.clear();
    }
  }
  if (!table.empty()) out << table.Print(colour);
  for (const std::string& stray : response.strays()) {
    out << fmt::format("{}: {}\n", Styled("stray", Style::kBad, colour), stray);
  }
}

absl::StatusOr<ExitCode> Drift(Session& session, const DriftArguments& arguments) {
  VIOMMU_ASSIGN_OR_RETURN(const std::string host, FullName(Kind::kHost, arguments.host));
  const bool repair = arguments.repair && !session.settings().dry_run;
  if (repair) {
    const absl::Status asked = AskFirst(
        session, "drift --repair",
        fmt::format(
            "Have {} make anew what is missing or different, and end what is nobody's? What its agent's journal has "
            "otherwise gets another generation.",
            ShortName(host)),
        "changed");
    if (!asked.ok()) return asked;
  }
  VIOMMU_ASSIGN_OR_RETURN(const auto response, Fetch(session, host, repair));
  int unexpected = 0, expected = 0;
  for (const v1::Drift& drift : response.drifts()) ++(drift.expected() ? expected : unexpected);
  const bool clean = unexpected == 0 && response.strays().empty();
  const ExitCode code = clean || repair ? ExitCode::kOk : ExitCode::kRefused;
  if (session.settings().ForPrograms()) {
    ShowDocument(session, ToJson(response));
    return code;
  }
  Print(session, response, arguments.all);
  std::ostream& err = *session.terminal().err;
  err << fmt::format("{} resources compared at revision {}: {} differ, {} more as expected, {} strays\n",
                     response.compared(), response.revision(), unexpected, expected, response.strays_size());
  if (!response.backend_can_tell()) {
    err << "the host's backend cannot list its objects: only the record and the agent's journal were compared\n";
  }
  if (repair) {
    err << fmt::format("being mended; `viommuctl drift {}` shows what is left\n", ShortName(host));
  }
  return code;
}

}  // namespace

void DeclareDrift(Command& root) {
  const auto drift = std::make_shared<DriftArguments>();
  root.Sub("drift", "What is recorded, what a host's agent believes and what its backend holds, where they differ")
      .Details(
          "Drift that explains itself (a change is under way, or has failed with a reason that is recorded) is left "
          "out "
          "without --all.\n"
          "Strays are objects of the backend that belong to nothing. Exits with 1 when anything is left to explain.\n"
          "--repair has the agent forget what is missing, take over what is different as it is, and go on from there: "
          "it makes\n"
          "everything as recorded, tries what has failed at once, and ends strays. What the agent's journal has "
          "otherwise than\n"
          "recorded gets another generation, for an agent takes the same one for a repetition. It asks first.")
      .ChangesHost()
      .WithExample("drift a", "does host a hold what is recorded for it?")
      .WithExample("drift a --repair --yes", "make it so")
      .Positional("HOST", &drift->host, "the host; its agent must be connected", {.names_of = Kind::kHost})
      .Switch("--repair", &drift->repair, "mend what is found")
      .Switch("--all", &drift->all, "also the drift that explains itself")
      .Runs([drift](Session& session) { return Drift(session, *drift); });
}

}  // namespace viommu::cli
