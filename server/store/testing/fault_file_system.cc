#include "server/store/testing/fault_file_system.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace viommu::server {

using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

namespace {

std::string FolderOf(const std::string& path) { return path.substr(0, path.find_last_of('/')); }

// As RocksDB's own file system tells it.
IOStatus NoSpace(const std::string& path) {
  IOStatus status = IOStatus::NoSpace("While appending to file: " + path, "No space left on device");
  status.SetRetryable(true);
  return status;
}

}  // namespace

class FaultFileSystem::File final : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  File(FaultFileSystem& system, std::string path, std::unique_ptr<rocksdb::FSWritableFile> file)
      : FSWritableFileOwnerWrapper(std::move(file)), system_(system), path_(std::move(path)) {}

  IOStatus Append(const Slice& data, const IOOptions& options, IODebugContext* context) override {
    uint64_t fit = 0;
    const IOStatus verdict = system_.BeforeAppend(path_, data.size(), &fit);
    if (fit > 0) {
      IOStatus status = target()->Append(Slice(data.data(), fit), options, context);
      if (!status.ok()) return status;
      system_.AfterAppend(path_, fit);
    }
    return verdict;
  }
  IOStatus Append(const Slice& data, const IOOptions& options, const rocksdb::DataVerificationInfo& /*info*/,
                  IODebugContext* context) override {
    return Append(data, options, context);
  }
  IOStatus Sync(const IOOptions& options, IODebugContext* context) override {
    bool reach_disk = false;
    const IOStatus verdict = system_.BeforeSync(path_, &reach_disk);
    if (reach_disk) {
      IOStatus status = target()->Sync(options, context);
      if (!status.ok()) return status;
      system_.AfterSync(path_);
    }
    return verdict;
  }
  IOStatus Fsync(const IOOptions& options, IODebugContext* context) override { return Sync(options, context); }
  IOStatus RangeSync(uint64_t /*offset*/, uint64_t /*bytes*/, const IOOptions& /*options*/,
                     IODebugContext* /*context*/) override {
    return IOStatus::OK();
  }
  IOStatus Close(const IOOptions& options, IODebugContext* context) override {
    const IOStatus status = target()->Close(options, context);
    const IOStatus killed = system_.IfKilled();
    return killed.ok() ? status : killed;
  }

 private:
  FaultFileSystem& system_;
  const std::string path_;
};

class FaultFileSystem::Folder final : public rocksdb::FSDirectory {
 public:
  Folder(FaultFileSystem& system, std::string path, std::unique_ptr<rocksdb::FSDirectory> folder)
      : system_(system), path_(std::move(path)), folder_(std::move(folder)) {}

  IOStatus Fsync(const IOOptions& options, IODebugContext* context) override {
    bool reach_disk = false;
    const IOStatus verdict = system_.BeforeSync(path_, &reach_disk);
    if (reach_disk) {
      IOStatus status = folder_->Fsync(options, context);
      if (!status.ok()) return status;
      system_.AfterFolderSync(path_);
    }
    return verdict;
  }
  IOStatus FsyncWithDirOptions(const IOOptions& options, IODebugContext* context,
                               const rocksdb::DirFsyncOptions& /*what*/) override {
    return Fsync(options, context);
  }
  IOStatus Close(const IOOptions& options, IODebugContext* context) override {
    return folder_->Close(options, context);
  }

 private:
  FaultFileSystem& system_;
  const std::string path_;
  const std::unique_ptr<rocksdb::FSDirectory> folder_;
};

void FaultFileSystem::SetSpace(uint64_t bytes, bool told) {
  MutexLock lock(mu_);
  space_ = bytes;
  space_told_ = told;
}

void FaultFileSystem::FailSyncs(Concerns concerns, bool reach_disk) {
  MutexLock lock(mu_);
  failing_syncs_ = std::move(concerns);
  failed_syncs_reach_disk_ = reach_disk;
}

void FaultFileSystem::Kill() {
  MutexLock lock(mu_);
  killed_ = true;
}

void FaultFileSystem::LosePower(const Keep& keep) {
  MutexLock lock(mu_);
  killed_ = true;
  for (const auto& [path, state] : files_) {
    if (!state.durable) {
      std::remove(path.c_str());
      continue;
    }
    const Kept kept = keep != nullptr ? keep(path, state.synced, state.size) : Kept{state.synced};
    const uint64_t bytes = std::clamp(kept.bytes, state.synced, state.size);
    // Making it longer again fills it with zeros.
    const bool done = ::truncate(path.c_str(), static_cast<off_t>(bytes)) == 0 &&
                      (!kept.zeros_behind || ::truncate(path.c_str(), static_cast<off_t>(state.size)) == 0);
    if (!done) std::abort();
  }
  files_.clear();
}

