#include "tests/simulation/agent_process.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "agent/reconcile/kept.h"
#include "agent/session/hello.h"
#include "common/error.h"
#include "tests/simulation/guest.h"

namespace viommu::simulation {
namespace {

// A refusal is tried again more slowly, as agent/session/client.h does.
bool IsRefusal(v1::ErrorReason reason) {
  return reason == v1::ERROR_REASON_CLUSTER_MISMATCH || reason == v1::ERROR_REASON_STORE_INCARNATION_MISMATCH ||
         reason == v1::ERROR_REASON_STALE_EPOCH || reason == v1::ERROR_REASON_STORE_OUT_OF_DATE ||
         reason == v1::ERROR_REASON_PROTOCOL_VIOLATION || reason == v1::ERROR_REASON_HOST_ALREADY_CONNECTED;
}

}  // namespace

AgentProcess::AgentProcess(const Surroundings& surroundings, HostState& host, std::function<void()> on_crash)
    : around_(surroundings),
      scheduler_(surroundings.scheduler),
      checker_(surroundings.checker),
      host_(host),
      on_crash_(std::move(on_crash)),
      life_(surroundings.scheduler) {}

AgentProcess::~AgentProcess() {
  life_.End();
  if (link_ != nullptr) link_->AgentLeaves();
}

absl::Status AgentProcess::Open() {
  agent::Journal::Options journal_options;
  journal_options.compact_above_bytes = 2048;
  journal_options.clock = &host_.clock;
  VIOMMU_ASSIGN_OR_RETURN(journal_, agent::Journal::Open(host_.disk, kStateDirectory, journal_options));
  VIOMMU_ASSIGN_OR_RETURN(const agent::Inventory inventory, host_.machine->Discover());
  agent::Reconciler::Options options;
  options.host = host_.name;
  options.boot_id = host_.boot_id;
  options.clock = &host_.clock;
  options.random = [this] { return scheduler_.random.Fraction(); };
  options.new_agent_id = [this] { return scheduler_.random.Uuid(); };
  options.first_retry = milliseconds(100);
  options.longest_retry = milliseconds(1000);
  VIOMMU_ASSIGN_OR_RETURN(reconciler_,
                          agent::Reconciler::Open(*journal_, *host_.machine, targets_, inventory, std::move(options),
                                                  agent::AdoptKept(journal_->state(), *host_.machine, host_.boot_id)));
  work_.emplace(*reconciler_);
  return absl::OkStatus();
}

void AgentProcess::Begin() {
  Remember();
  // VMMs come back when they notice that the agent is there again.
  if (scheduler_.random.OneIn(2)) {
    HandMemoryOver();
  } else {
    After(scheduler_.random.Between(milliseconds(1), milliseconds(300)), [this] { HandMemoryOver(); });
  }
  Work();
  Connect();
}

void AgentProcess::Pause(nanoseconds how_long) {
  scheduler_.Trace("agent: pause", host_.name, how_long.count());
  paused_until_ = scheduler_.now() + how_long;
}

// Events of the process wait while it stands still.
void AgentProcess::After(nanoseconds delay, std::function<void()> event) {
  life_.After(delay, [this, event = std::move(event)] {
    const MonotonicTime until = paused_until_;
    if (until > scheduler_.now()) return After(until - scheduler_.now(), event);
    if (dying_) return;
    event();
    if (const nanoseconds wait = host_.disk.TakeWait(); wait > nanoseconds(0)) Pause(wait);
  });
}

// A process whose disk has crashed under it says nothing more.
bool AgentProcess::EndIfCrashed() {
  if (!host_.disk.crashed() || dying_) return host_.disk.crashed();
  dying_ = true;
  scheduler_.Trace("agent disk: crash", host_.name);
  // Not from within whatever it is doing.
  life_.After(nanoseconds(0), [this] { on_crash_(); });
  return true;
}

// ---- Its session ----------------------------------------------------------------------------------------------------

void AgentProcess::Connect() {
  if (EndIfCrashed()) return;
  agent::HostFacts facts{host_.name, host_.boot_id, {}};
  inbox_.clear();
  ended_.reset();
  session_ = std::make_unique<agent::Session>(
      ++sessions_, agent::MakeHello(facts, host_.machine->inventory(), host_.machine->GetCapabilities()), *work_,
      calls_, scheduler_.now(), [this] { return scheduler_.random.Fraction(); });
  must_be_refused_ = false;
  told_.clear();
  for (const auto& [uid, item] : reconciler_->held().items()) told_[uid] = item.generation();
  link_ = std::make_shared<Link>(scheduler_, around_.weather, MakeEnd());
  talks_to_ = std::make_shared<std::shared_ptr<Timeline>>();
  // The call travels on its own: the process may have ended, and another one begun, when it arrives.
  scheduler_.After(scheduler_.random.Between(around_.weather.least_delay, around_.weather.most_delay),
                   [&around = around_, link = link_, talks_to = talks_to_] {
                     ServerProcess* const server = around.find_server();
                     if (server == nullptr) return link->Cut();
                     *talks_to = server->timeline_ptr();
                     server->Connect(link);
                   });
  After(nanoseconds(0), [this] { Pump(); });
}

Link::AgentEnd AgentProcess::MakeEnd() {
  // Each callback is of this session only; what is under way to the server may arrive after the process has ended.
  const auto mine = [this, number = sessions_, life = life_.handle()] {
    return !life.expired() && sessions_ == number && session_ != nullptr;
  };
  return {.message =
              [this, mine](const v1::ConnectResponse& message) {
                if (!mine()) return;
                inbox_.push_back(message);
                After(nanoseconds(0), [this] { Pump(); });
              },
          .can_write =
              [this, mine] {
                if (mine()) After(nanoseconds(0), [this] { Pump(); });
              },
          .ended =
              [this, mine](const absl::Status& status) {
                if (!mine()) return;
                ended_ = status;
                After(nanoseconds(0), [this] { Pump(); });
              },
          .hello_arrives =
              [this, mine](v1::Hello& hello) {
                if (mine() && host_.on_hello) must_be_refused_ = host_.on_hello(hello);
              }};
}

void AgentProcess::EndSession(const absl::Status& why) {
  const v1::ErrorReason reason = ReasonOf(why);
  scheduler_.Trace("agent: session ends", host_.name, static_cast<int64_t>(why.code()), reason);
  if (session_->HasLasted(scheduler_.now())) {
    after_loss_.Reset();
    after_refusal_.Reset();
  }
  session_.reset();
  link_->AgentLeaves();
  link_.reset();
  const auto random = [this] { return scheduler_.random.Fraction(); };
  CheckRefusal(reason);
  const bool refusal = IsRefusal(reason);
  if (refusal) host_.refused = reason;
  const nanoseconds wait = refusal ? after_refusal_.Next(random) : after_loss_.Next(random);
  After(wait, [this] { Connect(); });
}

void AgentProcess::Hear(const v1::ConnectResponse& message) {
  // Before it is received: should the process end in there, its journal may have it all the same.
  if (message.desired().sync_mark()) host_.synced_this_boot = true;
  // The server's may have parted from the others since the welcome.
  if (message.has_desired()) host_.obeyed.timeline = (*talks_to_)->id;
  const absl::Status status = session_->Receive(message, scheduler_.now());
  if (EndIfCrashed()) return;
  if (!status.ok()) return EndSession(status);
  if (message.desired().sync_mark()) host_.outdated = false;
  const Timeline& timeline = **talks_to_;
  if (message.has_welcome()) {
    host_.refused = v1::ERROR_REASON_UNSPECIFIED;
    scheduler_.Trace("agent: welcome", host_.name, message.welcome().epoch(), message.welcome().revision());
    if (message.welcome().epoch() < host_.obeyed.epoch) {
      checker_.Fail(fmt::format("the agent of {} obeys epoch {} after epoch {}", host_.name, message.welcome().epoch(),
                                host_.obeyed.epoch));
    }
    if (!host_.MayObey(checker_, timeline)) {
      checker_.Fail(fmt::format("the agent of {} knew revision {} of timeline {}, and obeys timeline {}", host_.name,
                                host_.obeyed.revision, host_.obeyed.timeline, timeline.id));
    }
    if (must_be_refused_) {
      checker_.Fail(fmt::format("a second agent of {} is welcomed while the first one is connected", host_.name));
    }
    host_.obeyed.timeline = timeline.id;
    host_.obeyed.epoch = message.welcome().epoch();
    Remember();
    if (host_.on_welcome) host_.on_welcome();
  } else if (message.has_desired()) {
    const v1::Desired& desired = message.desired();
    scheduler_.Trace("agent: desired", host_.name, desired.revision(), desired.items_size());
    RememberReleases(desired);
    for (const v1::Resource& item : desired.items()) {
      int64_t& generation = told_[agent::UidOf(item)];
      generation = std::max(generation, agent::GenerationOf(item));
    }
    CheckTold(desired.revision());
    Remember();
    Work();
  } else if (message.has_heartbeat()) {
    CheckTold(message.heartbeat().revision());
  }
}

void AgentProcess::Pump() {
  if (session_ == nullptr || EndIfCrashed()) return;
  const MonotonicTime now = scheduler_.now();
  while (!inbox_.empty()) {
    const v1::ConnectResponse message = std::move(inbox_.front());
    inbox_.pop_front();
    Hear(message);
    if (session_ == nullptr || dying_) return;
  }
  if (ended_.has_value()) return EndSession(*ended_);
  if (const absl::Status status = session_->Check(now); !status.ok()) return EndSession(status);
  if (link_->agent_can_write()) {
    if (auto request = session_->Next(now)) {
      if (EndIfCrashed()) return;
      link_->AgentWrites(*std::move(request));
    }
  }
  // While a write is going on, only the server's silence counts.
  const MonotonicTime due = link_->agent_can_write() ? session_->Deadline() : session_->SilenceDeadline();
  if (due >= pump_due_ && pump_due_ > now) return;
  pump_due_ = due;
  After(std::max<nanoseconds>(due - now, milliseconds(1)), [this] {
    pump_due_ = MonotonicTime::max();
    Pump();
  });
}

void AgentProcess::Work() {
  if (work_due_ <= scheduler_.now() + std::chrono::microseconds(50)) return;
  work_due_ = scheduler_.now() + std::chrono::microseconds(50);
  After(std::chrono::microseconds(50), [this] {
    work_due_ = MonotonicTime::max();
    const std::optional<MonotonicTime> next = reconciler_->Run(4);
    if (EndIfCrashed()) return;
    if (next.has_value()) {
      After(std::max<nanoseconds>(*next - scheduler_.now(), std::chrono::microseconds(20)), [this] { Work(); });
    }
    Pump();
  });
}

// ---- VMMs and operators ---------------------------------------------------------------------------------------------

void AgentProcess::HandMemoryOver() {
  for (size_t i = 0; i < Vms().size(); ++i) {
    const std::string& vm = Vms()[i];
    if (handed_over_.contains(vm)) continue;
    if (reconciler_->MapMemory(vm, kGuestMemory, GuestMemory(vm, i + 1)).ok()) {
      handed_over_.insert(vm);
      host_.lent.insert(vm);
      host_.leaving.erase(vm);
    }
    if (EndIfCrashed()) return;
  }
  if (handed_over_.size() != Vms().size()) {
    After(milliseconds(100), [this] { HandMemoryOver(); });
  }
  Work();
}

void AgentProcess::RestartVmm() {
  if (dying_) return;
  const size_t i = scheduler_.random.Below(Vms().size());
  const std::string& vm = Vms()[i];
  if (!handed_over_.contains(vm)) return;
  scheduler_.Trace("vmm: restart", host_.name, static_cast<int64_t>(i));
  if (scheduler_.random.OneIn(2)) {
    reconciler_->ForgetOwner(i + 1);
    handed_over_.erase(vm);
    // What cannot be written down of a context that is kept is not done before it has to be.
    if (!host_.machine->hardware().keeps) {
      host_.lent.erase(vm);
      host_.leaving.insert(vm);
    }
  } else if (reconciler_->UnmapMemory(i + 1, vm, kGuestMemory, GuestMemory(vm, i + 1).length).ok()) {
    if (!host_.doubted && HasQueue(vm)) {
      checker_.Fail(fmt::format("memory of {} on {} is given back, and a hardware queue lies in it", vm, host_.name));
    }
    handed_over_.erase(vm);
    host_.lent.erase(vm);
  }
  if (EndIfCrashed()) return;
  After(scheduler_.random.Between(milliseconds(1), milliseconds(800)), [this] { HandMemoryOver(); });
  Work();
}

bool AgentProcess::HasQueue(const std::string& vm) const {
  const auto& items = held().items();
  return std::any_of(items.begin(), items.end(), [&](const auto& entry) {
    const auto& [uid, item] = entry;
    return item.resource.has_hw_queue() && item.resource.hw_queue().vm() == vm && reconciler_->HasObjects(uid);
  });
}

void AgentProcess::MendDrift() {
  scheduler_.Trace("objects: to be mended", host_.name);
  v1::InspectCall call;
  call.set_repair(true);
  for (bool more = true; more;) {
    call.set_max_items(static_cast<int32_t>(1 + scheduler_.random.Below(5)));
    v1::InspectReply reply;
    reconciler_->Inspect(call, reply);
    more = reply.more();
    if (more) call.set_after_uid(agent::UidOf(reply.items().rbegin()->believed()));
    // What was found is worked on while the rest is looked at.
    if (scheduler_.random.Below(2) == 0) static_cast<void>(reconciler_->Run(4));
    if (EndIfCrashed()) return;
  }
  Work();
}

// ---- What it has to be told -----------------------------------------------------------------------------------------

void AgentProcess::CheckTold(int64_t revision) {
  const Timeline& timeline = **talks_to_;
  for (const auto& [uid, item] : reconciler_->held().items()) {
    const auto forgotten = timeline.forgotten.find(uid);
    if (item.deleting || forgotten == timeline.forgotten.end() || forgotten->second > revision) continue;
    return checker_.Fail(
        fmt::format("{} was told everything up to revision {}, and not to tear down {}, which went with "
                    "its host at revision {}",
                    host_.name, revision, item.name(), forgotten->second));
  }
  for (const auto& [key, record] : timeline.state) {
    if (!IsForHosts(key.first) || server::HostOf(key.first, *record) != host_.name) continue;
    const int64_t generation = server::GenerationOf(key.first, *record);
    if (generation > revision) continue;
    const auto told = told_.find(server::UidOf(key.first, *record));
    if (told != told_.end() && told->second >= generation) continue;
    return checker_.Fail(fmt::format("{} was told everything up to revision {}, and not {} of generation {}",
                                     host_.name, revision, key.second, generation));
  }
}

// Another store has to be called that: the reasons that are for older copies send the operator elsewhere.
void AgentProcess::CheckRefusal(v1::ErrorReason reason) {
  if (reason != v1::ERROR_REASON_STALE_EPOCH && reason != v1::ERROR_REASON_STORE_OUT_OF_DATE) return;
  const std::string& known = reconciler_->held().identity().store_incarnation();
  const Timeline* const timeline = talks_to_->get();
  if (known.empty() || timeline == nullptr || timeline->incarnation == known) return;
  checker_.Fail(fmt::format("{} met another store, and was told {}", host_.name, ReasonName(reason)));
}

void AgentProcess::Remember() {
  const agent::HeldState& held = reconciler_->held();
  host_.obeyed.generation = 0;
  for (const auto& [uid, item] : held.items())
    host_.obeyed.generation = std::max(host_.obeyed.generation, item.generation());
  host_.obeyed.revision = std::max({held.synced_revision(), host_.obeyed.generation, host_.obeyed.released});
}

// Releases are durable before they are begun, so these are never forgotten.
void AgentProcess::RememberReleases(const v1::Desired& desired) {
  for (const v1::Resource& item : desired.items()) {
    if (agent::IsDeleting(item)) host_.obeyed.released = std::max(host_.obeyed.released, agent::GenerationOf(item));
  }
}

bool AgentProcess::has_all_memory() const { return handed_over_.size() == Vms().size(); }

bool AgentProcess::ConnectedTo(const ServerProcess& server, nanoseconds within) const {
  return link_ != nullptr && talks_to_->get() == &server.timeline() &&
         scheduler_.now() - link_->last_handed() < within &&
         server.ConnectedAgent(host_.name) == held().identity().agent_id();
}

}  // namespace viommu::simulation
