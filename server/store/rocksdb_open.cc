#include "server/store/rocksdb_open.h"

#include <fcntl.h>
#include <rocksdb/cache.h>
#include <rocksdb/convenience.h>
#include <rocksdb/env.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdarg>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <regex>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "common/error.h"
#include "common/mutex.h"
#include "server/store/format.h"
#include "server/store/rocksdb_status.h"

namespace viommu::server {
namespace {

// Exists from before the first file of a new store until it is complete: whatever is found beside it was never used.
constexpr char kCreatingFile[] = "CREATING";
constexpr char kCurrentFile[] = "CURRENT";
constexpr char kLockFile[] = "LOCK";

// Of RocksDB's own log for people, files LOG and LOG.old.*.
constexpr size_t kInfoLogBytes = size_t{4} << 20;
constexpr size_t kInfoLogFiles = 4;

constexpr size_t kVerifyReadaheadBytes = size_t{1} << 20;
constexpr size_t kBackgroundSyncBytes = size_t{1} << 20;
constexpr uint64_t kTableFileBytes = uint64_t{16} << 20;
constexpr uint64_t kPeriodicCompactionSeconds = 24 * 3600;
constexpr double kBloomBitsPerKey = 10;

// Keeps RocksDB's last warnings instead of writing them to a file: checking a store must not change it.
class WarningKeeper final : public rocksdb::Logger {
 public:
  WarningKeeper() : rocksdb::Logger(rocksdb::InfoLogLevel::WARN_LEVEL) {}

  using rocksdb::Logger::Logv;
  void Logv(const char* format, va_list args) override {
    char line[1024];
    std::vsnprintf(line, sizeof(line), format, args);
    MutexLock lock(mu_);
    if (lines_.size() == kMaxLines) lines_.erase(lines_.begin());
    lines_.emplace_back(line);
  }

  // The file of the store that the last warning named one speaks of.
  std::string BlamedFile() const {
    static const std::regex kFile("(\\d{6,}\\.(log|sst)|MANIFEST-\\d{6,})");
    MutexLock lock(mu_);
    for (auto line = lines_.rbegin(); line != lines_.rend(); ++line) {
      std::smatch match;
      if (std::regex_search(*line, match, kFile)) return match.str();
    }
    return "";
  }

