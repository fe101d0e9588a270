#include "tests/kernel/iort.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

namespace viommu::kernel {
namespace {

void Append(std::string& to, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) to.push_back(static_cast<char>(value >> (8 * i)));
}

uint64_t Word(const std::string& table, size_t offset, int bytes) {
  uint64_t value = 0;
  for (int i = bytes - 1; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(table[offset + i]);
  return value;
}

struct Mapping {
  uint32_t first, last, to;
};

constexpr uint32_t kIts = 48, kSmmu = 72, kRootComplex = 72 + 68;

// An ITS group, an SMMUv3 and a root complex, as QEMU lists them.
std::string Iort(const std::vector<Mapping>& mappings) {
  std::string nodes;
  const auto node = [&](uint8_t type, size_t length, uint32_t count, uint32_t offset) {
    Append(nodes, type, 1);
    Append(nodes, length, 2);
    Append(nodes, 0, 5);
    Append(nodes, count, 4);
    Append(nodes, offset, 4);
  };
  node(0, 24, 0, 0);
  Append(nodes, 1, 8);
  node(4, 68, 0, 0);
  Append(nodes, 0, 52);
  node(2, 36 + 20 * mappings.size(), mappings.size(), 36);
  Append(nodes, 1, 4);
  Append(nodes, 0, 3);
  Append(nodes, 3, 1);
  Append(nodes, 0, 12);
  for (const Mapping& mapping : mappings) {
    Append(nodes, mapping.first, 4);
    Append(nodes, mapping.last - mapping.first, 4);
    Append(nodes, mapping.first, 4);
    Append(nodes, mapping.to, 4);
    Append(nodes, 0, 4);
  }
  std::string table = "IORT";
  Append(table, 48 + nodes.size(), 4);
  Append(table, 3, 1);
  Append(table, 0, 15);
  Append(table, 7, 4);
  Append(table, 0, 8);
  Append(table, 3, 4);
  Append(table, 48, 4);
  Append(table, 0, 4);
  return table + nodes;
}

TEST(Iort, SaysCanwbs) {
  const auto table = AssertCanwbs(Iort({{0, 0xff, kSmmu}, {0x100, 0xffff, kIts}}));
  ASSERT_TRUE(table.has_value());
  EXPECT_EQ(Word(*table, kRootComplex + 23, 1), 7u);
}

TEST(Iort, LeadsEveryRequesterToTheSmmu) {
  const auto table = AssertCanwbs(Iort({{0x100, 0xffff, kIts}, {0, 0xff, kSmmu}}));
  ASSERT_TRUE(table.has_value());
  EXPECT_EQ(Word(*table, kRootComplex + 8, 4), 1u);
  EXPECT_EQ(Word(*table, kRootComplex + 36, 4), 0u);
  EXPECT_EQ(Word(*table, kRootComplex + 40, 4), 0xffffu);
  EXPECT_EQ(Word(*table, kRootComplex + 44, 4), 0u);
  EXPECT_EQ(Word(*table, kRootComplex + 48, 4), kSmmu);
}

TEST(Iort, IsNewerAndSumsUpToZero) {
  const auto table = AssertCanwbs(Iort({{0, 0xffff, kSmmu}}));
  ASSERT_TRUE(table.has_value());
  EXPECT_EQ(Word(*table, 24, 4), 8u);
  uint8_t sum = 0;
  for (const char byte : *table) sum = static_cast<uint8_t>(sum + static_cast<uint8_t>(byte));
  EXPECT_EQ(sum, 0);
}

TEST(Iort, EndsWhereItsLengthSays) {
  const std::string table = Iort({{0, 0xffff, kSmmu}});
  EXPECT_EQ(AssertCanwbs(table + "rest")->size(), table.size());
}

TEST(Iort, RefusesWhatLeadsToNoSmmu) { EXPECT_FALSE(AssertCanwbs(Iort({{0, 0xffff, kIts}})).has_value()); }

TEST(Iort, RefusesOtherTables) {
  std::string table = Iort({{0, 0xffff, kSmmu}});
  EXPECT_FALSE(AssertCanwbs("").has_value());
  EXPECT_FALSE(AssertCanwbs("FACP" + table.substr(4)).has_value());
}

TEST(Iort, RefusesEveryTruncation) {
  const std::string table = Iort({{0, 0xffff, kSmmu}});
  for (size_t length = 0; length < table.size(); ++length) {
    EXPECT_FALSE(AssertCanwbs(table.substr(0, length)).has_value());
    // The same with a length that fits: then a node does not.
    if (length < 48) continue;
    std::string cut = table.substr(0, length);
    cut[4] = static_cast<char>(length);
    EXPECT_FALSE(AssertCanwbs(cut).has_value()) << length;
  }
}

}  // namespace
}  // namespace viommu::kernel
