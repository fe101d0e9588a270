#include <fmt/format.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/commands/commands.h"
#include "cli/commands/invalidate.h"
#include "cli/fetch.h"
#include "cli/hints.h"
#include "cli/names.h"
#include "cli/output/document.h"
#include "cli/output/resources.h"
#include "cli/output/style.h"
#include "cli/output/table.h"
#include "cli/show.h"
#include "cli/text.h"
#include "common/timestamp.h"
#include "viommu/v1/local_service.pb.h"

namespace viommu::cli {
namespace {

using Json = nlohmann::ordered_json;

void PrintAgent(Session& session, const v1::GetAgentStatusResponse& agent) {
  std::ostream& out = *session.terminal().out;
  const bool colour = session.terminal().ColourOut();
  const auto line = [&out](const std::string& word, const std::string& text) {
    if (!text.empty()) out << fmt::format("{:<8}  {}\n", word, text);
  };
  const std::string state = EnumWord(*v1::SessionState_descriptor(), agent.session_state());
  std::string session_text = Styled(state, StyleOfState(state), colour) + " with " + agent.server();
  if (!agent.session_reason().message().empty()) session_text += ": " + agent.session_reason().message();
  line("host", agent.host());
  line("agent", fmt::format("version {}, id {}, up {}", agent.agent_version(), agent.agent_id(),
                            FormatAge(FromTimestamp(agent.start_time()), session.terminal().clock->Now())));
  line("boot", agent.boot_id());
  line("backend", agent.backend());
  line("session", session_text);
  line("cluster", agent.cluster_id().empty()
                      ? "none met yet"
                      : fmt::format("{}, epoch {}, revision {}", agent.cluster_id(), agent.epoch(), agent.revision()));
  std::vector<std::string> held;
  for (const auto& [outcome, count] : std::map<std::string, uint64_t>(agent.held().begin(), agent.held().end())) {
    held.push_back(fmt::format("{} {}", count, outcome));
  }
  line("holds", held.empty() ? "nothing" : Join(held, ", "));
  if (agent.smmus_size() > 0) {
    Table table({{"SMMU"},
                 {"VMIDS", Align::kRight},
                 {"COMMANDS", Align::kRight},
                 {"SYNCS", Align::kRight},
                 {"QUEUED", Align::kRight}});
    for (const v1::SmmuStatus& smmu : agent.smmus()) {
      table.Add({smmu.name(), std::to_string(smmu.vmids_used()), std::to_string(smmu.commands()),
                 std::to_string(smmu.syncs()), std::to_string(smmu.queue_depth())});
    }
    out << "\n" << table.Print(colour);
  }
  if (agent.vmms_size() > 0) {
    Table table({{"VM"},
                 {"VMM"},
                 {"PID", Align::kRight},
                 {"SINCE", Align::kRight},
                 {"MEMORY", Align::kRight},
                 {"RESTARTS", Align::kRight}});
    for (const v1::VmmStatus& vmm : agent.vmms()) {
      const std::string vmm_state = EnumWord(*v1::VmmState_descriptor(), vmm.state());
      table.Add({vmm.vm(), Cell(vmm_state, vmm.state() == v1::VMM_STATE_CONNECTED ? Style::kGood : Style::kBusy),
                 vmm.pid() == 0 ? "" : std::to_string(vmm.pid()),
                 FormatAge(FromTimestamp(vmm.since()), session.terminal().clock->Now()),
                 fmt::format("{} MiB", vmm.mapped_bytes() >> 20), std::to_string(vmm.restarts())});
    }
    out << "\n" << table.Print(colour);
  }
  Facts facts{{"host", agent.host()}};
  for (const std::string& hint : HintsFor(ReasonFromName(agent.session_reason().reason()), facts)) {
    *session.terminal().err << fmt::format("try: {}\n", hint);
  }
}

absl::StatusOr<ExitCode> LocalStatus(Session& session) {
  session.UseAgent();
  VIOMMU_ASSIGN_OR_RETURN(const auto agent, session.Call<v1::GetAgentStatusResponse>(v1::GetAgentStatusRequest()));
  if (session.settings().output == OutputFormat::kName) {
    *session.terminal().out << agent.host() << "\n";
  } else if (session.settings().ForPrograms()) {
    ShowDocument(session, ToJson(agent));
  } else {
    PrintAgent(session, agent);
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> LocalObjects(Session& session, const std::string& limit_text) {
  VIOMMU_ASSIGN_OR_RETURN(const uint64_t limit, ParseNumber(limit_text, "--limit", kMaxLimit));
  session.UseAgent();
  v1::ListHeldObjectsRequest request;
  VIOMMU_ASSIGN_OR_RETURN(const Listing listing, ListAll(session, request, limit));
  Table table({{"NAME"}, {"OUTCOME"}, {"GENERATION", Align::kRight}, {"KERNEL-IDS"}, {"REASON"}});
  Json items = Json::array();
  for (const auto& item : listing.items) {
    const auto& object = static_cast<const v1::HeldObject&>(*item);
    const google::protobuf::Message* resource = Inside(object.resource());
    if (resource == nullptr) continue;
    const CommonFields common = CommonOf(*resource);
    if (session.settings().output == OutputFormat::kName) *session.terminal().out << common.name << "\n";
    if (session.settings().ForPrograms()) items.push_back(ToJson(object));
    std::vector<std::string> ids;
    for (const auto& [kind, id] :
         std::map<std::string, uint32_t>(object.kernel_ids().begin(), object.kernel_ids().end())) {
      ids.push_back(fmt::format("{}={}", kind, id));
    }
    const std::string outcome = EnumWord(*v1::HeldObject::Outcome_descriptor(), object.outcome());
    table.Add({common.name, Cell(outcome, StyleOfState(outcome)), std::to_string(common.generation), Join(ids, ","),
               std::string(Trim(object.reason().reason() + " " + object.reason().message()))});
  }
  if (session.settings().ForPrograms()) {
    Json document = Json::object();
    document["items"] = std::move(items);
    if (listing.truncated) document["truncated"] = true;
    ShowDocument(session, document);
  } else if (session.settings().output != OutputFormat::kName) {
    if (table.empty()) {
      *session.terminal().err << "the agent holds nothing\n";
    } else {
      *session.terminal().out << table.Print(session.terminal().ColourOut());
    }
  }
  if (listing.truncated) {
    *session.terminal().err << fmt::format("only the first {} are shown; see more with --limit\n", limit);
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> LocalInvalidate(Session& session, const InvalidateArguments& arguments) {
  v1::LocalInvalidateRequest request;
  VIOMMU_ASSIGN_OR_RETURN(*request.mutable_target(), InvalidationTarget(arguments.target));
  VIOMMU_ASSIGN_OR_RETURN(const auto commands, ParseSpecs(arguments.specs));
  request.mutable_commands()->Assign(commands.begin(), commands.end());
  session.UseAgent();
  v1::LocalInvalidateResponse response;
  VIOMMU_RETURN_IF_ERROR(session.CallInto(request, response, "waiting for the SMMU to complete"));
  return ShowInvalidation(session, request.target(), commands, response.result());
}

struct EventsArguments {
  std::string viommu;
  std::string after = "0";
};

absl::StatusOr<ExitCode> LocalEvents(Session& session, const EventsArguments& arguments) {
  v1::ListGuestEventsRequest request;
  VIOMMU_ASSIGN_OR_RETURN(*request.mutable_viommu(), FullName(Kind::kViommu, arguments.viommu));
  VIOMMU_ASSIGN_OR_RETURN(const uint64_t after, ParseNumber(arguments.after, "--after"));
  request.set_after(after);
  session.UseAgent();
  VIOMMU_ASSIGN_OR_RETURN(const auto response, session.Call<v1::ListGuestEventsResponse>(request));
  std::ostream& out = *session.terminal().out;
  if (session.settings().ForPrograms()) {
    ShowDocument(session, ToJson(response));
    return ExitCode::kOk;
  }
  const WallTime now = session.terminal().clock->Now();
  Table table(
      {{"NUMBER", Align::kRight}, {"AGE", Align::kRight}, {"EVENT"}, {"VDEV-ID"}, {"SSID"}, {"ADDRESS"}, {"RECORD"}});
  for (const v1::GuestEvent& event : response.events()) {
    if (session.settings().output == OutputFormat::kName) out << event.number() << "\n";
    table.Add({std::to_string(event.number()), FormatAge(FromTimestamp(event.read_time()), now), event.event(),
               fmt::format("{:#x}", event.vdev_id()), event.has_ssid() ? fmt::format("{:#x}", event.ssid()) : "",
               event.has_address() ? fmt::format("{:#x}", event.address()) : "", event.text()});
  }
  if (session.settings().output == OutputFormat::kName) return ExitCode::kOk;
  if (!table.empty()) out << table.Print(session.terminal().ColourOut());
  *session.terminal().err << fmt::format("{} events in {}, {} of them lost\n", response.count(),
                                         FormatAge(FromTimestamp(response.queue_time()), now), response.lost());
  return ExitCode::kOk;
}

}  // namespace

void DeclareLocal(Command& root) {
  Command& local = root.Sub("local", "Talk to the agent of this host, through its unix socket (--socket)");
  local.Sub("status", "Tell how the agent is: its session, what it holds, its SMMUs")
      .WithExample("local status", "on the host itself")
      .Runs(LocalStatus);
  const auto limit = std::make_shared<std::string>(std::to_string(kDefaultLimit));
  local.Sub("objects", "List what the agent holds, recorded and real side by side")
      .WithExample("local objects", "with the kernel's ids of this boot")
      .Flag("--limit", limit.get(), "N", fmt::format("at most this many; {} unless given", kDefaultLimit))
      .Runs([limit](Session& session) { return LocalObjects(session, *limit); });
  const auto events = std::make_shared<EventsArguments>();
  local.Sub("events", "List what the SMMU has recorded for the guest of a viommu of this host: faults of its devices")
      .WithExample("local events v1", "the last ones, oldest first")
      .Positional("VIOMMU", &events->viommu, "which one", {.names_of = Kind::kViommu})
      .Flag("--after", &events->after, "NUMBER", "only those behind this one")
      .Runs([events](Session& session) { return LocalEvents(session, *events); });
  const auto arguments = std::make_shared<InvalidateArguments>();
  Command& invalidate = local.Sub("invalidate", "Carry out invalidations for a viommu of this host, without the server")
                            .WithExample("local invalidate v1 tlbi-nh-asid:asid=5", "one address space");
  DeclareInvalidateArguments(invalidate, arguments.get());
  invalidate.Runs([arguments](Session& session) { return LocalInvalidate(session, *arguments); });
}

}  // namespace viommu::cli
