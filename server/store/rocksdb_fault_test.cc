// RocksDB on a disk that is full, that fails to sync, that loses power.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/env.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "server/store/rocksdb_store.h"
#include "server/store/store.h"
#include "server/store/testing/fault_file_system.h"
#include "server/store/testing/numbered_batches.h"
#include "server/store/testing/temp_folder.h"

namespace viommu::server {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kSectorBytes = 512;

bool IsLog(const std::string& path) { return path.size() > 4 && path.compare(path.size() - 4, 4, ".log") == 0; }

class RocksDbFaultTest : public ::testing::Test {
 protected:
  // Opens the store on a new, healthy disk with the files that there are.
  void Open() {
    store_.reset();
    env_.reset();
    disk_ = std::make_shared<FaultFileSystem>();
    env_ = rocksdb::NewCompositeEnv(disk_);
    options_.env = env_.get();
    options_.fsync_probes = 0;
    absl::StatusOr<std::unique_ptr<RocksDbStore>> store = RocksDbStore::Open(folder_.path(), options_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  void Kill() {
    disk_->Kill();
    store_.reset();
  }
  void Crash(const FaultFileSystem::Keep& keep = nullptr) {
    Kill();
    disk_->LosePower(keep);
  }

  absl::Status Commit(int64_t number, Durability durability = Durability::kSynced, std::string_view flavour = "") {
    return store_->Commit(NumberedBatch(number, flavour), durability);
  }
  void CommitAll(int64_t first, int64_t last, Durability durability = Durability::kSynced) {
    for (int64_t number = first; number <= last; ++number) {
      const absl::Status status = Commit(number, durability);
      ASSERT_TRUE(status.ok()) << number << ": " << status;
    }
  }
  int64_t Last() {
    const absl::StatusOr<int64_t> last = LastBatch(*store_);
    EXPECT_TRUE(last.ok()) << last.status();
    return last.value_or(-1);
  }

  TempFolder folder_;
  RocksDbOptions options_;
  std::shared_ptr<FaultFileSystem> disk_;
  std::unique_ptr<rocksdb::Env> env_;
  std::unique_ptr<RocksDbStore> store_;
};

TEST_F(RocksDbFaultTest, KillLosesNothing) {
  Open();
  CommitAll(1, 50, Durability::kBuffered);
  Kill();
  Open();
  EXPECT_EQ(Last(), 50);
}

TEST_F(RocksDbFaultTest, PowerLossTakesOnlyWhatWasNotSynced) {
  Open();
  CommitAll(1, 30, Durability::kBuffered);
  CommitAll(31, 31, Durability::kSynced);
  CommitAll(32, 40, Durability::kBuffered);
  Crash();
  Open();
  EXPECT_EQ(Last(), 31);
}

TEST_F(RocksDbFaultTest, EmptySyncedBatchStandsForAllBefore) {
  Open();
  CommitAll(1, 30, Durability::kBuffered);
  ASSERT_TRUE(store_->Commit(Batch(), Durability::kSynced).ok());
  CommitAll(31, 40, Durability::kBuffered);
  Crash();
  Open();
  EXPECT_EQ(Last(), 30);
}

TEST_F(RocksDbFaultTest, SyncedCommitsSyncAndBufferedOnesDoNot) {
  Open();
  const uint64_t before = disk_->syncs();
  CommitAll(1, 10, Durability::kBuffered);
  EXPECT_EQ(disk_->syncs(), before);
  CommitAll(11, 20, Durability::kSynced);
  EXPECT_GE(disk_->syncs(), before + 10);
}

// Creation cut short at every sync: afterwards the store is created, as if nothing had been there.
TEST_F(RocksDbFaultTest, CreationMayBeCutShortAnywhere) {
  bool cut = true;
  for (uint64_t last_sync = 1; cut; ++last_sync) {
    ASSERT_LT(last_sync, 200u);
    TempFolder folder;
    auto disk = std::make_shared<FaultFileSystem>();
    const std::unique_ptr<rocksdb::Env> env = rocksdb::NewCompositeEnv(disk);
    RocksDbOptions options;
    options.fsync_probes = 0;
    options.env = env.get();
    uint64_t asked = 0;
    disk->FailSyncs([&](const std::string&) { return ++asked >= last_sync; });
    cut = !RocksDbStore::Open(folder.path(), options).ok();
    disk->Kill();
    disk->LosePower();
    options.env = nullptr;
    const absl::StatusOr<std::unique_ptr<RocksDbStore>> store = RocksDbStore::Open(folder.path(), options);
    ASSERT_TRUE(store.ok()) << "after sync " << last_sync << ": " << store.status();
    EXPECT_EQ(LastBatch(**store).value_or(-1), 0);
  }
}

TEST_F(RocksDbFaultTest, FullDiskIsRecoveredFrom) {
  Open();
  CommitAll(1, 20);
  disk_->SetSpace(100);
  const absl::Status status = Commit(21);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.ToString(), HasSubstr("No space"));
  EXPECT_THAT(status.ToString(), HasSubstr(folder_.path()));
  EXPECT_FALSE(store_->health().ok());
  EXPECT_EQ(Last(), 20);
  // Room alone is not enough: somebody has to say that it goes on.
  EXPECT_FALSE(Commit(21).ok());
  EXPECT_FALSE(store_->Recover().ok());
  EXPECT_EQ(Last(), 20);
  disk_->SetSpace(FaultFileSystem::kUnlimited);
  EXPECT_FALSE(Commit(21).ok());
  const absl::Status recovered = store_->Recover();
  ASSERT_TRUE(recovered.ok()) << recovered;
  EXPECT_TRUE(store_->health().ok());
  EXPECT_EQ(Last(), 20);
  CommitAll(21, 40);
  EXPECT_EQ(store_->stats().recoveries, 1u);
  EXPECT_EQ(store_->stats().failed_commits, 3u);
  Crash();
  Open();
  EXPECT_EQ(Last(), 40);
}

// A recovery opens what was open before; it never makes a new store in its place.
TEST_F(RocksDbFaultTest, AStoreThatIsGoneIsNotMadeAnew) {
  Open();
  CommitAll(1, 20);
  disk_->FailSyncs(IsLog);
  ASSERT_FALSE(Commit(21).ok());
  disk_->FailSyncs(nullptr);
  const std::string away = folder_.path() + ".away";
  std::filesystem::rename(folder_.path(), away);
  const auto refused = [this] {
    const absl::Status status = store_->Recover();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(status.ToString(), HasSubstr("is gone"));
    EXPECT_FALSE(Commit(21).ok());
  };
  refused();
  EXPECT_FALSE(std::filesystem::exists(folder_.path()));
  std::filesystem::create_directory(folder_.path());
  refused();
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));

