// What the host's driver keeps for one SMMU, and what Linux's arm-smmu-v3 does with it: it programs the registers, owns
// stream table, VMIDs and ASIDs, issues commands and waits for them, answers errors, events and page requests.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_HOST_SMMU_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_HOST_SMMU_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "agent/backend.h"
#include "agent/smmuv3/emulator/smmu.h"
#include "agent/smmuv3/spec/ste.h"
#include "agent/smmuv3/vsmmu/fault_queue.h"
#include "agent/smmuv3/vsmmu/host_cmdqv.h"
#include "agent/smmuv3/vsmmu/host_memory.h"
#include "agent/smmuv3/vsmmu/inventory.h"
#include "agent/smmuv3/vsmmu/page_table.h"
#include "agent/smmuv3/vsmmu/stream_table.h"
#include "agent/smmuv3/vsmmu/tag_allocator.h"
#include "agent/smmuv3/vsmmu/veventq.h"
#include "common/mutex.h"

namespace viommu::agent {

// Commands that are issued under one sync; Linux's figure (arm_vsmmu_cache_invalidate()).
inline constexpr size_t kMaxGroup = 63;

// Answers to devices that wait for room in the command queue; a further one is lost, and the device left waiting.
inline constexpr size_t kMaxDeferred = 65536;

// The rings of events and page requests have at most 2^this entries.
inline constexpr uint32_t kMaxRingLog2 = 12;

class HostSmmu;

// A tag that is taken as long as somebody holds it: a VMID by a viommu, a stage 2, and every stream table entry that
// names it; an ASID by its stage 1. The last one to let go removes its TLB entries; it becomes free when the SMMU has
// confirmed that, and stays taken when the SMMU does not.
class VmidLease {
 public:
  VmidLease(HostSmmu* smmu, uint16_t vmid) : smmu_(smmu), vmid_(vmid) {}
  ~VmidLease();
  VmidLease(const VmidLease&) = delete;
  VmidLease& operator=(const VmidLease&) = delete;

  uint16_t vmid() const { return vmid_; }

 private:
  HostSmmu* const smmu_;
  const uint16_t vmid_;
};

class AsidLease {
 public:
  AsidLease(HostSmmu* smmu, uint16_t asid) : smmu_(smmu), asid_(asid) {}
  ~AsidLease();
  AsidLease(const AsidLease&) = delete;
  AsidLease& operator=(const AsidLease&) = delete;

  uint16_t asid() const { return asid_; }

 private:
  HostSmmu* const smmu_;
  const uint16_t asid_;
};

// Who is told of what a stream does wrong.
struct StreamOwner {
  std::shared_ptr<ViommuEvents> events;  // gets the guest's events, under StreamID virt_id; null: nobody
  uint32_t virt_id = 0;
  std::shared_ptr<FaultQueue> faults;  // gets stalled transactions; null: they are aborted
  ObjectId device = 0;                 // as faults name it
};

enum class InvalidationOutcome : uint8_t { kDone, kRefused, kFailed };

// Thread-safe.
class HostSmmu {
 public:
  // Null when there is no memory for its tables. `memory` outlives it.
  static std::unique_ptr<HostSmmu> Create(const EmulatedSmmuSpec& spec, const smmuv3::SmmuOptions& options,
                                          std::chrono::nanoseconds sync_timeout, HostMemory* memory);
  ~HostSmmu() = default;
  HostSmmu(const HostSmmu&) = delete;
  HostSmmu& operator=(const HostSmmu&) = delete;

  const SmmuInfo& info() const { return info_; }
  const smmuv3::Features& features() const { return features_; }
  // Whether there can be tables at all, of stage 1 or 2; nesting stage-2 tables; and, beyond that, viommus.
  bool can_translate() const { return can_translate_; }
  bool can_nest() const { return can_nest_; }
  bool can_viommu() const { return can_viommu_; }
  smmuv3::EmulatedSmmu& hardware() { return hardware_; }
  // Null where there are no hardware queues.
  HostCmdqv* cmdqv() { return cmdqv_.get(); }

  // Nothing when all are taken.
  std::shared_ptr<const VmidLease> TakeVmid();
  std::shared_ptr<const AsidLease> TakeAsid();

  // ---- Commands ----

  // Issues at most kMaxGroup commands with a CMD_SYNC behind them and waits until it completes. False when that took
  // longer than the sync timeout: the commands may or may not take effect later. Does not allocate.
  [[nodiscard]] bool Issue(std::span<const smmuv3::RawCommand> group);
  // The same in as many groups as it takes.
  [[nodiscard]] bool IssueAll(std::span<const smmuv3::RawCommand> commands);
  // Whether everything issued before, also what was given up by then, has taken effect.
  [[nodiscard]] bool Settle() { return Issue({}); }

  // Lets a stalled transaction go on: kSuccess tries it again, else it is aborted. Waits for room in the queue.
  void Resume(const StallTag& tag, PageResponseCode code);

  // ---- Streams ----

  // Whether there can be an entry for this StreamID.
  bool HasSte(uint32_t sid) const ABSL_LOCKS_EXCLUDED(streams_mu_);
  // Makes a place for it; false when there is no memory.
  [[nodiscard]] bool ReserveSte(uint32_t sid) ABSL_LOCKS_EXCLUDED(streams_mu_);
  // As it is in memory.
  smmuv3::RawSte ReadSte(uint32_t sid) const ABSL_LOCKS_EXCLUDED(streams_mu_);
  // Makes `entry`, which has a place, the one that the SMMU goes by, and `owner` the one who is told. The translations
  // that the device has by then go, where ATS was on. As in Linux, an SMMU that does not answer is not an error here:
  // it is counted, and shows up at the next invalidation.
  void InstallSte(uint32_t sid, const smmuv3::RawSte& entry, StreamOwner owner)
      ABSL_LOCKS_EXCLUDED(streams_mu_, owners_mu_);

