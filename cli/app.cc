#include "cli/app.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/commands/commands.h"
#include "cli/complete.h"
#include "cli/failure.h"
#include "cli/fetch.h"
#include "cli/help.h"
#include "cli/output/document.h"
#include "cli/output/resources.h"
#include "cli/parse.h"
#include "cli/session.h"
#include "cli/settings.h"
#include "cli/text.h"

namespace viommu::cli {
namespace {

constexpr char kCompleteWord[] = "__complete";
constexpr char kConnectionGroup[] = "Flags of the connection";
constexpr char kOutputGroup[] = "Flags of the output";

// Completion answers while somebody is typing: it gives up early and reads little.
constexpr std::chrono::milliseconds kCompletionTimeout{1000};
constexpr size_t kCompletionNames = 500;

// Where the values of the root's flags go. Nobody reads them there: ParseCommandLine() answers which ones were given.
struct RootTargets {
  std::string text;
  bool flag = false;
};

void DeclareRootFlags(Command& root) {
  static auto& targets = *new RootTargets();
  std::string* text = &targets.text;
  bool* flag = &targets.flag;
  root.Flag("-s,--server", text, "ADDRESS", fmt::format("HOST:PORT or unix:PATH; {} unless given", kDefaultServer), {},
            kConnectionGroup)
      .Flag("--context", text, "NAME", "the context to use in place of the current one", {}, kConnectionGroup)
      .Flag("--config", text, "PATH", "the file of contexts", {.files = true}, kConnectionGroup)
      .Flag("--timeout", text, "DURATION",
            fmt::format("deadline of each call, with all its tries; {} unless given", kDefaultTimeout), {},
            kConnectionGroup)
      .Flag("--tls-ca", text, "PATH", "certificates of who may have issued the server's; switches TLS on",
            {.files = true}, kConnectionGroup)
      .Flag("--tls-cert", text, "PATH", "own certificate, for servers that ask for one", {.files = true},
            kConnectionGroup)
      .Flag("--tls-key", text, "PATH", "its private key", {.files = true}, kConnectionGroup)
      .Switch("--insecure", flag, "plain text even to a server that is not on this machine", kConnectionGroup)
      .Flag("--socket", text, "PATH",
            fmt::format("the agent's unix socket, for `local`; {} unless given", kDefaultSocket), {.files = true},
            kConnectionGroup)
      .Flag("-o,--output", text, "FORMAT", "format of the output",
            {.words = {"table", "wide", "json", "yaml", "name"}, .only_words = true}, kOutputGroup)
      .Flag("--wait", text, "WHEN", "answer when it is recorded, or when the host has answered, too",
            {.words = {"accepted", "applied"}, .only_words = true}, kChangeGroup)
      .Switch("--dry-run", flag, "only ask the server whether it would; change nothing", kChangeGroup)
      .Switch("-y,--yes", flag, "do not ask", kChangeGroup)
      .Flag("--request-id", text, "UUID", "repeat a change safely: the same id is carried out once", {}, kChangeGroup)
      .Flag("--etag", text, "ETAG", "refuse unless this is the resource's current etag", {}, kChangeGroup);
}

absl::Status CheckChangeFlags(const Command& root, const Parsed& parsed) {
  if (parsed.command->Path().starts_with("config")) return absl::OkStatus();
  for (const Argument& argument : root.arguments()) {
    if (parsed.command->Takes(argument) || !parsed.global_flags.contains(argument.LongName().substr(2))) continue;
    const char* const why = !parsed.command->changes()        ? "changes nothing"
                            : argument.LongName() == "--wait" ? "waits for no host"
                            : !parsed.command->records()      ? "changes nothing of the record"
                                                              : "makes something new, which has no etag to guard";
    return UsageError(fmt::format("{}: `{}` {}", argument.LongName(), parsed.command->Path(), why));
  }
  return absl::OkStatus();
}

int Fail(const absl::Status& status, const Facts& facts, bool for_programs, const Terminal& terminal) {
  if (status.message().empty()) return static_cast<int>(ExitCodeOf(status));
  if (for_programs) {
    *terminal.err << PrintJson(FailureToJson(status, facts));
  } else {
    *terminal.err << DescribeFailure(status, facts, terminal.ColourErr());
  }
  return static_cast<int>(ExitCodeOf(status));
}

int RunCompletion(const Command& root, const std::vector<std::string>& words, const Terminal& terminal) {
  // Flags that were typed already (--server, --context) count; what is wrong about them, or about anything else, must
  // not disturb a prompt.
  GivenFlags flags;
  for (size_t i = 0; i + 2 < words.size(); ++i) {
    for (const char* name : {"server", "context", "config", "tls-ca", "tls-cert", "tls-key", "socket"}) {
      if (words[i] == std::string("--") + name) flags[name] = words[i + 1];
    }
    if (words[i] == "-s") flags["server"] = words[i + 1];
  }
  absl::StatusOr<Settings> settings = ResolveSettings(flags, terminal);
  const NameSource names = [&](Kind kind) {
    std::vector<std::string> found;
    if (!settings.ok()) return found;
    settings->timeout = std::min(settings->timeout, kCompletionTimeout);
    Session session(*settings, flags, terminal, root);
    const absl::StatusOr<Listing> listing = FetchList(session, kind, Filters(), kCompletionNames);
    if (!listing.ok()) return found;
    for (const auto& item : listing->items) found.push_back(CommonOf(*item).name);
    return found;
  };
  for (const Candidate& candidate : Complete(root, words, names)) {
    *terminal.out << candidate.word << (candidate.meaning.empty() ? "" : "\t" + candidate.meaning) << "\n";
  }
  return 0;
}

}  // namespace

std::unique_ptr<Command> MakeCommands() {
  auto root = std::make_unique<Command>("viommuctl", "Control the vIOMMUs of a fleet of Arm hosts");
  root->WithExample("status", "how the server and the fleet are")
      .WithExample("get devices --field free=true", "what can be assigned")
      .WithExample("set vdev-id v1 a/0000:01:00.0 0x10 --wait=applied", "put a device into a viommu")
      .WithExample("describe vdevice v1/0x10", "whose it is, where it stands and why")
      .WithExample("watch", "follow changes")
      .Details(
          "Names are full (viommus/v1/vdevices/16) or, where the kind is clear, short (v1/16, v1/0x10, "
          "a/0000:01:00.0).\n"
          "Every flag of the connection and the output, and --wait, is also a variable of the environment\n"
          "(VIOMMUCTL_SERVER, VIOMMUCTL_TLS_CA, …); a context (viommuctl config) keeps all but --socket.");
  DeclareRootFlags(*root);
  DeclareGet(*root);
  DeclareDescribe(*root);
  DeclareCreate(*root);
  DeclareVdevId(*root);
  DeclareAttach(*root);
  DeclareLabel(*root);
  DeclareDelete(*root);
  DeclareInvalidate(*root);
  DeclareWatch(*root);
  DeclareCordon(*root);
  DeclareHosts(*root);
  DeclarePlan(*root);
  DeclareDrift(*root);
  DeclareStatus(*root);
  DeclareAudit(*root);
  DeclareBackup(*root);
  DeclareLocal(*root);
  DeclareDebug(*root);
  DeclareConfig(*root);
  DeclareShell(*root);
  return root;
}

namespace {

int RunLine(const std::vector<std::string>& words, const Terminal& terminal) {
  const std::unique_ptr<Command> root = MakeCommands();
  if (!words.empty() && words[0] == kCompleteWord) {
    return RunCompletion(*root, {words.begin() + 1, words.end()}, terminal);
  }
  std::vector<std::string> line = words;
  if (!line.empty() && line[0] == "help") {
    std::rotate(line.begin(), line.begin() + 1, line.end());
    line.back() = "--help";
  }
  if (line.empty()) line.emplace_back("--help");

  const Command* reached = nullptr;
  const absl::StatusOr<Parsed> parsed = ParseCommandLine(*root, line, &reached);
  if (!parsed.ok()) return Fail(parsed.status(), {{"command", reached->Path()}}, false, terminal);
  if (parsed->help) {
    *terminal.out << HelpFor(*parsed->command);
    return 0;
  }
  const Facts about{{"command", parsed->command->Path()}};
  if (const absl::Status status = CheckChangeFlags(*root, *parsed); !status.ok()) {
    return Fail(status, about, false, terminal);
  }
  const absl::StatusOr<Settings> settings = ResolveSettings(parsed->global_flags, terminal);
  if (!settings.ok()) return Fail(settings.status(), about, false, terminal);
  Session session(*settings, parsed->global_flags, terminal, *root);
  const absl::StatusOr<ExitCode> code = parsed->command->action()(session);
  if (code.ok()) return static_cast<int>(*code);
  Facts facts = session.facts();
  facts.insert(about.begin(), about.end());
  return Fail(code.status(), facts, settings->ForPrograms(), terminal);
}

}  // namespace

int RunViommuctl(const std::vector<std::string>& words, const Terminal& terminal) {
  const int code = RunLine(words, terminal);
  // Where the output ends up is part of the work: a script that stores it must not take half of it for all.
  if (!terminal.out->flush()) {
    *terminal.err << "error: the output could not be written; what was asked for was done\n";
    if (code == static_cast<int>(ExitCode::kOk)) return static_cast<int>(ExitCode::kRefused);
  }
  return code;
}

}  // namespace viommu::cli