  std::filesystem::remove(folder_.path());
  std::filesystem::rename(away, folder_.path());
  const absl::Status back = store_->Recover();
  ASSERT_TRUE(back.ok()) << back;
  EXPECT_EQ(Last(), 20);
  CommitAll(21, 30);
}

TEST_F(RocksDbFaultTest, FullDiskAtOpeningIsToldAndLosesNothing) {
  Open();
  CommitAll(1, 20);
  Crash();
  for (const uint64_t space : {0, 1, 50, 500, 2000, 5000, 9000}) {
    auto disk = std::make_shared<FaultFileSystem>();
    const std::unique_ptr<rocksdb::Env> env = rocksdb::NewCompositeEnv(disk);
    RocksDbOptions options = options_;
    options.env = env.get();
    disk->SetSpace(space);
    const absl::Status status = RocksDbStore::Open(folder_.path(), options).status();
    EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kResourceExhausted) << space << ": " << status;
    disk->Kill();
    disk->LosePower();
  }
  Open();
  EXPECT_EQ(Last(), 20);
}

struct FailureCase {
  std::string name;
  // Makes the next commit fail.
  std::function<void(FaultFileSystem&)> begin;
};

// Every way in which a commit fails, right after opening (nothing in memory yet) and later; the store recovers, goes
// on, and the batch that failed is not there: not now, not after a kill, not after loss of power.
class RocksDbFailureTest : public RocksDbFaultTest, public ::testing::WithParamInterface<FailureCase> {
 protected:
  void FailAndRecover(int64_t number) {
    GetParam().begin(*disk_);
    ASSERT_FALSE(Commit(number, Durability::kSynced, "failed").ok());
    disk_->SetSpace(FaultFileSystem::kUnlimited);
    disk_->FailSyncs(nullptr);
    ASSERT_FALSE(Commit(number).ok());
    EXPECT_EQ(Last(), number - 1);
    const absl::Status status = store_->Recover();
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(Last(), number - 1);
  }
};

