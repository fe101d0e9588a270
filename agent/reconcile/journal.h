// The agent's memory across restarts: an append-only file of checksummed records (docs/journal-format.md).
//
//   auto journal = Journal::Open(PosixFileSystem(), "/var/lib/viommu-agent", {});
//   journal->Append(intent, Journal::Sync::kYes);   // now it may be acted on
//
// What is appended with Sync::kYes survives power loss; with Sync::kNo it survives the end of the process. Order is
// kept: a record is never there without those before it.
//
// A file whose tail was torn by a crash is cut back to its last whole record. Damage before that, a file of a newer
// format or another agent on the same directory is refused with the file, the offset and the way out.
//
// When an append fails, the state is as before the call, and the next append writes the whole state to a new file
// first: a half-written tail, or pages that a failed sync may have dropped, are never built upon. Opening does the
// same: what an earlier process wrote may never have been synced.
//
// Not thread-safe.

#ifndef VIOMMU_AGENT_RECONCILE_JOURNAL_H_
#define VIOMMU_AGENT_RECONCILE_JOURNAL_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/reconcile/file_system.h"
#include "agent/reconcile/held_state.h"
#include "agent/reconcile/journal.pb.h"
#include "common/clock.h"

namespace viommu::agent {

class Journal {
 public:
  static constexpr uint32_t kFormatVersion = 1;
  static constexpr uint32_t kMaxRecordBytes = 16u << 20;

  enum class Sync { kNo, kYes };

  struct Options {
    // The file is rewritten when it is longer than this and than twice its size after the last rewrite.
    uint64_t compact_above_bytes = 4u << 20;
    // Called with the time that each sync took. Optional.
    std::function<void(std::chrono::nanoseconds)> on_sync;
    const Clock* clock = &RealClock();  // for `on_sync`
  };

  // Opens or makes the journal in `directory`, and keeps the directory to itself until destroyed.
  //   FAILED_PRECONDITION  another agent has the directory; the file is of a newer format
  //   DATA_LOSS            the file is damaged
  //   UNAVAILABLE          the disk
  static absl::StatusOr<std::unique_ptr<Journal>> Open(FileSystem& file_system, const std::string& directory,
                                                       Options options);

  // Writes the record (its sequence number is set here) and takes it into the state.
  //   UNAVAILABLE          the disk; the state is as before
  //   FAILED_PRECONDITION  the record cannot follow what stands
  absl::Status Append(journal::Record record, Sync sync);

  const HeldState& state() const { return state_; }
  uint64_t size_bytes() const { return size_bytes_; }
  uint64_t compactions() const { return compactions_; }
  // Bytes of a torn tail that opening cut off.
  uint64_t truncated_bytes() const { return truncated_bytes_; }
  const std::string& path() const { return path_; }

 private:
  Journal(FileSystem& file_system, std::string directory, Options options);

  absl::Status Load();
  absl::Status Replay(std::string_view content, uint64_t& good_bytes);
  // Writes the state to a new file that takes the old one's place.
  absl::Status Rewrite();
  absl::Status TimedSync(AppendFile& file);

  FileSystem& file_system_;
  const std::string directory_;
  const std::string path_;
  const Options options_;
  std::unique_ptr<FileLock> lock_;
  std::unique_ptr<AppendFile> file_;
  HeldState state_;
  uint64_t next_sequence_ = 1;
  uint64_t size_bytes_ = 0;
  uint64_t rewritten_bytes_ = 0;  // size after the last rewrite
  uint64_t compactions_ = 0;
  uint64_t truncated_bytes_ = 0;
  bool broken_ = false;  // the file's tail is not to be trusted
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_RECONCILE_JOURNAL_H_