 private:
  static constexpr size_t kMaxLines = 32;
  mutable Mutex mu_;
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mu_);
};

template <typename... Args>
absl::Status Refuse(absl::StatusCode code, fmt::format_string<Args...> format, Args&&... args) {
  return Error(code, v1::ERROR_REASON_STORE_UNAVAILABLE).Message(format, std::forward<Args>(args)...);
}

std::string FileIn(const std::string& path, std::string_view name) { return fmt::format("{}/{}", path, name); }

bool EndsWith(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

bool LooksLikeRocksDb(const std::string& name) {
  return name == "IDENTITY" || name.rfind("MANIFEST-", 0) == 0 || name.rfind("OPTIONS-", 0) == 0 ||
         EndsWith(name, ".sst") || EndsWith(name, ".log");
}

// Holds the store's lock file, as an open RocksDB does.
class FolderLock {
 public:
  explicit FolderLock(rocksdb::Env* env) : env_(env) {}
  ~FolderLock() { Release(); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

  rocksdb::Status Acquire(const std::string& path) { return env_->LockFile(FileIn(path, kLockFile), &lock_); }
  void Release() {
    if (lock_ != nullptr) env_->UnlockFile(lock_);
    lock_ = nullptr;
  }

 private:
  rocksdb::Env* const env_;
  rocksdb::FileLock* lock_ = nullptr;
};

// The process that holds the lock file; nullopt: this one, or nobody knows.
std::optional<pid_t> LockHolder(const std::string& path) {
  const int fd = ::open(FileIn(path, kLockFile).c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return std::nullopt;
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  const bool held = ::fcntl(fd, F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK && lock.l_pid > 0;
  ::close(fd);
  return held ? std::optional<pid_t>(lock.l_pid) : std::nullopt;
}

bool IsLockConflict(const rocksdb::Status& status) {
  const std::string what = status.ToString();
  return what.find("lock hold by current process") != std::string::npos ||
         what.find("While lock file") != std::string::npos;
}

absl::Status LockError(const rocksdb::Status& status, const std::string& path) {
  if (!IsLockConflict(status)) return RocksDbReadError(status, path);
  // Closing any descriptor of a file gives up the process's own locks on it: look only when this process has none.
  const bool own = status.ToString().find("current process") != std::string::npos;
  const std::optional<pid_t> holder = own ? std::nullopt : LockHolder(path);
  return Refuse(absl::StatusCode::kFailedPrecondition,
                "the store at {} is in use by {}; stop that one first, or give this server another folder", path,
                own                  ? "this process"
                : holder.has_value() ? fmt::format("another server (process {})", *holder)
                                     : "another server");
}

rocksdb::DBOptions DatabaseOptions(const RocksDbOptions& options, rocksdb::Env* env, RocksDbWalGuard* wal_guard) {
  rocksdb::DBOptions db;
  db.env = env;
  db.wal_filter = wal_guard;
  // Never guess: what cannot be read is an error. Only a record at the end of a log may be incomplete: that is how a
  // write looks that was under way when the power failed.
  db.paranoid_checks = true;
  db.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  db.track_and_verify_wals_in_manifest = true;
  db.verify_sst_unique_id_in_manifest = true;
  // Every write reaches the operating system at once, so that it outlives the process.
  db.manual_wal_flush = false;
  db.max_total_wal_size = options.max_wal_bytes;
  db.db_write_buffer_size = options.write_buffer_bytes;
  db.max_open_files = options.max_open_files;
  db.max_background_jobs = 2;
  db.bytes_per_sync = kBackgroundSyncBytes;
  db.max_log_file_size = kInfoLogBytes;
  db.keep_log_file_num = kInfoLogFiles;
  db.info_log_level = rocksdb::InfoLogLevel::INFO_LEVEL;
  db.stats_dump_period_sec = 0;
  db.stats_persist_period_sec = 0;
  return db;
}

rocksdb::ColumnFamilyOptions FamilyOptions(const RocksDbOptions& options,
                                           const std::shared_ptr<rocksdb::Cache>& block_cache) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = block_cache;
  table.cache_index_and_filter_blocks = true;
  table.pin_l0_filter_and_index_blocks_in_cache = true;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(kBloomBitsPerKey));
  table.format_version = 5;

  rocksdb::ColumnFamilyOptions family;
  family.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  family.write_buffer_size = options.write_buffer_bytes / 4;
  family.max_write_buffer_number = 3;
  family.target_file_size_base = kTableFileBytes;
  family.level_compaction_dynamic_level_bytes = true;
  // Deleted ranges (old changes, expired requests) give their space back in time even when little is written.
  family.periodic_compaction_seconds = kPeriodicCompactionSeconds;
  family.force_consistency_checks = true;
  family.paranoid_file_checks = true;
  const std::vector<rocksdb::CompressionType> supported = rocksdb::GetSupportedCompressions();
  const bool lz4 = std::find(supported.begin(), supported.end(), rocksdb::kLZ4Compression) != supported.end();
  family.compression = lz4 ? rocksdb::kLZ4Compression : rocksdb::kNoCompression;
  return family;
}

// Writes `name` into the folder, durably.
rocksdb::Status MakeMarker(rocksdb::Env* env, const std::string& path, const std::string& name) {
  std::unique_ptr<rocksdb::WritableFile> file;
  rocksdb::Status status = env->NewWritableFile(FileIn(path, name), &file, rocksdb::EnvOptions());
  if (status.ok()) status = file->Sync();
  if (status.ok()) status = file->Close();
  return status;
}

rocksdb::Status SyncFolder(rocksdb::Env* env, const std::string& path) {
  std::unique_ptr<rocksdb::Directory> folder;
  rocksdb::Status status = env->NewDirectory(path, &folder);
  if (status.ok()) status = folder->Fsync();
  return status;
}

class Opener {
 public:
  Opener(const std::string& path, const RocksDbOptions& options, std::shared_ptr<rocksdb::EventListener> listener)
      : path_(path),
        options_(options),
        listener_(std::move(listener)),
        env_(options.env != nullptr ? options.env : rocksdb::Env::Default()),
        lock_(env_),
        block_cache_(rocksdb::NewLRUCache(options.block_cache_bytes)) {}

  absl::StatusOr<OpenedRocksDb> Run();

 private:
  enum class Found { kNothing, kUnfinished, kStore };

  // What the folder has, without the files that say nothing.
  absl::StatusOr<std::vector<std::string>> List();
  absl::StatusOr<Found> Look();
  absl::Status BeginCreation();
  absl::Status FinishCreation(OpenedRocksDb& opened);
  absl::Status Check();
  absl::Status CheckFamilies(std::vector<std::string>* present, std::vector<std::string>* missing, bool* unknown);
  absl::Status CheckFormat(rocksdb::DB& db, rocksdb::ColumnFamilyHandle* meta);
  absl::StatusOr<OpenedRocksDb> OpenForGood(bool create);

  const std::string path_;
  const RocksDbOptions& options_;
  const std::shared_ptr<rocksdb::EventListener> listener_;
  rocksdb::Env* const env_;
  FolderLock lock_;
  const std::shared_ptr<rocksdb::Cache> block_cache_;
  std::unique_ptr<RocksDbWalGuard> wal_guard_ = std::make_unique<RocksDbWalGuard>();
};

absl::StatusOr<std::vector<std::string>> Opener::List() {
  std::vector<std::string> names;
  const rocksdb::Status status = env_->GetChildren(path_, &names);
  if (status.IsNotFound() || status.IsPathNotFound()) return std::vector<std::string>();
  if (!status.ok()) return RocksDbReadError(status, path_);
  const auto says_nothing = [](const std::string& name) {
    return name == "." || name == ".." || name == "lost+found" || name == kLockFile;
  };
  names.erase(std::remove_if(names.begin(), names.end(), says_nothing), names.end());
  return names;
}

absl::StatusOr<Opener::Found> Opener::Look() {
  const absl::StatusOr<std::vector<std::string>> names = List();
  if (!names.ok()) return names.status();
  const auto has = [&](std::string_view name) { return std::find(names->begin(), names->end(), name) != names->end(); };
  if (names->empty()) return Found::kNothing;
  if (has(kCreatingFile)) return Found::kUnfinished;
  const bool rocksdb = std::any_of(names->begin(), names->end(), LooksLikeRocksDb);
  if (!rocksdb) {
    return Refuse(absl::StatusCode::kFailedPrecondition,
                  "the folder {} has files ({}, …) that are not those of a store; give the server a folder of its own",
                  path_, names->front());
  }
  if (!has(kCurrentFile)) {
    return Refuse(
        absl::StatusCode::kDataLoss,
        "the store at {} is incomplete: the file {} is missing; nothing was changed; restore it from a backup", path_,
        kCurrentFile);
  }
  // An open store always has a log, so a closed one has too.
  if (std::none_of(names->begin(), names->end(), [](const std::string& name) { return EndsWith(name, ".log"); })) {
    return Refuse(absl::StatusCode::kDataLoss,
                  "the store at {} is incomplete: its write-ahead log (a file *.log) is missing; nothing was changed; "
                  "restore it from a backup",
                  path_);
  }
  return Found::kStore;
}

absl::Status Opener::BeginCreation() {
  const absl::StatusOr<std::vector<std::string>> names = List();
  if (!names.ok()) return names.status();
  // The marker stays first and last, so that a second interruption is understood too.
  rocksdb::Status status = MakeMarker(env_, path_, kCreatingFile);
  if (status.ok()) status = SyncFolder(env_, path_);
  for (const std::string& name : *names) {
    if (status.ok() && name != kCreatingFile) status = env_->DeleteFile(FileIn(path_, name));
  }
  return status.ok() ? absl::OkStatus() : RocksDbReadError(status, path_);
}

absl::Status Opener::FinishCreation(OpenedRocksDb& opened) {
  rocksdb::WriteOptions synced;
  synced.sync = true;
  rocksdb::Status status = opened.db->Put(synced, opened.handles[static_cast<size_t>(KeySpace::kMeta)],
                                          rocksdb::Slice(kFormatVersionKey.data(), kFormatVersionKey.size()),
                                          std::to_string(kFormatVersion));
  if (status.ok()) status = env_->DeleteFile(FileIn(path_, kCreatingFile));
  if (status.ok()) status = SyncFolder(env_, path_);
  return status.ok() ? absl::OkStatus() : RocksDbReadError(status, path_);
}

absl::Status Opener::CheckFamilies(std::vector<std::string>* present, std::vector<std::string>* missing,
                                   bool* unknown) {
  rocksdb::DBOptions db;
  db.env = env_;
  std::vector<std::string> listed;
  const rocksdb::Status status = rocksdb::DB::ListColumnFamilies(db, path_, &listed);
  if (!status.ok()) {
    std::string manifest;
    rocksdb::ReadFileToString(env_, FileIn(path_, kCurrentFile), &manifest);
    while (!manifest.empty() && manifest.back() == '\n') manifest.pop_back();
    if (manifest.rfind("MANIFEST-", 0) != 0) manifest = kCurrentFile;
    // RocksDB has several words for a manifest that it cannot make sense of.
    if (!status.IsIOError()) return RocksDbReadError(rocksdb::Status::Corruption(status.ToString()), path_, manifest);
    return RocksDbReadError(status, path_, manifest);
  }
  std::vector<std::string> expected = {rocksdb::kDefaultColumnFamilyName};
  for (const KeySpace space : kKeySpaces) expected.emplace_back(ColumnFamilyName(space));
  for (const std::string& name : expected) {
    const bool found = std::find(listed.begin(), listed.end(), name) != listed.end();
    (found ? present : missing)->push_back(name);
  }
  *unknown = listed.size() > present->size();
  return absl::OkStatus();
}

absl::Status Opener::CheckFormat(rocksdb::DB& db, rocksdb::ColumnFamilyHandle* meta) {
  std::string text;
  const rocksdb::Status status =
      db.Get(rocksdb::ReadOptions(), meta, rocksdb::Slice(kFormatVersionKey.data(), kFormatVersionKey.size()), &text);
  if (status.IsNotFound()) {
    return Refuse(absl::StatusCode::kDataLoss,
                  "the store at {} has no {}: it is damaged, or another program wrote it; nothing was changed", path_,
                  kFormatVersionKey);
  }
  if (!status.ok()) return RocksDbReadError(status, path_);
  int version = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), version);
  if (error != std::errc() || end != text.data() + text.size() || version < 1) {
    return Refuse(absl::StatusCode::kDataLoss,
                  "the store at {} is damaged: its {} is no version; nothing was changed; restore it from a backup",
                  path_, kFormatVersionKey);
  }
  if (version > kFormatVersion) {
    return Refuse(absl::StatusCode::kFailedPrecondition,
                  "the store at {} has format version {}, this server reads up to version {}; nothing was changed; use "
                  "the newer server that wrote it",
                  path_, version, kFormatVersion);
  }
  return absl::OkStatus();
}

absl::Status Opener::Check() {
  std::vector<std::string> present;
  std::vector<std::string> missing;
  bool unknown = false;
  if (absl::Status status = CheckFamilies(&present, &missing, &unknown); !status.ok()) return status;

  const auto warnings = std::make_shared<WarningKeeper>();
  rocksdb::DBOptions db_options = DatabaseOptions(options_, env_, wal_guard_.get());
  db_options.info_log = warnings;
  const rocksdb::ColumnFamilyOptions family_options = FamilyOptions(options_, block_cache_);
  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  for (const std::string& name : present) families.emplace_back(name, family_options);
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* raw = nullptr;
  rocksdb::Status status = rocksdb::DB::OpenForReadOnly(db_options, path_, families, &handles, &raw);
  if (!status.ok()) return RocksDbReadError(status, path_, warnings->BlamedFile());
  const std::unique_ptr<rocksdb::DB> db(raw);

  absl::Status verdict;
  const auto meta = std::find(present.begin(), present.end(), ColumnFamilyName(KeySpace::kMeta));
  // The version comes first: a newer one explains whatever else is unexpected.
  if (meta != present.end()) verdict = CheckFormat(*db, handles[static_cast<size_t>(meta - present.begin())]);
  if (verdict.ok() && !missing.empty()) {
    verdict =
        Refuse(absl::StatusCode::kDataLoss,
               "the store at {} is incomplete: it has no column family {}; nothing was changed; restore it from a "
               "backup",
               path_, missing.front());
  }
  if (verdict.ok() && unknown) {
    verdict = Refuse(absl::StatusCode::kFailedPrecondition,
                     "the store at {} has column families that this server does not know; nothing was changed; use the "
                     "server version that wrote it",
                     path_);
  }
  if (verdict.ok() && options_.verify_on_open) {
    rocksdb::ReadOptions read;
    read.readahead_size = kVerifyReadaheadBytes;
    status = db->VerifyChecksum(read);
    if (!status.ok()) verdict = RocksDbReadError(status, path_, warnings->BlamedFile());
  }
  for (rocksdb::ColumnFamilyHandle* handle : handles) db->DestroyColumnFamilyHandle(handle);
  return verdict;
}

absl::StatusOr<OpenedRocksDb> Opener::OpenForGood(bool create) {
  rocksdb::DBOptions db_options = DatabaseOptions(options_, env_, wal_guard_.get());
  db_options.create_if_missing = create;
  db_options.create_missing_column_families = create;
  db_options.error_if_exists = create;
  db_options.listeners.push_back(listener_);
  const rocksdb::ColumnFamilyOptions family_options = FamilyOptions(options_, block_cache_);
  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  for (const KeySpace space : kKeySpaces) families.emplace_back(ColumnFamilyName(space), family_options);
  families.emplace_back(rocksdb::kDefaultColumnFamilyName, family_options);
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status = rocksdb::DB::Open(db_options, path_, families, &handles, &db);
  if (!status.ok()) return IsLockConflict(status) ? LockError(status, path_) : RocksDbReadError(status, path_);
  OpenedRocksDb opened;
  opened.wal_guard = std::move(wal_guard_);
  opened.db.reset(db);
  std::copy(handles.begin(), handles.end(), opened.handles.begin());
  return opened;
}

absl::StatusOr<OpenedRocksDb> Opener::Run() {
  absl::StatusOr<Found> found = Look();
  if (!found.ok()) return found.status();
  if (*found == Found::kNothing) {
    std::error_code error;
    std::filesystem::create_directories(path_, error);
    if (error) {
      return Refuse(absl::StatusCode::kUnavailable, "cannot make the folder {} for the store: {}", path_,
                    error.message());
    }
    const std::filesystem::path parent = std::filesystem::absolute(path_).lexically_normal().parent_path();
    SyncFolder(env_, parent.string()).PermitUncheckedError();  // it may belong to somebody else
  }
  if (const rocksdb::Status status = lock_.Acquire(path_); !status.ok()) return LockError(status, path_);
  // Again, now that nobody else can be at work here.
  found = Look();
  if (!found.ok()) return found.status();
  const bool create = *found != Found::kStore;
  const absl::Status ready = create ? BeginCreation() : Check();
  if (!ready.ok()) return ready;
  wal_guard_->Decide();
  lock_.Release();  // RocksDB takes it itself, and refuses if somebody was faster

  absl::StatusOr<OpenedRocksDb> opened = OpenForGood(create);
  if (opened.ok() && create) {
    if (absl::Status status = FinishCreation(*opened); !status.ok()) {
      for (rocksdb::ColumnFamilyHandle* handle : opened->handles) opened->db->DestroyColumnFamilyHandle(handle);
      return status;
    }
  }
  return opened;
}

}  // namespace

const char* ColumnFamilyName(KeySpace space) {
  switch (space) {
    case KeySpace::kMeta:
      return "meta";
    case KeySpace::kResources:
      return "resources";
    case KeySpace::kChanges:
      return "changes";
    case KeySpace::kRequests:
      return "requests";
  }
  return "";
}

absl::StatusOr<OpenedRocksDb> OpenRocksDb(const std::string& path, const RocksDbOptions& options,
                                          std::shared_ptr<rocksdb::EventListener> listener) {
  return Opener(path, options, std::move(listener)).Run();
}

}  // namespace viommu::server
