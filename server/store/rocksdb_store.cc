#include "server/store/rocksdb_store.h"

#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/iostats_context.h>
#include <rocksdb/listener.h>
#include <rocksdb/perf_level.h>
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "common/error.h"
#include "server/store/rocksdb_backup.h"
#include "server/store/rocksdb_open.h"
#include "server/store/rocksdb_status.h"

namespace viommu::server {
namespace {

constexpr char kProbeFile[] = "fsync-probe";
constexpr size_t kProbeBytes = 512;

// Of the engine's own column family: written to prove that writes are taken again.
constexpr char kRecoveredKey[] = "recovered";

// Of the disk, besides what is in memory, before a recovery is tried: for manifest, options, a new log.
constexpr uint64_t kSpareBytes = uint64_t{1} << 20;

// Of the largest write whose memory the next one may have.
constexpr size_t kMaxKeptBytes = size_t{1} << 20;

rocksdb::Slice ToSlice(std::string_view text) { return rocksdb::Slice(text.data(), text.size()); }
std::string_view ToView(const rocksdb::Slice& slice) { return std::string_view(slice.data(), slice.size()); }

using SteadyClock = std::chrono::steady_clock;

// The median time of some small synced appends; nullopt when they fail: whoever writes next will say why.
std::optional<std::chrono::nanoseconds> ProbeFsync(rocksdb::Env* env, const std::string& path, int probes) {
  if (probes <= 0) return std::nullopt;
  const std::string name = path + "/" + kProbeFile;
  std::unique_ptr<rocksdb::WritableFile> file;
  rocksdb::Status status = env->NewWritableFile(name, &file, rocksdb::EnvOptions());
  const std::string block(kProbeBytes, 'p');
  std::vector<std::chrono::nanoseconds> times;
  for (int i = 0; i < probes && status.ok(); ++i) {
    status = file->Append(block);
    if (!status.ok()) break;
    const SteadyClock::time_point start = SteadyClock::now();
    status = file->Sync();
    times.push_back(SteadyClock::now() - start);
  }
  if (file != nullptr) file->Close().PermitUncheckedError();
  env->DeleteFile(name).PermitUncheckedError();
  if (!status.ok()) return std::nullopt;
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

// Measures this thread's waiting for stable storage while it lives.
class SyncTimer {
 public:
  SyncTimer() : level_(rocksdb::GetPerfLevel()) {
    rocksdb::SetPerfLevel(rocksdb::PerfLevel::kEnableTimeExceptForMutex);
    before_ = rocksdb::get_iostats_context()->fsync_nanos;
  }
  ~SyncTimer() { rocksdb::SetPerfLevel(level_); }
  SyncTimer(const SyncTimer&) = delete;
  SyncTimer& operator=(const SyncTimer&) = delete;

  std::chrono::nanoseconds elapsed() const {
    return std::chrono::nanoseconds(rocksdb::get_iostats_context()->fsync_nanos - before_);
  }

 private:
  const rocksdb::PerfLevel level_;
  uint64_t before_;
};

}  // namespace

// What RocksDB tells from its threads. Calls may come while it holds its own locks: take notes, do nothing else.
class RocksDbStore::Listener final : public rocksdb::EventListener {
 public:
  void OnBackgroundError(rocksdb::BackgroundErrorReason /*reason*/, rocksdb::Status* error) override {
    errors_.fetch_add(1, std::memory_order_relaxed);
    MutexLock lock(mu_);
    error_ = *error;
  }
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason reason, rocksdb::Status /*error*/,
                            bool* by_itself) override {
    // A failed compaction stops no commit, so nobody calls Recover for it.
    *by_itself = reason == rocksdb::BackgroundErrorReason::kCompaction;
  }
  void OnErrorRecoveryEnd(const rocksdb::BackgroundErrorRecoveryInfo& info) override {
    MutexLock lock(mu_);
    error_ = info.new_bg_error;
  }
  void OnStallConditionsChanged(const rocksdb::WriteStallInfo& info) override {
    if (info.condition.prev == rocksdb::WriteStallCondition::kNormal) stalls_.fetch_add(1, std::memory_order_relaxed);
  }

  rocksdb::Status error() const {
    MutexLock lock(mu_);
    return error_;
  }
  void Clear() {
    MutexLock lock(mu_);
    error_ = rocksdb::Status::OK();
  }
  uint64_t errors() const { return errors_.load(std::memory_order_relaxed); }
  uint64_t stalls() const { return stalls_.load(std::memory_order_relaxed); }

