#include <fmt/format.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/commands/commands.h"
#include "cli/fetch.h"
#include "cli/output/document.h"
#include "cli/output/resources.h"
#include "cli/output/style.h"
#include "cli/show.h"
#include "cli/text.h"
#include "common/timestamp.h"

namespace viommu::cli {
namespace {

using Json = nlohmann::ordered_json;

// Share of an SMMU's VMIDs from which it is named as nearly full, in percent.
constexpr uint64_t kNearlyFullPercent = 90;

struct FleetSummary {
  size_t hosts = 0;
  size_t connected = 0;
  size_t cordoned = 0;
  size_t smmus = 0;
  v1::Budget devices;
  std::vector<std::string> disconnected;  // names of hosts
  std::vector<std::string> nearly_full;   // names of SMMUs
  bool truncated = false;
};

FleetSummary Summarize(const Listing& hosts) {
  FleetSummary fleet;
  fleet.truncated = hosts.truncated;
  for (const auto& item : hosts.items) {
    const auto& host = static_cast<const v1::Host&>(*item);
    ++fleet.hosts;
    if (host.state() == v1::HOST_STATE_CONNECTED) {
      ++fleet.connected;
    } else {
      fleet.disconnected.push_back(ShortName(host.name()));
    }
    if (host.cordoned()) ++fleet.cordoned;
    for (const v1::Smmu& smmu : host.smmus()) {
      ++fleet.smmus;
      fleet.devices.set_used(fleet.devices.used() + smmu.devices().used());
      fleet.devices.set_total(fleet.devices.total() + smmu.devices().total());
      if (smmu.vmids().total() > 0 && smmu.vmids().used() * 100 >= smmu.vmids().total() * kNearlyFullPercent) {
        fleet.nearly_full.push_back(
            fmt::format("{} ({} of {})", ShortName(smmu.name()), smmu.vmids().used(), smmu.vmids().total()));
      }
    }
  }
  return fleet;
}

// Some names, and how many more.
std::string SomeOf(const std::vector<std::string>& names) {
  constexpr size_t kSome = 5;
  std::vector<std::string> some(names.begin(), names.begin() + static_cast<ptrdiff_t>(std::min(kSome, names.size())));
  return Join(some, ", ") + (names.size() > kSome ? fmt::format(" and {} more", names.size() - kSome) : "");
}

void Print(Session& session, const v1::GetServerStatusResponse& server, const FleetSummary& fleet) {
  std::ostream& out = *session.terminal().out;
  const bool colour = session.terminal().ColourOut();
  const auto line = [&out](const std::string& word, const std::string& text) {
    out << fmt::format("{:<10}  {}\n", word, text);
  };
  const WallTime now = session.terminal().clock->Now();
  line("server", fmt::format("{}, version {}, up {}", session.settings().server, server.version(),
                             FormatAge(FromTimestamp(server.start_time()), now)));
  line("cluster", server.cluster_id());
  line("store",
       fmt::format("{}; incarnation {}, epoch {}, revision {} (history after {})",
                   server.writable() ? Styled("takes writes", Style::kGood, colour)
                                     : Styled("takes NO writes: " + server.writable_reason(), Style::kBad, colour),
                   server.store_incarnation(), server.epoch(), server.revision(), server.oldest_revision()));
  const std::string away =
      fleet.disconnected.empty()
          ? ""
          : "; " + Styled(fmt::format("{} away: {}", fleet.disconnected.size(), SomeOf(fleet.disconnected)),
                          Style::kBad, colour);
  line("hosts", fmt::format("{} of {} connected{}{}", fleet.connected, fleet.hosts,
                            fleet.cordoned == 0 ? "" : fmt::format(", {} cordoned", fleet.cordoned), away));
  line("smmus",
       fmt::format("{}{}", fleet.smmus,
                   fleet.nearly_full.empty()
                       ? ""
                       : "; " + Styled("VMIDs nearly used up: " + SomeOf(fleet.nearly_full), Style::kBusy, colour)));
  line("devices", fmt::format("{} of {} assigned", fleet.devices.used(), fleet.devices.total()));
  const std::map<std::string, int64_t> resources(server.resources().begin(), server.resources().end());
  std::vector<std::string> counts;
  for (const auto& [kind, count] : resources) counts.push_back(fmt::format("{} {}", count, kind));
  line("recorded", counts.empty() ? "nothing" : Join(counts, ", "));
  if (fleet.truncated) *session.terminal().err << fmt::format("only the first {} hosts are counted\n", fleet.hosts);
}

absl::StatusOr<ExitCode> Status(Session& session) {
  VIOMMU_ASSIGN_OR_RETURN(const auto server, session.Call<v1::GetServerStatusResponse>(v1::GetServerStatusRequest()));
  VIOMMU_ASSIGN_OR_RETURN(const Listing hosts, FetchList(session, Kind::kHost, Filters()));
  const FleetSummary fleet = Summarize(hosts);
  if (session.settings().output == OutputFormat::kName) {
    *session.terminal().out << server.cluster_id() << "\n";
  } else if (session.settings().ForPrograms()) {
    Json document = Json::object();
    document["server"] = ToJson(server);
    document["fleet"] = {{"hosts", fleet.hosts},
                         {"connectedHosts", fleet.connected},
                         {"cordonedHosts", fleet.cordoned},
                         {"disconnectedHosts", fleet.disconnected},
                         {"smmus", fleet.smmus},
                         {"smmusNearlyFull", fleet.nearly_full},
                         {"devicesAssigned", fleet.devices.used()},
                         {"devices", fleet.devices.total()}};
    ShowDocument(session, document);
  } else {
    Print(session, server, fleet);
  }
  return ExitCode::kOk;
}

}  // namespace

void DeclareStatus(Command& root) {
  root.Sub("status", "Tell how the server is, and the fleet in numbers")
      .WithExample("status", "a look at everything")
      .WithExample("status -o json", "for programs")
      .Runs(Status);
}

}  // namespace viommu::cli
