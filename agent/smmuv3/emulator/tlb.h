// The TLB of an emulated SMMU: what it holds, and exactly what each CMD_TLBI_* removes (IHI 0070, 3.17 and 4.4).
//
// Hardware may remove more than a command asks for. This one removes exactly what is asked for, so that software that
// asks for too little is found out.
//
// Thread-compatible: the SMMU that owns it serialises the calls.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_TLB_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_TLB_H_

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "agent/smmuv3/emulator/permissions.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/descriptor.h"

namespace viommu::smmuv3 {

// Which translation regime filled an entry (3.3.4). Secure and EL3 are not modelled.
enum class TlbRegime : uint8_t { kNsEl1, kNsEl2 };

// What an entry's address is: of stage 1, alone or combined with stage 2 (a VA), or of stage 2 alone (an IPA). 4.4.3.1
// tells them apart.
enum class TlbStage : uint8_t { kStage1, kStage2Only };

// What walks of translation tables left behind: a page or block, or, with leaf false, the table that a descriptor leads
// to. Where stage 2 translates what comes out of stage 1, a leaf of kStage1 has been through both (a combined entry).
//
// A combined entry translates no more than the smaller of the two pages, but stands for the whole stage-1 page: it goes
// when any address of that is invalidated, and its granule and level are those of stage 1 (4.4.1).
struct TlbEntry {
  TlbRegime regime = TlbRegime::kNsEl1;
  TlbStage stage = TlbStage::kStage1;
  uint16_t vmid = 0;
  uint16_t asid = 0;    // not looked at when global
  bool aset = false;    // CD.ASET: the set to which ASID, or globality, belongs
  bool global = false;  // for every ASID of the VMID and set
  bool leaf = true;
  uint8_t granule_log2 = 12;  // 12, 14 or 16
  uint8_t level = 3;          // of the descriptor, 0 to 3
  uint8_t lookup_log2 = 12;   // translates the aligned block of this size
  uint8_t scope_log2 = 12;    // goes with any address in the aligned block of this size; at least lookup_log2
  uint64_t address = 0;       // of what it covers; low bits are ignored
  uint64_t output = 0;  // physical address at which the block begins; or where the next table is (stage 1: its IPA)
  uint64_t ipa = 0;     // combined: where the block begins in between
  PagePermissions permissions;  // leaf
  TableLimits limits;           // table: of it and those above

  friend bool operator==(const TlbEntry&, const TlbEntry&) = default;
};

// log2 of the bytes that a descriptor of this level covers.
constexpr uint32_t TlbSpanLog2(uint8_t granule_log2, uint8_t level) {
  return granule_log2 + (3u - level) * (granule_log2 - 3u);
}

// Virtual addresses are compared without their top byte, which TBI may leave to software: it repeats bit 55 here.
constexpr uint64_t WithoutTopByte(uint64_t va) { return static_cast<uint64_t>(static_cast<int64_t>(va << 8) >> 8); }

// Whose translations a lookup is about. `asid` and `aset` mean nothing for kStage2Only, nor `vmid` for kNsEl2.
struct TlbTag {
  TlbRegime regime = TlbRegime::kNsEl1;
  TlbStage stage = TlbStage::kStage1;
  uint16_t vmid = 0;
  uint16_t asid = 0;
  bool aset = false;
};

// What a command removes.
struct TlbScope {
  TlbRegime regime = TlbRegime::kNsEl1;
  std::optional<uint16_t> vmid;  // unset: every VMID
  bool stage1 = true;
  bool stage2_only = false;
  std::optional<uint16_t> asid;  // unset: every ASID
  bool global_too = true;        // with `asid`: global entries match whatever their ASID
  bool by_address = false;
  uint64_t first = 0;  // with `by_address`: first and last byte
  uint64_t last = 0;
  bool leaf_only = false;
  uint8_t granule_log2 = 0;  // 0: any
  uint8_t leaf_level = 0;    // 0: any; else leaves of this level and tables above it

