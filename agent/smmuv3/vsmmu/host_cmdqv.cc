#include "agent/smmuv3/vsmmu/host_cmdqv.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <utility>

namespace viommu::agent {

VintfLease::~VintfLease() {
  if (queues_ != 0) std::abort();
  owner_->ReturnVintf(number_);
}

std::optional<uint32_t> VintfLease::AddStream(uint32_t virt_sid, uint32_t sid) {
  const auto free = std::find(slots_.begin(), slots_.end(), false);
  const auto slot = static_cast<uint32_t>(free - slots_.begin());
  if (slot >= owner_->cmdqv_.parameters().sid_slots) return std::nullopt;
  if (free == slots_.end()) slots_.push_back(false);
  slots_[slot] = true;
  owner_->cmdqv_.SetSidSlot(number_, slot, {.virt_sid = virt_sid, .sid = sid});
  return slot;
}

void VintfLease::RemoveStream(uint32_t slot) {
  owner_->cmdqv_.ClearSidSlot(number_, slot);
  slots_[slot] = false;
}

uint32_t VintfLease::max_queues() const { return owner_->cmdqv_.parameters().queues_per_vintf; }

void VintfLease::AddQueue(uint64_t physical_base, uint32_t log2_size) {
  owner_->cmdqv_.AssignQueue(number_, queues_, physical_base, log2_size);
  ++queues_;
}

void VintfLease::RemoveQueue() {
  const uint32_t index = --queues_;
  owner_->cmdqv_.DisableQueue(number_, index);
  // What of its ATC invalidations has not been answered must not be blamed on the queue's next owner. On hardware that
  // takes a sync on the SMMU's own queue, where a timeout shows.
  owner_->sync_();
  owner_->ForgetOutstanding(number_, index);
  owner_->cmdqv_.ReleaseQueue(number_, index);
}

int VintfLease::DupPage() const { return owner_->cmdqv_.DupPage(number_); }

HostCmdqv::HostCmdqv(const HwQueueInventory& inventory, const smmuv3::CmdqvOptions& options, smmuv3::Memory* memory,
                     smmuv3::EmulatedSmmu* smmu, std::function<void()> sync)
    : sync_(std::move(sync)),
      queues_per_vintf_(inventory.queues_per_vintf),
      outstanding_(size_t{inventory.vintfs + 1} * inventory.queues_per_vintf),
      taken_(inventory.vintfs + 1),
      cmdqv_({.vintfs = inventory.vintfs + 1,
              .queues_per_vintf = inventory.queues_per_vintf,
              .sid_slots = inventory.sid_slots},
             options, memory, [this, smmu](const smmuv3::RawCommand& command, smmuv3::VcmdqId id) {
               return smmu->TryExecute(command, outstanding_[IndexOf(id.vintf, id.lvcmdq)]);
             }) {
  MutexLock lock(mu_);
  taken_[0] = true;
}

std::unique_ptr<VintfLease> HostCmdqv::TakeVintf(uint16_t vmid, std::shared_ptr<ViommuEvents> events, int& error) {
  MutexLock lock(mu_);
  const auto free = std::find(taken_.begin(), taken_.end(), false);
  if (free == taken_.end()) {
    error = ENOSPC;
    return nullptr;
  }
  const auto number = static_cast<uint32_t>(free - taken_.begin());
  const auto deliver = [events = std::move(events)](const smmuv3::LvcmdqErrMap& map) {
    events->DeliverQueueErrors(map);
  };
  if (!cmdqv_.EnableVintf(number, vmid, /*hyp_own=*/false, deliver)) {
    error = errno;
    return nullptr;
  }
  *free = true;
  return std::make_unique<VintfLease>(this, number);
}

void HostCmdqv::ReturnVintf(uint32_t number) {
  MutexLock lock(mu_);
  cmdqv_.DisableVintf(number);
  taken_[number] = false;
}

uint32_t HostCmdqv::vintfs_used() const {
  MutexLock lock(mu_);
  return static_cast<uint32_t>(std::count(taken_.begin() + 1, taken_.end(), true));
}

}  // namespace viommu::agent
