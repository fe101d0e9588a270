// Page requests of devices (PRI): the queue to software, and the answers (IHI 0070, chapter 8, 4.5.2).

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_PAGE_REQUESTS_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_PAGE_REQUESTS_H_

#include <cstdint>
#include <deque>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "agent/smmuv3/emulator/interrupts.h"
#include "agent/smmuv3/emulator/memory.h"
#include "agent/smmuv3/emulator/record_ring.h"
#include "agent/smmuv3/spec/event.h"
#include "common/mutex.h"

namespace viommu::smmuv3 {

// CMD_PRI_RESP.Resp (4.5.2).
inline constexpr uint8_t kPageResponseFailure = 0;  // the device stops asking
inline constexpr uint8_t kPageResponseInvalid = 1;  // a page of the group is not to be had
inline constexpr uint8_t kPageResponseSuccess = 2;

// The answer to a group of requests, as it arrives at the device.
struct PageResponse {
  uint32_t sid = 0;
  bool ssv = false;  // it has a PASID
  uint32_t ssid = 0;
  uint16_t group = 0;
  uint8_t response = kPageResponseFailure;

  friend bool operator==(const PageResponse&, const PageResponse&) = default;
};

// Answers that a device has not taken yet; older ones are dropped.
inline constexpr size_t kMaxPageResponses = 1024;

// Thread-safe.
class PageRequests {
 public:
  // What STE.PPAR says of a stream: whether automatic answers have the PASID.
  enum class Ppar : uint8_t { kNo, kYes, kUnknown };

  PageRequests(Memory* memory, uint32_t max_log2_size, Interrupts* interrupts);

  // Queues a request. False: it was discarded, and the device has been sent an answer where one is due (8.1, 8.2).
  // `ppar` is asked when that is so.
  bool Request(const PageRequest& request, absl::FunctionRef<Ppar()> ppar) ABSL_LOCKS_EXCLUDED(mu_);
  // CMD_PRI_RESP.
  void Respond(const PageResponse& response) ABSL_LOCKS_EXCLUDED(mu_);
  // What has arrived at the device since the last call, oldest first.
  std::vector<PageResponse> TakeResponses(uint32_t sid) ABSL_LOCKS_EXCLUDED(mu_);

  // CR0.PRIQEN and CR0.SMMUEN.
  void SetEnabled(bool enabled) ABSL_LOCKS_EXCLUDED(mu_);
  // The registers. PROD and the base may be written while the queue is off alone.
  uint64_t base() const ABSL_LOCKS_EXCLUDED(mu_);
  uint32_t prod() const ABSL_LOCKS_EXCLUDED(mu_);
  uint32_t cons() const ABSL_LOCKS_EXCLUDED(mu_);
  void WriteBase(uint64_t value) ABSL_LOCKS_EXCLUDED(mu_);
  void WriteProd(uint32_t value) ABSL_LOCKS_EXCLUDED(mu_);
  void WriteCons(uint32_t value) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  enum class Fate : uint8_t { kQueued, kQueuedWithInterrupt, kOverflow, kOverflowBegins, kOff, kAborted };
  Fate Append(const PageRequest& request, bool last_only) ABSL_LOCKS_EXCLUDED(mu_);

  Interrupts* const interrupts_;
  mutable Mutex mu_;
  RecordRing ring_ ABSL_GUARDED_BY(mu_);
  bool enabled_ ABSL_GUARDED_BY(mu_) = false;
  absl::flat_hash_map<uint32_t, std::deque<PageResponse>> responses_ ABSL_GUARDED_BY(mu_);
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_PAGE_REQUESTS_H_
