#include "server/store/memory_store.h"

#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "server/store/store.h"
#include "server/store/testing/numbered_batches.h"

namespace viommu::server {
namespace {

void Commit(MemoryStore& store, int64_t first, int64_t last, Durability durability) {
  for (int64_t number = first; number <= last; ++number) {
    ASSERT_TRUE(store.Commit(NumberedBatch(number), durability).ok());
  }
}

int64_t Last(const Store& store) {
  const absl::StatusOr<int64_t> last = LastBatch(store);
  EXPECT_TRUE(last.ok()) << last.status();
  return last.value_or(-1);
}

TEST(BatchTest, HasItsOperationsInOrderAndNoneOnceCleared) {
  Batch batch;
  batch.Put(KeySpace::kMeta, "key", "value");
  batch.Put(KeySpace::kMeta, "", "");
  batch.Delete(KeySpace::kResources, "gone");
  batch.DeleteRange(KeySpace::kChanges, "a", "b");
  ASSERT_EQ(batch.size(), 4u);
  EXPECT_EQ(batch.bytes(), 14u);
  EXPECT_EQ(batch.op(0).key, "key");
  EXPECT_EQ(batch.op(0).value, "value");
  EXPECT_EQ(batch.op(1).value, "");
  EXPECT_EQ(batch.op(2).key, "gone");
  EXPECT_FALSE(batch.op(2).value.has_value() || batch.op(2).end.has_value());
  EXPECT_EQ(batch.op(3).space, KeySpace::kChanges);
  EXPECT_EQ(batch.op(3).end, "b");
  batch.Clear();
  EXPECT_TRUE(batch.empty());
  EXPECT_EQ(batch.bytes(), 0u);
  batch.Delete(KeySpace::kMeta, "next");
  EXPECT_EQ(batch.op(0).key, "next");
}

TEST(MemoryStoreTest, PowerLossTakesWhatWasNotSynced) {
  MemoryStore store;
  Commit(store, 1, 5, Durability::kSynced);
  Commit(store, 6, 9, Durability::kBuffered);
  EXPECT_EQ(Last(*store.AfterPowerLoss()), 5);
  EXPECT_EQ(Last(*store.AfterPowerLoss(3)), 8);
  EXPECT_EQ(Last(*store.AfterPowerLoss(100)), 9);
  EXPECT_EQ(Last(store), 9);
}

TEST(MemoryStoreTest, SyncCoversWhatCameBefore) {
  MemoryStore store;
  Commit(store, 1, 4, Durability::kBuffered);
  Commit(store, 5, 5, Durability::kSynced);
  EXPECT_EQ(Last(*store.AfterPowerLoss()), 5);
}

TEST(MemoryStoreTest, KillTakesNothing) {
  MemoryStore store;
  Commit(store, 1, 4, Durability::kBuffered);
  const std::unique_ptr<MemoryStore> next = store.AfterKill();
  EXPECT_EQ(Last(*next), 4);
  // The power may still take what was never synced.
  EXPECT_EQ(Last(*next->AfterPowerLoss()), 0);
  EXPECT_EQ(Last(*next->AfterPowerLoss(2)), 2);
}

TEST(MemoryStoreTest, OldUnsyncedBatchesAreWrittenInTheEnd) {
  MemoryStore store;
  constexpr int64_t kCount = MemoryStore::kMaxUnsyncedBatches + 7;
  Commit(store, 1, kCount, Durability::kBuffered);
  EXPECT_EQ(Last(*store.AfterPowerLoss()), 7);
}

TEST(MemoryStoreTest, FailsUntilRecoveryIsAllowedAndDone) {
  MemoryStore store;
  Commit(store, 1, 3, Durability::kSynced);
  store.FailCommits(absl::UnavailableError("disk full"));
  EXPECT_EQ(store.Commit(NumberedBatch(4), Durability::kSynced), absl::UnavailableError("disk full"));
  EXPECT_EQ(store.Recover(), absl::UnavailableError("disk full"));
  EXPECT_EQ(Last(store), 3);
  store.AllowRecovery();
  EXPECT_EQ(store.Commit(NumberedBatch(4), Durability::kSynced), absl::UnavailableError("disk full"));
  EXPECT_TRUE(store.Recover().ok());
  Commit(store, 4, 4, Durability::kSynced);
  EXPECT_EQ(Last(store), 4);
  const MemoryStore::Stats stats = store.stats();
  EXPECT_EQ(stats.commits, 4u);
  EXPECT_EQ(stats.synced_commits, 4u);
  EXPECT_EQ(stats.failed_commits, 2u);
  EXPECT_EQ(stats.recoveries, 1u);
}

TEST(MemoryStoreTest, FailedBatchMayBeThereAfterARestart) {
  MemoryStore store;
  Commit(store, 1, 3, Durability::kSynced);
  store.FailCommits(absl::UnavailableError("disk full"), MemoryStore::FailedBatch::kKept);
  EXPECT_FALSE(store.Commit(NumberedBatch(4), Durability::kSynced).ok());
  EXPECT_FALSE(store.Commit(NumberedBatch(5), Durability::kSynced).ok());
  EXPECT_EQ(Last(store), 3);
  EXPECT_EQ(Last(*store.AfterKill()), 4);
  EXPECT_EQ(Last(*store.AfterPowerLoss()), 4);
}

TEST(MemoryStoreTest, FailedBatchComesAfterUnsyncedOnes) {
  MemoryStore store;
  Commit(store, 1, 3, Durability::kBuffered);
  store.FailCommits(absl::UnavailableError("disk full"), MemoryStore::FailedBatch::kKept);
  EXPECT_FALSE(store.Commit(NumberedBatch(4), Durability::kSynced).ok());
  EXPECT_EQ(Last(*store.AfterPowerLoss(2)), 2);
  EXPECT_EQ(Last(*store.AfterPowerLoss(3)), 4);
  EXPECT_EQ(Last(*store.AfterKill()->AfterPowerLoss(2)), 2);
}

TEST(MemoryStoreTest, RecoveryForgetsTheFailedBatch) {
  MemoryStore store;
  Commit(store, 1, 3, Durability::kSynced);
  store.FailCommits(absl::UnavailableError("disk full"), MemoryStore::FailedBatch::kKept);
  EXPECT_FALSE(store.Commit(NumberedBatch(4), Durability::kSynced).ok());
  store.AllowRecovery();
  EXPECT_TRUE(store.Recover().ok());
  EXPECT_EQ(Last(*store.AfterKill()), 3);
  EXPECT_EQ(Last(*store.AfterPowerLoss()), 3);
}

TEST(MemoryStoreTest, FailsReadsOnDemand) {
  MemoryStore store;
  Commit(store, 1, 1, Durability::kSynced);
  store.FailReads(absl::UnavailableError("bad cable"));
  EXPECT_EQ(store.Get(KeySpace::kMeta, "revision").status(), absl::UnavailableError("bad cable"));
  EXPECT_EQ(LastBatch(store).status(), absl::UnavailableError("bad cable"));
  store.FailReads(absl::OkStatus());
  EXPECT_EQ(Last(store), 1);
}

}  // namespace
}  // namespace viommu::server
