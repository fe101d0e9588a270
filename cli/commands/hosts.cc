// What is done to whole hosts: drain, evict, forget.

#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/commands/ask.h"
#include "cli/commands/commands.h"
#include "cli/output/document.h"
#include "cli/output/resources.h"
#include "cli/output/table.h"
#include "cli/session.h"
#include "cli/show.h"
#include "cli/text.h"
#include "common/timestamp.h"
#include "common/units.h"
#include "viommu/v1/operations_service.pb.h"

namespace viommu::cli {
namespace {

// Entries of what is left that are asked for: what a screen holds.
constexpr int kShownRemaining = 10;

struct DrainArguments {
  std::string host;
  std::string within;
  bool evict = false;
  bool abort = false;
  bool uncordon = false;
  bool resume = false;
  bool no_follow = false;
};

struct ForgetArguments {
  std::string host;
  bool declare_dead = false;
};

// Prints each state of a drain as it comes: a line, and the table of what is left when that is new.
class DrainPrinter {
 public:
  explicit DrainPrinter(Session& session) : session_(session), out_(*session.terminal().out) {}

  void Print(const v1::DrainProgress& progress) {
    if (session_.settings().ForPrograms()) {
      const nlohmann::ordered_json document = ToJson(progress);
      if (session_.settings().output == OutputFormat::kYaml) {
        out_ << "---\n" << PrintYaml(document);
      } else {
        out_ << PrintJsonLine(document);
      }
      out_.flush();
      return;
    }
    const std::string at = FormatTime(session_.terminal().clock->Now());
    if (progress.empty()) {
      out_ << fmt::format("{}  empty: nothing is left\n", at);
    } else {
      out_ << fmt::format("{}  left: {} VMs, {} stage-2 domains, {} viommus ({} on their way out), {} vdevices{}\n", at,
                          progress.vms(), progress.stage2_domains(), progress.viommus(), progress.deleting(),
                          progress.vdevices(), Deadline(progress.drain()));
      PrintRemaining(progress);
    }
    out_.flush();
  }

 private:
  std::string Deadline(const v1::Drain& drain) const {
    if (drain.has_evict_time()) return "; evicted";
    if (!drain.has_deadline()) return "";
    const auto left = FromTimestamp(drain.deadline()) - session_.terminal().clock->Now();
    if (left <= std::chrono::nanoseconds(0)) return "; past the deadline";
    return fmt::format("; deadline in {}", FormatDuration(std::chrono::duration_cast<std::chrono::seconds>(left)));
  }

  void PrintRemaining(const v1::DrainProgress& progress) {
    Table table({{"NAME"}, {"VM"}, {"STATE"}, {"WHY"}});
    for (const v1::Remaining& each : progress.remaining()) {
      const std::string state = EnumWord(*v1::State_descriptor(), each.state());
      table.Add({each.name(), each.vm(), Cell(state, StyleOfState(state)), each.why()});
    }
    std::string text = table.Print(session_.terminal().ColourOut(), 2);
    if (text == last_) return;
    out_ << text;
    last_ = std::move(text);
  }

