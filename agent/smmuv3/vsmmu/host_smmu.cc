#include "agent/smmuv3/vsmmu/host_smmu.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <utility>

#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/vsmmu/invalidation_commands.h"
#include "common/mutation.h"

namespace viommu::agent {

using smmuv3::Opcode;
using smmuv3::RawCommand;

VmidLease::~VmidLease() { smmu_->ReturnVmid(vmid_); }
AsidLease::~AsidLease() { smmu_->ReturnAsid(asid_); }

std::shared_ptr<const VmidLease> HostSmmu::TakeVmid() {
  const std::optional<uint16_t> vmid = vmids_.Allocate();
  if (!vmid.has_value()) return nullptr;
  return std::make_shared<const VmidLease>(this, *vmid);
}

std::shared_ptr<const AsidLease> HostSmmu::TakeAsid() {
  const std::optional<uint16_t> asid = asids_.Allocate();
  if (!asid.has_value()) return nullptr;
  return std::make_shared<const AsidLease>(this, *asid);
}

void HostSmmu::ReturnVmid(uint16_t vmid) {
  const RawCommand flush = smmuv3::Encode({.opcode = Opcode::kTlbiS12Vmall, .vmid = vmid});
  // Without the SMMU's answer the next VM could meet entries of this one.
  if (Mutated(Mutation::kKeepTranslations) || Issue({&flush, 1})) vmids_.Free(vmid);
}

void HostSmmu::ReturnAsid(uint16_t asid) {
  const RawCommand flush = smmuv3::Encode({.opcode = Opcode::kTlbiNhAsid, .asid = asid});
  if (Issue({&flush, 1})) asids_.Free(asid);
}

bool HostSmmu::Issue(std::span<const RawCommand> group) {
  if (group.size() > kMaxGroup) std::abort();
  if (any_deferred_.load(std::memory_order_acquire)) IssueDeferred();
  std::array<RawCommand, kMaxGroup + 1> batch;
  std::copy(group.begin(), group.end(), batch.begin());
  batch[group.size()] = smmuv3::Encode({.opcode = Opcode::kSync});
  const auto start = std::chrono::steady_clock::now();
  const auto deadline = start + sync_timeout_;
  const std::optional<smmuv3::QueuePosition> end =
      hardware_.queue().Push(std::span(batch).first(group.size() + 1), deadline);
  const bool done = end.has_value() && hardware_.Complete(*end, deadline);
  const std::chrono::nanoseconds took = std::chrono::steady_clock::now() - start;
  const auto bound = std::lower_bound(kLatencyBounds.begin(), kLatencyBounds.end(), took);
  latencies_[static_cast<size_t>(bound - kLatencyBounds.begin())].fetch_add(1, std::memory_order_relaxed);
  latency_sum_ns_.fetch_add(took.count(), std::memory_order_relaxed);
  if (!done) sync_timeouts_.fetch_add(1, std::memory_order_relaxed);
  return done;
}

bool HostSmmu::IssueAll(std::span<const RawCommand> commands) {
  bool done = true;
  for (; !commands.empty(); commands = commands.subspan(std::min(kMaxGroup, commands.size()))) {
    done = Issue(commands.first(std::min(kMaxGroup, commands.size()))) && done;
  }
  return done;
}

void HostSmmu::IssueLater(const RawCommand& command) {
  if (!any_deferred_.load(std::memory_order_acquire) && hardware_.queue().TryPush({&command, 1}).has_value()) return;
  MutexLock lock(deferred_mu_);
  if (deferred_.size() >= kMaxDeferred) return;
  deferred_.push_back(command);
  any_deferred_.store(true, std::memory_order_release);
}

void HostSmmu::IssueDeferred() {
  MutexLock lock(deferred_mu_);
  size_t pushed = 0;
  while (pushed < deferred_.size() && hardware_.queue().TryPush({&deferred_[pushed], 1}).has_value()) ++pushed;
  deferred_.erase(deferred_.begin(), deferred_.begin() + static_cast<std::ptrdiff_t>(pushed));
  if (deferred_.empty()) any_deferred_.store(false, std::memory_order_release);
}

bool HostSmmu::ReserveSte(uint32_t sid) {
  MutexLock lock(streams_mu_);
  return streams_->Reserve(sid);
}

bool HostSmmu::HasSte(uint32_t sid) const {
  MutexLock lock(streams_mu_);
  return streams_->InRange(sid);
}

smmuv3::RawSte HostSmmu::ReadSte(uint32_t sid) const {
  MutexLock lock(streams_mu_);
  return streams_->Read(sid);
}

void HostSmmu::InstallSte(uint32_t sid, const smmuv3::RawSte& entry, StreamOwner owner) {
  MutexLock lock(streams_mu_);
  const bool had_ats = AtsEnabled(streams_->Read(sid));
  streams_->Write(sid, entry, [&] {
    const RawCommand reload = smmuv3::Encode({.opcode = Opcode::kCfgiSte, .sid = sid, .leaf = true});
    static_cast<void>(Issue({&reload, 1}));
  });
  {
    MutexLock owners_lock(owners_mu_);
    if (owner.events == nullptr && owner.faults == nullptr) {
      owners_.erase(sid);
    } else {
      owners_[sid] = std::move(owner);
    }
  }
  if (!had_ats) return;
  const RawCommand empty = smmuv3::Encode(AllAtcInvalidation(sid));
  static_cast<void>(Issue({&empty, 1}));
}

SmmuStats HostSmmu::GetStats() const {
  SmmuStats stats;
  stats.smmu = info_.name;
  for (size_t opcode = 0; opcode < outcomes_.size(); ++opcode) {
    const auto read = [&](InvalidationOutcome outcome) {
      return outcomes_[opcode][static_cast<size_t>(outcome)].load(std::memory_order_relaxed);
    };
    InvalidationCount count{.opcode = static_cast<uint8_t>(opcode),
                            .done = read(InvalidationOutcome::kDone),
                            .refused = read(InvalidationOutcome::kRefused),
                            .failed = read(InvalidationOutcome::kFailed)};
    if (cmdqv_ != nullptr) {
      const smmuv3::VcmdqCounters& queues = cmdqv_->hardware().counters();
      count.done += queues.done[opcode].load(std::memory_order_relaxed);
      count.refused += queues.refused[opcode].load(std::memory_order_relaxed);
      count.failed += queues.failed[opcode].load(std::memory_order_relaxed);
    }
    if (count.done + count.refused + count.failed != 0) stats.invalidations.push_back(count);
  }
  const smmuv3::QueueStats queue = hardware_.queue().GetStats();
  stats.queue_depth = queue.depth;
  stats.queue_capacity = queue.capacity;
  stats.queue_pushed = queue.pushed;
  stats.queue_full_waits = queue.full_waits;
  stats.queue_stalled_for = queue.stalled_for;
  const smmuv3::SmmuCounters counters = hardware_.GetCounters();
  stats.tlb_entries = counters.tlb_entries;
  stats.atc_entries = counters.atc_entries;
  stats.config_entries = counters.config_entries;
  stats.command_errors = illegal_commands_.load(std::memory_order_relaxed);
  stats.atc_timeouts = atc_timeouts_.load(std::memory_order_relaxed);
  stats.sync_latency.upper_bounds.assign(kLatencyBounds.begin(), kLatencyBounds.end());
  for (const auto& bucket : latencies_) stats.sync_latency.counts.push_back(bucket.load(std::memory_order_relaxed));
  stats.sync_latency.sum = std::chrono::nanoseconds(latency_sum_ns_.load(std::memory_order_relaxed));
  stats.sync_timeouts = sync_timeouts_.load(std::memory_order_relaxed);
  stats.vmids_used = vmids_.used();
  stats.vmids_total = vmids_.total();
  return stats;
}

}  // namespace viommu::agent