 private:
  mutable Mutex mu_;
  rocksdb::Status error_ ABSL_GUARDED_BY(mu_);
  std::atomic<uint64_t> errors_{0};
  std::atomic<uint64_t> stalls_{0};
};

// Keeps the database open. Readers never wait for a recovery, so a Get within a Scan cannot stand in its own way.
class RocksDbStore::Reading {
 public:
  explicit Reading(const RocksDbStore& store) : store_(store) {
    MutexLock lock(store_.open_mu_);
    open_ = store_.open_.get();
    if (open_ != nullptr) ++store_.readers_;
  }
  ~Reading() {
    if (open_ == nullptr) return;
    MutexLock lock(store_.open_mu_);
    if (--store_.readers_ == 0) store_.no_readers_.NotifyAll();
  }
  Reading(const Reading&) = delete;
  Reading& operator=(const Reading&) = delete;

  // nullptr: it is not open.
  const OpenRocksDb* open() const { return open_; }

  absl::Status error() const {
    return Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_STORE_UNAVAILABLE)
        .Message("the store at {} is being opened again after a failed write; try again", store_.path_)
        .Meta("path", store_.path_);
  }

 private:
  const RocksDbStore& store_;
  const OpenRocksDb* open_ = nullptr;
};

RocksDbStore::RocksDbStore(std::string path, const RocksDbOptions& options)
    : path_(std::move(path)),
      options_(options),
      env_(options.env != nullptr ? options.env : rocksdb::Env::Default()),
      listener_(std::make_shared<Listener>()) {}

RocksDbStore::~RocksDbStore() = default;

absl::StatusOr<std::unique_ptr<RocksDbStore>> RocksDbStore::Open(const std::string& path,
                                                                 const RocksDbOptions& options) {
  std::unique_ptr<RocksDbStore> store(new RocksDbStore(path, options));
  absl::StatusOr<std::unique_ptr<OpenRocksDb>> open = OpenRocksDb::Open(path, options, store->listener_);
  if (!open.ok()) return open.status();
  {
    MutexLock lock(store->open_mu_);
    store->open_ = *std::move(open);
  }
  store->fsync_p50_ = ProbeFsync(store->env_, path, options.fsync_probes);
  return store;
}

absl::StatusOr<std::unique_ptr<RocksDbStore>> RocksDbStore::OpenForReading(const std::string& path) {
  std::unique_ptr<RocksDbStore> store(new RocksDbStore(path, RocksDbOptions()));
  absl::StatusOr<std::unique_ptr<OpenRocksDb>> open = OpenRocksDb::OpenForReading(path, store->options_);
  if (!open.ok()) return open.status();
  MutexLock lock(store->open_mu_);
  store->open_ = *std::move(open);
  return store;
}

absl::Status RocksDbStore::Commit(const Batch& batch, Durability durability) {
  CommitSample sample;
  sample.records = batch.size();
  sample.bytes = batch.bytes();
  sample.synced = durability == Durability::kSynced;
  absl::Status status;
  {
    MutexLock lock(commit_mu_);
    const SteadyClock::time_point start = SteadyClock::now();
    const SyncTimer sync_timer;
    status = Write(batch, durability);
    sample.total = SteadyClock::now() - start;
    sample.sync = sync_timer.elapsed();
    sample.ok = status.ok();
  }
  if (status.ok()) {
    counters_.commits.fetch_add(1, std::memory_order_relaxed);
    counters_.synced_commits.fetch_add(sample.synced ? 1 : 0, std::memory_order_relaxed);
    counters_.commit_records.fetch_add(sample.records, std::memory_order_relaxed);
    counters_.commit_bytes.fetch_add(sample.bytes, std::memory_order_relaxed);
  } else {
    counters_.failed_commits.fetch_add(1, std::memory_order_relaxed);
  }
  if (options_.on_commit) options_.on_commit(sample);
  return status;
}

