#include "server/store/rocksdb_log_check.h"

#include <gtest/gtest.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>

#include "server/store/testing/temp_folder.h"

namespace viommu::server {
namespace {

constexpr size_t kBlockBytes = 32768;
constexpr size_t kSectorBytes = 512;
constexpr size_t kLengthOffset = 4;  // in a fragment's header
// Header 7; sequence number 8, count 4; type 1, key 1 + 3, value 1 + 100.
constexpr size_t kSmallRecordBytes = 7 + 12 + 106;

// A write-ahead log as RocksDB writes it: some small records, one over several blocks, small ones again.
class RocksDbLogCheckTest : public ::testing::Test {
 protected:
  RocksDbLogCheckTest() {
    rocksdb::Options options;
    options.create_if_missing = true;
    rocksdb::DB* raw = nullptr;
    EXPECT_TRUE(rocksdb::DB::Open(options, folder_.path(), &raw).ok());
    const std::unique_ptr<rocksdb::DB> db(raw);
    for (int i = 0; i < 20; ++i) Put(*db, std::string(100, 's'));
    Put(*db, std::string(3 * kBlockBytes, 'b'));
    for (int i = 0; i < 20; ++i) Put(*db, std::string(100, 's'));
    EXPECT_TRUE(db->FlushWAL(false).ok());
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
      if (entry.path().extension() != ".log") continue;
      EXPECT_TRUE(rocksdb::ReadFileToString(rocksdb::Env::Default(), entry.path().string(), &log_).ok());
    }
    EXPECT_GT(log_.size(), 3 * kBlockBytes);
  }

  void Put(rocksdb::DB& db, const std::string& value) {
    EXPECT_TRUE(db.Put(rocksdb::WriteOptions(), "key", value).ok());
  }

  TempFolder folder_;
  std::string log_;
};

TEST_F(RocksDbLogCheckTest, IntactLogIsWhole) {
  EXPECT_EQ(CheckLog(log_).end, LogEnd::kWhole);
  EXPECT_EQ(CheckLog(log_).offset, log_.size());
  EXPECT_EQ(CheckLog("").end, LogEnd::kWhole);
}

TEST_F(RocksDbLogCheckTest, LogCutAnywhereIsNotDamaged) {
  for (size_t size = 0; size < log_.size(); size += size < 600 || size > log_.size() - 600 ? 1 : 997) {
    EXPECT_NE(CheckLog(log_.substr(0, size)).end, LogEnd::kDamaged) << size;
    EXPECT_NE(CheckLog(log_.substr(0, size)).end, LogEnd::kZeroed) << size;
  }
  EXPECT_EQ(CheckLog(log_.substr(0, log_.size() - 1)).end, LogEnd::kCut);
  EXPECT_EQ(CheckLog(log_.substr(0, 2 * kBlockBytes)).end, LogEnd::kCut);
}

TEST_F(RocksDbLogCheckTest, ZerosInsteadOfTheLastSectorsAreNoDamage) {
  EXPECT_EQ(CheckLog(log_ + std::string(10000, '\0')).end, LogEnd::kZeroed);
  EXPECT_EQ(CheckLog(log_ + std::string(1, '\0')).end, LogEnd::kCut);
  for (size_t sector = kSectorBytes; sector < log_.size(); sector += kSectorBytes) {
    std::string zeroed = log_;
    std::fill(zeroed.begin() + static_cast<std::ptrdiff_t>(sector), zeroed.end(), '\0');
    EXPECT_EQ(CheckLog(zeroed).end, LogEnd::kZeroed) << sector;
  }
}

TEST_F(RocksDbLogCheckTest, FindsWhereTheDamageBegins) {
  // Of the first record the length; its checksum goes over type and content.
  for (const size_t offset : {size_t{0}, kLengthOffset, kLengthOffset + 1, size_t{20}}) {
    std::string damaged = log_;
    damaged[offset] = static_cast<char>(damaged[offset] ^ 0x40);
    EXPECT_EQ(CheckLog(damaged).end, LogEnd::kDamaged) << offset;
    EXPECT_EQ(CheckLog(damaged).offset, 0u) << offset;
  }
  std::string damaged = log_;
  std::fill_n(damaged.begin() + 2 * kBlockBytes, kSectorBytes, '\0');
  EXPECT_EQ(CheckLog(damaged).end, LogEnd::kDamaged);
  EXPECT_EQ(CheckLog(damaged).offset, 2 * kBlockBytes);
}

TEST_F(RocksDbLogCheckTest, FindsMissingFragments) {
  // The block in the middle of the long record is gone.
  const std::string damaged = log_.substr(0, kBlockBytes) + log_.substr(3 * kBlockBytes);
  EXPECT_EQ(CheckLog(damaged).end, LogEnd::kWhole) << "first, last: nobody can tell";
  EXPECT_EQ(CheckLog(log_.substr(kBlockBytes)).end, LogEnd::kDamaged);
  EXPECT_EQ(CheckLog(log_.substr(0, kBlockBytes) + log_).end, LogEnd::kDamaged);
}

TEST_F(RocksDbLogCheckTest, FindsEveryFlippedBit) {
  for (size_t offset = 0; offset < log_.size(); offset += offset < 1000 || offset > log_.size() - 1000 ? 1 : 499) {
    std::string damaged = log_;
    damaged[offset] = static_cast<char>(damaged[offset] ^ (1 << (offset % 8)));
    // The length of the very last record: if it grows, the record looks cut.
    const bool last_length = offset >= log_.size() - kSmallRecordBytes + kLengthOffset &&
                             offset < log_.size() - kSmallRecordBytes + kLengthOffset + 2;
    EXPECT_TRUE(last_length || CheckLog(damaged).end == LogEnd::kDamaged) << offset;
  }
}

}  // namespace
}  // namespace viommu::server
