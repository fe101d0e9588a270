// Tables against a plain map of pages, read back by the emulated SMMU's own walker.

#include "agent/smmuv3/vsmmu/page_table.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <map>
#include <variant>
#include <vector>

#include "agent/smmuv3/emulator/walk.h"

namespace viommu::agent {
namespace {

using smmuv3::Granule;

constexpr uint64_t kGiB = uint64_t{1} << 30;

TableFormat Format(bool stage2, Granule granule, uint32_t bits) {
  return {.stage2 = stage2, .granule = granule, .address_bits = bits, .fwb = stage2};
}

// What an SMMU would find.
std::optional<PageTable::Mapping> Walked(const PageTable& table, HostMemory& memory, uint64_t input) {
  const TableFormat& format = table.format();
  smmuv3::TableTree tree;
  tree.stage2 = format.stage2;
  tree.granule = format.granule;
  tree.input_bits = format.address_bits;
  tree.output_bits = format.address_bits;
  tree.base = table.root();
  tree.start_level = format.stage2 ? smmuv3::Stage2DeepestStart(format.granule, format.address_bits)
                                   : smmuv3::Stage1Start(format.granule, format.address_bits);
  const auto read = [&](uint64_t address, smmuv3::RawDescriptor& raw) {
    return memory.memory()->ReadWord(address, raw) ? smmuv3::ReadResult::kDone : smmuv3::ReadResult::kAbort;
  };
  const auto result = smmuv3::Walk(tree, input, smmuv3::RootOf(tree), read, [](const smmuv3::WalkPosition&) {});
  const auto* leaf = std::get_if<smmuv3::WalkLeaf>(&result);
  if (leaf == nullptr) {
    EXPECT_EQ(std::get<smmuv3::WalkFault>(result).error, smmuv3::WalkError::kTranslation);
    return std::nullopt;
  }
  PageTable::Mapping mapping;
  mapping.span_log2 = leaf->span_log2;
  mapping.output = leaf->output + (input & ((uint64_t{1} << leaf->span_log2) - 1));
  if (format.stage2) {
    const uint8_t access = smmuv3::DecodeStage2Leaf(leaf->descriptor).s2ap;
    mapping.readable = (access & 1) != 0;
    mapping.writable = (access & 2) != 0;
  } else {
    mapping.readable = true;
    mapping.writable = (smmuv3::DecodeStage1Leaf(leaf->descriptor).ap & 2) == 0;
  }
  return mapping;
}

const auto kNothing = [](uint64_t, uint64_t) -> bool { return true; };

TEST(PageTableTest, TakesTheLargestBlocks) {
  HostMemory memory(48);
  for (const bool stage2 : {false, true}) {
    const auto table = PageTable::Create(Format(stage2, Granule::k4k, 48), &memory);
    // 4 KiB, 2 MiB - 4 KiB in pages, 2 MiB, then a GiB.
    ASSERT_TRUE(table->Map(kGiB - (4 << 20), 5 * kGiB - (4 << 20), kGiB + (4 << 20), true, true));
    EXPECT_EQ(table->Lookup(kGiB - (4 << 20))->span_log2, 21u);
    EXPECT_EQ(table->Lookup(kGiB + 12345), (PageTable::Mapping{5 * kGiB + 12345, 30, true, true}));
    EXPECT_FALSE(table->Lookup(2 * kGiB).has_value());
    ASSERT_TRUE(table->Map(4 * kGiB, 7 * kGiB + 0x1000, 4 << 20, true, false));
    EXPECT_EQ(table->Lookup(4 * kGiB), (PageTable::Mapping{7 * kGiB + 0x1000, 12, true, false}));
  }
  const auto big = PageTable::Create(Format(true, Granule::k64k, 48), &memory);
  ASSERT_TRUE(big->Map(uint64_t{1} << 29, uint64_t{3} << 29, uint64_t{1} << 29, false, true));
  EXPECT_EQ(big->Lookup((uint64_t{1} << 29) + 5), (PageTable::Mapping{(uint64_t{3} << 29) + 5, 29, false, true}));
}

TEST(PageTableTest, ABlockThatIsCutIsGoneUntilTheSmmusWereTold) {
  HostMemory memory(48);
  const auto table = PageTable::Create(Format(true, Granule::k4k, 48), &memory);
  ASSERT_TRUE(table->Map(kGiB, 3 * kGiB, kGiB, true, false));
  const uint64_t before = memory.GetStats().table_bytes;
  int told = 0;
  ASSERT_TRUE(table->Unmap(kGiB + (2 << 20), 0x1000, [&](uint64_t input, uint64_t length) {
    ++told;
    EXPECT_EQ(input, kGiB);
    EXPECT_EQ(length, kGiB);
    EXPECT_FALSE(Walked(*table, memory, kGiB).has_value());
    EXPECT_FALSE(Walked(*table, memory, 2 * kGiB - 1).has_value());
    return true;
  }));
  EXPECT_EQ(told, 1);
  EXPECT_EQ(table->Lookup(kGiB + 0x1234), (PageTable::Mapping{3 * kGiB + 0x1234, 21, true, false}));
  EXPECT_FALSE(table->Lookup(kGiB + (2 << 20)).has_value());
  EXPECT_EQ(table->Lookup(kGiB + (2 << 20) + 0x1000),
            (PageTable::Mapping{3 * kGiB + (2 << 20) + 0x1000, 12, true, false}));
  EXPECT_EQ(table->Lookup(2 * kGiB - 1), (PageTable::Mapping{4 * kGiB - 1, 21, true, false}));
  EXPECT_EQ(memory.GetStats().table_bytes, before + 2 * 4096);
  // Emptied tables stay until the SMMUs were told.
  ASSERT_TRUE(table->Unmap(0, 8 * kGiB, [&](uint64_t, uint64_t) {
    EXPECT_EQ(memory.GetStats().table_bytes, before + 2 * 4096);
    EXPECT_FALSE(Walked(*table, memory, kGiB).has_value());
    return true;
  }));
  EXPECT_LT(memory.GetStats().table_bytes, before);
}

TEST(PageTableTest, TablesAreLostRatherThanReusedWhenTheSmmusDoNotAnswer) {
  HostMemory memory(48);
  const auto table = PageTable::Create(Format(true, Granule::k4k, 48), &memory);
  ASSERT_TRUE(table->Map(0, kGiB, 0x1000, true, true));
  const uint64_t before = memory.GetStats().table_bytes;
  ASSERT_TRUE(table->Unmap(0, 0x1000, [](uint64_t, uint64_t) { return false; }));
  EXPECT_EQ(memory.GetStats().table_bytes, before);
}

TEST(PageTableTest, WithoutMemoryNothingChanges) {
  HostMemory memory(48);
  const auto table = PageTable::Create(Format(false, Granule::k4k, 48), &memory);
  ASSERT_TRUE(table->Map(0, 2 * kGiB, kGiB, true, true));
  const uint64_t before = memory.GetStats().table_bytes;
  for (uint32_t skip = 0; skip < 2; ++skip) {
    memory.FailNext(skip);
    EXPECT_FALSE(table->Map(3 * kGiB, kGiB, 0x1000, true, true)) << skip;
    EXPECT_FALSE(table->Lookup(3 * kGiB).has_value());
    EXPECT_EQ(memory.GetStats().table_bytes, before);
  }
  // Both ends of what goes cut the same block, or two.
  ASSERT_TRUE(table->Map(kGiB, 4 * kGiB, kGiB, true, true));
  for (uint32_t skip = 0; skip < 4; ++skip) {
    memory.FailNext(skip);
    EXPECT_FALSE(table->Unmap(kGiB - 0x1000, 0x2000, kNothing)) << skip;
    EXPECT_EQ(table->Lookup(kGiB - 0x1000)->span_log2, 30u);
    EXPECT_EQ(memory.GetStats().table_bytes, before);
  }
  EXPECT_FALSE(memory.CancelFailure());
  EXPECT_TRUE(table->Unmap(kGiB - 0x1000, 0x2000, kNothing));
  memory.FailNext(0);
  EXPECT_EQ(PageTable::Create(Format(true, Granule::k4k, 40), &memory), nullptr);
}

TEST(PageTableTest, FormatsFitTheirSmmu) {
  smmuv3::Features features = {.stage2 = true, .stage1 = true, .oas_bits = 52, .gran16k = true, .gran64k = true};
  const TableFormat format = TableFormatFor(features, true);
  EXPECT_EQ(format, (TableFormat{.stage2 = true, .granule = Granule::k16k, .address_bits = 48, .fwb = false}));
  EXPECT_TRUE(CanRead(features, format));
  features.oas_bits = 44;
  EXPECT_FALSE(CanRead(features, format));
  features.oas_bits = 48;
  features.stage2 = false;
  EXPECT_FALSE(CanRead(features, format));
  features = {.stage1 = true, .fwb = true, .oas_bits = 40, .gran4k = true};
  EXPECT_FALSE(TableFormatFor(features, false).fwb);
}

struct Page {
  uint64_t output = 0;
  bool readable = false;
  bool writable = false;
};

// Random maps and unmaps, in pages of the granule within a few windows around block boundaries.
void Random(bool stage2, Granule granule, uint32_t bits) {
  HostMemory memory(bits);
  const uint64_t empty = memory.GetStats().table_bytes;
  {
    const auto table = PageTable::Create(Format(stage2, granule, bits), &memory);
    const uint64_t page = table->page_bytes();
    const uint64_t block = uint64_t{1} << smmuv3::LevelShift(granule, 2);
    const uint64_t pages_per_block = block / page;
    std::map<uint64_t, Page> model;  // by page number
    const auto number = [&] {
      return *rc::gen::oneOf(
          rc::gen::inRange<uint64_t>(0, 3 * pages_per_block),
          rc::gen::map(rc::gen::inRange<uint64_t>(0, 4), [&](uint64_t n) { return n * pages_per_block; }));
    };
    const auto check = [&](uint64_t at) {
      const auto expected = model.find(at);
      const uint64_t input = at * page + (at % 2 == 0 ? 0 : page - 1);
      const auto walked = Walked(*table, memory, input);
      RC_ASSERT(walked == table->Lookup(input));
      RC_ASSERT(walked.has_value() == (expected != model.end()));
      if (!walked.has_value()) return;
      RC_ASSERT(walked->output == expected->second.output + input % page);
      RC_ASSERT(walked->readable == (expected->second.readable || !stage2));
      RC_ASSERT(walked->writable == expected->second.writable);
    };
    const int steps = *rc::gen::inRange(1, 12);
    for (int step = 0; step < steps; ++step) {
      const uint64_t first = number();
      const uint64_t count = std::max<uint64_t>(
          1, *rc::gen::element<uint64_t>(1, 2, 5, pages_per_block - 1, pages_per_block, 2 * pages_per_block));
      if (*rc::gen::inRange(0, 3) != 0) {
        // What is free of it.
        uint64_t free = 0;
        while (free < count && !model.contains(first + free)) ++free;
        if (free == 0) continue;
        const bool aligned = *rc::gen::arbitrary<bool>();
        const uint64_t output = 4 * block + first * page + (aligned ? 0 : page);
        const bool writable = *rc::gen::arbitrary<bool>();
        const bool readable = !writable || *rc::gen::arbitrary<bool>();
        RC_ASSERT(table->Map(first * page, output, free * page, readable, writable));
        for (uint64_t i = 0; i < free; ++i) model[first + i] = {output + i * page, readable, writable};
      } else {
        uint64_t told_begin = 0, told_end = 0;
        int told = 0;
        RC_ASSERT(table->Unmap(first * page, count * page, [&](uint64_t input, uint64_t length) {
          ++told;
          told_begin = input;
          told_end = input + length;
          // Nothing of what goes is left, and nothing else has changed but inside the range that is told.
          for (const auto& [at, mapped] : model) {
            const auto now = table->Lookup(at * page);
            const bool goes = at >= first && at < first + count;
            RC_ASSERT(!(goes && now.has_value()));
            if (now.has_value()) RC_ASSERT(now->output == mapped.output);
            if (!now.has_value()) RC_ASSERT(at * page >= told_begin && at * page < told_end);
          }
          return true;
        }));
        const auto begin = model.lower_bound(first), end = model.lower_bound(first + count);
        RC_ASSERT(told == (begin == end ? 0 : 1));
        model.erase(begin, end);
      }
      for (uint64_t at = first < 2 ? 0 : first - 2; at < first + count + 2; at += at < first + 4 ? 1 : 7) check(at);
      check(first + count - 1);
      check(first + count);
    }
    // Nothing but the root is left of an empty table.
    RC_ASSERT(table->Unmap(0, 16 * block, kNothing));
    const auto fresh = memory.GetStats().table_bytes;
    const auto other = PageTable::Create(Format(stage2, granule, bits), &memory);
    RC_ASSERT(memory.GetStats().table_bytes == 2 * fresh);
  }
  RC_ASSERT(memory.GetStats().table_bytes == empty);
}

TEST(PageTableTest, IsAMap) {
  for (const bool stage2 : {false, true}) {
    for (const Granule granule : {Granule::k4k, Granule::k16k, Granule::k64k}) {
      for (const uint32_t bits : {36u, 40u, 48u}) {
        const bool ok = rc::check([&] { Random(stage2, granule, bits); });
        EXPECT_TRUE(ok) << stage2 << " " << ToString(granule) << " " << bits;
      }
    }
  }
}

}  // namespace
}  // namespace viommu::agent
