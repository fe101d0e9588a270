// Invalidations that devices have not answered yet (IHI 0070, 3.9.1.5, 4.5.1, 7.1).
//
// A device that answers does so at once: its cache has then been invalidated. One that does not keeps its requests; a
// CMD_SYNC behind them waits, and fails with CERROR_ATC_INV_SYNC when the time is over.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_ATC_INVALIDATIONS_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_ATC_INVALIDATIONS_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "agent/smmuv3/spec/command.h"
#include "common/mutex.h"

namespace viommu::smmuv3 {

// Requests that a silent device keeps; a further one is lost, and its sync fails.
inline constexpr size_t kMaxUnansweredInvalidations = 1024;

// Thread-safe.
class AtcInvalidations {
 public:
  // What one command queue is waiting for. Guarded by the AtcInvalidations that it is passed to, one.
  class Outstanding {
   private:
    friend class AtcInvalidations;
    struct Request {
      uint32_t sid;
      uint64_t id;
    };
    std::vector<Request> requests_;
    std::chrono::steady_clock::time_point deadline_;
  };

  explicit AtcInvalidations(std::chrono::nanoseconds timeout) : timeout_(timeout) {}

  // Issues a CMD_ATC_INV. True: the device answers, the caller is to invalidate its cache now. False: it is silent.
  bool Issue(const Command& command, Outstanding& outstanding) ABSL_LOCKS_EXCLUDED(mu_);
  // Waits until everything outstanding is answered; false when that takes too long. Nothing is outstanding afterwards.
  bool Wait(Outstanding& outstanding) ABSL_LOCKS_EXCLUDED(mu_);
  // The same without waiting: nothing while it may still be answered in time.
  std::optional<bool> TryWait(Outstanding& outstanding) ABSL_LOCKS_EXCLUDED(mu_);

  void Silence(uint32_t sid) ABSL_LOCKS_EXCLUDED(mu_);
  // The device answers again, and first what it has kept: `carry_out` is called for each, with the lock held.
  void Wake(uint32_t sid, absl::FunctionRef<void(const Command&)> carry_out) ABSL_LOCKS_EXCLUDED(mu_);

  // Waits end at once from now on.
  void Close() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Kept {
    uint64_t id;
    Command command;
  };
  bool IsAnswered(const Outstanding::Request& request) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::optional<bool> Look(Outstanding& outstanding) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::chrono::nanoseconds timeout_;
  mutable Mutex mu_;
  CondVar answered_;
  absl::flat_hash_map<uint32_t, std::deque<Kept>> silent_ ABSL_GUARDED_BY(mu_);
  uint64_t next_id_ ABSL_GUARDED_BY(mu_) = 0;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_ATC_INVALIDATIONS_H_
