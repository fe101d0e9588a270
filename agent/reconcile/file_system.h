// The disk as the journal sees it. A seam: tests and simulations bring their own.
//
// Errors are UNAVAILABLE (the disk is full or broken), NOT_FOUND, or FAILED_PRECONDITION (locked by another process),
// and name the path.

#ifndef VIOMMU_AGENT_RECONCILE_FILE_SYSTEM_H_
#define VIOMMU_AGENT_RECONCILE_FILE_SYSTEM_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace viommu::agent {

// A file that grows at its end. Not thread-safe. The destructor closes it without a sync.
class AppendFile {
 public:
  virtual ~AppendFile() = default;
  // Appends all of `data`. After an error any prefix of it may be in the file.
  virtual absl::Status Append(std::string_view data) = 0;
  // Returns when everything appended is on stable storage.
  virtual absl::Status Sync() = 0;
};

// Held until destroyed, or until the process ends in whatever way.
class FileLock {
 public:
  virtual ~FileLock() = default;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;

  // Makes the directory, not its parents, with mode 0700; fine when it is there already.
  virtual absl::Status MakeDirectory(const std::string& path) = 0;
  // Takes the exclusive lock on the file, made when missing. FAILED_PRECONDITION at once when another has it.
  virtual absl::StatusOr<std::unique_ptr<FileLock>> Lock(const std::string& path) = 0;
  virtual absl::StatusOr<std::string> Read(const std::string& path) = 0;
  // Opens the file, made when missing, for appending behind its first `size` bytes; what is beyond them is cut off.
  virtual absl::StatusOr<std::unique_ptr<AppendFile>> OpenForAppend(const std::string& path, uint64_t size) = 0;
  // Puts `from` in the place of `to` in one step.
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  // Returns when the directory's entries are on stable storage.
  virtual absl::Status SyncDirectory(const std::string& path) = 0;
};

// The real one.
FileSystem& PosixFileSystem();

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_RECONCILE_FILE_SYSTEM_H_
