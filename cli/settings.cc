#include "cli/settings.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cctype>
#include <optional>

#include "cli/contexts.h"
#include "cli/text.h"
#include "common/error.h"

namespace viommu::cli {
namespace {

// A value and where it comes from, for errors: "--timeout", "VIOMMUCTL_TIMEOUT", "context lab: timeout".
struct Sourced {
  std::string value;
  std::string source;
};

// Answers what a flag is worth, by the order of precedence.
class Lookup {
 public:
  Lookup(const GivenFlags& flags, const Terminal& terminal, const Context& context, bool context_by_flag)
      : flags_(flags), terminal_(terminal), context_(context), context_by_flag_(context_by_flag) {}

  std::optional<Sourced> Find(const std::string& flag) const {
    if (const auto given = flags_.find(flag); given != flags_.end()) {
      // An empty flag asks for nothing, whatever the environment and the context say.
      if (given->second.empty()) return std::nullopt;
      return Sourced{given->second, "--" + flag};
    }
    if (context_by_flag_) {
      if (auto value = OfContext(flag); value.has_value()) return value;
    }
    const std::string variable = EnvironmentName(flag);
    if (auto value = terminal_.environment(variable); value.has_value() && !value->empty()) {
      return Sourced{*std::move(value), variable};
    }
    return OfContext(flag);
  }

  std::string Text(const std::string& flag, std::string_view otherwise = "") const {
    const std::optional<Sourced> found = Find(flag);
    return found.has_value() ? found->value : std::string(otherwise);
  }

 private:
  std::optional<Sourced> OfContext(const std::string& flag) const {
    const auto value = context_.values.find(flag);
    if (value == context_.values.end()) return std::nullopt;
    return Sourced{value->second, fmt::format("context {}: {}", context_.name, flag)};
  }

  const GivenFlags& flags_;
  const Terminal& terminal_;
  const Context& context_;
  const bool context_by_flag_;
};

absl::StatusOr<v1::Wait> ParseWait(const Sourced& given) {
  if (given.value == "accepted") return v1::WAIT_ACCEPTED;
  if (given.value == "applied") return v1::WAIT_APPLIED;
  return UsageError(fmt::format("{}: \"{}\" is neither accepted nor applied", given.source, given.value));
}

std::string FlagText(const GivenFlags& flags, const std::string& flag) {
  const auto given = flags.find(flag);
  return given == flags.end() ? "" : given->second;
}

}  // namespace

std::string EnvironmentName(std::string_view flag) {
  std::string name = "VIOMMUCTL_";
  for (const char c : flag)
    name.push_back(c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c))));
  return name;
}

std::string ConfigPath(const GivenFlags& flags, const Terminal& terminal) {
  if (const auto given = flags.find("config"); given != flags.end()) return given->second;
  const auto variable = [&terminal](const char* name) { return terminal.environment(name).value_or(""); };
  if (std::string path = variable("VIOMMUCTL_CONFIG"); !path.empty()) return path;
  if (const std::string home = variable("XDG_CONFIG_HOME"); !home.empty()) return home + "/viommuctl/config.yaml";
  return variable("HOME") + "/.config/viommuctl/config.yaml";
}

absl::StatusOr<OutputFormat> ParseOutputFormat(std::string_view text) {
  if (text == "table") return OutputFormat::kTable;
  if (text == "wide") return OutputFormat::kWide;
  if (text == "json") return OutputFormat::kJson;
  if (text == "yaml") return OutputFormat::kYaml;
  if (text == "name") return OutputFormat::kName;
  return UsageError(fmt::format("there is no output format \"{}\"; there are table, wide, json, yaml, name", text));
}

absl::StatusOr<Settings> ResolveSettings(const GivenFlags& flags, const Terminal& terminal) {
  Settings settings;
  settings.config_path = ConfigPath(flags, terminal);
  VIOMMU_ASSIGN_OR_RETURN(const ContextFile file, ContextFile::Load(settings.config_path));

  if (flags.contains("config") && ::access(settings.config_path.c_str(), F_OK) != 0) {
    settings.context_problem = UsageError(fmt::format(
        "--config: {} is not there; `viommuctl config set` with the same --config makes it", settings.config_path));
  }

  const bool context_by_flag = flags.contains("context");
  settings.context = context_by_flag ? flags.at("context") : terminal.environment("VIOMMUCTL_CONTEXT").value_or("");
  Context context;
  if (!settings.context.empty()) {
    VIOMMU_ASSIGN_OR_RETURN(context, file.Get(settings.context));
  } else if (!file.current().empty()) {
    settings.context = file.current();
    if (const Context* current = file.Find(file.current()); current != nullptr) {
      context = *current;
    } else {
      settings.context_problem = UsageError(
          fmt::format("{}: current-context is {}, and there is no such context; choose one with `viommuctl config use`",
                      file.path(), file.current()));
    }
  }

  const Lookup lookup(flags, terminal, context, context_by_flag);
  settings.server = lookup.Text("server", kDefaultServer);
  settings.socket = lookup.Text("socket", kDefaultSocket);
  settings.tls_ca = lookup.Text("tls-ca");
  settings.tls_cert = lookup.Text("tls-cert");
  settings.tls_key = lookup.Text("tls-key");
  if (const auto insecure = lookup.Find("insecure"); insecure.has_value()) {
    VIOMMU_ASSIGN_OR_RETURN(settings.insecure, ParseBool(insecure->value, insecure->source));
  }
  const Sourced timeout = lookup.Find("timeout").value_or(Sourced{std::string(kDefaultTimeout), "--timeout"});
  VIOMMU_ASSIGN_OR_RETURN(settings.timeout, ParseTimeout(timeout.value, timeout.source));
  if (const auto output = lookup.Find("output"); output.has_value()) {
    VIOMMU_ASSIGN_OR_RETURN(settings.output, ParseOutputFormat(output->value));
    settings.output_given = true;
  }
  if (const auto wait = lookup.Find("wait"); wait.has_value()) {
    VIOMMU_ASSIGN_OR_RETURN(settings.wait, ParseWait(*wait));
  }
  settings.dry_run = flags.contains("dry-run");
  settings.yes = flags.contains("yes");
  settings.request_id = FlagText(flags, "request-id");
  settings.etag = FlagText(flags, "etag");
  return settings;
}

}  // namespace viommu::cli