  bool Matches(const TlbEntry& entry) const;
};

// What a CMD_TLBI_* removes; nothing for other commands. `c` must be legal for the SMMU
// (agent/smmuv3/emulator/legality.h). `ds` is IDR5.DS.
std::optional<TlbScope> TlbScopeOf(const Command& c, bool ds);

class Tlb {
 public:
  // Holds `capacity` (> 0) entries; a further one replaces one of the oldest.
  explicit Tlb(uint32_t capacity);

  // Adds an entry, or replaces the one for the same place.
  void Insert(const TlbEntry& entry);

  // The page or block that translates `address`. Valid until the next call that changes something.
  const TlbEntry* Lookup(const TlbTag& tag, uint64_t address) const;
  // The lowest cached table on the way to `address`, from which a walk can go on. Likewise.
  const TlbEntry* LookupTable(const TlbTag& tag, uint64_t address) const;

  // Removes every entry in `scope`; returns how many. Does not allocate. Takes time by the entries that go, and by the
  // number of ASIDs of the VMID where the scope names none; where it names many addresses, by the entries of its ASIDs.
  uint32_t Invalidate(const TlbScope& scope);
  // Removes the entry in one of the places, chosen by `number`, when there is one.
  void Evict(uint64_t number);

  uint32_t size() const { return size_; }
  uint32_t capacity() const { return static_cast<uint32_t>(slots_.size()); }

 private:
  // Entries that are alike but for address and ASID. A lookup asks once for each shape that there is.
  struct Shape {
    TlbStage stage;
    bool leaf;
    uint8_t granule_log2;
    uint8_t level;
    uint8_t lookup_log2;
    uint8_t scope_log2;

    friend bool operator==(const Shape&, const Shape&) = default;
    uint32_t Packed() const {
      return static_cast<uint32_t>(stage) | leaf << 1 | level << 2 | granule_log2 << 4 | lookup_log2 << 10 |
             scope_log2 << 17;
    }
  };
  struct CountedShape {
    Shape shape;
    uint32_t count;
  };
  // The place of an entry in its space: aligned address and shape.
  using Key = std::pair<uint64_t, uint32_t>;
  // The entries of one ASID, or those for all of them, or those of stage 2 alone: what commands take together.
  struct Space {
    absl::flat_hash_map<Key, uint32_t> slots;
    std::vector<CountedShape> shapes;  // deepest level first; a handful
  };
  // Of one regime and VMID.
  using Vm = absl::flat_hash_map<uint32_t, Space>;
  struct Slot {
    TlbEntry entry;
    bool used = false;
  };

  static uint32_t VmId(TlbRegime regime, uint16_t vmid) {
    return static_cast<uint32_t>(regime) << 16 | (regime == TlbRegime::kNsEl1 ? vmid : 0u);
  }
  static TlbRegime RegimeOf(uint32_t vm_id) { return static_cast<TlbRegime>(vm_id >> 16); }
  static uint32_t SpaceId(TlbStage stage, uint16_t asid, bool aset, bool global) {
    if (stage == TlbStage::kStage2Only) return uint32_t{1} << 18;
    return uint32_t{aset} << 17 | uint32_t{global} << 16 | (global ? 0u : asid);
  }
  static uint32_t SpaceId(const TlbEntry& e) { return SpaceId(e.stage, e.asid, e.aset, e.global); }
  static Shape ShapeOf(const TlbEntry& entry);
  static Key KeyOf(const Shape& shape, uint64_t address);
  const TlbEntry* Find(const TlbTag& tag, uint64_t address, bool leaf) const;
  uint32_t FreeSlot();
  void Remove(uint32_t slot);
  void Release(Space& space, uint32_t slot);
  uint32_t InvalidateVm(Vm& vm, const TlbScope& scope);
  uint32_t InvalidateSpace(Space& space, const TlbScope& scope);
  uint32_t RemoveIfMatching(Space& space, const Key& key, const TlbScope& scope);

  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
  uint32_t hand_ = 0;  // next slot to replace when all are used
  uint32_t size_ = 0;
  absl::flat_hash_map<uint32_t, Vm> vms_;
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_TLB_H_
