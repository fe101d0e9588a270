// Builds translation tables (VMSAv8-64, agent/smmuv3/spec/descriptor.h) in the host's memory: stage 2 under guests, and
// stage 1 for devices that the host itself translates for.
//
// Mappings are made of the largest blocks that fit. SMMUs walk the tables meanwhile:
//  - a table is filled before the descriptor that leads to it is written;
//  - a valid descriptor only ever becomes invalid, and becomes valid again after the SMMUs were told
//    (break-before-make): also where a block is split because a part of it goes;
//  - tables that have become empty are freed after the SMMUs were told.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_PAGE_TABLE_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_PAGE_TABLE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "agent/smmuv3/spec/descriptor.h"
#include "agent/smmuv3/spec/granule.h"
#include "agent/smmuv3/spec/id_registers.h"
#include "agent/smmuv3/vsmmu/host_memory.h"

namespace viommu::agent {

// What kind of tables they are.
struct TableFormat {
  bool stage2 = false;
  smmuv3::Granule granule = smmuv3::Granule::k4k;
  uint32_t address_bits = 48;  // width of the addresses that go in and come out, 32 to 48
  bool fwb = false;            // stage 2: memory types are written as STE.S2FWB reads them

  friend bool operator==(const TableFormat&, const TableFormat&) = default;
};

// CD.MAIR for stage-1 tables made here: what their descriptors' AttrIndx, 0, stands for is normal write-back memory.
inline constexpr uint64_t kHostMair = 0xff;

// The format that suits an SMMU: 4 KiB pages where it reads them, else 16 or 64. Addresses of 52 bits, for which
// descriptors have another shape, are not used. The SMMU has a granule.
TableFormat TableFormatFor(const smmuv3::Features& features, bool stage2);
// Whether an SMMU reads tables of this format.
bool CanRead(const smmuv3::Features& features, const TableFormat& format);

// Thread-compatible; SMMUs may walk the tables at any time.
class PageTable {
 public:
  // Tells the SMMUs that the translations of a range, and the tables on the way there, are no longer what they were.
  // True when they have confirmed it.
  using Invalidate = absl::FunctionRef<bool(uint64_t input, uint64_t length)>;

  // Null when there is no memory. `memory` outlives the table.
  static std::unique_ptr<PageTable> Create(const TableFormat& format, HostMemory* memory);
  // Frees the tables, which no SMMU uses any more; unless Abandon() was called.
  ~PageTable();
  PageTable(const PageTable&) = delete;
  PageTable& operator=(const PageTable&) = delete;

  const TableFormat& format() const { return format_; }
  // Where walks start: for STE.S2TTB or CD.TTB0.
  uint64_t root() const { return root_; }
  uint64_t page_bytes() const { return uint64_t{1} << smmuv3::GranuleLog2(format_.granule); }

  // Maps [input, input + length), where nothing is mapped, to `output` and following; all three are multiples of the
  // page, the ranges inside address_bits. Stage 1 cannot forbid reading what can be written. False, and nothing has
  // changed, when there is no memory.
  [[nodiscard]] bool Map(uint64_t input, uint64_t output, uint64_t length, bool readable, bool writable);

  // Removes what is mapped in the range (multiples of the page), and calls `invalidate` once if there was something.
  // False, and nothing has changed, when there is no memory to split a block with.
  [[nodiscard]] bool Unmap(uint64_t input, uint64_t length, Invalidate invalidate);

  struct Mapping {
    uint64_t output = 0;     // of the very address
    uint32_t span_log2 = 0;  // of the block or page
    bool readable = false;
    bool writable = false;

    friend bool operator==(const Mapping&, const Mapping&) = default;
  };
  // What is mapped at an address.
  std::optional<Mapping> Lookup(uint64_t input) const;

  // The SMMUs do not answer, so that the tables may be in use for ever: their memory is not given back.
  void Abandon() { abandoned_ = true; }

 private:
  PageTable(const TableFormat& format, HostMemory* memory);

  struct Rights {
    bool readable = false;
    bool writable = false;
  };
  struct Range {
    uint64_t begin = 0;
    uint64_t end = 0;
  };
  // A descriptor that waits for the SMMUs' confirmation to become another table.
  struct Split {
    uint64_t slot = 0;   // physical address of the descriptor
    uint64_t table = 0;  // what it will lead to
    uint32_t level = 0;  // of that table
  };

  uint32_t Shift(uint32_t level) const { return smmuv3::LevelShift(format_.granule, level); }
  uint64_t Entries(uint32_t level) const;
  // Whether a mapping of `length` bytes can be written as one descriptor of this level.
  bool FitsLeaf(uint32_t level, uint64_t input, uint64_t output, uint64_t length) const;
  uint64_t Leaf(uint32_t level, uint64_t output, Rights rights) const;
  Rights RightsOf(uint64_t descriptor) const;

  uint64_t TablesNeeded(uint64_t table, uint32_t level, uint64_t input, uint64_t output, uint64_t length) const;
  void Fill(uint64_t table, uint32_t level, uint64_t input, uint64_t output, uint64_t length, Rights rights,
            std::vector<uint64_t>& spare);
  // Clears the range below `table`; true when the table is empty now.
  bool Clear(uint64_t table, uint32_t level, uint64_t base, Range range, const std::vector<Split>& splits,
             std::vector<uint64_t>& dead, Range& touched);
  // The descriptor that maps `input` as a block that begins before it, if there is one.
  bool FindCut(uint64_t input, uint64_t* slot, uint32_t* level) const;
  // Prepares the table that takes the place of a block of which `gone` goes; false when there is no memory.
  bool PrepareSplit(uint64_t slot, uint32_t level, uint64_t base, Range gone, std::vector<Split>& splits);
  void FreeTree(uint64_t table, uint32_t level);

  const TableFormat format_;
  HostMemory* const memory_;
  uint32_t start_level_ = 0;
  uint32_t root_log2_ = 0;  // size of the first table, or tables
  uint64_t root_ = 0;
  bool abandoned_ = false;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_PAGE_TABLE_H_
