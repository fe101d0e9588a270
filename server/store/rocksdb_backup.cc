#include "server/store/rocksdb_backup.h"

#include <fmt/format.h>
#include <rocksdb/env.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <system_error>
#include <utility>

#include "common/error.h"

namespace viommu::server {
namespace {

absl::Status Failed(absl::StatusCode code, std::string_view what, std::string_view folder,
                    const rocksdb::Status& cause) {
  return Error(code, v1::ERROR_REASON_BACKUP_FAILED)
      .Message("{} in {}: {}", what, folder, cause.ToString())
      .Meta("folder", folder);
}

BackupInfo InfoOf(const rocksdb::BackupInfo& info) {
  return {static_cast<int64_t>(info.backup_id), info.timestamp, static_cast<int64_t>(info.size), info.app_metadata};
}

bool IsEmptyOrMissing(const std::string& path) {
  std::error_code error;
  const auto entries = std::filesystem::directory_iterator(path, error);
  if (error) return error == std::errc::no_such_file_or_directory;
  return std::all_of(begin(entries), end(entries),
                     [](const auto& entry) { return entry.path().filename() == "lost+found"; });
}

}  // namespace

absl::StatusOr<std::unique_ptr<RocksDbBackups>> RocksDbBackups::Open(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);  // if it fails, so does what follows
  rocksdb::BackupEngine* engine = nullptr;
  const rocksdb::IOStatus status =
      rocksdb::BackupEngine::Open(rocksdb::Env::Default(), rocksdb::BackupEngineOptions(folder), &engine);
  if (!status.ok()) return Failed(absl::StatusCode::kInternal, "cannot keep backups", folder, status);
  return std::unique_ptr<RocksDbBackups>(new RocksDbBackups(folder, engine));
}

absl::Status RocksDbBackups::Make(rocksdb::DB& db, const std::string& metadata, size_t keep) {
  rocksdb::IOStatus status = engine_->CreateNewBackupWithMetadata(rocksdb::CreateBackupOptions(), &db, metadata);
  if (!status.ok()) return Failed(absl::StatusCode::kInternal, "cannot make a backup", folder_, status);
  if (keep == 0) return absl::OkStatus();
  const size_t most = std::numeric_limits<uint32_t>::max();
  status = engine_->PurgeOldBackups(static_cast<uint32_t>(std::min(keep, most)));
  if (status.ok()) return absl::OkStatus();
  return Failed(absl::StatusCode::kInternal, "the backup is made, but older ones cannot be deleted", folder_, status);
}

std::vector<BackupInfo> RocksDbBackups::List() const {
  std::vector<rocksdb::BackupInfo> found;
  engine_->GetBackupInfo(&found);
  std::vector<BackupInfo> backups;
  for (auto info = found.rbegin(); info != found.rend(); ++info) backups.push_back(InfoOf(*info));
  return backups;
}

absl::StatusOr<BackupInfo> RestoreRocksDb(const std::string& folder, int64_t id, const std::string& path) {
  if (!IsEmptyOrMissing(path)) {
    return Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_BACKUP_FAILED)
        .Message("{} is not empty, and nothing there is overwritten; restore to a new folder, or move that one away",
                 path);
  }
  rocksdb::BackupEngineReadOnly* raw = nullptr;
  rocksdb::Status status =
      rocksdb::BackupEngineReadOnly::Open(rocksdb::Env::Default(), rocksdb::BackupEngineOptions(folder), &raw);
  if (!status.ok()) return Failed(absl::StatusCode::kNotFound, "cannot read backups", folder, status);
  const std::unique_ptr<rocksdb::BackupEngineReadOnly> engine(raw);

  std::vector<rocksdb::BackupInfo> found;
  engine->GetBackupInfo(&found);
  const auto chosen = std::find_if(found.rbegin(), found.rend(), [id](const rocksdb::BackupInfo& info) {
    return id == 0 || static_cast<int64_t>(info.backup_id) == id;
  });
  if (chosen == found.rend()) {
    return Error(absl::StatusCode::kNotFound, v1::ERROR_REASON_BACKUP_FAILED)
        .Message("there is no {} in {}, or it cannot be read", id == 0 ? "backup" : fmt::format("backup {}", id),
                 folder);
  }
  status = engine->VerifyBackup(chosen->backup_id, /*verify_with_checksum=*/true);
  if (!status.ok()) {
    return Failed(absl::StatusCode::kDataLoss,
                  fmt::format("backup {} is damaged; restore another one", chosen->backup_id), folder, status);
  }
  status = engine->RestoreDBFromBackup(rocksdb::RestoreOptions(), chosen->backup_id, path, path);
  if (!status.ok()) {
    return Failed(
        absl::StatusCode::kInternal,
        fmt::format("cannot restore backup {} to {}; remove what is there and try again", chosen->backup_id, path),
        folder, status);
  }
  return InfoOf(*chosen);
}

}  // namespace viommu::server
