#include "server/fleet/drift.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace viommu::server {
namespace {

using Lines = std::vector<std::string>;

class DriftTest : public testing::Test {
 protected:
  DriftTest() {
    record_.set_name("viommus/v/vdevices/7");
    record_.set_uid("u");
    record_.set_generation(5);
    record_.set_viommu("viommus/v");
    record_.set_device("hosts/h/devices/0000:01:00.0");
    record_.set_vdev_id(7);
    record_.set_state(v1::STATE_READY);
    record_.set_observed_generation(5);
    Believe();
  }
  // As it was sent to the agent, which has made it.
  void Believe() {
    item_.Clear();
    *item_.mutable_believed()->mutable_vdevice() = record_;
    item_.mutable_believed()->mutable_vdevice()->set_state(v1::STATE_PENDING);
    item_.set_outcome(v1::OUTCOME_APPLIED);
    item_.set_presence(v1::PRESENCE_AS_BELIEVED);
  }
  v1::Vdevice& believed() { return *item_.mutable_believed()->mutable_vdevice(); }
  // "field: recorded | believed | actual" of each, and "expected".
  Lines Of(const v1::Vdevice* record, const v1::InspectedItem* item) {
    const auto drift = DriftOf(Kind::kVdevice, record, item);
    if (!drift) return {};
    EXPECT_EQ(drift->name(), "viommus/v/vdevices/7");
    EXPECT_EQ(drift->uid(), "u");
    Lines lines;
    for (const auto& f : drift->fields()) {
      lines.push_back(fmt::format("{}: {} | {} | {}", f.field(), f.recorded(), f.believed(), f.actual()));
    }
    if (drift->expected()) lines.emplace_back("expected");
    return lines;
  }
  Lines Of() { return Of(&record_, &item_); }

