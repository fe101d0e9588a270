// Accesses of emulated devices, on request.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_EMULATED_DMA_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_EMULATED_DMA_H_

#include <cstddef>
#include <span>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "agent/backend.h"
#include "agent/smmuv3/emulator/smmu.h"
#include "agent/smmuv3/vsmmu/host.h"

namespace viommu::agent {

// Thread-safe. A device with several StreamIDs accesses with its first.
class EmulatedDma final : public DeviceDma {
 public:
  // `host` outlives it.
  explicit EmulatedDma(Host* host) : host_(host) {}

  absl::StatusOr<DmaResult> Translate(const DmaRequest& request, bool write) override;
  absl::StatusOr<DmaResult> Read(const DmaRequest& request, std::span<std::byte> out) override;
  absl::StatusOr<DmaResult> Write(const DmaRequest& request, std::span<const std::byte> in) override;

 private:
  using TimePoint = smmuv3::EmulatedSmmu::TimePoint;
  // Accesses `length` bytes, `offset` bytes after the first.
  using Piece = absl::FunctionRef<smmuv3::Outcome(smmuv3::EmulatedSmmu& smmu, const smmuv3::Transaction& transaction,
                                                  TimePoint stall_deadline, size_t offset, size_t length)>;

  absl::StatusOr<const HostDevice*> Find(const DmaRequest& request);
  absl::StatusOr<DmaResult> Transfer(const DmaRequest& request, size_t length, Piece piece);

  Host* const host_;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_EMULATED_DMA_H_
