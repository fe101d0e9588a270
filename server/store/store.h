// Where the record is kept: a small ordered key-value store with atomic batches.
//
// The one writer (server/commit) is the only caller of Commit and Recover; Get and Scan may be called from any thread
// at any time. What the keys and values mean is the business of commit/ (docs/store-format.md); an engine only
// promises:
//   - a batch is applied wholly or not at all, and batches take effect in the order of the calls;
//   - after Commit(kSynced) returned OK, the batch and every batch before it survive kill -9 and loss of power;
//   - after Commit(kBuffered) returned OK, the batch survives kill -9;
//   - after an error of Commit nobody sees the batch, until the store is opened anew: then it is there wholly or not.

#ifndef VIOMMU_SERVER_STORE_STORE_H_
#define VIOMMU_SERVER_STORE_STORE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace viommu::server {

// Key spaces; each is ordered by the bytes of its keys.
enum class KeySpace {
  kMeta,       // facts about the store itself
  kResources,  // the record
  kChanges,    // the change log, by revision
  kRequests,   // answers to request ids
  kAudit,      // the audit log, by entry
};
inline constexpr KeySpace kKeySpaces[] = {KeySpace::kMeta, KeySpace::kResources, KeySpace::kChanges,
                                          KeySpace::kRequests, KeySpace::kAudit};

enum class Durability {
  kBuffered,  // handed to the operating system
  kSynced,    // on stable storage
};

// Writes that belong together.
class Batch {
 public:
  struct Op {
    KeySpace space;
    std::string key;
    std::optional<std::string> value;  // nullopt: delete
    std::optional<std::string> end;    // set: delete every key in [key, end)
  };

  void Put(KeySpace space, std::string key, std::string value) {
    bytes_ += key.size() + value.size();
    ops_.push_back({space, std::move(key), std::move(value), std::nullopt});
  }
  void Delete(KeySpace space, std::string key) {
    bytes_ += key.size();
    ops_.push_back({space, std::move(key), std::nullopt, std::nullopt});
  }
  void DeleteRange(KeySpace space, std::string begin, std::string end) {
    bytes_ += begin.size() + end.size();
    ops_.push_back({space, std::move(begin), std::nullopt, std::move(end)});
  }

  const std::vector<Op>& ops() const { return ops_; }
  size_t bytes() const { return bytes_; }
  bool empty() const { return ops_.empty(); }

 private:
  std::vector<Op> ops_;
  size_t bytes_ = 0;
};

// One backup of a store.
struct BackupInfo {
  int64_t id = 0;
  int64_t time_s = 0;  // since 1970
  int64_t size_bytes = 0;
  std::string metadata;  // of whoever asked for it
};

class Store {
 public:
  virtual ~Store() = default;

  virtual absl::Status Commit(const Batch& batch, Durability durability) = 0;

  // After an error of Commit: makes the store take writes again if the cause is gone (a full disk has room again).
  virtual absl::Status Recover() = 0;

  // nullopt: there is no such key.
  virtual absl::StatusOr<std::optional<std::string>> Get(KeySpace space, std::string_view key) const = 0;

  // Visits the keys in [begin, end) in order until `visit` returns false. An empty `end` means: to the last key.
  virtual absl::Status Scan(KeySpace space, std::string_view begin, std::string_view end,
                            absl::FunctionRef<bool(std::string_view key, std::string_view value)> visit) const = 0;

  // Makes a backup in `folder` while the store is written to: everything that was committed before the call is in it,
  // and maybe some of what came after. Deletes all but the newest `keep` there; 0: none. Returns those that are left,
  // latest first. One call at a time; on a thread of its own, since it takes as long as copying the store.
  //   UNIMPLEMENTED, NOT_OFFERED: this engine has no backups. INTERNAL, BACKUP_FAILED.
  virtual absl::StatusOr<std::vector<BackupInfo>> Backup(const std::string& folder, const std::string& metadata,
                                                         size_t keep) = 0;
  // Any thread: a Backup that is under way, and each later one, fails soon.
  virtual void StopBackups() = 0;
  // The backups in `folder`, latest first; none is being made. Errors as Backup.
  virtual absl::StatusOr<std::vector<BackupInfo>> ListBackups(const std::string& folder) const = 0;

  // What the engine is, for people: "rocksdb at /var/lib/…".
  virtual std::string Describe() const = 0;
};

}  // namespace viommu::server

#endif  // VIOMMU_SERVER_STORE_STORE_H_
