// What the host's driver keeps for one SMMU: VMIDs, the way to issue commands and wait for them, stream table entries,
// who gets events, and counters.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_HOST_SMMU_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_HOST_SMMU_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "agent/backend.h"
#include "agent/smmuv3/emulator/smmu.h"
#include "agent/smmuv3/spec/ste.h"
#include "agent/smmuv3/vsmmu/inventory.h"
#include "agent/smmuv3/vsmmu/veventq.h"
#include "agent/smmuv3/vsmmu/vmid_allocator.h"
#include "common/mutex.h"

namespace viommu::agent {

// Commands that are issued under one sync; Linux's figure (arm_vsmmu_cache_invalidate()).
inline constexpr size_t kMaxGroup = 63;

class HostSmmu;

// A VMID that is taken as long as somebody holds it: a viommu, a stage 2, and every stream table entry that names it.
// The last one to let go removes its TLB entries; it becomes free when the SMMU has confirmed that, and stays taken
// when the SMMU does not.
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

enum class InvalidationOutcome : uint8_t { kDone, kRefused, kFailed };

// Thread-safe.
class HostSmmu {
 public:
  HostSmmu(const EmulatedSmmuSpec& spec, const smmuv3::SmmuOptions& options, std::chrono::nanoseconds sync_timeout);

  const SmmuInfo& info() const { return info_; }
  const smmuv3::Features& features() const { return features_; }
  // Whether there can be nesting stage-2 tables; and, beyond that, viommus.
  bool can_nest() const { return can_nest_; }
  bool can_viommu() const { return can_viommu_; }
  smmuv3::EmulatedSmmu& hardware() { return hardware_; }

  // Nothing when all VMIDs are taken.
  std::shared_ptr<const VmidLease> TakeVmid();

  // The host's half of a stream table entry under this VMID. There is no S2TTB: the emulated SMMU resolves stage 2 by
  // the IOAS.
  smmuv3::Stage2Config Stage2For(uint16_t vmid) const;

  // Issues at most kMaxGroup commands with a CMD_SYNC behind them and waits until it completes. False when that took
  // longer than the sync timeout: the commands may or may not take effect later. Does not allocate.
  [[nodiscard]] bool Issue(std::span<const smmuv3::RawCommand> group);

  // Writes a stream table entry and makes the SMMU use it. When ATS ends with that, the device's translations go. As in
  // Linux, an SMMU that does not answer is not an error here: it is counted, and it shows up at the next invalidation.
  void InstallSte(uint32_t sid, const smmuv3::RawSte& entry);

  // Events of physical StreamID `sid` go to `events` under guest StreamID `virt_id`, until changed; null: to nobody.
  void SetEventTarget(uint32_t sid, std::shared_ptr<ViommuEvents> events, uint32_t virt_id)
      ABSL_LOCKS_EXCLUDED(events_mu_);

  void Count(uint8_t opcode, InvalidationOutcome outcome) {
    outcomes_[opcode][static_cast<size_t>(outcome)].fetch_add(1, std::memory_order_relaxed);
  }
  SmmuStats GetStats() const;

 private:
  friend class VmidLease;
  static constexpr std::array kLatencyBounds = {
      std::chrono::nanoseconds(1'000),        std::chrono::nanoseconds(2'000),
      std::chrono::nanoseconds(5'000),        std::chrono::nanoseconds(10'000),
      std::chrono::nanoseconds(20'000),       std::chrono::nanoseconds(50'000),
      std::chrono::nanoseconds(100'000),      std::chrono::nanoseconds(200'000),
      std::chrono::nanoseconds(500'000),      std::chrono::nanoseconds(1'000'000),
      std::chrono::nanoseconds(10'000'000),   std::chrono::nanoseconds(100'000'000),
      std::chrono::nanoseconds(1'000'000'000)};

  void ReturnVmid(uint16_t vmid);
  void DeliverEvent(const smmuv3::RawEvent& record) ABSL_LOCKS_EXCLUDED(events_mu_);

  struct EventTarget {
    std::shared_ptr<ViommuEvents> events;
    uint32_t virt_id = 0;
  };

  const SmmuInfo info_;
  const smmuv3::Features features_;
  const bool can_nest_;
  const bool can_viommu_;
  const std::chrono::nanoseconds sync_timeout_;
  VmidAllocator vmids_;

  Mutex events_mu_;
  absl::flat_hash_map<uint32_t, EventTarget> event_targets_ ABSL_GUARDED_BY(events_mu_);

  std::array<std::array<std::atomic<uint64_t>, 3>, 256> outcomes_ = {};
  std::array<std::atomic<uint64_t>, kLatencyBounds.size() + 1> latencies_ = {};
  std::atomic<int64_t> latency_sum_ns_{0};
  std::atomic<uint64_t> sync_timeouts_{0};

  mutable smmuv3::EmulatedSmmu hardware_;  // last: its thread calls back
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_HOST_SMMU_H_
