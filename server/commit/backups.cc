#include "server/commit/backups.h"

#include <chrono>
#include <utility>

#include "common/error.h"
#include "server/commit/record.pb.h"

namespace viommu::server {
namespace {

absl::Status NoFolder() {
  return Error(absl::StatusCode::kUnimplemented, v1::ERROR_REASON_NOT_OFFERED)
      .Message("this server makes no backups; give it a folder for them, backup.folder in its configuration");
}

absl::Status NotNow(std::string_view why) {
  return Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_BACKUP_FAILED)
      .Message("{}; try again later", why)
      .RetryAfter(std::chrono::seconds(10));
}

}  // namespace

Backups::Backups(Store& store, const CommitCore& core, Options options)
    : store_(store), core_(core), options_(std::move(options)), backups_(NoFolder()) {
  if (options_.folder.empty()) return;
  const absl::StatusOr<std::vector<BackupInfo>> found = store_.ListBackups(options_.folder);
  MutexLock lock(mu_);
  if (found.ok()) {
    backups_ = Decode(*found);
  } else {
    backups_ = found.status();
  }
}

absl::Status Backups::Create(Done done) {
  if (options_.folder.empty()) return NoFolder();
  std::thread before;
  {
    MutexLock lock(mu_);
    if (running_) return NotNow("another backup is being made");
    if (stopped_) return NotNow("the server is shutting down");
    running_ = true;
    before = std::move(thread_);
  }
  // It has nothing left to do but to end.
  if (before.joinable()) before.join();
  MutexLock lock(mu_);
  if (stopped_) {
    running_ = false;
    return NotNow("the server is shutting down");
  }
  thread_ = std::thread([this, done = std::move(done)] { Run(done); });
  return absl::OkStatus();
}

void Backups::Run(const Done& done) {
  BackupRecord record;
  record.set_store_incarnation(core_.identity().store_incarnation);
  record.set_revision(core_.revision());
  absl::StatusOr<std::vector<BackupInfo>> made =
      store_.Backup(options_.folder, record.SerializeAsString(), options_.keep);
  absl::StatusOr<Backup> answer = Backup();
  {
    MutexLock lock(mu_);
    if (made.ok()) {
      backups_ = Decode(*made);
      answer = backups_->front();
    } else {
      answer = made.status();
    }
    ++(made.ok() ? stats_.made : stats_.failed);
    running_ = false;
  }
  done(std::move(answer));
}

std::vector<Backups::Backup> Backups::Decode(const std::vector<BackupInfo>& infos) {
  std::vector<Backup> backups;
  for (const BackupInfo& info : infos) {
    // One that somebody else made in the same folder says nothing of itself.
    BackupRecord record;
    if (!record.ParseFromString(info.metadata)) record.Clear();
    backups.push_back({info.id, info.time_s, info.size_bytes, record.store_incarnation(), record.revision()});
  }
  return backups;
}

absl::StatusOr<std::vector<Backups::Backup>> Backups::List() const {
  MutexLock lock(mu_);
  return backups_;
}

Backups::Stats Backups::stats() const {
  MutexLock lock(mu_);
  return stats_;
}

void Backups::Stop() {
  store_.StopBackups();
  std::thread last;
  {
    MutexLock lock(mu_);
    stopped_ = true;
    last = std::move(thread_);
  }
  if (last.joinable()) last.join();
}

}  // namespace viommu::server