INSTANTIATE_TEST_SUITE_P(Failures, RocksDbFailureTest,
                         ::testing::Values(FailureCase{"NoSpaceAtAll", [](FaultFileSystem& disk) { disk.SetSpace(0); }},
                                           FailureCase{"SpaceForAPart",
                                                       [](FaultFileSystem& disk) { disk.SetSpace(300); }},
                                           FailureCase{"SyncFailsAndTheDataIsLost",
                                                       [](FaultFileSystem& disk) { disk.FailSyncs(IsLog, false); }},
                                           FailureCase{"SyncFailsAndTheDataIsThere",
                                                       [](FaultFileSystem& disk) { disk.FailSyncs(IsLog, true); }}),
                         [](const ::testing::TestParamInfo<FailureCase>& param) { return param.param.name; });

TEST_P(RocksDbFailureTest, RecoversAndGoesOn) {
  Open();
  CommitAll(1, 20);
  FailAndRecover(21);
  CommitAll(21, 30);
  FailAndRecover(31);
  CommitAll(31, 40);
  EXPECT_EQ(Last(), 40);
}

TEST_P(RocksDbFailureTest, RightAfterOpening) {
  Open();
  FailAndRecover(1);
  CommitAll(1, 20);
  Open();
  FailAndRecover(21);
  CommitAll(21, 30);
  Crash();
  Open();
  EXPECT_EQ(Last(), 30);
}

TEST_P(RocksDbFailureTest, WithUnsyncedBatchesBefore) {
  Open();
  CommitAll(1, 20);
  CommitAll(21, 25, Durability::kBuffered);
  FailAndRecover(26);
  // Recovery has synced.
  Crash();
  Open();
  EXPECT_EQ(Last(), 25);
}

TEST_P(RocksDbFailureTest, KilledRightAfterRecovery) {
  Open();
  CommitAll(1, 20);
  FailAndRecover(21);
  Kill();
  Open();
  EXPECT_EQ(Last(), 20);
}

TEST_P(RocksDbFailureTest, PowerLossRightAfterRecovery) {
  Open();
  CommitAll(1, 20);
  FailAndRecover(21);
  Crash();
  Open();
  EXPECT_EQ(Last(), 20);
}

TEST_P(RocksDbFailureTest, KilledAfterGoingOn) {
  Open();
  CommitAll(1, 20);
  FailAndRecover(21);
  CommitAll(21, 23);
  Kill();
  Open();
  EXPECT_EQ(Last(), 23);
}

TEST_P(RocksDbFailureTest, KilledWithoutRecovery) {
  Open();
  CommitAll(1, 20);
  GetParam().begin(*disk_);
  ASSERT_FALSE(Commit(21).ok());
  Kill();
  Open();
  // There wholly or not.
  EXPECT_GE(Last(), 20);
  EXPECT_LE(Last(), 21);
}

TEST_P(RocksDbFailureTest, FailsForLong) {
  Open();
  CommitAll(1, 20);
  GetParam().begin(*disk_);
  for (int i = 0; i < 20; ++i) {
    EXPECT_FALSE(Commit(21, Durability::kSynced, "failed").ok());
    EXPECT_FALSE(store_->Recover().ok());
  }
  disk_->SetSpace(FaultFileSystem::kUnlimited);
  disk_->FailSyncs(nullptr);
  absl::Status status = store_->Recover();
  ASSERT_TRUE(status.ok()) << status;
  CommitAll(21, 30);
  Crash();
  Open();
  EXPECT_EQ(Last(), 30);
}

