// Fetches of stream table entries and context descriptors from memory (IHI 0070, 3.3.1, 3.3.2, 5.1 to 5.4).

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_CONFIG_FETCH_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_CONFIG_FETCH_H_

#include <cstdint>
#include <optional>
#include <span>

#include "absl/functional/function_ref.h"
#include "agent/smmuv3/emulator/device_caches.h"
#include "agent/smmuv3/emulator/walk.h"
#include "agent/smmuv3/spec/id_registers.h"
#include "agent/smmuv3/spec/ste.h"

namespace viommu::smmuv3 {

// SMMU_STRTAB_BASE and SMMU_STRTAB_BASE_CFG.
struct StreamTable {
  uint64_t base = 0;
  uint32_t cfg = 0;
};

// Reads consecutive words. For context descriptors it translates the address by stage 2 first where there is one.
using WordReader = absl::FunctionRef<ReadResult(uint64_t address, std::span<uint64_t> words)>;

// Level-1 descriptors in a configuration cache: asked for one, and told one that was fetched.
template <typename Descriptor>
struct Level1Cache {
  absl::FunctionRef<std::optional<Descriptor>(uint32_t id, uint32_t split)> lookup;
  absl::FunctionRef<void(uint32_t id, uint32_t split, const Descriptor& descriptor)> insert;
};

enum class FetchError : uint8_t {
  kNone,
  kOutOfRange,  // there is no entry for this StreamID or SubstreamID
  kAbort,       // the memory refused
  kFault,       // the reader said so
};

template <typename Raw>
struct Fetched {
  FetchError error = FetchError::kNone;
  uint64_t address = 0;  // of what was to be read last
  Raw raw = {};
};

// Whether the table has the StreamID at all, as far as SMMU_STRTAB_BASE_CFG says.
bool IsInStreamTable(const StreamTable& table, const Features& features, uint32_t sid);
Fetched<RawSte> FetchSte(const StreamTable& table, const Features& features, uint32_t sid,
                         const Level1Cache<SteL1>& cache, WordReader read);

// The descriptor at `index` of the table of a legal entry with a stage 1; `index` is within S1CDMax.
Fetched<RawCd> FetchCd(const Ste& ste, const Features& features, uint32_t index, const Level1Cache<CdL1>& cache,
                       WordReader read);

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_CONFIG_FETCH_H_
