#include "agent/smmuv3/emulator/caches.h"

#include <algorithm>

namespace viommu::smmuv3 {

Caches::Caches(uint32_t tlb_capacity, uint32_t config_capacity, uint32_t atc_capacity,
               std::optional<uint64_t> eviction_seed)
    : tlb_(std::max(tlb_capacity, 1u)),
      config_(std::max(config_capacity, 1u)),
      atc_(std::max(atc_capacity, 1u)),
      random_(eviction_seed) {}

bool Caches::MayFill(const CacheEpoch& since) {
  if (since.smmu == epoch_.smmu) return true;
  ++fills_dropped_;
  return false;
}

bool Caches::MayFillAtc(const CacheEpoch& since) {
  if (since.atc == epoch_.atc) return true;
  ++fills_dropped_;
  return false;
}

void Caches::Invalidate(const Command& command, bool ds) {
  switch (command.opcode) {
    case Opcode::kCfgiSte:
    case Opcode::kCfgiSteRange:
    case Opcode::kCfgiCd:
    case Opcode::kCfgiCdAll:
      config_.Invalidate(command);
      ++epoch_.smmu;
      return;
    case Opcode::kAtcInv:
      atc_.Invalidate(command);
      ++epoch_.atc;
      return;
    default:
      break;
  }
  if (const std::optional<TlbScope> scope = TlbScopeOf(command, ds); scope.has_value()) {
    tlb_.Invalidate(*scope);
    ++epoch_.smmu;
  }
}

// SplitMix64 (Steele, Lea, Flood 2014).
uint64_t Caches::Random() {
  uint64_t z = *random_ += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

void Caches::MaybeEvict() {
  if (!random_.has_value()) return;
  const uint64_t random = Random();
  // Each kind about every eighth time; a place of the TLB may be empty, hence several.
  if ((random & 7) == 0) {
    for (int i = 0; i < 64; ++i) tlb_.Evict(Random());
  }
  if ((random & 0x70) == 0) config_.Evict(Random());
  if ((random & 0x700) == 0) atc_.Evict(Random());
}

}  // namespace viommu::smmuv3
