// Memory and translation tables for tests.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_TEST_TABLES_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_TEST_TABLES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>

#include "agent/smmuv3/emulator/physical_memory.h"
#include "agent/smmuv3/emulator/walk.h"
#include "agent/smmuv3/spec/descriptor.h"

namespace viommu::smmuv3 {

// A piece of physical memory that hands out aligned, zeroed blocks. What the blocks are called by may be moved: guest
// memory is handed out by its IPA.
class TestRegion {
 public:
  // `name` is what the first byte is called by: an IPA, or `base` itself.
  TestRegion(PhysicalMemory* memory, uint64_t base, uint64_t name, uint64_t bytes)
      : memory_(memory), base_(base), name_(name), size_(bytes), words_(static_cast<uint64_t*>(std::calloc(bytes, 1))) {
    if (!memory->Add(base, std::as_writable_bytes(std::span(words_.get(), bytes / sizeof(uint64_t))))) std::abort();
  }
  TestRegion(const TestRegion&) = delete;
  TestRegion& operator=(const TestRegion&) = delete;

  // By name. `alignment` is a power of two.
  uint64_t Allocate(uint64_t bytes, uint64_t alignment) {
    next_ = (next_ + alignment - 1) & ~(alignment - 1);
    const uint64_t block = next_;
    next_ += bytes;
    if (next_ > size()) std::abort();
    return name_ + block;
  }
  uint64_t AllocatePage(uint64_t bytes = 4096) { return Allocate(bytes, bytes); }

  uint64_t size() const { return size_; }
  uint64_t name() const { return name_; }
  uint64_t Physical(uint64_t named) const { return named - name_ + base_; }

  uint64_t Read(uint64_t named) const {
    uint64_t value = 0;
    if (!memory_->ReadWord(Physical(named), value)) std::abort();
    return value;
  }
  void Write(uint64_t named, uint64_t value) {
    if (!memory_->WriteWord(Physical(named), value)) std::abort();
  }

 private:
  PhysicalMemory* const memory_;
  const uint64_t base_;
  const uint64_t name_;
  const uint64_t size_;
  struct Free {
    void operator()(void* block) const { std::free(block); }
  };
  const std::unique_ptr<uint64_t[], Free> words_;  // from calloc(): what nobody touches costs nothing
  uint64_t next_ = 0;
};

// Builds a tree of tables of any granule in a region.
class TestTables {
 public:
  // Stage 1; `input_bits` is 64 - TxSZ.
  TestTables(TestRegion* region, Granule granule, uint32_t input_bits, bool big_endian = false)
      : TestTables(region, granule, input_bits, Stage1Start(granule, input_bits), big_endian) {}
  // Stage 2 with a start level, where first tables may lie side by side.
  TestTables(TestRegion* region, Granule granule, uint32_t input_bits, uint32_t start_level, bool big_endian)
      : region_(region),
        granule_(granule),
        input_bits_(input_bits),
        start_level_(start_level),
        big_endian_(big_endian) {
    const uint64_t bytes = uint64_t{kDescriptorBytes} << (input_bits - LevelShift(granule, start_level));
    root_ = region->Allocate(bytes, std::max<uint64_t>(bytes, 64));
  }

  uint64_t root() const { return root_; }
  Granule granule() const { return granule_; }
  uint32_t input_bits() const { return input_bits_; }
  uint32_t start_level() const { return start_level_; }

  // The descriptor at `level` for an address, with the tables above it; they get `limits` when they are made.
  uint64_t Place(uint64_t address, uint32_t level, const TableLimits& limits = {}) {
    uint64_t table = root_;
    for (uint32_t at = start_level_;; ++at) {
      const uint32_t shift = LevelShift(granule_, at);
      const uint32_t bits = at == start_level_ ? input_bits_ - shift : LevelBits(granule_);
      const uint64_t place = table + (address >> shift & ((uint64_t{1} << bits) - 1)) * kDescriptorBytes;
      if (at == level) return place;
      RawDescriptor raw = Get(place);
      if (raw == 0) {
        const uint64_t bytes = uint64_t{1} << GranuleLog2(granule_);
        raw = EncodeTable(region_->Allocate(bytes, bytes), granule_, limits);
        Put(place, raw);
      }
      table = NextTableOf(raw, granule_);
    }
  }
  RawDescriptor Get(uint64_t place) const { return InOrder(region_->Read(place)); }
  void Put(uint64_t place, RawDescriptor raw) { region_->Write(place, InOrder(raw)); }

  // Maps one block or page.
  void Map(uint64_t address, uint64_t output, const Stage1Leaf& leaf, uint32_t level = kLastLevel,
           const TableLimits& limits = {}) {
    Put(Place(address, level, limits), EncodeStage1Leaf(leaf, output, granule_, level));
  }
  void Map(uint64_t address, uint64_t output, const Stage2Leaf& leaf, uint32_t level = kLastLevel) {
    Put(Place(address, level), EncodeStage2Leaf(leaf, output, granule_, level));
  }
  void Unmap(uint64_t address, uint32_t level = kLastLevel) { Put(Place(address, level), 0); }

 private:
  RawDescriptor InOrder(RawDescriptor raw) const { return big_endian_ ? __builtin_bswap64(raw) : raw; }

  TestRegion* const region_;
  const Granule granule_;
  const uint32_t input_bits_;
  const uint32_t start_level_;
  const bool big_endian_;
  uint64_t root_ = 0;
};

// Pages that everybody may read and write; of this ASID alone, or of all.
inline constexpr Stage1Leaf kUserPage = {.attr_indx = 0, .ap = kApUnprivileged, .sh = 3, .af = true, .ng = true};
inline constexpr Stage1Leaf kGlobalPage = {.attr_indx = 0, .ap = kApUnprivileged, .sh = 3, .af = true, .ng = false};
// Normal write-back memory that may be read and written.
inline constexpr Stage2Leaf kGuestPage = {.mem_attr = 0xf, .s2ap = kS2ApRead | kS2ApWrite, .sh = 3, .af = true};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_TEST_TABLES_H_
