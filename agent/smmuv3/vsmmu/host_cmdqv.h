// What the host's driver keeps for the CMDQV of one SMMU (agent/smmuv3/emulator/cmdqv.h): which interfaces are taken,
// the StreamIDs of each, its queues, and where its errors go. Interface 0 is the host's own and not given away.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_HOST_CMDQV_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_HOST_CMDQV_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "agent/backend.h"
#include "agent/smmuv3/emulator/cmdqv.h"
#include "agent/smmuv3/emulator/smmu.h"
#include "agent/smmuv3/vsmmu/veventq.h"
#include "common/mutex.h"

namespace viommu::agent {

class HostCmdqv;

// An interface that is taken as long as this lives. Its queues are gone before that.
// Threads: one at a time, except DupPage().
class VintfLease {
 public:
  VintfLease(HostCmdqv* owner, uint32_t number) : owner_(owner), number_(number) {}
  ~VintfLease();
  VintfLease(const VintfLease&) = delete;
  VintfLease& operator=(const VintfLease&) = delete;

  // From 1.
  uint32_t number() const { return number_; }

  // A device that the guest knows by `virt_sid` (20 bits): the slot taken, or nothing when all are.
  std::optional<uint32_t> AddStream(uint32_t virt_sid, uint32_t sid);
  void RemoveStream(uint32_t slot);

  // Queues have rising indices: queue `queues()` is the next one to come, and the one before it the next to go.
  uint32_t queues() const { return queues_; }
  uint32_t max_queues() const;
  void AddQueue(uint64_t physical_base, uint32_t log2_size);
  void RemoveQueue();

  // Page 0, for mmap(fd, 0, smmuv3::cmdqv::kPageBytes): a new descriptor; -1 with errno.
  int DupPage() const;

 private:
  HostCmdqv* const owner_;
  const uint32_t number_;
  std::vector<bool> slots_;  // taken; as many as have ever been
  uint32_t queues_ = 0;
};

// Thread-safe.
class HostCmdqv {
 public:
  // `sync` puts a CMD_SYNC into the SMMU's own queue and waits for it. `memory` and `smmu` outlive this. The numbers of
  // `inventory` are within what the registers have room for (agent/smmuv3/spec/cmdqv.h).
  HostCmdqv(const HwQueueInventory& inventory, const smmuv3::CmdqvOptions& options, smmuv3::Memory* memory,
            smmuv3::EmulatedSmmu* smmu, std::function<void()> sync);

  // Takes an interface for a guest: commands of its queues bear `vmid`, errors of its queues go to `events`. Null, with
  // an errno in `error`: ENOSPC when all are taken, or what kept its page from being made.
  std::unique_ptr<VintfLease> TakeVintf(uint16_t vmid, std::shared_ptr<ViommuEvents> events, int& error)
      ABSL_LOCKS_EXCLUDED(mu_);

  // See Cmdqv::RunTurns().
  void RunTurns() { cmdqv_.RunTurns(); }
  uint32_t vintfs_used() const ABSL_LOCKS_EXCLUDED(mu_);
  const smmuv3::Cmdqv& hardware() const { return cmdqv_; }

 private:
  friend class VintfLease;
  void ReturnVintf(uint32_t number) ABSL_LOCKS_EXCLUDED(mu_);
  // Of a queue that is not running.
  void ForgetOutstanding(uint32_t number, uint32_t queue) { outstanding_[IndexOf(number, queue)] = {}; }
  size_t IndexOf(uint32_t number, uint32_t queue) const { return size_t{number} * queues_per_vintf_ + queue; }

  const std::function<void()> sync_;
  const uint32_t queues_per_vintf_;
  // ATC invalidations that each queue waits for. The CMDQV's thread uses them; see AtcInvalidations.
  std::vector<smmuv3::AtcInvalidations::Outstanding> outstanding_;
  mutable Mutex mu_;
  std::vector<bool> taken_ ABSL_GUARDED_BY(mu_);  // by number; the host's own is
  smmuv3::Cmdqv cmdqv_;                           // last: its thread uses the rest
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_HOST_CMDQV_H_
