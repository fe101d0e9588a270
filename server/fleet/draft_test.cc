#include "server/fleet/draft.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/fleet/tables.h"

namespace viommu::server {
namespace {

v1::Vdevice VdeviceOn(const std::string& name, const std::string& nested = "", uint64_t vdev_id = 0) {
  v1::Vdevice vdevice;
  vdevice.set_name(name);
  vdevice.set_viommu("viommus/v");
  vdevice.set_nested_domain(nested);
  vdevice.set_vdev_id(vdev_id);
  return vdevice;
}

std::vector<std::string> Names(const View& view, const std::string& prefix, const std::string& after = "",
                               size_t limit = 100) {
  std::vector<std::string> names;
  for (const auto& vdevice : view.Scan<v1::Vdevice>(prefix, after, limit)) names.push_back(vdevice->name());
  return names;
}

using List = std::vector<std::string>;

class DraftTest : public testing::Test {
 protected:
  DraftTest() {
    Draft draft(tables_);
    for (const char* name : {"b", "d", "f"}) draft.Put(VdeviceOn(name, "n1"));
    Commit(draft);
  }
  void Commit(const Draft& draft) {
    for (const Change& change : draft.Changes()) tables_.Apply(change);
  }
  Tables tables_;
};

TEST_F(DraftTest, ReadsItsOwnChangesAndLeavesTheBaseAlone) {
  Draft draft(tables_);
  draft.Put(VdeviceOn("c", "n1"));
  draft.Put(VdeviceOn("d", "n2"));
  draft.Erase(Kind::kVdevice, "f");
  EXPECT_EQ(draft.Find<v1::Vdevice>("d")->nested_domain(), "n2");
  EXPECT_EQ(draft.Find<v1::Vdevice>("f"), nullptr);
  EXPECT_EQ(draft.Find<v1::Vdevice>("b")->nested_domain(), "n1");
  EXPECT_EQ(Names(draft, ""), (List{"b", "c", "d"}));
  EXPECT_EQ(draft.Count(Relation::kNestedVdevices, "n1"), 2);
  EXPECT_EQ(draft.Children(Relation::kNestedVdevices, "n1"), (List{"b", "c"}));
  EXPECT_EQ(draft.Children(Relation::kNestedVdevices, "n2"), (List{"d"}));
  EXPECT_EQ(Names(tables_, ""), (List{"b", "d", "f"}));
  EXPECT_EQ(tables_.Children(Relation::kNestedVdevices, "n1"), (List{"b", "d", "f"}));
}

TEST_F(DraftTest, ScansMergeInOrderFromAnyPlaceAndStopWhenTold) {
  Draft draft(tables_);
  for (const char* name : {"a", "c", "e", "g"}) draft.Put(VdeviceOn(name));
  draft.Erase(Kind::kVdevice, "d");
  EXPECT_EQ(Names(draft, ""), (List{"a", "b", "c", "e", "f", "g"}));
  EXPECT_EQ(Names(draft, "", "b"), (List{"c", "e", "f", "g"}));
  EXPECT_EQ(Names(draft, "", "c", 2), (List{"e", "f"}));
  EXPECT_EQ(Names(draft, "", "f"), (List{"g"}));
  EXPECT_EQ(Names(draft, "", "", 1), (List{"a"}));
  EXPECT_EQ(Names(draft, "c"), (List{"c"}));
}

TEST_F(DraftTest, PrefixesEndWhereTheNextBegins) {
  Draft draft(tables_);
  for (const char* name : {"v/1", "v/2", "v0/1", "w/1"}) draft.Put(VdeviceOn(name));
  EXPECT_EQ(Names(draft, "v/"), (List{"v/1", "v/2"}));
  Commit(draft);
  EXPECT_EQ(Names(tables_, "v/"), (List{"v/1", "v/2"}));
  EXPECT_EQ(Names(tables_, "v/", "v/1"), (List{"v/2"}));
}

TEST_F(DraftTest, ChangesComeInTheOrderOfTheFirstTouchWithoutThoseThatChangeNothing) {
  Draft draft(tables_);
  draft.Put(VdeviceOn("z"));
  draft.Put(VdeviceOn("b", "n2"));
  draft.Put(VdeviceOn("y"));
  draft.Erase(Kind::kVdevice, "z");
  draft.Put(VdeviceOn("b", "n3"));
  const std::vector<Change> changes = draft.Changes();
  ASSERT_EQ(changes.size(), 2u);
  EXPECT_EQ(changes[0].name, "b");
  EXPECT_EQ(static_cast<const v1::Vdevice&>(*changes[0].before).nested_domain(), "n1");
  EXPECT_EQ(static_cast<const v1::Vdevice&>(*changes[0].after).nested_domain(), "n3");
  EXPECT_EQ(changes[1].name, "y");
  EXPECT_EQ(changes[1].before, nullptr);
}

TEST_F(DraftTest, EachCommandStartsFromWhatWasKept) {
  Draft draft(tables_);
  draft.Put(VdeviceOn("c", "n1"));
  draft.Erase(Kind::kVdevice, "b");
  EXPECT_EQ(draft.Count(Relation::kNestedVdevices, "n1"), 3);
  EXPECT_EQ(draft.size(), 2u);
  draft.Keep();
  EXPECT_EQ(draft.size(), 0u);
  EXPECT_NE(draft.Find<v1::Vdevice>("c"), nullptr);
  draft.Erase(Kind::kVdevice, "c");
  draft.Put(VdeviceOn("b", "n2"));
  EXPECT_EQ(draft.Children(Relation::kNestedVdevices, "n1"), (List{"d", "f"}));
  const std::vector<Change> changes = draft.Changes();
  ASSERT_EQ(changes.size(), 2u);
  EXPECT_EQ(changes[0].name, "c");
  EXPECT_NE(changes[0].before, nullptr) << "as the first command left it";
  EXPECT_EQ(changes[0].after, nullptr);
  EXPECT_EQ(changes[1].name, "b");
  EXPECT_EQ(changes[1].before, nullptr);
}

TEST_F(DraftTest, UndoTakesBackTheLastCommandAlone) {
  Draft draft(tables_);
  draft.Put(VdeviceOn("c", "n1"));
  draft.Erase(Kind::kVdevice, "b");
  draft.Keep();
  draft.Put(VdeviceOn("a", "n2"));
  draft.Put(VdeviceOn("b", "n1"));
  draft.Put(VdeviceOn("c", "n2"));
  draft.Erase(Kind::kVdevice, "d");
  draft.Undo();
  EXPECT_EQ(Names(draft, ""), (List{"c", "d", "f"}));
  EXPECT_EQ(draft.Find<v1::Vdevice>("c")->nested_domain(), "n1");
  EXPECT_EQ(draft.Children(Relation::kNestedVdevices, "n1"), (List{"c", "d", "f"}));
  EXPECT_EQ(draft.Count(Relation::kNestedVdevices, "n2"), 0);
  EXPECT_TRUE(draft.Changes().empty());
  draft.Put(VdeviceOn("a"));
  ASSERT_EQ(draft.Changes().size(), 1u);
  EXPECT_EQ(draft.Changes()[0].before, nullptr);
}

TEST_F(DraftTest, ARenamedVdeviceReservesItsOldName) {
  Draft draft(tables_);
  v1::Vdevice renamed = VdeviceOn("viommus/v/vdevices/2", "", 2);
  renamed.set_previous_vdev_id(1);
  draft.Put(renamed);
  EXPECT_EQ(draft.Children(Relation::kReservedNames, "viommus/v/vdevices/1"), (List{"viommus/v/vdevices/2"}));
  Commit(draft);
  EXPECT_EQ(tables_.Count(Relation::kReservedNames, "viommus/v/vdevices/1"), 1);
}

TEST_F(DraftTest, TablesCountWithoutChildrenWhereTheyAreMany) {
  Draft draft(tables_);
  v1::Device device;
  device.set_name("hosts/h/devices/0000:00:00.0");
  device.set_smmu("hosts/h/smmus/0");
  draft.Put(device);
  device.set_name("hosts/h/devices/0000:00:00.1");
  device.set_owner("viommus/v/vdevices/1");
  draft.Put(device);
  for (const View* view : std::initializer_list<const View*>{&draft, &tables_}) {
    EXPECT_EQ(view->Count(Relation::kSmmuDevices, device.smmu()), 2);
    EXPECT_EQ(view->Count(Relation::kSmmuTakenDevices, device.smmu()), 1);
    if (view == &draft) Commit(draft);
  }
  Draft erase(tables_);
  erase.Erase(Kind::kDevice, device.name());
  EXPECT_EQ(erase.Count(Relation::kSmmuTakenDevices, device.smmu()), 0);
  Commit(erase);
  EXPECT_EQ(tables_.Count(Relation::kSmmuTakenDevices, device.smmu()), 0);
  EXPECT_EQ(tables_.Count(Relation::kSmmuDevices, device.smmu()), 1);
}

TEST_F(DraftTest, AChangeThatStartsFromSomethingElseEndsTheProcess) {
  const auto record = std::make_shared<const v1::Vdevice>(VdeviceOn("b"));
  EXPECT_DEATH(tables_.Apply({Kind::kVdevice, "b", nullptr, record}), "broken invariant");
  EXPECT_DEATH(tables_.Apply({Kind::kVdevice, "x", record, nullptr}), "broken invariant");
  Draft draft(tables_);
  EXPECT_DEATH(draft.Erase(Kind::kVdevice, "x"), "broken invariant");
}

TEST_F(DraftTest, RecordsComeBackAsTheyWere) {
  v1::Vdevice vdevice = VdeviceOn("viommus/v/vdevices/7", "n", 7);
  (*vdevice.mutable_labels())["k"] = "v";
  vdevice.set_uid("viommus/v/vdevices/7");  // the same text as the name
  vdevice.mutable_create_time()->set_seconds(1);
  Draft draft(tables_);
  draft.Put(vdevice);
  Commit(draft);
  EXPECT_EQ(tables_.Find<v1::Vdevice>(vdevice.name())->ShortDebugString(), vdevice.ShortDebugString());
  EXPECT_EQ(tables_.size(Kind::kVdevice), 4);
}

TEST(ViewTest, HostsOfRecords) {
  v1::Device device;
  device.set_name("hosts/h/devices/0000:00:00.0");
  EXPECT_EQ(HostOf(Kind::kDevice, device), "hosts/h");
  v1::Host host;
  host.set_name("hosts/h");
  EXPECT_EQ(HostOf(Kind::kHost, host), "hosts/h");
  v1::Viommu viommu;
  viommu.set_host("hosts/h");
  EXPECT_EQ(HostOf(Kind::kViommu, viommu), "hosts/h");
}

TEST(ViewTest, RecordsBecomeResourcesAndBytesBecomeRecords) {
  for (const Kind kind : kKinds) {
    const RecordPtr empty = ParseRecord(kind, "");
    ASSERT_NE(empty, nullptr);
    EXPECT_EQ(static_cast<int>(ToResource(kind, *empty).kind_case()), static_cast<int>(kind));
    EXPECT_EQ(ParseRecord(kind, "\xff"), nullptr);
  }
  EXPECT_EQ(ParseRecord(static_cast<Kind>(99), ""), nullptr);
}

}  // namespace
}  // namespace viommu::server
