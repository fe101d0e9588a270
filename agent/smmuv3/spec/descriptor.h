// Descriptors of translation tables: VMSAv8-64 of the Arm Architecture Reference Manual (DDI 0487, D8.3), which IHI
// 0070 takes over (3.4, 5.2, 5.4). Where levels begin, what stands in a descriptor, where a stage-2 walk may start.
//
// Left out: IDR5.DS (52-bit addresses with 4 and 16 KiB tables, level -1), IDR3.STT (stage-2 tables that start at level
// 3 with 4 KiB, inputs below 25 bits), hardware updates of access flag and dirty state, 128-bit descriptors, and the
// Secure and Realm bits.
//
// A level is 0 to 3; level 3 has the pages. `granule` is never kReserved. All functions are total otherwise.

#ifndef VIOMMU_AGENT_SMMUV3_SPEC_DESCRIPTOR_H_
#define VIOMMU_AGENT_SMMUV3_SPEC_DESCRIPTOR_H_

#include <cstdint>
#include <optional>

#include "agent/smmuv3/spec/bits.h"
#include "agent/smmuv3/spec/granule.h"

namespace viommu::smmuv3 {

// A descriptor as it lies in memory, in the CPU's byte order.
using RawDescriptor = uint64_t;

inline constexpr uint32_t kDescriptorBytes = 8;
inline constexpr uint32_t kLastLevel = 3;

namespace descriptor {
inline constexpr BitField kValid{0, 0};
inline constexpr BitField kTable{1, 1};  // a table, at level 3 a page; else a block
// Blocks and pages, both stages.
inline constexpr BitField kSh{9, 8};
inline constexpr BitField kAf{10, 10};
inline constexpr BitField kDbm{51, 51};
inline constexpr BitField kContiguous{52, 52};
inline constexpr BitField kSoftware{58, 55};
// Blocks and pages of stage 1.
inline constexpr BitField kAttrIndx{4, 2};
inline constexpr BitField kAp{7, 6};
inline constexpr BitField kNg{11, 11};
inline constexpr BitField kPxn{53, 53};
inline constexpr BitField kUxn{54, 54};  // XN in regimes that have no unprivileged side
// Blocks and pages of stage 2.
inline constexpr BitField kMemAttr{5, 2};
inline constexpr BitField kS2Ap{7, 6};
inline constexpr BitField kS2Xn{54, 53};
// Tables of stage 1. In tables of stage 2 these bits are ignored.
inline constexpr BitField kPxnTable{59, 59};
inline constexpr BitField kUxnTable{60, 60};
inline constexpr BitField kApTable{62, 61};
// Addresses. 64 KiB descriptors hold bits 51:48 of theirs in bits 15:12; where the SMMU has no 52-bit addresses, those
// are 0.
inline constexpr BitField kAddress{47, 12};
inline constexpr BitField kAddressHigh64k{15, 12};
}  // namespace descriptor

// ---- Levels -------------------------------------------------------------------------------------------------------

// log2 of the bytes of a table, and of a page.
constexpr uint32_t GranuleLog2(Granule granule) { return static_cast<uint32_t>(granule); }
// log2 of the descriptors of a table: input bits that one level resolves.
constexpr uint32_t LevelBits(Granule granule) { return GranuleLog2(granule) - 3; }
// log2 of the bytes that one descriptor of this level covers.
constexpr uint32_t LevelShift(Granule granule, uint32_t level) {
  return GranuleLog2(granule) + (kLastLevel - level) * LevelBits(granule);
}

// Whether a descriptor of this level may be a block. `wide` is whether the SMMU has 52-bit addresses (IDR5.OAS), which
// gives 64 KiB tables blocks of 4 TiB at level 1.
constexpr bool BlocksAllowed(Granule granule, uint32_t level, bool wide) {
  switch (granule) {
    case Granule::k4k:
      return level == 1 || level == 2;
    case Granule::k16k:
      return level == 2;
    case Granule::k64k:
      return level == 2 || (level == 1 && wide);
    case Granule::kReserved:
      break;
  }
  return false;
}

// How many descriptors in a row, aligned to their number, the Contiguous bit joins; 1 where it joins none.
constexpr uint32_t ContiguousEntries(Granule granule, uint32_t level) {
  switch (granule) {
    case Granule::k4k:
      return level >= 1 && level <= kLastLevel ? 16 : 1;
    case Granule::k16k:
      return level == kLastLevel ? 128 : level == 2 ? 32 : 1;
    case Granule::k64k:
      return level == kLastLevel || level == 2 ? 32 : 1;
    case Granule::kReserved:
      break;
  }
  return 1;
}

// The level at which a stage-1 walk of an `input_bits` wide address starts: the deepest at which one table is enough.
constexpr uint32_t Stage1Start(Granule granule, uint32_t input_bits) {
  uint32_t level = kLastLevel;
  while (level > 0 && input_bits > LevelShift(granule, level) + LevelBits(granule)) --level;
  return level;
}

// ---- Where stage 2 starts -----------------------------------------------------------------------------------------

// Up to 2^4 tables of the first level lie side by side, to spare a level above them.
inline constexpr uint32_t kConcatenationLog2 = 4;

// STE.S2SL0 to a level; nothing for the value that needs IDR5.DS or IDR3.STT.
constexpr std::optional<uint32_t> Stage2StartLevel(Granule granule, uint32_t sl0) {
  if (sl0 > 2) return std::nullopt;
  return (granule == Granule::k4k ? 2 : 3) - sl0;
}
// The value of S2SL0 for this level, the opposite of the above; `level` is 0 to 2 with 4 KiB, 1 to 3 with the others.
constexpr uint32_t Stage2Sl0(Granule granule, uint32_t level) { return (granule == Granule::k4k ? 2 : 3) - level; }

// log2 of the number of tables at the first level; nothing where an input this wide cannot start there: it needs more
// than 16, or would leave the first level nothing to resolve. Both make an STE ILLEGAL.
constexpr std::optional<uint32_t> Stage2ConcatenationLog2(Granule granule, uint32_t level, uint32_t input_bits) {
  const uint32_t shift = LevelShift(granule, level);
  const uint32_t one_table = shift + LevelBits(granule);
  if (input_bits <= shift || input_bits > one_table + kConcatenationLog2) return std::nullopt;
  return input_bits > one_table ? input_bits - one_table : 0;
}

// Whether tables may start at a level at all where addresses have `oas_bits`: the highest level, S2SL0 2, is for those
// that need it.
constexpr bool Stage2StartAllowed(Granule granule, uint32_t level, uint32_t oas_bits) {
  if (Stage2Sl0(granule, level) != 2) return true;
  return oas_bits >= (granule == Granule::k16k ? 42u : 44u);
}

// The deepest level at which an input of 32 to 48 bits (64 KiB: 52) can start.
constexpr uint32_t Stage2DeepestStart(Granule granule, uint32_t input_bits) {
  uint32_t level = granule == Granule::k4k ? 2 : 3;
  while (level > 0 && !Stage2ConcatenationLog2(granule, level, input_bits).has_value()) --level;
  return level;
}

// ---- Descriptors --------------------------------------------------------------------------------------------------

enum class DescriptorKind : uint8_t { kInvalid, kTable, kBlock, kPage };

constexpr const char* ToString(DescriptorKind kind) {
  switch (kind) {
    case DescriptorKind::kInvalid:
      return "invalid";
    case DescriptorKind::kTable:
      return "table";
    case DescriptorKind::kBlock:
      return "block";
    case DescriptorKind::kPage:
      return "page";
  }
  return "unknown";
}

// What stands there. Blocks where there may be none, and at level 3 all but pages, are invalid.
constexpr DescriptorKind KindOf(RawDescriptor raw, Granule granule, uint32_t level, bool wide) {
  if (descriptor::kValid.Get(raw) == 0) return DescriptorKind::kInvalid;
  const bool table = descriptor::kTable.Get(raw) != 0;
  if (level == kLastLevel) return table ? DescriptorKind::kPage : DescriptorKind::kInvalid;
  if (table) return DescriptorKind::kTable;
  return BlocksAllowed(granule, level, wide) ? DescriptorKind::kBlock : DescriptorKind::kInvalid;
}

// The address in a descriptor, aligned to 2^shift bytes.
constexpr uint64_t GetDescriptorAddress(RawDescriptor raw, Granule granule, uint32_t shift) {
  uint64_t address = raw & descriptor::kAddress.mask() & ~((uint64_t{1} << shift) - 1);
  if (granule == Granule::k64k) address |= descriptor::kAddressHigh64k.Get(raw) << 48;
  return address;
}

// Bits of `address` that the descriptor cannot hold are lost.
constexpr RawDescriptor PutDescriptorAddress(uint64_t address, Granule granule, uint32_t shift) {
  uint64_t raw = address & descriptor::kAddress.mask() & ~((uint64_t{1} << shift) - 1);
  if (granule == Granule::k64k) raw = descriptor::kAddressHigh64k.Set(raw, address >> 48);
  return raw;
}

// The address in a block or page: where what it covers begins.
constexpr uint64_t OutputOf(RawDescriptor raw, Granule granule, uint32_t level) {
  return GetDescriptorAddress(raw, granule, LevelShift(granule, level));
}
// The address in a table descriptor.
constexpr uint64_t NextTableOf(RawDescriptor raw, Granule granule) {
  return GetDescriptorAddress(raw, granule, GranuleLog2(granule));
}

// ---- What they say ------------------------------------------------------------------------------------------------

// AP of stage 1, and APTable: bit 0 (AP[1]) opens a page to unprivileged accesses, bit 1 (AP[2]) forbids writing.
// APTable bit 0 takes unprivileged access away instead.
inline constexpr uint8_t kApUnprivileged = 1;
inline constexpr uint8_t kApReadOnly = 2;
inline constexpr uint8_t kApTableNoUnprivileged = 1;
inline constexpr uint8_t kApTableReadOnly = 2;
// S2AP.
inline constexpr uint8_t kS2ApRead = 1;
inline constexpr uint8_t kS2ApWrite = 2;
// S2XN: without IDR3.XNX only the higher bit counts (0: execute, 2: never).
inline constexpr uint8_t kS2XnNone = 0;          // both may execute
inline constexpr uint8_t kS2XnUnprivileged = 1;  // unprivileged alone may
inline constexpr uint8_t kS2XnAll = 2;           // neither may
inline constexpr uint8_t kS2XnPrivileged = 3;    // privileged alone may

// A block or page of stage 1, but for its address.
struct Stage1Leaf {
  uint8_t attr_indx = 0;  // which byte of CD.MAIR
  uint8_t ap = 0;
  uint8_t sh = 0;
  bool af = false;
  bool ng = false;  // for this ASID alone
  bool dbm = false;
  bool contiguous = false;
  bool pxn = false;
  bool uxn = false;

