#include "agent/smmuv3/emulator/tlb.h"

#include <algorithm>
#include <utility>

namespace viommu::smmuv3 {
namespace {

// CMD_TLBI_*.TG (4.4.1.1).
constexpr uint8_t kGranuleOfTg[] = {0, 12, 14, 16};
// Largest SCALE that means something (4.4.1.1).
constexpr uint8_t kMaxScale = 39;
constexpr uint64_t kPageMask = 0xfff;

uint64_t AlignDown(uint64_t address, uint32_t log2) { return log2 >= 64 ? 0 : address >> log2 << log2; }

// The address, range and level part of a command by address.
void SetAddress(const Command& c, bool ds, TlbScope& scope) {
  scope.by_address = true;
  scope.first = c.opcode == Opcode::kTlbiS2Ipa ? c.address : WithoutTopByte(c.address);
  scope.last = scope.first | kPageMask;
  scope.leaf_only = c.leaf;
  if (c.tg == 0) return;
  scope.granule_log2 = kGranuleOfTg[c.tg];
  // The range begins with a whole granule (4.4.1.1).
  scope.first = AlignDown(scope.first, scope.granule_log2);
  // Level 1 of 16 KiB tables has blocks with 52-bit addresses only; else the hint is not one (4.4.1.1).
  const bool no_such_level = c.tg == 2 && c.ttl == 1 && !ds;
  scope.leaf_level = no_such_level ? 0 : c.ttl;
  const uint32_t shift = std::min(c.scale, kMaxScale) + scope.granule_log2;
  const uint64_t bytes = (uint64_t{c.num} + 1) << shift;
  // A range does not wrap at the end of the address space; NUM has 5 bits, so that up to 58 no bit falls off.
  const bool beyond_end = shift > 58 || scope.first + (bytes - 1) < scope.first;
  scope.last = beyond_end ? ~uint64_t{0} : scope.first + (bytes - 1);
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
  const uint64_t begin = AlignDown(entry.address, entry.scope_log2);
  const uint64_t end = begin + ((uint64_t{1} << entry.scope_log2) - 1);
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

Tlb::Shape Tlb::ShapeOf(const TlbEntry& e) {
  return {e.stage, e.leaf, e.granule_log2, e.level, e.lookup_log2, e.scope_log2};
}

Tlb::Key Tlb::KeyOf(const Shape& shape, uint64_t address) {
  return {AlignDown(address, shape.lookup_log2), shape.Packed()};
}

void Tlb::Insert(const TlbEntry& entry) {
  const uint32_t vm_id = VmId(entry.regime, entry.vmid);
  const Shape shape = ShapeOf(entry);
  const Key key = KeyOf(shape, entry.address);
  if (const auto vm = vms_.find(vm_id); vm != vms_.end()) {
    if (const auto space = vm->second.find(SpaceId(entry)); space != vm->second.end()) {
      if (const auto same = space->second.slots.find(key); same != space->second.slots.end()) {
        slots_[same->second].entry = entry;
        return;
      }
    }
  }
  // This may take the last entry of a space, or of a VM, away.
  const uint32_t slot = FreeSlot();
  slots_[slot] = {entry, true};
  ++size_;
  Space& space = vms_[vm_id][SpaceId(entry)];
  space.slots.emplace(key, slot);
  const auto counted =
      std::find_if(space.shapes.begin(), space.shapes.end(), [&](const CountedShape& c) { return c.shape == shape; });
  if (counted != space.shapes.end()) {
    ++counted->count;
    return;
  }
  const auto shallower = std::find_if(space.shapes.begin(), space.shapes.end(),
                                      [&](const CountedShape& c) { return c.shape.level < shape.level; });
  space.shapes.insert(shallower, {shape, 1});
}

const TlbEntry* Tlb::Lookup(const TlbTag& tag, uint64_t address) const { return Find(tag, address, true); }

const TlbEntry* Tlb::LookupTable(const TlbTag& tag, uint64_t address) const { return Find(tag, address, false); }

const TlbEntry* Tlb::Find(const TlbTag& tag, uint64_t address, bool leaf) const {
  const auto vm = vms_.find(VmId(tag.regime, tag.vmid));
  if (vm == vms_.end()) return nullptr;
  const TlbEntry* best = nullptr;
  for (const bool global : {false, true}) {
    const auto space = vm->second.find(SpaceId(tag.stage, tag.asid, tag.aset, global));
    if (space == vm->second.end()) continue;
    for (const CountedShape& counted : space->second.shapes) {
      if (counted.shape.leaf != leaf) continue;
      if (best != nullptr && counted.shape.level <= best->level) break;
      const auto found = space->second.slots.find(KeyOf(counted.shape, address));
      if (found == space->second.slots.end()) continue;
      best = &slots_[found->second].entry;
      break;
    }
    if (tag.stage == TlbStage::kStage2Only) break;  // one space
  }
  return best;
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

void Tlb::Release(Space& space, uint32_t slot) {
  const Shape shape = ShapeOf(slots_[slot].entry);
  const auto counted =
      std::find_if(space.shapes.begin(), space.shapes.end(), [&](const CountedShape& c) { return c.shape == shape; });
  if (--counted->count == 0) space.shapes.erase(counted);
  slots_[slot].used = false;
  free_.push_back(slot);
  --size_;
}

void Tlb::Remove(uint32_t slot) {
  const TlbEntry& entry = slots_[slot].entry;
  const auto vm = vms_.find(VmId(entry.regime, entry.vmid));
  const auto space = vm->second.find(SpaceId(entry));
  space->second.slots.erase(KeyOf(ShapeOf(entry), entry.address));
  Release(space->second, slot);
  if (!space->second.slots.empty()) return;
  vm->second.erase(space);
  if (vm->second.empty()) vms_.erase(vm);
}

void Tlb::Evict(uint64_t number) {
  const auto slot = static_cast<uint32_t>(number % capacity());
  if (slots_[slot].used) Remove(slot);
}

uint32_t Tlb::RemoveIfMatching(Space& space, const Key& key, const TlbScope& scope) {
  const auto found = space.slots.find(key);
  if (found == space.slots.end() || !scope.Matches(slots_[found->second].entry)) return 0;
  const uint32_t slot = found->second;
  space.slots.erase(found);
  Release(space, slot);
  return 1;
}

uint32_t Tlb::InvalidateSpace(Space& space, const TlbScope& scope) {
  // Few addresses: ask for each place where a match may be.
  if (scope.by_address) {
    std::vector<CountedShape>& shapes = space.shapes;
    const auto places = [&](const Shape& shape) {
      const uint64_t first = AlignDown(scope.first, shape.scope_log2) >> shape.lookup_log2;
      const uint64_t last = (scope.last | ((uint64_t{1} << shape.scope_log2) - 1)) >> shape.lookup_log2;
      return std::pair(first, last);
    };
    uint64_t probes = 0;
    for (const CountedShape& counted : shapes) {
      const auto [first, last] = places(counted.shape);
      probes += std::min<uint64_t>(last - first, space.slots.size());
    }
    if (probes < space.slots.size()) {
      uint32_t removed = 0;
      // Backwards: a shape disappears with its last entry, and those behind it move up.
      for (size_t i = shapes.size(); i > 0; --i) {
        const Shape shape = shapes[i - 1].shape;
        const auto [first, last] = places(shape);
        for (uint64_t place = first;; ++place) {
          removed += RemoveIfMatching(space, KeyOf(shape, place << shape.lookup_log2), scope);
          if (place == last) break;
        }
      }
      return removed;
    }
  }
  uint32_t removed = 0;
  for (auto it = space.slots.begin(); it != space.slots.end();) {
    const uint32_t slot = it->second;
    if (!scope.Matches(slots_[slot].entry)) {
      ++it;
      continue;
    }
    space.slots.erase(it++);
    Release(space, slot);
    ++removed;
  }
  return removed;
}

uint32_t Tlb::InvalidateVm(Vm& vm, const TlbScope& scope) {
  uint32_t removed = 0;
  if (!scope.asid.has_value()) {
    for (auto space = vm.begin(); space != vm.end();) {
      removed += InvalidateSpace(space->second, scope);
      if (space->second.slots.empty()) {
        vm.erase(space++);
      } else {
        ++space;
      }
    }
    return removed;
  }
  for (const bool global : {false, true}) {
    if (global && !scope.global_too) break;
    for (const bool aset : {false, true}) {
      const auto space = vm.find(SpaceId(TlbStage::kStage1, *scope.asid, aset, global));
      if (space == vm.end()) continue;
      removed += InvalidateSpace(space->second, scope);
      if (space->second.slots.empty()) vm.erase(space);
    }
  }
  return removed;
}

uint32_t Tlb::Invalidate(const TlbScope& scope) {
  if (scope.regime == TlbRegime::kNsEl2 || scope.vmid.has_value()) {
    const auto vm = vms_.find(VmId(scope.regime, scope.vmid.value_or(0)));
    if (vm == vms_.end()) return 0;
    const uint32_t removed = InvalidateVm(vm->second, scope);
    if (vm->second.empty()) vms_.erase(vm);
    return removed;
  }
  uint32_t removed = 0;
  for (auto vm = vms_.begin(); vm != vms_.end();) {
    if (RegimeOf(vm->first) == scope.regime) removed += InvalidateVm(vm->second, scope);
    if (vm->second.empty()) {
      vms_.erase(vm++);
    } else {
      ++vm;
    }
  }
  return removed;
}

}  // namespace viommu::smmuv3
