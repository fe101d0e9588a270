// viommu-agent: wires the parts together and waits for the signal to stop.

#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <optional>
#include <string>

#include "agent/agent.h"
#include "agent/config.h"
#include "agent/smmuv3/iommufd/host.h"
#include "agent/smmuv3/iommufd/kernel.h"
#include "agent/smmuv3/iommufd/probe.h"
#include "common/config.h"
#include "common/log.h"
#include "common/open_files.h"
#include "common/service_notify.h"
#include "common/shutdown.h"
#include "common/version.h"

namespace viommu::agent {
namespace {

// How often systemd is told what we do when it did not ask for a watchdog.
constexpr std::chrono::minutes kStatusInterval(1);
// How long local calls may go on after the signal to stop.
constexpr std::chrono::seconds kStopGrace(5);

int Fail(const std::string& what, const absl::Status& status) {
  fmt::print(stderr, "viommu-agent: {}: {}\n", what, std::string(status.message()));
  return EXIT_FAILURE;
}

// --check-host.
int PrintHostCheck(const AgentConfig& options) {
  constexpr int kCannotServe = 3;
  IommufdHost host(&RealKernel());
  HostCheck check = CheckHost(host);
  const auto boot_id = ReadBootId(options.boot_id_file);
  check.items.push_back({"boot id", boot_id.ok(), boot_id.ok() ? *boot_id : std::string(boot_id.status().message())});
  for (const Capability& item : check.items) {
    fmt::print("{:<3} {}{}{}\n", item.available ? "yes" : "no", item.name, item.reason.empty() ? "" : ": ",
               item.reason);
  }
  fmt::print("{}\n", check.can_serve ? "VMs can be served" : "no VM can be served");
  return check.can_serve ? EXIT_SUCCESS : kCannotServe;
}

int Main(int argc, char** argv) {
  AgentConfig options = DefaultAgentConfig();
  Config config({.program = "viommu-agent",
                 .summary = "Makes the vIOMMUs and vdevices that the server records on its host, and reports.",
                 .default_file = "/etc/viommu/agent.yaml"});
  DeclareAgentOptions(config, &options);
  if (const auto exit = config.Load(argc, argv)) return *exit;
  if (options.check_host) return PrintHostCheck(options);
  InitLogging({.level = options.log_level, .format = options.log_format, .writer = nullptr});

  RaiseOpenFileLimit();
  auto shutdown = ShutdownSignal::Install();
  if (!shutdown.ok()) return Fail("cannot wait for signals", shutdown.status());
  auto agent = Agent::Start(options);
  if (!agent.ok()) return Fail("cannot start", agent.status());

  VIOMMU_LOG(kInfo, "serving",
             {{"version", Version()},
              {"host", options.host},
              {"server", options.server.ToString()},
              {"listen", options.listen.ToString()},
              {"metrics", (*agent)->metrics_address()}});
  NotifyReady("Serving on " + options.listen.ToString());

  const std::chrono::nanoseconds interval = WatchdogInterval().value_or(kStatusInterval);
  std::optional<int> signal;
  while (!(signal = (*shutdown)->WaitFor(interval)).has_value()) {
    NotifyStatus((*agent)->StatusLine());
    NotifyWatchdog();
  }
  NotifyStopping("Stopping; what the host holds stays in the journal");
  VIOMMU_LOG(kInfo, "stopping", {{"signal", *signal}});
  (*agent)->Stop(kStopGrace);
  VIOMMU_LOG(kInfo, "stopped");
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace viommu::agent

int main(int argc, char** argv) { return viommu::agent::Main(argc, argv); }
