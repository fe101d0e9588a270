#include "agent/smmuv3/iommufd/iort.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

namespace viommu::agent {
namespace {

void Put(std::string& bytes, size_t offset, size_t length, uint64_t value) {
  for (size_t i = 0; i < length; ++i) bytes.at(offset + i) = static_cast<char>(value >> (8 * i));
}

struct Mapping {
  uint32_t input, last, output, node;  // `last`: one less than how many there are
};

constexpr uint64_t kSmmuA = 0x9050000, kSmmuB = 0x9070000;
constexpr uint32_t kNodeA = 48, kNodeB = kNodeA + 24;

std::string SmmuNode(uint64_t base) {
  std::string node(24, '\0');
  Put(node, 0, 1, 4);
  Put(node, 1, 2, node.size());
  Put(node, 16, 8, base);
  return node;
}

std::string RootComplex(uint32_t segment, const std::vector<Mapping>& mappings) {
  std::string node(36 + 20 * mappings.size(), '\0');
  Put(node, 0, 1, 2);
  Put(node, 1, 2, node.size());
  Put(node, 8, 4, mappings.size());
  Put(node, 12, 4, 36);
  Put(node, 28, 4, segment);
  for (size_t i = 0; i < mappings.size(); ++i) {
    Put(node, 36 + 20 * i, 4, mappings[i].input);
    Put(node, 40 + 20 * i, 4, mappings[i].last);
    Put(node, 44 + 20 * i, 4, mappings[i].output);
    Put(node, 48 + 20 * i, 4, mappings[i].node);
  }
  return node;
}

// Two SMMUs and these root complexes.
std::string Table(const std::vector<std::string>& root_complexes) {
  std::string table(48, '\0');
  table.replace(0, 4, "IORT");
  table += SmmuNode(kSmmuA) + SmmuNode(kSmmuB);
  for (const std::string& node : root_complexes) table += node;
  Put(table, 4, 4, table.size());
  Put(table, 36, 4, 2 + root_complexes.size());
  Put(table, 40, 4, 48);
  return table;
}

TEST(IortTest, MapsRequesterIdsOfASegment) {
  const std::string table = Table({RootComplex(0, {{0, 0xff, 0x1000, kNodeA}, {0x100, 0xfeff, 0x20000, kNodeB}}),
                                   RootComplex(3, {{0, 0xffff, 0x80000, kNodeB}})});
  EXPECT_EQ(IortStreamId(table, 0, 0x10, kSmmuA), 0x1010u);
  EXPECT_EQ(IortStreamId(table, 0, 0xff, kSmmuA), 0x10ffu);
  EXPECT_EQ(IortStreamId(table, 0, 0x100, kSmmuB), 0x20000u);
  EXPECT_EQ(IortStreamId(table, 3, 0xffff, kSmmuB), 0x8ffffu);
  EXPECT_EQ(IortStreamId(table, 0, 0x10, kSmmuB), std::nullopt) << "it is behind the other one";
  EXPECT_EQ(IortStreamId(table, 1, 0x10, kSmmuA), std::nullopt);
  EXPECT_EQ(IortStreamId(table, "0000:00:02.0", "smmu3.0x0000000009050000"), 0x1010u);
  EXPECT_EQ(IortStreamId(table, "0003:ff:1f.7", "smmu3.0x0000000009070000"), 0x8ffffu);
}

TEST(IortTest, NamesThatAreNone) {
  const std::string table = Table({RootComplex(0, {{0, 0xffff, 0, kNodeA}})});
  for (const char* address : {"", "0000:00:20.0", "0000:00:02.8", "000x:00:02.0", "0000:00:02.00"}) {
    EXPECT_EQ(IortStreamId(table, address, "smmu3.0x9050000"), std::nullopt) << address;
  }
  for (const char* smmu : {"", "smmu3", "smmu3.0x", "smmu3.0x905000g"}) {
    EXPECT_EQ(IortStreamId(table, "0000:00:02.0", smmu), std::nullopt) << smmu;
  }
}

TEST(IortTest, WhatIsOutsideOfMappingsHasNone) {
  EXPECT_EQ(IortStreamId(Table({RootComplex(0, {{0x20, 0, 7, kNodeA}})}), 0, 0x1f, kSmmuA), std::nullopt);
  EXPECT_EQ(IortStreamId(Table({RootComplex(0, {{0x20, 0, 7, kNodeA}})}), 0, 0x20, kSmmuA), 7u);
  EXPECT_EQ(IortStreamId(Table({RootComplex(0, {{0x20, 0, 7, kNodeA}})}), 0, 0x21, kSmmuA), std::nullopt);
  EXPECT_EQ(IortStreamId(Table({RootComplex(0, {})}), 0, 0, kSmmuA), std::nullopt);
  // To an interrupt controller, past every SMMU.
  EXPECT_EQ(IortStreamId(Table({RootComplex(0, {{0, 0xffff, 0, 0}})}), 0, 0, kSmmuA), std::nullopt);
}

TEST(IortTest, DamagedTables) {
  const std::string table = Table({RootComplex(0, {{0, 0xffff, 0, kNodeA}})});
  ASSERT_TRUE(IortStreamId(table, 0, 0, kSmmuA).has_value());
  for (size_t length = 0; length < table.size(); ++length) {
    EXPECT_EQ(IortStreamId(table.substr(0, length), 0, 0, kSmmuA), std::nullopt) << length;
    // One that says itself that it is shorter.
    if (length < 48) continue;
    std::string cut = table.substr(0, length);
    Put(cut, 4, 4, length);
    EXPECT_EQ(IortStreamId(cut, 0, 0, kSmmuA), std::nullopt) << length;
  }
  const size_t root = 48 + 48;
  const struct {
    size_t offset, length;
    uint64_t value;
  } wrong[] = {{0, 1, 'X'},           {40, 4, 0xffffffff},        {kNodeA + 1, 2, 0},         {root + 1, 2, 15},
               {root + 1, 2, 0xffff}, {root + 12, 4, 0xfffffff0}, {root + 48, 4, 0xfffffff0}, {kNodeA, 1, 3}};
  for (const auto& [offset, length, value] : wrong) {
    std::string damaged = table;
    Put(damaged, offset, length, value);
    EXPECT_EQ(IortStreamId(damaged, 0, 0, kSmmuA), std::nullopt) << offset;
  }
  // Counts that are too high end with what there is.
  std::string many = table;
  Put(many, 36, 4, 0xffffffff);
  EXPECT_TRUE(IortStreamId(many, 0, 0, kSmmuA).has_value());
  EXPECT_EQ(IortStreamId(many, 7, 0, kSmmuA), std::nullopt);
  Put(many, root + 8, 4, 0xffffffff);
  Put(many, root + 36, 4, 0x10);
  EXPECT_EQ(IortStreamId(many, 0, 0, kSmmuA), std::nullopt);
}

}  // namespace
}  // namespace viommu::agent
