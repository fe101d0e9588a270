#include "agent/config.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "agent/smmuv3/iommufd/sysfs.h"
#include "agent/smmuv3/vsmmu/inventory_yaml.h"
#include "common/credentials.h"
#include "common/error.h"
#include "common/metrics.h"

namespace viommu::agent {
namespace {

constexpr size_t kMaxHostBytes = 253;

std::string MachineName() {
  std::array<char, 256> name = {};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? std::string(name.data()) : std::string();
}

absl::Status CheckHost(const std::string& host) {
  const auto letter_or_digit = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  const auto allowed = [&](char c) { return letter_or_digit(c) || c == '-' || c == '.'; };
  if (host.empty() || host.size() > kMaxHostBytes || !std::all_of(host.begin(), host.end(), allowed) ||
      !letter_or_digit(host.front()) || !letter_or_digit(host.back())) {
    return InvalidField("host",
                        "\"{}\" is no id of a host: 1 to {} of a-z, 0-9, '-' and '.', none of the last two at an "
                        "end; give one with --host",
                        host, kMaxHostBytes);
  }
  return absl::OkStatus();
}

}  // namespace

AgentConfig DefaultAgentConfig() {
  AgentConfig options;
  options.host = MachineName();
  options.server = ParseAddress("127.0.0.1:7070").value();
  options.listen = ParseAddress("unix:/run/viommu/agent.sock").value();
  return options;
}

void DeclareAgentOptions(Config& config, AgentConfig* options) {
  config.String("host", &options->host, "Id of this host in the fleet; by default the machine's name");
  config.StringMap("label", &options->labels, "Labels of the host; they win over the inventory's");
  config.Address("server", &options->server, "Where the server listens for agents");
  DeclareTransport(config, "tls", &options->tls);
  config.String("cluster_id", &options->cluster_id, "Obey servers of this cluster only; empty: of the first one met");
  config.Duration("longest_retry", &options->longest_retry, std::chrono::milliseconds(200), std::chrono::hours(1),
                  "Longest wait between two attempts to reach the server");
  config.String("state_dir", &options->state_dir, "Where the agent remembers what it holds");
  config.Address("listen", &options->listen, "The unix socket for VMMs and operators of this host");
  config.StringList("handover.allow_uids", &options->handover_allow_uids,
                    "Users, by number, who may hand memory over beside root and the agent's own");
  config.Address("metrics.listen", &options->metrics_listen, "Where Prometheus fetches /metrics; empty: nowhere");
  config.Bool("metrics.allow_insecure", &options->metrics_allow_insecure,
              "Serve metrics, which are plain HTTP, to the network");

  config.Enum("backend", &options->backend, {{"emulated", BackendKind::kEmulated}, {"iommufd", BackendKind::kIommufd}},
              "What drives the SMMUs: this process, or the kernel");
  config.String("inventory", &options->inventory, "The emulated host: a file, see deploy/inventory");
  config.String("personality", &options->personality,
                "What the emulated backend behaves like: strict or linux-7.2; empty: as the inventory says");
  config.StringList("bind", &options->bind,
                    "With iommufd: PCI functions, such as 0000:01:00.0, that the agent takes from their drivers for "
                    "vfio-pci and gives back at its end");
  config.Bool(
      "check_host", &options->check_host,
      "Print what this host's kernel and SMMUs can do, and why not, and exit: 0 when VMs can be served, else 3");
  config.String("boot_id_file", &options->boot_id_file, "What changes with every boot");

  config.Enum("log.level", &options->log_level,
              {{"debug", LogLevel::kDebug},
               {"info", LogLevel::kInfo},
               {"warning", LogLevel::kWarning},
               {"error", LogLevel::kError},
               {"off", LogLevel::kOff}},
              "What to log");
  config.Enum("log.format", &options->log_format, {{"text", LogFormat::kText}, {"json", LogFormat::kJson}},
              "How to log");

  // Everything that Start would refuse without having tried: a configuration that passes is not to blame.
  config.Check([options]() -> absl::Status {
    VIOMMU_RETURN_IF_ERROR(CheckHost(options->host));
    if (options->listen.reach != AddressReach::kUnix) {
      return InvalidField("listen", "{} is no unix socket; write it like unix:/run/viommu/agent.sock",
                          options->listen.ToString());
    }
    if (options->state_dir.empty()) return InvalidField("state_dir", "is needed");
    VIOMMU_RETURN_IF_ERROR(HandoverUids(*options).status());
    if (options->metrics_listen.has_value()) {
      VIOMMU_RETURN_IF_ERROR(CheckMetricsAddress(*options->metrics_listen, options->metrics_allow_insecure));
    }
    for (const std::string& address : options->bind) {
      if (!Sysfs::IsAddress(address)) {
        return InvalidField("bind", "\"{}\" is no address of a PCI function; write it like 0000:01:00.0", address);
      }
    }
    if (options->check_host) return absl::OkStatus();  // which meets no server
    VIOMMU_RETURN_IF_ERROR(MakeChannelCredentials(options->server, options->tls).status());
    return options->backend == BackendKind::kIommufd ? absl::OkStatus() : LoadInventory(*options).status();
  });
}

absl::StatusOr<EmulatedInventory> LoadInventory(const AgentConfig& options) {
  if (options.inventory.empty()) {
    return InvalidField("inventory", "is needed with --backend emulated; deploy/inventory has examples");
  }
  VIOMMU_ASSIGN_OR_RETURN(EmulatedInventory inventory, LoadInventoryYaml(options.inventory));
  if (!options.personality.empty()) {
    const std::vector<Personality> known = {Strict(), Linux72()};
    const auto it = std::find_if(known.begin(), known.end(),
                                 [&options](const Personality& p) { return p.name == options.personality; });
    if (it == known.end()) {
      return InvalidField("personality", "\"{}\" is neither strict nor linux-7.2", options.personality);
    }
    inventory.personality = *it;
  }
  VIOMMU_RETURN_IF_ERROR(ValidateInventory(inventory));
  return inventory;
}

std::string HandoverPath(const AgentConfig& options) { return options.listen.path + ".fd"; }

absl::StatusOr<std::vector<uid_t>> HandoverUids(const AgentConfig& options) {
  std::vector<uid_t> uids;
  for (const std::string& text : options.handover_allow_uids) {
    uint32_t uid = 0;
    if (!absl::SimpleAtoi(text, &uid)) {
      return InvalidField("handover.allow_uids", "\"{}\" is no number of a user; `id -u NAME` tells it", text);
    }
    uids.push_back(uid);
  }
  return uids;
}

absl::StatusOr<std::string> ReadBootId(const std::string& path) {
  std::ifstream file(path);
  std::string id;
  if (!std::getline(file, id) || id.empty()) {
    return absl::UnavailableError(path +
                                  " tells no boot id; without it the agent can not know what of its journal "
                                  "still stands");
  }
  return id;
}

}  // namespace viommu::agent
