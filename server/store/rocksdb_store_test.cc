#include "server/store/rocksdb_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/db.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/error.h"
#include "server/store/format.h"
#include "server/store/store.h"
#include "server/store/testing/folder_contents.h"
#include "server/store/testing/numbered_batches.h"
#include "server/store/testing/temp_folder.h"

namespace viommu::server {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::Not;

std::string Text(const absl::Status& status) { return status.ToString(); }

class RocksDbStoreTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<RocksDbStore>> TryOpen() {
    RocksDbOptions options;
    options.fsync_probes = 0;
    return RocksDbStore::Open(path(), options);
  }

  std::unique_ptr<RocksDbStore> Open() {
    absl::StatusOr<std::unique_ptr<RocksDbStore>> store = TryOpen();
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }

  // Refused: with this code, and with nothing changed.
  std::string Refusal(absl::StatusCode code) {
    const auto before = FolderContents(path());
    const absl::StatusOr<std::unique_ptr<RocksDbStore>> store = TryOpen();
    EXPECT_FALSE(store.ok());
    EXPECT_EQ(store.status().code(), code) << store.status();
    EXPECT_EQ(FolderContents(path()), before);
    EXPECT_THAT(Text(store.status()), HasSubstr(path()));
    return Text(store.status());
  }

  // Opens the files without our rules, to prepare them.
  template <typename F>
  void WithRawDatabase(F&& use) {
    rocksdb::Options options;
    std::vector<std::string> names;
    ASSERT_TRUE(rocksdb::DB::ListColumnFamilies(options, path(), &names).ok());
    std::vector<rocksdb::ColumnFamilyDescriptor> families;
    for (const std::string& name : names) families.emplace_back(name, rocksdb::ColumnFamilyOptions());
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    rocksdb::DB* raw = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open(options, path(), families, &handles, &raw).ok());
    const std::unique_ptr<rocksdb::DB> db(raw);
    use(*db, [&](const std::string& name) -> rocksdb::ColumnFamilyHandle* {
      for (rocksdb::ColumnFamilyHandle* handle : handles) {
        if (handle->GetName() == name) return handle;
      }
      return nullptr;
    });
    for (rocksdb::ColumnFamilyHandle* handle : handles) ASSERT_TRUE(db->DestroyColumnFamilyHandle(handle).ok());
  }

  // As the version before left it: without an audit log.
  void MakeVersion1() {
    WithRawDatabase([&](rocksdb::DB& db, auto family) {
      ASSERT_TRUE(db.DropColumnFamily(family("audit")).ok());
      ASSERT_TRUE(db.Put(rocksdb::WriteOptions(), family("meta"), "format_version", "1").ok());
    });
  }

  void SetFormatVersion(const std::string& version) {
    WithRawDatabase([&](rocksdb::DB& db, auto family) {
      ASSERT_TRUE(db.Put(rocksdb::WriteOptions(), family("meta"), "format_version", version).ok());
    });
  }

  void CommitSome(Store& store, int64_t first, int64_t last) {
    for (int64_t number = first; number <= last; ++number) {
      ASSERT_TRUE(store.Commit(NumberedBatch(number), Durability::kSynced).ok());
    }
  }

  std::string path() const { return folder_.path(); }

  TempFolder folder_;
};

TEST_F(RocksDbStoreTest, CreatesWhatIsNotThere) {
  std::unique_ptr<RocksDbStore> store = Open();
  EXPECT_EQ(store->Describe(), "rocksdb at " + path());
  const absl::StatusOr<std::optional<std::string>> version = store->Get(KeySpace::kMeta, kFormatVersionKey);
  ASSERT_TRUE(version.ok());
  EXPECT_EQ(*version, std::to_string(kFormatVersion));
  EXPECT_THAT(FolderContents(path()), Not(Contains(Key("CREATING"))));
}

TEST_F(RocksDbStoreTest, CreatesFoldersAbove) {
  const absl::StatusOr<std::unique_ptr<RocksDbStore>> store =
      RocksDbStore::Open(folder_.root() + "/a/b/c", RocksDbOptions());
  EXPECT_TRUE(store.ok()) << store.status();
}

