#include "server/commit/core.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "common/error.h"
#include "common/mutation.h"
#include "common/timestamp.h"
#include "server/commit/codec.h"
#include "server/commit/resources.h"

namespace viommu::server {
namespace {

// Answers to request ids that a tick forgets because of their age.
constexpr size_t kMaxExpiriesPerTick = 1024;

// A status-only commit is synced anyway when this many revisions would hang on the next sync.
constexpr int64_t kSyncAfterUnsyncedRevisions = CommitCore::kMaxUnsyncedRevisions / 2;

absl::StatusOr<int64_t> NumberOf(const Store& store, std::string_view key, int64_t if_absent) {
  VIOMMU_ASSIGN_OR_RETURN(const std::optional<std::string> bytes, store.Get(KeySpace::kMeta, key));
  if (!bytes.has_value()) return if_absent;
  const auto number = DecodeNumber(*bytes);
  if (!number.has_value()) return DamagedStore(store, fmt::format("{} is no number", key));
  return *number;
}

int64_t SecondsOf(WallTime time) {
  return std::chrono::duration_cast<std::chrono::seconds>(time.time_since_epoch()).count();
}

// Whether the answer is kept, so that the request may be sent again.
bool Repeatable(const Command& command) {
  return !command.request_id.empty() && !command.validate_only && !Mutated(Mutation::kLoseRequestRecord);
}

// What callers are told while the store takes no writes.
absl::Status Unavailable(const absl::Status& why) {
  if (ReasonOf(why) == v1::ERROR_REASON_STORE_DAMAGED) return why;
  return Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_STORE_UNAVAILABLE)
      .Message(
          "the store does not take writes ({}); nothing of this change is visible, repeat the call later with the same "
          "request_id",
          std::string(why.message()))
      .RetryAfter(std::chrono::seconds(1));
}

// Both by their keys: a look-up that ends beside the last one is the cheaper one for the store. Of several changes of a
// resource, the last.
void PutResources(std::vector<const Change*>& changed, Batch& batch) {
  std::stable_sort(changed.begin(), changed.end(), [](const Change* a, const Change* b) {
    return a->kind != b->kind ? a->kind < b->kind : a->name < b->name;
  });
  for (size_t i = 0; i < changed.size(); ++i) {
    const Change& change = *changed[i];
    if (i + 1 < changed.size() && changed[i + 1]->kind == change.kind && changed[i + 1]->name == change.name) continue;
    const std::string key = ResourceKey(change.kind, change.name);
    if (change.after != nullptr) {
      batch.Put(KeySpace::kResources, key, change.bytes);
    } else {
      batch.Delete(KeySpace::kResources, key);
    }
  }
}

void PutAnswers(std::vector<std::pair<std::string_view, std::string>>& answers, Batch& batch) {
  std::sort(answers.begin(), answers.end());
  for (const auto& [request_id, answer] : answers) batch.Put(KeySpace::kRequests, request_id, answer);
}

}  // namespace

// A command of the batch that changes something.
struct CommitCore::Accepted {
  ChangeSetPtr set;  // null: only a request id to remember
  ChangeLog::Entry logged;
  int64_t revision = 0;
  const Command* command = nullptr;
  int64_t request_bytes = 0;
};

// A batch on its way from its commands to what is written for them.
struct CommitCore::Turn {
  Turn(WallTime time, const Audit& audit, std::span<Command* const> all)
      : commands(all),
        outcomes(all.size()),
        now_s(SecondsOf(time)),
        now(ToTimestamp(time)),
        audited(audit.Begin(time)) {}

  const std::span<Command* const> commands;
  std::vector<Outcome> outcomes;  // of the first of them; the rest did not fit in
  const int64_t now_s;
  const google::protobuf::Timestamp now;
  int64_t last_revision = 0;
  uint64_t refused = 0;
  uint64_t replayed = 0;

  absl::flat_hash_map<std::string_view, size_t> request_ids;  // and the command that carries the request out
  std::vector<std::pair<size_t, size_t>> repeats;             // a command, and the one of this batch that it repeats

