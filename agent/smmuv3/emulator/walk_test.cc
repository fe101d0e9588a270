#include "agent/smmuv3/emulator/walk.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <map>
#include <optional>
#include <set>
#include <variant>
#include <vector>

namespace viommu::smmuv3 {
namespace {

constexpr uint64_t LowBits(uint32_t count) { return (uint64_t{1} << count) - 1; }

using Words = std::map<uint64_t, uint64_t>;

// What the architecture says, in the plainest way: no callbacks, no starting in the middle, no joined descriptors.
struct Reference {
  std::optional<WalkError> error;
  uint32_t level = 0;
  uint64_t output = 0;  // of the address itself
  TableLimits limits;
};

Reference ReferenceWalk(const TableTree& tree, uint64_t address, const Words& memory) {
  const uint32_t g = GranuleLog2(tree.granule);
  Reference result;
  uint64_t table = tree.base;
  uint64_t rest = address & LowBits(tree.input_bits);
  for (uint32_t level = tree.start_level;; ++level) {
    result.level = level;
    const uint32_t shift = g + (3 - level) * (g - 3);
    const uint64_t index = rest >> shift;
    rest &= LowBits(shift);
    const auto word = memory.find(table + index * 8);
    if (word == memory.end()) return result.error = WalkError::kAbort, result;
    const uint64_t raw = tree.big_endian ? __builtin_bswap64(word->second) : word->second;
    const uint32_t type = raw & 3;
    bool leaf = false;
    if (type == 3) {
      leaf = level == 3;
    } else if (type == 1) {
      leaf = (g == 12 && (level == 1 || level == 2)) || (g == 14 && level == 2) ||
             (g == 16 && (level == 2 || (level == 1 && tree.wide)));
      if (!leaf) return result.error = WalkError::kTranslation, result;
    } else {
      return result.error = WalkError::kTranslation, result;
    }
    uint64_t next = raw & LowBits(48) & ~LowBits(leaf ? shift : g);
    if (g == 16 && tree.wide) next |= (raw >> 12 & 0xf) << 48;
    if ((next >> tree.output_bits) != 0) return result.error = WalkError::kAddressSize, result;
    if (leaf) {
      if (tree.access_flag_faults && (raw >> 10 & 1) == 0) return result.error = WalkError::kAccessFlag, result;
      result.output = next | rest;
      return result;
    }
    if (!tree.stage2 && !tree.ignore_limits) {
      result.limits.ap_table |= raw >> 61 & 3;
      result.limits.uxn_table |= (raw >> 60 & 1) != 0;
      result.limits.pxn_table |= (raw >> 59 & 1) != 0;
    }
    table = next;
  }
}

TableTree AnyTree() {
  TableTree tree;
  tree.granule = *rc::gen::element(Granule::k4k, Granule::k16k, Granule::k64k);
  tree.stage2 = *rc::gen::arbitrary<bool>();
  tree.wide = tree.granule == Granule::k64k && *rc::gen::arbitrary<bool>();
  tree.input_bits = *rc::gen::inRange<uint32_t>(25, tree.wide ? 53 : 49);
  tree.start_level = Stage1Start(tree.granule, tree.input_bits);
  if (tree.stage2) {
    // Any level that the input can start at.
    std::vector<uint32_t> levels;
    for (uint32_t level = 0; level <= 3; ++level) {
      if (Stage2ConcatenationLog2(tree.granule, level, tree.input_bits).has_value()) levels.push_back(level);
    }
    tree.start_level = *rc::gen::elementOf(levels);
  }
  tree.base = 0x1000'0000'0000 & LowBits(48);
  tree.output_bits = tree.wide ? 52 : *rc::gen::element(36u, 40u, 48u);
  if (tree.output_bits < 48) tree.base = 0;
  tree.big_endian = *rc::gen::arbitrary<bool>();
  tree.access_flag_faults = *rc::gen::arbitrary<bool>();
  tree.ignore_limits = *rc::gen::arbitrary<bool>();
  return tree;
}

// Fills in the descriptors on the way of an address: tables mostly, with now and then something else.
void Grow(const TableTree& tree, uint64_t address, Words& memory, uint64_t& next_table) {
  uint64_t table = tree.base;
  uint64_t rest = address & LowBits(tree.input_bits);
  for (uint32_t level = tree.start_level; level <= 3; ++level) {
    const uint32_t shift = LevelShift(tree.granule, level);
    const uint64_t place = table + (rest >> shift) * 8;
    rest &= LowBits(shift);
    const auto present = memory.find(place);
    uint64_t raw = 0;
    if (present != memory.end()) {
      raw = tree.big_endian ? __builtin_bswap64(present->second) : present->second;
      if (level == 3 || (raw & 3) != 3) return;
    } else {
      raw = *rc::gen::arbitrary<uint64_t>();
      const uint32_t kind = *rc::gen::inRange(0u, 10u);
      if (kind == 0) return;  // a hole
      if (kind > 2 && level < 3) {
        const uint64_t attributes = raw & ~LowBits(52);
        raw = attributes | PutDescriptorAddress(next_table, tree.granule, GranuleLog2(tree.granule)) | 3;
        next_table += uint64_t{1} << GranuleLog2(tree.granule);
      } else if (kind > 2) {
        // Most addresses fit.
        raw = (raw & ~(LowBits(48) & ~LowBits(12))) | ((raw & LowBits(34)) & ~LowBits(12)) | 3;
        if (tree.granule == Granule::k64k) raw &= ~(LowBits(16) & ~LowBits(12));
      }
      memory[place] = tree.big_endian ? __builtin_bswap64(raw) : raw;
      if (level == 3 || (raw & 3) != 3) return;
    }
    uint64_t next = NextTableOf(raw, tree.granule);
    if (!tree.wide) next &= LowBits(48);
    table = next;
  }
}

RC_GTEST_PROP(WalkProperty, EqualsTheReference, ()) {
  const TableTree tree = AnyTree();
  Words memory;
  uint64_t next_table = 0x2'0000'0000;
  std::vector<uint64_t> addresses;
  const auto base = *rc::gen::arbitrary<uint64_t>();
  for (int i = 0; i < 12; ++i) {
    // Neighbours share tables.
    addresses.push_back(i < 6 ? base ^ (*rc::gen::arbitrary<uint64_t>() & LowBits(30))
                              : *rc::gen::arbitrary<uint64_t>());
    Grow(tree, addresses.back(), memory, next_table);
  }
  const auto read = [&](uint64_t address, RawDescriptor& raw) {
    const auto word = memory.find(address);
    if (word == memory.end()) return ReadResult::kAbort;
    raw = word->second;
    return ReadResult::kDone;
  };
  for (const uint64_t address : addresses) {
    const Reference expected = ReferenceWalk(tree, address, memory);
    std::vector<WalkPosition> positions = {RootOf(tree)};
    const auto reached = [&](const WalkPosition& position) { positions.push_back(position); };
    const auto walked = Walk(tree, address, RootOf(tree), read, reached);
    if (const auto* fault = std::get_if<WalkFault>(&walked)) {
      RC_ASSERT(expected.error == fault->error);
      RC_ASSERT(expected.level == fault->level);
    } else {
      const WalkLeaf& leaf = std::get<WalkLeaf>(walked);
      RC_ASSERT(!expected.error.has_value());
      RC_ASSERT(expected.level == leaf.level);
      RC_ASSERT(expected.output == (leaf.output | (address & LowBits(leaf.span_log2))));
      RC_ASSERT(expected.limits == leaf.limits);
      RC_ASSERT(leaf.span_log2 >= LevelShift(tree.granule, leaf.level));
    }
    // From wherever a walk cache could let it begin.
    for (const WalkPosition& position : positions) {
      const auto again = Walk(tree, address, position, read, [](const WalkPosition&) {});
      RC_ASSERT(again.index() == walked.index());
      if (const auto* leaf = std::get_if<WalkLeaf>(&again)) {
        RC_ASSERT(leaf->output == std::get<WalkLeaf>(walked).output);
        RC_ASSERT(leaf->limits == std::get<WalkLeaf>(walked).limits);
      } else {
        RC_ASSERT(std::get<WalkFault>(again).address == std::get<WalkFault>(walked).address);
      }
    }
  }
}

TEST(WalkTest, TheCallbackCanEndIt) {
  TableTree tree;
  const auto walked = Walk(
      tree, 0, RootOf(tree), [](uint64_t, RawDescriptor&) { return ReadResult::kFault; }, [](const WalkPosition&) {});
  EXPECT_EQ(std::get<WalkFault>(walked).error, WalkError::kNestedFault);
}

}  // namespace
}  // namespace viommu::smmuv3
