#include "server/store/memory_store.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/error.h"

namespace viommu::server {

void MemoryStore::Apply(const Batch& batch, Tables& tables) {
  for (size_t i = 0; i < batch.size(); ++i) {
    const Batch::Op op = batch.op(i);
    Table& table = tables[static_cast<size_t>(op.space)];
    if (op.value.has_value()) {
      table.insert_or_assign(std::string(op.key), std::make_shared<const std::string>(*op.value));
    } else if (op.end.has_value()) {
      if (op.key < *op.end) table.erase(table.lower_bound(op.key), table.lower_bound(*op.end));
    } else if (const auto found = table.find(op.key); found != table.end()) {
      table.erase(found);
    }
  }
}

absl::Status MemoryStore::Commit(const Batch& batch, Durability durability) {
  WriterLock lock(mu_);
  if (!failure_.ok()) {
    ++stats_.failed_commits;
    // Only the first failed batch can have reached the disk: after it the store takes nothing.
    if (failed_batch_ == FailedBatch::kKept && !kept_.has_value()) kept_ = batch;
    return failure_;
  }
  ++stats_.commits;
  Apply(batch, tables_);
  unsynced_.push_back(batch);
  if (durability == Durability::kSynced) {
    ++stats_.synced_commits;
    for (const Batch& earlier : unsynced_) Apply(earlier, synced_);
    unsynced_.clear();
  } else if (unsynced_.size() > kMaxUnsyncedBatches) {
    Apply(unsynced_.front(), synced_);
    unsynced_.pop_front();
  }
  return absl::OkStatus();
}

absl::Status MemoryStore::Recover() {
  WriterLock lock(mu_);
  if (!recovery_allowed_) return failure_;
  ++stats_.recoveries;
  failure_ = absl::OkStatus();
  kept_.reset();
  return absl::OkStatus();
}

absl::StatusOr<std::optional<std::string>> MemoryStore::Get(KeySpace space, std::string_view key) const {
  ReaderLock lock(mu_);
  if (!read_failure_.ok()) return read_failure_;
  const Table& table = tables_[static_cast<size_t>(space)];
  const auto it = table.find(key);
  if (it == table.end()) return std::optional<std::string>();
  return std::optional<std::string>(*it->second);
}

absl::Status MemoryStore::Scan(KeySpace space, std::string_view begin, std::string_view end,
                               absl::FunctionRef<bool(std::string_view key, std::string_view value)> visit) const {
  std::vector<Table::value_type> found;
  {
    ReaderLock lock(mu_);
    if (!read_failure_.ok()) return read_failure_;
    const Table& table = tables_[static_cast<size_t>(space)];
    for (auto it = table.lower_bound(begin); it != table.end() && (end.empty() || it->first < end); ++it) {
      found.push_back(*it);
    }
  }
  for (const auto& [key, value] : found) {
    if (!visit(key, *value)) break;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<BackupInfo>> MemoryStore::Backup(const std::string& folder, const std::string&, size_t) {
  return ListBackups(folder);
}

absl::StatusOr<std::vector<BackupInfo>> MemoryStore::ListBackups(const std::string&) const {
  return Error(absl::StatusCode::kUnimplemented, v1::ERROR_REASON_NOT_OFFERED)
      .Message("a store in memory has no backups; give the server store: rocksdb:PATH");
}

void MemoryStore::FailCommits(absl::Status status, FailedBatch failed_batch) {
  WriterLock lock(mu_);
  failure_ = std::move(status);
  failed_batch_ = failed_batch;
  recovery_allowed_ = false;
}

void MemoryStore::AllowRecovery() {
  WriterLock lock(mu_);
  recovery_allowed_ = true;
}

void MemoryStore::FailReads(absl::Status status) {
  WriterLock lock(mu_);
  read_failure_ = std::move(status);
}

std::unique_ptr<MemoryStore> MemoryStore::AfterPowerLoss(size_t unsynced_kept) const {
  auto store = std::make_unique<MemoryStore>();
  ReaderLock lock(mu_);
  WriterLock other(store->mu_);
  store->synced_ = synced_;
  for (size_t i = 0; i < std::min(unsynced_kept, unsynced_.size()); ++i) Apply(unsynced_[i], store->synced_);
  // A failed batch comes after all others: it is there only if they are.
  if (kept_.has_value() && unsynced_kept >= unsynced_.size()) Apply(*kept_, store->synced_);
  store->tables_ = store->synced_;
  return store;
}

std::unique_ptr<MemoryStore> MemoryStore::AfterKill() const {
  auto store = std::make_unique<MemoryStore>();
  ReaderLock lock(mu_);
  WriterLock other(store->mu_);
  store->tables_ = tables_;
  if (kept_.has_value()) Apply(*kept_, store->tables_);
  // What the disk has not got yet is what it would have got first: the power may fail right after the kill.
  store->synced_ = synced_;
  store->unsynced_ = unsynced_;
  if (kept_.has_value()) store->unsynced_.push_back(*kept_);
  return store;
}

MemoryStore::Stats MemoryStore::stats() const {
  ReaderLock lock(mu_);
  return stats_;
}

}  // namespace viommu::server
