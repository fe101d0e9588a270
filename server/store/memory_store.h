// A store in memory, for tests and simulation, with failures on demand.
//
// It forgets everything with its destruction. AfterPowerLoss and AfterKill make another store that holds what a real
// one would hold after such an end.
//
// Thread-safe.

#ifndef VIOMMU_SERVER_STORE_MEMORY_STORE_H_
#define VIOMMU_SERVER_STORE_MEMORY_STORE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "server/store/store.h"

namespace viommu::server {

class MemoryStore final : public Store {
 public:
  // Whether a batch whose Commit failed is there when the store is opened anew. It never is after a successful Recover.
  enum class FailedBatch { kLost, kKept };

  struct Stats {
    uint64_t commits = 0;         // that returned OK
    uint64_t synced_commits = 0;  // of these with kSynced
    uint64_t failed_commits = 0;
    uint64_t recoveries = 0;  // Recover calls that returned OK
  };

  // Batches that loss of power takes away at most; of more, the oldest have been written in the meantime.
  static constexpr size_t kMaxUnsyncedBatches = 4096;

  MemoryStore() = default;

  absl::Status Commit(const Batch& batch, Durability durability) override;
  absl::Status Recover() override;
  absl::StatusOr<std::optional<std::string>> Get(KeySpace space, std::string_view key) const override;
  // Visits the keys as they were at the time of the call, outside of any lock.
  absl::Status Scan(KeySpace space, std::string_view begin, std::string_view end,
                    absl::FunctionRef<bool(std::string_view key, std::string_view value)> visit) const override;
  absl::StatusOr<std::vector<BackupInfo>> Backup(const std::string&, const std::string&, size_t) override;
  void StopBackups() override {}
  absl::StatusOr<std::vector<BackupInfo>> ListBackups(const std::string&) const override;
  std::string Describe() const override { return "memory"; }

  // From now on every Commit and every Recover returns `status` (not OK), like a disk that is full; until AllowRecovery
  // and then Recover were called.
  void FailCommits(absl::Status status, FailedBatch failed_batch = FailedBatch::kLost);
  // The cause of the failure is gone: the next Recover succeeds.
  void AllowRecovery();

  // From now on every Get and Scan returns `status`; OK ends that.
  void FailReads(absl::Status status);

  // What a store on disk would hold after loss of power now: all up to the last synced batch, and the first
  // `unsynced_kept` of the batches after it (the disk may have got that far).
  std::unique_ptr<MemoryStore> AfterPowerLoss(size_t unsynced_kept = 0) const;
  // The same after kill -9: everything that was committed.
  std::unique_ptr<MemoryStore> AfterKill() const;

  Stats stats() const;

 private:
  // Values are shared between the present and the synced state and with scans that are under way.
  using Table = std::map<std::string, std::shared_ptr<const std::string>, std::less<>>;
  using Tables = std::array<Table, std::size(kKeySpaces)>;

  static void Apply(const Batch& batch, Tables& tables);

  mutable SharedMutex mu_;
  Tables tables_ ABSL_GUARDED_BY(mu_);
  Tables synced_ ABSL_GUARDED_BY(mu_);
  std::deque<Batch> unsynced_ ABSL_GUARDED_BY(mu_);  // committed after synced_
  absl::Status failure_ ABSL_GUARDED_BY(mu_);        // of writes
  bool recovery_allowed_ ABSL_GUARDED_BY(mu_) = true;
  FailedBatch failed_batch_ ABSL_GUARDED_BY(mu_) = FailedBatch::kLost;
  std::optional<Batch> kept_ ABSL_GUARDED_BY(mu_);  // a failed batch that is there when the store is opened anew
  absl::Status read_failure_ ABSL_GUARDED_BY(mu_);
  Stats stats_ ABSL_GUARDED_BY(mu_);
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_STORE_MEMORY_STORE_H_
