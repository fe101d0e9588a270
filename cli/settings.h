// What a command runs with: flags over environment over the context over defaults.
//
// A context that is chosen by the flag --context stands above the environment: who types a name means that server,
// whatever was exported before.

#ifndef VIOMMU_CLI_SETTINGS_H_
#define VIOMMU_CLI_SETTINGS_H_

#include <chrono>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "cli/terminal.h"
#include "viommu/v1/fleet_service.pb.h"

namespace viommu::cli {

inline constexpr std::string_view kDefaultServer = "127.0.0.1:7070";
inline constexpr std::string_view kDefaultSocket = "/run/viommu/agent.sock";
inline constexpr std::string_view kDefaultTimeout = "10s";

enum class OutputFormat { kTable, kWide, kJson, kYaml, kName };

// Global flags that were given, by name without dashes ("server", "wait", …); switches hold "true".
using GivenFlags = std::map<std::string, std::string>;

struct Settings {
  std::string config_path;       // the file of contexts, there or not
  std::string context;           // the context that was used; empty for none
  absl::Status context_problem;  // the file's current context is not there: an error only for who talks to a server
  std::string server;            // HOST:PORT or unix:PATH
  std::string socket;            // the agent's unix socket, for `local`
  std::string tls_ca;            // files; empty for none
  std::string tls_cert;
  std::string tls_key;
  bool insecure = false;  // plain text to a server elsewhere, asked for by name
  std::chrono::milliseconds timeout{};
  OutputFormat output = OutputFormat::kTable;
  bool output_given = false;  // by flag, environment or context
  v1::Wait wait = v1::WAIT_ACCEPTED;

  // Of changes; by flag only.
  bool dry_run = false;
  bool yes = false;
  std::string request_id;
  std::string etag;

  bool ForPrograms() const { return output == OutputFormat::kJson || output == OutputFormat::kYaml; }
};

// "VIOMMUCTL_TLS_CA" for "tls-ca".
std::string EnvironmentName(std::string_view flag);

// Where the contexts are: --config, VIOMMUCTL_CONFIG, $XDG_CONFIG_HOME/viommuctl/config.yaml, ~/.config/….
std::string ConfigPath(const GivenFlags& flags, const Terminal& terminal);

// Reads the file of contexts and puts everything together; usage errors name the flag, variable or file that is wrong.
absl::StatusOr<Settings> ResolveSettings(const GivenFlags& flags, const Terminal& terminal);

absl::StatusOr<OutputFormat> ParseOutputFormat(std::string_view text);

}  // namespace viommu::cli

#endif  // VIOMMU_CLI_SETTINGS_H_
