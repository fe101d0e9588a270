#include "tests/simulation/doubles.h"

#include <algorithm>
#include <utility>

#include "server/commit/starts.h"
#include "tests/simulation/mutations.h"

namespace viommu::simulation {

void Doubles::Choose() {
  ChooseCopies();
  ChooseRivals();
}

void Doubles::EndAll() {
  fleet_.zombie.reset();
  EndRival();
}

void Doubles::MaybePutNewerBack() {
  if (newer_.has_value() && fleet_.Often(2)) {
    // The newer store was still there: what was recorded on the copy is lost, as the manual says.
    fleet_.EndServer();
    fleet_.disk->Replace(std::move(newer_->content));
    fleet_.timeline = std::make_shared<Timeline>(std::move(newer_->timeline));
    fleet_.server_boot = newer_->boot;
    fleet_.scheduler.Trace("newer store", "");
  }
  newer_.reset();
}

void Doubles::Check() {
  if (rival_ != nullptr) rival_->Check(*fleet_.timeline);
}

// At most one of them in a run.
void Doubles::ChooseCopies() {
  const auto later = [this] { return fleet_.random().Between(milliseconds(4000), milliseconds(9000)); };
  switch (fleet_.random().Below(10)) {
    case 0:
      fleet_.scheduler.After(fleet_.random().Between(milliseconds(1000), milliseconds(4000)), [this] { TakeBackup(); });
      fleet_.scheduler.After(later(), [this] { RestoreBackup(); });
      break;
    case 1:
      fleet_.scheduler.After(later(), [this] { RestoreAfterRelease(); });
      break;
    case 2:
      fleet_.scheduler.After(later(), [this] { WipeStore(); });
      break;
    case 3:
    case 4:
      fleet_.scheduler.After(fleet_.random().Between(milliseconds(1000), milliseconds(7000)),
                             [this] { RaiseZombie(); });
      break;
    default:
      break;
  }
}

void Doubles::ChooseRivals() {
  if (!fleet_.Often(5)) return;
  const bool copied = fleet_.Often(3);
  fleet_.Every(milliseconds(2000), [this, copied] {
    if (rival_ == nullptr) {
      StartRival(copied);
    } else {
      EndRival();
    }
  });
}

// ---- Copies of the store --------------------------------------------------------------------------------------------

void Doubles::TakeBackup() {
  if (fleet_.server == nullptr || fleet_.disk->WouldKeepFailedBatch()) return;
  fleet_.scheduler.Trace("backup", "");
  backup_ = Copy{fleet_.disk->Copy(), *fleet_.timeline, fleet_.server_boot};
}

void Doubles::RestoreBackup() {
  if (!backup_.has_value() || fleet_.server == nullptr) return;
  EndRival();
  fleet_.EndServer();
  fleet_.disk->AfterKill();
  newer_ = Copy{fleet_.disk->Copy(), *fleet_.timeline, fleet_.server_boot};
  fleet_.disk->Replace(std::move(backup_->content));
  fleet_.timeline = std::make_shared<Timeline>(std::move(backup_->timeline));
  fleet_.server_boot = backup_->boot;
  fleet_.timeline->id = fleet_.checker.Fork(fleet_.timeline->id, fleet_.timeline->published.rbegin()->first);
  fleet_.scheduler.Trace("restore", "", fleet_.timeline->published.rbegin()->first);
  backup_.reset();
  fleet_.RestartServerSoon();
}

// The hardest backup to tell from the newest store: one that lacks nothing that a host knows but a release.
void Doubles::RestoreAfterRelease() {
  if (!fleet_.storm || newer_.has_value()) return;
  if (backup_.has_value() && fleet_.server != nullptr) {
    const int64_t revision = backup_->timeline.published.rbegin()->first;
    const bool only_a_release = std::any_of(fleet_.hosts.begin(), fleet_.hosts.end(), [&](const auto& host) {
      return host->OnlyAReleaseTells(fleet_.timeline->id, revision);
    });
    if (only_a_release) return RestoreBackup();
  }
  if (fleet_.Often(20)) TakeBackup();
  fleet_.scheduler.After(milliseconds(5), [this] { RestoreAfterRelease(); });
}

void Doubles::WipeStore() {
  if (fleet_.server == nullptr) return;
  EndRival();
  fleet_.EndServer();
  fleet_.disk->AfterKill();
  newer_ = Copy{fleet_.disk->Copy(), *fleet_.timeline, fleet_.server_boot};
  fleet_.disk->Replace(std::make_unique<server::MemoryStore>());
  fleet_.timeline = std::make_shared<Timeline>();
  fleet_.timeline->id = fleet_.checker.Fork(0, 0);
  fleet_.scheduler.Trace("wipe", "");
  if (fleet_.Often(2)) StartOftenOnWiped();
  fleet_.RestartServerSoon();
}

// After a loss of power and more starts than a store remembers, neither its revisions nor its epochs show that it is
// another one than before: only its incarnation does.
void Doubles::StartOftenOnWiped() {
  for (int i = 0; i < server::Starts::kMaxStarts + 8 && !fleet_.checker.failed(); ++i) {
    if (i == 1) fleet_.server_boot = fleet_.random().Uuid();
    fleet_.StartServer();
    fleet_.EndServer();
  }
}

void Doubles::RaiseZombie() {
  if (!fleet_.storm) return;
  if (fleet_.server == nullptr || fleet_.server->crashed() || fleet_.disk->WouldKeepFailedBatch()) {
    fleet_.scheduler.After(milliseconds(200), [this] { RaiseZombie(); });
    return;
  }
  EndRival();
  fleet_.scheduler.Trace("zombie", "");
  fleet_.zombie = std::move(fleet_.server);
  fleet_.zombie_disk = std::move(fleet_.disk);
  fleet_.disk = std::make_unique<ServerDisk>(fleet_.scheduler);
  fleet_.disk->Replace(fleet_.zombie_disk->Copy());
  fleet_.timeline = std::make_shared<Timeline>(fleet_.zombie->timeline());
  fleet_.zombie->timeline().id = fleet_.checker.Fork(fleet_.timeline->id, fleet_.timeline->published.rbegin()->first);
  fleet_.RestartServerSoon();
  fleet_.scheduler.After(fleet_.random().Between(milliseconds(3000), milliseconds(8000)),
                         [this] { fleet_.zombie.reset(); });
  // Hosts go from one to the other and back.
  fleet_.Every(milliseconds(400), [this] {
    if (fleet_.zombie != nullptr) fleet_.SomeHost().BreakLink();
  });
}

// ---- A second machine of one name -----------------------------------------------------------------------------------

void Doubles::StartRival(bool copied) {
  // Not while servers differ: which of the two machines is right would be a matter of which server is.
  if (fleet_.zombie != nullptr || newer_.has_value()) return;
  Host& host = fleet_.SomeHost();
  fleet_.scheduler.Trace(copied ? "rival: copied" : "rival", host.name());
  rivals_host_ = &host;
  Machine::Hardware hardware = host.machine().hardware();
  hardware.broken.clear();
  const Surroundings around{fleet_.scheduler, fleet_.checker, fleet_.weather, [this] { return fleet_.server.get(); }};
  rival_ = std::make_unique<Host>(around, host.name(), hardware);
  if (copied) {
    rival_->disk().CopyFrom(host.disk());
    rival_->Doubt();
  } else {
    rival_->set_on_hello([this, &host](v1::Hello& hello) {
      const bool connected =
          fleet_.server != nullptr && host.ConnectedTo(*fleet_.server, milliseconds(900));  // of a lease of 1000
      if (connected && ActiveMutation() == Mutation::kPoseAsFirst) hello.set_agent_id(host.agent_id());
      return connected;
    });
  }
  // What the two make of the record from now on says nothing of the other one. A rival of its own is admitted when the
  // host is lost; then somebody has to see to it that the host does not go on, as with any machine that is replaced.
  rival_->set_on_welcome([this, &host, copied] {
    fleet_.scheduler.Trace("rival: welcome", host.name());
    if (copied) return host.Doubt();
    fleet_.scheduler.After(nanoseconds(0), [this, &host] {
      if (rival_ == nullptr || rivals_host_ != &host) return;
      host.Fence();
      fleet_.RestartAgentSoon(host);
    });
  });
  host.set_on_welcome([this, copied] {
    if (!copied) fleet_.scheduler.After(nanoseconds(0), [this] { EndRival(); });
  });
  rival_->StartAgent();
}

void Doubles::EndRival() {
  if (rival_ == nullptr) return;
  fleet_.scheduler.Trace("rival: end", rival_->name());
  rivals_host_->set_on_welcome(nullptr);
  rivals_host_ = nullptr;
  retired_.push_back(std::move(rival_));
  retired_.back()->KillAgent();
}

}  // namespace viommu::simulation
