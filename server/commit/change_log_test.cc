#include "server/commit/change_log.h"

#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "common/error.h"
#include "server/store/memory_store.h"

namespace viommu::server {
namespace {

class ChangeLogTest : public testing::Test {
 protected:
  // Publishes revisions [first, last], each one host, all at `time_s`.
  void Append(ChangeLog& log, int64_t first, int64_t last, int64_t time_s) {
    Batch batch;
    std::vector<ChangeLog::Entry> entries;
    for (int64_t revision = first; revision <= last; ++revision) {
      auto host = std::make_shared<v1::Host>();
      host->set_name("hosts/h" + std::to_string(revision));
      auto set = std::make_shared<ChangeSet>();
      set->revision = revision;
      set->changes.push_back({Kind::kHost, host->name(), nullptr, host});
      entries.push_back(ChangeLog::Encode(*set, time_s, batch));
    }
    ASSERT_TRUE(store_.Commit(batch, Durability::kSynced).ok());
    log.Publish(std::move(entries), time_s);
  }

  void Compact(ChangeLog& log, int64_t now_s) {
    Batch batch;
    const int64_t oldest = log.PlanCompaction(now_s, batch);
    ASSERT_TRUE(store_.Commit(batch, Durability::kSynced).ok());
    log.Compacted(oldest);
  }

  static std::vector<int64_t> Revisions(const absl::StatusOr<std::vector<ChangeSetPtr>>& sets) {
    std::vector<int64_t> revisions;
    EXPECT_TRUE(sets.ok()) << sets.status();
    if (sets.ok()) {
      for (const auto& set : *sets) revisions.push_back(set->revision);
    }
    return revisions;
  }

