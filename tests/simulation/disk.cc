#include "tests/simulation/disk.h"

#include <algorithm>
#include <utility>

#include "server/commit/codec.h"

namespace viommu::simulation {

using server::Batch;
using server::Durability;
using server::KeySpace;

// ---- The server's store ---------------------------------------------------------------------------------------------

uint64_t ServerDisk::HashOfRecord(std::string_view key, std::string_view value) { return HashOf(value, HashOf(key)); }

uint64_t ServerDisk::RecordHash() const {
  uint64_t hash = 0;
  static_cast<void>(memory_->Scan(KeySpace::kResources, "", "", [&hash](std::string_view key, std::string_view value) {
    hash += HashOfRecord(key, value);
    return true;
  }));
  return hash;
}

int64_t ServerDisk::revision() const {
  const auto bytes = memory_->Get(KeySpace::kMeta, server::kMetaRevision);
  if (!bytes.ok() || !bytes->has_value()) return 0;
  return server::DecodeNumber(**bytes).value_or(0);
}

bool ServerDisk::WouldKeepFailedBatch() const {
  const auto copied = Copy()->Get(KeySpace::kMeta, server::kMetaRevision);
  return copied.ok() && copied->has_value() && server::DecodeNumber(**copied).value_or(0) != revision();
}

absl::Status ServerDisk::Commit(const Batch& batch, Durability durability) {
  if (crashed_) return absl::UnavailableError("the process is gone");
  uint64_t change = 0;
  int64_t after = revision();
  std::map<std::string, std::string, std::less<>> values;  // of resources that the batch has touched before
  for (size_t i = 0; i < batch.size(); ++i) {
    const Batch::Op op = batch.op(i);
    if (op.space == KeySpace::kMeta && op.key == server::kMetaRevision) {
      after = server::DecodeNumber(*op.value).value_or(0);
    }
    if (op.space != KeySpace::kResources) continue;
    auto known = values.find(op.key);
    if (known == values.end()) {
      const auto before = memory_->Get(KeySpace::kResources, op.key);
      known = values.emplace(op.key, before.ok() && before->has_value() ? **before : "").first;
    }
    if (!known->second.empty()) change -= HashOfRecord(op.key, known->second);
    known->second = op.value.value_or("");
    if (!known->second.empty()) change += HashOfRecord(op.key, known->second);
  }
  if (on_attempt_) on_attempt_(after, change);
  if (ActiveMutation() == Mutation::kAcknowledgeBeforeSync) durability = Durability::kBuffered;
  if (crash_in_ > 0 && --crash_in_ == 0) {
    crashed_ = true;
    scheduler_.Trace("server disk: crash", "", after);
    if (scheduler_.random.OneIn(2)) static_cast<void>(memory_->Commit(batch, durability));
    return absl::UnavailableError("the process is gone");
  }
  return memory_->Commit(batch, durability);
}

absl::Status ServerDisk::Recover() {
  if (crashed_) return absl::UnavailableError("the process is gone");
  return memory_->Recover();
}

void ServerDisk::Fail(bool keep_failed_batch) {
  memory_->FailCommits(
      absl::UnavailableError("no space left on device"),
      keep_failed_batch ? server::MemoryStore::FailedBatch::kKept : server::MemoryStore::FailedBatch::kLost);
}

void ServerDisk::AllowRecovery() { memory_->AllowRecovery(); }

void ServerDisk::Replace(std::unique_ptr<server::MemoryStore> content) {
  memory_ = std::move(content);
  crashed_ = false;
  crash_in_ = 0;
}

void ServerDisk::AfterKill() { Replace(memory_->AfterKill()); }

void ServerDisk::AfterPowerLoss() { Replace(memory_->AfterPowerLoss(scheduler_.random.Below(8))); }

// ---- An agent's file system -----------------------------------------------------------------------------------------

class AgentDisk::Appender final : public agent::AppendFile {
 public:
  Appender(AgentDisk& disk, std::string path, std::shared_ptr<File> file)
      : disk_(disk), path_(std::move(path)), file_(std::move(file)) {}
  absl::Status Append(std::string_view data) override { return disk_.Append(*file_, path_, data); }
  absl::Status Sync() override { return disk_.Sync(*file_, path_); }

 private:
  AgentDisk& disk_;
  const std::string path_;
  const std::shared_ptr<File> file_;
};

class AgentDisk::Held final : public agent::FileLock {
 public:
  explicit Held(AgentDisk& disk) : disk_(disk) { disk_.locked_ = true; }
  ~Held() override { disk_.locked_ = false; }

