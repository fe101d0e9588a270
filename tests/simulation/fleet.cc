#include "tests/simulation/fleet.h"

#include <fmt/format.h>

#include <utility>

namespace viommu::simulation {

void Fleet::Build(bool faults) {
  server_boot = random().Uuid();
  disk = std::make_unique<ServerDisk>(scheduler);
  timeline = std::make_shared<Timeline>();
  // Few hosts meet each other's faults more often; many make the server share out its turns.
  const uint64_t host_count = Often(20) ? 12 + random().Below(19) : 2 + random().Below(2);
  for (uint64_t i = 1; i <= host_count; ++i) {
    Machine::Hardware hardware;
    hardware.linux72 = Often(2);
    hardware.keeps = Often(2);
    if (Often(2)) hardware.group_size = 2;
    hardware.hw_queues = Often(2);
    if (faults && Often(4)) {
      hardware.broken.insert(fmt::format("0000:01:0{}.{}", random().Below(2), random().Below(4)));
    }
    const Surroundings around{scheduler, checker, weather, [this] { return SomeServer(); }};
    hosts.push_back(std::make_unique<Host>(around, fmt::format("hosts/h{}", i), hardware));
  }
  const uint64_t client_count = 1 + random().Below(3);
  const double operations = Often(2) ? 0.3 * random().Fraction() : 0;
  for (uint64_t i = 0; i < client_count; ++i) {
    clients.push_back(std::make_unique<Client>(
        scheduler, weather, lost_calls, operations, [this] { return SomeServer(); }, fmt::format("c{}", i)));
  }
  watcher.emplace(scheduler, checker, weather, [this] { return server.get(); });
  StartServer();
  for (const auto& host : hosts) host->StartAgent();
  for (const auto& client : clients) client->Start();
  watcher->Start();
}

void Fleet::StartServer() {
  if (server != nullptr) return;
  server = ServerProcess::Start(scheduler, server_clock, checker, *disk, timeline, {.boot_id = server_boot});
  if (server != nullptr || checker.failed()) return;
  disk->AfterKill();
  scheduler.After(milliseconds(300), [this] { StartServer(); });
}

void Fleet::EndServer() {
  if (server == nullptr) return;
  scheduler.Trace("server: end", "");
  server.reset();
}

ServerProcess* Fleet::SomeServer() {
  if (zombie != nullptr && Often(3)) return zombie.get();
  return server.get();
}

void Fleet::Every(nanoseconds mean, std::function<void()> fault) {
  scheduler.After(random().Between(mean / 4, mean * 7 / 4), [this, mean, fault = std::move(fault)] {
    if (!storm) return;
    fault();
    Every(mean, fault);
  });
}

void Fleet::RestartServerSoon() {
  scheduler.After(random().Between(milliseconds(10), milliseconds(1200)), [this] { StartServer(); });
}

void Fleet::RestartAgentSoon(Host& host) {
  scheduler.After(random().Between(milliseconds(10), milliseconds(1200)), [&host] { host.StartAgent(); });
}

}  // namespace viommu::simulation