  v1::Vdevice record_;
  v1::InspectedItem item_;
};

TEST_F(DriftTest, WhatIsAsItShouldBeIsNoDrift) {
  EXPECT_EQ(Of(), Lines{});
  item_.set_presence(v1::PRESENCE_UNKNOWN);
  EXPECT_EQ(Of(), Lines{});
  record_.set_state(v1::STATE_DORMANT);
  item_.set_outcome(v1::OUTCOME_DORMANT);
  item_.set_presence(v1::PRESENCE_NOT_EXPECTED);
  EXPECT_EQ(Of(), Lines{});
  record_.set_state(v1::STATE_DELETING);
  believed().set_state(v1::STATE_DELETING);
  item_.set_outcome(v1::OUTCOME_UNSPECIFIED);
  EXPECT_EQ(Of(), Lines{}) << "its release is under way on both sides";
}

TEST_F(DriftTest, LabelsAndTimesAreNoDrift) {
  (*record_.mutable_labels())["a"] = "b";
  record_.set_etag("other");
  EXPECT_EQ(Of(), Lines{});
}

TEST_F(DriftTest, ABackendThatLostOrChangedItIsNeverExpected) {
  item_.set_presence(v1::PRESENCE_MISSING);
  EXPECT_EQ(Of(), Lines{"presence: yes | yes | no"});
  item_.set_presence(v1::PRESENCE_DIFFERENT);
  (*item_.mutable_actual())["nested_domain"] = "nothing";
  (*item_.mutable_actual())["vdev_id"] = "9";
  EXPECT_EQ(Of(), (Lines{"vdev_id: 7 | 7 | 9", "nested_domain: stage 2 | stage 2 | nothing"}));
  record_.set_state(v1::STATE_PENDING);
  EXPECT_EQ(Of().back(), "state: PENDING | READY | ") << "not even while a change is under way";
}

TEST_F(DriftTest, AChangeUnderWayIsExpected) {
  record_.set_generation(8);
  record_.set_vdev_id(9);
  record_.set_name("viommus/v/vdevices/7");
  record_.set_state(v1::STATE_PENDING);
  EXPECT_EQ(Of(), (Lines{"generation: 8 | 5 | ", "vdev_id: 9 | 7 | ", "expected"}));
}

TEST_F(DriftTest, AnAgentThatWasNeverToldIsNot) {
  record_.set_generation(8);
  EXPECT_EQ(Of(), Lines{"generation: 8 | 5 | "}) << "the record says that 8 is in effect";
}

TEST_F(DriftTest, AFailureThatIsRecordedIsExpected) {
  item_.set_outcome(v1::OUTCOME_FAILED);
  item_.mutable_reason()->set_reason("BACKEND_FAILED");
  item_.set_presence(v1::PRESENCE_NOT_EXPECTED);
  EXPECT_EQ(Of(), (Lines{"state: READY | FAILED | ", "presence: yes | no: BACKEND_FAILED | no"}));
  record_.set_state(v1::STATE_FAILED);
  EXPECT_EQ(Of(), (Lines{"presence: yes | no: BACKEND_FAILED | no", "expected"}));
}

TEST_F(DriftTest, OneSidedResources) {
  EXPECT_EQ(Of(&record_, nullptr), Lines{"presence: yes | no | "});
  record_.set_state(v1::STATE_PENDING);
  EXPECT_EQ(Of(&record_, nullptr), (Lines{"presence: yes | no | ", "expected"}));
  EXPECT_EQ(Of(nullptr, &item_), Lines{"presence: no | yes | yes"});
  item_.set_presence(v1::PRESENCE_UNKNOWN);
  believed().set_state(v1::STATE_DELETING);
  EXPECT_EQ(Of(nullptr, &item_), (Lines{"presence: no | yes | ", "expected"}));
}

TEST_F(DriftTest, OnlyWhatIsNotToldAnywayIsToldAnew) {
  EXPECT_FALSE(GoesByOther(Kind::kVdevice, record_, &item_));
  item_.set_presence(v1::PRESENCE_MISSING);
  EXPECT_FALSE(GoesByOther(Kind::kVdevice, record_, &item_)) << "its backend's fault, not its journal's";
  item_.set_outcome(v1::OUTCOME_FAILED);
  EXPECT_FALSE(GoesByOther(Kind::kVdevice, record_, &item_)) << "it tries that again";
  item_.set_outcome(v1::OUTCOME_DORMANT);
  EXPECT_TRUE(GoesByOther(Kind::kVdevice, record_, &item_));
  Believe();
  EXPECT_TRUE(GoesByOther(Kind::kVdevice, record_, nullptr));
  believed().set_vdev_id(8);
  EXPECT_TRUE(GoesByOther(Kind::kVdevice, record_, &item_));
  record_.set_state(v1::STATE_FAILED);
  EXPECT_TRUE(GoesByOther(Kind::kVdevice, record_, &item_)) << "an earlier repair did not work";
  EXPECT_FALSE(GoesByOther(Kind::kVdevice, record_, nullptr))
      << "it was released there, and does not come back unasked";
  record_.set_state(v1::STATE_DELETING);
  EXPECT_FALSE(GoesByOther(Kind::kVdevice, record_, &item_));
  EXPECT_FALSE(GoesByOther(Kind::kVdevice, record_, nullptr));
  record_.set_state(v1::STATE_PENDING);
  EXPECT_FALSE(GoesByOther(Kind::kVdevice, record_, nullptr));
  believed().set_generation(4);
  EXPECT_FALSE(GoesByOther(Kind::kVdevice, record_, &item_)) << "it has not been told yet";
  Believe();
  record_.set_state(v1::STATE_READY);
  believed().set_generation(4);
  EXPECT_TRUE(GoesByOther(Kind::kVdevice, record_, &item_));
}

// The simulation has found it: what the journal has otherwise of a change that is under way may be why that never ends.
TEST_F(DriftTest, OneGenerationHasOneContent) {
  record_.set_state(v1::STATE_PENDING);
  item_.set_outcome(v1::OUTCOME_UNSPECIFIED);
  EXPECT_FALSE(GoesByOther(Kind::kVdevice, record_, &item_));
  believed().set_vdev_id(8);
  EXPECT_TRUE(GoesByOther(Kind::kVdevice, record_, &item_));
  EXPECT_EQ(Of().front(), "vdev_id: 7 | 8 | ");
  EXPECT_NE(Of().back(), "expected");
}

// Every field that is compared is one that its resource has, and is printed.
TEST(DriftFieldsTest, OfEveryKindCanBeRead) {
  v1::InspectedItem item;
  item.set_outcome(v1::OUTCOME_APPLIED);
  const auto fields = [&item](Kind kind, auto record, auto change) {
    record.set_state(v1::STATE_READY);
    change(record);
    const auto drift = DriftOf(kind, &record, &item);
    Lines lines;
    for (const auto& f : drift ? drift->fields() : google::protobuf::RepeatedPtrField<v1::DriftField>()) {
      lines.push_back(fmt::format("{}: {} | {}", f.field(), f.recorded(), f.believed()));
    }
    return lines;
  };
  item.mutable_believed()->mutable_stage2_domain()->set_vm("a");
  EXPECT_EQ(fields(Kind::kStage2Domain, v1::Stage2Domain(), [](auto& r) { r.set_smmu("s"); }),
            (Lines{"vm:  | a", "smmu: s | "}));
  item.mutable_believed()->mutable_viommu()->set_type(v1::VIOMMU_TYPE_ARM_SMMUV3);
  EXPECT_EQ(fields(Kind::kViommu, v1::Viommu(), [](auto& r) { r.set_type(v1::VIOMMU_TYPE_TEGRA241_CMDQV); }),
            Lines{"type: VIOMMU_TYPE_TEGRA241_CMDQV | VIOMMU_TYPE_ARM_SMMUV3"});
  item.mutable_believed()->mutable_nested_domain()->mutable_config()->mutable_translate()->set_word0(11);
  EXPECT_EQ(fields(Kind::kNestedDomain, v1::NestedDomain(), [](auto& r) { r.mutable_config()->mutable_abort(); }),
            Lines{"config: abort { } | translate { word0: 11 }"});
  item.mutable_believed()->mutable_hw_queue()->set_index(1);
  EXPECT_EQ(fields(Kind::kHwQueue, v1::HwQueue(), [](auto& r) { r.set_length_bytes(4096); }),
            (Lines{"index: 0 | 1", "length_bytes: 4096 | 0"}));
}

}  // namespace
}  // namespace viommu::server