  std::vector<Accepted> accepted;
  Durability durability = Durability::kBuffered;
  Audit::Entries audited;
  // Not in the batch yet: the records that change, and the answers by request id.
  std::vector<const Change*> changed;
  std::vector<std::pair<std::string_view, std::string>> answers;
  size_t waiting_bytes = 0;  // of both
  Requests::Size answered;   // of the answers
};

CommitCore::CommitCore(Store& store, const Clock& clock, std::function<std::string()> new_uid, const Options& options)
    : store_(store),
      clock_(clock),
      new_uid_(std::move(new_uid)),
      boot_id_(options.boot_id),
      max_batch_changes_(options.max_batch_changes),
      max_batch_bytes_(options.max_batch_bytes),
      log_(store, options.change_log),
      requests_(options.requests),
      audit_(store, options.audit) {}

absl::StatusOr<std::unique_ptr<CommitCore>> CommitCore::Open(Store& store, const Clock& clock,
                                                             std::function<std::string()> new_uid,
                                                             const Options& options) {
  auto core = std::unique_ptr<CommitCore>(new CommitCore(store, clock, std::move(new_uid), options));
  VIOMMU_RETURN_IF_ERROR(core->Load(options));
  return core;
}

absl::Status CommitCore::Load(const Options& options) {
  bool fresh = false;
  VIOMMU_RETURN_IF_ERROR(LoadMeta(options, &fresh));
  {
    WriterLock lock(mu_);
    VIOMMU_RETURN_IF_ERROR(LoadResources(store_, tables_));
  }
  VIOMMU_RETURN_IF_ERROR(requests_.Load(store_));
  VIOMMU_RETURN_IF_ERROR(audit_.Load());
  return Begin(options, fresh);
}

absl::Status CommitCore::LoadMeta(const Options& options, bool* fresh) {
  VIOMMU_ASSIGN_OR_RETURN(const auto incarnation, store_.Get(KeySpace::kMeta, kMetaIncarnation));
  VIOMMU_ASSIGN_OR_RETURN(const auto cluster, store_.Get(KeySpace::kMeta, kMetaClusterId));
  *fresh = !incarnation.has_value() && !cluster.has_value();
  if (*fresh) {
    // What has a record and no identity was a store once.
    for (const KeySpace space : {KeySpace::kResources, KeySpace::kChanges, KeySpace::kRequests, KeySpace::kAudit}) {
      bool empty = true;
      VIOMMU_RETURN_IF_ERROR(store_.Scan(space, "", "", [&empty](std::string_view, std::string_view) {
        empty = false;
        return false;
      }));
      if (!empty) return DamagedStore(store_, "it has a record, and its identity is missing");
    }
    identity_.store_incarnation = new_uid_();
    identity_.cluster_id = options.cluster_id.empty() ? new_uid_() : options.cluster_id;
    return absl::OkStatus();
  }
  if (!incarnation.has_value() || !cluster.has_value()) return DamagedStore(store_, "its identity is incomplete");
  identity_.store_incarnation = *incarnation;
  identity_.cluster_id = *cluster;
  if (!options.cluster_id.empty() && options.cluster_id != *cluster) {
    return Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_CLUSTER_MISMATCH)
        .Message(
            "{} belongs to cluster {}, but this server is configured for cluster {}; correct the cluster id or the "
            "store's path",
            store_.Describe(), *cluster, options.cluster_id);
  }
  return absl::OkStatus();
}

