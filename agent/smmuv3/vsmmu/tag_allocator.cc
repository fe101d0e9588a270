#include "agent/smmuv3/vsmmu/tag_allocator.h"

#include <bit>
#include <cstdlib>

namespace viommu::agent {
namespace {

constexpr uint32_t kBitsPerWord = 64;

}  // namespace

TagAllocator::TagAllocator(uint32_t bits) : total_((1u << (bits >= 16 ? 16 : 8)) - 1) {
  taken_.resize((total_ + 1) / kBitsPerWord);
  taken_[0] = 1;
}

std::optional<uint16_t> TagAllocator::Allocate() {
  MutexLock lock(mu_);
  if (used_ == total_) return std::nullopt;
  uint32_t word = 0;
  while (taken_[word] == ~uint64_t{0}) ++word;
  const auto bit = static_cast<uint32_t>(std::countr_one(taken_[word]));
  taken_[word] |= uint64_t{1} << bit;
  ++used_;
  return static_cast<uint16_t>(word * kBitsPerWord + bit);
}

void TagAllocator::Free(uint16_t tag) {
  MutexLock lock(mu_);
  uint64_t& word = taken_[tag / kBitsPerWord];
  const uint64_t bit = uint64_t{1} << (tag % kBitsPerWord);
  // Freeing one that is not taken would hand one VM's tag to another.
  if (tag == 0 || (word & bit) == 0) std::abort();
  word &= ~bit;
  --used_;
}

uint32_t TagAllocator::used() const {
  MutexLock lock(mu_);
  return used_;
}

}  // namespace viommu::agent