 private:
  AgentDisk& disk_;
};

AgentDisk& AgentDisk::operator=(AgentDisk&& other) noexcept {
  names_ = std::move(other.names_);
  durable_names_ = std::move(other.durable_names_);
  crash_in_ = 0;
  crashed_ = false;
  failing_syncs_ = 0;
  return *this;
}

void AgentDisk::CopyFrom(const AgentDisk& other) {
  names_.clear();
  for (const auto& [name, file] : other.names_) {
    names_[name] = std::make_shared<File>(File{.content = file->content, .durable = file->content});
  }
  durable_names_ = names_;
}

absl::Status AgentDisk::Change(const std::string& path, const std::function<void()>& partly) {
  if (crashed_) return absl::UnavailableError(path + ": the process is gone");
  if (crash_in_ > 0 && --crash_in_ == 0) {
    crashed_ = true;
    if (partly) partly();
    return absl::UnavailableError(path + ": the process is gone");
  }
  if (full_) {
    if (partly) partly();
    return absl::UnavailableError(path + ": no space left on device");
  }
  return absl::OkStatus();
}

absl::Status AgentDisk::MakeDirectory(const std::string&) { return absl::OkStatus(); }

absl::StatusOr<std::unique_ptr<agent::FileLock>> AgentDisk::Lock(const std::string& path) {
  if (locked_) return absl::FailedPreconditionError(path + " is locked");
  return std::make_unique<Held>(*this);
}

absl::StatusOr<std::string> AgentDisk::Read(const std::string& path) {
  const auto found = names_.find(path);
  if (found == names_.end()) return absl::NotFoundError(path);
  return found->second->content;
}

absl::StatusOr<std::unique_ptr<agent::AppendFile>> AgentDisk::OpenForAppend(const std::string& path, uint64_t size) {
  if (const absl::Status status = Change(path); !status.ok()) return status;
  std::shared_ptr<File>& file = names_[path];
  // A file that is written anew from its start may still be known under a durable name: leave that one alone.
  if (file == nullptr || size == 0) file = std::make_shared<File>();
  if (size < file->content.size()) file->content.resize(size);
  return std::make_unique<Appender>(*this, path, file);
}

absl::Status AgentDisk::Append(File& file, const std::string& path, std::string_view data) {
  const absl::Status status =
      Change(path, [&] { file.content += data.substr(0, scheduler_.random.Below(data.size() + 1)); });
  if (status.ok()) file.content += data;
  return status;
}

absl::Status AgentDisk::Sync(File& file, const std::string& path) {
  if (const absl::Status status = Change(path); !status.ok()) return status;
  if (sync_time_ > nanoseconds(0)) waited_ += scheduler_.random.Between(nanoseconds(0), sync_time_);
  if (failing_syncs_ > 0) {
    --failing_syncs_;
    file.dropped = std::min(file.dropped, file.durable.size());
    return absl::UnavailableError(path + ": input/output error");
  }
  if (ActiveMutation() == Mutation::kJournalSyncLies) return absl::OkStatus();
  file.durable = file.content;
  for (size_t i = file.dropped; i < file.durable.size(); ++i) file.durable[i] = '\0';
  return absl::OkStatus();
}

absl::Status AgentDisk::Rename(const std::string& from, const std::string& to) {
  if (const absl::Status status = Change(to); !status.ok()) return status;
  const auto found = names_.find(from);
  if (found == names_.end()) return absl::NotFoundError(from);
  names_[to] = found->second;
  names_.erase(from);
  return absl::OkStatus();
}

absl::Status AgentDisk::SyncDirectory(const std::string& path) {
  if (const absl::Status status = Change(path); !status.ok()) return status;
  durable_names_ = names_;
  return absl::OkStatus();
}

void AgentDisk::AfterKill() {
  crashed_ = false;
  waited_ = nanoseconds(0);
  crash_in_ = 0;
}

void AgentDisk::AfterPowerLoss() {
  AfterKill();
  full_ = false;
  failing_syncs_ = 0;
  // Names that were not synced may have become durable all the same, and so may a part of what was appended.
  if (scheduler_.random.OneIn(2)) names_ = durable_names_;
  durable_names_ = names_;
  for (const auto& [name, file] : names_) {
    std::string left = file->durable;
    if (file->content.size() > left.size() && file->content.compare(0, left.size(), left) == 0 &&
        file->dropped == SIZE_MAX) {
      const size_t more = scheduler_.random.Below(file->content.size() - left.size() + 1);
      left += file->content.substr(left.size(), more);
      // The file's length may have become durable before its last sector.
      if (more > 0 && scheduler_.random.OneIn(4)) {
        const size_t zeros = std::min<size_t>(more, 1 + scheduler_.random.Below(16));
        std::fill(left.end() - static_cast<std::ptrdiff_t>(zeros), left.end(), '\0');
      }
    }
    file->content = left;
    file->durable = left;
    file->dropped = SIZE_MAX;
  }
}

}  // namespace viommu::simulation
