#include "tests/simulation/host.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "agent/reconcile/backoff.h"
#include "agent/session/hello.h"
#include "agent/smmuv3/spec/ste.h"
#include "common/error.h"

namespace viommu::simulation {
namespace {

using server::Kind;

constexpr char kStateDirectory[] = "state";

// The session's way to the reconciler, without the driver's thread.
class DirectWork final : public agent::HostWork {
 public:
  explicit DirectWork(agent::Reconciler& reconciler) : reconciler_(reconciler) {}
  void FillHello(v1::Hello& hello) override { reconciler_.FillHello(hello); }
  absl::Status BeginSession(const v1::Welcome& welcome) override { return reconciler_.BeginSession(welcome); }
  void EndSession() override { reconciler_.EndSession(); }
  absl::Status Accept(const v1::Desired& desired) override { return reconciler_.Accept(desired); }
  bool TakeResults(int max, v1::Results& results) override { return reconciler_.TakeResults(max, results); }
  void Inspect(const v1::InspectCall& call, v1::InspectReply& reply) override { reconciler_.Inspect(call, reply); }
  int64_t revision() override { return reconciler_.revision(); }

 private:
  agent::Reconciler& reconciler_;
};

// Invalidations are not recorded; what they promise is checked elsewhere (docs/track-record.md).
class NoCalls final : public agent::InvalidateCalls {
 public:
  bool Submit(int64_t, const v1::InvalidateCall&) override { return false; }
};

// Whether agents are sent records of that kind.
bool IsForHosts(Kind kind) { return kind != Kind::kHost && kind != Kind::kDevice && kind != Kind::kQuota; }

// A refusal is tried again more slowly, as agent/session/client.h does.
bool IsRefusal(v1::ErrorReason reason) {
  return reason == v1::ERROR_REASON_CLUSTER_MISMATCH || reason == v1::ERROR_REASON_STORE_INCARNATION_MISMATCH ||
         reason == v1::ERROR_REASON_STALE_EPOCH || reason == v1::ERROR_REASON_STORE_OUT_OF_DATE ||
         reason == v1::ERROR_REASON_PROTOCOL_VIOLATION || reason == v1::ERROR_REASON_HOST_ALREADY_CONNECTED;
}

}  // namespace

// Members end in the reverse order: the session before the reconciler, whose objects go before the targets.
struct Host::Process {
  explicit Process(Scheduler& scheduler) : life(scheduler) {}
  ~Process() {
    if (link != nullptr) link->AgentLeaves();
  }

