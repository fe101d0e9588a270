// The configuration of a binary: each option is declared once and can be given four ways.
//
//   struct Options {
//     Address listen = ParseAddress("127.0.0.1:7070").value();
//     std::chrono::nanoseconds lease = std::chrono::seconds(10);
//   } options;
//   Config config({.program = "viommu-server", .summary = "The control plane's server."});
//   config.Address("listen", &options.listen, "Where callers and agents connect");
//   config.Duration("agents.lease", &options.lease, seconds(1), hours(1), "How long an agent may be silent");
//   if (const auto exit = config.Load(argc, argv)) return *exit;
//
// A name is lower-case words joined by '_', in at most one section: "agents.lease" is
//   --agents-lease 15s                 on the command line, which wins over
//   VIOMMU_SERVER_AGENTS_LEASE=15s     in the environment, which wins over
//   agents: {lease: 15s}               in the YAML file of --config (or VIOMMU_SERVER_CONFIG), which wins over
//   the value that the variable has when the option is declared.
// Every binary also has --config, --print-config, --check-config, --version and --help.
//
// Values of all sources are checked, also those that another source overrides, and all errors are shown at once:
//   server.yaml:12: log.level: "loud" is not one of debug, info, warning, error
//   VIOMMU_SERVER_AGENTS_LEASE: agents.lease: "10" is not a duration; write it like 250ms, 10s or 1m30s
// Unknown keys of the file and unknown flags are errors. Unknown variables are not: Kubernetes puts its own
// VIOMMU_SERVER_SERVICE_HOST, VIOMMU_SERVER_PORT… beside a service of that name; so no option may be called "port",
// "port_…" or "service_…".
//
// For one thread, before others start. The variables must outlive the Config.

#ifndef VIOMMU_COMMON_CONFIG_H_
#define VIOMMU_COMMON_CONFIG_H_

#include <chrono>
#include <concepts>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/address.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace viommu {

// EX_CONFIG of sysexits.h: what Load() returns for a bad configuration, so that systemd does not restart into it.
inline constexpr int kExitBadConfig = 78;

struct ConfigSpec {
  std::string program;  // "viommu-server": also gives the prefix of the environment variables, VIOMMU_SERVER_
  std::string summary;  // one line for --help
  // Read when it exists and --config is not given.
  std::string default_file;
  std::string footer = "";  // what --help says at its end
};

class Config {
 public:
  explicit Config(ConfigSpec spec);
  ~Config();
  Config(const Config&) = delete;
  Config& operator=(const Config&) = delete;

  // Declarations. The type of the value is also what --help shows.
  void String(std::string name, std::string* value, std::string help);
  // "true" and "false"; on the command line --name alone is true.
  void Bool(std::string name, bool* value, std::string help);
  // min and max are inclusive, here and below.
  template <std::integral T>
  void Int(std::string name, T* value, std::type_identity_t<T> min, std::type_identity_t<T> max, std::string help);
  void Duration(std::string name, std::chrono::nanoseconds* value, std::chrono::nanoseconds min,
                std::chrono::nanoseconds max, std::string help);
  void Bytes(std::string name, uint64_t* value, uint64_t min, uint64_t max, std::string help);
  void Address(std::string name, viommu::Address* value, std::string help);
  // An address or nothing: the empty string.
  void Address(std::string name, std::optional<viommu::Address>* value, std::string help);
  template <typename E>
  void Enum(std::string name, E* value, std::vector<std::pair<std::string, E>> words, std::string help);
  // A sequence in YAML, separated by commas in the environment, a repeated flag on the command line.
  void StringList(std::string name, std::vector<std::string>* value, std::string help);
  // A mapping in YAML; elsewhere a list of key=value.
  void StringMap(std::string name, std::map<std::string, std::string>* value, std::string help);

  // A condition across options, asked after all values are set. Its message stands alone, so it should name the
  // options.
  void Check(std::function<absl::Status()> check);

  // Reads every source. Nothing: go on. A number: the process is done and should exit with it (0 after --help,
  // --version,
  // --print-config and a good --check-config; 1 after a bad --check-config; kExitBadConfig after errors, which are on
  // stderr then).
  std::optional<int> Load(int argc, const char* const* argv);

