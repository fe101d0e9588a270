#include "agent/smmuv3/iommufd/smmu_counters.h"

#include <algorithm>
#include <cerrno>

namespace viommu::agent {
namespace {

uint8_t OpcodeOf(const smmuv3::RawCommand& command) { return static_cast<uint8_t>(command.dw0 & 0xff); }

}  // namespace

void SmmuCounters::CountCall(uint64_t commands, std::chrono::nanoseconds took) {
  const auto bound = std::lower_bound(kBounds.begin(), kBounds.end(), took);
  latencies_[static_cast<size_t>(bound - kBounds.begin())].fetch_add(1, std::memory_order_relaxed);
  latency_sum_ns_.fetch_add(took.count(), std::memory_order_relaxed);
  issued_.fetch_add(commands, std::memory_order_relaxed);
}

void SmmuCounters::Count(std::span<const smmuv3::RawCommand> commands, Outcome outcome) {
  // Guests invalidate in runs of one opcode: one atomic operation a run.
  for (size_t begin = 0, end = 0; begin < commands.size(); begin = end) {
    const uint8_t opcode = OpcodeOf(commands[begin]);
    const auto differs = [&](size_t i) { return (commands[i].dw0 ^ opcode) & 0xff; };
    // Without a branch for each: this is a good part of what the agent does to a command.
    while (end + 8 <= commands.size() &&
           (differs(end) | differs(end + 1) | differs(end + 2) | differs(end + 3) | differs(end + 4) |
            differs(end + 5) | differs(end + 6) | differs(end + 7)) == 0) {
      end += 8;
    }
    while (end < commands.size() && differs(end) == 0) ++end;
    outcomes_[opcode][static_cast<size_t>(outcome)].fetch_add(end - begin, std::memory_order_relaxed);
  }
}

void SmmuCounters::CountCommands(std::span<const smmuv3::RawCommand> commands, int error_number, uint32_t handled) {
  if (error_number == 0) return Count(commands, Outcome::kDone);
  // Any other error comes before the first command is looked at.
  if (error_number != EIO && error_number != ETIMEDOUT) return;
  if (error_number == ETIMEDOUT) timeouts_.fetch_add(1, std::memory_order_relaxed);
  const size_t stop = std::min<size_t>(handled, commands.size());
  const size_t sure = stop - stop % kKernelGroup;
  Count(commands.first(sure), Outcome::kDone);
  Count(commands.subspan(sure, stop - sure), Outcome::kFailed);
  if (stop == commands.size()) return;
  Count(commands.subspan(stop, 1), error_number == EIO ? Outcome::kRefused : Outcome::kFailed);
}

SmmuStats SmmuCounters::Get() const {
  SmmuStats stats;
  for (size_t opcode = 0; opcode < outcomes_.size(); ++opcode) {
    const auto read = [&](Outcome outcome) {
      return outcomes_[opcode][static_cast<size_t>(outcome)].load(std::memory_order_relaxed);
    };
    const InvalidationCount count{.opcode = static_cast<uint8_t>(opcode),
                                  .done = read(Outcome::kDone),
                                  .refused = read(Outcome::kRefused),
                                  .failed = read(Outcome::kFailed)};
    if (count.done + count.refused + count.failed != 0) stats.invalidations.push_back(count);
  }
  stats.queue_depth = waiting.load(std::memory_order_relaxed);
  stats.queue_pushed = issued_.load(std::memory_order_relaxed);
  stats.sync_latency.upper_bounds.assign(kBounds.begin(), kBounds.end());
  for (const auto& bucket : latencies_) stats.sync_latency.counts.push_back(bucket.load(std::memory_order_relaxed));
  stats.sync_latency.sum = std::chrono::nanoseconds(latency_sum_ns_.load(std::memory_order_relaxed));
  stats.sync_timeouts = timeouts_.load(std::memory_order_relaxed);
  stats.vmids_used = stage2s.load(std::memory_order_relaxed);
  return stats;
}

}  // namespace viommu::agent