  // ---- Counters ----

  void Count(uint8_t opcode, InvalidationOutcome outcome) {
    outcomes_[opcode][static_cast<size_t>(outcome)].fetch_add(1, std::memory_order_relaxed);
  }
  SmmuStats GetStats() const;

 private:
  friend class VmidLease;
  friend class AsidLease;
  static constexpr std::array kLatencyBounds = {
      std::chrono::nanoseconds(1'000),        std::chrono::nanoseconds(2'000),
      std::chrono::nanoseconds(5'000),        std::chrono::nanoseconds(10'000),
      std::chrono::nanoseconds(20'000),       std::chrono::nanoseconds(50'000),
      std::chrono::nanoseconds(100'000),      std::chrono::nanoseconds(200'000),
      std::chrono::nanoseconds(500'000),      std::chrono::nanoseconds(1'000'000),
      std::chrono::nanoseconds(10'000'000),   std::chrono::nanoseconds(100'000'000),
      std::chrono::nanoseconds(1'000'000'000)};

  // Interrupts that nobody has looked after yet. One thread at a time looks, also for what comes meanwhile: a handler
  // may be called again by what it does itself.
  class Kicks {
   public:
    template <typename Look>
    void Kick(Look look) {
      uint32_t seen = kicks_.fetch_add(1, std::memory_order_acq_rel) + 1;
      if (seen != 1) return;
      do {
        look();
        seen = kicks_.fetch_sub(seen, std::memory_order_acq_rel) - seen;
      } while (seen != 0);
    }

   private:
    std::atomic<uint32_t> kicks_{0};
  };

  // A ring that the SMMU writes.
  struct Ring {
    smmuv3::Register base, prod, cons;
    uint32_t record_words = 0;
    uint32_t log2_size = 0;
    HostPages pages = {};
    Kicks kicks = {};
  };

  HostSmmu(const EmulatedSmmuSpec& spec, const smmuv3::SmmuOptions& options, std::chrono::nanoseconds sync_timeout,
           HostMemory* memory);

  void ReturnVmid(uint16_t vmid);
  void ReturnAsid(uint16_t asid);

  // ---- Reset (host_smmu_reset.cc) ----
  bool AllocateTables();
  void Reset();
  void EnableRing(const Ring& ring);
  void Enable(smmuv3::BitField cr0_bit);

  // ---- Interrupts (host_smmu_interrupts.cc) ----
  void OnGlobalError();
  void HandleGlobalErrors();
  void OnCommandError();
  void OnEvent() ABSL_LOCKS_EXCLUDED(owners_mu_);
  void OnPageRequest();
  // Calls `handle` for each record of the ring, and acknowledges an overflow. One thread at a time.
  void Drain(Ring& ring, absl::FunctionRef<void(const uint64_t* record)> handle);
  void HandleEvent(const smmuv3::RawEvent& record) ABSL_LOCKS_EXCLUDED(owners_mu_);
  void HandlePageRequest(const smmuv3::RawPageRequest& record);
  // Issues a command that no CMD_SYNC helps with, and does not wait: from handlers, too. What finds no room follows
  // with the next group.
  void IssueLater(const smmuv3::RawCommand& command) ABSL_LOCKS_EXCLUDED(deferred_mu_);
  void IssueDeferred() ABSL_LOCKS_EXCLUDED(deferred_mu_);
  // Says so in the log, the more seldom the more often it happens.
  void LogOften(std::atomic<uint64_t>& count, const char* event, const std::string& details);

  const SmmuInfo info_;
  const smmuv3::Features features_;
  const bool can_translate_;
  const bool can_nest_;
  const bool can_viommu_;
  const std::chrono::nanoseconds sync_timeout_;
  HostMemory* const memory_;
  TagAllocator vmids_;
  TagAllocator asids_;
  Ring events_;
  Ring page_requests_;

  mutable Mutex streams_mu_;
  std::unique_ptr<StreamTable> streams_ ABSL_GUARDED_BY(streams_mu_);

  Mutex owners_mu_;
  absl::flat_hash_map<uint32_t, StreamOwner> owners_ ABSL_GUARDED_BY(owners_mu_);

  Kicks errors_;
  Mutex deferred_mu_;
  std::vector<smmuv3::RawCommand> deferred_ ABSL_GUARDED_BY(deferred_mu_);  // at most kMaxDeferred
  std::atomic<bool> any_deferred_{false};

  std::array<std::array<std::atomic<uint64_t>, 3>, 256> outcomes_ = {};
  std::array<std::atomic<uint64_t>, kLatencyBounds.size() + 1> latencies_ = {};
  std::atomic<int64_t> latency_sum_ns_{0};
  std::atomic<uint64_t> sync_timeouts_{0};
  std::atomic<uint64_t> illegal_commands_{0};
  std::atomic<uint64_t> atc_timeouts_{0};
  std::atomic<uint64_t> other_errors_{0};
  std::atomic<uint64_t> host_events_{0};
  std::atomic<uint64_t> unexpected_page_requests_{0};

  // Last: their threads call back, and read the tables above.
  mutable smmuv3::EmulatedSmmu hardware_;
  std::unique_ptr<HostCmdqv> cmdqv_;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_HOST_SMMU_H_