TEST_F(RocksDbStoreTest, CreatesInAnEmptyFolder) {
  // As a file system of its own has it.
  std::filesystem::create_directories(path() + "/lost+found");
  CommitSome(*Open(), 1, 3);
  EXPECT_EQ(LastBatch(*Open()).value(), 3);
}

TEST_F(RocksDbStoreTest, ReopensWithEverythingInLogAndTables) {
  for (int64_t round = 0; round < 4; ++round) {
    std::unique_ptr<RocksDbStore> store = Open();
    EXPECT_EQ(LastBatch(*store).value(), round * 100);
    CommitSome(*store, round * 100 + 1, round * 100 + 100);
  }
  EXPECT_EQ(LastBatch(*Open()).value(), 400);
}

TEST_F(RocksDbStoreTest, BeginsAnewWhenCreationWasCutShort) {
  CommitSome(*Open(), 1, 3);
  WriteWholeFile(path() + "/CREATING", "");
  std::unique_ptr<RocksDbStore> store = Open();
  EXPECT_EQ(LastBatch(*store).value(), 0);
  EXPECT_THAT(FolderContents(path()), Not(Contains(Key("CREATING"))));
}

TEST_F(RocksDbStoreTest, RefusesAFolderOfSomethingElse) {
  std::filesystem::create_directories(path());
  WriteWholeFile(path() + "/holiday.jpg", "sea");
  EXPECT_THAT(Refusal(absl::StatusCode::kFailedPrecondition), HasSubstr("holiday.jpg"));
}

TEST_F(RocksDbStoreTest, RefusesAFile) {
  WriteWholeFile(path(), "not a folder");
  EXPECT_EQ(TryOpen().status().code(), absl::StatusCode::kUnavailable) << TryOpen().status();
}

TEST_F(RocksDbStoreTest, RefusesANewerFormat) {
  CommitSome(*Open(), 1, 3);
  SetFormatVersion(std::to_string(kFormatVersion + 1));
  EXPECT_THAT(Refusal(absl::StatusCode::kFailedPrecondition),
              AllOf(HasSubstr("format version " + std::to_string(kFormatVersion + 1)),
                    HasSubstr("up to version " + std::to_string(kFormatVersion))));
}

TEST_F(RocksDbStoreTest, StoreOfTheVersionBeforeIsConverted) {
  {
    const auto store = Open();
    CommitSome(*store, 1, 20);
  }
  MakeVersion1();
  {
    const auto store = Open();
    ASSERT_NE(store, nullptr);
    EXPECT_EQ(*store->Get(KeySpace::kMeta, kFormatVersionKey), std::to_string(kFormatVersion));
    EXPECT_EQ(LastBatch(*store).value_or(-1), 20);
    Batch batch;
    batch.Put(KeySpace::kAudit, "a", "1");
    ASSERT_TRUE(store->Commit(batch, Durability::kSynced).ok());
  }
  const auto store = Open();
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(*store->Get(KeySpace::kAudit, "a"), "1");
}

TEST_F(RocksDbStoreTest, ConversionThatWasCutShortIsFinished) {
  { const auto store = Open(); }
  SetFormatVersion("1");  // the column family is there already
  const auto store = Open();
  ASSERT_NE(store, nullptr);
  EXPECT_EQ(*store->Get(KeySpace::kMeta, kFormatVersionKey), std::to_string(kFormatVersion));
}

TEST_F(RocksDbStoreTest, StoreOfThisVersionWithoutAnAuditLogIsRefused) {
  { const auto store = Open(); }
  MakeVersion1();
  SetFormatVersion(std::to_string(kFormatVersion));
  EXPECT_THAT(Refusal(absl::StatusCode::kDataLoss), HasSubstr("column family audit"));
}

