// Makes backups of the store while the server goes on: one at a time, on a thread of its own.
//
// What backups there are is remembered, so that asking for it reads no disk. Any thread.

#ifndef VIOMMU_SERVER_COMMIT_BACKUPS_H_
#define VIOMMU_SERVER_COMMIT_BACKUPS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "server/commit/core.h"
#include "server/store/store.h"

namespace viommu::server {

class Backups {
 public:
  struct Options {
    std::string folder;  // empty: none are made
    size_t keep = 7;     // the newest; 0: all
  };

  struct Backup {
    int64_t id = 0;
    int64_t time_s = 0;  // since 1970
    int64_t size_bytes = 0;
    std::string store_incarnation;
    int64_t revision = 0;  // everything up to this is in it
  };

  struct Stats {
    uint64_t made = 0;  // since the start
    uint64_t failed = 0;
  };

  // Called once, on the thread of the backups.
  using Done = std::function<void(absl::StatusOr<Backup>)>;

  // `store` and `core` must outlive this.
  Backups(Store& store, const CommitCore& core, Options options);
  ~Backups() { Stop(); }

  // Begins a backup; on OK `done` is called when it is made or has failed. It has everything that was acknowledged
  // before.
  //   UNIMPLEMENTED, NOT_OFFERED: there is no folder for backups, or no engine that can.
  //   UNAVAILABLE, BACKUP_FAILED: another one is being made. To `done`, INTERNAL too.
  absl::Status Create(Done done);

  // Latest first. Errors as Create's, when the folder could not be read.
  absl::StatusOr<std::vector<Backup>> List() const;

  Stats stats() const;

  // Ends a backup that is under way, and begins none any more.
  void Stop();

 private:
  void Run(const Done& done);
  static std::vector<Backup> Decode(const std::vector<BackupInfo>& infos);

  Store& store_;
  const CommitCore& core_;
  const Options options_;

  mutable Mutex mu_;
  bool running_ ABSL_GUARDED_BY(mu_) = false;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  absl::StatusOr<std::vector<Backup>> backups_ ABSL_GUARDED_BY(mu_);
  Stats stats_ ABSL_GUARDED_BY(mu_);
  std::thread thread_ ABSL_GUARDED_BY(mu_);
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_COMMIT_BACKUPS_H_
