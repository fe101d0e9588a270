#include "agent/reconcile/reconciler.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "common/error.h"
#include "common/log.h"
#include "common/mutation.h"

namespace viommu::agent {
namespace {

v1::ItemResult ResultOf(const v1::Resource& item, v1::Outcome outcome) {
  v1::ItemResult result;
  result.set_uid(UidOf(item));
  result.set_name(NameOf(item));
  result.set_generation(GenerationOf(item));
  result.set_outcome(outcome);
  return result;
}

v1::ItemResult FailureOf(const v1::Resource& item, v1::StateReason reason) {
  v1::ItemResult result = ResultOf(item, v1::OUTCOME_FAILED);
  *result.mutable_reason() = std::move(reason);
  return result;
}

absl::Status Violation(std::string message) {
  return Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_PROTOCOL_VIOLATION).Message("{}", message);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Reconciler>> Reconciler::Open(Journal& journal, Backend& backend, Targets& targets,
                                                             const Inventory& inventory, Options options,
                                                             std::vector<AdoptedContext> adopted) {
  journal::Identity identity = journal.state().identity();
  if (identity.agent_id().empty()) {
    identity.set_agent_id(options.new_agent_id());
    identity.set_host(options.host);
    journal::Record record;
    *record.mutable_identity() = identity;
    VIOMMU_RETURN_IF_ERROR(journal.Append(record, Journal::Sync::kYes));
  } else if (identity.host() != options.host) {
    return absl::FailedPreconditionError(fmt::format(
        "{} belongs to {}, this agent is {}; start it with --host {} or with another --state-dir", journal.path(),
        identity.host(), options.host, identity.host().substr(identity.host().rfind('/') + 1)));
  }
  std::unique_ptr<Reconciler> reconciler(new Reconciler(journal, backend, targets, inventory, std::move(options)));
  reconciler->Adopt(std::move(adopted));
  for (const auto& [uid, item] : reconciler->held().items()) {
    if (reconciler->TaskOf(item) == Task::kUnmake) reconciler->Activate(uid);
  }
  reconciler->realizer_.ForgetUsers(reconciler->options_.boot_id);
  return reconciler;
}

Reconciler::Reconciler(Journal& journal, Backend& backend, Targets& targets, const Inventory& inventory,
                       Options options)
    : journal_(journal),
      targets_(targets),
      options_(std::move(options)),
      realizer_(
          backend, targets, journal.state(), inventory,
          {.begin = [this](const HeldItem& item, Operation operation) { return Begin(item, operation); },
           .has_failed =
               [this](const std::string& uid) {
                 const auto it = runtimes_.find(uid);
                 return it != runtimes_.end() && it->second->attempted &&
                        (it->second->last.kind == Step::Kind::kFailed || it->second->last.kind == Step::Kind::kBlocked);
               },
           .note = [this](journal::Kept note) { return Note(std::move(note)); },
           .note_user = [this](journal::VmUser user) { return NoteUser(std::move(user)); },
           .events = options_.events}),
      believes_(held().synced_boot_id() == options_.boot_id || Mutated(Mutation::kIgnoreBootId)),
      queue_backoff_(options_.first_retry, options_.longest_retry),
      revision_(held().synced_revision()) {
  for (const auto& [uid, item] : held().items()) Activate(uid);
}

void Reconciler::Adopt(std::vector<AdoptedContext> adopted) {
  std::set<std::string> lost;
  for (const auto& [vm, kept] : held().kept()) lost.insert(vm);
  for (AdoptedContext& context : adopted) {
    lost.erase(context.vm);
    realizer_.Adopt(std::move(context));
  }
  for (const std::string& vm : lost) {
    journal::Kept note;
    note.set_vm(vm);
    note.set_closed(true);
    if (const absl::Status status = Note(std::move(note)); !status.ok()) {
      // It is not found the next time either: its descriptors are gone.
      VIOMMU_LOG(kWarning, "journal write failed", {{"record", "kept"}, {"vm", vm}, {"status", status}});
    }
  }
}

absl::Status Reconciler::NoteUser(journal::VmUser user) {
  user.set_boot_id(options_.boot_id);
  journal::Record record;
  *record.mutable_vm_user() = std::move(user);
  return journal_.Append(std::move(record), Journal::Sync::kNo);
}

absl::Status Reconciler::Note(journal::Kept note) {
  if (note.has_opened()) note.mutable_opened()->set_boot_id(options_.boot_id);
  journal::Record record;
  *record.mutable_kept() = std::move(note);
  return journal_.Append(std::move(record), Journal::Sync::kNo);
}

// ---- The session ----------------------------------------------------------------------------------------------------

void Reconciler::FillHello(v1::Hello& hello) const {
  const journal::Identity& identity = held().identity();
  // An agent that is told its cluster says so before it has met one, so that a server of another cluster records
  // nothing.
  hello.set_cluster_id(identity.cluster_id().empty() ? options_.cluster_id : identity.cluster_id());
  hello.set_store_incarnation(identity.store_incarnation());
  hello.set_epoch(identity.epoch());
  hello.set_start_id(identity.start_id());
  hello.set_revision(held().told_revision());
  hello.set_released_generation(held().newest_release());
  hello.set_agent_id(identity.agent_id());
  for (const auto& [uid, item] : held().items()) {
    auto* entry = hello.add_held();
    entry->set_uid(uid);
    entry->set_generation(item.generation());
    const Runtime& runtime = *runtimes_.at(uid);
    entry->set_settled(!item.deleting && runtime.attempted &&
                       (runtime.last.kind == Step::Kind::kApplied || runtime.last.kind == Step::Kind::kDormant));
  }
}

absl::Status Reconciler::BeginSession(const v1::Welcome& welcome) {
  journal::Identity identity = held().identity();
  const std::string& cluster = options_.cluster_id.empty() ? identity.cluster_id() : options_.cluster_id;
  if (welcome.cluster_id().empty() || welcome.store_incarnation().empty() || welcome.epoch() <= 0) {
    return Violation("the server's welcome lacks cluster id, store incarnation or epoch");
  }
  if ((!cluster.empty() && welcome.cluster_id() != cluster) ||
      (!identity.cluster_id().empty() && welcome.cluster_id() != identity.cluster_id())) {
    return Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_CLUSTER_MISMATCH)
        .Message(
            "the server belongs to cluster {}, this agent to cluster {}; point --server at the right one, or move "
            "the agent's state directory away to let it join another cluster",
            welcome.cluster_id(), cluster);
  }
  if (!identity.store_incarnation().empty() && welcome.store_incarnation() != identity.store_incarnation() &&
      !Mutated(Mutation::kIgnoreIncarnation)) {
    return Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_STORE_INCARNATION_MISMATCH)
        .Message(
            "the server has store {}, this agent knows store {}: it was wiped or restored; bring the right store "
            "back, or move the agent's state directory away to start over from the server's record",
            welcome.store_incarnation(), identity.store_incarnation());
  }
  if (welcome.epoch() < identity.epoch() && !Mutated(Mutation::kIgnoreEpoch)) {
    return Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_STALE_EPOCH)
        .Message(
            "the server speaks in epoch {}, this agent has obeyed epoch {}: an older server is still running; "
            "stop it",
            welcome.epoch(), identity.epoch());
  }
  if (welcome.revision() < held().told_revision()) {
    return Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_STORE_OUT_OF_DATE)
        .Message(
            "the server's store is at revision {}, this agent was told everything up to revision {}: an older copy of "
            "the store was restored; bring the newer one back, or move the agent's state directory away once nothing "
            "runs on the host",
            welcome.revision(), held().told_revision());
  }
  if (welcome.cluster_id() != identity.cluster_id() || welcome.store_incarnation() != identity.store_incarnation() ||
      welcome.epoch() != identity.epoch() || welcome.start_id() != identity.start_id()) {
    identity.set_cluster_id(welcome.cluster_id());
    identity.set_store_incarnation(welcome.store_incarnation());
    identity.set_epoch(welcome.epoch());
    identity.set_start_id(welcome.start_id());
    journal::Record record;
    *record.mutable_identity() = identity;
    VIOMMU_RETURN_IF_ERROR(journal_.Append(record, Journal::Sync::kYes));
  }
  EndSession();
  in_session_ = true;
  epoch_ = welcome.epoch();
  for (const auto& [uid, runtime] : runtimes_) {
    if (runtime->answer) Send(*runtime->answer);
  }
  return absl::OkStatus();
}

