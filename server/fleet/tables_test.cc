// What tables offer beside the view that every draft is, too (draft_test.cc).

#include "server/fleet/tables.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "server/fleet/test_fleet.h"

namespace viommu::server {
namespace {

class TablesTest : public FleetTest {
 protected:
  TablesTest() {
    Accepted(SetVdevId("v", DeviceOf(kGrace, 0), 8));
    Accepted(CreateNested("v", "n"));
    Accepted(AttachDevice("v", "n", DeviceOf(kGrace, 0)));
    Accepted(SetVdevId("v", DeviceOf(kGrace, 1), 16));
    Accepted(RebindVdevId("v", 16, 17));
  }

  static int64_t InState(const Tables& tables, Kind kind, int state) {
    return tables.states()[static_cast<size_t>(kind)][static_cast<size_t>(state)];
  }
};

std::vector<std::string> Texts(const Tables& tables, Kind kind) {
  std::vector<std::string> texts;
  tables.ScanRecords(kind, "", "", [&](const RecordPtr& record) {
    texts.push_back(record->ShortDebugString());
    return true;
  });
  return texts;
}

TEST_F(TablesTest, WhatIsAppendedIsAsIfItHadBeenApplied) {
  const Tables& applied = fleet_.tables();
  Tables appended;
  for (const Kind kind : kKinds) {
    // As from a store: one message is parsed into again and again.
    std::shared_ptr<google::protobuf::Message> scratch = NewRecord(kind);
    applied.ScanRecords(kind, "", "", [&](const RecordPtr& record) {
      if (scratch.use_count() > 1) scratch = NewRecord(kind);
      const std::string bytes = record->SerializeAsString();
      EXPECT_TRUE(scratch->ParseFromString(bytes));
      appended.Append(kind, scratch, bytes);
      return true;
    });
    EXPECT_EQ(Texts(appended, kind), Texts(applied, kind)) << KindName(kind);
  }
  EXPECT_EQ(appended.states(), applied.states());
  EXPECT_TRUE(CheckInvariants(appended).ok());
  for (const std::string& smmu : {SmmuOf(kGrace, 0), SmmuOf(kGrace, 1)}) {
    for (const Relation relation :
         {Relation::kSmmuDevices, Relation::kSmmuTakenDevices, Relation::kSmmuStage2s, Relation::kSmmuViommus}) {
      EXPECT_EQ(appended.Count(relation, smmu), applied.Count(relation, smmu)) << static_cast<int>(relation);
    }
  }
  EXPECT_EQ(appended.Children(Relation::kHostStage2s, kGrace), applied.Children(Relation::kHostStage2s, kGrace));
  const std::string nested = NestedDomainName(ViommuName("v"), "n");
  EXPECT_EQ(appended.Children(Relation::kNestedVdevices, nested), applied.Children(Relation::kNestedVdevices, nested));
  const std::string reserved = VdeviceName(ViommuName("v"), 16);
  EXPECT_EQ(appended.Count(Relation::kReservedNames, reserved), 1);

  // And goes on as such.
  Draft draft(appended);
  draft.Erase(Kind::kNestedDomain, nested);
  for (const Change& change : draft.Changes()) appended.Apply(change);
  EXPECT_EQ(appended.size(Kind::kNestedDomain), 0);
}

TEST_F(TablesTest, WhatIsAppendedOutOfOrderEndsTheProcess) {
  for (const Kind kind : {Kind::kHost, Kind::kDevice}) {
    Tables tables;
    RecordPtr first;
    fleet_.tables().ScanRecords(kind, "", "", [&](const RecordPtr& record) {
      tables.Append(kind, record, record->SerializeAsString());
      if (first == nullptr) first = record;
      return true;
    });
    EXPECT_DEATH(tables.Append(kind, first, first->SerializeAsString()), "is appended after");
  }
}

TEST_F(TablesTest, VisitsWhatItScans) {
  for (const Kind kind : kKinds) {
    std::vector<std::string> visited;
    fleet_.tables().VisitRecords(kind, "", "", [&](const google::protobuf::Message& record) {
      visited.push_back(record.ShortDebugString());
      return true;
    });
    EXPECT_EQ(visited, Texts(fleet_.tables(), kind)) << KindName(kind);
  }
  const std::string after = DeviceOf(kGrace, 1);
  std::vector<std::string> names;
  fleet_.tables().VisitRecords(Kind::kDevice, DevicePrefix(kGrace), after, [&](const auto& record) {
    names.push_back(NameOf(Kind::kDevice, record));
    return names.size() < 2;
  });
  EXPECT_EQ(names, (std::vector<std::string>{DeviceOf(kGrace, 2), DeviceOf(kGrace, 3)}));
}

TEST_F(TablesTest, CountsByState) {
  const Tables& tables = fleet_.tables();
  EXPECT_EQ(InState(tables, Kind::kHost, v1::HOST_STATE_CONNECTED), 2);
  EXPECT_EQ(InState(tables, Kind::kDevice, v1::DEVICE_STATE_ASSIGNED), 2);
  EXPECT_EQ(InState(tables, Kind::kDevice, v1::DEVICE_STATE_FREE), 6);
  EXPECT_EQ(InState(tables, Kind::kVdevice, v1::STATE_PENDING), 2);
  ASSERT_TRUE(fleet_.Answer(fleet_.vdevice("v", 8), v1::OUTCOME_APPLIED).ok());
  EXPECT_EQ(InState(tables, Kind::kVdevice, v1::STATE_PENDING), 1);
  EXPECT_EQ(InState(tables, Kind::kVdevice, v1::STATE_READY), 1);

  // A state that is not known yet is counted with the last.
  Tables newer;
  v1::Viommu viommu;
  viommu.set_name("viommus/v");
  viommu.set_state(static_cast<v1::State>(100));
  newer.Apply({Kind::kViommu, viommu.name(), nullptr, std::make_shared<const v1::Viommu>(viommu)});
  EXPECT_EQ(InState(newer, Kind::kViommu, Tables::kStates - 1), 1);
}

}  // namespace
}  // namespace viommu::server
