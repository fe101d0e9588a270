// A file system for RocksDB that fails and forgets on demand, on top of the real one.
//
// It knows how much of each file that was written through it has been synced, so that Crash can leave the folder as
// loss of power would. It models: appended bytes are lost unless the file was synced after them; a new file is lost
// unless its folder was synced after its creation; renames and removals are durable at once.
//
// Thread-safe.

#ifndef VIOMMU_SERVER_STORE_TESTING_FAULT_FILE_SYSTEM_H_
#define VIOMMU_SERVER_STORE_TESTING_FAULT_FILE_SYSTEM_H_

#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>

#include "common/mutex.h"

namespace viommu::server {

class FaultFileSystem final : public rocksdb::FileSystemWrapper {
 public:
  static constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();

  // What is left of a file after loss of power.
  struct Kept {
    uint64_t bytes;             // between `synced` and `size`
    bool zeros_behind = false;  // up to `size`: the file has its length, the disk did not get the content
  };
  using Keep = std::function<Kept(const std::string& path, uint64_t synced, uint64_t size)>;
  // Whether a fault concerns a file.
  using Concerns = std::function<bool(const std::string& path)>;

  FaultFileSystem() : rocksdb::FileSystemWrapper(rocksdb::FileSystem::Default()) {}
  const char* Name() const override { return "FaultFileSystem"; }

  // From now on `bytes` may be appended, to all files together; what does not fit is cut off and answered with "no
  // space left on device". New files need room for a byte. kUnlimited: no limit. `told`: whether GetFreeSpace knows of
  // it (of a quota it does not).
  void SetSpace(uint64_t bytes, bool told = true);
  // From now on syncs of the files that `concerns` names fail, after (`reach_disk`) or without reaching the disk.
  // nullptr ends that.
  void FailSyncs(Concerns concerns, bool reach_disk = false);

  // From now on nothing reaches the files: the process was killed. What was appended so far stays.
  void Kill();
  // After Kill, when all files are closed: the power goes too. Leaves of every file what was synced, or what `keep`
  // says.
  void LosePower(const Keep& keep = nullptr);

  uint64_t syncs() const;

  rocksdb::IOStatus NewWritableFile(const std::string& path, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* file,
                                    rocksdb::IODebugContext* context) override;
  rocksdb::IOStatus NewDirectory(const std::string& path, const rocksdb::IOOptions& options,
                                 std::unique_ptr<rocksdb::FSDirectory>* folder,
                                 rocksdb::IODebugContext* context) override;
  rocksdb::IOStatus DeleteFile(const std::string& path, const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* context) override;
  rocksdb::IOStatus RenameFile(const std::string& from, const std::string& to, const rocksdb::IOOptions& options,
                               rocksdb::IODebugContext* context) override;

  rocksdb::IOStatus GetFreeSpace(const std::string& path, const rocksdb::IOOptions& options, uint64_t* bytes,
                                 rocksdb::IODebugContext* context) override;

 private:
  class File;
  class Folder;
  struct State {
    uint64_t size = 0;
    uint64_t synced = 0;
    bool durable = false;  // its entry in the folder
  };

  // How many of `bytes` may be appended to the file.
  rocksdb::IOStatus BeforeAppend(const std::string& path, uint64_t bytes, uint64_t* fit);
  void AfterAppend(const std::string& path, uint64_t bytes);
  // The error to give, and whether to sync nevertheless.
  rocksdb::IOStatus BeforeSync(const std::string& path, bool* reach_disk);
  void AfterSync(const std::string& path);
  void AfterFolderSync(const std::string& path);
  rocksdb::IOStatus IfKilled() const;

  mutable Mutex mu_;
  std::map<std::string, State> files_ ABSL_GUARDED_BY(mu_);
  uint64_t space_ ABSL_GUARDED_BY(mu_) = kUnlimited;
  bool space_told_ ABSL_GUARDED_BY(mu_) = true;
  Concerns failing_syncs_ ABSL_GUARDED_BY(mu_);
  bool failed_syncs_reach_disk_ ABSL_GUARDED_BY(mu_) = false;
  bool killed_ ABSL_GUARDED_BY(mu_) = false;
  uint64_t syncs_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_STORE_TESTING_FAULT_FILE_SYSTEM_H_