// Loss of power may leave the end of one log and not the end of the one before it: nothing that was never synced may
// then stand without what came before it.
TEST_F(RocksDbFaultTest, NoHolesAfterPowerLoss) {
  options_.write_buffer_bytes = size_t{256} << 10;
  options_.max_wal_bytes = size_t{64} << 10;
  std::mt19937 random(4711);
  int64_t acknowledged = 0;
  for (int round = 0; round < 30; ++round) {
    Open();
    const int64_t found = Last();
    EXPECT_GE(found, acknowledged);
    int64_t number = found;
    acknowledged = found;
    const int64_t batches = static_cast<int64_t>(random() % 600);
    for (int64_t i = 0; i < batches; ++i) {
      const bool synced = random() % 100 == 0;
      ASSERT_TRUE(Commit(++number, synced ? Durability::kSynced : Durability::kBuffered).ok());
      if (synced) acknowledged = number;
    }
    Crash([&](const std::string&, uint64_t synced, uint64_t size) -> FaultFileSystem::Kept {
      const uint64_t some = synced + random() % (size - synced + 1);
      switch (random() % 4) {
        case 0:
          return {synced, random() % 2 == 0};
        case 1:
          return {size};
        case 2:
          return {some};
        default:
          return {std::max(synced, some / kSectorBytes * kSectorBytes), true};
      }
    });
  }
  Open();
  EXPECT_GE(Last(), acknowledged);
}

// The space that there seems to be is not there (a quota): opening again fails half way, and later succeeds.
TEST_F(RocksDbFaultTest, RecoveryMayFailHalfWay) {
  Open();
  CommitAll(1, 40);
  for (uint64_t space = 0; space < 24'000; space += 1'500) {
    disk_->SetSpace(0, false);
    ASSERT_FALSE(Commit(41, Durability::kSynced, "failed").ok());
    disk_->SetSpace(space, false);
    if (const absl::Status status = store_->Recover(); !status.ok()) {
      EXPECT_FALSE(Commit(41).ok());
      const absl::Status read = store_->Get(KeySpace::kMeta, "revision").status();
      EXPECT_TRUE(read.ok() || read.code() == absl::StatusCode::kUnavailable) << read;
      disk_->SetSpace(FaultFileSystem::kUnlimited);
      const absl::Status recovered = store_->Recover();
      ASSERT_TRUE(recovered.ok()) << recovered;
    }
    EXPECT_EQ(Last(), 40);
  }
  disk_->SetSpace(FaultFileSystem::kUnlimited);
  CommitAll(41, 50);
  Crash();
  Open();
  EXPECT_EQ(Last(), 50);
}

TEST_F(RocksDbFaultTest, ReadersDuringRecoveryGetAnswersOrUnavailable) {
  Open();
  CommitAll(1, 20);
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&] {
      while (!done) {
        const absl::Status status =
            store_->Scan(KeySpace::kMeta, "revision", "revisionz", [&](std::string_view, std::string_view value) {
              const absl::StatusOr<std::optional<std::string>> again = store_->Get(KeySpace::kMeta, "revision");
              wrong += value != "20" || (again.ok() && *again != "20") ? 1 : 0;
              return true;
            });
        wrong += !status.ok() && status.code() != absl::StatusCode::kUnavailable ? 1 : 0;
      }
    });
  }
  for (int i = 0; i < 10; ++i) {
    disk_->SetSpace(0);
    EXPECT_FALSE(Commit(21).ok());
    disk_->SetSpace(FaultFileSystem::kUnlimited);
    const absl::Status status = store_->Recover();
    EXPECT_TRUE(status.ok()) << status;
  }
  done = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(Last(), 20);
}

// The disk fills up while tables are written in the background; it goes on when there is room again.
TEST_F(RocksDbFaultTest, FullDiskUnderLoad) {
  options_.write_buffer_bytes = size_t{256} << 10;
  options_.max_wal_bytes = size_t{256} << 10;
  std::mt19937 random(11);
  Open();
  int64_t number = 0;
  for (int round = 0; round < 12; ++round) {
    disk_->SetSpace(100'000 + random() % 600'000);
    absl::Status status;
    while (status.ok()) {
      status = Commit(number + 1, random() % 50 == 0 ? Durability::kSynced : Durability::kBuffered);
      if (status.ok()) ++number;
    }
    EXPECT_EQ(Last(), number);
    disk_->SetSpace(FaultFileSystem::kUnlimited);
    status = store_->Recover();
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(Last(), number);
    if (round % 3 == 2) {
      Crash();
      Open();
      EXPECT_EQ(Last(), number);  // Recover has synced all of it
    }
  }
}

}  // namespace
}  // namespace viommu::server
