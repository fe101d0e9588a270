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
  std::vector<Outcome> outcomes(commands.size());
  if (const absl::Status refused = RefuseWhileBroken(); !refused.ok()) {
    for (Outcome& outcome : outcomes) outcome = {refused, revision()};
    return outcomes;
  }

  const int64_t now_s = NowSeconds();
  const google::protobuf::Timestamp now = ToTimestamp(clock_.Now());
  Batch& batch = batch_;
  batch.Clear();
  Audit::Entries audited = audit_.Begin(clock_.Now());
  std::vector<Accepted> accepted;
  absl::flat_hash_map<std::string_view, size_t> batch_requests;  // id -> index of the command that carries it out
  std::vector<std::pair<size_t, size_t>> repeats;                // a command and the one of this batch that it repeats
  std::vector<const Change*> changed;
  std::vector<std::pair<std::string_view, std::string>> answers;  // by request id
  size_t waiting_bytes = 0;                                       // of both
  Durability durability = Durability::kBuffered;
  uint64_t refused = 0;
  uint64_t replayed = 0;
  int64_t last_revision = 0;
  Requests::Size new_requests;
  {
    // The writer is the only one to change the tables, so holding the lock shared keeps nobody from reading.
    ReaderLock lock(mu_);
    last_revision = revision_;
    Draft draft(tables_);
    for (size_t i = 0; i < commands.size(); ++i) {
      if (changed.size() >= max_batch_changes_ || batch.bytes() + audited.bytes() + waiting_bytes >= max_batch_bytes_) {
        commands = commands.first(i);
        outcomes.resize(i);
        break;
      }
      Command& command = *commands[i];
      const bool repeatable =
          !command.request_id.empty() && !command.validate_only && !Mutated(Mutation::kLoseRequestRecord);
      if (repeatable) {
        const auto in_batch = batch_requests.find(command.request_id);
        const Requests::Entry* known = requests_.Find(command.request_id);
        if (in_batch != batch_requests.end() || known != nullptr) {
          const std::string& fingerprint =
              known != nullptr ? known->fingerprint : commands[in_batch->second]->fingerprint;
          if (fingerprint != command.fingerprint && !Mutated(Mutation::kIgnoreFingerprint)) {
            ++refused;
            outcomes[i].revision = last_revision;
            outcomes[i].status =
                Error(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_REQUEST_ID_REUSED)
                    .Message("request_id {} was used for another request; make a new one for each request",
                             command.request_id)
                    .Meta("request_id", command.request_id);
            audited.Add(command, outcomes[i].status, 0, {});
            continue;
          }
          ++replayed;
          if (known == nullptr) {
            repeats.emplace_back(i, in_batch->second);
            continue;
          }
          outcomes[i].revision = known->revision;
          absl::StatusOr<std::optional<std::string>> bytes = store_.Get(KeySpace::kRequests, command.request_id);
          RequestRecord record;
          if (!bytes.ok()) {
            outcomes[i].status = bytes.status();
          } else if (!bytes->has_value() || !record.ParseFromString(**bytes)) {
            outcomes[i].status =
                DamagedStore(store_, fmt::format("the answer to request id {} cannot be read", command.request_id));
          } else {
            outcomes[i].status = command.Replay(record.response());
          }
          continue;
        }
      }

      const Context context{now, last_revision + 1, new_uid_};
      outcomes[i].status = command.Judge(context, draft);
      outcomes[i].revision = last_revision;
      if (!outcomes[i].status.ok()) {
        draft.Undo();
        ++refused;
        if (!command.validate_only) audited.Add(command, outcomes[i].status, 0, {});
        continue;
      }
      if (command.validate_only) {
        draft.Undo();
        continue;
      }
      std::vector<Change> changes = draft.Changes();
      draft.Keep();
      // Once for all: the log, the record, the audit log, the tables.
      for (Change& change : changes) {
        if (change.after != nullptr) change.after->SerializeToString(&change.bytes);
      }
      audited.Add(command, absl::OkStatus(), changes.empty() ? 0 : last_revision + 1, changes);
      if (changes.empty() && !repeatable) continue;

      Accepted change{nullptr, {}, last_revision, &command};
      if (!changes.empty()) {
        auto set = std::make_shared<ChangeSet>();
        set->revision = ++last_revision;
        set->changes = std::move(changes);
        change.logged = ChangeLog::Encode(*set, now_s, batch);
        for (const Change& each : set->changes) {
          changed.push_back(&each);
          waiting_bytes += each.name.size() + each.bytes.size();
        }
        change.set = std::move(set);
        change.revision = last_revision;
        outcomes[i].revision = last_revision;
      }
      if (repeatable) {
        answers.emplace_back(command.request_id,
                             Requests::Encode(command.fingerprint, outcomes[i].revision, now_s, command.Response()));
        change.request_bytes = static_cast<int64_t>(command.request_id.size() + answers.back().second.size());
        waiting_bytes += static_cast<size_t>(change.request_bytes);
        ++new_requests.entries;
        new_requests.bytes += change.request_bytes;
        batch_requests.emplace(command.request_id, i);
      }
      if (command.durability == Durability::kSynced) durability = Durability::kSynced;
      accepted.push_back(std::move(change));
    }
  }

  PutResources(changed, batch);
  PutAnswers(answers, batch);
  absl::Status committed;
  // Each new answer makes room for itself, so that the limits hold at any rate of changes.
  const size_t expired = requests_.PlanExpiry(now_s, new_requests, 2 * new_requests.entries, batch);
  if (!batch.empty()) {
    batch.Put(KeySpace::kMeta, kMetaRevision, EncodeNumber(last_revision));
    audit_.Encode(audited, batch);
    unsynced_revisions_ += static_cast<int64_t>(accepted.size());
    if (unsynced_revisions_ > kSyncAfterUnsyncedRevisions) durability = Durability::kSynced;
    committed = store_.Commit(batch, durability);
    if (committed.ok() && durability == Durability::kSynced) unsynced_revisions_ = 0;
  }
  for (const auto& [repeat, original] : repeats) {
    outcomes[repeat].revision = outcomes[original].revision;
    outcomes[repeat].status = commands[repeat]->Replay(commands[original]->Response());
  }

  if (!committed.ok() && !Mutated(Mutation::kPublishFailedCommit)) {
    const absl::Status unavailable = Unavailable(committed);
    // Whoever was judged against the changes that are lost is answered alike, refusals included: they may be wrong.
    for (Outcome& outcome : outcomes) outcome = {unavailable, revision()};
    WriterLock lock(mu_);
    broken_ = unavailable;
    ++stats_.store_failures;
    return outcomes;
  }
  Publish(accepted, now_s);
  requests_.Expired(expired);
  if (batch.empty()) {
    audit_.Wait(std::move(audited));
  } else {
    audit_.Recorded(audited);
  }

  WriterLock lock(mu_);
  stats_.batches += batch.empty() ? 0 : 1;
  stats_.commands += commands.size();
  stats_.refused += refused;
  stats_.replayed += replayed;
  return outcomes;
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
  Batch batch;
  const int64_t oldest = log_.PlanCompaction(NowSeconds(), batch);
  const size_t expired = requests_.PlanExpiry(NowSeconds(), {}, kMaxExpiriesPerTick, batch);
  const int64_t oldest_entry = audit_.PlanRotation(NowSeconds(), batch);
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

absl::Status CommitCore::RefuseWhileBroken() const { return writable(); }

int64_t CommitCore::NowSeconds() const {
  return std::chrono::duration_cast<std::chrono::seconds>(clock_.Now().time_since_epoch()).count();
}

}  // namespace viommu::server