  MemoryStore store_;
};

TEST_F(ChangeLogTest, ReadsInOrderFromMemoryAndFromTheStore) {
  ChangeLog::Options options;
  options.max_memory_sets = 3;
  ChangeLog log(store_, options);
  ASSERT_TRUE(log.Load(0, 0).ok());
  Append(log, 1, 10, 100);
  EXPECT_EQ(Revisions(log.ReadAfter(0, 4)), (std::vector<int64_t>{1, 2, 3, 4}));
  EXPECT_EQ(Revisions(log.ReadAfter(7, 100)), (std::vector<int64_t>{8, 9, 10}));
  EXPECT_EQ(Revisions(log.ReadAfter(5, 100)), (std::vector<int64_t>{6, 7, 8, 9, 10}));
  EXPECT_TRUE(Revisions(log.ReadAfter(10, 100)).empty());
  EXPECT_EQ(ReasonOf(log.ReadAfter(11, 1).status()), v1::ERROR_REASON_REVISION_UNKNOWN);
}

TEST_F(ChangeLogTest, DeletionsKeepTheLastState) {
  ChangeLog::Options options;
  options.max_memory_sets = 0;
  ChangeLog log(store_, options);
  ASSERT_TRUE(log.Load(0, 0).ok());
  auto host = std::make_shared<v1::Host>();
  host->set_name("hosts/a");
  host->set_boot_id("b");
  auto set = std::make_shared<ChangeSet>();
  set->revision = 1;
  set->changes.push_back({Kind::kHost, "hosts/a", host, nullptr});
  Batch batch;
  ChangeLog::Entry entry = ChangeLog::Encode(*set, 1, batch);
  ASSERT_TRUE(store_.Commit(batch, Durability::kSynced).ok());
  log.Publish({std::move(entry)}, 1);
  const auto read = log.ReadAfter(0, 1);
  ASSERT_TRUE(read.ok());
  const Change& change = (*read)[0]->changes[0];
  EXPECT_EQ(change.after, nullptr);
  EXPECT_EQ(static_cast<const v1::Host&>(*change.before).boot_id(), "b");
}

TEST_F(ChangeLogTest, OldOnesAreCompactedAwayAndTheErrorNamesTheOldestLeft) {
  ChangeLog::Options options;
  options.max_age_s = 60;
  ChangeLog log(store_, options);
  ASSERT_TRUE(log.Load(0, 0).ok());
  Append(log, 1, 1500, 100);
  Append(log, 1501, 3000, 200);
  Compact(log, 130);
  EXPECT_EQ(log.oldest(), 0);
  Compact(log, 200);
  EXPECT_GT(log.oldest(), 0);
  EXPECT_LT(log.oldest(), 1501);
  const absl::Status status = log.ReadAfter(0, 10).status();
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_REVISION_COMPACTED);
  EXPECT_EQ(DetailOf<google::rpc::ErrorInfo>(status).metadata().at("oldest_revision"), std::to_string(log.oldest()));
  EXPECT_EQ(Revisions(log.ReadAfter(log.oldest(), 1)), (std::vector<int64_t>{log.oldest() + 1}));
}

TEST_F(ChangeLogTest, SizeBoundsTheLog) {
  ChangeLog::Options options;
  options.max_bytes = 1;
  ChangeLog log(store_, options);
  ASSERT_TRUE(log.Load(0, 0).ok());
  Append(log, 1, 5000, 100);
  Compact(log, 100);
  EXPECT_GE(log.oldest(), 3000) << "only the segment that is being filled stays";
}

TEST_F(ChangeLogTest, LoadingFindsWhatIsThere) {
  const ChangeLog::Options options;
  {
    ChangeLog log(store_, options);
    ASSERT_TRUE(log.Load(0, 0).ok());
    Append(log, 1, 20, 100);
  }
  ChangeLog log(store_, options);
  ASSERT_TRUE(log.Load(0, 20).ok());
  EXPECT_EQ(log.head(), 20);
  EXPECT_EQ(Revisions(log.ReadAfter(18, 10)), (std::vector<int64_t>{19, 20}));
  Append(log, 21, 22, 101);
  EXPECT_EQ(Revisions(log.ReadAfter(18, 10)), (std::vector<int64_t>{19, 20, 21, 22}));
}

TEST_F(ChangeLogTest, EntriesAreSerializedChangeRecords) {
  auto before = std::make_shared<v1::Host>();
  before->set_name("hosts/a");
  (*before->mutable_labels())["tier"] = "gold";
  auto after = std::make_shared<v1::Host>(*before);
  (*after->mutable_labels())["tier"] = "tin";
  ChangeSet set;
  set.revision = 300;
  set.changes.push_back({Kind::kHost, "hosts/a", before, after});
  set.changes.push_back({Kind::kHost, "hosts/a", nullptr, after, after->SerializeAsString()});
  set.changes.push_back({Kind::kHost, "hosts/a", after, nullptr});
  ChangeRecord expected;
  for (int i = 0; i < 3; ++i) {
    auto* entry = expected.add_entries();
    entry->set_kind(1);
    entry->set_name("hosts/a");
    entry->set_deleted(i == 2);
    entry->set_resource(after->SerializeAsString());
    if (i == 0) entry->set_relabelled_from(before->SerializeAsString());
  }
  expected.set_time_s(1'700'000'000);
  Batch batch;
  EXPECT_EQ(*ChangeLog::Encode(set, 1'700'000'000, batch).bytes, expected.SerializeAsString());
  ASSERT_EQ(batch.size(), 1u);
  EXPECT_EQ(*batch.op(0).value, expected.SerializeAsString());
}

TEST_F(ChangeLogTest, WhatOneReaderHasParsedOthersShareUnlessItIsLarge) {
  ChangeLog log(store_, ChangeLog::Options());
  ASSERT_TRUE(log.Load(0, 0).ok());
  Append(log, 1, 5, 100);
  const auto first = log.ReadAfter(1, 2);
  const auto second = log.ReadAfter(0, 100);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ((*first)[0], (*second)[1]);
  EXPECT_EQ((*first)[1], (*second)[2]);
  EXPECT_EQ(Revisions(second), (std::vector<int64_t>{1, 2, 3, 4, 5}));

  auto host = std::make_shared<v1::Host>();
  host->set_name("hosts/large");
  host->set_boot_id(std::string(100'000, 'x'));
  ChangeSet set;
  set.revision = 6;
  set.changes.push_back({Kind::kHost, "hosts/large", nullptr, host});
  Batch batch;
  log.Publish({ChangeLog::Encode(set, 100, batch)}, 100);
  const auto once = log.ReadAfter(5, 1);
  const auto again = log.ReadAfter(5, 1);
  ASSERT_TRUE(once.ok() && again.ok());
  EXPECT_NE((*once)[0], (*again)[0]);

  // Revisions that share a place among the parsed ones.
  Append(log, 7, 3000, 100);
  std::vector<int64_t> all(3000);
  std::iota(all.begin(), all.end(), 1);
  EXPECT_EQ(Revisions(log.ReadAfter(0, 5000)), all);
  EXPECT_EQ(Revisions(log.ReadAfter(0, 5000)), all);
}

TEST_F(ChangeLogTest, TellsFromTheStoreWhatTheLabelsWere) {
  const auto host = [](const std::string& tier, const std::string& boot_id) {
    auto record = std::make_shared<v1::Host>();
    record->set_name("hosts/a");
    record->set_boot_id(boot_id);
    (*record->mutable_labels())["tier"] = tier;
    return record;
  };
  Batch batch;
  auto relabelled = std::make_shared<ChangeSet>();
  relabelled->revision = 1;
  relabelled->changes.push_back({Kind::kHost, "hosts/a", host("gold", "1"), host("tin", "1")});
  auto rebooted = std::make_shared<ChangeSet>();
  rebooted->revision = 2;
  rebooted->changes.push_back({Kind::kHost, "hosts/a", host("tin", "1"), host("tin", "2")});
  ChangeLog::Encode(*relabelled, 100, batch);
  ChangeLog::Encode(*rebooted, 100, batch);
  ASSERT_TRUE(store_.Commit(batch, Durability::kSynced).ok());
  ChangeLog log(store_, ChangeLog::Options());
  ASSERT_TRUE(log.Load(0, 2).ok());
  const auto sets = log.ReadAfter(0, 10);
  ASSERT_TRUE(sets.ok()) << sets.status();
  const RecordPtr& before = (*sets)[0]->changes[0].before;
  ASSERT_NE(before, nullptr);
  EXPECT_EQ(static_cast<const v1::Host&>(*before).labels().at("tier"), "gold");
  EXPECT_EQ((*sets)[1]->changes[0].before, nullptr);
}

}  // namespace
}  // namespace viommu::server
