#include "agent/smmuv3/emulator/config_fetch.h"

#include <algorithm>

#include "agent/smmuv3/emulator/config_checks.h"
#include "agent/smmuv3/spec/registers.h"

namespace viommu::smmuv3 {
namespace {

constexpr uint64_t kTwoLevel = 1;  // STRTAB_BASE_CFG.FMT
constexpr uint64_t kMinTableBytes = 64;

constexpr uint64_t AlignDown(uint64_t address, uint64_t bytes) { return address & ~(bytes - 1); }

template <typename Raw>
Fetched<Raw> Failed(ReadResult result, uint64_t address) {
  return {result == ReadResult::kAbort ? FetchError::kAbort : FetchError::kFault, address, {}};
}

template <typename Raw>
Fetched<Raw> OutOfRange() {
  return {FetchError::kOutOfRange, 0, {}};
}

// SMMU_STRTAB_BASE_CFG.SPLIT: reserved values behave as the smallest (6.3.25).
uint32_t SplitOf(const StreamTable& table) {
  const auto split = static_cast<uint32_t>(strtab_base_cfg::kSplit.Get(table.cfg));
  return split == 8 || split == 10 ? split : 6;
}

bool IsTwoLevel(const StreamTable& table, const Features& features) {
  return features.two_level_st && strtab_base_cfg::kFmt.Get(table.cfg) == kTwoLevel;
}

// The base of a table with 2^log2_count entries; the SMMU aligns it to its size (6.3.24).
uint64_t TableBase(uint64_t base, uint32_t entry_bytes, uint32_t log2_count) {
  return AlignDown(base, std::max<uint64_t>(uint64_t{entry_bytes} << log2_count, kMinTableBytes));
}

}  // namespace

bool IsInStreamTable(const StreamTable& table, const Features& features, uint32_t sid) {
  const auto log2_size = static_cast<uint32_t>(strtab_base_cfg::kLog2Size.Get(table.cfg));
  return (uint64_t{sid} >> std::min(log2_size, features.sid_bits)) == 0;
}

Fetched<RawSte> FetchSte(const StreamTable& table, const Features& features, uint32_t sid,
                         const Level1Cache<SteL1>& cache, WordReader read) {
  if (!IsInStreamTable(table, features, sid)) return OutOfRange<RawSte>();
  // Not limited by SIDSIZE here: the alignment goes by what is written (6.3.24).
  const auto log2_size = std::min<uint32_t>(static_cast<uint32_t>(strtab_base_cfg::kLog2Size.Get(table.cfg)), 32);
  const uint64_t base = table.base & strtab_base::kAddr.mask();
  uint64_t entry = 0;
  if (IsTwoLevel(table, features)) {
    const uint32_t split = SplitOf(table);
    std::optional<SteL1> l1 = cache.lookup(sid, split);
    if (!l1.has_value()) {
      const uint32_t l1_log2 = log2_size > split ? log2_size - split : 0;
      const uint64_t place = TableBase(base, kSteL1Bytes, l1_log2) + uint64_t{sid >> split} * kSteL1Bytes;
      uint64_t word = 0;
      if (const ReadResult result = read(place, {&word, 1}); result != ReadResult::kDone) {
        return Failed<RawSte>(result, place);
      }
      l1 = DecodeSteL1(word);
      if (l1->span != 0) cache.insert(sid, split, *l1);
    }
    if (l1->span == 0 || l1->span > split + 1) return OutOfRange<RawSte>();
    const uint32_t index = sid & ((uint32_t{1} << split) - 1);
    const uint32_t span_log2 = l1->span - 1u;
    if ((index >> span_log2) != 0) return OutOfRange<RawSte>();
    entry = TableBase(l1->l2_ptr, kSteBytes, span_log2) + uint64_t{index} * kSteBytes;
  } else {
    entry = TableBase(base, kSteBytes, log2_size) + uint64_t{sid} * kSteBytes;
  }
  Fetched<RawSte> fetched;
  fetched.address = entry;
  const ReadResult result = read(entry, fetched.raw.dw);
  return result == ReadResult::kDone ? fetched : Failed<RawSte>(result, entry);
}

Fetched<RawCd> FetchCd(const Ste& ste, const Features& features, uint32_t index, const Level1Cache<CdL1>& cache,
                       WordReader read) {
  uint64_t place = 0;
  const bool two_level = ste.s1_fmt == S1Fmt::kTwoLevel4k || ste.s1_fmt == S1Fmt::kTwoLevel64k;
  if (!HasSubstreams(ste, features)) {
    place = ste.s1_context_ptr;
  } else if (two_level) {
    const uint32_t split = ste.s1_fmt == S1Fmt::kTwoLevel4k ? kCdsPerLeaf4kLog2 : kCdsPerLeaf64kLog2;
    std::optional<CdL1> l1 = cache.lookup(index, split);
    if (!l1.has_value()) {
      const uint32_t l1_log2 = ste.s1_cd_max > split ? ste.s1_cd_max - split : 0;
      const uint64_t l1_place =
          TableBase(ste.s1_context_ptr, kCdL1Bytes, l1_log2) + uint64_t{index >> split} * kCdL1Bytes;
      uint64_t word = 0;
      if (const ReadResult result = read(l1_place, {&word, 1}); result != ReadResult::kDone) {
        return Failed<RawCd>(result, l1_place);
      }
      l1 = DecodeCdL1(word);
      cache.insert(index, split, *l1);
    }
    const bool too_wide = !HasStage2(ste) && (l1->l2_ptr >> features.oas_bits) != 0;
    if (!l1->valid || too_wide) return OutOfRange<RawCd>();
    place = TableBase(l1->l2_ptr, kCdBytes, split) + uint64_t{index & ((uint32_t{1} << split) - 1)} * kCdBytes;
  } else {
    place = TableBase(ste.s1_context_ptr, kCdBytes, ste.s1_cd_max) + uint64_t{index} * kCdBytes;
  }
  Fetched<RawCd> fetched;
  fetched.address = place;
  const ReadResult result = read(place, fetched.raw);
  return result == ReadResult::kDone ? fetched : Failed<RawCd>(result, place);
}

}  // namespace viommu::smmuv3
