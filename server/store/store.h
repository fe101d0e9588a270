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

// Writes that belong together: keys and values one behind the other in one piece of memory, since a busy server makes
// some thousands of them at a time.
class Batch {
 public:
  // Valid until the batch changes.
  struct Op {
    KeySpace space;
    std::string_view key;
    std::optional<std::string_view> value;  // nullopt: delete
    std::optional<std::string_view> end;    // set: delete every key in [key, end)
  };

  void Put(KeySpace space, std::string_view key, std::string_view value) { Add(space, What::kPut, key, value); }
  void Delete(KeySpace space, std::string_view key) { Add(space, What::kDelete, key, {}); }
  void DeleteRange(KeySpace space, std::string_view begin, std::string_view end) {
    Add(space, What::kDeleteRange, begin, end);
  }

  // Makes it empty. It keeps its memory for what comes, unless that is a lot: pieces so large are dear to get anew.
  void Clear() {
    if (bytes_.capacity() > kMaxKeptBytes) *this = Batch();
    bytes_.clear();
    places_.clear();
  }

  // How many, and each, in the order of the calls.
  size_t size() const { return places_.size(); }
  Op op(size_t index) const {
    const Place& place = places_[index];
    const std::string_view key(bytes_.data() + place.begin, place.key_size);
    const std::string_view more(key.data() + key.size(), place.more_size);
    return {place.space, key, place.what == What::kPut ? std::optional(more) : std::nullopt,
            place.what == What::kDeleteRange ? std::optional(more) : std::nullopt};
  }

  // Of keys and values.
  size_t bytes() const { return bytes_.size(); }
  bool empty() const { return places_.empty(); }

 private:
  static constexpr size_t kMaxKeptBytes = size_t{2} << 20;

  enum class What : uint8_t { kPut, kDelete, kDeleteRange };
  struct Place {
    KeySpace space;
    What what;
    size_t begin;  // of the key; the value, or the end of the range, follows
    size_t key_size;
    size_t more_size;
  };

  void Add(KeySpace space, What what, std::string_view key, std::string_view more) {
    places_.push_back({space, what, bytes_.size(), key.size(), more.size()});
    bytes_.append(key).append(more);
  }

  std::string bytes_;
  std::vector<Place> places_;
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