TEST_F(RocksDbStoreTest, NewerFormatExplainsUnknownColumnFamilies) {
  CommitSome(*Open(), 1, 3);
  SetFormatVersion("7");
  WithRawDatabase([&](rocksdb::DB& db, auto) {
    rocksdb::ColumnFamilyHandle* handle = nullptr;
    ASSERT_TRUE(db.CreateColumnFamily(rocksdb::ColumnFamilyOptions(), "quotas", &handle).ok());
    ASSERT_TRUE(db.DestroyColumnFamilyHandle(handle).ok());
  });
  EXPECT_THAT(Refusal(absl::StatusCode::kFailedPrecondition), HasSubstr("format version 7"));
  SetFormatVersion("1");
  EXPECT_THAT(Refusal(absl::StatusCode::kFailedPrecondition), HasSubstr("column families"));
}

TEST_F(RocksDbStoreTest, RefusesAMissingOrUnreadableFormatVersion) {
  CommitSome(*Open(), 1, 3);
  for (const char* version : {"", "0", "-1", "1x", "one", "99999999999999999999"}) {
    SetFormatVersion(version);
    EXPECT_THAT(Refusal(absl::StatusCode::kDataLoss), HasSubstr("format_version")) << version;
  }
  WithRawDatabase([&](rocksdb::DB& db, auto family) {
    ASSERT_TRUE(db.Delete(rocksdb::WriteOptions(), family("meta"), "format_version").ok());
  });
  EXPECT_THAT(Refusal(absl::StatusCode::kDataLoss), HasSubstr("has no format_version"));
}

TEST_F(RocksDbStoreTest, RefusesAMissingColumnFamily) {
  CommitSome(*Open(), 1, 3);
  WithRawDatabase([&](rocksdb::DB& db, auto family) { ASSERT_TRUE(db.DropColumnFamily(family("changes")).ok()); });
  EXPECT_THAT(Refusal(absl::StatusCode::kDataLoss), HasSubstr("changes"));
  WithRawDatabase([&](rocksdb::DB& db, auto family) { ASSERT_TRUE(db.DropColumnFamily(family("meta")).ok()); });
  EXPECT_THAT(Refusal(absl::StatusCode::kDataLoss), HasSubstr("meta"));
}

TEST_F(RocksDbStoreTest, RefusesAStoreThatThisProcessHas) {
  std::unique_ptr<RocksDbStore> store = Open();
  EXPECT_THAT(Refusal(absl::StatusCode::kFailedPrecondition), HasSubstr("in use by this process"));
  CommitSome(*store, 1, 1);
}

TEST_F(RocksDbStoreTest, RefusesAStoreThatAnotherProcessHas) {
  Open();
  int ready[2];
  int done[2];
  ASSERT_EQ(::pipe(ready), 0);
  ASSERT_EQ(::pipe(done), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  char byte = 'x';
  if (child == 0) {
    // RocksDB's threads do not survive a fork, its lock file does: take the lock as RocksDB takes it.
    rocksdb::FileLock* lock = nullptr;
    if (!rocksdb::Env::Default()->LockFile(path() + "/LOCK", &lock).ok()) ::_exit(1);
    if (::write(ready[1], &byte, 1) != 1) ::_exit(2);
    if (::read(done[0], &byte, 1) != 1) ::_exit(3);
    ::_exit(0);
  }
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_THAT(Refusal(absl::StatusCode::kFailedPrecondition),
              HasSubstr("in use by another server (process " + std::to_string(child) + ")"));
  ASSERT_EQ(::write(done[1], &byte, 1), 1);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_NE(Open(), nullptr);
  for (const int fd : {ready[0], ready[1], done[0], done[1]}) ::close(fd);
}

TEST_F(RocksDbStoreTest, ErrorsCarryTheReason) {
  std::filesystem::create_directories(path());
  WriteWholeFile(path() + "/IDENTITY", "x");
  const absl::Status status = TryOpen().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_STORE_UNAVAILABLE);
}