  Session& session_;
  std::ostream& out_;
  std::string last_;
};

absl::StatusOr<ExitCode> Follow(Session& session, const std::string& host) {
  v1::WatchDrainRequest request;
  request.set_name(host);
  request.set_max_remaining(kShownRemaining);
  v1::WatchDrainResponse response;
  DrainPrinter printer(session);
  VIOMMU_ASSIGN_OR_RETURN(Client* const client, session.Connect());
  const absl::Status status = client->Stream(
      request, response,
      [&] {
        printer.Print(response.progress());
        return true;
      },
      std::chrono::milliseconds(0));
  if (!status.ok()) {
    if (session.terminal().interrupted->load()) {
      *session.terminal().err << fmt::format(
          "the drain of {0} goes on; viommuctl drain {0} --resume follows it, "
          "--abort ends it\n",
          ShortName(host));
    }
    return status;
  }
  if (response.progress().empty()) return ExitCode::kOk;
  *session.terminal().err << fmt::format(
      "no drain of {0} is under way, and it is not empty; viommuctl drain {0} begins one\n", ShortName(host));
  return ExitCode::kNotYet;
}

// Longer than a call may wait: the deadline is in the record.
absl::StatusOr<std::chrono::seconds> ParseWithin(const std::string& text) {
  constexpr std::chrono::hours kLongest{24 * 30};
  const absl::StatusOr<std::chrono::nanoseconds> parsed = ParseDuration(text);
  if (!parsed.ok() || *parsed < std::chrono::seconds(1) || *parsed >= kLongest) {
    return UsageError(fmt::format("--within: \"{}\" is no time for a drain; write it as 30m, 2h or 120h (below {}h)",
                                  text, kLongest.count()));
  }
  return std::chrono::duration_cast<std::chrono::seconds>(*parsed);
}

absl::StatusOr<ExitCode> Drain(Session& session, const DrainArguments& arguments) {
  VIOMMU_ASSIGN_OR_RETURN(const std::string host, FullName(Kind::kHost, arguments.host));
  if (arguments.abort && (arguments.resume || arguments.evict || !arguments.within.empty())) {
    return UsageError("--abort ends the drain: --resume, --evict and --within have no meaning with it");
  }
  if (arguments.uncordon && !arguments.abort) return UsageError("--uncordon goes with --abort");
  if (arguments.resume && (arguments.evict || arguments.no_follow || !arguments.within.empty())) {
    return UsageError("--resume follows the drain that there is and changes nothing");
  }
  if (arguments.abort) {
    v1::AbortDrainRequest request;
    request.set_name(host);
    request.set_uncordon(arguments.uncordon);
    VIOMMU_ASSIGN_OR_RETURN(const auto response, session.Change<v1::AbortDrainResponse>(request, ""));
    return ShowChange(session, Kind::kHost, {&response.host()},
                      response.host().cordoned() ? "no longer drained, still cordoned" : "no longer drained",
                      response.revision());
  }
  if (arguments.resume) return Follow(session, host);
  v1::DrainHostRequest request;
  request.set_name(host);
  request.set_evict(arguments.evict);
  if (!arguments.within.empty()) {
    VIOMMU_ASSIGN_OR_RETURN(const auto within, ParseWithin(arguments.within));
    request.mutable_timeout()->set_seconds(within.count());
  }
  if (arguments.evict) {
    VIOMMU_RETURN_IF_ERROR(
        AskFirst(session, "drain --evict",
                 fmt::format("Delete what is left on {} after {}? VMs that still run lose their devices.", host,
                             arguments.within.empty() ? "no time" : arguments.within),
                 "changed"));
  }
  VIOMMU_ASSIGN_OR_RETURN(const auto response, session.Change<v1::DrainHostResponse>(request, ""));
  if (arguments.no_follow || session.settings().dry_run) {
    return ShowChange(session, Kind::kHost, {&response.host()}, "draining", response.revision());
  }
  return Follow(session, host);
}

absl::StatusOr<ExitCode> Evict(Session& session, const std::string& argument) {
  v1::EvictHostRequest request;
  VIOMMU_ASSIGN_OR_RETURN(*request.mutable_name(), FullName(Kind::kHost, argument));
  VIOMMU_RETURN_IF_ERROR(AskFirst(
      session, "evict",
      fmt::format("Delete everything on {}? VMs that still run there lose their devices.", request.name()), "deleted"));
  VIOMMU_ASSIGN_OR_RETURN(const auto response, session.Change<v1::EvictHostResponse>(request, ""));
  return ShowChange(session, Kind::kHost, {&response.host()},
                    fmt::format("evicted ({} resources on their way out)", response.deleted()), response.revision());
}

absl::StatusOr<ExitCode> Forget(Session& session, const ForgetArguments& arguments) {
  v1::ForgetHostRequest request;
  VIOMMU_ASSIGN_OR_RETURN(*request.mutable_name(), FullName(Kind::kHost, arguments.host));
  request.set_declare_dead(arguments.declare_dead);
  if (!session.settings().yes && !session.settings().dry_run) {
    // What it would do, before anybody is asked.
    v1::ForgetHostRequest trial = request;
    trial.set_validate_only(true);
    VIOMMU_ASSIGN_OR_RETURN(const auto would, session.Call<v1::ForgetHostResponse>(trial));
    std::string question = fmt::format("Forget {}", request.name());
    if (would.stage2_domains() > 0) {
      question += fmt::format(
          " with {} stage-2 domains, {} viommus and {} vdevices of {} VMs? If one of these VMs still runs, its devices "
          "still access its memory, and nobody knows of them any more. Should the host come back, its agent tears all "
          "of it down. Declare it dead",
          would.stage2_domains(), would.viommus(), would.vdevices(), would.vms());
    }
    VIOMMU_RETURN_IF_ERROR(AskFirst(session, "forget", question + "?", "forgotten"));
  }
  VIOMMU_ASSIGN_OR_RETURN(const auto response, session.Change<v1::ForgetHostResponse>(request, ""));
  return ShowChange(session, Kind::kHost, {&response.host()},
                    response.stage2_domains() == 0
                        ? std::string("forgotten")
                        : fmt::format("forgotten, with {} viommus and {} vdevices of {} VMs", response.viommus(),
                                      response.vdevices(), response.vms()),
                    response.revision());
}

}  // namespace

void DeclareHosts(Command& root) {
  const auto drain = std::make_shared<DrainArguments>();
  root.Sub("drain", "Empty a host: cordon it, and follow what is left until nothing is")
      .Changes(/*waits=*/false)
      .Details(
          "VMs leave by themselves: move or end them, and delete what they had. With --evict what is left at the "
          "deadline is deleted.\n"
          "Ctrl-C ends the following, not the drain. Exits with 0 when the host is empty, with 5 when no drain is "
          "under way (any more).")
      .WithExample("drain a --within 2h", "until then it is expected to be empty")
      .WithExample("drain a --within 30m --evict --yes", "and then it is")
      .WithExample("drain a --resume", "follow the drain that there is")
      .WithExample("drain a --abort --uncordon", "think better of it")
      .Positional("HOST", &drain->host, "the host", {.names_of = Kind::kHost})
      .Flag("--within", &drain->within, "DURATION", "the deadline, from now (30m, 2h); without it there is none")
      .Switch("--evict", &drain->evict, "delete what is left at the deadline")
      .Switch("--resume", &drain->resume, "follow the drain that there is; change nothing")
      .Switch("--abort", &drain->abort, "end the drain; what was deleted stays so")
      .Switch("--uncordon", &drain->uncordon, "with --abort: let the host take assignments again")
      .Switch("--no-follow", &drain->no_follow, "return when the drain is recorded")
      .Runs([drain](Session& session) { return Drain(session, *drain); });

  const auto evict = std::make_shared<std::string>();
  root.Sub("evict", "Delete everything on a host, and cordon it")
      .Changes(/*waits=*/false)
      .Details(
          "What is deleted stays held until the host has confirmed: when it is lost, until it is back, or is forgotten "
          "with --declare-dead.")
      .WithExample("evict a", "asks first")
      .Positional("HOST", evict.get(), "the host", {.names_of = Kind::kHost})
      .Runs([evict](Session& session) { return Evict(session, *evict); });

  const auto forget = std::make_shared<ForgetArguments>();
  root.Sub("forget", "Take a host that is gone out of the record")
      .Changes(/*waits=*/false)
      .Details(
          "Only while its agent is not connected. With something on it, only with --declare-dead: you vouch that "
          "nothing runs there any more.\n"
          "Its viommus and vdevices then go at once, without the host's word. Says what would go, and asks.")
      .WithExample("forget a", "a host that was emptied and is no more")
      .WithExample("forget a --declare-dead", "a host that burned down with its VMs")
      .Positional("HOST", &forget->host, "the host", {.names_of = Kind::kHost})
      .Switch("--declare-dead", &forget->declare_dead, "take what is recorded on it along")
      .Runs([forget](Session& session) { return Forget(session, *forget); });
}

}  // namespace viommu::cli
