#include "agent/smmuv3/vsmmu/ste_update.h"

#include <bit>
#include <tuple>

namespace viommu::agent {
namespace {

using smmuv3::RawSte;
using smmuv3::SteConfig;
namespace ste = smmuv3::ste;

constexpr size_t kWords = std::tuple_size_v<decltype(RawSte::dw)>;

RawSte ReadAll(const SteSlot& slot) {
  RawSte entry;
  for (size_t i = 0; i < kWords; ++i) entry.dw[i] = slot.Read(i);
  return entry;
}

// Writes words [first, last) that differ, and syncs if there were any.
bool Set(SteSlot& slot, const RawSte& entry, size_t first, size_t last) {
  bool changed = false;
  for (size_t i = first; i < last; ++i) {
    if (slot.Read(i) == entry.dw[i]) continue;
    slot.Write(i, entry.dw[i]);
    changed = true;
  }
  if (changed) slot.Sync();
  return changed;
}

}  // namespace

RawSte UsedBits(const RawSte& entry) {
  RawSte used;
  used.dw[0] = ste::kValid.mask();
  if (!IsValid(entry)) return used;
  used.dw[0] |= ste::kConfig.mask();
  const auto config = ConfigOf(entry);
  const bool stage1 = config == SteConfig::kStage1 || config == SteConfig::kNested;
  const bool stage2 = config == SteConfig::kStage2 || config == SteConfig::kNested;
  const uint64_t overrides = ste::kMemAttr.mask() | ste::kMtCfg.mask() | ste::kAllocCfg.mask() | ste::kShCfg.mask() |
                             ste::kNsCfg.mask() | ste::kPrivCfg.mask() | ste::kInstCfg.mask();
  if (stage1 || stage2) {
    used.dw[1] |= ste::kEats.mask() | ste::kMev.mask() | ste::kDre.mask() | ste::kDcp.mask() | ste::kPpar.mask() |
                  ste::kCont.mask() | ste::kPrivCfg.mask() | ste::kInstCfg.mask();
    // Also of a stage 1 alone: it tags the entries of the TLB.
    used.dw[2] |= ste::kS2Vmid.mask();
  }
  if (stage1) {
    used.dw[0] |= ste::kS1Fmt.mask() | ste::kS1ContextPtr.mask() | ste::kS1CdMax.mask();
    used.dw[1] |= ste::kS1Dss.mask() | ste::kS1Cir.mask() | ste::kS1Cor.mask() | ste::kS1Csh.mask() |
                  ste::kS1Stalld.mask() | ste::kStrw.mask() | ste::kS1Mpam.mask();
    // Transactions that go around stage 1 have attributes from here.
    if (ste::kS1Dss.Get(entry.dw[1]) == static_cast<uint64_t>(smmuv3::S1Dss::kBypass)) used.dw[1] |= overrides;
  }
  if (stage2) {
    used.dw[1] |= overrides | ste::kS2Fwb.mask();
    used.dw[2] |= ste::kVtcr.mask() | ste::kS2Aa64.mask() | ste::kS2Endi.mask() | ste::kS2Affd.mask() |
                  ste::kS2Ptw.mask() | ste::kS2Hd.mask() | ste::kS2Ha.mask() | ste::kS2S.mask() | ste::kS2R.mask();
    used.dw[3] |= ste::kS2Ttb.mask();
  }
  if (config == SteConfig::kBypass) used.dw[1] |= overrides | ste::kMev.mask() | ste::kDre.mask() | ste::kDcp.mask();
  return used;
}

RawSte SafeBits(const RawSte& a, const RawSte& b) {
  RawSte safe;
  // The SMMU may merge events whatever it says there.
  safe.dw[1] |= ste::kMev.mask();
  const auto plain = [](const RawSte& entry) {
    return ste::kEats.Get(entry.dw[1]) <= smmuv3::kEatsTranslate && ste::kS2S.Get(entry.dw[2]) == 0;
  };
  if (plain(a) && plain(b)) safe.dw[1] |= ste::kEats.mask();
  return safe;
}

SteChange UpdateSte(SteSlot& slot, const RawSte& target) {
  const RawSte current = ReadAll(slot);
  if (current == target) return SteChange::kNone;
  const RawSte safe = SafeBits(current, target);
  RawSte current_used = UsedBits(current);
  for (size_t i = 0; i < kWords; ++i) current_used.dw[i] &= ~safe.dw[i];
  const RawSte target_used = UsedBits(target);

  // `prepared` has everything of the target that the SMMU does not go by yet, or that is safe. Words in which that is
  // not all of it are the ones that make the difference.
  RawSte prepared;
  uint32_t differing = 0;
  for (size_t i = 0; i < kWords; ++i) {
    prepared.dw[i] = (current.dw[i] & current_used.dw[i]) | (target.dw[i] & ~current_used.dw[i]);
    if ((prepared.dw[i] & target_used.dw[i]) != target.dw[i]) differing |= uint32_t{1} << i;
  }

  if (std::popcount(differing) == 1) {
    const auto critical = static_cast<size_t>(std::countr_zero(differing));
    // As it is: its spare bits come with the rest of it.
    prepared.dw[critical] = current.dw[critical];
    Set(slot, prepared, 0, kWords);
    Set(slot, target, critical, critical + 1);
    Set(slot, target, 0, kWords);
    return SteChange::kHitless;
  }
  if (differing == 0) {
    Set(slot, target, 0, kWords);
    return SteChange::kHitless;
  }
  prepared.dw[0] = 0;
  Set(slot, prepared, 0, 1);
  Set(slot, target, 1, kWords);
  Set(slot, target, 0, 1);
  return SteChange::kBreakThenMake;
}

}  // namespace viommu::agent
