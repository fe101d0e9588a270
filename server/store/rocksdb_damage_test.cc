// Damaged files: a store is refused and left as it is, or what was altered carried nothing. Never is it opened with
// less or something else in it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/store/rocksdb_store.h"
#include "server/store/store.h"
#include "server/store/testing/folder_contents.h"
#include "server/store/testing/numbered_batches.h"
#include "server/store/testing/temp_folder.h"

namespace viommu::server {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kInTables = 120;
constexpr int64_t kLast = 200;

class RocksDbDamageTest : public ::testing::Test {
 protected:
  // A store with batches in tables and in the log.
  RocksDbDamageTest() {
    for (const auto& [first, last] : {std::pair<int64_t, int64_t>(1, kInTables), {kInTables + 1, kLast}}) {
      absl::StatusOr<std::unique_ptr<RocksDbStore>> store = Open();
      EXPECT_TRUE(store.ok()) << store.status();
      for (int64_t number = first; number <= last; ++number) {
        EXPECT_TRUE((*store)->Commit(NumberedBatch(number), Durability::kSynced).ok());
        log_ends_.push_back((*store)->stats().wal_bytes);
      }
    }
    log_ends_.erase(log_ends_.begin(), log_ends_.begin() + kInTables);
    intact_ = FolderContents(path());
  }

  absl::StatusOr<std::unique_ptr<RocksDbStore>> Open() {
    RocksDbOptions options;
    options.fsync_probes = 0;
    return RocksDbStore::Open(path(), options);
  }

  // The only file, or the one with the most in it, of such a name.
  std::string FileLike(const std::string& part) {
    std::string name;
    for (const auto& [candidate, content] : intact_) {
      if (candidate.find(part) == std::string::npos) continue;
      if (name.empty() || content.size() > intact_[name].size()) name = candidate;
    }
    EXPECT_FALSE(name.empty()) << part;
    return name;
  }

  void Damage(const std::string& name, const std::string& content) {
    auto files = intact_;
    files[name] = content;
    RestoreFolder(path(), files);
  }

  std::string Flipped(const std::string& name, size_t offset) {
    std::string content = intact_[name];
    content[offset] = static_cast<char>(content[offset] ^ (1 << (offset % 8)));
    return content;
  }

  // Refused, with nothing changed.
  std::string Refusal() {
    const auto before = FolderContents(path());
    const absl::Status status = Open().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_TRUE(FolderContents(path()) == before) << status;
    EXPECT_THAT(status.ToString(), HasSubstr(path()));
    return status.ToString();
  }

  // Flips a bit at every `step`th offset. Returns how many of them were found out.
  size_t FlipAll(const std::string& name, size_t step) {
    size_t refused = 0;
    for (size_t offset = 0; offset < intact_[name].size(); offset += step) {
      Damage(name, Flipped(name, offset));
      const auto before = FolderContents(path());
      const absl::StatusOr<std::unique_ptr<RocksDbStore>> store = Open();
      if (!store.ok()) {
        ++refused;
        EXPECT_TRUE(FolderContents(path()) == before) << name << " at " << offset << ": " << store.status();
        EXPECT_THAT(store.status().ToString(), HasSubstr(path()));
        EXPECT_NE(store.status().code(), absl::StatusCode::kInternal) << store.status();
      } else {
        const absl::StatusOr<int64_t> last = LastBatch(**store);
        EXPECT_TRUE(last.ok()) << name << " at " << offset << ": " << last.status();
        EXPECT_EQ(last.value_or(-1), kLast) << name << " at " << offset;
      }
    }
    return refused;
  }

  std::string path() const { return folder_.path(); }

