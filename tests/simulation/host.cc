#include "tests/simulation/host.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "agent/backend.h"
#include "agent/reconcile/journal.h"
#include "agent/smmuv3/spec/ste.h"
#include "tests/simulation/guest.h"
#include "tests/simulation/guest_driver.h"

namespace viommu::simulation {

Host::Host(const Surroundings& surroundings, std::string name, const Machine::Hardware& hardware)
    : around_(surroundings),
      scheduler_(surroundings.scheduler),
      host_(surroundings.scheduler, std::move(name), hardware),
      checks_(surroundings.checker, host_) {}

// ---- What may happen ------------------------------------------------------------------------------------------------

void Host::StartAgent() {
  if (process_ != nullptr) return;
  process_ = std::make_unique<AgentProcess>(around_, host_, [this] {
    KillAgent();
    scheduler_.After(scheduler_.random.Between(milliseconds(20), milliseconds(800)), [this] { StartAgent(); });
  });
  const absl::Status opened = process_->Open();
  if (opened.ok()) {
    scheduler_.Trace("agent: start", host_.name);
    return process_->Begin();
  }
  scheduler_.Trace("agent: no start", host_.name, static_cast<int64_t>(opened.code()));
  if (!absl::IsUnavailable(opened)) {
    around_.checker.Fail(fmt::format("the agent of {} does not start: {}", host_.name, opened.ToString()));
  }
  KillAgent();
  scheduler_.After(milliseconds(500), [this] { StartAgent(); });
}

void Host::KillAgent() {
  if (process_ == nullptr) return;
  scheduler_.Trace("agent: end", host_.name);
  process_.reset();
  host_.disk.AfterKill();
  if (!host_.machine->hardware().keeps) {
    host_.lent.clear();
    host_.leaving.clear();
    host_.foreign_ioas = false;
  }
  checks_.CheckLeftovers();
}

void Host::Reboot() {
  KillAgent();
  scheduler_.Trace("host: reboot", host_.name);
  host_.disk.AfterPowerLoss();
  host_.machine = std::make_unique<Machine>(Machine::Hardware(host_.machine->hardware()));
  host_.boot_id = scheduler_.random.Uuid();
  host_.synced_this_boot = false;
  host_.lent.clear();
  host_.leaving.clear();
  host_.foreign_ioas = false;
}

void Host::PauseAgent(nanoseconds how_long) {
  if (process_ != nullptr) process_->Pause(how_long);
}

void Host::StartOver() {
  KillAgent();
  scheduler_.Trace("agent: start over", host_.name);
  host_.disk.Wipe();
  Forget();
  StartAgent();
}

void Host::Fence() {
  Reboot();
  host_.outdated = true;
}

void Host::Forget() {
  host_.obeyed = {};
  host_.outdated = false;
  host_.refused = v1::ERROR_REASON_UNSPECIFIED;
  host_.synced_this_boot = false;
}

void Host::TamperWithObjects() {
  if (host_.machine->opened() == 0) return;
  agent::Context& context = host_.machine->OpenedContext(scheduler_.random.Below(host_.machine->opened()));
  std::vector<agent::ObjectInfo> objects = *context.Objects();
  if (objects.empty()) return;
  const auto faults = std::exchange(host_.machine->faults, {});  // those are the agent's
  const auto some = [&]() -> const agent::ObjectInfo& { return scheduler_.random.Pick(objects); };
  const auto take_away = [&](const agent::ObjectInfo& object) {
    if (object.kind != agent::ObjectKind::kDevice) return static_cast<void>(context.Destroy(object.id));
    static_cast<void>(context.Detach(object.id));
    if (scheduler_.random.Below(2) == 0) static_cast<void>(context.UnbindDevice(object.pci_address));
  };
  host_.doubted = true;  // ids are used again: what the agent does now may hit another object
  const uint64_t what = scheduler_.random.Below(4);
  scheduler_.Trace("objects: tampered with", host_.name, static_cast<int64_t>(what),
                   static_cast<int64_t>(objects.size()));
  if (what == 0) {
    host_.foreign_ioas = context.AllocIoas().ok() || host_.foreign_ioas;
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
  host_.machine->faults = faults;
}

void Host::DamageJournal() {
  if (process_ == nullptr) return;
  KillAgent();
  agent::Journal::Options options;
  options.clock = &host_.clock;
  auto journal = agent::Journal::Open(host_.disk, kStateDirectory, options);
  if (!journal.ok()) return host_.disk.AfterKill();
  agent::journal::Record record;
  v1::Resource& other = *record.mutable_intent()->add_items();
  std::vector<const agent::HeldItem*> able;
  for (const auto& [uid, item] : (*journal)->state().items()) {
    const bool has = item.resource.has_vdevice() || item.resource.has_nested_domain() || item.resource.has_hw_queue();
    if (has && !item.deleting) able.push_back(&item);
  }
  if (!able.empty()) {
    other = scheduler_.random.Pick(able)->resource;
    const uint64_t by = 1 + scheduler_.random.Below(kVdevIds - 1);
    if (other.has_vdevice()) {
      other.mutable_vdevice()->set_vdev_id((other.vdevice().vdev_id() + by) % kVdevIds);
    } else if (other.has_nested_domain()) {
      v1::NestedConfig& config = *other.mutable_nested_domain()->mutable_config();
      if (config.has_abort()) {
        config.mutable_bypass();
      } else {
        config.mutable_abort();
      }
    } else {
      other.mutable_hw_queue()->set_nesting_parent_iova(other.hw_queue().nesting_parent_iova() ^ kGuestPage);
    }
    scheduler_.Trace("journal: damaged", host_.name, other.kind_case());
    // What it is otherwise about is for the report of drift to say.
    host_.doubted = true;
    host_.journal_damaged = true;
    static_cast<void>((*journal)->Append(record, agent::Journal::Sync::kYes));
  }
  journal->reset();
  host_.disk.AfterKill();
}

void Host::MendDrift() {
  if (process_ != nullptr) process_->MendDrift();
}

void Host::RestartVmm() {
  if (process_ != nullptr) process_->RestartVmm();
}

void Host::InvalidateForGuest() {
  const std::vector<const agent::HeldItem*> viommus = Made(agent::ItemKind::kViommu);
  if (!viommus.empty())
    GuestDriver(scheduler_, around_.checker, host_, *process_).Invalidate(*scheduler_.random.Pick(viommus));
}

void Host::UseHwQueue() {
  const std::vector<const agent::HeldItem*> queues = Made(agent::ItemKind::kHwQueue);
  if (!queues.empty())
    GuestDriver(scheduler_, around_.checker, host_, *process_).UseQueue(*scheduler_.random.Pick(queues));
}

std::vector<const agent::HeldItem*> Host::Made(agent::ItemKind kind) const {
  std::vector<const agent::HeldItem*> made;
  if (process_ == nullptr || process_->dying()) return made;
  for (const auto& [uid, item] : process_->held().items()) {
    if (item.kind == kind && process_->reconciler().HasObjects(uid)) made.push_back(&item);
  }
  return made;
}

void Host::BreakLink() {
  if (process_ == nullptr || process_->link() == nullptr) return;
  scheduler_.Trace("link: cut", host_.name);
  process_->link()->Cut();
}

void Host::HalfOpenLink(bool to_server, bool to_agent) {
  if (process_ == nullptr || process_->link() == nullptr) return;
  scheduler_.Trace("link: half open", host_.name, to_server, to_agent);
  process_->link()->GoHalfOpen(to_server, to_agent);
}

// ---- How it is ------------------------------------------------------------------------------------------------------

bool Host::has_all_memory() const { return process_ != nullptr && process_->has_all_memory(); }

uint64_t Host::drift() const {
  if (process_ == nullptr) return 0;
  const agent::Reconciler::DriftCounts counts = process_->reconciler().CountDrift();
  return counts.missing + counts.different + counts.strays;
}

bool Host::OnlyAReleaseTells(int64_t timeline, int64_t revision) const {
  if (process_ == nullptr || host_.obeyed.timeline != timeline) return false;
  const agent::HeldState& held = process_->held();
  return host_.obeyed.released > revision && held.synced_revision() <= revision &&
         std::all_of(held.items().begin(), held.items().end(),
                     [revision](const auto& item) { return item.second.generation() <= revision; });
}

std::string Host::agent_id() const { return process_ == nullptr ? "" : process_->held().identity().agent_id(); }

bool Host::ConnectedTo(const ServerProcess& server, nanoseconds within) const {
  return process_ != nullptr && process_->ConnectedTo(server, within);
}

// ---- What must hold -------------------------------------------------------------------------------------------------

void Host::Check(const Timeline& timeline) { checks_.Check(timeline, process_.get()); }

void Host::CheckSettled(const Timeline& timeline) {
  checks_.CheckSettled(timeline);
  GuestDriver driver(scheduler_, around_.checker, host_, *process_);
  for (const agent::HeldItem* viommu : Made(agent::ItemKind::kViommu)) driver.Invalidate(*viommu);
  for (const agent::HeldItem* queue : Made(agent::ItemKind::kHwQueue)) driver.UseQueue(*queue);
}

void Host::CheckEnd() {
  KillAgent();
  host_.machine->DropKept();
  // The hardware's work is a part of what a seed repeats.
  scheduler_.Trace("host: end", host_.name, static_cast<int64_t>(host_.machine->commands()),
                   static_cast<int64_t>(host_.machine->walks()));
  checks_.CheckLeftovers();
}

}  // namespace viommu::simulation
