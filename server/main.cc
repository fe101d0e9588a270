// viommu-server: wires the parts together and waits for the signal to stop.

#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <optional>
#include <string>

#include "common/config.h"
#include "common/log.h"
#include "common/open_files.h"
#include "common/service_notify.h"
#include "common/shutdown.h"
#include "common/version.h"
#include "server/config.h"
#include "server/server.h"
#include "server/tool/tool.h"

namespace viommu::server {
namespace {

// How often systemd is told what we do when it did not ask for a watchdog.
constexpr std::chrono::minutes kStatusInterval(1);

std::string Join(const std::vector<Address>& addresses) {
  std::string text;
  for (const Address& address : addresses) text += (text.empty() ? "" : " ") + address.ToString();
  return text;
}

int Fail(const std::string& what, const absl::Status& status) {
  fmt::print(stderr, "viommu-server: {}: {}\n", what, std::string(status.message()));
  return EXIT_FAILURE;
}

int Main(int argc, char** argv) {
  if (const auto exit = RunTool(argc, argv)) return *exit;
  ServerConfig options;
  Config config({.program = "viommu-server",
                 .summary = "Records what vIOMMUs and devices the VMs of a fleet have, and has the agents apply it.",
                 .default_file = "/etc/viommu/server.yaml",
                 .footer = "On a store that no server runs on:\n"
                           "  viommu-server restore --help   Put a backup back, into a folder that is new or empty\n"
                           "  viommu-server verify --help    Check a store: every checksum, record and promise\n"
                           "  viommu-server inspect --help   Print what a store holds, one JSON object to a line"});
  DeclareServerOptions(config, &options);
  if (const auto exit = config.Load(argc, argv)) return *exit;
  InitLogging({.level = options.log_level, .format = options.log_format, .writer = nullptr});

  RaiseOpenFileLimit();
  auto shutdown = ShutdownSignal::Install();
  if (!shutdown.ok()) return Fail("cannot wait for signals", shutdown.status());
  auto server = Server::Start(options);
  if (!server.ok()) return Fail("cannot start", server.status());

  const std::string listen = Join((*server)->addresses());
  VIOMMU_LOG(kInfo, "serving",
             {{"version", Version()},
              {"listen", listen},
              {"agents_listen", Join((*server)->agents_addresses())},
              {"metrics", (*server)->metrics_address()},
              {"store", options.store},
              {"cluster_id", (*server)->core().identity().cluster_id},
              {"epoch", (*server)->core().identity().epoch},
              {"revision", (*server)->core().revision()}});
  NotifyReady("Serving on " + listen);

  const std::chrono::nanoseconds interval = WatchdogInterval().value_or(kStatusInterval);
  std::optional<int> signal;
  while (!(signal = (*shutdown)->WaitFor(interval)).has_value()) {
    // Reading the revision shows that nobody holds the record for ever.
    NotifyStatus(fmt::format("Serving on {}, revision {}", listen, (*server)->core().revision()));
    NotifyWatchdog();
  }
  NotifyStopping("Stopping");
  VIOMMU_LOG(kInfo, "stopping", {{"signal", *signal}});
  const absl::Status closed = (*server)->Shutdown(options.shutdown_timeout);
  if (!closed.ok()) return Fail("the store was not closed in good order", closed);
  VIOMMU_LOG(kInfo, "stopped");
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace viommu::server

int main(int argc, char** argv) { return viommu::server::Main(argc, argv); }