  Lifetime life;
  MonotonicTime paused_until{};
  agent::Targets targets;
  std::unique_ptr<agent::Journal> journal;
  std::unique_ptr<agent::Reconciler> reconciler;
  std::optional<DirectWork> work;
  NoCalls calls;
  std::unique_ptr<agent::Session> session;
  std::shared_ptr<Link> link;
  std::shared_ptr<std::shared_ptr<Timeline>> talks_to;  // set when the call has reached a server
  bool must_be_refused = false;
  int64_t sessions = 0;
  std::deque<v1::ConnectResponse> inbox;
  std::map<std::string, int64_t> told;  // generations by uid: what its hello held, and what it was sent since
  std::optional<absl::Status> ended;
  bool dying = false;
  MonotonicTime work_due = MonotonicTime::max();
  MonotonicTime pump_due = MonotonicTime::max();
  agent::Backoff lost{milliseconds(100), milliseconds(1500)};
  agent::Backoff refused{milliseconds(500), milliseconds(3000)};
};

Host::Host(Scheduler& scheduler, Checker& checker, const Weather& weather, FindServer find_server, std::string name)
    : scheduler_(scheduler),
      checker_(checker),
      weather_(weather),
      find_server_(std::move(find_server)),
      name_(std::move(name)),
      clock_(scheduler),
      disk_(scheduler),
      backend_(std::make_unique<agent::FakeBackend>()),
      boot_id_(scheduler.random.Uuid()) {}

Host::~Host() { process_.reset(); }

// ---- What may happen ------------------------------------------------------------------------------------------------

void Host::StartAgent() {
  if (process_ != nullptr) return;
  process_ = std::make_unique<Process>(scheduler_);
  const absl::Status opened = Open();
  if (opened.ok()) {
    scheduler_.Trace("agent: start", name_);
    Remember();
    Work();
    Connect();
    return;
  }
  scheduler_.Trace("agent: no start", name_, static_cast<int64_t>(opened.code()));
  if (!absl::IsUnavailable(opened)) {
    checker_.Fail(fmt::format("the agent of {} does not start: {}", name_, opened.ToString()));
  }
  KillAgent();
  scheduler_.After(milliseconds(500), [this] { StartAgent(); });
}

absl::Status Host::Open() {
  agent::Journal::Options journal_options;
  journal_options.compact_above_bytes = 2048;
  journal_options.clock = &clock_;
  VIOMMU_ASSIGN_OR_RETURN(process_->journal, agent::Journal::Open(disk_, kStateDirectory, journal_options));
  VIOMMU_ASSIGN_OR_RETURN(const agent::Inventory inventory, backend_->Discover());
  agent::Reconciler::Options options;
  options.host = name_;
  options.boot_id = boot_id_;
  options.clock = &clock_;
  options.random = [this] { return scheduler_.random.Fraction(); };
  options.new_agent_id = [this] { return scheduler_.random.Uuid(); };
  options.first_retry = milliseconds(100);
  options.longest_retry = milliseconds(1000);
  VIOMMU_ASSIGN_OR_RETURN(
      process_->reconciler,
      agent::Reconciler::Open(*process_->journal, *backend_, process_->targets, inventory, std::move(options)));
  process_->work.emplace(*process_->reconciler);
  return absl::OkStatus();
}

void Host::KillAgent() {
  if (process_ == nullptr) return;
  scheduler_.Trace("agent: end", name_);
  process_.reset();
  disk_.AfterKill();
}

void Host::Reboot() {
  KillAgent();
  scheduler_.Trace("host: reboot", name_);
  disk_.AfterPowerLoss();
  auto rebooted = std::make_unique<agent::FakeBackend>();
  rebooted->broken = backend_->broken;
  rebooted->group_size = backend_->group_size;
  backend_ = std::move(rebooted);
  boot_id_ = scheduler_.random.Uuid();
  synced_this_boot_ = false;
}

void Host::PauseAgent(nanoseconds how_long) {
  if (process_ == nullptr) return;
  scheduler_.Trace("agent: pause", name_, how_long.count());
  process_->paused_until = scheduler_.now() + how_long;
}

void Host::StartOver() {
  KillAgent();
  scheduler_.Trace("agent: start over", name_);
  disk_.Wipe();
  Forget();
  StartAgent();
}

void Host::Fence() {
  Reboot();
  outdated_ = true;
}

void Host::Forget() {
  memory_ = {};
  outdated_ = false;
  refused_ = v1::ERROR_REASON_UNSPECIFIED;
  synced_this_boot_ = false;
}

void Host::TamperWithObjects() {
  if (backend_->opened() == 0) return;
  agent::Context& context = backend_->OpenedContext(scheduler_.random.Below(backend_->opened()));
  std::vector<agent::ObjectInfo> objects = *context.Objects();
  if (objects.empty()) return;
  const auto faults = std::exchange(backend_->faults, {});  // those are the agent's
  const auto some = [&]() -> const agent::ObjectInfo& { return scheduler_.random.Pick(objects); };
  const auto take_away = [&](const agent::ObjectInfo& object) {
    if (object.kind != agent::ObjectKind::kDevice) return static_cast<void>(context.Destroy(object.id));
    static_cast<void>(context.Detach(object.id));
    if (scheduler_.random.Below(2) == 0) static_cast<void>(context.UnbindDevice(object.pci_address));
  };
  doubted_ = true;  // ids are used again: what the agent does now may hit another object
  const uint64_t what = scheduler_.random.Below(4);
  scheduler_.Trace("objects: tampered with", name_, static_cast<int64_t>(what), static_cast<int64_t>(objects.size()));
  if (what == 0) {
    static_cast<void>(context.AllocIoas());
    const agent::ObjectInfo viommu = some(), device = some();
    static_cast<void>(context.AllocNested(viommu.id, device.id, smmuv3::kAbortVste));
  } else if (what == 1) {
    // All of it, over and over until nothing more can go.
    for (size_t round = 0; round < objects.size(); ++round) {
      for (const agent::ObjectInfo& object : objects) take_away(object);
    }
  } else {
    for (uint64_t i = 0; i <= what; ++i) take_away(some());
  }
  backend_->faults = faults;
}

void Host::MendDrift() {
  if (process_ == nullptr || process_->reconciler == nullptr) return;
  scheduler_.Trace("objects: to be mended", name_);
  v1::InspectCall call;
  call.set_repair(true);
  for (bool more = true; more;) {
    call.set_max_items(static_cast<int32_t>(1 + scheduler_.random.Below(5)));
    v1::InspectReply reply;
    process_->reconciler->Inspect(call, reply);
    more = reply.more();
    if (more) call.set_after_uid(agent::UidOf(reply.items().rbegin()->believed()));
    // What was found is worked on while the rest is looked at.
    if (scheduler_.random.Below(2) == 0) static_cast<void>(process_->reconciler->Run(4));
    if (EndIfCrashed()) return;
  }
  Work();
}

uint64_t Host::drift() const {
  if (process_ == nullptr || process_->reconciler == nullptr) return 0;
  const agent::Reconciler::DriftCounts counts = process_->reconciler->CountDrift();
  return counts.missing + counts.different + counts.strays;
}

void Host::BreakLink() {
  if (process_ == nullptr || process_->link == nullptr) return;
  scheduler_.Trace("link: cut", name_);
  process_->link->Cut();
}

void Host::HalfOpenLink(bool to_server, bool to_agent) {
  if (process_ == nullptr || process_->link == nullptr) return;
  scheduler_.Trace("link: half open", name_, to_server, to_agent);
  process_->link->GoHalfOpen(to_server, to_agent);
}

// ---- The agent's process --------------------------------------------------------------------------------------------

// Events of the process wait while it stands still.
void Host::After(nanoseconds delay, std::function<void()> event) {
  process_->life.After(delay, [this, event = std::move(event)] {
    const MonotonicTime until = process_->paused_until;
    if (until > scheduler_.now()) return After(until - scheduler_.now(), event);
    if (process_->dying) return;
    event();
    if (process_ == nullptr) return;
    if (const nanoseconds wait = disk_.TakeWait(); wait > nanoseconds(0)) PauseAgent(wait);
  });
}

// A process whose disk has crashed under it says nothing more.
bool Host::EndIfCrashed() {
  if (!disk_.crashed() || process_->dying) return disk_.crashed();
  process_->dying = true;
  scheduler_.Trace("agent disk: crash", name_);
  process_->life.After(nanoseconds(0), [this] {
    KillAgent();
    scheduler_.After(scheduler_.random.Between(milliseconds(20), milliseconds(800)), [this] { StartAgent(); });
  });
  return true;
}

void Host::Connect() {
  if (EndIfCrashed()) return;
  Process& process = *process_;
  agent::HostFacts facts{name_, boot_id_, {}};
  const auto inventory = backend_->Discover();
  process.inbox.clear();
  process.ended.reset();
  process.session = std::make_unique<agent::Session>(
      ++process.sessions, agent::MakeHello(facts, *inventory, backend_->GetCapabilities()), *process.work,
      process.calls, scheduler_.now(), [this] { return scheduler_.random.Fraction(); });
  process.must_be_refused = false;
  process.told.clear();
  for (const auto& [uid, item] : process.reconciler->held().items()) process.told[uid] = item.generation();
  const int64_t number = process.sessions;
  // Each callback is of this session only.
  const auto mine = [this, number, life = &process] {
    return process_.get() == life && process_->sessions == number && process_->session != nullptr;
  };
  process.link = std::make_shared<Link>(scheduler_, weather_,
                                        Link::AgentEnd{.message =
                                                           [this, mine](const v1::ConnectResponse& message) {
                                                             if (!mine()) return;
                                                             process_->inbox.push_back(message);
                                                             After(nanoseconds(0), [this] { Pump(); });
                                                           },
                                                       .can_write =
                                                           [this, mine] {
                                                             if (mine()) After(nanoseconds(0), [this] { Pump(); });
                                                           },
                                                       .ended =
                                                           [this, mine](const absl::Status& status) {
                                                             if (!mine()) return;
                                                             process_->ended = status;
                                                             After(nanoseconds(0), [this] { Pump(); });
                                                           },
                                                       .hello_arrives =
                                                           [this, mine](v1::Hello& hello) {
                                                             if (on_hello_ && mine()) {
                                                               process_->must_be_refused = on_hello_(hello);
                                                             }
                                                           }});
  process.talks_to = std::make_shared<std::shared_ptr<Timeline>>();
  // The call travels on its own: the process may have ended, and another one begun, when it arrives.
  scheduler_.After(scheduler_.random.Between(weather_.least_delay, weather_.most_delay),
                   [this, link = process.link, talks_to = process.talks_to] {
                     ServerProcess* const server = find_server_();
                     if (server == nullptr) return link->Cut();
                     *talks_to = server->timeline_ptr();
                     server->Connect(link);
                   });
  After(nanoseconds(0), [this] { Pump(); });
}

void Host::EndSession(const absl::Status& why) {
  Process& process = *process_;
  const v1::ErrorReason reason = ReasonOf(why);
  scheduler_.Trace("agent: session ends", name_, static_cast<int64_t>(why.code()), reason);
  if (process.session->HasLasted(scheduler_.now())) {
    process.lost.Reset();
    process.refused.Reset();
  }
  process.session.reset();
  process.link->AgentLeaves();
  process.link.reset();
  const auto random = [this] { return scheduler_.random.Fraction(); };
  CheckRefusal(reason);
  const bool refusal = IsRefusal(reason);
  if (refusal) refused_ = reason;
  const nanoseconds wait = refusal ? process.refused.Next(random) : process.lost.Next(random);
  After(wait, [this] { Connect(); });
}

void Host::Hear(const v1::ConnectResponse& message) {
  Process& process = *process_;
  // Before it is received: should the process end in there, its journal may have it all the same.
  if (message.desired().sync_mark()) synced_this_boot_ = true;
  // The server's may have parted from the others since the welcome.
  if (message.has_desired()) memory_.timeline = (*process.talks_to)->id;
  const absl::Status status = process.session->Receive(message, scheduler_.now());
  if (EndIfCrashed()) return;
  if (!status.ok()) return EndSession(status);
  if (message.desired().sync_mark()) outdated_ = false;
  const Timeline& timeline = **process.talks_to;
  if (message.has_welcome()) {
    refused_ = v1::ERROR_REASON_UNSPECIFIED;
    scheduler_.Trace("agent: welcome", name_, message.welcome().epoch(), message.welcome().revision());
    if (message.welcome().epoch() < memory_.epoch) {
      checker_.Fail(fmt::format("the agent of {} obeys epoch {} after epoch {}", name_, message.welcome().epoch(),
                                memory_.epoch));
    }
    if (!Obeys(timeline)) {
      checker_.Fail(fmt::format("the agent of {} knew revision {} of timeline {}, and obeys timeline {}", name_,
                                memory_.revision, memory_.timeline, timeline.id));
    }
    if (process.must_be_refused) {
      checker_.Fail(fmt::format("a second agent of {} is welcomed while the first one is connected", name_));
    }
    memory_.timeline = timeline.id;
    memory_.epoch = message.welcome().epoch();
    Remember();
    if (on_welcome_) on_welcome_();
  } else if (message.has_desired()) {
    const v1::Desired& desired = message.desired();
    scheduler_.Trace("agent: desired", name_, desired.revision(), desired.items_size());
    RememberReleases(desired);
    for (const v1::Resource& item : desired.items()) {
      int64_t& generation = process.told[agent::UidOf(item)];
      generation = std::max(generation, agent::GenerationOf(item));
    }
    CheckTold(desired.revision());
    Remember();
    Work();
  } else if (message.has_heartbeat()) {
    CheckTold(message.heartbeat().revision());
  }
}

void Host::Pump() {
  Process& process = *process_;
  if (process.session == nullptr || EndIfCrashed()) return;
  const MonotonicTime now = scheduler_.now();
  while (!process.inbox.empty()) {
    const v1::ConnectResponse message = std::move(process.inbox.front());
    process.inbox.pop_front();
    Hear(message);
    if (process.session == nullptr || process.dying) return;
  }
  if (process.ended.has_value()) return EndSession(*process.ended);
  if (const absl::Status status = process.session->Check(now); !status.ok()) return EndSession(status);
  if (process.link->agent_can_write()) {
    if (auto request = process.session->Next(now)) {
      if (EndIfCrashed()) return;
      process.link->AgentWrites(*std::move(request));
    }
  }
  // While a write is going on, only the server's silence counts.
  const MonotonicTime due =
      process.link->agent_can_write() ? process.session->Deadline() : process.session->SilenceDeadline();
  if (due >= process.pump_due && process.pump_due > now) return;
  process.pump_due = due;
  After(std::max<nanoseconds>(due - now, milliseconds(1)), [this] {
    process_->pump_due = MonotonicTime::max();
    Pump();
  });
}

void Host::Work() {
  Process& process = *process_;
  if (process.work_due <= scheduler_.now() + std::chrono::microseconds(50)) return;
  process.work_due = scheduler_.now() + std::chrono::microseconds(50);
  After(std::chrono::microseconds(50), [this] {
    Process& self = *process_;
    self.work_due = MonotonicTime::max();
    const std::optional<MonotonicTime> next = self.reconciler->Run(4);
    if (EndIfCrashed()) return;
    if (next.has_value()) {
      After(std::max<nanoseconds>(*next - scheduler_.now(), std::chrono::microseconds(20)), [this] { Work(); });
    }
    Pump();
  });
}

// ---- What must hold -------------------------------------------------------------------------------------------------

bool Host::Obeys(const Timeline& timeline) const {
  int64_t newest = memory_.revision;
  // What was told and never synced may be lost with the power: it proves nothing where the store has skipped it
  // (docs/adr/0009).
  for (const auto& [behind, up_to] : timeline.gaps) {
    if (behind < newest && newest <= up_to) newest = std::max(memory_.generation, memory_.released);
  }
  return memory_.timeline == 0 || checker_.IsPastOf(timeline.id, memory_.timeline, newest);
}

bool Host::OnlyAReleaseTells(int64_t timeline, int64_t revision) const {
  if (process_ == nullptr || process_->reconciler == nullptr || memory_.timeline != timeline) return false;
  const agent::HeldState& held = process_->reconciler->held();
  return memory_.released > revision && held.synced_revision() <= revision &&
         std::all_of(held.items().begin(), held.items().end(),
                     [revision](const auto& item) { return item.second.generation() <= revision; });
}

void Host::CheckTold(int64_t revision) {
  const Timeline& timeline = **process_->talks_to;
  for (const auto& [uid, item] : process_->reconciler->held().items()) {
    const auto forgotten = timeline.forgotten.find(uid);
    if (item.deleting || forgotten == timeline.forgotten.end() || forgotten->second > revision) continue;
    return checker_.Fail(
        fmt::format("{} was told everything up to revision {}, and not to tear down {}, which went with "
                    "its host at revision {}",
                    name_, revision, item.name(), forgotten->second));
  }
  for (const auto& [key, record] : timeline.state) {
    if (!IsForHosts(key.first) || server::HostOf(key.first, *record) != name_) continue;
    const int64_t generation = server::GenerationOf(key.first, *record);
    if (generation > revision) continue;
    const auto told = process_->told.find(server::UidOf(key.first, *record));
    if (told != process_->told.end() && told->second >= generation) continue;
    return checker_.Fail(fmt::format("{} was told everything up to revision {}, and not {} of generation {}", name_,
                                     revision, key.second, generation));
  }
}

// Another store has to be called that: the reasons that are for older copies send the operator elsewhere.
void Host::CheckRefusal(v1::ErrorReason reason) {
  if (reason != v1::ERROR_REASON_STALE_EPOCH && reason != v1::ERROR_REASON_STORE_OUT_OF_DATE) return;
  const std::string& known = process_->reconciler->held().identity().store_incarnation();
  const Timeline* const timeline = process_->talks_to->get();
  if (known.empty() || timeline == nullptr || timeline->incarnation == known) return;
  checker_.Fail(fmt::format("{} met another store, and was told {}", name_, ReasonName(reason)));
}

void Host::Remember() {
  const agent::HeldState& held = process_->reconciler->held();
  memory_.generation = 0;
  for (const auto& [uid, item] : held.items()) memory_.generation = std::max(memory_.generation, item.generation());
  memory_.revision = std::max({held.synced_revision(), memory_.generation, memory_.released});
}

// Releases are durable before they are begun, so these are never forgotten.
void Host::RememberReleases(const v1::Desired& desired) {
  for (const v1::Resource& item : desired.items()) {
    if (agent::IsDeleting(item)) memory_.released = std::max(memory_.released, agent::GenerationOf(item));
  }
}

Host::Looked Host::Look(const Timeline& timeline) const {
  const bool open = process_ != nullptr && process_->reconciler != nullptr && !process_->dying;
  return {backend_->log.size(),
          backend_->contexts,
          timeline.id,
          timeline.published.rbegin()->first,
          open ? process_->journal->size_bytes() : 0,
          open ? process_->journal->compactions() : 0,
          synced_this_boot_};
}

const agent::HeldItem* Host::ForgottenHolder(const Timeline& timeline, const std::string& device) const {
  if (process_ == nullptr || process_->reconciler == nullptr) return nullptr;
  for (const auto& [uid, item] : process_->reconciler->held().items()) {
    if (item.resource.has_vdevice() && item.resource.vdevice().device() == device && timeline.forgotten.contains(uid)) {
      return &item;
    }
  }
  return nullptr;
}

std::string Host::agent_id() const {
  return process_ == nullptr || process_->reconciler == nullptr ? ""
                                                                : process_->reconciler->held().identity().agent_id();
}

bool Host::ConnectedTo(const ServerProcess& server, nanoseconds within) const {
  return process_ != nullptr && process_->link != nullptr && process_->talks_to->get() == &server.timeline() &&
         scheduler_.now() - process_->link->last_handed() < within && server.ConnectedAgent(name_) == agent_id();
}

void Host::Check(const Timeline& timeline) {
  if (backend_->refused_for_group > 0 && !doubted_ && !outdated_ && Obeys(timeline)) {
    return checker_.Fail(fmt::format("{} would give an IOMMU group to two VMs at once", name_));
  }
  if (const Looked now = Look(timeline); std::exchange(looked_, now) == now) return;
  const auto held = backend_->HeldDevices();
  if (!synced_this_boot_ && backend_->contexts > 0) {
    return checker_.Fail(fmt::format("{} has objects before it was told everything in this boot", name_));
  }
  if (!Obeys(timeline)) return;  // it knows another store, and goes by that one
  for (const auto& [pci, device] : held) {
    if (doubted_) break;
    const auto recorded = timeline.state.find({Kind::kDevice, name_ + "/devices/" + pci});
    const std::string owner =
        recorded == timeline.state.end() ? "" : static_cast<const v1::Device&>(*recorded->second).owner();
    const auto found = timeline.state.find({Kind::kVdevice, owner});
    if (const agent::HeldItem* old = ForgottenHolder(timeline, name_ + "/devices/" + pci)) {
      // Whoever declared the host dead has vouched for it. Once it is back, it tears down before it builds.
      const bool in_use =
          found != timeline.state.end() && static_cast<const v1::Vdevice&>(*found->second).state() == v1::STATE_READY;
      if (!in_use || old->deleting) continue;
      return checker_.Fail(fmt::format("{} has {} READY, and {} was never torn down", name_, owner, old->name()));
    }
    if (owner.empty()) return checker_.Fail(fmt::format("{} holds {}, which is free", name_, pci));
    if (found == timeline.state.end()) return checker_.Fail(fmt::format("{} has no owner {}", pci, owner));
    const auto& vdevice = static_cast<const v1::Vdevice&>(*found->second);
    if (device.virt_id.has_value() && *device.virt_id != vdevice.vdev_id() &&
        !(vdevice.has_previous_vdev_id() && *device.virt_id == vdevice.previous_vdev_id())) {
      return checker_.Fail(
          fmt::format("{} has {} as vdev_id {}, and {} is recorded", name_, pci, *device.virt_id, vdevice.vdev_id()));
    }
  }
  if (process_ == nullptr || process_->reconciler == nullptr || process_->dying || outdated_ || doubted_) return;
  for (const auto& [uid, item] : process_->reconciler->held().items()) {
    if (!item.deleting && timeline.released.contains(uid) && !timeline.forgotten.contains(uid)) {
      return checker_.Fail(fmt::format("{} holds {} again, which was released", name_, item.name()));
    }
  }
}

void Host::CheckSettled(const Timeline& timeline) {
  size_t stage2s = 0, viommus = 0, nested = 0, vdevices = 0;
  const auto held = backend_->HeldDevices();
  std::map<uint32_t, agent::ObjectId> groups;
  const agent::Inventory inventory = backend_->Discover().value();
  for (const agent::DeviceInfo& device : inventory.devices) {
    const auto found = held.find(device.pci_address);
    if (found == held.end()) continue;
    const agent::ObjectId attached = found->second.attached_id;
    if (groups.emplace(device.iommu_group, attached).first->second == attached) continue;
    checker_.Fail(
        fmt::format("{} of {} is attached to something else than its IOMMU group", device.pci_address, name_));
  }
  for (const auto& [key, record] : timeline.state) {
    if (!IsForHosts(key.first) || server::HostOf(key.first, *record) != name_) continue;
    const auto check = [&](const auto& resource, size_t& count) {
      count += resource.state() == v1::STATE_READY ? 1 : 0;
      if (resource.state() == v1::STATE_READY || resource.state() == v1::STATE_DORMANT) return;
      if (resource.state() == v1::STATE_FAILED) return;  // judged by its device
      checker_.Fail(fmt::format("{} never got out of {}", resource.name(), v1::State_Name(resource.state())));
    };
    if (key.first == Kind::kStage2Domain) check(static_cast<const v1::Stage2Domain&>(*record), stage2s);
    if (key.first == Kind::kViommu) check(static_cast<const v1::Viommu&>(*record), viommus);
    if (key.first == Kind::kNestedDomain) check(static_cast<const v1::NestedDomain&>(*record), nested);
    if (key.first != Kind::kVdevice) continue;
    const auto& vdevice = static_cast<const v1::Vdevice&>(*record);
    check(vdevice, vdevices);
    const std::string pci = vdevice.device().substr(vdevice.device().rfind('/') + 1);
    const auto found = held.find(pci);
    if (backend_->broken.contains(pci)) {
      if (vdevice.state() != v1::STATE_FAILED) checker_.Fail(fmt::format("{} cannot work, and is not FAILED", pci));
      continue;
    }
    if (found == held.end() || found->second.virt_id != vdevice.vdev_id() ||
        found->second.attached_to != (vdevice.nested_domain().empty() ? "stage2" : "nested")) {
      checker_.Fail(fmt::format("{} of {} is not on its host as it is recorded", vdevice.name(), name_));
    }
  }
  if (backend_->Count("stage2") != stage2s || backend_->Count("viommu") != viommus ||
      backend_->Count("nested") != nested || backend_->Count("vdevice") != vdevices) {
    checker_.Fail(
        fmt::format("{} has {} stage 2s, {} viommus, {} nested domains and {} vdevices; recorded are {}, {}, "
                    "{} and {}",
                    name_, backend_->Count("stage2"), backend_->Count("viommu"), backend_->Count("nested"),
                    backend_->Count("vdevice"), stage2s, viommus, nested, vdevices));
  }
}

}  // namespace viommu::simulation