uint64_t FaultFileSystem::syncs() const {
  MutexLock lock(mu_);
  return syncs_;
}

IOStatus FaultFileSystem::NewWritableFile(const std::string& path, const rocksdb::FileOptions& options,
                                          std::unique_ptr<rocksdb::FSWritableFile>* file, IODebugContext* context) {
  {
    MutexLock lock(mu_);
    if (killed_) return IOStatus::IOError("killed");
    if (space_ == 0) return NoSpace(path);
  }
  std::unique_ptr<rocksdb::FSWritableFile> real;
  IOStatus status = target()->NewWritableFile(path, options, &real, context);
  if (!status.ok()) return status;
  {
    MutexLock lock(mu_);
    files_[path] = State();
  }
  *file = std::make_unique<File>(*this, path, std::move(real));
  return status;
}

IOStatus FaultFileSystem::NewDirectory(const std::string& path, const IOOptions& options,
                                       std::unique_ptr<rocksdb::FSDirectory>* folder, IODebugContext* context) {
  std::unique_ptr<rocksdb::FSDirectory> real;
  IOStatus status = target()->NewDirectory(path, options, &real, context);
  if (status.ok()) *folder = std::make_unique<Folder>(*this, path, std::move(real));
  return status;
}

IOStatus FaultFileSystem::DeleteFile(const std::string& path, const IOOptions& options, IODebugContext* context) {
  MutexLock lock(mu_);
  if (killed_) return IOStatus::IOError("killed");
  files_.erase(path);
  return target()->DeleteFile(path, options, context);
}

IOStatus FaultFileSystem::RenameFile(const std::string& from, const std::string& to, const IOOptions& options,
                                     IODebugContext* context) {
  MutexLock lock(mu_);
  if (killed_) return IOStatus::IOError("killed");
  IOStatus status = target()->RenameFile(from, to, options, context);
  const auto it = files_.find(from);
  if (status.ok() && it != files_.end()) {
    State state = it->second;
    state.durable = true;
    files_.erase(it);
    files_[to] = state;
  }
  return status;
}

IOStatus FaultFileSystem::GetFreeSpace(const std::string& path, const IOOptions& options, uint64_t* bytes,
                                       IODebugContext* context) {
  const IOStatus status = target()->GetFreeSpace(path, options, bytes, context);
  MutexLock lock(mu_);
  if (status.ok() && space_told_) *bytes = std::min(*bytes, space_);
  return status;
}

IOStatus FaultFileSystem::BeforeAppend(const std::string& path, uint64_t bytes, uint64_t* fit) {
  MutexLock lock(mu_);
  if (killed_) return IOStatus::IOError("killed");
  if (space_ == kUnlimited) {
    *fit = bytes;
    return IOStatus::OK();
  }
  *fit = std::min(bytes, space_);
  space_ -= *fit;
  return *fit == bytes ? IOStatus::OK() : NoSpace(path);
}

void FaultFileSystem::AfterAppend(const std::string& path, uint64_t bytes) {
  MutexLock lock(mu_);
  const auto it = files_.find(path);
  if (it != files_.end()) it->second.size += bytes;
}

IOStatus FaultFileSystem::BeforeSync(const std::string& path, bool* reach_disk) {
  MutexLock lock(mu_);
  if (killed_) return IOStatus::IOError("killed");
  ++syncs_;
  const bool fails = failing_syncs_ != nullptr && failing_syncs_(path);
  *reach_disk = !fails || failed_syncs_reach_disk_;
  return fails ? IOStatus::IOError("While fdatasync", path) : IOStatus::OK();
}

void FaultFileSystem::AfterSync(const std::string& path) {
  MutexLock lock(mu_);
  const auto it = files_.find(path);
  if (it != files_.end()) it->second.synced = it->second.size;
}

void FaultFileSystem::AfterFolderSync(const std::string& path) {
  MutexLock lock(mu_);
  for (auto& [name, state] : files_) {
    if (FolderOf(name) == path) state.durable = true;
  }
}

IOStatus FaultFileSystem::IfKilled() const {
  MutexLock lock(mu_);
  return killed_ ? IOStatus::IOError("killed") : IOStatus::OK();
}

}  // namespace viommu::server
