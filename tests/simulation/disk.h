// Disks that keep two halves apart: what a process sees, and what would be left after a loss of power.
//
// Both can be told to fail at their next operations: full, an error of the sync, or the end of the process in the
// middle of one. A simulated process cannot stop inside of a call, so the call returns an error, the disk says
// crashed(), and everything after that fails as well; whoever runs the process then ends it before anybody hears of it.
//
// Not thread-safe.

#ifndef VIOMMU_TESTS_SIMULATION_DISK_H_
#define VIOMMU_TESTS_SIMULATION_DISK_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/reconcile/file_system.h"
#include "server/store/memory_store.h"
#include "server/store/store.h"
#include "tests/simulation/mutations.h"
#include "tests/simulation/scheduler.h"

namespace viommu::simulation {

// The server's store.
class ServerDisk final : public server::Store {
 public:
  // Told of every batch before it is written: the revision of the record after it, and what it does to the record's
  // hash (see RecordHash).
  using OnAttempt = std::function<void(int64_t revision, uint64_t hash)>;

  explicit ServerDisk(Scheduler& scheduler) : scheduler_(scheduler), memory_(std::make_unique<server::MemoryStore>()) {}

  absl::Status Commit(const server::Batch& batch, server::Durability durability) override;
  absl::Status Recover() override;
  absl::StatusOr<std::optional<std::string>> Get(server::KeySpace space, std::string_view key) const override {
    return memory_->Get(space, key);
  }
  absl::Status Scan(server::KeySpace space, std::string_view begin, std::string_view end,
                    absl::FunctionRef<bool(std::string_view, std::string_view)> visit) const override {
    return memory_->Scan(space, begin, end, visit);
  }
  // It has no backups.
  absl::StatusOr<std::vector<server::BackupInfo>> Backup(const std::string&, const std::string&, size_t) override {
    return absl::UnimplementedError("a simulated disk has no backups");
  }
  void StopBackups() override {}
  absl::StatusOr<std::vector<server::BackupInfo>> ListBackups(const std::string&) const override {
    return absl::UnimplementedError("a simulated disk has no backups");
  }
  std::string Describe() const override { return "simulated disk"; }

  void set_on_attempt(OnAttempt on_attempt) { on_attempt_ = std::move(on_attempt); }

  // The process ends at the `n`th commit from now (1: the next one); whether its batch is there afterwards is chance.
  void CrashAtCommit(uint64_t n) { crash_in_ = n; }
  bool crashed() const { return crashed_; }
  // Commits fail from now on, and so do recoveries until AllowRecovery.
  void Fail(bool keep_failed_batch);
  void AllowRecovery();

  // What the next process finds.
  void AfterKill();
  void AfterPowerLoss();
  // Another disk's content: a backup, an older copy, nothing at all.
  void Replace(std::unique_ptr<server::MemoryStore> content);
  std::unique_ptr<server::MemoryStore> Copy() const { return memory_->AfterKill(); }
  // Whether a copy would have what a failed commit has left. None is made then: the server that goes on gives the same
  // revision to something else, and nobody could tell the two apart.
  bool WouldKeepFailedBatch() const;

  // The last revision of the record that it has.
  int64_t revision() const;
  // Sum over all resources of what each adds to the hash of the record.
  uint64_t RecordHash() const;
  static uint64_t HashOfRecord(std::string_view key, std::string_view value);

 private:
  Scheduler& scheduler_;
  std::unique_ptr<server::MemoryStore> memory_;
  OnAttempt on_attempt_;
  uint64_t crash_in_ = 0;  // 0: not
  bool crashed_ = false;
};

// An agent's file system. Names and contents become durable apart from each other, as on a real one.
class AgentDisk final : public agent::FileSystem {
 public:
  explicit AgentDisk(Scheduler& scheduler) : scheduler_(scheduler) {}

  absl::Status MakeDirectory(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<agent::FileLock>> Lock(const std::string& path) override;
  absl::StatusOr<std::string> Read(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<agent::AppendFile>> OpenForAppend(const std::string& path, uint64_t size) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status SyncDirectory(const std::string& path) override;

  // The process ends at the `n`th change from now (1: the next one).
  void CrashAtChange(uint64_t n) { crash_in_ = n; }
  bool crashed() const { return crashed_; }
  // Every change fails while it is full; syncs fail `n` times.
  void SetFull(bool full) { full_ = full; }
  void FailSyncs(uint64_t n) { failing_syncs_ = n; }
  // A sync takes up to `most`. Its process cannot wait inside of a call: who runs it asks how long it would have waited
  // since it was asked last, and lets it stand still for that long.
  void set_sync_time(nanoseconds most) { sync_time_ = most; }
  nanoseconds TakeWait() { return std::exchange(waited_, nanoseconds(0)); }

  void AfterKill();
  void AfterPowerLoss();
  // What somebody copied file by file, while it was in use.
  void CopyFrom(const AgentDisk& other);
  // The operator moved the state directory away.
  void Wipe() { *this = AgentDisk(scheduler_); }
  AgentDisk& operator=(AgentDisk&& other) noexcept;

 private:
  struct File {
    std::string content;
    std::string durable;        // what is left of it after a loss of power
    size_t dropped = SIZE_MAX;  // from here on a failed sync has let go of pages: they will never be durable
  };
  class Appender;
  class Held;
  using Directory = std::map<std::string, std::shared_ptr<File>>;

  // Every change of the disk passes here. `partly` is done when the process ends within it.
  absl::Status Change(const std::string& path, const std::function<void()>& partly = nullptr);
  absl::Status Append(File& file, const std::string& path, std::string_view data);
  absl::Status Sync(File& file, const std::string& path);

  Scheduler& scheduler_;
  Directory names_;
  Directory durable_names_;
  bool locked_ = false;
  uint64_t crash_in_ = 0;
  bool crashed_ = false;
  bool full_ = false;
  uint64_t failing_syncs_ = 0;
  nanoseconds sync_time_{0};
  nanoseconds waited_{0};
};

}  // namespace viommu::simulation

#endif  // VIOMMU_TESTS_SIMULATION_DISK_H_
