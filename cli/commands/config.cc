#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/commands/commands.h"
#include "cli/contexts.h"
#include "cli/output/table.h"
#include "cli/session.h"
#include "cli/show.h"
#include "cli/text.h"
#include "common/error.h"

namespace viommu::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string ValueOf(const Context& context, const std::string& key) {
  const auto value = context.values.find(key);
  return value == context.values.end() ? "" : value->second;
}

absl::StatusOr<ExitCode> ListContexts(Session& session) {
  VIOMMU_ASSIGN_OR_RETURN(const ContextFile file, ContextFile::Load(session.settings().config_path));
  Table table({{"CURRENT"}, {"NAME"}, {"SERVER"}, {"TLS-CA"}, {"TLS-CERT"}});
  Json items = Json::array();
  for (const Context& context : file.contexts()) {
    table.Add({file.current() == context.name ? "*" : " ", context.name, ValueOf(context, "server"),
               ValueOf(context, "tls-ca"), ValueOf(context, "tls-cert")});
    Json item = Json::object();
    item["name"] = context.name;
    item["current"] = file.current() == context.name;
    for (const std::string& key : ContextKeys()) {
      if (!ValueOf(context, key).empty()) item[key] = ValueOf(context, key);
    }
    items.push_back(std::move(item));
    if (session.settings().output == OutputFormat::kName) *session.terminal().out << context.name << "\n";
  }
  if (session.settings().ForPrograms()) {
    ShowDocument(session, Json{{"items", std::move(items)}});
  } else if (file.contexts().empty()) {
    *session.terminal().err << fmt::format("no contexts in {}\ntry: viommuctl config set NAME --server HOST:PORT\n",
                                           file.path());
  } else if (session.settings().output != OutputFormat::kName) {
    *session.terminal().out << table.Print(session.terminal().ColourOut());
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> ShowCurrent(Session& session) {
  const Settings& settings = session.settings();
  VIOMMU_RETURN_IF_ERROR(settings.context_problem);
  Json document = Json::object();
  document["context"] = settings.context;
  document["file"] = settings.config_path;
  document["server"] = settings.server;
  document["tls-ca"] = settings.tls_ca;
  document["tls-cert"] = settings.tls_cert;
  document["tls-key"] = settings.tls_key;
  document["insecure"] = settings.insecure;
  document["timeout"] = fmt::format("{}ms", settings.timeout.count());
  document["socket"] = settings.socket;
  if (settings.ForPrograms()) {
    ShowDocument(session, document);
  } else if (settings.output == OutputFormat::kName) {
    *session.terminal().out << settings.context << "\n";
  } else {
    for (const auto& [key, value] : document.items()) {
      const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
      *session.terminal().out << fmt::format("{:<8}  {}\n", key, text.empty() ? "-" : text);
    }
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> UseContext(Session& session, const std::string& name) {
  VIOMMU_ASSIGN_OR_RETURN(ContextFile file, ContextFile::Load(session.settings().config_path));
  VIOMMU_RETURN_IF_ERROR(file.Use(name));
  VIOMMU_RETURN_IF_ERROR(file.Save());
  *session.terminal().err << fmt::format("{} is the current context now\n", name);
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> SetContext(Session& session, const std::string& name) {
  VIOMMU_ASSIGN_OR_RETURN(ContextFile file, ContextFile::Load(session.settings().config_path));
  const Context* before = file.Find(name);
  Context context = before == nullptr ? Context{name, {}} : *before;
  for (const std::string& key : ContextKeys()) {
    const auto given = session.given_flags().find(key);
    if (given == session.given_flags().end()) continue;
    if (given->second.empty()) {
      context.values.erase(key);
    } else {
      context.values[key] = given->second;
    }
  }
  if (ValueOf(context, "server").empty()) return UsageError("a context needs a server: --server HOST:PORT");
  file.Put(context);
  VIOMMU_RETURN_IF_ERROR(file.Save());
  *session.terminal().err << fmt::format("context {} written to {}\n", name, file.path());
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> RemoveContext(Session& session, const std::string& name) {
  VIOMMU_ASSIGN_OR_RETURN(ContextFile file, ContextFile::Load(session.settings().config_path));
  VIOMMU_RETURN_IF_ERROR(file.Remove(name));
  VIOMMU_RETURN_IF_ERROR(file.Save());
  *session.terminal().err << fmt::format("context {} removed from {}\n", name, file.path());
  return ExitCode::kOk;
}

}  // namespace

void DeclareConfig(Command& root) {
  Command& config = root.Sub("config", "Named servers: the contexts");
  config.Details(
      "Contexts live in $XDG_CONFIG_HOME/viommuctl/config.yaml (or --config, VIOMMUCTL_CONFIG). Flags stand above the\n"
      "environment, the environment above the current context; a context chosen with --context stands above the "
      "environment.");
  config.Sub("list", "List the contexts").WithExample("config list", "the current one has a *").Runs(ListContexts);
  config.Sub("current", "Show what commands run with now: context, server, certificates")
      .WithExample("config current", "after flags and environment")
      .Runs(ShowCurrent);
  const auto used = std::make_shared<std::string>();
  config.Sub("use", "Make a context the current one")
      .WithExample("config use lab", "from now on")
      .Positional("NAME", used.get(), "the context")
      .Runs([used](Session& session) { return UseContext(session, *used); });
  const auto set = std::make_shared<std::string>();
  config.Sub("set", "Make or change a context out of the flags that are given")
      .Details(
          "Takes --server, --tls-ca, --tls-cert, --tls-key, --insecure, --timeout, --output and --wait; an empty value "
          "takes\n"
          "a setting away.")
      .WithExample("config set lab --server server.example:7070 --tls-ca ca.pem",
                   "the first one becomes the current one")
      .Positional("NAME", set.get(), "the context")
      .Runs([set](Session& session) { return SetContext(session, *set); });
  const auto removed = std::make_shared<std::string>();
  config.Sub("remove", "Remove a context")
      .WithExample("config remove lab", "only its entry; certificate files stay")
      .Positional("NAME", removed.get(), "the context")
      .Runs([removed](Session& session) { return RemoveContext(session, *removed); });
}

}  // namespace viommu::cli
