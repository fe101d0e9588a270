#include "tests/simulation/world.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <set>
#include <utility>

#include "common/error.h"
#include "common/timestamp.h"
#include "server/commit/starts.h"
#include "tests/simulation/mutations.h"

namespace viommu::simulation {
namespace {

using server::Kind;

constexpr nanoseconds kLongestSettling = std::chrono::seconds(90);

class World {
 public:
  World(uint64_t seed, const RunOptions& options)
      : options_(options), scheduler_(seed), checker_(scheduler_), server_clock_(scheduler_) {
    scheduler_.set_verbose(options.verbose);
  }

  Outcome Run();

 private:
  Random& random() { return scheduler_.random; }
  bool Often(uint64_t n) { return random().OneIn(n); }

  void BuildFleet();
  void StartServer();
  void EndServer();
  // Who answers, where a server that was left for dead still does.
  ServerProcess* SomeServer();

  // Faults: each is done again and again, `mean` apart, until the storm is over.
  void Every(nanoseconds mean, std::function<void()> fault);
  void ChooseFaults();
  void ChooseServerFaults();
  void ChooseAgentFaults();
  void ChooseNetworkFaults();
  void ChooseForks();
  void ChooseRivals();
  void RestartServerSoon();
  void RestartAgentSoon(Host& host);
  Host& SomeHost() { return *hosts_[random().Below(hosts_.size())]; }

  void TakeBackup();
  void RestoreBackup();
  void RestoreAfterRelease();
  void WipeStore();
  void StartOftenOnWiped();
  void RaiseZombie();

  // A second machine that answers for a host's name, with a state directory of its own or a copy of the host's.
  void StartRival(bool copied);
  void EndRival();

  void Calm();
  bool WasReleasedForAnother(const Host& host) const;
  // Has the vdevices of an IOMMU group attached to one thing, where one waits for that: without nested domains, or,
  // where they are on two stage 2s, without one of them. Whether there was such a group.
  bool SettleGroup();
  // Whether anything had to be done.
  bool Repair();
  std::string Unsettled() const;
  void CheckHosts();
  // Carries on until `until`, or something does not hold, or `done`.
  void RunUntil(MonotonicTime until, const std::function<bool()>& done = nullptr);

  const RunOptions options_;
  Scheduler scheduler_;
  Checker checker_;
  Weather weather_;
  double lost_calls_ = 0;
  bool storm_ = false;

  SimulatedClock server_clock_;
  std::string server_boot_;
  std::unique_ptr<ServerDisk> disk_;
  std::shared_ptr<Timeline> timeline_;
  std::unique_ptr<ServerProcess> server_;

  // A server that was left for dead and runs on a copy of the store.
  std::unique_ptr<ServerDisk> zombie_disk_;
  std::unique_ptr<ServerProcess> zombie_;

  struct Copy {
    std::unique_ptr<server::MemoryStore> content;
    Timeline timeline;
    std::string boot;
  };
  std::optional<Copy> backup_;
  std::optional<Copy> newer_;  // what stood where a backup was restored, or nothing was left

