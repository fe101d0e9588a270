// The event queue (IHI 0070, 7.2 to 7.4): who may write to it, what becomes of records that find no place.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_EVENT_QUEUE_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_EVENT_QUEUE_H_

#include <cstdint>
#include <deque>

#include "absl/base/thread_annotations.h"
#include "agent/smmuv3/emulator/interrupts.h"
#include "agent/smmuv3/emulator/memory.h"
#include "agent/smmuv3/emulator/record_ring.h"
#include "agent/smmuv3/spec/event.h"
#include "common/mutex.h"

namespace viommu::smmuv3 {

// Thread-safe.
class EventQueue {
 public:
  EventQueue(Memory* memory, uint32_t max_log2_size, Interrupts* interrupts);

  // What a record leads to besides, to be passed to Act() where handlers may be called.
  struct Consequences {
    bool interrupt = false;
    bool aborted = false;
  };

  // Records of transactions that were terminated are lost when the queue is not writable, and announce an overflow when
  // that is because it is full. Records of stalled ones wait for room.
  [[nodiscard]] Consequences Record(const Event& event) ABSL_LOCKS_EXCLUDED(mu_);
  // Raises interrupts and errors.
  void Act(const Consequences& consequences) ABSL_LOCKS_EXCLUDED(mu_);
  // A stalled transaction has ended: its record is not written any more if it still waits.
  void DropStall(uint16_t stag) ABSL_LOCKS_EXCLUDED(mu_);
  // Something that kept the queue from being written may be gone: CONS, EVENTQEN or GERRORN were written.
  void Retry() ABSL_LOCKS_EXCLUDED(mu_);

  void SetEnabled(bool enabled) ABSL_LOCKS_EXCLUDED(mu_);
  // The registers. PROD and the base may be written while the queue is off alone (6.3.26, 6.3.28).
  uint64_t base() const ABSL_LOCKS_EXCLUDED(mu_);
  uint32_t prod() const ABSL_LOCKS_EXCLUDED(mu_);
  uint32_t cons() const ABSL_LOCKS_EXCLUDED(mu_);
  void WriteBase(uint64_t value) ABSL_LOCKS_EXCLUDED(mu_);
  void WriteProd(uint32_t value) ABSL_LOCKS_EXCLUDED(mu_);
  void WriteCons(uint32_t value) ABSL_LOCKS_EXCLUDED(mu_);

  // Records written and lost.
  uint64_t recorded() const ABSL_LOCKS_EXCLUDED(mu_);
  uint64_t lost() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  // False: it is not writable.
  bool Append(const Event& event, Consequences& consequences) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Flush(Consequences& consequences) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Interrupts* const interrupts_;
  mutable Mutex mu_;
  RecordRing ring_ ABSL_GUARDED_BY(mu_);
  bool enabled_ ABSL_GUARDED_BY(mu_) = false;
  std::deque<Event> waiting_ ABSL_GUARDED_BY(mu_);  // of stalled transactions: as many as those at most
  uint64_t recorded_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t lost_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_EVENT_QUEUE_H_
