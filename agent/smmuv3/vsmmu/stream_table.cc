#include "agent/smmuv3/vsmmu/stream_table.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <optional>

#include "agent/smmuv3/spec/registers.h"

namespace viommu::agent {
namespace {

constexpr uint32_t kSteLog2 = 6;
constexpr uint32_t kL1Log2 = 3;
constexpr uint32_t kLeafBytesLog2 = StreamTable::kLeafLog2 + kSteLog2;

uint64_t Load(uint64_t* word) { return std::atomic_ref<uint64_t>(*word).load(std::memory_order_relaxed); }
void Store(uint64_t* word, uint64_t value) { std::atomic_ref<uint64_t>(*word).store(value, std::memory_order_release); }

class MemorySlot final : public SteSlot {
 public:
  MemorySlot(uint64_t* words, absl::FunctionRef<void()> sync) : words_(words), sync_(sync) {}
  uint64_t Read(size_t word) const override { return Load(words_ + word); }
  void Write(size_t word, uint64_t value) override { Store(words_ + word, value); }
  void Sync() override { sync_(); }

 private:
  uint64_t* const words_;
  const absl::FunctionRef<void()> sync_;
};

}  // namespace

StreamTable::StreamTable(HostMemory* memory, bool two_level, uint32_t log2_size)
    : memory_(memory), two_level_(two_level), log2_size_(log2_size) {
  table_log2_ = two_level ? log2_size - kLeafLog2 + kL1Log2 : log2_size + kSteLog2;
}

std::unique_ptr<StreamTable> StreamTable::Create(const smmuv3::Features& features, HostMemory* memory) {
  // A table of one leaf needs no first level.
  const bool two_level = features.two_level_st && features.sid_bits > kLeafLog2;
  const uint32_t limit = two_level ? kMaxL1Log2 + kLeafLog2 : kMaxLinearLog2;
  std::unique_ptr<StreamTable> table(new StreamTable(memory, two_level, std::min(features.sid_bits, limit)));
  const std::optional<uint64_t> base = memory->Allocate(table->table_log2_);
  if (!base.has_value()) return nullptr;
  table->base_ = *base;
  if (!two_level) table->FillWithAbort(*base, uint64_t{1} << table->log2_size_);
  return table;
}

StreamTable::~StreamTable() {
  if (base_ == 0) return;
  for (const uint64_t leaf : leaves_) memory_->Free(leaf, kLeafBytesLog2);
  memory_->Free(base_, table_log2_);
}

uint32_t StreamTable::base_cfg() const {
  namespace cfg = smmuv3::strtab_base_cfg;
  uint64_t value = cfg::kLog2Size.Set(0, log2_size_);
  if (two_level_) value = cfg::kFmt.Set(cfg::kSplit.Set(value, kLeafLog2), 1);
  return static_cast<uint32_t>(value);
}

void StreamTable::FillWithAbort(uint64_t address, uint64_t entries) {
  const smmuv3::RawSte abort = smmuv3::MakeAbortSte();
  uint64_t* words = memory_->Words(address);
  for (uint64_t i = 0; i < entries; ++i) Store(words + i * abort.dw.size(), abort.dw[0]);
}

uint64_t StreamTable::AddressOf(uint32_t sid) const {
  if (!InRange(sid)) return 0;
  if (!two_level_) return base_ + (uint64_t{sid} << kSteLog2);
  const smmuv3::SteL1 l1 = smmuv3::DecodeSteL1(Load(memory_->Words(base_) + (sid >> kLeafLog2)));
  if (l1.span == 0) return 0;
  return l1.l2_ptr + (uint64_t{sid} % (1u << kLeafLog2) << kSteLog2);
}

bool StreamTable::Reserve(uint32_t sid) {
  if (!InRange(sid)) std::abort();
  if (AddressOf(sid) != 0) return true;
  const std::optional<uint64_t> leaf = memory_->Allocate(kLeafBytesLog2);
  if (!leaf.has_value()) return false;
  FillWithAbort(*leaf, uint64_t{1} << kLeafLog2);
  leaves_.push_back(*leaf);
  // The SMMU does not remember that there was no table, so it need not be told.
  Store(memory_->Words(base_) + (sid >> kLeafLog2), smmuv3::EncodeSteL1({.span = kLeafLog2 + 1, .l2_ptr = *leaf}));
  return true;
}

smmuv3::RawSte StreamTable::Read(uint32_t sid) const {
  const uint64_t address = AddressOf(sid);
  if (address == 0) return smmuv3::MakeAbortSte();
  smmuv3::RawSte entry;
  uint64_t* words = memory_->Words(address);
  for (size_t i = 0; i < entry.dw.size(); ++i) entry.dw[i] = Load(words + i);
  return entry;
}

SteChange StreamTable::Write(uint32_t sid, const smmuv3::RawSte& entry, absl::FunctionRef<void()> sync) {
  const uint64_t address = AddressOf(sid);
  if (address == 0) std::abort();
  MemorySlot slot(memory_->Words(address), sync);
  return UpdateSte(slot, entry);
}

}  // namespace viommu::agent
