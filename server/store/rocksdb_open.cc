#include "server/store/rocksdb_open.h"

#include <fcntl.h>
#include <rocksdb/cache.h>
#include <rocksdb/env.h>
#include <rocksdb/options.h>
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
#include "server/store/rocksdb_log_check.h"
#include "server/store/rocksdb_status.h"
#include "server/store/rocksdb_tuning.h"

namespace viommu::server {
namespace {

// Exists from before the first file of a new store until it is complete: whatever is found beside it was never used.
constexpr char kCreatingFile[] = "CREATING";
constexpr char kCurrentFile[] = "CURRENT";
constexpr char kLockFile[] = "LOCK";

// The first version of the format with an audit log.
constexpr int kAuditFormatVersion = 2;

constexpr size_t kVerifyReadaheadBytes = size_t{1} << 20;

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

  // The file of the store that is to blame for `status`: named there, or by the last warning that named one.
  std::string BlamedFile(const rocksdb::Status& status) const {
    static const std::regex kFile("(\\d{6,}\\.(log|sst)|MANIFEST-\\d{6,})");
    static const std::regex kOldTableName("(\\d{6,})\\.ldb");
    std::smatch table;
    const std::string what = status.ToString();
    // A table that is missing is looked for under the name that tables once had, and that name is reported.
    if (std::regex_search(what, table, kOldTableName)) return table.str(1) + ".sst";
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
  // `last_sequence`: of a store that must exist; nullopt: a new one is made where there is none.
  Opener(const std::string& path, const RocksDbOptions& options, std::shared_ptr<rocksdb::EventListener> listener,
         std::optional<rocksdb::SequenceNumber> last_sequence)
      : path_(path),
        options_(options),
        listener_(std::move(listener)),
        must_exist_(last_sequence.has_value()),
        last_sequence_(last_sequence.value_or(UINT64_MAX)),
        env_(options.env != nullptr ? options.env : rocksdb::Env::Default()),
        lock_(std::make_shared<FolderLock>(env_)),
        block_cache_(rocksdb::NewLRUCache(options.block_cache_bytes)) {}

  absl::StatusOr<std::unique_ptr<OpenRocksDb>> Run();
  absl::StatusOr<std::unique_ptr<OpenRocksDb>> RunForReading();

 private:
  enum class Found { kNothing, kUnfinished, kStore };

  // What the folder has, without the files that say nothing.
  absl::StatusOr<std::vector<std::string>> List();
  absl::StatusOr<Found> Look();
  absl::StatusOr<Found> LookForStore();
  // The manifest that CURRENT names; "CURRENT" when it names none.
  std::string ManifestName();
  absl::Status BeginCreation();
  absl::Status FinishCreation(const OpenRocksDb& opened);
  // Writes the version that this build writes.
  rocksdb::Status PutFormat(const OpenRocksDb& opened);
  absl::Status Check();
  absl::Status CheckFamilies(std::vector<std::string>* present, std::vector<std::string>* missing, bool* unknown);
  absl::Status CheckLogs();
  absl::Status CheckFormat(rocksdb::DB& db, rocksdb::ColumnFamilyHandle* meta);
  absl::StatusOr<std::unique_ptr<OpenRocksDb>> OpenForGood(bool create);

  const std::string path_;
  const RocksDbOptions& options_;
  const std::shared_ptr<rocksdb::EventListener> listener_;
  const bool must_exist_;
  const rocksdb::SequenceNumber last_sequence_;
  rocksdb::Env* const env_;
  const std::shared_ptr<FolderLock> lock_;
  const std::shared_ptr<rocksdb::Cache> block_cache_;
  // Only a record at the end of a log may be incomplete: that is how a write looks that was under way when the power
  // failed. RocksDB's other mode stops at whatever it cannot read; it is used only after CheckLogs has seen that there
  // is nothing behind it.
  rocksdb::WALRecoveryMode recovery_mode_ = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  std::unique_ptr<RocksDbWalGuard> wal_guard_ = std::make_unique<RocksDbWalGuard>();
  int found_version_ = kFormatVersion;  // of the format, before it is converted
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

absl::StatusOr<Opener::Found> Opener::LookForStore() {
  absl::StatusOr<Found> found = Look();
  if (!found.ok() || *found == Found::kStore || !must_exist_) return found;
  return Refuse(absl::StatusCode::kDataLoss,
                "the store at {} is gone: its folder was removed or emptied while the server ran; nothing was created; "
                "bring it back, or restore it from a backup and start the server anew",
                path_);
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

rocksdb::Status Opener::PutFormat(const OpenRocksDb& opened) {
  rocksdb::WriteOptions synced;
  synced.sync = true;
  return opened.db().Put(synced, opened.handle(KeySpace::kMeta),
                         rocksdb::Slice(kFormatVersionKey.data(), kFormatVersionKey.size()),
                         std::to_string(kFormatVersion));
}

absl::Status Opener::FinishCreation(const OpenRocksDb& opened) {
  rocksdb::Status status = PutFormat(opened);
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
    const std::string manifest = ManifestName();
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

std::string Opener::ManifestName() {
  std::string name;
  rocksdb::ReadFileToString(env_, FileIn(path_, kCurrentFile), &name).PermitUncheckedError();
  while (!name.empty() && name.back() == '\n') name.pop_back();
  return name.rfind("MANIFEST-", 0) == 0 ? name : kCurrentFile;
}

absl::Status Opener::CheckLogs() {
  absl::StatusOr<std::vector<std::string>> names = List();
  if (!names.ok()) return names.status();
  const std::string manifest = ManifestName();
  for (const std::string& name : *names) {
    if (name != manifest && !EndsWith(name, ".log")) continue;
    std::string log;
    const rocksdb::Status status = rocksdb::ReadFileToString(env_, FileIn(path_, name), &log);
    if (!status.ok()) return RocksDbReadError(status, path_, name);
    const LogCheck check = CheckLog(log);
    if (check.end == LogEnd::kDamaged) {
      return Refuse(
          absl::StatusCode::kDataLoss,
          "the store at {} is damaged: its file {} is unreadable from byte {}; nothing was changed; restore it "
          "from a backup",
          path_, name, check.offset);
    }
    if (check.end == LogEnd::kZeroed && name != manifest) {
      recovery_mode_ = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
    }
  }
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
  found_version_ = version;
  return absl::OkStatus();
}

absl::Status Opener::Check() {
  std::vector<std::string> present;
  std::vector<std::string> missing;
  bool unknown = false;
  if (absl::Status status = CheckLogs(); !status.ok()) return status;
  if (absl::Status status = CheckFamilies(&present, &missing, &unknown); !status.ok()) return status;

  const auto warnings = std::make_shared<WarningKeeper>();
  rocksdb::DBOptions db_options = DatabaseOptions(options_, env_, wal_guard_.get());
  db_options.wal_recovery_mode = recovery_mode_;
  db_options.info_log = warnings;
  const rocksdb::ColumnFamilyOptions family_options = FamilyOptions(options_, block_cache_);
  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  for (const std::string& name : present) families.emplace_back(name, family_options);
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* raw = nullptr;
  rocksdb::Status status = rocksdb::DB::OpenForReadOnly(db_options, path_, families, &handles, &raw);
  if (!status.ok()) return RocksDbReadError(status, path_, warnings->BlamedFile(status));
  const std::unique_ptr<rocksdb::DB> db(raw);

  absl::Status verdict;
  const auto meta = std::find(present.begin(), present.end(), ColumnFamilyName(KeySpace::kMeta));
  // The version comes first: a newer one explains whatever else is unexpected.
  if (meta != present.end()) verdict = CheckFormat(*db, handles[static_cast<size_t>(meta - present.begin())]);
  if (found_version_ < kAuditFormatVersion) {
    missing.erase(std::remove(missing.begin(), missing.end(), ColumnFamilyName(KeySpace::kAudit)), missing.end());
  }
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
    if (!status.ok()) verdict = RocksDbReadError(status, path_, warnings->BlamedFile(status));
  }
  for (rocksdb::ColumnFamilyHandle* handle : handles) db->DestroyColumnFamilyHandle(handle);
  return verdict;
}

absl::StatusOr<std::unique_ptr<OpenRocksDb>> Opener::OpenForGood(bool create) {
  rocksdb::DBOptions db_options = DatabaseOptions(options_, env_, wal_guard_.get());
  db_options.wal_recovery_mode = recovery_mode_;
  db_options.create_if_missing = create;
  // What a store of an earlier version has not got yet; that nothing else is missing was checked.
  db_options.create_missing_column_families = create || found_version_ < kFormatVersion;
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
  return std::make_unique<OpenRocksDb>(std::move(wal_guard_), std::unique_ptr<rocksdb::DB>(db), std::move(handles));
}

absl::StatusOr<std::unique_ptr<OpenRocksDb>> Opener::Run() {
  absl::StatusOr<Found> found = LookForStore();
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
  if (const rocksdb::Status status = lock_->Acquire(path_); !status.ok()) return LockError(status, path_);
  // Again, now that nobody else can be at work here.
  found = LookForStore();
  if (!found.ok()) return found.status();
  const bool create = *found != Found::kStore;
  const absl::Status ready = create ? BeginCreation() : Check();
  if (!ready.ok()) return ready;
  wal_guard_->Decide(last_sequence_);
  lock_->Release();  // RocksDB takes it itself, and refuses if somebody was faster

  absl::StatusOr<std::unique_ptr<OpenRocksDb>> opened = OpenForGood(create);
  if (opened.ok() && create) {
    if (absl::Status status = FinishCreation(**opened); !status.ok()) return status;
  } else if (opened.ok() && found_version_ < kFormatVersion) {
    // Last: until then it is a store of the earlier version, and the next start converts it.
    if (const rocksdb::Status status = PutFormat(**opened); !status.ok()) return RocksDbReadError(status, path_);
  }
  return opened;
}

absl::StatusOr<std::unique_ptr<OpenRocksDb>> Opener::RunForReading() {
  for (int look = 0; look < 2; ++look) {
    const absl::StatusOr<Found> found = Look();
    if (!found.ok()) return found.status();
    if (*found != Found::kStore) {
      return Refuse(absl::StatusCode::kFailedPrecondition, "there is no store at {}; correct the path", path_);
    }
    // The second look is at what nobody else can be at work on.
    if (look > 0) break;
    if (const rocksdb::Status status = lock_->Acquire(path_); !status.ok()) return LockError(status, path_);
  }
  if (absl::Status status = Check(); !status.ok()) return status;
  wal_guard_->Decide(last_sequence_);

  const auto warnings = std::make_shared<WarningKeeper>();
  rocksdb::DBOptions db_options = DatabaseOptions(options_, env_, wal_guard_.get());
  db_options.wal_recovery_mode = recovery_mode_;
  db_options.info_log = warnings;
  const rocksdb::ColumnFamilyOptions family_options = FamilyOptions(options_, block_cache_);
  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  for (const KeySpace space : kKeySpaces) {
    if (space == KeySpace::kAudit && found_version_ < kAuditFormatVersion) continue;
    families.emplace_back(ColumnFamilyName(space), family_options);
  }
  families.emplace_back(rocksdb::kDefaultColumnFamilyName, family_options);
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status = rocksdb::DB::OpenForReadOnly(db_options, path_, families, &handles, &db);
  if (!status.ok()) return RocksDbReadError(status, path_, warnings->BlamedFile(status));
  if (found_version_ < kAuditFormatVersion) {
    handles.insert(handles.begin() + static_cast<ptrdiff_t>(KeySpace::kAudit), nullptr);
  }
  return std::make_unique<OpenRocksDb>(std::move(wal_guard_), std::unique_ptr<rocksdb::DB>(db), std::move(handles),
                                       lock_);
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
    case KeySpace::kAudit:
      return "audit";
  }
  return "";
}

absl::StatusOr<std::unique_ptr<OpenRocksDb>> OpenRocksDb::Open(const std::string& path, const RocksDbOptions& options,
                                                               std::shared_ptr<rocksdb::EventListener> listener) {
  return Opener(path, options, std::move(listener), std::nullopt).Run();
}

absl::StatusOr<std::unique_ptr<OpenRocksDb>> OpenRocksDb::Reopen(const std::string& path, const RocksDbOptions& options,
                                                                 std::shared_ptr<rocksdb::EventListener> listener,
                                                                 rocksdb::SequenceNumber last_sequence) {
  return Opener(path, options, std::move(listener), last_sequence).Run();
}

absl::StatusOr<std::unique_ptr<OpenRocksDb>> OpenRocksDb::OpenForReading(const std::string& path,
                                                                         const RocksDbOptions& options) {
  return Opener(path, options, nullptr, std::nullopt).RunForReading();
}

OpenRocksDb::~OpenRocksDb() {
  for (rocksdb::ColumnFamilyHandle* handle : handles_) {
    if (handle != nullptr) db_->DestroyColumnFamilyHandle(handle).PermitUncheckedError();
  }
  db_->Close().PermitUncheckedError();  // what was acknowledged is safe whatever it says
}

}  // namespace viommu::server
