#include "tests/simulation/faults.h"

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace viommu::simulation {
namespace {

void ChooseServerFaults(Fleet& fleet) {
  if (fleet.Often(3)) {
    fleet.Every(milliseconds(2500), [&fleet] {
      fleet.EndServer();
      fleet.disk->AfterKill();
      fleet.RestartServerSoon();
    });
  }
  if (fleet.Often(3))
    fleet.Every(milliseconds(1500), [&fleet] { fleet.disk->CrashAtCommit(1 + fleet.random().Below(4)); });
  if (fleet.Often(3)) {
    fleet.Every(milliseconds(4000), [&fleet] {
      fleet.scheduler.Trace("server: power loss", "");
      fleet.EndServer();
      fleet.disk->AfterPowerLoss();
      fleet.server_boot = fleet.random().Uuid();
      fleet.RestartServerSoon();
    });
  }
  if (fleet.Often(4)) {
    fleet.Every(milliseconds(5000), [&fleet] {
      if (fleet.server == nullptr) return;
      fleet.server->Stop();
      fleet.EndServer();
      fleet.disk->AfterKill();
      fleet.RestartServerSoon();
    });
  }
  if (fleet.Often(3)) {
    fleet.Every(milliseconds(3000), [&fleet] {
      fleet.scheduler.Trace("server disk: fails", "");
      fleet.disk->Fail(fleet.Often(2));
      fleet.scheduler.After(fleet.random().Between(milliseconds(5), milliseconds(2500)),
                            [&fleet] { fleet.disk->AllowRecovery(); });
    });
  }
  if (fleet.Often(3)) {
    fleet.Every(milliseconds(2000), [&fleet] {
      if (fleet.server != nullptr) fleet.server->set_sync_time(milliseconds(5), milliseconds(200));
      fleet.scheduler.After(fleet.random().Between(milliseconds(100), milliseconds(1500)), [&fleet] {
        if (fleet.server != nullptr) fleet.server->set_sync_time(std::chrono::microseconds(100), milliseconds(1));
      });
    });
  }
  if (fleet.Often(4)) {
    fleet.Every(milliseconds(2000), [&fleet] {
      fleet.server_clock.Jump(fleet.random().Between(std::chrono::hours(-1), std::chrono::hours(1)));
    });
  }
}

void ChooseAgentFaults(Fleet& fleet) {
  if (fleet.Often(3)) {
    fleet.Every(milliseconds(1500), [&fleet] {
      Host& host = fleet.SomeHost();
      host.KillAgent();
      fleet.RestartAgentSoon(host);
    });
  }
  if (fleet.Often(4)) {
    // For longer than a lease: somebody may declare it dead.
    fleet.Every(milliseconds(4000), [&fleet] {
      Host& host = fleet.SomeHost();
      host.KillAgent();
      fleet.scheduler.After(fleet.random().Between(milliseconds(1500), milliseconds(5000)),
                            [&host] { host.StartAgent(); });
    });
  }
  if (fleet.Often(3))
    fleet.Every(milliseconds(800), [&fleet] { fleet.SomeHost().disk().CrashAtChange(1 + fleet.random().Below(12)); });
  if (fleet.Often(3)) {
    fleet.Every(milliseconds(2500), [&fleet] {
      Host& host = fleet.SomeHost();
      host.Reboot();
      fleet.RestartAgentSoon(host);
    });
  }
  if (fleet.Often(3)) {
    fleet.Every(milliseconds(2500), [&fleet] {
      fleet.SomeHost().PauseAgent(fleet.random().Between(milliseconds(100), milliseconds(2500)));
    });
  }
  if (fleet.Often(4)) {
    fleet.Every(milliseconds(3000), [&fleet] {
      Host& host = fleet.SomeHost();
      fleet.scheduler.Trace("agent disk: full", host.name());
      host.disk().SetFull(true);
      fleet.scheduler.After(fleet.random().Between(milliseconds(10), milliseconds(1500)),
                            [&host] { host.disk().SetFull(false); });
    });
  }
  if (fleet.Often(4))
    fleet.Every(milliseconds(1500), [&fleet] { fleet.SomeHost().disk().FailSyncs(1 + fleet.random().Below(2)); });
  if (fleet.Often(4)) {
    fleet.Every(milliseconds(2000), [&fleet] {
      Host& host = fleet.SomeHost();
      host.disk().set_sync_time(milliseconds(200));
      fleet.scheduler.After(fleet.random().Between(milliseconds(100), milliseconds(1500)),
                            [&host] { host.disk().set_sync_time(milliseconds(0)); });
    });
  }
  if (fleet.Often(3)) {
    fleet.Every(milliseconds(300), [&fleet] {
      static const std::vector<std::string> kCalls = {
          "BindDevice", "UnbindDevice", "AllocStage2", "AllocViommu", "AllocNested", "AllocVdevice", "Attach",
          "Detach",     "Destroy",      "OpenContext", "AllocIoas",   "MapIoas",     "AllocHwQueue"};
      auto& faults = fleet.SomeHost().machine().faults[fleet.random().Pick(kCalls)];
      if (faults.size() < 4) faults.push_back(fleet.Often(2) ? EBUSY : EIO);
    });
  }
  if (fleet.Often(4)) {
    fleet.Every(milliseconds(300), [&fleet] {
      fleet.SomeHost().machine().RunShortOfMemory(static_cast<uint32_t>(fleet.random().Below(6)));
    });
  }
  if (fleet.Often(3)) fleet.Every(milliseconds(600), [&fleet] { fleet.SomeHost().RestartVmm(); });
  if (fleet.Often(2)) {
    fleet.Every(milliseconds(100), [&fleet] {
      for (const auto& host : fleet.hosts) host->UseHwQueue();
    });
  }
  if (fleet.Often(2)) fleet.Every(milliseconds(400), [&fleet] { fleet.SomeHost().InvalidateForGuest(); });
  if (fleet.Often(5)) {
    fleet.Every(milliseconds(2500), [&fleet] {
      Host& host = fleet.SomeHost();
      host.DamageJournal();
      fleet.RestartAgentSoon(host);
    });
    fleet.Every(milliseconds(1500), [&fleet] {
      if (fleet.server != nullptr) fleet.server->RepairDrift(fleet.SomeHost().name(), [](const auto&) {});
    });
  }
  if (fleet.Often(4)) {
    fleet.Every(milliseconds(1200), [&fleet] { fleet.SomeHost().TamperWithObjects(); });
    fleet.Every(milliseconds(2000), [&fleet] { fleet.SomeHost().MendDrift(); });
  }
  if (fleet.Often(4)) {
    fleet.Every(milliseconds(2000), [&fleet] {
      fleet.SomeHost().clock().Jump(fleet.random().Between(std::chrono::hours(-1), std::chrono::hours(1)));
    });
  }
}

void ChooseNetworkFaults(Fleet& fleet) {
  if (fleet.Often(2)) fleet.lost_calls = 0.3 * fleet.random().Fraction();
  if (fleet.Often(2)) fleet.Every(milliseconds(900), [&fleet] { fleet.SomeHost().BreakLink(); });
  if (fleet.Often(3)) {
    fleet.Every(milliseconds(1800), [&fleet] {
      const uint64_t which = 1 + fleet.random().Below(3);
      fleet.SomeHost().HalfOpenLink((which & 1) != 0, (which & 2) != 0);
    });
  }
  if (fleet.Often(3)) {
    fleet.Every(milliseconds(1500), [&fleet] {
      fleet.weather.most_delay = fleet.random().Between(milliseconds(10), milliseconds(700));
      fleet.scheduler.After(fleet.random().Between(milliseconds(50), milliseconds(1200)),
                            [&fleet] { fleet.weather.most_delay = Weather().most_delay; });
    });
  }
}

}  // namespace

void ChooseFaults(Fleet& fleet) {
  ChooseServerFaults(fleet);
  ChooseAgentFaults(fleet);
  ChooseNetworkFaults(fleet);
}

}  // namespace viommu::simulation
