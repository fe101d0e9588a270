#include "agent/reconcile/held_state.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "agent/reconcile/testing.h"

namespace viommu::agent {
namespace {

journal::Record Intent(const v1::Resource& item) {
  journal::Record record;
  *record.mutable_intent()->add_items() = item;
  return record;
}

journal::Record Release(const std::string& uid, const std::string& name, int64_t generation) {
  journal::Record record;
  auto* done = record.mutable_done();
  done->set_uid(uid);
  done->set_name(name);
  done->set_generation(generation);
  done->set_released(true);
  return record;
}

journal::Record Synced(int64_t revision) {
  journal::Record record;
  record.mutable_synced()->set_revision(revision);
  record.mutable_synced()->set_boot_id("boot");
  return record;
}

TEST(HeldStateTest, TakesWhatIsNewerOnly) {
  HeldState state;
  EXPECT_EQ(state.Judge(Viommu("u", "v", 5)), Verdict::kAccept);
  ASSERT_TRUE(state.Apply(Intent(Viommu("u", "v", 5))).ok());
  EXPECT_EQ(state.Judge(Viommu("u", "v", 4)), Verdict::kStale);
  EXPECT_EQ(state.Judge(Viommu("u", "v", 5)), Verdict::kSame);
  EXPECT_EQ(state.Judge(Viommu("u", "v", 6)), Verdict::kAccept);
  EXPECT_EQ(state.Judge(Deleting(Viommu("u", "v", 0), 5)), Verdict::kAccept);
  EXPECT_EQ(state.Judge(Deleting(Viommu("u", "v", 0), 4)), Verdict::kStale);
}

TEST(HeldStateTest, ReleasedNeverComesBackUnderItsUidOrName) {
  HeldState state;
  ASSERT_TRUE(state.Apply(Intent(Deleting(Viommu("u", "v", 0), 7))).ok());
  ASSERT_TRUE(state.Apply(Release("u", "", 7)).ok());
  EXPECT_EQ(state.Find("u"), nullptr);
  EXPECT_EQ(state.Judge(Viommu("u", "v", 7)), Verdict::kReleased);
  EXPECT_EQ(state.Judge(Viommu("other", "v", 6)), Verdict::kReleased);
  EXPECT_EQ(state.Judge(Viommu("other", "w", 6)), Verdict::kAccept);
  EXPECT_EQ(state.Judge(Viommu("other", "v", 8)), Verdict::kAccept) << "the name may be used again, later";
  EXPECT_EQ(state.Judge(Deleting(Viommu("u", "v", 0), 7)), Verdict::kGone);
}

TEST(HeldStateTest, ReleasedUnderAnotherNameStaysReleased) {
  HeldState state;
  ASSERT_TRUE(state.Apply(Intent(Vdevice("d", "v", 1, 5))).ok());
  ASSERT_TRUE(state.Apply(Intent(Vdevice("d", "v", 2, 6))).ok());
  ASSERT_TRUE(state.Apply(Release("d", "", 7)).ok());
  EXPECT_EQ(state.Judge(Vdevice("d", "v", 1, 5)), Verdict::kReleased) << "from before the rebind";
  EXPECT_EQ(state.Judge(Vdevice("e", "v", 1, 5)), Verdict::kAccept);
}

TEST(HeldStateTest, TombstonesCollapseUpToWhatIsSynced) {
  HeldState state;
  const auto release = [&state](int64_t generation) {
    ASSERT_TRUE(
        state.Apply(Release(fmt::format("u{}", generation), fmt::format("viommus/v{}", generation), generation)).ok());
  };
  for (size_t i = 1; i <= kMaxTombstones + 10; ++i) release(static_cast<int64_t>(i));
  EXPECT_EQ(state.tombstones(), kMaxTombstones + 10) << "nothing is synced: something older may still be on its way";
  EXPECT_EQ(state.floor_generation(), 0);
  ASSERT_TRUE(state.Apply(Synced(6)).ok());
  EXPECT_EQ(state.tombstones(), kMaxTombstones + 4);
  EXPECT_EQ(state.floor_generation(), 6);
  ASSERT_TRUE(state.Apply(Synced(100000)).ok());
  EXPECT_EQ(state.tombstones(), kMaxTombstones);
  EXPECT_EQ(state.floor_generation(), 10);
  EXPECT_EQ(state.Judge(Viommu("u3", "v3", 3)), Verdict::kReleased);
  EXPECT_EQ(state.Judge(Viommu("new", "new", 10)), Verdict::kReleased);
  EXPECT_EQ(state.Judge(Viommu("new", "new", 100001)), Verdict::kAccept);
}

TEST(HeldStateTest, RebindMovesTheName) {
  HeldState state;
  ASSERT_TRUE(state.Apply(Intent(Vdevice("d", "v", 1, 5))).ok());
  ASSERT_TRUE(state.Apply(Intent(Vdevice("d", "v", 2, 6))).ok());
  EXPECT_EQ(state.FindLive("viommus/v/vdevices/1"), nullptr);
  ASSERT_NE(state.FindLive("viommus/v/vdevices/2"), nullptr);
  EXPECT_EQ(state.FindLive("viommus/v/vdevices/2")->uid(), "d");
}

TEST(HeldStateTest, OrphansAreToBeTornDown) {
  HeldState state;
  ASSERT_TRUE(state.Apply(Intent(Viommu("u", "v", 5))).ok());
  journal::Record record;
  record.mutable_intent()->add_orphans("u");
  record.mutable_intent()->add_orphans("never-held");
  ASSERT_TRUE(state.Apply(record).ok());
  ASSERT_EQ(state.items().size(), 1u);
  EXPECT_TRUE(state.Find("u")->deleting);
  EXPECT_EQ(state.FindLive("viommus/v"), nullptr);
}

// Until it is gone, or there is another one.
TEST(HeldStateTest, KnowsWhichKeptObjectsNoLongerFit) {
  HeldState state;
  const auto hold = [&state](const v1::Resource& item) {
    journal::Record record;
    *record.mutable_intent()->add_items() = item;
    ASSERT_TRUE(state.Apply(record).ok());
  };
  const auto keep = [&state](const std::function<void(journal::Kept&)>& fill) {
    journal::Record record;
    record.mutable_kept()->set_vm("vm1");
    fill(*record.mutable_kept());
    ASSERT_TRUE(state.Apply(record).ok());
  };
  const auto make = [&keep](const std::string& uid) {
    keep([&uid](journal::Kept& k) { k.mutable_object()->set_uid(uid); });
  };
  const auto outdated = [](const HeldState& of) {
    std::vector<std::string> uids;
    for (const auto& [uid, object] : of.kept().at("vm1").objects) {
      if (object.outdated()) uids.push_back(uid);
    }
    return uids;
  };
  keep([](journal::Kept& k) { k.mutable_opened()->set_key("key"); });
  for (const auto& item : {Viommu("v", "v", 3), Nested("n", "v", "n", 4), Vdevice("d", "v", 7, 5, 0, "n")}) {
    hold(item);
    make(UidOf(item));
  }
  hold(Viommu("v", "v", 20));
  hold(Vdevice("d", "v", 8, 21, 0, "n"));
  EXPECT_THAT(outdated(state), testing::IsEmpty()) << "that can be changed";
  hold(Vdevice("d", "v", 8, 22, 1, "n"));
  hold(Bypassing(Nested("n", "v", "n", 23)));
  hold(Bypassing(Nested("n", "v", "n", 24)));
  EXPECT_THAT(outdated(state), testing::ElementsAre("d", "n"));
  HeldState rewritten;
  for (const auto& record : state.Snapshot()) ASSERT_TRUE(rewritten.Apply(record).ok());
  EXPECT_THAT(outdated(rewritten), testing::ElementsAre("d", "n"));
  make("n");
  keep([](journal::Kept& k) { k.set_gone("d"); });
  EXPECT_THAT(outdated(state), testing::IsEmpty());
}

TEST(HeldStateTest, KeptContexts) {
  HeldState state;
  const auto apply = [&state](auto fill) {
    journal::Record record;
    record.mutable_kept()->set_vm("vm1");
    fill(*record.mutable_kept());
    return state.Apply(record);
  };
  EXPECT_FALSE(apply([](journal::Kept& k) { k.set_ioas(2); }).ok()) << "a change of nothing";
  ASSERT_TRUE(apply([](journal::Kept& k) { k.mutable_opened()->set_key("key"); }).ok());
  ASSERT_TRUE(apply([](journal::Kept& k) { k.set_changing("IOAS_ALLOC"); }).ok());
  EXPECT_EQ(state.kept().at("vm1").changing, "IOAS_ALLOC");
  ASSERT_TRUE(apply([](journal::Kept& k) { k.mutable_mapped()->set_iova(0x5000); }).ok());
  EXPECT_EQ(state.kept().at("vm1").changing, "IOAS_ALLOC") << "the IOAS is not known yet";
  ASSERT_TRUE(apply([](journal::Kept& k) { k.set_ioas(1); }).ok());
  EXPECT_EQ(state.kept().at("vm1").ranges.size(), 1u);
  ASSERT_TRUE(apply([](journal::Kept& k) { k.set_ioas(0); }).ok());
  EXPECT_TRUE(state.kept().at("vm1").ranges.empty()) << "it went with its IOAS";
  ASSERT_TRUE(apply([](journal::Kept& k) { k.set_ioas(2); }).ok());
  EXPECT_EQ(state.kept().at("vm1").changing, "");
  for (const char* uid : {"s", "v"}) {
    ASSERT_TRUE(apply([uid](journal::Kept& k) { k.mutable_object()->set_uid(uid); }).ok());
  }
  for (const uint64_t iova : {0x1000, 0x2000}) {
    ASSERT_TRUE(apply([iova](journal::Kept& k) { k.mutable_mapped()->set_iova(iova); }).ok());
  }
  ASSERT_TRUE(apply([](journal::Kept& k) { k.set_gone("v"); }).ok());
  ASSERT_TRUE(apply([](journal::Kept& k) { k.set_unmapped(0x1000); }).ok());
  ASSERT_TRUE(apply([](journal::Kept& k) { k.set_changing("ATTACH_IOMMUFD_PT"); }).ok());

  HeldState copy;
  for (const auto& record : state.Snapshot()) ASSERT_TRUE(copy.Apply(record).ok());
  for (const HeldState* one : {&state, &copy}) {
    const KeptState& kept = one->kept().at("vm1");
    EXPECT_EQ(kept.key, "key");
    EXPECT_EQ(kept.ioas, 2u);
    EXPECT_EQ(kept.objects.size(), 1u);
    EXPECT_TRUE(kept.objects.contains("s"));
    EXPECT_EQ(kept.ranges.size(), 1u);
    EXPECT_TRUE(kept.ranges.contains(0x2000));
    EXPECT_EQ(kept.changing, "ATTACH_IOMMUFD_PT");
  }
  ASSERT_TRUE(apply([](journal::Kept& k) { k.set_settled(true); }).ok());
  EXPECT_EQ(state.kept().at("vm1").changing, "");
  ASSERT_TRUE(apply([](journal::Kept& k) { k.set_closed(true); }).ok());
  EXPECT_TRUE(state.kept().empty());
}

TEST(HeldStateTest, SnapshotLeadsToTheSameState) {
  HeldState state;
  journal::Record identity;
  identity.mutable_identity()->set_agent_id("a");
  identity.mutable_identity()->set_epoch(3);
  ASSERT_TRUE(state.Apply(identity).ok());
  ASSERT_TRUE(state.Apply(Synced(1)).ok());
  for (int i = 0; i < 600; ++i) {
    ASSERT_TRUE(state.Apply(Intent(Vdevice(fmt::format("d{}", i), "v", static_cast<uint64_t>(i), 10 + i))).ok());
  }
  journal::Record record;
  record.mutable_act()->set_uid("d1");
  record.mutable_act()->set_generation(11);
  ASSERT_TRUE(state.Apply(record).ok());
  record.mutable_done()->set_uid("d1");
  record.mutable_done()->set_generation(11);
  (*record.mutable_done()->mutable_kernel_ids())["vdevice"] = 9;
  ASSERT_TRUE(state.Apply(record).ok());
  for (size_t i = 0; i < kMaxTombstones + 5; ++i) {
    ASSERT_TRUE(state.Apply(Release(fmt::format("r{}", i), fmt::format("viommus/r{}", i), 1000 + i)).ok());
  }
  ASSERT_TRUE(state.Apply(Synced(1002)).ok());

  HeldState copy;
  for (const auto& r : state.Snapshot()) ASSERT_TRUE(copy.Apply(r).ok());
  EXPECT_EQ(copy.items().size(), 600u);
  EXPECT_EQ(copy.tombstones(), state.tombstones());
  EXPECT_EQ(copy.floor_generation(), state.floor_generation());
  EXPECT_EQ(copy.identity().SerializeAsString(), state.identity().SerializeAsString());
  EXPECT_EQ(copy.synced_revision(), 1002);
  EXPECT_TRUE(copy.Find("d1")->done);
  EXPECT_TRUE(copy.Find("d1")->acted);
  EXPECT_EQ(copy.Find("d1")->kernel_ids.at("vdevice"), 9u);
  EXPECT_FALSE(copy.Find("d2")->done);
}

TEST(HeldStateTest, RefusesWhatCannotFollow) {
  HeldState state;
  journal::Record record;
  EXPECT_FALSE(state.Apply(record).ok());
  record.mutable_act()->set_uid("x");
  EXPECT_FALSE(state.Apply(record).ok());
  record.mutable_done()->set_uid("x");
  EXPECT_FALSE(state.Apply(record).ok());
  record.mutable_intent()->add_items()->mutable_host();
  EXPECT_FALSE(state.Apply(record).ok());
}

}  // namespace
}  // namespace viommu::agent
