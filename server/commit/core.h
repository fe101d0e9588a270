// The writer's work on one batch, without the thread: judge, commit, publish.
//
// Every command that is waiting is judged against the tables plus what was accepted before it in the same batch; what
// is accepted goes to the store in one write with one sync; after that, and only then, it is published. If the store
// fails, nothing has changed.
//
// Revisions: every accepted command that changes something gets the next one. Commands whose durability is kBuffered
// may be lost with the power, and their revisions with them, although watchers have seen those. So that such a revision
// is never given to something else, a store that was last written under another boot id and not closed skips
// kMaxUnsyncedRevisions and drops its change log: resuming a watch from before then gives REVISION_COMPACTED.
//
// Thread rules: Run, Tick and Close on one thread at a time; everything else from any thread.

#ifndef VIOMMU_SERVER_COMMIT_CORE_H_
#define VIOMMU_SERVER_COMMIT_CORE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "server/commit/audit.h"
#include "server/commit/change_log.h"
#include "server/commit/command.h"
#include "server/commit/requests.h"
#include "server/commit/starts.h"
#include "server/fleet/tables.h"
#include "server/store/store.h"

namespace viommu::server {

// Identity of the store and of this start of the server on it.
struct Identity {
  std::string cluster_id;
  std::string store_incarnation;
  int64_t epoch = 0;
  std::string start_id = {};
};

// Follows the record. Called on the writer's thread after publication, in order; must not block.
class Listener {
 public:
  virtual ~Listener() = default;
  virtual void OnCommit(const std::vector<ChangeSetPtr>& sets) = 0;
};

struct CommitStats {
  uint64_t batches = 0;         // written to the store
  uint64_t commands = 0;        // judged
  uint64_t refused = 0;         // by the rules
  uint64_t replayed = 0;        // answered from their request id
  uint64_t store_failures = 0;  // batches that the store did not take
};

class CommitCore {
 public:
  struct Options {
    std::string cluster_id;  // of a new store; an existing one must have the same. Empty: any, made up for a new one.
    std::string boot_id;     // of this machine
    ChangeLog::Options change_log;
    Requests::Options requests;
    Audit::Options audit;
    // A batch takes no more commands once it has this many changed records, or bytes.
    size_t max_batch_changes = 16'384;
    size_t max_batch_bytes = size_t{8} << 20;
  };

  static constexpr int64_t kMaxUnsyncedRevisions = 65536;

  // Reads the record from the store, checks it, and begins a new epoch. DATA_LOSS, STORE_DAMAGED when the record is
  // damaged or breaks an invariant: it is not repaired. `store`, `clock` must outlive the core.
  static absl::StatusOr<std::unique_ptr<CommitCore>> Open(Store& store, const Clock& clock,
                                                          std::function<std::string()> new_uid, const Options& options);

  // What became of one command of a batch.
  struct Outcome {
    absl::Status status;
    int64_t revision = 0;
  };

  // Carries out a batch: the first of `commands`, at least one, as many as Options let it. The outcomes are in their
  // order; the caller passes them to Command::Done, and gives the commands that have none to the next call.
  std::vector<Outcome> Run(std::span<Command* const> commands);

  // To be called about once a second: tries to recover a failed store, expires what is old.
  void Tick();

  // Marks the store as closed in good order.
  absl::Status Close();

  // Reads the published record: calls read(const Tables&, int64_t revision) while no change is being published. Keep it
  // short: take the records (they are shared) and work on them outside.
  template <typename F>
  auto Read(F&& read) const {
    ReaderLock lock(mu_);
    return std::forward<F>(read)(std::as_const(tables_), revision_);
  }

  int64_t revision() const;
  const ChangeLog& log() const { return log_; }
  const Audit& audit() const { return audit_; }
  const Identity& identity() const { return identity_; }
  // This start and those before it.
  const Starts& starts() const { return starts_; }

  // OK, or why the store takes no writes.
  absl::Status writable() const;

  CommitStats stats() const;

  // Listeners are called in the order of their addition. Not while Run is running.
  void AddListener(Listener* listener) { listeners_.push_back(listener); }

 private:
  CommitCore(Store& store, const Clock& clock, std::function<std::string()> new_uid, const Options& options);

  struct Accepted;
  struct Turn;

  absl::Status Load(const Options& options);
  absl::Status LoadMeta(const Options& options, bool* fresh);
  absl::Status Begin(const Options& options, bool fresh);
  absl::Status Recover();
  // Judges the commands of the turn, and encodes what they change.
  void JudgeAll(Turn& turn);
  // Whether the i-th command was sent before, under its request id: then it has its outcome, or will have that of the
  // command of this batch that it repeats.
  bool AnswerRepeat(Turn& turn, size_t i);
  // The rules have taken the i-th command.
  void Take(Turn& turn, size_t i, std::vector<Change> changes);
  absl::Status Write(Turn& turn);
  void Publish(std::vector<Accepted>& accepted, int64_t now_s);

  Store& store_;
  const Clock& clock_;
  const std::function<std::string()> new_uid_;
  Identity identity_;
  Starts starts_;
  std::string boot_id_;
  const size_t max_batch_changes_;
  const size_t max_batch_bytes_;
  ChangeLog log_;
  Requests requests_;
  Audit audit_;
  std::vector<Listener*> listeners_;
  int64_t unsynced_revisions_ = 0;
  Batch batch_;  // of the last Run, whose memory the next one has

  mutable SharedMutex mu_;
  Tables tables_ ABSL_GUARDED_BY(mu_);
  int64_t revision_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Status broken_ ABSL_GUARDED_BY(mu_);  // why the store takes no writes
  CommitStats stats_ ABSL_GUARDED_BY(mu_);
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_COMMIT_CORE_H_
