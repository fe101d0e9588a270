// The stream table of one SMMU in the host's memory (IHI 0070, 3.3.1): linear, or two-level with leaf tables of 256
// entries that are made when somebody needs them. Entries begin as abort.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_STREAM_TABLE_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_STREAM_TABLE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "agent/smmuv3/spec/id_registers.h"
#include "agent/smmuv3/spec/ste.h"
#include "agent/smmuv3/vsmmu/host_memory.h"
#include "agent/smmuv3/vsmmu/ste_update.h"

namespace viommu::agent {

// Thread-compatible; the SMMU reads it at any time.
class StreamTable {
 public:
  // Linux's figures: StreamIDs of a leaf table, and level-1 entries at most.
  static constexpr uint32_t kLeafLog2 = 8;
  static constexpr uint32_t kMaxL1Log2 = 17;
  // A linear table is no larger than this.
  static constexpr uint32_t kMaxLinearLog2 = HostMemory::kMaxSizeLog2 - 6;

  // For the StreamIDs of an SMMU, as far as the limits go. Null when there is no memory. `memory` outlives it.
  static std::unique_ptr<StreamTable> Create(const smmuv3::Features& features, HostMemory* memory);
  // The SMMU does not use it any more.
  ~StreamTable();
  StreamTable(const StreamTable&) = delete;
  StreamTable& operator=(const StreamTable&) = delete;

  // For SMMU_STRTAB_BASE and SMMU_STRTAB_BASE_CFG.
  uint64_t base() const { return base_; }
  uint32_t base_cfg() const;

  // Whether the table has a place for this StreamID.
  bool InRange(uint32_t sid) const { return (uint64_t{sid} >> log2_size_) == 0; }
  // Makes the place, if it is not there yet: false when there is no memory. `sid` is in range.
  [[nodiscard]] bool Reserve(uint32_t sid);

  // The entry as it is; a StreamID without a place is aborted.
  smmuv3::RawSte Read(uint32_t sid) const;
  // Changes it in the steps of UpdateSte(), with `sync` between them. The place is there.
  SteChange Write(uint32_t sid, const smmuv3::RawSte& entry, absl::FunctionRef<void()> sync);

 private:
  StreamTable(HostMemory* memory, bool two_level, uint32_t log2_size);

  // Fills places that nobody reads yet.
  void FillWithAbort(uint64_t address, uint64_t entries);
  // Address of the entry; 0: it has no place.
  uint64_t AddressOf(uint32_t sid) const;

  HostMemory* const memory_;
  const bool two_level_;
  const uint32_t log2_size_;  // of the StreamIDs
  uint32_t table_log2_ = 0;   // of the bytes of the first level
  uint64_t base_ = 0;
  std::vector<uint64_t> leaves_;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_STREAM_TABLE_H_