absl::Status RocksDbStore::Write(const Batch& batch, Durability durability) {
  {
    MutexLock lock(failure_mu_);
    if (!failure_.ok()) return failure_;
  }
  const Reading reading(*this);
  const OpenRocksDb& open = *reading.open();  // without a failure it is open
  if (writes_.GetDataSize() > kMaxKeptBytes) writes_ = rocksdb::WriteBatch();
  writes_.Clear();
  rocksdb::Status status;
  for (size_t i = 0; i < batch.size() && status.ok(); ++i) {
    const Batch::Op op = batch.op(i);
    if (op.value.has_value()) {
      status = writes_.Put(open.handle(op.space), ToSlice(op.key), ToSlice(*op.value));
    } else if (!op.end.has_value()) {
      status = writes_.Delete(open.handle(op.space), ToSlice(op.key));
    } else if (op.key < *op.end) {
      status = writes_.DeleteRange(open.handle(op.space), ToSlice(op.key), ToSlice(*op.end));
    }
  }
  rocksdb::WriteOptions write;
  write.sync = durability == Durability::kSynced;
  const uint64_t last_sequence = open.db().GetLatestSequenceNumber();
  if (status.ok()) {
    // An empty batch has nothing to order, but a synced one still stands for all before it.
    if (writes_.Count() > 0) {
      status = open.db().Write(write, &writes_);
    } else if (write.sync) {
      status = open.db().SyncWAL();
    }
  }
  if (status.ok()) return absl::OkStatus();
  // Whatever RocksDB thinks of it, nothing may follow a batch that may be half there.
  last_sequence_ = last_sequence;
  return SetFailure(RocksDbWriteError(status, path_));
}

absl::Status RocksDbStore::SetFailure(absl::Status status) {
  MutexLock lock(failure_mu_);
  failure_ = status;
  return status;
}

absl::Status RocksDbStore::Recover() {
  MutexLock lock(commit_mu_);
  {
    MutexLock failure_lock(failure_mu_);
    if (failure_.ok()) return absl::OkStatus();
  }
  // Opening writes what is in memory to tables. Without room for that it would fail, and leave nothing to read from.
  uint64_t room = 0;
  const uint64_t needed = stats().memtable_bytes + kSpareBytes;
  if (env_->GetFreeSpace(path_, &room).ok() && room < needed) {
    return SetFailure(
        Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_STORE_UNAVAILABLE)
            .Message("the store at {} takes no writes: {} bytes are free there, {} are needed; make room; "
                     "the server tries again by itself",
                     path_, room, needed)
            .Meta("path", path_));
  }
  if (const absl::Status status = Reopen(); !status.ok()) return SetFailure(status);
  counters_.recoveries.fetch_add(1, std::memory_order_relaxed);
  return SetFailure(absl::OkStatus());
}

absl::Status RocksDbStore::Reopen() {
  std::unique_ptr<OpenRocksDb> old;
  {
    MutexLock lock(open_mu_);
    old = std::move(open_);
    // Writers must not wait for a copy of the whole store.
    if (backups_ != nullptr) backups_->Stop();
    while (readers_ > 0) no_readers_.Wait(open_mu_);
  }
  old.reset();
  listener_->Clear();
  RocksDbOptions options = options_;
  options.verify_on_open = false;  // that was done when the server started
  absl::StatusOr<std::unique_ptr<OpenRocksDb>> open = OpenRocksDb::Reopen(path_, options, listener_, last_sequence_);
  if (!open.ok()) return open.status();
  rocksdb::WriteOptions synced;
  synced.sync = true;
  const rocksdb::Status status = (*open)->db().Put(synced, (*open)->own_handle(), kRecoveredKey, "");
  MutexLock lock(open_mu_);
  open_ = *std::move(open);
  return status.ok() ? absl::OkStatus() : RocksDbWriteError(status, path_);
}

absl::StatusOr<std::optional<std::string>> RocksDbStore::Get(KeySpace space, std::string_view key) const {
  const Reading reading(*this);
  if (reading.open() == nullptr) return reading.error();
  if (reading.open()->handle(space) == nullptr) return std::optional<std::string>();
  std::string value;
  const rocksdb::Status status =
      reading.open()->db().Get(rocksdb::ReadOptions(), reading.open()->handle(space), ToSlice(key), &value);
  if (status.IsNotFound()) return std::optional<std::string>();
  if (!status.ok()) return RocksDbReadError(status, path_);
  return std::optional<std::string>(std::move(value));
}

absl::Status RocksDbStore::Scan(KeySpace space, std::string_view begin, std::string_view end,
                                absl::FunctionRef<bool(std::string_view key, std::string_view value)> visit) const {
  if (!end.empty() && end <= begin) return absl::OkStatus();
  const Reading reading(*this);
  if (reading.open() == nullptr) return reading.error();
  if (reading.open()->handle(space) == nullptr) return absl::OkStatus();
  rocksdb::ReadOptions read;
  // What is read to its end would push out of the cache what is asked for again, and resources are read once, at the
  // start.
  read.fill_cache = !end.empty() && space != KeySpace::kResources;
  const rocksdb::Slice upper_bound = ToSlice(end);
  if (!end.empty()) read.iterate_upper_bound = &upper_bound;
  const std::unique_ptr<rocksdb::Iterator> it(reading.open()->db().NewIterator(read, reading.open()->handle(space)));
  for (it->Seek(ToSlice(begin)); it->Valid(); it->Next()) {
    if (!visit(ToView(it->key()), ToView(it->value()))) return absl::OkStatus();
  }
  return it->status().ok() ? absl::OkStatus() : RocksDbReadError(it->status(), path_);
}