  friend bool operator==(const Stage1Leaf&, const Stage1Leaf&) = default;
};

// A block or page of stage 2, but for its address.
struct Stage2Leaf {
  uint8_t mem_attr = 0;  // 4 bits
  uint8_t s2ap = 0;
  uint8_t sh = 0;
  bool af = false;
  bool dbm = false;
  bool contiguous = false;
  uint8_t xn = 0;

  friend bool operator==(const Stage2Leaf&, const Stage2Leaf&) = default;
};

// What a table of stage 1 says about everything below it, unless CD.HADx turns that off.
struct TableLimits {
  uint8_t ap_table = 0;
  bool uxn_table = false;
  bool pxn_table = false;

  friend bool operator==(const TableLimits&, const TableLimits&) = default;
};

constexpr Stage1Leaf DecodeStage1Leaf(RawDescriptor raw) {
  return {
      .attr_indx = static_cast<uint8_t>(descriptor::kAttrIndx.Get(raw)),
      .ap = static_cast<uint8_t>(descriptor::kAp.Get(raw)),
      .sh = static_cast<uint8_t>(descriptor::kSh.Get(raw)),
      .af = descriptor::kAf.Get(raw) != 0,
      .ng = descriptor::kNg.Get(raw) != 0,
      .dbm = descriptor::kDbm.Get(raw) != 0,
      .contiguous = descriptor::kContiguous.Get(raw) != 0,
      .pxn = descriptor::kPxn.Get(raw) != 0,
      .uxn = descriptor::kUxn.Get(raw) != 0,
  };
}

constexpr Stage2Leaf DecodeStage2Leaf(RawDescriptor raw) {
  return {
      .mem_attr = static_cast<uint8_t>(descriptor::kMemAttr.Get(raw)),
      .s2ap = static_cast<uint8_t>(descriptor::kS2Ap.Get(raw)),
      .sh = static_cast<uint8_t>(descriptor::kSh.Get(raw)),
      .af = descriptor::kAf.Get(raw) != 0,
      .dbm = descriptor::kDbm.Get(raw) != 0,
      .contiguous = descriptor::kContiguous.Get(raw) != 0,
      .xn = static_cast<uint8_t>(descriptor::kS2Xn.Get(raw)),
  };
}

constexpr TableLimits DecodeTableLimits(RawDescriptor raw) {
  return {
      .ap_table = static_cast<uint8_t>(descriptor::kApTable.Get(raw)),
      .uxn_table = descriptor::kUxnTable.Get(raw) != 0,
      .pxn_table = descriptor::kPxnTable.Get(raw) != 0,
  };
}

// What a walk has met so far, and one more table.
constexpr TableLimits operator|(const TableLimits& a, const TableLimits& b) {
  return {.ap_table = static_cast<uint8_t>(a.ap_table | b.ap_table),
          .uxn_table = a.uxn_table || b.uxn_table,
          .pxn_table = a.pxn_table || b.pxn_table};
}

namespace descriptor {
constexpr RawDescriptor LeafBits(uint64_t output, Granule granule, uint32_t level) {
  const uint64_t kind = kValid.mask() | (level == kLastLevel ? kTable.mask() : 0);
  return PutDescriptorAddress(output, granule, LevelShift(granule, level)) | kind;
}
}  // namespace descriptor

// A block or, at level 3, a page. `output` is aligned to what it covers.
constexpr RawDescriptor EncodeStage1Leaf(const Stage1Leaf& leaf, uint64_t output, Granule granule, uint32_t level) {
  RawDescriptor raw = descriptor::LeafBits(output, granule, level);
  raw = descriptor::kAttrIndx.Set(raw, leaf.attr_indx);
  raw = descriptor::kAp.Set(raw, leaf.ap);
  raw = descriptor::kSh.Set(raw, leaf.sh);
  raw = descriptor::kAf.Set(raw, leaf.af);
  raw = descriptor::kNg.Set(raw, leaf.ng);
  raw = descriptor::kDbm.Set(raw, leaf.dbm);
  raw = descriptor::kContiguous.Set(raw, leaf.contiguous);
  raw = descriptor::kPxn.Set(raw, leaf.pxn);
  return descriptor::kUxn.Set(raw, leaf.uxn);
}

constexpr RawDescriptor EncodeStage2Leaf(const Stage2Leaf& leaf, uint64_t output, Granule granule, uint32_t level) {
  RawDescriptor raw = descriptor::LeafBits(output, granule, level);
  raw = descriptor::kMemAttr.Set(raw, leaf.mem_attr);
  raw = descriptor::kS2Ap.Set(raw, leaf.s2ap);
  raw = descriptor::kSh.Set(raw, leaf.sh);
  raw = descriptor::kAf.Set(raw, leaf.af);
  raw = descriptor::kDbm.Set(raw, leaf.dbm);
  raw = descriptor::kContiguous.Set(raw, leaf.contiguous);
  return descriptor::kS2Xn.Set(raw, leaf.xn);
}

// A table descriptor, of either stage; `next` is aligned to the granule. Stage 2 takes no limits.
constexpr RawDescriptor EncodeTable(uint64_t next, Granule granule, const TableLimits& limits = {}) {
  RawDescriptor raw =
      PutDescriptorAddress(next, granule, GranuleLog2(granule)) | descriptor::kValid.mask() | descriptor::kTable.mask();
  raw = descriptor::kApTable.Set(raw, limits.ap_table);
  raw = descriptor::kUxnTable.Set(raw, limits.uxn_table);
  return descriptor::kPxnTable.Set(raw, limits.pxn_table);
}

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_SPEC_DESCRIPTOR_H_
