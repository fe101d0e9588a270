// Options of viommu-agent (common/config.h).

#ifndef VIOMMU_AGENT_CONFIG_H_
#define VIOMMU_AGENT_CONFIG_H_

#include <sys/types.h>

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/smmuv3/vsmmu/inventory.h"
#include "common/address.h"
#include "common/config.h"
#include "common/credentials.h"
#include "common/log.h"

namespace viommu::agent {

enum class BackendKind { kEmulated, kIommufd };

struct AgentConfig {
  std::string host;  // id of the host; by default the machine's name
  std::map<std::string, std::string> labels;
  Address server;
  TransportOptions tls;
  std::string cluster_id;  // empty: of the first server met
  std::chrono::nanoseconds longest_retry = std::chrono::seconds(15);
  std::string state_dir = "/var/lib/viommu-agent";
  Address listen;
  std::vector<std::string> handover_allow_uids;
  std::optional<Address> metrics_listen;
  bool metrics_allow_insecure = false;

  BackendKind backend = BackendKind::kEmulated;
  std::string inventory;          // file; of the emulated backend
  std::string personality;        // of the emulated backend; empty: as the inventory says
  std::vector<std::string> bind;  // of the iommufd backend: PCI addresses that it binds to vfio-pci
  bool check_host = false;        // say what the host can do, and exit
  std::string boot_id_file = "/proc/sys/kernel/random/boot_id";

  LogLevel log_level = LogLevel::kInfo;
  LogFormat log_format = LogFormat::kText;
};

// With the machine's name as host.
AgentConfig DefaultAgentConfig();

// Declares every option of the agent on `config`. Both must outlive its Load().
void DeclareAgentOptions(Config& config, AgentConfig* options);

// The inventory of the emulated backend, with the personality that was asked for.
absl::StatusOr<EmulatedInventory> LoadInventory(const AgentConfig& options);

// Where VMMs hand memory over: beside the local service's socket.
std::string HandoverPath(const AgentConfig& options);
// Who may, beside root and the agent's own user.
absl::StatusOr<std::vector<uid_t>> HandoverUids(const AgentConfig& options);

// The id of the running boot. UNAVAILABLE when the file cannot be read or is empty.
absl::StatusOr<std::string> ReadBootId(const std::string& path);

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_CONFIG_H_
