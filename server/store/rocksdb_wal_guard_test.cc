#include "server/store/rocksdb_wal_guard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace viommu::server {
namespace {

using ::testing::ElementsAre;
using Option = rocksdb::WalFilter::WalProcessingOption;

constexpr uint64_t kAll = UINT64_MAX;
constexpr Option kCounts = Option::kContinueProcessing;
constexpr Option kDoesNot = Option::kIgnoreCurrentRecord;

// A record as it stands in the log: sequence number, number of writes, writes.
rocksdb::WriteBatch Record(uint64_t sequence, uint32_t count) {
  rocksdb::WriteBatch batch;
  for (uint32_t i = 0; i < count; ++i) EXPECT_TRUE(batch.Put("key", "value").ok());
  std::string bytes = batch.Data();
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(sequence >> (8 * i));
  return rocksdb::WriteBatch(std::move(bytes));
}

using Records = std::vector<std::pair<uint64_t, uint32_t>>;

std::vector<Option> Pass(RocksDbWalGuard& guard, const Records& records) {
  std::vector<Option> options;
  for (const auto& [sequence, count] : records) {
    options.push_back(guard.LogRecordFound(1, "000001.log", Record(sequence, count), nullptr, nullptr));
  }
  return options;
}

std::vector<Option> SecondPass(const Records& records, uint64_t last_sequence = kAll) {
  RocksDbWalGuard guard;
  for (const Option option : Pass(guard, records)) EXPECT_EQ(option, kCounts);
  guard.Decide(last_sequence);
  return Pass(guard, records);
}

TEST(RocksDbWalGuardTest, ConsecutiveRecordsCount) {
  EXPECT_THAT(SecondPass({{7, 3}, {10, 1}, {11, 2}}), ElementsAre(kCounts, kCounts, kCounts));
  EXPECT_THAT(SecondPass({{uint64_t{1} << 50, 3}, {(uint64_t{1} << 50) + 3, 1}}), ElementsAre(kCounts, kCounts));
  EXPECT_TRUE(SecondPass({}).empty());
}

TEST(RocksDbWalGuardTest, RecordWhoseNumberWasGivenAgainDoesNot) {
  EXPECT_THAT(SecondPass({{1, 3}, {4, 2}, {4, 1}, {5, 1}}), ElementsAre(kCounts, kDoesNot, kCounts, kCounts));
  EXPECT_THAT(SecondPass({{1, 3}, {4, 2}, {4, 5}, {4, 1}}), ElementsAre(kCounts, kDoesNot, kDoesNot, kCounts));
  EXPECT_THAT(SecondPass({{4, 9}, {4, 1}}), ElementsAre(kDoesNot, kCounts));
}

TEST(RocksDbWalGuardTest, NothingCountsAboveTheLastThatSucceeded) {
  EXPECT_THAT(SecondPass({{1, 3}, {4, 2}, {6, 1}}, 5), ElementsAre(kCounts, kCounts, kDoesNot));
  EXPECT_THAT(SecondPass({{1, 3}, {4, 2}, {6, 1}}, 4), ElementsAre(kCounts, kDoesNot, kDoesNot));
  EXPECT_THAT(SecondPass({{1, 3}}, 0), ElementsAre(kDoesNot));
}

TEST(RocksDbWalGuardTest, NothingCountsAfterAGap) {
  EXPECT_THAT(SecondPass({{1, 3}, {5, 1}, {6, 1}}), ElementsAre(kCounts, kDoesNot, kDoesNot));
  EXPECT_THAT(SecondPass({{1, 3}, {4, 5}, {4, 1}, {6, 1}, {7, 1}}),
              ElementsAre(kCounts, kDoesNot, kCounts, kDoesNot, kDoesNot));
}

TEST(RocksDbWalGuardTest, TellsHowMany) {
  RocksDbWalGuard guard;
  Pass(guard, {{1, 3}, {4, 5}, {4, 1}, {6, 1}, {7, 1}});
  guard.Decide(kAll);
  EXPECT_EQ(guard.failed(), 1u);
  EXPECT_EQ(guard.after_gap(), 2u);
}

TEST(RocksDbWalGuardTest, EmptyRecordsAreRocksDbsOwn) {
  EXPECT_THAT(SecondPass({{1, 3}, {3, 0}, {4, 1}, {9, 0}}), ElementsAre(kCounts, kCounts, kCounts, kCounts));
}

TEST(RocksDbWalGuardTest, LogsThatChangedBetweenThePassesAreRefused) {
  RocksDbWalGuard more;
  Pass(more, {{1, 3}});
  more.Decide(kAll);
  EXPECT_THAT(Pass(more, {{1, 3}, {4, 1}}), ElementsAre(kCounts, Option::kCorruptedRecord));
  RocksDbWalGuard other;
  Pass(other, {{1, 3}});
  other.Decide(kAll);
  EXPECT_THAT(Pass(other, {{2, 3}}), ElementsAre(Option::kCorruptedRecord));
}

}  // namespace
}  // namespace viommu::server
