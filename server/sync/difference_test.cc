#include "server/sync/difference.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "server/fleet/test_fleet.h"
#include "server/sync/desired.h"

namespace viommu::server {
namespace {

class DifferenceTest : public FleetTest {
 protected:
  // What the changes of the last command mean for the host's agent.
  std::vector<std::pair<std::string, Concern>> LastConcerns() const {
    ChangeSet set;
    set.changes = fleet_.changes();
    std::vector<std::pair<std::string, Concern>> concerns;
    for (const Change& change : set.changes) {
      if (const Concern concern = ConcernOf(change, set); concern != Concern::kNone) {
        concerns.emplace_back(change.name, concern);
      }
    }
    return concerns;
  }

  std::vector<std::string> Changed() const {
    std::vector<std::string> names;
    for (const ResourceKey& key : Compare(RecordsOfHost(fleet_.tables(), kGrace), held_).changed) {
      names.push_back(key.name);
    }
    return names;
  }

  template <typename T>
  void Hold(const T& record) {
    v1::HeldItem& item = *held_.Add();
    item.set_uid(record.uid());
    item.set_generation(record.generation());
    item.set_settled(true);
  }

  using Concerns = std::vector<std::pair<std::string, Concern>>;
  using Names = std::vector<std::string>;

  google::protobuf::RepeatedPtrField<v1::HeldItem> held_;
};

TEST_F(DifferenceTest, AgentsHearOfWhatIsDesiredAndNotOfTheirOwnAnswers) {
  Accepted(CreateNested("v", "n"));
  EXPECT_EQ(LastConcerns(), (Concerns{{"viommus/v/nestedDomains/n", Concern::kSend}}));
  EXPECT_TRUE(fleet_.Answer(fleet_.nested("v", "n"), v1::OUTCOME_APPLIED).ok());
  ASSERT_FALSE(fleet_.changes().empty());
  EXPECT_EQ(LastConcerns(), Concerns{});
  EXPECT_TRUE(fleet_.Answer(fleet_.nested("v", "n"), v1::OUTCOME_FAILED).ok());
  ASSERT_FALSE(fleet_.changes().empty());
  EXPECT_EQ(LastConcerns(), Concerns{});
  EXPECT_TRUE(fleet_.Disconnect(kGrace).ok());
  ASSERT_FALSE(fleet_.changes().empty());
  EXPECT_EQ(LastConcerns(), Concerns{});
}

TEST_F(DifferenceTest, ADeletionIsSentAndItsConfirmationIsNot) {
  Accepted(SetVdevId("v", DeviceOf(kGrace, 0), 5));
  Accepted(UnsetVdevId("v", 5));
  EXPECT_EQ(LastConcerns(), (Concerns{{"viommus/v/vdevices/5", Concern::kSend}}));
  EXPECT_TRUE(fleet_.Answer(fleet_.vdevice("v", 5), v1::OUTCOME_RELEASED).ok());
  EXPECT_EQ(LastConcerns(), (Concerns{{"viommus/v/vdevices/5", Concern::kForget}}));
}

TEST_F(DifferenceTest, ARebindIsNoTearDown) {
  Accepted(SetVdevId("v", DeviceOf(kGrace, 0), 5));
  EXPECT_TRUE(fleet_.Answer(fleet_.vdevice("v", 5), v1::OUTCOME_APPLIED).ok());
  Accepted(RebindVdevId("v", 5, 6));
  const Concerns concerns = LastConcerns();
  EXPECT_EQ(concerns.size(), 2u);
  for (const auto& [name, concern] : concerns) {
    EXPECT_EQ(concern, name == "viommus/v/vdevices/6" ? Concern::kSend : Concern::kForget) << name;
  }
}

TEST_F(DifferenceTest, WhatIsGoneWithoutTheAgentsWordIsToBeTornDown) {
  auto viommu = std::make_shared<v1::Viommu>(fleet_.viommu("v"));
  ChangeSet set;
  set.changes.push_back({Kind::kViommu, viommu->name(), viommu, nullptr});
  EXPECT_EQ(ConcernOf(set.changes[0], set), Concern::kTearDown);
  viommu->set_state(v1::STATE_DELETING);
  EXPECT_EQ(ConcernOf(set.changes[0], set), Concern::kForget);
}

TEST_F(DifferenceTest, FindsEverythingOfTheHostInTheOrderOfDependence) {
  Accepted(CreateStage2("a", kGrace));
  Accepted(CreateViommu("b", SmmuOf(kGrace, 1), "a"));
  Accepted(CreateNested("b", "n"));
  Accepted(SetVdevId("b", DeviceOf(kGrace, 2), 9));
  Accepted(SetVdevId("v", DeviceOf(kGrace, 0), 9));
  Accepted(CreateStage2("other", kSmall, SmmuOf(kSmall, 0)));
  EXPECT_EQ(Changed(), (Names{"stage2Domains/a", "stage2Domains/s", "viommus/b", "viommus/v",
                              "viommus/b/nestedDomains/n", "viommus/b/vdevices/9", "viommus/v/vdevices/9"}));
}

TEST_F(DifferenceTest, LeavesOutWhatIsSettledOnBothSides) {
  EXPECT_TRUE(fleet_.Answer(fleet_.stage2("s"), v1::OUTCOME_APPLIED).ok());
  EXPECT_TRUE(fleet_.Answer(fleet_.viommu("v"), v1::OUTCOME_DORMANT).ok());
  Hold(fleet_.stage2("s"));
  Hold(fleet_.viommu("v"));
  EXPECT_EQ(Changed(), Names{});
  held_.Mutable(1)->set_settled(false);
  EXPECT_EQ(Changed(), Names{"viommus/v"});
  held_.Mutable(1)->set_settled(true);
  held_.Mutable(1)->set_generation(held_.Get(1).generation() - 1);
  EXPECT_EQ(Changed(), Names{"viommus/v"});
}

TEST_F(DifferenceTest, SendsWhatIsNotSettledHereAlthoughTheAgentHasIt) {
  Hold(fleet_.stage2("s"));
  Hold(fleet_.viommu("v"));
  EXPECT_EQ(Changed(), (Names{"stage2Domains/s", "viommus/v"})) << "its answers got lost";
  EXPECT_TRUE(fleet_.Answer(fleet_.stage2("s"), v1::OUTCOME_FAILED).ok());
  EXPECT_TRUE(fleet_.Answer(fleet_.viommu("v"), v1::OUTCOME_APPLIED).ok());
  EXPECT_EQ(Changed(), Names{"stage2Domains/s"}) << "it failed";
  EXPECT_TRUE(fleet_.Answer(fleet_.stage2("s"), v1::OUTCOME_APPLIED).ok());
  EXPECT_EQ(Changed(), Names{});
  Accepted(DeleteViommu("v"));
  Hold(fleet_.viommu("v"));
  EXPECT_EQ(Changed(), Names{"viommus/v"}) << "it is on its way out";
}

TEST_F(DifferenceTest, NamesWhatTheRecordDoesNotKnow) {
  v1::HeldItem& item = *held_.Add();
  item.set_uid("zombie");
  item.set_generation(4);
  item.set_settled(true);
  Hold(fleet_.viommu("v"));
  const Difference difference = Compare(RecordsOfHost(fleet_.tables(), kGrace), held_);
  EXPECT_EQ(difference.unknown_uids, Names{"zombie"});
  // Another host's resource is as unknown as one that does not exist.
  EXPECT_EQ(Compare(RecordsOfHost(fleet_.tables(), kSmall), held_).unknown_uids,
            (Names{fleet_.viommu("v").uid(), "zombie"}));
}

class DesiredTest : public FleetTest {
 protected:
  DesiredMessage Build(DesiredWork work) {
    const std::vector<RecordPtr> records = FetchRecords(fleet_.tables(), work);
    return BuildDesired(std::move(work), records);
  }

