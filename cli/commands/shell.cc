#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/commands/commands.h"
#include "cli/complete.h"
#include "cli/session.h"
#include "cli/show.h"
#include "common/version.h"

namespace viommu::cli {
namespace {

absl::StatusOr<ExitCode> ShowVersion(Session& session, bool client_only) {
  nlohmann::ordered_json document = nlohmann::ordered_json::object();
  document["client"] = std::string(Version());
  absl::Status status;
  if (!client_only) {
    const auto server = session.Call<v1::GetServerStatusResponse>(v1::GetServerStatusRequest());
    if (server.ok()) document["server"] = server->version();
    status = server.status();
  }
  if (session.settings().ForPrograms()) {
    ShowDocument(session, document);
  } else {
    for (const auto& [who, version] : document.items()) {
      *session.terminal().out << fmt::format("{}: {}\n", who, version.get<std::string>());
    }
  }
  if (!status.ok()) return status;
  return ExitCode::kOk;
}

}  // namespace

void DeclareShell(Command& root) {
  const auto client_only = std::make_shared<bool>(false);
  root.Sub("version", "Tell the versions of this program and of the server")
      .WithExample("version --client", "without asking the server")
      .Switch("--client", client_only.get(), "only of this program")
      .Runs([client_only](Session& session) { return ShowVersion(session, *client_only); });
  const auto shell = std::make_shared<std::string>();
  root.Sub("completion", "Print the completion script of a shell")
      .Details("Completes commands, flags and the names that the server has.")
      .WithExample("completion bash > /etc/bash_completion.d/viommuctl", "for everybody, from the next login on")
      .WithExample("completion fish | source", "in this shell")
      .Positional("SHELL", shell.get(), "the shell", {.words = {"bash", "zsh", "fish"}, .only_words = true})
      .Runs([shell](Session& session) -> absl::StatusOr<ExitCode> {
        VIOMMU_ASSIGN_OR_RETURN(const std::string script, CompletionScript(*shell));
        *session.terminal().out << script;
        return ExitCode::kOk;
      });
}

}  // namespace viommu::cli
