// Who changed what, or tried to: one entry for each call that would change something and was judged.
//
// An entry of a change is in the same batch as the change. Calls that changed nothing (most were refused) never cost a
// write of their own: their entries wait for the next batch, or for the next tick of the writer; of those at most
// kMaxWaiting are kept, and an entry of the caller "server" says how many were left out.
//
// Rule of rotation: an entry is kept for `max_age_s`; when they are longer than `max_bytes`, the oldest go first, in
// runs of kSegmentEntries. Ids rise by one, without a gap.
//
// Thread rules: the part for the writer on its thread; everything else from any thread.

#ifndef VIOMMU_SERVER_COMMIT_AUDIT_H_
#define VIOMMU_SERVER_COMMIT_AUDIT_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "server/commit/command.h"
#include "server/commit/record.pb.h"
#include "server/fleet/view.h"
#include "server/store/store.h"

namespace viommu::server {

class Audit {
 public:
  struct Options {
    int64_t max_age_s = 90 * 24 * 3600;
    int64_t max_bytes = int64_t{1} << 30;  // of entries in the store; 0: none are made
  };

  static constexpr size_t kMaxWaiting = 256;        // entries that wait for a batch
  static constexpr int kMaxChanges = 16;            // records of one entry
  static constexpr size_t kMaxMessageBytes = 1024;  // of the error's message
  static constexpr int64_t kSegmentEntries = 1024;  // that go together
  static constexpr int64_t kReadEntries = 256;      // read from the store at a time

  struct Stats {
    uint64_t entries = 0;  // recorded since the start
    uint64_t dropped = 0;  // left out since the start
    int64_t bytes = 0;     // in the store
  };

  // `store` must outlive this.
  Audit(const Store& store, const Options& options) : store_(store), options_(options) {}

  // Finds out what the store has. DATA_LOSS, STORE_DAMAGED.
  absl::Status Load();

  // Visits the entries from the newest with an id below `before` to the oldest, until `visit` returns false.
  absl::Status ReadBefore(int64_t before, absl::FunctionRef<bool(int64_t id, const AuditRecord& record)> visit) const;

  // When the oldest entry that is kept was made; nullopt: there is none.
  std::optional<WallTime> oldest_time() const;
  // Of the entry that comes next.
  int64_t next_id() const;
  Stats stats() const;

  // --- For the writer.

  // The entries of one batch, in order. Begins with those that wait.
  class Entries {
   public:
    // A command that was judged; `changes`: what it changed, at `revision`.
    void Add(const Command& command, const absl::Status& status, int64_t revision, std::span<const Change> changes);

    size_t bytes() const { return bytes_; }

   private:
    friend class Audit;
    Entries(bool on, WallTime now, std::vector<std::string> waiting, uint64_t dropped)
        : on_(on), now_(now), encoded_(std::move(waiting)), waiting_(encoded_.size()), dropped_(dropped) {}

    void Add(std::string record) {
      bytes_ += record.size();
      encoded_.push_back(std::move(record));
    }

    bool on_;
    WallTime now_;
    std::vector<std::string> encoded_;
    size_t waiting_;    // those that changed nothing
    uint64_t dropped_;  // not among them
    size_t bytes_ = 0;
    std::vector<int64_t> sizes_;  // once they are in a batch
  };

  Entries Begin(WallTime now) const;

  // Adds the entries to `batch`. Give them to Recorded once the batch is durable.
  void Encode(Entries& entries, Batch& batch) const;
  void Recorded(const Entries& entries);

  // There is no batch to put them into: they wait.
  void Wait(Entries entries);

  // Adds to `batch` what deletes the entries that age and size say must go, and returns the oldest id that is left.
  // Give it to Rotated once the batch is durable.
  int64_t PlanRotation(int64_t now_s, Batch& batch) const;
  void Rotated(int64_t oldest);

 private:
  struct Segment {
    int64_t first_id;
    int64_t first_time_ns;
    int64_t bytes;
  };

  void Account(int64_t id, int64_t time_ns, int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Damaged(int64_t id) const;

  const Store& store_;
  const Options options_;
  std::vector<std::string> waiting_;  // the writer's
  uint64_t dropped_ = 0;              // the writer's: not said yet

  mutable Mutex mu_;
  int64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  std::deque<Segment> segments_ ABSL_GUARDED_BY(mu_);
  Stats stats_ ABSL_GUARDED_BY(mu_);
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_COMMIT_AUDIT_H_
