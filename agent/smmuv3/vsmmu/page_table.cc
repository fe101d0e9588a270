#include "agent/smmuv3/vsmmu/page_table.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>

namespace viommu::agent {
namespace {

using smmuv3::DescriptorKind;
using smmuv3::Granule;
using smmuv3::kLastLevel;

// Normal memory, write-back, in both of stage 2's codings; and the byte of kHostMair that is write-back.
constexpr uint8_t kS2WriteBack = 0xf;
constexpr uint8_t kS2ForcedWriteBack = 0x6;
constexpr uint8_t kMairWriteBack = 0;
constexpr uint8_t kInnerShareable = 3;

uint64_t Load(const uint64_t* word) {
  return std::atomic_ref<uint64_t>(*const_cast<uint64_t*>(word)).load(std::memory_order_relaxed);
}

// What was written before, a table's contents, is there for whoever sees this.
void Store(uint64_t* word, uint64_t value) { std::atomic_ref<uint64_t>(*word).store(value, std::memory_order_release); }

DescriptorKind Kind(uint64_t descriptor, Granule granule, uint32_t level) {
  return smmuv3::KindOf(descriptor, granule, level, /*wide=*/false);
}

bool IsLeaf(DescriptorKind kind) { return kind == DescriptorKind::kBlock || kind == DescriptorKind::kPage; }

}  // namespace

TableFormat TableFormatFor(const smmuv3::Features& features, bool stage2) {
  TableFormat format;
  format.stage2 = stage2;
  format.granule = features.gran4k ? Granule::k4k : features.gran16k ? Granule::k16k : Granule::k64k;
  format.address_bits = std::clamp(features.oas_bits, 32u, 48u);
  format.fwb = stage2 && features.fwb;
  return format;
}

bool CanRead(const smmuv3::Features& features, const TableFormat& format) {
  if (format.stage2 ? !features.stage2 : !features.stage1) return false;
  if (format.fwb && !features.fwb) return false;
  if (format.address_bits > features.oas_bits) return false;
  switch (format.granule) {
    case Granule::k4k:
      return features.gran4k;
    case Granule::k16k:
      return features.gran16k;
    case Granule::k64k:
      return features.gran64k;
    case Granule::kReserved:
      break;
  }
  return false;
}

PageTable::PageTable(const TableFormat& format, HostMemory* memory) : format_(format), memory_(memory) {
  start_level_ = format.stage2 ? smmuv3::Stage2DeepestStart(format.granule, format.address_bits)
                               : smmuv3::Stage1Start(format.granule, format.address_bits);
  // A first table that is not used to its end is smaller, but never below a page: SMMUs want them aligned, no more.
  const uint32_t entries_log2 = format.address_bits - Shift(start_level_);
  root_log2_ = std::max(entries_log2 + 3, smmuv3::GranuleLog2(format.granule));
}

std::unique_ptr<PageTable> PageTable::Create(const TableFormat& format, HostMemory* memory) {
  std::unique_ptr<PageTable> table(new PageTable(format, memory));
  const std::optional<uint64_t> root = memory->Allocate(table->root_log2_);
  if (!root.has_value()) {
    table->Abandon();
    return nullptr;
  }
  table->root_ = *root;
  return table;
}

PageTable::~PageTable() {
  if (abandoned_) return;
  FreeTree(root_, start_level_);
}

uint64_t PageTable::Entries(uint32_t level) const {
  return uint64_t{1} << (level == start_level_ ? format_.address_bits - Shift(level)
                                               : smmuv3::LevelBits(format_.granule));
}

void PageTable::FreeTree(uint64_t table, uint32_t level) {
  if (level < kLastLevel) {
    const uint64_t* words = memory_->Words(table);
    for (uint64_t i = 0; i < Entries(level); ++i) {
      const uint64_t descriptor = Load(words + i);
      if (Kind(descriptor, format_.granule, level) != DescriptorKind::kTable) continue;
      FreeTree(smmuv3::NextTableOf(descriptor, format_.granule), level + 1);
    }
  }
  memory_->Free(table, level == start_level_ ? root_log2_ : smmuv3::GranuleLog2(format_.granule));
}

// ---- Descriptors ----

bool PageTable::FitsLeaf(uint32_t level, uint64_t input, uint64_t output, uint64_t length) const {
  if (level != kLastLevel && !smmuv3::BlocksAllowed(format_.granule, level, /*wide=*/false)) return false;
  const uint64_t span = uint64_t{1} << Shift(level);
  return length >= span && ((input | output) & (span - 1)) == 0;
}

uint64_t PageTable::Leaf(uint32_t level, uint64_t output, Rights rights) const {
  if (format_.stage2) {
    const auto access =
        static_cast<uint8_t>((rights.readable ? smmuv3::kS2ApRead : 0) | (rights.writable ? smmuv3::kS2ApWrite : 0));
    const smmuv3::Stage2Leaf leaf = {
        .mem_attr = format_.fwb ? kS2ForcedWriteBack : kS2WriteBack, .s2ap = access, .sh = kInnerShareable, .af = true};
    return smmuv3::EncodeStage2Leaf(leaf, output, format_.granule, level);
  }
  const auto access = static_cast<uint8_t>(smmuv3::kApUnprivileged | (rights.writable ? 0 : smmuv3::kApReadOnly));
  const smmuv3::Stage1Leaf leaf = {
      .attr_indx = kMairWriteBack, .ap = access, .sh = kInnerShareable, .af = true, .ng = true};
  return smmuv3::EncodeStage1Leaf(leaf, output, format_.granule, level);
}

PageTable::Rights PageTable::RightsOf(uint64_t descriptor) const {
  if (!format_.stage2) return {true, (smmuv3::DecodeStage1Leaf(descriptor).ap & smmuv3::kApReadOnly) == 0};
  const uint8_t access = smmuv3::DecodeStage2Leaf(descriptor).s2ap;
  return {(access & smmuv3::kS2ApRead) != 0, (access & smmuv3::kS2ApWrite) != 0};
}

// ---- Map ----

// `table` 0: one that does not exist yet.
uint64_t PageTable::TablesNeeded(uint64_t table, uint32_t level, uint64_t input, uint64_t output,
                                 uint64_t length) const {
  const uint64_t span = uint64_t{1} << Shift(level);
  const uint64_t* words = table == 0 ? nullptr : memory_->Words(table);
  uint64_t needed = 0;
  while (length > 0) {
    const uint64_t piece = std::min(length, span - (input & (span - 1)));
    const uint64_t index = (input >> Shift(level)) & (Entries(level) - 1);
    const uint64_t descriptor = words == nullptr ? 0 : Load(words + index);
    const DescriptorKind kind = Kind(descriptor, format_.granule, level);
    if (IsLeaf(kind)) std::abort();  // mapped already
    if (kind == DescriptorKind::kTable) {
      needed += TablesNeeded(smmuv3::NextTableOf(descriptor, format_.granule), level + 1, input, output, piece);
    } else if (!FitsLeaf(level, input, output, piece)) {
      needed += 1 + TablesNeeded(0, level + 1, input, output, piece);
    }
    input += piece;
    output += piece;
    length -= piece;
  }
  return needed;
}

void PageTable::Fill(uint64_t table, uint32_t level, uint64_t input, uint64_t output, uint64_t length, Rights rights,
                     std::vector<uint64_t>& spare) {
  const uint64_t span = uint64_t{1} << Shift(level);
  uint64_t* words = memory_->Words(table);
  while (length > 0) {
    const uint64_t piece = std::min(length, span - (input & (span - 1)));
    uint64_t* word = words + ((input >> Shift(level)) & (Entries(level) - 1));
    const uint64_t descriptor = Load(word);
    if (Kind(descriptor, format_.granule, level) == DescriptorKind::kTable) {
      Fill(smmuv3::NextTableOf(descriptor, format_.granule), level + 1, input, output, piece, rights, spare);
    } else if (FitsLeaf(level, input, output, piece)) {
      Store(word, Leaf(level, output, rights));
    } else {
      const uint64_t next = spare.back();
      spare.pop_back();
      Fill(next, level + 1, input, output, piece, rights, spare);
      Store(word, smmuv3::EncodeTable(next, format_.granule));
    }
    input += piece;
    output += piece;
    length -= piece;
  }
}

bool PageTable::Map(uint64_t input, uint64_t output, uint64_t length, bool readable, bool writable) {
  const uint64_t end = uint64_t{1} << format_.address_bits;
  if (((input | output | length) & (page_bytes() - 1)) != 0 || length > end) std::abort();
  if (input > end - length || output > end - length || !(readable || writable)) std::abort();
  // All tables before the first change, so that nothing has to be undone under the SMMUs' eyes.
  std::vector<uint64_t> spare(TablesNeeded(root_, start_level_, input, output, length));
  for (size_t i = 0; i < spare.size(); ++i) {
    const std::optional<uint64_t> table = memory_->Allocate(smmuv3::GranuleLog2(format_.granule));
    if (!table.has_value()) {
      while (i > 0) memory_->Free(spare[--i], smmuv3::GranuleLog2(format_.granule));
      return false;
    }
    spare[i] = *table;
  }
  Fill(root_, start_level_, input, output, length, {readable, writable}, spare);
  return true;
}

// ---- Unmap ----

bool PageTable::FindCut(uint64_t input, uint64_t* slot, uint32_t* level) const {
  uint64_t table = root_;
  for (*level = start_level_;; ++*level) {
    // At a boundary of this level nothing of it, or below it, is cut.
    if ((input & ((uint64_t{1} << Shift(*level)) - 1)) == 0) return false;
    const uint64_t index = (input >> Shift(*level)) & (Entries(*level) - 1);
    const uint64_t descriptor = Load(memory_->Words(table) + index);
    *slot = table + index * smmuv3::kDescriptorBytes;
    switch (Kind(descriptor, format_.granule, *level)) {
      case DescriptorKind::kInvalid:
        return false;
      case DescriptorKind::kBlock:
      case DescriptorKind::kPage:
        return true;
      case DescriptorKind::kTable:
        table = smmuv3::NextTableOf(descriptor, format_.granule);
    }
  }
}

bool PageTable::PrepareSplit(uint64_t slot, uint32_t level, uint64_t base, Range gone, std::vector<Split>& splits) {
  const uint64_t descriptor = Load(memory_->Words(slot));
  const Rights rights = RightsOf(descriptor);
  const uint64_t output = smmuv3::OutputOf(descriptor, format_.granule, level);
  const uint64_t end = base + (uint64_t{1} << Shift(level));
  // What stays, before and behind.
  const Range kept[] = {{base, std::max(base, gone.begin)}, {std::min(end, gone.end), end}};
  uint64_t needed = 1;
  // Both may lie below one table of the next level: this counts it twice, and what is left over is freed.
  for (const Range& range : kept) {
    needed += TablesNeeded(0, level + 1, range.begin, output + (range.begin - base), range.end - range.begin);
  }
  std::vector<uint64_t> spare;
  while (spare.size() < needed) {
    const std::optional<uint64_t> table = memory_->Allocate(smmuv3::GranuleLog2(format_.granule));
    if (!table.has_value()) {
      for (const uint64_t allocated : spare) memory_->Free(allocated, smmuv3::GranuleLog2(format_.granule));
      return false;
    }
    spare.push_back(*table);
  }
  const uint64_t next = spare.back();
  spare.pop_back();
  for (const Range& range : kept) {
    Fill(next, level + 1, range.begin, output + (range.begin - base), range.end - range.begin, rights, spare);
  }
  for (const uint64_t left : spare) memory_->Free(left, smmuv3::GranuleLog2(format_.granule));
  splits.push_back({slot, next, level + 1});
  return true;
}

bool PageTable::Clear(uint64_t table, uint32_t level, uint64_t base, Range range, const std::vector<Split>& splits,
                      std::vector<uint64_t>& dead, Range& touched) {
  const uint64_t span = uint64_t{1} << Shift(level);
  uint64_t* words = memory_->Words(table);
  const uint64_t first = range.begin <= base ? 0 : (range.begin - base) >> Shift(level);
  bool split = false;
  for (uint64_t i = first; i < Entries(level) && base + i * span < range.end; ++i) {
    const uint64_t descriptor = Load(words + i);
    const DescriptorKind kind = Kind(descriptor, format_.granule, level);
    if (kind == DescriptorKind::kInvalid) continue;
    const uint64_t begin = base + i * span;
    if (kind == DescriptorKind::kTable) {
      const uint64_t next = smmuv3::NextTableOf(descriptor, format_.granule);
      if (!Clear(next, level + 1, begin, range, splits, dead, touched)) continue;
      dead.push_back(next);
    } else {
      const uint64_t slot = table + i * smmuv3::kDescriptorBytes;
      split |= std::any_of(splits.begin(), splits.end(), [&](const Split& s) { return s.slot == slot; });
    }
    Store(words + i, 0);
    touched.begin = std::min(touched.begin, begin);
    touched.end = std::max(touched.end, begin + span);
  }
  if (split) return false;
  return std::all_of(words, words + Entries(level), [](const uint64_t& word) { return Load(&word) == 0; });
}

bool PageTable::Unmap(uint64_t input, uint64_t length, Invalidate invalidate) {
  if (length == 0) return true;
  const Range range = {input, input + length};
  std::vector<Split> splits;
  for (const uint64_t edge : {range.begin, range.end}) {
    uint64_t slot = 0;
    uint32_t level = 0;
    if (edge >> format_.address_bits != 0 || !FindCut(edge, &slot, &level)) continue;
    if (!splits.empty() && splits.front().slot == slot) continue;  // both edges in one block
    const uint64_t base = edge & ~((uint64_t{1} << Shift(level)) - 1);
    if (PrepareSplit(slot, level, base, range, splits)) continue;
    if (!splits.empty()) FreeTree(splits.front().table, splits.front().level);
    return false;
  }
  std::vector<uint64_t> dead;
  Range touched = {~uint64_t{0}, 0};
  Clear(root_, start_level_, 0, range, splits, dead, touched);
  if (touched.begin > touched.end) return true;
  const bool confirmed = invalidate(touched.begin, touched.end - touched.begin);
  for (const Split& split : splits)
    Store(memory_->Words(split.slot), smmuv3::EncodeTable(split.table, format_.granule));
  // Without the SMMUs' word for it they may still be walking these: better lost than used for something else.
  if (confirmed) {
    for (const uint64_t table : dead) memory_->Free(table, smmuv3::GranuleLog2(format_.granule));
  }
  return true;
}

std::optional<PageTable::Mapping> PageTable::Lookup(uint64_t input) const {
  if (input >> format_.address_bits != 0) return std::nullopt;
  uint64_t table = root_;
  for (uint32_t level = start_level_;; ++level) {
    const uint64_t index = (input >> Shift(level)) & (Entries(level) - 1);
    const uint64_t descriptor = Load(memory_->Words(table) + index);
    const DescriptorKind kind = Kind(descriptor, format_.granule, level);
    if (kind == DescriptorKind::kInvalid) return std::nullopt;
    if (kind == DescriptorKind::kTable) {
      table = smmuv3::NextTableOf(descriptor, format_.granule);
      continue;
    }
    const Rights rights = RightsOf(descriptor);
    const uint64_t inside = input & ((uint64_t{1} << Shift(level)) - 1);
    return Mapping{smmuv3::OutputOf(descriptor, format_.granule, level) + inside, Shift(level), rights.readable,
                   rights.writable};
  }
}

}  // namespace viommu::agent