  std::vector<std::unique_ptr<Host>> hosts_;
  std::unique_ptr<Host> rival_;
  std::vector<std::unique_ptr<Host>> retired_;  // earlier ones: events may still know them
  Host* rivals_host_ = nullptr;
  std::set<const Host*> started_over_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::optional<Watcher> watcher_;
};

// ---- The fleet ------------------------------------------------------------------------------------------------------

void World::BuildFleet() {
  server_boot_ = random().Uuid();
  disk_ = std::make_unique<ServerDisk>(scheduler_);
  timeline_ = std::make_shared<Timeline>();
  // Few hosts meet each other's faults more often; many make the server share out its turns.
  const uint64_t hosts = Often(20) ? 12 + random().Below(19) : 2 + random().Below(2);
  for (uint64_t i = 1; i <= hosts; ++i) {
    Machine::Hardware hardware;
    hardware.linux72 = Often(2);
    hardware.keeps = Often(2);
    if (Often(2)) hardware.group_size = 2;
    if (options_.faults && Often(4)) {
      hardware.broken.insert(fmt::format("0000:01:0{}.{}", random().Below(2), random().Below(4)));
    }
    hosts_.push_back(std::make_unique<Host>(
        scheduler_, checker_, weather_, [this] { return SomeServer(); }, fmt::format("hosts/h{}", i), hardware));
  }
  const uint64_t clients = 1 + random().Below(3);
  const double operations = Often(2) ? 0.3 * random().Fraction() : 0;
  for (uint64_t i = 0; i < clients; ++i) {
    clients_.push_back(std::make_unique<Client>(
        scheduler_, weather_, lost_calls_, operations, [this] { return SomeServer(); }, fmt::format("c{}", i)));
  }
  watcher_.emplace(scheduler_, checker_, weather_, [this] { return server_.get(); });
  StartServer();
  for (const auto& host : hosts_) host->StartAgent();
  for (const auto& client : clients_) client->Start();
  watcher_->Start();
}

void World::StartServer() {
  if (server_ != nullptr) return;
  server_ = ServerProcess::Start(scheduler_, server_clock_, checker_, *disk_, timeline_, {.boot_id = server_boot_});
  if (server_ != nullptr || checker_.failed()) return;
  disk_->AfterKill();
  scheduler_.After(milliseconds(300), [this] { StartServer(); });
}

void World::EndServer() {
  if (server_ == nullptr) return;
  scheduler_.Trace("server: end", "");
  server_.reset();
}

ServerProcess* World::SomeServer() {
  if (zombie_ != nullptr && Often(3)) return zombie_.get();
  return server_.get();
}

// ---- Faults ---------------------------------------------------------------------------------------------------------

void World::Every(nanoseconds mean, std::function<void()> fault) {
  scheduler_.After(random().Between(mean / 4, mean * 7 / 4), [this, mean, fault = std::move(fault)] {
    if (!storm_) return;
    fault();
    Every(mean, fault);
  });
}

void World::RestartServerSoon() {
  scheduler_.After(random().Between(milliseconds(10), milliseconds(1200)), [this] { StartServer(); });
}

void World::RestartAgentSoon(Host& host) {
  scheduler_.After(random().Between(milliseconds(10), milliseconds(1200)), [&host] { host.StartAgent(); });
}

void World::ChooseFaults() {
  ChooseServerFaults();
  ChooseAgentFaults();
  ChooseNetworkFaults();
  ChooseForks();
  ChooseRivals();
}

void World::ChooseServerFaults() {
  if (Often(3)) {
    Every(milliseconds(2500), [this] {
      EndServer();
      disk_->AfterKill();
      RestartServerSoon();
    });
  }
  if (Often(3)) Every(milliseconds(1500), [this] { disk_->CrashAtCommit(1 + random().Below(4)); });
  if (Often(3)) {
    Every(milliseconds(4000), [this] {
      scheduler_.Trace("server: power loss", "");
      EndServer();
      disk_->AfterPowerLoss();
      server_boot_ = random().Uuid();
      RestartServerSoon();
    });
  }
  if (Often(4)) {
    Every(milliseconds(5000), [this] {
      if (server_ == nullptr) return;
      server_->Stop();
      EndServer();
      disk_->AfterKill();
      RestartServerSoon();
    });
  }
  if (Often(3)) {
    Every(milliseconds(3000), [this] {
      scheduler_.Trace("server disk: fails", "");
      disk_->Fail(Often(2));
      scheduler_.After(random().Between(milliseconds(5), milliseconds(2500)), [this] { disk_->AllowRecovery(); });
    });
  }
  if (Often(3)) {
    Every(milliseconds(2000), [this] {
      if (server_ != nullptr) server_->set_sync_time(milliseconds(5), milliseconds(200));
      scheduler_.After(random().Between(milliseconds(100), milliseconds(1500)), [this] {
        if (server_ != nullptr) server_->set_sync_time(std::chrono::microseconds(100), milliseconds(1));
      });
    });
  }
  if (Often(4)) {
    Every(milliseconds(2000),
          [this] { server_clock_.Jump(random().Between(std::chrono::hours(-1), std::chrono::hours(1))); });
  }
}

void World::ChooseAgentFaults() {
  if (Often(3)) {
    Every(milliseconds(1500), [this] {
      Host& host = SomeHost();
      host.KillAgent();
      RestartAgentSoon(host);
    });
  }
  if (Often(4)) {
    // For longer than a lease: somebody may declare it dead.
    Every(milliseconds(4000), [this] {
      Host& host = SomeHost();
      host.KillAgent();
      scheduler_.After(random().Between(milliseconds(1500), milliseconds(5000)), [&host] { host.StartAgent(); });
    });
  }
  if (Often(3)) Every(milliseconds(800), [this] { SomeHost().disk().CrashAtChange(1 + random().Below(12)); });
  if (Often(3)) {
    Every(milliseconds(2500), [this] {
      Host& host = SomeHost();
      host.Reboot();
      RestartAgentSoon(host);
    });
  }
  if (Often(3)) {
    Every(milliseconds(2500),
          [this] { SomeHost().PauseAgent(random().Between(milliseconds(100), milliseconds(2500))); });
  }
  if (Often(4)) {
    Every(milliseconds(3000), [this] {
      Host& host = SomeHost();
      scheduler_.Trace("agent disk: full", host.name());
      host.disk().SetFull(true);
      scheduler_.After(random().Between(milliseconds(10), milliseconds(1500)), [&host] { host.disk().SetFull(false); });
    });
  }
  if (Often(4)) Every(milliseconds(1500), [this] { SomeHost().disk().FailSyncs(1 + random().Below(2)); });
  if (Often(4)) {
    Every(milliseconds(2000), [this] {
      Host& host = SomeHost();
      host.disk().set_sync_time(milliseconds(200));
      scheduler_.After(random().Between(milliseconds(100), milliseconds(1500)),
                       [&host] { host.disk().set_sync_time(milliseconds(0)); });
    });
  }
  if (Often(3)) {
    Every(milliseconds(300), [this] {
      static const std::vector<std::string> kCalls = {"BindDevice",  "UnbindDevice", "AllocStage2", "AllocViommu",
                                                      "AllocNested", "AllocVdevice", "Attach",      "Detach",
                                                      "Destroy",     "OpenContext",  "AllocIoas",   "MapIoas"};
      auto& faults = SomeHost().machine().faults[random().Pick(kCalls)];
      if (faults.size() < 4) faults.push_back(Often(2) ? EBUSY : EIO);
    });
  }
  if (Often(4)) {
    Every(milliseconds(300),
          [this] { SomeHost().machine().RunShortOfMemory(static_cast<uint32_t>(random().Below(6))); });
  }
  if (Often(3)) Every(milliseconds(600), [this] { SomeHost().RestartVmm(); });
  if (Often(2)) Every(milliseconds(400), [this] { SomeHost().InvalidateForGuest(); });
  if (Often(4)) {
    Every(milliseconds(1200), [this] { SomeHost().TamperWithObjects(); });
    Every(milliseconds(2000), [this] { SomeHost().MendDrift(); });
  }
  if (Often(4)) {
    Every(milliseconds(2000),
          [this] { SomeHost().clock().Jump(random().Between(std::chrono::hours(-1), std::chrono::hours(1))); });
  }
}

void World::ChooseNetworkFaults() {
  if (Often(2)) lost_calls_ = 0.3 * random().Fraction();
  if (Often(2)) Every(milliseconds(900), [this] { SomeHost().BreakLink(); });
  if (Often(3)) {
    Every(milliseconds(1800), [this] {
      const uint64_t which = 1 + random().Below(3);
      SomeHost().HalfOpenLink((which & 1) != 0, (which & 2) != 0);
    });
  }
  if (Often(3)) {
    Every(milliseconds(1500), [this] {
      weather_.most_delay = random().Between(milliseconds(10), milliseconds(700));
      scheduler_.After(random().Between(milliseconds(50), milliseconds(1200)),
                       [this] { weather_.most_delay = Weather().most_delay; });
    });
  }
}

// At most one of them in a run.
void World::ChooseForks() {
  const auto later = [this] { return random().Between(milliseconds(4000), milliseconds(9000)); };
  switch (random().Below(10)) {
    case 0:
      scheduler_.After(random().Between(milliseconds(1000), milliseconds(4000)), [this] { TakeBackup(); });
      scheduler_.After(later(), [this] { RestoreBackup(); });
      break;
    case 1:
      scheduler_.After(later(), [this] { RestoreAfterRelease(); });
      break;
    case 2:
      scheduler_.After(later(), [this] { WipeStore(); });
      break;
    case 3:
    case 4:
      scheduler_.After(random().Between(milliseconds(1000), milliseconds(7000)), [this] { RaiseZombie(); });
      break;
    default:
      break;
  }
}

void World::ChooseRivals() {
  if (!Often(5)) return;
  const bool copied = Often(3);
  Every(milliseconds(2000), [this, copied] {
    if (rival_ == nullptr) {
      StartRival(copied);
    } else {
      EndRival();
    }
  });
}

void World::StartRival(bool copied) {
  // Not while servers differ: which of the two machines is right would be a matter of which server is.
  if (zombie_ != nullptr || newer_.has_value()) return;
  Host& host = SomeHost();
  scheduler_.Trace(copied ? "rival: copied" : "rival", host.name());
  rivals_host_ = &host;
  Machine::Hardware hardware = host.machine().hardware();
  hardware.broken.clear();
  rival_ = std::make_unique<Host>(
      scheduler_, checker_, weather_, [this] { return server_.get(); }, host.name(), hardware);
  if (copied) {
    rival_->disk().CopyFrom(host.disk());
    rival_->Doubt();
  } else {
    rival_->set_on_hello([this, &host](v1::Hello& hello) {
      const bool connected = server_ != nullptr && host.ConnectedTo(*server_, milliseconds(900));  // of a lease of 1000
      if (connected && ActiveMutation() == Mutation::kPoseAsFirst) hello.set_agent_id(host.agent_id());
      return connected;
    });
  }
  // What the two make of the record from now on says nothing of the other one. A rival of its own is admitted when the
  // host is lost; then somebody has to see to it that the host does not go on, as with any machine that is replaced.
  rival_->set_on_welcome([this, &host, copied] {
    scheduler_.Trace("rival: welcome", host.name());
    if (copied) return host.Doubt();
    scheduler_.After(nanoseconds(0), [this, &host] {
      if (rival_ == nullptr || rivals_host_ != &host) return;
      host.Fence();
      RestartAgentSoon(host);
    });
  });
  host.set_on_welcome([this, copied] {
    if (!copied) scheduler_.After(nanoseconds(0), [this] { EndRival(); });
  });
  rival_->StartAgent();
}

void World::EndRival() {
  if (rival_ == nullptr) return;
  scheduler_.Trace("rival: end", rival_->name());
  rivals_host_->set_on_welcome(nullptr);
  rivals_host_ = nullptr;
  retired_.push_back(std::move(rival_));
  retired_.back()->KillAgent();
}

// ---- Copies of the store --------------------------------------------------------------------------------------------

void World::TakeBackup() {
  if (server_ == nullptr || disk_->WouldKeepFailedBatch()) return;
  scheduler_.Trace("backup", "");
  backup_ = Copy{disk_->Copy(), *timeline_, server_boot_};
}

void World::RestoreBackup() {
  if (!backup_.has_value() || server_ == nullptr) return;
  EndRival();
  EndServer();
  disk_->AfterKill();
  newer_ = Copy{disk_->Copy(), *timeline_, server_boot_};
  disk_->Replace(std::move(backup_->content));
  timeline_ = std::make_shared<Timeline>(std::move(backup_->timeline));
  server_boot_ = backup_->boot;
  timeline_->id = checker_.Fork(timeline_->id, timeline_->published.rbegin()->first);
  scheduler_.Trace("restore", "", timeline_->published.rbegin()->first);
  backup_.reset();
  RestartServerSoon();
}

// The hardest backup to tell from the newest store: one that lacks nothing that a host knows but a release.
void World::RestoreAfterRelease() {
  if (!storm_ || newer_.has_value()) return;
  if (backup_.has_value() && server_ != nullptr) {
    const int64_t revision = backup_->timeline.published.rbegin()->first;
    const bool only_a_release = std::any_of(hosts_.begin(), hosts_.end(), [&](const auto& host) {
      return host->OnlyAReleaseTells(timeline_->id, revision);
    });
    if (only_a_release) return RestoreBackup();
  }
  if (Often(20)) TakeBackup();
  scheduler_.After(milliseconds(5), [this] { RestoreAfterRelease(); });
}

void World::WipeStore() {
  if (server_ == nullptr) return;
  EndRival();
  EndServer();
  disk_->AfterKill();
  newer_ = Copy{disk_->Copy(), *timeline_, server_boot_};
  disk_->Replace(std::make_unique<server::MemoryStore>());
  timeline_ = std::make_shared<Timeline>();
  timeline_->id = checker_.Fork(0, 0);
  scheduler_.Trace("wipe", "");
  if (Often(2)) StartOftenOnWiped();
  RestartServerSoon();
}

// After a loss of power and more starts than a store remembers, neither its revisions nor its epochs show that it is
// another one than before: only its incarnation does.
void World::StartOftenOnWiped() {
  for (int i = 0; i < server::Starts::kMaxStarts + 8 && !checker_.failed(); ++i) {
    if (i == 1) server_boot_ = random().Uuid();
    StartServer();
    EndServer();
  }
}

void World::RaiseZombie() {
  if (!storm_) return;
  if (server_ == nullptr || server_->crashed() || disk_->WouldKeepFailedBatch()) {
    scheduler_.After(milliseconds(200), [this] { RaiseZombie(); });
    return;
  }
  EndRival();
  scheduler_.Trace("zombie", "");
  zombie_ = std::move(server_);
  zombie_disk_ = std::move(disk_);
  disk_ = std::make_unique<ServerDisk>(scheduler_);
  disk_->Replace(zombie_disk_->Copy());
  timeline_ = std::make_shared<Timeline>(zombie_->timeline());
  zombie_->timeline().id = checker_.Fork(timeline_->id, timeline_->published.rbegin()->first);
  RestartServerSoon();
  scheduler_.After(random().Between(milliseconds(3000), milliseconds(8000)), [this] { zombie_.reset(); });
  // Hosts go from one to the other and back.
  Every(milliseconds(400), [this] {
    if (zombie_ != nullptr) SomeHost().BreakLink();
  });
}

// ---- After the storm ------------------------------------------------------------------------------------------------

void World::Calm() {
  storm_ = false;
  scheduler_.Trace("calm", "");
  lost_calls_ = 0;
  weather_ = Weather();
  zombie_.reset();
  EndRival();
  disk_->AllowRecovery();
  for (const auto& host : hosts_) {
    host->machine().Heal();
    host->disk().SetFull(false);
    host->disk().FailSyncs(0);
    host->StartAgent();
  }
  for (const auto& client : clients_) client->Quiesce();
  if (newer_.has_value() && Often(2)) {
    // The newer store was still there: what was recorded on the copy is lost, as the manual says.
    EndServer();
    disk_->Replace(std::move(newer_->content));
    timeline_ = std::make_shared<Timeline>(std::move(newer_->timeline));
    server_boot_ = newer_->boot;
    scheduler_.Trace("newer store", "");
  }
  newer_.reset();
  StartServer();
}

// Where a stale server had a host forgotten, its agent was told to tear down what the other server still records, and
// takes it for released.
bool World::WasReleasedForAnother(const Host& host) const {
  const auto refused = [&host](const auto& resource) {
    return resource.host() == host.name() && resource.state() == v1::STATE_FAILED &&
           resource.state_reason().reason() == ReasonName(v1::ERROR_REASON_BEING_DELETED);
  };
  return std::any_of(timeline_->state.begin(), timeline_->state.end(), [&refused](const auto& entry) {
    const auto& [key, record] = entry;
    return (key.first == Kind::kStage2Domain && refused(static_cast<const v1::Stage2Domain&>(*record))) ||
           (key.first == Kind::kViommu && refused(static_cast<const v1::Viommu&>(*record))) ||
           (key.first == Kind::kNestedDomain && refused(static_cast<const v1::NestedDomain&>(*record))) ||
           (key.first == Kind::kVdevice && refused(static_cast<const v1::Vdevice&>(*record)));
  });
}

bool World::SettleGroup() {
  using Group = std::pair<std::string, uint32_t>;  // host and number
  std::map<Group, std::string> stuck;
  std::map<Group, std::string> nested;
  for (auto it = timeline_->state.lower_bound({Kind::kVdevice, ""});
       it != timeline_->state.end() && it->first.first == Kind::kVdevice; ++it) {
    const auto& vdevice = static_cast<const v1::Vdevice&>(*it->second);
    const auto device = timeline_->state.find({Kind::kDevice, vdevice.device()});
    if (device == timeline_->state.end()) continue;
    const auto& taken = static_cast<const v1::Device&>(*device->second);
    if (!taken.iommu_group_shared()) continue;
    const Group group(vdevice.host(), taken.iommu_group());
    if (!vdevice.nested_domain().empty()) nested[group] = vdevice.name();
    if (vdevice.state() == v1::STATE_FAILED &&
        vdevice.state_reason().reason() == ReasonName(v1::ERROR_REASON_DEPENDENCY_NOT_READY)) {
      stuck[group] = vdevice.name();
    }
  }
  Client& client = *clients_.front();
  if (stuck.empty() || !client.idle()) return false;
  const auto& [group, vdevice] = *stuck.begin();
  if (const auto found = nested.find(group); found != nested.end()) {
    client.Detach(found->second);
  } else {
    client.Unset(vdevice);
  }
  return true;
}

// An operator settles by hand what knows another store (docs/store-format.md, "After a restore").
bool World::Repair() {
  bool at_work = SettleGroup();
  for (const auto& host : hosts_) {
    if (host->drift() != 0) {
      host->MendDrift();
      at_work = true;
    }
    if (checker_.forked() && WasReleasedForAnother(*host) && started_over_.insert(host.get()).second) {
      host->StartOver();
      at_work = true;
      continue;
    }
    switch (host->refused()) {
      case v1::ERROR_REASON_STORE_INCARNATION_MISMATCH:
      case v1::ERROR_REASON_STALE_EPOCH:
      case v1::ERROR_REASON_STORE_OUT_OF_DATE:
        if (checker_.forked()) {
          host->StartOver();
          at_work = true;
        } else {
          checker_.Fail(fmt::format("{} is refused ({}), and there is only one store", host->name(),
                                    static_cast<int>(host->refused())));
        }
        break;
      default:
        break;
    }
  }
  return at_work;
}

std::string World::Unsettled() const {
  if (server_ == nullptr) return "the server does not run";
  for (const auto& client : clients_) {
    if (!client->idle()) return "nobody answers " + client->Pending();
  }
  if (server_->waiting() != 0) return fmt::format("{} callers wait for a host", server_->waiting());
  const auto stats = server_->stats();
  if (stats.synced != static_cast<int64_t>(hosts_.size())) return fmt::format("{} agents are in sync", stats.synced);
  for (const auto& host : hosts_) {
    if (!host->has_all_memory()) return "a VMM of " + host->name() + " is starting";
  }
  for (const auto& [key, record] : timeline_->state) {
    const auto unsettled = [&key = key](const auto& resource) -> std::string {
      if (resource.state() == v1::STATE_READY || resource.state() == v1::STATE_DORMANT) return "";
      return fmt::format("{} is {} ({})", key.second, v1::State_Name(resource.state()),
                         resource.state_reason().message());
    };
    std::string why;
    if (key.first == Kind::kStage2Domain) why = unsettled(static_cast<const v1::Stage2Domain&>(*record));
    if (key.first == Kind::kViommu) why = unsettled(static_cast<const v1::Viommu&>(*record));
    if (key.first == Kind::kNestedDomain) why = unsettled(static_cast<const v1::NestedDomain&>(*record));
    if (key.first == Kind::kVdevice) {
      const auto& vdevice = static_cast<const v1::Vdevice&>(*record);
      why = unsettled(vdevice);
      for (const auto& host : hosts_) {
        const std::string pci = vdevice.device().substr(vdevice.device().rfind('/') + 1);
        if (host->name() == vdevice.host() && host->machine().hardware().broken.contains(pci) &&
            vdevice.state() == v1::STATE_FAILED) {
          why.clear();
        }
      }
    }
    if (key.first == Kind::kHost) {
      const auto& host = static_cast<const v1::Host&>(*record);
      const bool due = host.drain().evict() && !host.drain().has_evict_time() &&
                       FromTimestamp(host.drain().deadline()) + std::chrono::seconds(1) < server_clock_.Now();
      if (due) why = host.name() + " is to be evicted";
    }
    if (!why.empty()) return why;
  }
  if (watcher_->revision() != timeline_->published.rbegin()->first) return "the watch is behind";
  return "";
}

void World::CheckHosts() {
  for (const auto& host : hosts_) host->Check(*timeline_);
  if (rival_ != nullptr) rival_->Check(*timeline_);
}

void World::RunUntil(MonotonicTime until, const std::function<bool()>& done) {
  while (!checker_.failed() && scheduler_.Step(until)) {
    if (server_ != nullptr && server_->crashed()) {
      EndServer();
      disk_->AfterKill();
      RestartServerSoon();
    }
    if (zombie_ != nullptr && zombie_->crashed()) zombie_.reset();
    CheckHosts();
    if (done && done()) return;
  }
}

Outcome World::Run() {
  BuildFleet();
  const MonotonicTime begin = scheduler_.now();
  if (options_.faults) {
    storm_ = true;
    ChooseFaults();
  }
  RunUntil(begin + std::chrono::seconds(12));
  if (!checker_.failed()) {
    Calm();
    const MonotonicTime last = scheduler_.now() + kLongestSettling;
    std::string unsettled = "nothing was looked at";
    while (!checker_.failed() && !unsettled.empty() && scheduler_.now() < last) {
      const MonotonicTime next = scheduler_.now() + milliseconds(500);
      RunUntil(next);
      scheduler_.After(next - scheduler_.now(), [] {});
      const bool at_work = Repair();
      if (server_ == nullptr) StartServer();
      unsettled = at_work ? "the operator is at work" : Unsettled();
    }
    if (!unsettled.empty()) checker_.Fail("it does not settle: " + unsettled);
    if (!checker_.failed()) {
      for (const auto& host : hosts_) host->CheckSettled(*timeline_);
      for (const auto& host : hosts_) host->CheckEnd();
    }
  }
  scheduler_.Trace("end", "", static_cast<int64_t>(checker_.checks()));
  Outcome outcome;
  outcome.failure = checker_.failure();
  outcome.trace_hash = scheduler_.trace_hash();
  outcome.steps = scheduler_.steps();
  outcome.commits = checker_.checks();
  for (const auto& client : clients_) outcome.answers += client->answered();
  outcome.watch_events = watcher_->changes();
  outcome.reached = checker_.reached();
  outcome.invalidations = checker_.invalidations();
  outcome.virtual_time = scheduler_.now() - begin;
  EndRival();
  retired_.clear();
  hosts_.clear();  // before the servers that their streams speak to
  zombie_.reset();
  server_.reset();
  return outcome;
}

}  // namespace

Outcome Run(uint64_t seed, const RunOptions& options) { return World(seed, options).Run(); }

}  // namespace viommu::simulation