  // The effective configuration as YAML that --config reads back; each value with where it came from.
  std::string Print() const;

  // Where the value of an option came from: "default", "server.yaml:12", "VIOMMU_SERVER_LISTEN", "--listen". The option
  // must exist.
  std::string SourceOf(std::string_view name) const;

  // What one source says: one item, or several where `list` (then a scalar option refuses it).
  struct RawValue {
    std::vector<std::string> items;
    bool list = false;
  };

 private:
  struct Option {
    std::string name;
    std::string type;
    std::string help;
    bool many = false;
    bool flag = false;
    // Checks a value and, when told to, stores it.
    std::function<absl::Status(const RawValue&, bool store)> set;
    // The value as items for YAML.
    std::function<std::vector<std::string>()> show;
    std::string source = "default";
    CLI::Option* parsed = nullptr;
  };

  template <typename T>
  using Parser = std::function<absl::StatusOr<T>(const std::string&)>;
  template <typename T>
  using Shower = std::function<std::string(const T&)>;

  template <typename T>
  void Scalar(std::string name, std::string type, T* value, Parser<T> parse, Shower<T> show, std::string help);
  void Add(Option option);
  static absl::StatusOr<int64_t> ParseInt(const std::string& text, int64_t min, int64_t max);
  static absl::StatusOr<std::string> OnlyItem(const RawValue& raw);
  static absl::Status NotOneOf(const std::string& text, const std::vector<std::string>& words);

  void AddFlags(CLI::App& app);
  absl::Status Resolve();
  Option* Find(std::string_view name);
  std::vector<std::string> Names() const;
  std::string EnvironmentName(std::string_view name) const;
  void Apply(Option& option, const RawValue& raw, const std::string& source);
  void ApplyFile();
  void ApplyEnvironment();
  void ApplyFlags();

  ConfigSpec spec_;
  std::vector<std::unique_ptr<Option>> options_;
  std::vector<std::function<absl::Status()>> checks_;
  std::vector<std::string> errors_;
  std::string file_;
  CLI::Option* config_flag_ = nullptr;
};

template <typename T>
void Config::Scalar(std::string name, std::string type, T* value, Parser<T> parse, Shower<T> show, std::string help) {
  Option option;
  option.name = std::move(name);
  option.type = std::move(type);
  option.help = std::move(help);
  option.set = [value, parse = std::move(parse)](const RawValue& raw, bool store) {
    const auto item = OnlyItem(raw);
    if (!item.ok()) return item.status();
    auto parsed = parse(*item);
    if (!parsed.ok()) return parsed.status();
    if (store) *value = *std::move(parsed);
    return absl::OkStatus();
  };
  option.show = [value, show = std::move(show)] { return std::vector<std::string>{show(*value)}; };
  Add(std::move(option));
}

template <std::integral T>
void Config::Int(std::string name, T* value, std::type_identity_t<T> min, std::type_identity_t<T> max,
                 std::string help) {
  Scalar<T>(
      std::move(name), "INT", value,
      [min, max](const std::string& text) -> absl::StatusOr<T> {
        const auto parsed = ParseInt(text, static_cast<int64_t>(min), static_cast<int64_t>(max));
        if (!parsed.ok()) return parsed.status();
        return static_cast<T>(*parsed);
      },
      [](const T& v) { return std::to_string(v); }, std::move(help));
}

template <typename E>
void Config::Enum(std::string name, E* value, std::vector<std::pair<std::string, E>> words, std::string help) {
  std::vector<std::string> names;
  std::string type;
  for (const auto& word : words) {
    names.push_back(word.first);
    type += (type.empty() ? "" : "|") + word.first;
  }
  Scalar<E>(
      std::move(name), type, value,
      [words, names](const std::string& text) -> absl::StatusOr<E> {
        for (const auto& word : words) {
          if (word.first == text) return word.second;
        }
        return NotOneOf(text, names);
      },
      [words](const E& v) {
        for (const auto& word : words) {
          if (word.second == v) return word.first;
        }
        return std::string();
      },
      std::move(help));
}

}  // namespace viommu

#endif  // VIOMMU_COMMON_CONFIG_H_