  DesiredWork work_{{{Kind::kStage2Domain, "stage2Domains/s"}, {Kind::kViommu, "viommus/v"}}, {}, 9, true, true, 4096};
};

TEST_F(DesiredTest, SaysWhatTheRecordSaysNow) {
  const DesiredMessage built = Build(work_);
  ASSERT_NE(built.message, nullptr);
  const v1::Desired& desired = built.message->desired();
  ASSERT_EQ(desired.items_size(), 2);
  EXPECT_EQ(desired.items(0).stage2_domain().uid(), fleet_.stage2("s").uid());
  EXPECT_EQ(desired.items(1).viommu().uid(), fleet_.viommu("v").uid());
  EXPECT_TRUE(desired.sync_mark());
  EXPECT_EQ(built.revision, 9);
  EXPECT_EQ(built.items, 2u);
}

TEST_F(DesiredTest, StopsAtTheLimitAndPromisesNothing) {
  work_.unknown_uids = {"zombie"};
  work_.max_bytes = 64;
  DesiredMessage built = Build(work_);
  EXPECT_EQ(built.message->desired().unknown_uids_size(), 1) << "what is unknown goes first";
  EXPECT_EQ(built.keys_left.size(), 2u);
  EXPECT_EQ(built.revision, 0);
  EXPECT_FALSE(built.message->desired().sync_mark());

  work_.unknown_uids = {};
  built = Build(work_);
  EXPECT_EQ(built.message->desired().items_size(), 1) << "one resource goes however large it is";
  EXPECT_EQ(built.keys_left, (std::vector<ResourceKey>{{Kind::kViommu, "viommus/v"}}));
  EXPECT_EQ(built.last, (ResourceKey{Kind::kStage2Domain, "stage2Domains/s"}));
}

TEST_F(DesiredTest, NeverExceedsTheLimit) {
  DesiredWork work{{}, {}, 9, true, false, 2000};
  for (int i = 0; i < 100; ++i) {
    Accepted(CreateNested("v", "n" + std::to_string(i)));
    work.keys.push_back({Kind::kNestedDomain, "viommus/v/nestedDomains/n" + std::to_string(i)});
    work.unknown_uids.push_back("uid-that-is-gone-" + std::to_string(i));
  }
  int items = 0, uids = 0, messages = 0;
  while (!work.keys.empty() || !work.unknown_uids.empty()) {
    DesiredMessage built = Build(work);
    ASSERT_NE(built.message, nullptr);
    EXPECT_LE(built.message->ByteSizeLong(), 2000u);
    items += built.message->desired().items_size();
    uids += built.message->desired().unknown_uids_size();
    work.keys = built.keys_left;
    work.unknown_uids = built.uids_left;
    ASSERT_LT(++messages, 100);
  }
  EXPECT_EQ(items, 100);
  EXPECT_EQ(uids, 100);
  EXPECT_GT(messages, 5);
}

TEST_F(DesiredTest, SaysNothingAboutWhatIsGone) {
  const DesiredMessage built = Build({{{Kind::kViommu, "viommus/gone"}}, {}, 9, true, false, 4096});
  EXPECT_EQ(built.message, nullptr);
  EXPECT_EQ(built.revision, 9);
}

}  // namespace
}  // namespace viommu::server
