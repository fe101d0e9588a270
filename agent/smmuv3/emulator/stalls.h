// Transactions that wait for software after a fault (IHI 0070, 3.12.2, 4.7.1, 4.7.2).

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_STALLS_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_STALLS_H_

#include <chrono>
#include <cstdint>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "common/mutex.h"

namespace viommu::smmuv3 {

enum class StallAnswer : uint8_t {
  kRetry,
  kAbort,    // terminated, the device gets an error
  kRazWi,    // terminated, the device is told nothing
  kTimeout,  // nobody answered in time
};

// Thread-safe.
class Stalls {
 public:
  // At most `capacity` transactions wait at a time, up to 2^16.
  explicit Stalls(uint32_t capacity);

  // A transaction of the stream begins to wait: its tag, for the event record. Nothing: there are too many, or Close()
  // was called.
  std::optional<uint16_t> Begin(uint32_t sid) ABSL_LOCKS_EXCLUDED(mu_);
  // Waits for the answer; the tag is free afterwards.
  StallAnswer Wait(uint16_t stag, std::chrono::steady_clock::time_point deadline) ABSL_LOCKS_EXCLUDED(mu_);

  // CMD_RESUME; does nothing when no such transaction of the stream waits.
  void Resume(uint32_t sid, uint16_t stag, StallAnswer answer) ABSL_LOCKS_EXCLUDED(mu_);
  // CMD_STALL_TERM: all of the stream are aborted. Without a stream: all.
  void Terminate(std::optional<uint32_t> sid) ABSL_LOCKS_EXCLUDED(mu_);
  // Aborts all, and no more can begin.
  void Close() ABSL_LOCKS_EXCLUDED(mu_);

  uint32_t count() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Stalled {
    uint32_t sid = 0;
    std::optional<StallAnswer> answer;
  };

  const uint32_t capacity_;
  mutable Mutex mu_;
  CondVar answered_;
  absl::flat_hash_map<uint16_t, Stalled> stalled_ ABSL_GUARDED_BY(mu_);
  uint16_t next_ ABSL_GUARDED_BY(mu_) = 0;  // tags are not used again at once: late answers must not hit others
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_STALLS_H_