  TempFolder folder_;
  std::vector<uint64_t> log_ends_;  // of the log, after each batch that it has
  std::map<std::string, std::string> intact_;
};

TEST_F(RocksDbDamageTest, IntactStoreOpens) {
  const absl::StatusOr<std::unique_ptr<RocksDbStore>> store = Open();
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ(LastBatch(**store).value(), kLast);
}

TEST_F(RocksDbDamageTest, RestoredCopyOpens) {
  RestoreFolder(path(), intact_);
  const absl::StatusOr<std::unique_ptr<RocksDbStore>> store = Open();
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ(LastBatch(**store).value(), kLast);
}

TEST_F(RocksDbDamageTest, FlippedBitsInTheLogAreFound) {
  const std::string log = FileLike(".log");
  const size_t step = 397;
  EXPECT_EQ(FlipAll(log, step), (intact_[log].size() + step - 1) / step);
}

TEST_F(RocksDbDamageTest, FlippedLengthInTheLogIsFound) {
  // A record that claims to go on past the end looks as if it was cut short.
  const std::string log = FileLike(".log");
  constexpr size_t kLengthOffset = 4;
  std::string content = intact_[log];
  content[log_ends_[40] + kLengthOffset + 1] = '\x70';
  Damage(log, content);
  EXPECT_THAT(Refusal(), HasSubstr(log + " is unreadable from byte " + std::to_string(log_ends_[40])));
}

TEST_F(RocksDbDamageTest, LostSectorInTheLogIsFound) {
  const std::string log = FileLike(".log");
  std::string content = intact_[log];
  std::fill_n(content.begin() + 4096, 512, '\0');
  Damage(log, content);
  EXPECT_THAT(Refusal(), HasSubstr(log));
}

TEST_F(RocksDbDamageTest, FlippedBitInATableIsFoundAndTheFileIsNamed) {
  const std::string table = FileLike(".sst");
  Damage(table, Flipped(table, intact_[table].size() / 3));
  EXPECT_THAT(Refusal(), HasSubstr(table));
}

TEST_F(RocksDbDamageTest, FlippedBitsInTablesNeverPass) {
  for (const auto& [name, content] : intact_) {
    if (name.find(".sst") == std::string::npos) continue;
    const size_t step = std::max<size_t>(content.size() / 25, 1);
    EXPECT_GT(FlipAll(name, step), 15u) << name;
  }
}

TEST_F(RocksDbDamageTest, FlippedBitsInTheManifestAreFound) {
  const std::string manifest = FileLike("MANIFEST-");
  const size_t step = 13;
  const size_t size = intact_[manifest].size();
  EXPECT_EQ(FlipAll(manifest, step), (size + step - 1) / step);
}

TEST_F(RocksDbDamageTest, ShorterTableIsFoundAndNamed) {
  const std::string table = FileLike(".sst");
  Damage(table, intact_[table].substr(0, intact_[table].size() / 2));
  EXPECT_THAT(Refusal(), HasSubstr(table));
}

TEST_F(RocksDbDamageTest, MissingFilesAreFoundAndNamed) {
  for (const std::string& part : {std::string("CURRENT"), std::string("MANIFEST-"), std::string(".sst")}) {
    const std::string name = FileLike(part);
    auto files = intact_;
    files.erase(name);
    RestoreFolder(path(), files);
    EXPECT_THAT(Refusal(), HasSubstr(name));
  }
  auto files = intact_;
  files.erase(FileLike(".log"));
  RestoreFolder(path(), files);
  EXPECT_THAT(Refusal(), HasSubstr("*.log"));
}

TEST_F(RocksDbDamageTest, CurrentThatNamesNothingIsFound) {
  for (const char* content : {"", "MANIFEST-999999\n", "nonsense\n", "MANIFEST-000"}) {
    Damage("CURRENT", content);
    Refusal();
  }
}

// How a log looks after loss of power: what was written last may be there in part.
TEST_F(RocksDbDamageTest, TornEndOfTheLogLosesOnlyWhatItTears) {
  const std::string log = FileLike(".log");
  const std::string content = intact_[log];
  ASSERT_EQ(content.size(), log_ends_.back());
  std::vector<size_t> sizes;
  for (size_t size = 0; size < content.size(); size += 997) sizes.push_back(size);
  for (size_t size = content.size() - 40; size <= content.size(); size += 4) sizes.push_back(size);
  sizes.push_back(log_ends_[30]);
  for (const size_t size : sizes) {
    Damage(log, content.substr(0, size));
    const absl::StatusOr<std::unique_ptr<RocksDbStore>> store = Open();
    ASSERT_TRUE(store.ok()) << size << ": " << store.status();
    const auto whole = std::upper_bound(log_ends_.begin(), log_ends_.end(), size) - log_ends_.begin();
    const absl::StatusOr<int64_t> last = LastBatch(**store);
    EXPECT_TRUE(last.ok()) << size << ": " << last.status();
    EXPECT_EQ(last.value_or(-1), kInTables + whole) << size;
    // And it goes on from there.
    EXPECT_TRUE((*store)->Commit(NumberedBatch(kInTables + whole + 1), Durability::kSynced).ok());
    EXPECT_EQ(LastBatch(**store).value_or(-1), kInTables + whole + 1);
  }
}

TEST_F(RocksDbDamageTest, WithoutTheFullCheckDamageIsFoundWhenItIsRead) {
  const std::string table = FileLike(".sst");
  Damage(table, Flipped(table, intact_[table].size() / 3));
  RocksDbOptions options;
  options.fsync_probes = 0;
  options.verify_on_open = false;
  const absl::StatusOr<std::unique_ptr<RocksDbStore>> store = RocksDbStore::Open(path(), options);
  if (!store.ok()) {
    EXPECT_EQ(store.status().code(), absl::StatusCode::kDataLoss) << store.status();
  } else {
    EXPECT_EQ(ReadContents(**store).status().code(), absl::StatusCode::kDataLoss);
  }
}

}  // namespace
}  // namespace viommu::server
