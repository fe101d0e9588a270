// The TLB of an emulated SMMU: what it holds, and exactly what each CMD_TLBI_* removes (IHI 0070, 3.17 and 4.4).
//
// Hardware may remove more than a command asks for. This one removes exactly what is asked for, so that software that
// asks for too little is found out.
//
// Thread-compatible: the SMMU that owns it serialises the calls.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_TLB_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_TLB_H_

#include <array>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "agent/smmuv3/spec/command.h"

namespace viommu::smmuv3 {

// Which translation regime filled an entry (3.3.4). Secure and EL3 are not modelled.
enum class TlbRegime : uint8_t { kNsEl1, kNsEl2 };

// What an entry's address is: of stage 1, alone or combined with stage 2 (a VA), or of stage 2 alone (an IPA). 4.4.3.1
// tells them apart.
enum class TlbStage : uint8_t { kStage1, kStage2Only };

// What walks of a translation table left behind: a page or block, or, with leaf false, a table descriptor.
struct TlbEntry {
  TlbRegime regime = TlbRegime::kNsEl1;
  TlbStage stage = TlbStage::kStage1;
  uint16_t vmid = 0;
  uint16_t asid = 0;    // not looked at when global
  bool global = false;  // for every ASID of the VMID
  bool leaf = true;
  uint8_t granule_log2 = 12;  // 12, 14 or 16
  uint8_t level = 3;          // of the descriptor, 0 to 3
  uint64_t address = 0;       // of what it covers; low bits are ignored
  uint64_t output = 0;        // physical address, or that of the next table
  bool writable = false;

  friend bool operator==(const TlbEntry&, const TlbEntry&) = default;
};

// log2 of the bytes that a descriptor of this level covers.
constexpr uint32_t TlbSpanLog2(uint8_t granule_log2, uint8_t level) {
  return granule_log2 + (3u - level) * (granule_log2 - 3u);
}

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

  // The page or block that translates `address` for the ASID.
  std::optional<TlbEntry> Lookup(TlbRegime regime, TlbStage stage, uint16_t vmid, uint16_t asid,
                                 uint64_t address) const;

  // The lowest cached table descriptor on the way to `address`, from which a walk can go on.
  std::optional<TlbEntry> LookupTable(TlbRegime regime, TlbStage stage, uint16_t vmid, uint16_t asid,
                                      uint64_t address) const;

  // Removes every entry in `scope`; returns how many. Does not allocate.
  uint32_t Invalidate(const TlbScope& scope);

  uint32_t size() const { return size_; }
  uint32_t capacity() const { return static_cast<uint32_t>(slots_.size()); }

 private:
  // The place of an entry among those of its regime and VMID. Global entries have ASID 0 here.
  using Key = std::tuple<uint64_t, uint16_t, bool, bool, TlbStage, uint8_t, uint8_t>;
  struct Space {
    absl::flat_hash_map<Key, uint32_t> slots;
    // How many entries there are of each granule and level, so that a search only asks for sizes that exist.
    std::array<std::array<uint32_t, 4>, 3> shapes = {};
  };
  struct Slot {
    TlbEntry entry;
    bool used = false;
  };

  static uint32_t SpaceId(TlbRegime regime, uint16_t vmid) { return static_cast<uint32_t>(regime) << 16 | vmid; }
  static Key KeyOf(const TlbEntry& entry);
  static uint32_t& ShapeOf(Space& space, const TlbEntry& entry);
  std::optional<TlbEntry> Find(TlbRegime regime, TlbStage stage, uint16_t vmid, uint16_t asid, uint64_t address,
                               bool leaf) const;
  uint32_t FreeSlot();
  void Remove(uint32_t slot);
  uint32_t InvalidateSpace(Space& space, const TlbScope& scope);

  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
  uint32_t hand_ = 0;  // next slot to replace when all are used
  uint32_t size_ = 0;
  absl::flat_hash_map<uint32_t, Space> spaces_;
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_TLB_H_
