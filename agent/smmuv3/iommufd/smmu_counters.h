// What is counted of one SMMU behind the kernel: what this agent asked of it.

#ifndef VIOMMU_AGENT_SMMUV3_IOMMUFD_SMMU_COUNTERS_H_
#define VIOMMU_AGENT_SMMUV3_IOMMUFD_SMMU_COUNTERS_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <span>
#include <string>

#include "agent/backend.h"
#include "agent/smmuv3/spec/words.h"

namespace viommu::agent {

// Commands that the kernel's driver puts under one CMD_SYNC.
inline constexpr uint32_t kKernelGroup = 63;

// Thread-safe.
class SmmuCounters {
 public:
  enum class Outcome : uint8_t { kDone, kRefused, kFailed };

  // One HWPT_INVALIDATE of `commands` commands, the syncs within it as one.
  void CountCall(uint64_t commands, std::chrono::nanoseconds took);
  // The commands of one caller, by how its call ended: `error_number` (0: well) and the number handled.
  void CountCommands(std::span<const smmuv3::RawCommand> commands, int error_number, uint32_t handled);

  // Commands that wait for a call.
  std::atomic<uint64_t> waiting{0};
  // Stage-2 HWPTs of this agent, each of which has a VMID.
  std::atomic<uint64_t> stage2s{0};

  // Without names and totals.
  SmmuStats Get() const;

 private:
  static constexpr std::array kBounds = {std::chrono::nanoseconds(1'000),        std::chrono::nanoseconds(2'000),
                                         std::chrono::nanoseconds(5'000),        std::chrono::nanoseconds(10'000),
                                         std::chrono::nanoseconds(20'000),       std::chrono::nanoseconds(50'000),
                                         std::chrono::nanoseconds(100'000),      std::chrono::nanoseconds(200'000),
                                         std::chrono::nanoseconds(500'000),      std::chrono::nanoseconds(1'000'000),
                                         std::chrono::nanoseconds(10'000'000),   std::chrono::nanoseconds(100'000'000),
                                         std::chrono::nanoseconds(1'000'000'000)};

  void Count(std::span<const smmuv3::RawCommand> commands, Outcome outcome);

  std::array<std::array<std::atomic<uint64_t>, 3>, 256> outcomes_ = {};
  std::array<std::atomic<uint64_t>, kBounds.size() + 1> latencies_ = {};
  std::atomic<int64_t> latency_sum_ns_{0};
  std::atomic<uint64_t> issued_{0};
  std::atomic<uint64_t> timeouts_{0};
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_IOMMUFD_SMMU_COUNTERS_H_
