#include "agent/smmuv3/emulator/tlb.h"

#include <algorithm>

namespace viommu::smmuv3 {
namespace {

// CMD_TLBI_*.TG (4.4.1.1).
constexpr uint8_t kGranuleOfTg[] = {0, 12, 14, 16};
constexpr uint8_t kGranules[] = {12, 14, 16};
// Largest SCALE that means something (4.4.1.1).
constexpr uint8_t kMaxScale = 39;
constexpr uint64_t kPageMask = 0xfff;

uint32_t GranuleIndex(uint8_t granule_log2) { return (granule_log2 - 12u) / 2; }

uint64_t AlignDown(uint64_t address, uint32_t log2) { return log2 >= 64 ? 0 : address >> log2 << log2; }

// The address, range and level part of a command by address.
void SetAddress(const Command& c, bool ds, TlbScope& scope) {
  scope.by_address = true;
  scope.first = c.address;
  scope.last = c.address | kPageMask;
  scope.leaf_only = c.leaf;
  if (c.tg == 0) return;
  scope.granule_log2 = kGranuleOfTg[c.tg];
  // Level 1 of 16 KiB tables has blocks with 52-bit addresses only; else the hint is not one (4.4.1.1).
  const bool no_such_level = c.tg == 2 && c.ttl == 1 && !ds;
  scope.leaf_level = no_such_level ? 0 : c.ttl;
  const uint32_t shift = std::min(c.scale, kMaxScale) + scope.granule_log2;
  const uint64_t bytes = (uint64_t{c.num} + 1) << shift;
  // A range does not wrap at the end of the address space; NUM has 5 bits, so that up to 58 no bit falls off.
  const bool beyond_end = shift > 58 || c.address + (bytes - 1) < c.address;
  scope.last = beyond_end ? ~uint64_t{0} : c.address + (bytes - 1);
}

}  // namespace

bool TlbScope::Matches(const TlbEntry& entry) const {
  if (entry.regime != regime) return false;
  if (regime == TlbRegime::kNsEl1 && vmid.has_value() && entry.vmid != *vmid) return false;
  if (entry.stage == TlbStage::kStage1 ? !stage1 : !stage2_only) return false;
  if (asid.has_value() && (entry.global ? !global_too : entry.asid != *asid)) return false;
  if (leaf_only && !entry.leaf) return false;
  if (granule_log2 != 0 && entry.granule_log2 != granule_log2) return false;
  if (leaf_level != 0 && (entry.leaf ? entry.level != leaf_level : entry.level >= leaf_level)) return false;
  if (!by_address) return true;
  const uint32_t span = TlbSpanLog2(entry.granule_log2, entry.level);
  const uint64_t begin = AlignDown(entry.address, span);
  const uint64_t end = begin + ((uint64_t{1} << span) - 1);
  return begin <= last && first <= end;
}

std::optional<TlbScope> TlbScopeOf(const Command& c, bool ds) {
  TlbScope scope;
  switch (c.opcode) {
    case Opcode::kTlbiNhAll:
      scope.vmid = c.vmid;
      return scope;
    case Opcode::kTlbiNhAsid:
      scope.vmid = c.vmid;
      scope.asid = c.asid;
      scope.global_too = false;
      return scope;
    case Opcode::kTlbiNhVa:
      scope.vmid = c.vmid;
      scope.asid = c.asid;
      SetAddress(c, ds, scope);
      return scope;
    case Opcode::kTlbiNhVaa:
      scope.vmid = c.vmid;
      SetAddress(c, ds, scope);
      return scope;
    case Opcode::kTlbiEl2All:
      scope.regime = TlbRegime::kNsEl2;
      return scope;
    case Opcode::kTlbiEl2Asid:
      scope.regime = TlbRegime::kNsEl2;
      scope.asid = c.asid;
      scope.global_too = false;
      return scope;
    case Opcode::kTlbiEl2Va:
      scope.regime = TlbRegime::kNsEl2;
      scope.asid = c.asid;
      SetAddress(c, ds, scope);
      return scope;
    case Opcode::kTlbiEl2Vaa:
      scope.regime = TlbRegime::kNsEl2;
      SetAddress(c, ds, scope);
      return scope;
    case Opcode::kTlbiS12Vmall:
      scope.vmid = c.vmid;
      scope.stage2_only = true;
      return scope;
    case Opcode::kTlbiS2Ipa:
      scope.vmid = c.vmid;
      scope.stage1 = false;
      scope.stage2_only = true;
      SetAddress(c, ds, scope);
      return scope;
    case Opcode::kTlbiNsnhAll:
      scope.stage2_only = true;
      return scope;
    default:
      return std::nullopt;
  }
}

Tlb::Tlb(uint32_t capacity) : slots_(std::max(capacity, 1u)) {
  free_.reserve(slots_.size());
  for (uint32_t i = this->capacity(); i > 0; --i) free_.push_back(i - 1);
}

Tlb::Key Tlb::KeyOf(const TlbEntry& e) {
  return {AlignDown(e.address, TlbSpanLog2(e.granule_log2, e.level)),
          e.global ? uint16_t{0} : e.asid,
          e.global,
          e.leaf,
          e.stage,
          e.granule_log2,
          e.level};
}

uint32_t& Tlb::ShapeOf(Space& space, const TlbEntry& entry) {
  return space.shapes[GranuleIndex(entry.granule_log2)][entry.level];
}

void Tlb::Insert(const TlbEntry& entry) {
  const uint32_t space_id = SpaceId(entry.regime, entry.vmid);
  const Key key = KeyOf(entry);
  if (const auto space = spaces_.find(space_id); space != spaces_.end()) {
    if (const auto same = space->second.slots.find(key); same != space->second.slots.end()) {
      slots_[same->second].entry = entry;
      return;
    }
  }
  const uint32_t slot = FreeSlot();
  slots_[slot] = {entry, true};
  ++size_;
  Space& space = spaces_[space_id];
  space.slots.emplace(key, slot);
  ++ShapeOf(space, entry);
}

std::optional<TlbEntry> Tlb::Lookup(TlbRegime regime, TlbStage stage, uint16_t vmid, uint16_t asid,
                                    uint64_t address) const {
  return Find(regime, stage, vmid, asid, address, true);
}

std::optional<TlbEntry> Tlb::LookupTable(TlbRegime regime, TlbStage stage, uint16_t vmid, uint16_t asid,
                                         uint64_t address) const {
  return Find(regime, stage, vmid, asid, address, false);
}

std::optional<TlbEntry> Tlb::Find(TlbRegime regime, TlbStage stage, uint16_t vmid, uint16_t asid, uint64_t address,
                                  bool leaf) const {
  const auto space = spaces_.find(SpaceId(regime, vmid));
  if (space == spaces_.end()) return std::nullopt;
  for (uint8_t up = 0; up < 4; ++up) {
    const auto level = static_cast<uint8_t>(3 - up);
    for (const uint8_t granule : kGranules) {
      if (space->second.shapes[GranuleIndex(granule)][level] == 0) continue;
      for (const bool global : {false, true}) {
        const TlbEntry wanted{.stage = stage,
                              .asid = asid,
                              .global = global,
                              .leaf = leaf,
                              .granule_log2 = granule,
                              .level = level,
                              .address = address};
        const auto found = space->second.slots.find(KeyOf(wanted));
        if (found != space->second.slots.end()) return slots_[found->second].entry;
      }
    }
  }
  return std::nullopt;
}

uint32_t Tlb::FreeSlot() {
  if (free_.empty()) {
    Remove(hand_);
    hand_ = (hand_ + 1) % capacity();
  }
  const uint32_t slot = free_.back();
  free_.pop_back();
  return slot;
}

void Tlb::Remove(uint32_t slot) {
  const TlbEntry& entry = slots_[slot].entry;
  const auto space = spaces_.find(SpaceId(entry.regime, entry.vmid));
  space->second.slots.erase(KeyOf(entry));
  --ShapeOf(space->second, entry);
  if (space->second.slots.empty()) spaces_.erase(space);
  slots_[slot].used = false;
  free_.push_back(slot);
  --size_;
}

uint32_t Tlb::InvalidateSpace(Space& space, const TlbScope& scope) {
  uint32_t removed = 0;
  for (auto it = space.slots.begin(); it != space.slots.end();) {
    const uint32_t slot = it->second;
    if (!scope.Matches(slots_[slot].entry)) {
      ++it;
      continue;
    }
    --ShapeOf(space, slots_[slot].entry);
    space.slots.erase(it++);
    slots_[slot].used = false;
    free_.push_back(slot);
    --size_;
    ++removed;
  }
  return removed;
}

uint32_t Tlb::Invalidate(const TlbScope& scope) {
  uint32_t removed = 0;
  // Entries of EL2 have no VMID; they are all kept under VMID 0 as inserted, so that only a VMID in the scope narrows
  // the search.
  if (scope.regime == TlbRegime::kNsEl1 && scope.vmid.has_value()) {
    const auto space = spaces_.find(SpaceId(scope.regime, *scope.vmid));
    if (space == spaces_.end()) return 0;
    removed = InvalidateSpace(space->second, scope);
    if (space->second.slots.empty()) spaces_.erase(space);
    return removed;
  }
  for (auto it = spaces_.begin(); it != spaces_.end();) {
    removed += InvalidateSpace(it->second, scope);
    if (it->second.slots.empty()) {
      spaces_.erase(it++);
    } else {
      ++it;
    }
  }
  return removed;
}

}  // namespace viommu::smmuv3
