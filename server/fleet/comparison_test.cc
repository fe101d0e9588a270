#include "server/fleet/comparison.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "agent/smmuv3/spec/id_registers.h"
#include "server/fleet/test_fleet.h"

namespace viommu::server {
namespace {

smmuv3::Features Plain() {
  smmuv3::Features features;
  features.stage1 = features.stage2 = features.aarch64 = features.coherent = true;
  features.stall_model = smmuv3::StallModel::kTerminate;
  features.table_endianness = smmuv3::TableEndianness::kLittle;
  features.sid_bits = 24;
  features.oas_bits = 48;
  features.gran4k = true;
  return features;
}

v1::Smmu SmmuWith(const std::string& name, const smmuv3::Features& features) {
  v1::Smmu smmu;
  smmu.set_name(name);
  for (const uint32_t word : smmuv3::EncodeIdRegisters(features)) smmu.add_idr(word);
  smmu.set_vmid_bits(features.vmid_bits);
  smmu.set_sid_bits(features.sid_bits);
  return smmu;
}

class ComparisonTest : public FleetTest {
 protected:
  v1::Comparison Compare(const smmuv3::Features& source, const smmuv3::Features& target,
                         const v1::Viommu* viommu = nullptr) {
    return CompareSmmus(fleet_.tables(), fleet_.host(kGrace), SmmuWith(SmmuOf(kGrace, 0), source), fleet_.host(kGrace),
                        SmmuWith(SmmuOf(kGrace, 1), target), viommu);
  }

  static const v1::Difference* Field(const v1::Comparison& comparison, const std::string& field) {
    const auto found = std::find_if(comparison.differences().begin(), comparison.differences().end(),
                                    [&](const v1::Difference& difference) { return difference.field() == field; });
    return found == comparison.differences().end() ? nullptr : &*found;
  }
};

TEST_F(ComparisonTest, EqualsHaveNoDifferences) {
  const v1::Comparison comparison = Compare(Plain(), Plain());
  EXPECT_TRUE(comparison.fits());
  EXPECT_EQ(comparison.differences_size(), 0) << comparison.ShortDebugString();
}

TEST_F(ComparisonTest, LessBlocksAndMoreDoesNot) {
  smmuv3::Features more = Plain();
  more.ril = true;
  more.ssid_bits = 16;
  const v1::Comparison down = Compare(more, Plain());
  EXPECT_FALSE(down.fits());
  ASSERT_NE(Field(down, "IDR3.RIL"), nullptr);
  EXPECT_TRUE(Field(down, "IDR3.RIL")->blocking());
  EXPECT_EQ(Field(down, "IDR1.SSIDSIZE")->source(), "16");
  EXPECT_EQ(Field(down, "IDR1.SSIDSIZE")->target(), "0");
  const v1::Comparison up = Compare(Plain(), more);
  EXPECT_TRUE(up.fits());
  EXPECT_EQ(up.differences_size(), 2);
}

TEST_F(ComparisonTest, ModelsMustBeTheSame) {
  smmuv3::Features stalls = Plain();
  stalls.stall_model = smmuv3::StallModel::kStallOrTerminate;
  EXPECT_FALSE(Compare(Plain(), stalls).fits());
  EXPECT_FALSE(Compare(stalls, Plain()).fits());
}

TEST_F(ComparisonTest, WhatConcernsTheHostAloneNeverBlocks) {
  smmuv3::Features host = Plain();
  host.vmid_bits = 16;
  host.msi = true;
  const v1::Comparison comparison = Compare(host, Plain());
  EXPECT_TRUE(comparison.fits());
  EXPECT_NE(Field(comparison, "IDR0.VMID bits"), nullptr);
}

TEST_F(ComparisonTest, AViommuNeedsRoom) {
  const v1::Viommu viommu = fleet_.viommu("v");
  EXPECT_TRUE(Compare(Plain(), Plain(), &viommu).fits());
  v1::CordonHostRequest cordon;
  cordon.set_name(kGrace);
  Accepted(cordon);
  const v1::Comparison cordoned = Compare(Plain(), Plain(), &viommu);
  EXPECT_FALSE(cordoned.fits());
  ASSERT_EQ(cordoned.refusals_size(), 1);
  EXPECT_EQ(cordoned.refusals(0).reason(), "HOST_CORDONED");
}

TEST_F(ComparisonTest, HardwareQueuesCountForWhoHasThem) {
  const v1::Host host = fleet_.host(kGrace);
  v1::Viommu viommu = fleet_.viommu("v");
  const auto compare = [&] { return CompareSmmus(fleet_.tables(), host, host.smmus(0), host, host.smmus(1), &viommu); };
  ASSERT_NE(Field(compare(), "hw_queue"), nullptr);
  EXPECT_FALSE(Field(compare(), "hw_queue")->blocking());
  viommu.set_type(v1::VIOMMU_TYPE_TEGRA241_CMDQV);
  EXPECT_TRUE(Field(compare(), "hw_queue")->blocking());
  EXPECT_EQ(compare().refusals(0).reason(), "SMMU_INCAPABLE");
}

}  // namespace
}  // namespace viommu::server
