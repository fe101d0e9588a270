// Walks of translation tables (VMSAv8-64, DDI 0487, D8; IHI 0070, 3.4): from an address to the descriptor that maps it.
//
// Pure: what is in memory comes through a callback, which in a nested configuration translates the address of each
// stage-1 descriptor by stage 2 first. Permissions are not judged here (agent/smmuv3/emulator/permissions.h).

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_WALK_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_WALK_H_

#include <cstdint>
#include <variant>

#include "absl/functional/function_ref.h"
#include "agent/smmuv3/spec/descriptor.h"
#include "agent/smmuv3/spec/granule.h"

namespace viommu::smmuv3 {

// A tree of tables, as CD or STE describe it. Invariants are those of a CD or an STE that is not ILLEGAL.
struct TableTree {
  bool stage2 = false;
  Granule granule = Granule::k4k;
  uint32_t input_bits = 48;  // width of the addresses that it translates
  uint32_t start_level = 0;
  uint64_t base = 0;          // of the first table, or tables, aligned to their size
  uint32_t output_bits = 48;  // width of the addresses that it may hold
  bool wide = false;          // the SMMU has 52-bit addresses
  bool big_endian = false;
  bool access_flag_faults = true;
  bool ignore_limits = false;  // CD.HADx

  friend bool operator==(const TableTree&, const TableTree&) = default;
};

// Where a walk stands: in front of a table of this level.
struct WalkPosition {
  uint32_t level = 0;
  uint64_t table = 0;
  TableLimits limits;  // of the tables above it

  friend bool operator==(const WalkPosition&, const WalkPosition&) = default;
};

// A block or page was found.
struct WalkLeaf {
  uint32_t level = 0;
  uint32_t span_log2 = 12;  // bytes that it maps, with its neighbours where they are joined by the Contiguous bit
  uint64_t output = 0;      // where the aligned span begins
  RawDescriptor descriptor = 0;
  TableLimits limits;
};

enum class WalkError : uint8_t {
  kTranslation,  // no valid descriptor
  kAddressSize,  // an address wider than output_bits
  kAccessFlag,   // AF = 0
  kAbort,        // the memory refused a descriptor
  kNestedFault,  // the callback said kFault
};

struct WalkFault {
  WalkError error = WalkError::kTranslation;
  uint32_t level = 0;
  uint64_t address = 0;  // of the descriptor, as the callback got it
};

enum class ReadResult : uint8_t { kDone, kAbort, kFault };

// Reads a descriptor, in the CPU's byte order when the table is little-endian.
using DescriptorReader = absl::FunctionRef<ReadResult(uint64_t address, RawDescriptor& raw)>;
// Is told of every table that a descriptor has led to.
using TableObserver = absl::FunctionRef<void(const WalkPosition& reached)>;

// The position at which walks of `tree` begin.
inline WalkPosition RootOf(const TableTree& tree) { return {tree.start_level, tree.base, {}}; }

// Walks from `from`, RootOf(tree) or a position that an earlier walk for an address below the same table has reached.
// Bits of `address` above input_bits are not looked at.
std::variant<WalkLeaf, WalkFault> Walk(const TableTree& tree, uint64_t address, WalkPosition from,
                                       DescriptorReader read, TableObserver reached);

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_WALK_H_
