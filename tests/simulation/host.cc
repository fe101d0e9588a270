#include "tests/simulation/host.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "agent/reconcile/backoff.h"
#include "agent/reconcile/kept.h"
#include "agent/session/hello.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/ste.h"
#include "common/error.h"
#include "tests/simulation/guest.h"

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

// Invalidations that come through the server are not recorded; guests' own do without (InvalidateForGuest()).
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
  std::set<std::string> handed_over;    // VMs whose memory the agent has
  std::map<std::string, int64_t> told;  // generations by uid: what its hello held, and what it was sent since
  std::optional<absl::Status> ended;
  bool dying = false;
  MonotonicTime work_due = MonotonicTime::max();
  MonotonicTime pump_due = MonotonicTime::max();
  agent::Backoff lost{milliseconds(100), milliseconds(1500)};
  agent::Backoff refused{milliseconds(500), milliseconds(3000)};
};

Host::Host(Scheduler& scheduler, Checker& checker, const Weather& weather, FindServer find_server, std::string name,
           const Machine::Hardware& hardware)
    : scheduler_(scheduler),
      checker_(checker),
      weather_(weather),
      find_server_(std::move(find_server)),
      name_(std::move(name)),
      clock_(scheduler),
      disk_(scheduler),
      machine_(std::make_unique<Machine>(hardware)),
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
    HandMemoryOver();
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
  VIOMMU_ASSIGN_OR_RETURN(const agent::Inventory inventory, machine_->Discover());
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
      agent::Reconciler::Open(*process_->journal, *machine_, process_->targets, inventory, std::move(options),
                              agent::AdoptKept(process_->journal->state(), *machine_, boot_id_)));
  process_->work.emplace(*process_->reconciler);
  return absl::OkStatus();
}

void Host::KillAgent() {
  if (process_ == nullptr) return;
  scheduler_.Trace("agent: end", name_);
  process_.reset();
  disk_.AfterKill();
  if (!machine_->hardware().keeps) {
    lent_.clear();
    foreign_ioas_ = false;
  }
  CheckLeftovers();
}

void Host::CheckEnd() {
  KillAgent();
  machine_->DropKept();
  // The hardware's work is a part of what a seed repeats.
  scheduler_.Trace("host: end", name_, static_cast<int64_t>(machine_->commands()),
                   static_cast<int64_t>(machine_->walks()));
  CheckLeftovers();
}

void Host::CheckLeftovers() {
  if (const std::string left = machine_->Leftovers(); !left.empty()) {
    checker_.Fail(fmt::format("the agent of {} has ended, and left {}", name_, left));
  }
}