TEST_F(RocksDbStoreTest, CountsWhatItDoes) {
  std::vector<CommitSample> samples;
  RocksDbOptions options;
  options.fsync_probes = 5;
  options.on_commit = [&](const CommitSample& sample) { samples.push_back(sample); };
  absl::StatusOr<std::unique_ptr<RocksDbStore>> store = RocksDbStore::Open(path(), options);
  ASSERT_TRUE(store.ok()) << store.status();
  ASSERT_TRUE((*store)->fsync_p50().has_value());
  EXPECT_GT((*store)->fsync_p50()->count(), 0);
  EXPECT_THAT(FolderContents(path()), Not(Contains(Key("fsync-probe"))));

  Batch batch;
  batch.Put(KeySpace::kResources, "key", std::string(5000, 'v'));
  batch.Delete(KeySpace::kResources, "other");
  ASSERT_TRUE((*store)->Commit(batch, Durability::kSynced).ok());
  ASSERT_TRUE((*store)->Commit(batch, Durability::kBuffered).ok());
  ASSERT_EQ(samples.size(), 2u);
  EXPECT_TRUE(samples[0].ok);
  EXPECT_TRUE(samples[0].synced);
  EXPECT_FALSE(samples[1].synced);
  EXPECT_EQ(samples[0].records, 2u);
  EXPECT_EQ(samples[0].bytes, 5008u);
  EXPECT_GT(samples[0].sync.count(), 0);
  EXPECT_GE(samples[0].total, samples[0].sync);
  EXPECT_EQ(samples[1].sync.count(), 0);

  const RocksDbStats stats = (*store)->stats();
  EXPECT_EQ(stats.commits, 2u);
  EXPECT_EQ(stats.synced_commits, 1u);
  EXPECT_EQ(stats.commit_records, 4u);
  EXPECT_EQ(stats.commit_bytes, 10016u);
  EXPECT_EQ(stats.failed_commits, 0u);
  EXPECT_GT(stats.wal_bytes, 10000u);
  EXPECT_GT(stats.memtable_bytes, 0u);
  EXPECT_FALSE(stats.write_stopped);
  EXPECT_TRUE((*store)->health().ok());
}

TEST_F(RocksDbStoreTest, TablesAndMemoryStayBounded) {
  RocksDbOptions options;
  options.fsync_probes = 0;
  options.write_buffer_bytes = size_t{4} << 20;
  options.max_wal_bytes = size_t{4} << 20;
  absl::StatusOr<std::unique_ptr<RocksDbStore>> store = RocksDbStore::Open(path(), options);
  ASSERT_TRUE(store.ok()) << store.status();
  const std::string value(8192, 'v');
  for (int i = 0; i < 4000; ++i) {
    Batch batch;
    batch.Put(KeySpace::kResources, std::to_string(i), value);
    batch.Put(KeySpace::kMeta, "revision", std::to_string(i));
    ASSERT_TRUE((*store)->Commit(batch, Durability::kBuffered).ok());
    if (i % 500 == 0) {
      EXPECT_LT((*store)->stats().memtable_bytes, 3 * options.write_buffer_bytes);
      EXPECT_LT((*store)->stats().wal_bytes, 5 * options.max_wal_bytes);
    }
  }
  EXPECT_GT((*store)->stats().sst_bytes, 0u);
}

// They are in memory from the start on.
TEST_F(RocksDbStoreTest, ResourcesThatWereReadAreNotCached) {
  const auto open = [this] {
    RocksDbOptions options;
    options.fsync_probes = 0;
    options.write_buffer_bytes = size_t{4} << 20;
    return RocksDbStore::Open(path(), options);
  };
  auto store = open();
  ASSERT_TRUE(store.ok()) << store.status();
  for (int i = 0; i < 1000; ++i) {
    Batch batch;
    batch.Put(KeySpace::kResources, std::to_string(i), std::string(8192, 'v'));
    ASSERT_TRUE((*store)->Commit(batch, Durability::kBuffered).ok());
  }
  store = absl::CancelledError();  // closed
  store = open();
  ASSERT_TRUE(store.ok()) << store.status();
  const uint64_t before = (*store)->stats().block_cache_bytes;  // of tables that were made of the log
  size_t read = 0;
  const auto visit = [&read](std::string_view, std::string_view value) {
    read += value.size();
    return true;
  };
  ASSERT_TRUE((*store)->Scan(KeySpace::kResources, "0", "9999", visit).ok());
  EXPECT_GT(read, size_t{7} << 20);
  EXPECT_LT((*store)->stats().block_cache_bytes - before, size_t{1} << 20);
}

}  // namespace
}  // namespace viommu::server
