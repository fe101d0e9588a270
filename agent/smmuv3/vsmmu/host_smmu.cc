#include "agent/smmuv3/vsmmu/host_smmu.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/event.h"

namespace viommu::agent {

using smmuv3::Opcode;
using smmuv3::RawCommand;

VmidLease::~VmidLease() { smmu_->ReturnVmid(vmid_); }

HostSmmu::HostSmmu(const EmulatedSmmuSpec& spec, const smmuv3::SmmuOptions& options,
                   std::chrono::nanoseconds sync_timeout)
    : info_(spec.info),
      features_(smmuv3::DecodeIdRegisters(spec.info.idr)),
      can_nest_(smmuv3::CanNest(features_, spec.info.iidr)),
      can_viommu_(can_nest_ && (spec.canwbs || features_.fwb)),
      sync_timeout_(sync_timeout),
      vmids_(features_.vmid_bits),
      // Like Linux: the bad command becomes a sync, its sender is not told, and the queue goes on.
      hardware_(
          spec.info.name, features_, options,
          [this](const smmuv3::CommandError&) { hardware_.AcknowledgeCommandError(); },
          [this](const smmuv3::RawEvent& record) { DeliverEvent(record); }) {}

std::shared_ptr<const VmidLease> HostSmmu::TakeVmid() {
  const std::optional<uint16_t> vmid = vmids_.Allocate();
  if (!vmid.has_value()) return nullptr;
  return std::make_shared<const VmidLease>(this, *vmid);
}

void HostSmmu::ReturnVmid(uint16_t vmid) {
  const RawCommand flush = smmuv3::Encode({.opcode = Opcode::kTlbiS12Vmall, .vmid = vmid});
  // Without the SMMU's answer the next VM could meet entries of this one.
  if (Issue({&flush, 1})) vmids_.Free(vmid);
}

smmuv3::Stage2Config HostSmmu::Stage2For(uint16_t vmid) const {
  return {.vmid = vmid, .vtcr = smmuv3::Vtcr(smmuv3::Granule::k4k, features_.oas_bits), .s2ttb = 0, .fwb = features_.fwb};
}

bool HostSmmu::Issue(std::span<const RawCommand> group) {
  if (group.size() > kMaxGroup) std::abort();
  std::array<RawCommand, kMaxGroup + 1> batch;
  std::copy(group.begin(), group.end(), batch.begin());
  batch[group.size()] = smmuv3::Encode({.opcode = Opcode::kSync});
  const auto start = std::chrono::steady_clock::now();
  const auto deadline = start + sync_timeout_;
  const std::optional<smmuv3::QueuePosition> end =
      hardware_.queue().Push(std::span(batch).first(group.size() + 1), deadline);
  const bool done = end.has_value() && hardware_.queue().WaitConsumed(*end, deadline);
  const std::chrono::nanoseconds took = std::chrono::steady_clock::now() - start;
  const auto bound = std::lower_bound(kLatencyBounds.begin(), kLatencyBounds.end(), took);
  latencies_[static_cast<size_t>(bound - kLatencyBounds.begin())].fetch_add(1, std::memory_order_relaxed);
  latency_sum_ns_.fetch_add(took.count(), std::memory_order_relaxed);
  if (!done) sync_timeouts_.fetch_add(1, std::memory_order_relaxed);
  return done;
}

void HostSmmu::InstallSte(uint32_t sid, const smmuv3::RawSte& entry) {
  const bool ats_ends = AtsEnabled(hardware_.ReadSte(sid)) && !AtsEnabled(entry);
  hardware_.WriteSte(sid, entry);
  const RawCommand reload = smmuv3::Encode({.opcode = Opcode::kCfgiSte, .sid = sid, .leaf = true});
  static_cast<void>(Issue({&reload, 1}));
  if (!ats_ends) return;
  // One for requests without a PASID, one for all with.
  std::array<RawCommand, 2> forget = {
      smmuv3::Encode({.opcode = Opcode::kAtcInv, .sid = sid, .size = smmuv3::kAtcSizeAll}),
      smmuv3::Encode(
          {.opcode = Opcode::kAtcInv, .sid = sid, .ssv = true, .global = true, .size = smmuv3::kAtcSizeAll})};
  static_cast<void>(Issue(std::span(forget).first(features_.ssid_bits == 0 ? 1 : 2)));
}

void HostSmmu::SetEventTarget(uint32_t sid, std::shared_ptr<ViommuEvents> events, uint32_t virt_id) {
  MutexLock lock(events_mu_);
  if (events == nullptr) {
    event_targets_.erase(sid);
  } else {
    event_targets_[sid] = {std::move(events), virt_id};
  }
}

void HostSmmu::DeliverEvent(const smmuv3::RawEvent& record) {
  if (!smmuv3::IsForGuest(record)) return;
  EventTarget target;
  {
    MutexLock lock(events_mu_);
    const auto found = event_targets_.find(smmuv3::EventSid(record));
    if (found == event_targets_.end()) return;
    target = found->second;
  }
  target.events->Deliver(smmuv3::WithSid(record, target.virt_id));
}

SmmuStats HostSmmu::GetStats() const {
  SmmuStats stats;
  stats.smmu = info_.name;
  for (size_t opcode = 0; opcode < outcomes_.size(); ++opcode) {
    const auto read = [&](InvalidationOutcome outcome) {
      return outcomes_[opcode][static_cast<size_t>(outcome)].load(std::memory_order_relaxed);
    };
    const InvalidationCount count{.opcode = static_cast<uint8_t>(opcode),
                                  .done = read(InvalidationOutcome::kDone),
                                  .refused = read(InvalidationOutcome::kRefused),
                                  .failed = read(InvalidationOutcome::kFailed)};
    if (count.done + count.refused + count.failed != 0) stats.invalidations.push_back(count);
  }
  const smmuv3::QueueStats queue = hardware_.queue().GetStats();
  stats.queue_depth = queue.depth;
  stats.queue_capacity = queue.capacity;
  stats.queue_pushed = queue.pushed;
  stats.queue_full_waits = queue.full_waits;
  const smmuv3::SmmuCounters counters = hardware_.GetCounters();
  stats.command_errors = counters.command_errors;
  stats.tlb_entries = counters.tlb_entries;
  stats.atc_entries = counters.atc_entries;
  stats.config_entries = counters.config_entries;
  stats.sync_latency.upper_bounds.assign(kLatencyBounds.begin(), kLatencyBounds.end());
  for (const auto& bucket : latencies_) stats.sync_latency.counts.push_back(bucket.load(std::memory_order_relaxed));
  stats.sync_latency.sum = std::chrono::nanoseconds(latency_sum_ns_.load(std::memory_order_relaxed));
  stats.sync_timeouts = sync_timeouts_.load(std::memory_order_relaxed);
  stats.vmids_used = vmids_.used();
  stats.vmids_total = vmids_.total();
  return stats;
}

}  // namespace viommu::agent