absl::StatusOr<std::vector<BackupInfo>> RocksDbStore::Backup(const std::string& folder, const std::string& metadata,
                                                             size_t keep) {
  VIOMMU_ASSIGN_OR_RETURN(const std::unique_ptr<RocksDbBackups> backups, RocksDbBackups::Open(folder));
  const Reading reading(*this);
  {
    MutexLock lock(open_mu_);
    // Not open: it is to be opened again, and that waits for us.
    if (reading.open() == nullptr || open_.get() != reading.open() || backups_stopped_) {
      return Error(absl::StatusCode::kUnavailable, v1::ERROR_REASON_BACKUP_FAILED)
          .Message("the store at {} is being {}; no backup was made", path_,
                   backups_stopped_ ? "closed" : "opened again after a failed write")
          .RetryAfter(std::chrono::seconds(1));
    }
    backups_ = backups.get();
  }
  const absl::Status made = backups->Make(reading.open()->db(), metadata, keep);
  {
    MutexLock lock(open_mu_);
    backups_ = nullptr;
  }
  VIOMMU_RETURN_IF_ERROR(made);
  return backups->List();
}

void RocksDbStore::StopBackups() {
  MutexLock lock(open_mu_);
  backups_stopped_ = true;
  if (backups_ != nullptr) backups_->Stop();
}

absl::StatusOr<std::vector<BackupInfo>> RocksDbStore::ListBackups(const std::string& folder) const {
  VIOMMU_ASSIGN_OR_RETURN(const std::unique_ptr<RocksDbBackups> backups, RocksDbBackups::Open(folder));
  return backups->List();
}

std::string RocksDbStore::Describe() const { return "rocksdb at " + path_; }

absl::Status RocksDbStore::health() const {
  {
    MutexLock lock(failure_mu_);
    if (!failure_.ok()) return failure_;
  }
  const rocksdb::Status error = listener_->error();
  return error.ok() ? absl::OkStatus() : RocksDbWriteError(error, path_);
}

RocksDbStats RocksDbStore::stats() const {
  RocksDbStats stats;
  stats.commits = counters_.commits.load(std::memory_order_relaxed);
  stats.synced_commits = counters_.synced_commits.load(std::memory_order_relaxed);
  stats.commit_records = counters_.commit_records.load(std::memory_order_relaxed);
  stats.commit_bytes = counters_.commit_bytes.load(std::memory_order_relaxed);
  stats.failed_commits = counters_.failed_commits.load(std::memory_order_relaxed);
  stats.recoveries = counters_.recoveries.load(std::memory_order_relaxed);
  stats.background_errors = listener_->errors();
  stats.write_stalls = listener_->stalls();

  const Reading reading(*this);
  if (reading.open() == nullptr) return stats;
  using Properties = rocksdb::DB::Properties;
  rocksdb::DB& db = reading.open()->db();
  rocksdb::ColumnFamilyHandle* const any = reading.open()->own_handle();
  db.GetAggregatedIntProperty(Properties::kTotalSstFilesSize, &stats.sst_bytes);
  db.GetAggregatedIntProperty(Properties::kSizeAllMemTables, &stats.memtable_bytes);
  db.GetAggregatedIntProperty(Properties::kEstimatePendingCompactionBytes, &stats.pending_compaction_bytes);
  db.GetIntProperty(any, Properties::kBlockCacheUsage, &stats.block_cache_bytes);
  uint64_t stopped = 0;
  db.GetIntProperty(any, Properties::kIsWriteStopped, &stopped);
  stats.write_stopped = stopped != 0;

  std::vector<std::string> names;
  env_->GetChildren(path_, &names).PermitUncheckedError();
  for (const std::string& name : names) {
    constexpr std::string_view kSuffix = ".log";
    if (name.size() <= kSuffix.size() || name.compare(name.size() - kSuffix.size(), kSuffix.size(), kSuffix) != 0) {
      continue;
    }
    uint64_t bytes = 0;
    if (env_->GetFileSize(path_ + "/" + name, &bytes).ok()) stats.wal_bytes += bytes;
  }
  return stats;
}

}  // namespace viommu::server