absl::Status CommitCore::Begin(const Options& options, bool fresh) {
  VIOMMU_ASSIGN_OR_RETURN(const int64_t epoch, NumberOf(store_, kMetaEpoch, 0));
  VIOMMU_ASSIGN_OR_RETURN(int64_t revision, NumberOf(store_, kMetaRevision, 0));
  VIOMMU_ASSIGN_OR_RETURN(int64_t oldest, NumberOf(store_, kMetaOldestRevision, 0));
  VIOMMU_ASSIGN_OR_RETURN(const auto last_boot, store_.Get(KeySpace::kMeta, kMetaBootId));
  VIOMMU_ASSIGN_OR_RETURN(const auto starts, store_.Get(KeySpace::kMeta, kMetaStarts));
  auto decoded = Starts::Decode(starts.value_or(""));
  if (!decoded.ok()) return DamagedStore(store_, std::string(decoded.status().message()));
  starts_ = *std::move(decoded);
  const int64_t left_at = revision;

  Batch batch;
  if (last_boot.has_value() && *last_boot != options.boot_id && !Mutated(Mutation::kReuseRevisions)) {
    // See the header: what was not synced may be gone, and must not be confused with what comes now.
    revision += kMaxUnsyncedRevisions;
    oldest = revision;
    batch.DeleteRange(KeySpace::kChanges, EncodeNumber(0), EncodeNumber(revision + 1));
    batch.Put(KeySpace::kMeta, kMetaOldestRevision, EncodeNumber(oldest));
  }
  identity_.epoch = epoch > 0 && Mutated(Mutation::kKeepEpoch) ? epoch : epoch + 1;
  identity_.start_id = new_uid_();
  starts_.Add(identity_.epoch, identity_.start_id, left_at, revision);
  if (fresh) {
    batch.Put(KeySpace::kMeta, kMetaIncarnation, identity_.store_incarnation);
    batch.Put(KeySpace::kMeta, kMetaClusterId, identity_.cluster_id);
  }
  batch.Put(KeySpace::kMeta, kMetaEpoch, EncodeNumber(identity_.epoch));
  batch.Put(KeySpace::kMeta, kMetaStarts, starts_.Encode());
  batch.Put(KeySpace::kMeta, kMetaRevision, EncodeNumber(revision));
  batch.Put(KeySpace::kMeta, kMetaBootId, options.boot_id);
  VIOMMU_RETURN_IF_ERROR(store_.Commit(batch, Durability::kSynced));
  {
    WriterLock lock(mu_);
    revision_ = revision;
  }
  return log_.Load(oldest, revision);
}

std::vector<CommitCore::Outcome> CommitCore::Run(std::span<Command* const> commands) {
  if (const absl::Status refused = writable(); !refused.ok()) {
    return std::vector<Outcome>(commands.size(), Outcome{refused, revision()});
  }
  batch_.Clear();
  Turn turn(clock_.Now(), audit_, commands);
  JudgeAll(turn);
  PutResources(turn.changed, batch_);
  PutAnswers(turn.answers, batch_);
  // Each new answer makes room for itself, so that the limits hold at any rate of changes.
  const size_t expired = requests_.PlanExpiry(turn.now_s, turn.answered, 2 * turn.answered.entries, batch_);
  const absl::Status written = Write(turn);
  for (const auto& [repeat, original] : turn.repeats) {
    turn.outcomes[repeat].revision = turn.outcomes[original].revision;
    turn.outcomes[repeat].status = commands[repeat]->Replay(commands[original]->Response());
  }
  if (!written.ok() && !Mutated(Mutation::kPublishFailedCommit)) {
    const absl::Status unavailable = Unavailable(written);
    WriterLock lock(mu_);
    broken_ = unavailable;
    ++stats_.store_failures;
    // Whoever was judged against the changes that are lost is answered alike, refusals included: they may be wrong.
    return std::vector<Outcome>(turn.outcomes.size(), Outcome{unavailable, revision_});
  }
  Publish(turn.accepted, turn.now_s);
  requests_.Expired(expired);
  if (batch_.empty()) {
    audit_.Wait(std::move(turn.audited));
  } else {
    audit_.Recorded(turn.audited);
  }

  WriterLock lock(mu_);
  stats_.batches += batch_.empty() ? 0 : 1;
  stats_.commands += turn.outcomes.size();
  stats_.refused += turn.refused;
  stats_.replayed += turn.replayed;
  return std::move(turn.outcomes);
}