void Reconciler::EndSession() {
  in_session_ = false;
  in_sync_ = false;
  last_nonce_ = 0;
  answered_nonce_ = 0;
  open_nonces_.clear();
  outbox_.clear();
  for (const auto& [uid, runtime] : runtimes_) runtime->nonces.clear();
}

absl::Status Reconciler::Sort(const v1::Resource& item, Sorting& sorting) const {
  journal::Intent& intent = *sorting.intent.mutable_intent();
  std::vector<v1::ItemResult>& answers = sorting.answers;
  if (!IsHeldKind(item)) return Violation("the server sent a resource that an agent does not hold");
  if (UidOf(item).empty() || NameOf(item).empty() || GenerationOf(item) <= 0) {
    return Violation(fmt::format("the server sent \"{}\" without uid, name or generation", NameOf(item)));
  }
  const auto again = sorting.in_message.find(UidOf(item));
  if (again != sorting.in_message.end()) {
    v1::Resource& earlier = *intent.mutable_items(again->second);
    if (GenerationOf(item) > GenerationOf(earlier)) earlier = item;
    return absl::OkStatus();
  }
  const HeldItem* held_item = held().Find(UidOf(item));
  switch (held().Judge(item)) {
    case Verdict::kAccept: {
      if (held_item != nullptr && !IsDeleting(item) && ChangesIdentity(held_item->resource, item)) {
        answers.push_back(FailureOf(
            item, MakeReason(v1::ERROR_REASON_PROTOCOL_VIOLATION,
                             fmt::format("{} is another resource here: {}", NameOf(item), held_item->name()))));
        return absl::OkStatus();
      }
      if (held_item == nullptr && held().items().size() + static_cast<size_t>(intent.items_size()) >= kMaxHeldItems) {
        answers.push_back(
            FailureOf(item, MakeReason(v1::ERROR_REASON_LIMIT_EXCEEDED,
                                       fmt::format("the agent holds {} resources, its limit", kMaxHeldItems))));
        return absl::OkStatus();
      }
      sorting.in_message[UidOf(item)] = intent.items_size();
      *intent.add_items() = item;
      return absl::OkStatus();
    }
    case Verdict::kSame:
    case Verdict::kStale: {
      const Runtime& runtime = *runtimes_.at(UidOf(item));
      if (runtime.answer) {
        answers.push_back(*runtime.answer);
      } else {
        sorting.repeated.push_back(UidOf(item));
      }
      return absl::OkStatus();
    }
    case Verdict::kReleased:
      answers.push_back(
          FailureOf(item, MakeReason(v1::ERROR_REASON_BEING_DELETED,
                                     fmt::format("{} was released here at or after generation {}; record it anew",
                                                 NameOf(item), GenerationOf(item)))));
      return absl::OkStatus();
    case Verdict::kGone:
      if (GenerationOf(item) > held().floor_generation() &&
          GenerationOf(item) > held().ReleasedGeneration(UidOf(item))) {
        auto* tombstone = sorting.gone.mutable_released()->add_tombstones();
        tombstone->set_uid(UidOf(item));
        tombstone->set_name(NameOf(item));
        tombstone->set_generation(GenerationOf(item));
      }
      answers.push_back(ResultOf(item, v1::OUTCOME_RELEASED));
      return absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::Status Reconciler::MapMemory(const std::string& vm, uint64_t iova, VmMemory::Range range) {
  ++bumps_;
  std::vector<std::string> ended;
  absl::Status status = realizer_.MapMemory(vm, iova, std::move(range), ended);
  for (const std::string& uid : ended) Activate(uid);
  return status;
}

std::vector<std::string> Reconciler::FindOutdated(const journal::Intent& intent) const {
  std::vector<std::string> outdated;
  for (const v1::Resource& next : intent.items()) {
    const HeldItem* item = held().Find(UidOf(next));
    if (item == nullptr || IsDeleting(next)) continue;
    const std::string_view field = ChangedImmutableField(item->resource, next);
    if (field.empty()) continue;
    VIOMMU_LOG(kWarning, "item is not as recorded and is made anew",
               {{"name", item->name()}, {"uid", item->uid()}, {"field", field}});
    outdated.push_back(item->uid());
  }
  return outdated;
}

absl::Status Reconciler::Accept(const v1::Desired& desired) {
  if (!in_session_) return absl::FailedPreconditionError("no session");
  if (desired.epoch() != epoch_) {
    return Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_STALE_EPOCH)
        .Message("a command of epoch {} in a session of epoch {}", desired.epoch(), epoch_);
  }
  Sorting sorting;
  for (const auto& item : desired.items()) VIOMMU_RETURN_IF_ERROR(Sort(item, sorting));
  journal::Intent& intent = *sorting.intent.mutable_intent();
  for (const auto& uid : desired.unknown_uids()) {
    const HeldItem* item = held().Find(uid);
    if (item != nullptr && !item->deleting && !sorting.in_message.contains(uid)) intent.add_orphans(uid);
  }
  if (sorting.gone.released().tombstones_size() > 0) {
    VIOMMU_RETURN_IF_ERROR(journal_.Append(sorting.gone, Journal::Sync::kYes));
  }
  const std::vector<std::string> outdated = FindOutdated(intent);
  if (intent.items_size() > 0 || intent.orphans_size() > 0) {
    VIOMMU_RETURN_IF_ERROR(journal_.Append(
        sorting.intent, Mutated(Mutation::kActBeforeJournal) ? Journal::Sync::kNo : Journal::Sync::kYes));
  }
  last_nonce_ = std::max(last_nonce_, desired.nonce());
  for (const std::string& uid : outdated) {
    for (const std::string& each : realizer_.Outdate(*held().Find(uid))) Activate(each);
  }
  for (const auto& item : intent.items()) {
    Activate(UidOf(item));
    Expect(UidOf(item), desired.nonce());
    if (IsDeleting(item) && Mutated(Mutation::kReleaseTooEarly)) Send(ResultOf(item, v1::OUTCOME_RELEASED));
  }
  for (const auto& uid : sorting.repeated) Expect(uid, desired.nonce());
  for (const auto& uid : intent.orphans()) {
    const HeldItem& item = *held().Find(uid);
    VIOMMU_LOG(kInfo, "item unknown to the server",
               {{"uid", uid}, {"name", item.name()}, {"generation", item.generation()}});
    Activate(uid);
  }
  for (const auto& answer : sorting.answers) Send(answer);
  return AdvanceRevision(desired);
}

void Reconciler::Expect(const std::string& uid, int64_t nonce) {
  runtimes_.at(uid)->nonces.push_back(nonce);
  ++open_nonces_[nonce];
}

absl::Status Reconciler::AdvanceRevision(const v1::Desired& desired) {
  // A message of a later revision says that all of the earlier ones were complete.
  int64_t complete = held().synced_revision();
  if (desired.sync_mark()) {
    complete = std::max(complete, desired.revision());
  } else if (in_sync_ && desired.revision() > revision_) {
    complete = std::max(complete, revision_);
  }
  revision_ = std::max(revision_, desired.revision());
  if (desired.sync_mark()) in_sync_ = true;
  const bool new_boot = desired.sync_mark() && held().synced_boot_id() != options_.boot_id;
  if (complete > held().synced_revision() || new_boot) {
    journal::Record record;
    record.mutable_synced()->set_revision(complete);
    record.mutable_synced()->set_boot_id(new_boot ? options_.boot_id : held().synced_boot_id());
    VIOMMU_RETURN_IF_ERROR(journal_.Append(record, Journal::Sync::kNo));
  }
  if (desired.sync_mark()) believes_ = true;
  return absl::OkStatus();
}

bool Reconciler::TakeResults(int max, v1::Results& results) {
  if (outbox_.empty()) return false;
  results.Clear();
  while (!outbox_.empty() && results.items_size() < max) {
    *results.add_items() = std::move(outbox_.begin()->second);
    outbox_.erase(outbox_.begin());
  }
  // While some results have not been taken, the nonce stands still.
  if (outbox_.empty()) {
    answered_nonce_ = open_nonces_.empty() ? last_nonce_ : std::max(answered_nonce_, open_nonces_.begin()->first - 1);
  }
  results.set_nonce(answered_nonce_);
  return true;
}

void Reconciler::Send(const v1::ItemResult& result) {
  if (in_session_) outbox_[result.uid()] = result;
}

// ---- The work -------------------------------------------------------------------------------------------------------

Reconciler::Runtime& Reconciler::RuntimeOf(const std::string& uid) {
  auto& runtime = runtimes_[uid];
  if (runtime == nullptr) {
    runtime = std::make_unique<Runtime>(Backoff(options_.first_retry, options_.longest_retry));
  }
  return *runtime;
}

void Reconciler::Activate(const std::string& uid) {
  const HeldItem& item = *held().Find(uid);
  Runtime& runtime = RuntimeOf(uid);
  runtime.attempted = false;
  runtime.last = {};
  runtime.answer.reset();
  runtime.backoff.Reset();
  runtime.due = {};
  Deactivate(item.kind, uid);
  active_[SetOf(item.kind, TaskOf(item))].insert(uid);
  // A walk that is under way may be past it. It is not begun anew, or commands without end would keep it from its end.
  sweep_.worked |= sweep_.phase > 0 || !sweep_.after.empty();
  outbox_.erase(uid);  // it speaks of an earlier generation
  ++bumps_;
  if (!item.deleting && (item.kind == ItemKind::kViommu || item.kind == ItemKind::kNestedDomain)) {
    targets_.Declare(uid, item.name());
  }
}

absl::Status Reconciler::Begin(const HeldItem& item, Operation operation) {
  if (item.acted) return absl::OkStatus();
  journal::Record record;
  record.mutable_act()->set_uid(item.uid());
  record.mutable_act()->set_generation(item.generation());
  record.mutable_act()->set_operation(OperationName(operation));
  return journal_.Append(record, Journal::Sync::kNo);
}

size_t Reconciler::SetOf(ItemKind kind, Task task) {
  return kTasks * static_cast<size_t>(kind) + static_cast<size_t>(task);
}

Reconciler::Task Reconciler::TaskOf(const HeldItem& item) const {
  if (item.deleting) return Task::kRelease;
  return realizer_.MustUnmake(item) ? Task::kUnmake : Task::kMake;
}

void Reconciler::Deactivate(ItemKind kind, const std::string& uid) {
  for (const Task task : {Task::kMake, Task::kUnmake, Task::kRelease}) active_[SetOf(kind, task)].erase(uid);
}

bool Reconciler::IsDue(const Runtime& runtime, MonotonicTime now) const {
  if (!runtime.attempted) return true;
  if (runtime.last.kind == Step::Kind::kFailed) return runtime.due <= now;
  return runtime.seen_version != version();
}

std::optional<MonotonicTime> Reconciler::Run(int max_changes) {
  struct Phase {
    ItemKind kind;
    Task task;
    bool bind = false;
  };
  static constexpr std::array kPhases = {
      Phase{ItemKind::kHwQueue, Task::kRelease},     Phase{ItemKind::kVdevice, Task::kRelease},
      Phase{ItemKind::kHwQueue, Task::kUnmake},      Phase{ItemKind::kVdevice, Task::kUnmake},
      Phase{ItemKind::kNestedDomain, Task::kUnmake}, Phase{ItemKind::kViommu, Task::kUnmake},
      Phase{ItemKind::kStage2Domain, Task::kUnmake}, Phase{ItemKind::kVdevice, Task::kMake, /*bind=*/true},
      Phase{ItemKind::kStage2Domain, Task::kMake},   Phase{ItemKind::kViommu, Task::kMake},
      Phase{ItemKind::kNestedDomain, Task::kMake},   Phase{ItemKind::kVdevice, Task::kMake},
      Phase{ItemKind::kHwQueue, Task::kMake},        Phase{ItemKind::kNestedDomain, Task::kRelease},
      Phase{ItemKind::kViommu, Task::kRelease},      Phase{ItemKind::kStage2Domain, Task::kRelease},
  };
  if (!believes_) return std::nullopt;
  const MonotonicTime now = options_.clock->Monotonic();
  const auto changes = static_cast<uint64_t>(max_changes);
  const uint64_t stop_at = realizer_.changes() + changes;
  uint64_t attempts_left = kAttemptsPerChange * changes;
  uint64_t looks_left = kLooksPerChange * changes;
  while (true) {
    for (; sweep_.phase < kPhases.size(); ++sweep_.phase, sweep_.after.clear()) {
      const Phase& phase = kPhases[sweep_.phase];
      const auto& uids = active_[SetOf(phase.kind, phase.task)];
      for (auto it = uids.upper_bound(sweep_.after); it != uids.end(); it = uids.upper_bound(sweep_.after)) {
        if (realizer_.changes() >= stop_at || attempts_left == 0 || looks_left == 0) return now;
        --looks_left;
        ++looks_;
        const std::string uid = *it;
        sweep_.after = uid;
        const HeldItem* item = held().Find(uid);
        Runtime& runtime = *runtimes_.at(uid);
        if (!IsDue(runtime, now)) continue;
        if (phase.bind) {
          const Step step = realizer_.Bind(*item);
          if (step.kind != Step::Kind::kFailed) continue;
          --attempts_left;
          Settle(uid, step);
          continue;
        }
        --attempts_left;
        sweep_.worked = true;
        runtime.seen_version = version();
        const uint64_t before = realizer_.changes();
        const bool unmakes = phase.task == Task::kUnmake;
        const Step step = unmakes ? realizer_.Unmake(*item) : realizer_.Advance(*item);
        // What it changed itself is no news to it.
        runtime.seen_version += realizer_.changes() - before;
        if (unmakes && step.kind == Step::Kind::kReleased) {
          SettleUnmade(*item);
        } else {
          Settle(uid, step);
        }
      }
    }
    const bool again = sweep_.worked;
    sweep_ = {};
    if (!again) break;
  }
  std::optional<MonotonicTime> next = RetryEventQueues(now, stop_at);
  for (const auto& uids : active_) {
    for (const std::string& uid : uids) {
      const Runtime& runtime = *runtimes_.at(uid);
      if (runtime.last.kind == Step::Kind::kFailed && (!next || runtime.due < *next)) next = runtime.due;
    }
  }
  return next;
}

std::optional<MonotonicTime> Reconciler::RetryEventQueues(MonotonicTime now, uint64_t stop_at) {
  if (queues_due_ && *queues_due_ <= now) {
    while (realizer_.RetryEventQueue()) {
      if (realizer_.changes() >= stop_at) return now;
    }
    queues_due_.reset();
  }
  if (!realizer_.LacksEventQueues()) {
    queue_backoff_.Reset();
    queues_due_.reset();
    return std::nullopt;
  }
  if (!queues_due_) queues_due_ = now + queue_backoff_.Next(options_.random);
  return queues_due_;
}

void Reconciler::Settle(const std::string& uid, const Step& step) {
  const HeldItem& item = *held().Find(uid);
  Runtime& runtime = *runtimes_.at(uid);
  if (step.kind == Step::Kind::kReleased) return SettleReleased(item, runtime);
  if (!runtime.attempted || runtime.last.kind != step.kind) ++bumps_;
  runtime.attempted = true;
  runtime.last = step;
  switch (step.kind) {
    case Step::Kind::kApplied: {
      runtime.backoff.Reset();
      Deactivate(item.kind, uid);
      journal::Record record;
      record.mutable_done()->set_uid(uid);
      record.mutable_done()->set_generation(item.generation());
      const auto ids = realizer_.KernelIds(uid);
      record.mutable_done()->mutable_kernel_ids()->insert(ids.begin(), ids.end());
      if (const auto status = journal_.Append(record, Journal::Sync::kNo); !status.ok()) {
        // Nothing rests on this record alone, and the object is there.
        VIOMMU_LOG(kWarning, "journal write failed", {{"record", "done"}, {"uid", uid}, {"status", status}});
      }
      v1::ItemResult result = ResultOf(item.resource, v1::OUTCOME_APPLIED);
      result.set_vmid(step.vmid);
      Answer(runtime, std::move(result), item.kind);
      break;
    }
    case Step::Kind::kDormant:
      runtime.backoff.Reset();
      Answer(runtime, ResultOf(item.resource, v1::OUTCOME_DORMANT), item.kind);
      break;
    case Step::Kind::kFailed:
      runtime.due = options_.clock->Monotonic() + runtime.backoff.Next(options_.random);
      VIOMMU_LOG(kWarning, "item failed",
                 {{"name", item.name()},
                  {"uid", uid},
                  {"generation", item.generation()},
                  {"reason", step.reason.reason()},
                  {"message", step.reason.message()},
                  {"attempts", runtime.backoff.attempts()}});
      [[fallthrough]];
    case Step::Kind::kBlocked:
      Answer(runtime, FailureOf(item.resource, step.reason), item.kind);
      break;
    case Step::Kind::kWaiting:
    case Step::Kind::kReleased:
      break;
  }
}

void Reconciler::SettleUnmade(const HeldItem& item) {
  Runtime& runtime = *runtimes_.at(item.uid());
  runtime.attempted = false;
  runtime.last = {};
  runtime.backoff.Reset();
  ++bumps_;
  Deactivate(item.kind, item.uid());
  active_[SetOf(item.kind, Task::kMake)].insert(item.uid());
}

void Reconciler::SettleReleased(const HeldItem& item, Runtime& runtime) {
  const std::string uid = item.uid();
  const ItemKind kind = item.kind;
  v1::ItemResult result = ResultOf(item.resource, v1::OUTCOME_RELEASED);
  journal::Record record;
  record.mutable_done()->set_uid(uid);
  record.mutable_done()->set_generation(item.generation());
  record.mutable_done()->set_released(true);
  // Not synced: should it be lost with the power, the intent to release it is there, and it is said again.
  if (const auto status = journal_.Append(record, Journal::Sync::kNo); !status.ok()) {
    return Settle(uid, {.kind = Step::Kind::kFailed, .reason = ReasonOfFailure(Operation::kJournal, status)});
  }
  ++bumps_;
  if (kind == ItemKind::kViommu || kind == ItemKind::kNestedDomain) targets_.Forget(uid);
  Deactivate(kind, uid);
  Answer(runtime, std::move(result), kind);
  runtimes_.erase(uid);
}

void Reconciler::Answer(Runtime& runtime, v1::ItemResult result, ItemKind kind) {
  for (const int64_t nonce : runtime.nonces) {
    const auto it = open_nonces_.find(nonce);
    if (it != open_nonces_.end() && --it->second == 0) open_nonces_.erase(it);
  }
  const bool news = !runtime.answer || !runtime.nonces.empty() || runtime.answer->outcome() != result.outcome() ||
                    runtime.answer->reason().reason() != result.reason().reason() ||
                    runtime.answer->reason().message() != result.reason().message() ||
                    runtime.answer->vmid() != result.vmid();
  runtime.nonces.clear();
  if (options_.on_outcome) options_.on_outcome(kind, result.outcome());
  if (news) Send(result);
  runtime.answer = std::move(result);
}

}  // namespace viommu::agent