void Host::Reboot() {
  KillAgent();
  scheduler_.Trace("host: reboot", name_);
  disk_.AfterPowerLoss();
  machine_ = std::make_unique<Machine>(Machine::Hardware(machine_->hardware()));
  boot_id_ = scheduler_.random.Uuid();
  synced_this_boot_ = false;
  lent_.clear();
  foreign_ioas_ = false;
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
  if (machine_->opened() == 0) return;
  agent::Context& context = machine_->OpenedContext(scheduler_.random.Below(machine_->opened()));
  std::vector<agent::ObjectInfo> objects = *context.Objects();
  if (objects.empty()) return;
  const auto faults = std::exchange(machine_->faults, {});  // those are the agent's
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
    foreign_ioas_ = context.AllocIoas().ok() || foreign_ioas_;
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
  machine_->faults = faults;
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

void Host::HandMemoryOver() {
  Process& process = *process_;
  for (size_t i = 0; i < Vms().size(); ++i) {
    const std::string& vm = Vms()[i];
    if (process.handed_over.contains(vm)) continue;
    if (process.reconciler->MapMemory(vm, kGuestMemory, GuestMemory(vm, i + 1)).ok()) {
      process.handed_over.insert(vm);
      lent_.insert(vm);
    }
    if (EndIfCrashed()) return;
  }
  if (process.handed_over.size() != Vms().size()) {
    After(milliseconds(100), [this] { HandMemoryOver(); });
  }
  Work();
}

void Host::RestartVmm() {
  if (process_ == nullptr || process_->reconciler == nullptr || process_->dying) return;
  const size_t i = scheduler_.random.Below(Vms().size());
  const std::string& vm = Vms()[i];
  if (!process_->handed_over.contains(vm)) return;
  scheduler_.Trace("vmm: restart", name_, static_cast<int64_t>(i));
  if (scheduler_.random.OneIn(2)) {
    process_->reconciler->ForgetOwner(i + 1);
    process_->handed_over.erase(vm);
    // What cannot be written down of a context that is kept is not done before it has to be.
    if (!machine_->hardware().keeps) lent_.erase(vm);
  } else if (process_->reconciler->UnmapMemory(i + 1, vm, kGuestMemory, GuestMemory(vm, i + 1).length).ok()) {
    process_->handed_over.erase(vm);
    lent_.erase(vm);
  }
  if (EndIfCrashed()) return;
  After(scheduler_.random.Between(milliseconds(1), milliseconds(800)), [this] { HandMemoryOver(); });
  Work();
}

void Host::InvalidateForGuest() {
  if (process_ == nullptr || process_->reconciler == nullptr || process_->dying) return;
  std::vector<const agent::HeldItem*> viommus;
  for (const auto& [uid, item] : process_->reconciler->held().items()) {
    if (item.resource.has_viommu()) viommus.push_back(&item);
  }
  if (!viommus.empty()) CheckInvalidations(*scheduler_.random.Pick(viommus));
}

void Host::CheckInvalidations(const agent::HeldItem& viommu) {
  if (doubted_) return;  // ids that the agent believes in may be others' by now
  const absl::StatusOr<agent::Targets::Lease> lease = process_->targets.Acquire(viommu.uid());
  if (!lease.ok()) return;
  agent::Context& context = *lease->object().context;
  const agent::ObjectId id = lease->object().id;
  const std::string& vm = viommu.resource.viommu().vm();
  const auto invalidate = [&](const smmuv3::Command& command) {
    const smmuv3::RawCommand raw = smmuv3::Encode(command);
    return context.Invalidate(id, agent::InvalidateDataType::kArmSmmuv3, {&raw, 1}).status;
  };
  std::map<std::string, std::string> before;
  for (const agent::DeviceInfo& device : machine_->inventory().devices) {
    const std::string& pci = device.pci_address;
    before[pci] = machine_->Read(pci).vm;
    if (!before[pci].empty() && machine_->Read(pci).walked) {
      return checker_.Fail(fmt::format("{} of {} does not find what it has just looked up", pci, name_));
    }
  }
  scheduler_.Trace("guest: invalidates", name_, id);
  const smmuv3::Opcode all = scheduler_.random.OneIn(2) ? smmuv3::Opcode::kTlbiNhAll : smmuv3::Opcode::kTlbiNsnhAll;
  if (const absl::Status status = invalidate({.opcode = all}); !status.ok()) {
    return checker_.Fail(fmt::format("{} takes no invalidation: {}", viommu.name(), status.ToString()));
  }
  // Those of the viommu first: they share what the first of them looks up.
  std::set<uint64_t> virt_ids;
  bool translates = false, walked = false;
  for (const auto& [pci, device] : machine_->HeldDevices()) {
    if (device.context != &context || device.viommu != id) continue;
    if (device.virt_id.has_value()) virt_ids.insert(*device.virt_id);
    const bool own_tables = device.attached_to == agent::ObjectKind::kNested &&
                            smmuv3::VsteKindOf(device.vste) == smmuv3::VsteKind::kTranslate;
    if (!own_tables || before.at(pci).empty()) continue;
    translates = true;
    walked = machine_->Read(pci).walked || walked;
  }
  if (translates && !walked) {
    return checker_.Fail(fmt::format("an invalidation of {} does not reach {}", viommu.name(), name_));
  }
  for (const auto& [pci, reached] : before) {
    const Machine::Access access = machine_->Read(pci);
    if (access.vm != reached) return checker_.Fail(fmt::format("{} of {} loses its way", pci, name_));
    if (!reached.empty() && reached != vm && access.walked) {
      return checker_.Fail(fmt::format("an invalidation of {} reaches {}, which {} has", viommu.name(), pci, reached));
    }
  }
  checker_.CountInvalidation();
  for (uint32_t virt_id = 0; virt_id < kVdevIds; ++virt_id) {
    const bool taken = invalidate({.opcode = smmuv3::Opcode::kCfgiCdAll, .sid = virt_id}).ok();
    if (taken == virt_ids.contains(virt_id)) continue;
    return checker_.Fail(
        fmt::format("{} {} a command for StreamID {}", viommu.name(), taken ? "takes" : "refuses", virt_id));
  }
}

bool Host::has_all_memory() const { return process_ != nullptr && process_->handed_over.size() == Vms().size(); }

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
  process.inbox.clear();
  process.ended.reset();
  process.session = std::make_unique<agent::Session>(
      ++process.sessions, agent::MakeHello(facts, machine_->inventory(), machine_->GetCapabilities()), *process.work,
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
  return {machine_->changes(),
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
  if (machine_->refused_for_group() > 0 && !doubted_ && !outdated_ && Obeys(timeline)) {
    return checker_.Fail(fmt::format("{} would give an IOMMU group to two VMs at once", name_));
  }
  if (const Looked now = Look(timeline); std::exchange(looked_, now) == now) return;
  const auto& held = machine_->HeldDevices();
  CheckReached();
  if (!synced_this_boot_ && machine_->opened() > 0) {
    return checker_.Fail(fmt::format("{} has objects before it was told everything in this boot", name_));
  }
  if (!Obeys(timeline)) return;  // it knows another store, and goes by that one
  for (const auto& [pci, device] : held) {
    // What is kept while there is no agent may have been given up for lost.
    if (doubted_ || process_ == nullptr || process_->reconciler == nullptr) break;
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
    if (const auto reached = machine_->Reached().find(pci);
        reached != machine_->Reached().end() && reached->second != vdevice.vm()) {
      return checker_.Fail(
          fmt::format("{} of {} reaches the memory of {}, and is {}'s", pci, name_, reached->second, vdevice.vm()));
    }
  }
  if (process_ == nullptr || process_->reconciler == nullptr || process_->dying || outdated_ || doubted_) return;
  for (const auto& [uid, item] : process_->reconciler->held().items()) {
    if (!item.deleting && timeline.released.contains(uid) && !timeline.forgotten.contains(uid)) {
      return checker_.Fail(fmt::format("{} holds {} again, which was released", name_, item.name()));
    }
  }
}

void Host::CheckReached() {
  const auto& held = machine_->HeldDevices();
  const auto& reached = machine_->Reached();
  checker_.CountReached(reached.size());
  for (const auto& [pci, vm] : reached) {
    if (!lent_.contains(vm)) {
      return checker_.Fail(fmt::format("{} of {} reaches memory of {}, which nobody lends it", pci, name_, vm));
    }
    if (held.contains(pci)) continue;
    // The IOMMU group goes as a whole.
    const bool with_group = std::any_of(held.begin(), held.end(), [&, &pci = pci, &vm = vm](const auto& device) {
      const auto found = reached.find(device.first);
      return machine_->GroupOf(device.first) == machine_->GroupOf(pci) && found != reached.end() && found->second == vm;
    });
    if (!with_group) return checker_.Fail(fmt::format("{} of {} is free, and reaches memory of {}", pci, name_, vm));
  }
}

void Host::CheckSettled(const Timeline& timeline) {
  size_t viommus = 0, nested = 0, vdevices = 0;
  std::set<std::pair<std::string, std::string>> stage2s;  // with the SMMU, where each has its own
  const auto& held = machine_->HeldDevices();
  const auto& reached = machine_->Reached();
  std::map<uint32_t, agent::ObjectId> groups;
  for (const agent::DeviceInfo& device : machine_->inventory().devices) {
    const auto found = held.find(device.pci_address);
    if (found == held.end()) continue;
    const agent::ObjectId attached = found->second.attached_id;
    if (groups.emplace(device.iommu_group, attached).first->second == attached) continue;
    checker_.Fail(
        fmt::format("{} of {} is attached to something else than its IOMMU group", device.pci_address, name_));
  }
  for (const auto& [key, record] : timeline.state) {
    if (!IsForHosts(key.first) || server::HostOf(key.first, *record) != name_) continue;
    const auto check = [&](const auto& resource, size_t* count) {
      if (count != nullptr && resource.state() == v1::STATE_READY) ++*count;
      if (resource.state() == v1::STATE_READY || resource.state() == v1::STATE_DORMANT) return;
      if (resource.state() == v1::STATE_FAILED) return;  // judged by its device
      checker_.Fail(fmt::format("{} never got out of {}", resource.name(), v1::State_Name(resource.state())));
    };
    if (key.first == Kind::kStage2Domain) {
      const auto& stage2 = static_cast<const v1::Stage2Domain&>(*record);
      check(stage2, nullptr);
      if (stage2.state() == v1::STATE_READY && !machine_->hardware().linux72) stage2s.insert({stage2.name(), ""});
    }
    if (key.first == Kind::kViommu) {
      const auto& viommu = static_cast<const v1::Viommu&>(*record);
      check(viommu, &viommus);
      if (viommu.state() == v1::STATE_READY && machine_->hardware().linux72) {
        stage2s.insert({viommu.stage2_domain(), viommu.smmu()});
      }
    }
    if (key.first == Kind::kNestedDomain) check(static_cast<const v1::NestedDomain&>(*record), &nested);
    if (key.first != Kind::kVdevice) continue;
    const auto& vdevice = static_cast<const v1::Vdevice&>(*record);
    check(vdevice, &vdevices);
    const std::string pci = vdevice.device().substr(vdevice.device().rfind('/') + 1);
    const auto found = held.find(pci);
    if (machine_->hardware().broken.contains(pci)) {
      if (vdevice.state() != v1::STATE_FAILED) checker_.Fail(fmt::format("{} cannot work, and is not FAILED", pci));
      continue;
    }
    if (found == held.end() || found->second.virt_id != vdevice.vdev_id() ||
        found->second.attached_to !=
            (vdevice.nested_domain().empty() ? agent::ObjectKind::kHwpt : agent::ObjectKind::kNested)) {
      checker_.Fail(fmt::format("{} of {} is not on its host as it is recorded", vdevice.name(), name_));
      continue;
    }
    bool aborts = false;
    if (const auto domain = timeline.state.find({Kind::kNestedDomain, vdevice.nested_domain()});
        domain != timeline.state.end()) {
      aborts = static_cast<const v1::NestedDomain&>(*domain->second).config().has_abort();
    }
    // What is mapped in an IOAS no backend tells: that it is not the agent's own is a drift that nobody sees.
    if (reached.contains(pci) == aborts && (aborts || !foreign_ioas_)) {
      checker_.Fail(fmt::format("{} of {} {} memory, as it should {}", vdevice.name(), name_,
                                aborts ? "reaches" : "does not reach", aborts ? "not" : ""));
    }
  }
  const std::array counts = {machine_->Count(agent::ObjectKind::kHwpt), machine_->Count(agent::ObjectKind::kViommu),
                             machine_->Count(agent::ObjectKind::kNested), machine_->Count(agent::ObjectKind::kVdevice)};
  if (counts != std::array{stage2s.size(), viommus, nested, vdevices}) {
    checker_.Fail(
        fmt::format("{} has {} stage 2s, {} viommus, {} nested domains and {} vdevices; recorded are {}, {}, "
                    "{} and {}",
                    name_, counts[0], counts[1], counts[2], counts[3], stage2s.size(), viommus, nested, vdevices));
  }
  if (const std::string lost = machine_->LostVmids(); !lost.empty()) checker_.Fail(name_ + ": " + lost);
  for (const auto& [uid, item] : process_->reconciler->held().items()) {
    if (item.resource.has_viommu()) CheckInvalidations(item);
  }
}

}  // namespace viommu::simulation