void CommitCore::JudgeAll(Turn& turn) {
  // The writer is the only one to change the tables, so holding the lock shared keeps nobody from reading.
  ReaderLock lock(mu_);
  turn.last_revision = revision_;
  Draft draft(tables_);
  for (size_t i = 0; i < turn.commands.size(); ++i) {
    if (turn.changed.size() >= max_batch_changes_ ||
        batch_.bytes() + turn.audited.bytes() + turn.waiting_bytes >= max_batch_bytes_) {
      turn.outcomes.resize(i);
      return;
    }
    Command& command = *turn.commands[i];
    Outcome& outcome = turn.outcomes[i];
    outcome.revision = turn.last_revision;
    if (Repeatable(command) && AnswerRepeat(turn, i)) continue;

    outcome.status = command.Judge({turn.now, turn.last_revision + 1, new_uid_}, draft);
    if (!outcome.status.ok()) {
      draft.Undo();
      ++turn.refused;
      if (!command.validate_only) turn.audited.Add(command, outcome.status, 0, {});
      continue;
    }
    if (command.validate_only) {
      draft.Undo();
      continue;
    }
    std::vector<Change> changes = draft.Changes();
    draft.Keep();
    Take(turn, i, std::move(changes));
  }
}

bool CommitCore::AnswerRepeat(Turn& turn, size_t i) {
  Command& command = *turn.commands[i];
  Outcome& outcome = turn.outcomes[i];
  const Requests::Entry* known = requests_.Find(command.request_id);
  const auto in_batch = turn.request_ids.find(command.request_id);
  if (known == nullptr && in_batch == turn.request_ids.end()) return false;

  const std::string& fingerprint = known != nullptr ? known->fingerprint : turn.commands[in_batch->second]->fingerprint;
  if (fingerprint != command.fingerprint && !Mutated(Mutation::kIgnoreFingerprint)) {
    ++turn.refused;
    outcome.status =
        Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_REQUEST_ID_REUSED)
            .Message("request_id {} was used for another request; make a new one for each request", command.request_id)
            .Meta("request_id", command.request_id);
    turn.audited.Add(command, outcome.status, 0, {});
    return true;
  }
  ++turn.replayed;
  if (known == nullptr) {
    turn.repeats.emplace_back(i, in_batch->second);
    return true;
  }
  outcome.revision = known->revision;
  const absl::StatusOr<std::optional<std::string>> bytes = store_.Get(KeySpace::kRequests, command.request_id);
  RequestRecord record;
  if (!bytes.ok()) {
    outcome.status = bytes.status();
  } else if (!bytes->has_value() || !record.ParseFromString(**bytes)) {
    outcome.status =
        DamagedStore(store_, fmt::format("the answer to request id {} cannot be read", command.request_id));
  } else {
    outcome.status = command.Replay(record.response());
  }
  return true;
}

void CommitCore::Take(Turn& turn, size_t i, std::vector<Change> changes) {
  const Command& command = *turn.commands[i];
  // Once for all: the log, the record, the audit log, the tables.
  for (Change& change : changes) {
    if (change.after != nullptr) change.after->SerializeToString(&change.bytes);
  }
  turn.audited.Add(command, absl::OkStatus(), changes.empty() ? 0 : turn.last_revision + 1, changes);
  if (changes.empty() && !Repeatable(command)) return;

  Accepted accepted{nullptr, {}, turn.last_revision, &command};
  if (!changes.empty()) {
    auto set = std::make_shared<ChangeSet>();
    set->revision = ++turn.last_revision;
    set->changes = std::move(changes);
    accepted.logged = ChangeLog::Encode(*set, turn.now_s, batch_);
    for (const Change& each : set->changes) {
      turn.changed.push_back(&each);
      turn.waiting_bytes += each.name.size() + each.bytes.size();
    }
    accepted.set = std::move(set);
    accepted.revision = turn.last_revision;
    turn.outcomes[i].revision = turn.last_revision;
  }
  if (Repeatable(command)) {
    turn.answers.emplace_back(command.request_id,
                              Requests::Encode(command.fingerprint, accepted.revision, turn.now_s, command.Response()));
    accepted.request_bytes = static_cast<int64_t>(command.request_id.size() + turn.answers.back().second.size());
    turn.waiting_bytes += static_cast<size_t>(accepted.request_bytes);
    ++turn.answered.entries;
    turn.answered.bytes += accepted.request_bytes;
    turn.request_ids.emplace(command.request_id, i);
  }
  if (command.durability == Durability::kSynced) turn.durability = Durability::kSynced;
  turn.accepted.push_back(std::move(accepted));
}

absl::Status CommitCore::Write(Turn& turn) {
  if (batch_.empty()) return absl::OkStatus();
  batch_.Put(KeySpace::kMeta, kMetaRevision, EncodeNumber(turn.last_revision));
  audit_.Encode(turn.audited, batch_);
  unsynced_revisions_ += static_cast<int64_t>(turn.accepted.size());
  const Durability durability =
      unsynced_revisions_ > kSyncAfterUnsyncedRevisions ? Durability::kSynced : turn.durability;
  VIOMMU_RETURN_IF_ERROR(store_.Commit(batch_, durability));
  if (durability == Durability::kSynced) unsynced_revisions_ = 0;
  return absl::OkStatus();
}

void CommitCore::Publish(std::vector<Accepted>& accepted, int64_t now_s) {
  std::vector<ChangeSetPtr> sets;
  std::vector<ChangeLog::Entry> entries;
  {
    WriterLock lock(mu_);
    for (Accepted& each : accepted) {
      if (each.set == nullptr) continue;
      for (const Change& change : each.set->changes) tables_.Apply(change);
      revision_ = each.set->revision;
      sets.push_back(std::move(each.set));
      entries.push_back(std::move(each.logged));
    }
    // Along with the tables: whoever was told a revision may watch from it at once.
    if (!sets.empty()) log_.Publish(std::move(entries), now_s);
  }
  for (const Accepted& each : accepted) {
    const Command& command = *each.command;
    if (each.request_bytes > 0) {
      requests_.Add(command.request_id, command.fingerprint, each.revision, now_s, each.request_bytes);
    }
  }
  if (sets.empty()) return;
  for (Listener* listener : listeners_) listener->OnCommit(sets);
}

absl::Status CommitCore::Recover() {
  VIOMMU_RETURN_IF_ERROR(store_.Recover());
  // The tables go on from here, so it must be what they were read from.
  VIOMMU_ASSIGN_OR_RETURN(const auto incarnation, store_.Get(KeySpace::kMeta, kMetaIncarnation));
  VIOMMU_ASSIGN_OR_RETURN(const int64_t recorded, NumberOf(store_, kMetaRevision, -1));
  if (incarnation == identity_.store_incarnation && recorded == revision()) return absl::OkStatus();
  return DamagedStore(
      store_, fmt::format("it is not the one that this server has opened: store {} at revision {} was "
                          "expected, store {} at revision {} is there",
                          identity_.store_incarnation, revision(), incarnation.value_or("without a name"), recorded));
}

void CommitCore::Tick() {
  if (!writable().ok()) {
    const absl::Status recovered = Recover();
    WriterLock lock(mu_);
    broken_ = recovered.ok() ? absl::OkStatus() : Unavailable(recovered);
    if (!recovered.ok()) return;
  }
  const int64_t now_s = SecondsOf(clock_.Now());
  Batch batch;
  const int64_t oldest = log_.PlanCompaction(now_s, batch);
  const size_t expired = requests_.PlanExpiry(now_s, {}, kMaxExpiriesPerTick, batch);
  const int64_t oldest_entry = audit_.PlanRotation(now_s, batch);
  Audit::Entries audited = audit_.Begin(clock_.Now());
  audit_.Encode(audited, batch);
  if (batch.empty()) return;
  const absl::Status committed = store_.Commit(batch, Durability::kBuffered);
  if (!committed.ok()) {
    WriterLock lock(mu_);
    broken_ = Unavailable(committed);
    return;
  }
  audit_.Recorded(audited);
  audit_.Rotated(oldest_entry);
  log_.Compacted(oldest);
  requests_.Expired(expired);
}

absl::Status CommitCore::Close() {
  Batch batch;
  batch.Delete(KeySpace::kMeta, kMetaBootId);
  Audit::Entries audited = audit_.Begin(clock_.Now());
  audit_.Encode(audited, batch);
  VIOMMU_RETURN_IF_ERROR(store_.Commit(batch, Durability::kSynced));
  audit_.Recorded(audited);
  return absl::OkStatus();
}

int64_t CommitCore::revision() const {
  ReaderLock lock(mu_);
  return revision_;
}

absl::Status CommitCore::writable() const {
  ReaderLock lock(mu_);
  return broken_;
}

CommitStats CommitCore::stats() const {
  ReaderLock lock(mu_);
  return stats_;
}

}  // namespace viommu::server
