// What store.h promises, asked of every engine.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/error.h"
#include "server/store/format.h"
#include "server/store/memory_store.h"
#include "server/store/rocksdb_store.h"
#include "server/store/store.h"
#include "server/store/testing/temp_folder.h"

namespace viommu::server {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

using Pairs = std::vector<std::pair<std::string, std::string>>;

// An engine, and how to come back to what it keeps.
class Engine {
 public:
  virtual ~Engine() = default;
  virtual Store& store() = 0;
  // As if the server was killed and started again.
  virtual void Reopen() = 0;
};

class MemoryEngine final : public Engine {
 public:
  Store& store() override { return *store_; }
  void Reopen() override { store_ = store_->AfterKill(); }

 private:
  std::unique_ptr<MemoryStore> store_ = std::make_unique<MemoryStore>();
};

class RocksDbEngine final : public Engine {
 public:
  RocksDbEngine() { Open(); }
  Store& store() override { return *store_; }
  void Reopen() override {
    store_.reset();
    Open();
  }

 private:
  void Open() {
    RocksDbOptions options;
    options.fsync_probes = 0;
    absl::StatusOr<std::unique_ptr<RocksDbStore>> store = RocksDbStore::Open(folder_.path(), options);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  TempFolder folder_;
  std::unique_ptr<RocksDbStore> store_;
};

struct EngineParam {
  const char* name;
  std::function<std::unique_ptr<Engine>()> make;
};

class StoreContractTest : public ::testing::TestWithParam<EngineParam> {
 protected:
  Store& store() { return engine_->store(); }

  void Put(KeySpace space, std::string key, std::string value, Durability durability = Durability::kBuffered) {
    Batch batch;
    batch.Put(space, std::move(key), std::move(value));
    const absl::Status status = store().Commit(batch, durability);
    ASSERT_TRUE(status.ok()) << status;
  }

  void Commit(const Batch& batch, Durability durability = Durability::kBuffered) {
    const absl::Status status = store().Commit(batch, durability);
    ASSERT_TRUE(status.ok()) << status;
  }

  std::optional<std::string> Get(KeySpace space, std::string_view key) {
    const absl::StatusOr<std::optional<std::string>> value = store().Get(space, key);
    EXPECT_TRUE(value.ok()) << value.status();
    return value.ok() ? *value : std::nullopt;
  }

  Pairs Scan(KeySpace space, std::string_view begin = "", std::string_view end = "", size_t limit = SIZE_MAX) {
    Pairs pairs;
    const absl::Status status = store().Scan(space, begin, end, [&](std::string_view key, std::string_view value) {
      pairs.emplace_back(key, value);
      return pairs.size() < limit;
    });
    EXPECT_TRUE(status.ok()) << status;
    return pairs;
  }

  std::unique_ptr<Engine> engine_ = GetParam().make();
};

INSTANTIATE_TEST_SUITE_P(Engines, StoreContractTest,
                         ::testing::Values(EngineParam{"Memory", [] { return std::make_unique<MemoryEngine>(); }},
                                           EngineParam{"RocksDb", [] { return std::make_unique<RocksDbEngine>(); }}),
                         [](const ::testing::TestParamInfo<EngineParam>& param) {
                           return std::string(param.param.name);
                         });

TEST_P(StoreContractTest, NewStoreIsEmpty) {
  for (const KeySpace space : {KeySpace::kResources, KeySpace::kChanges, KeySpace::kRequests}) {
    EXPECT_THAT(Scan(space), IsEmpty());
  }
  // The format version is the only thing that an engine may put there by itself.
  for (const auto& [key, value] : Scan(KeySpace::kMeta)) EXPECT_EQ(key, kFormatVersionKey);
  EXPECT_EQ(Get(KeySpace::kResources, "a"), std::nullopt);
  EXPECT_FALSE(store().Describe().empty());
}

TEST_P(StoreContractTest, KeepsValuesOfAnyBytes) {
  const std::string bytes("\0\xff\n\0x", 5);
  Put(KeySpace::kResources, bytes, bytes);
  Put(KeySpace::kResources, "empty", "");
  EXPECT_EQ(Get(KeySpace::kResources, bytes), bytes);
  EXPECT_EQ(Get(KeySpace::kResources, "empty"), "");
  EXPECT_EQ(Get(KeySpace::kResources, std::string_view("\0", 1)), std::nullopt);
}

TEST_P(StoreContractTest, KeepsBigValues) {
  const std::string big(3 << 20, 'v');
  Put(KeySpace::kResources, "big", big);
  EXPECT_EQ(Get(KeySpace::kResources, "big"), big);
}

TEST_P(StoreContractTest, KeySpacesAreApart) {
  Batch batch;
  batch.Put(KeySpace::kResources, "k", "resource");
  batch.Put(KeySpace::kChanges, "k", "change");
  batch.Put(KeySpace::kRequests, "k", "request");
  batch.Put(KeySpace::kMeta, "k", "meta");
  Commit(batch);
  EXPECT_EQ(Get(KeySpace::kResources, "k"), "resource");
  EXPECT_EQ(Get(KeySpace::kChanges, "k"), "change");
  EXPECT_EQ(Get(KeySpace::kRequests, "k"), "request");
  EXPECT_EQ(Get(KeySpace::kMeta, "k"), "meta");
  Batch gone;
  gone.Delete(KeySpace::kChanges, "k");
  Commit(gone);
  EXPECT_EQ(Get(KeySpace::kChanges, "k"), std::nullopt);
  EXPECT_EQ(Get(KeySpace::kResources, "k"), "resource");
}

TEST_P(StoreContractTest, LaterOperationsOfABatchWin) {
  Batch batch;
  batch.Put(KeySpace::kResources, "a", "1");
  batch.Put(KeySpace::kResources, "a", "2");
  batch.Delete(KeySpace::kResources, "b");
  batch.Put(KeySpace::kResources, "b", "1");
  batch.Put(KeySpace::kResources, "c", "1");
  batch.Delete(KeySpace::kResources, "c");
  batch.Put(KeySpace::kResources, "d", "1");
  batch.DeleteRange(KeySpace::kResources, "d", "e");
  batch.DeleteRange(KeySpace::kResources, "f", "g");
  batch.Put(KeySpace::kResources, "f", "1");
  Commit(batch);
  EXPECT_THAT(Scan(KeySpace::kResources), ElementsAre(Pair("a", "2"), Pair("b", "1"), Pair("f", "1")));
}

TEST_P(StoreContractTest, LaterBatchesWin) {
  Put(KeySpace::kResources, "a", "1", Durability::kSynced);
  Put(KeySpace::kResources, "a", "2");
  EXPECT_EQ(Get(KeySpace::kResources, "a"), "2");
  engine_->Reopen();
  EXPECT_EQ(Get(KeySpace::kResources, "a"), "2");
}

TEST_P(StoreContractTest, ScansInTheOrderOfBytes) {
  for (const char* key : {"b", "a\xff", "a", "B", "ab", "\xff"}) Put(KeySpace::kResources, key, "");
  EXPECT_THAT(Scan(KeySpace::kResources), ElementsAre(Pair("B", ""), Pair("a", ""), Pair("ab", ""), Pair("a\xff", ""),
                                                      Pair("b", ""), Pair("\xff", "")));
}

TEST_P(StoreContractTest, ScansFromBeginToBeforeEnd) {
  for (const char* key : {"a", "b", "c", "d"}) Put(KeySpace::kResources, key, "");
  EXPECT_THAT(Scan(KeySpace::kResources, "b", "d"), ElementsAre(Pair("b", ""), Pair("c", "")));
  EXPECT_THAT(Scan(KeySpace::kResources, "aa", "cc"), ElementsAre(Pair("b", ""), Pair("c", "")));
  EXPECT_THAT(Scan(KeySpace::kResources, "c"), ElementsAre(Pair("c", ""), Pair("d", "")));
  EXPECT_THAT(Scan(KeySpace::kResources, "", "b"), ElementsAre(Pair("a", "")));
  EXPECT_THAT(Scan(KeySpace::kResources, "b", "b"), IsEmpty());
  EXPECT_THAT(Scan(KeySpace::kResources, "d", "b"), IsEmpty());
  EXPECT_THAT(Scan(KeySpace::kResources, "e"), IsEmpty());
}

TEST_P(StoreContractTest, ScanStopsWhenTold) {
  for (const char* key : {"a", "b", "c", "d"}) Put(KeySpace::kResources, key, "");
  EXPECT_THAT(Scan(KeySpace::kResources, "b", "", 2), ElementsAre(Pair("b", ""), Pair("c", "")));
  EXPECT_THAT(Scan(KeySpace::kResources, "", "", 1), ElementsAre(Pair("a", "")));
}

TEST_P(StoreContractTest, ScanSeesTheStoreAsItWas) {
  for (const char* key : {"a", "b", "c"}) Put(KeySpace::kResources, key, "old");
  Pairs seen;
  const absl::Status status =
      store().Scan(KeySpace::kResources, "", "", [&](std::string_view key, std::string_view value) {
        seen.emplace_back(key, value);
        Batch batch;
        batch.Delete(KeySpace::kResources, "b");
        batch.Put(KeySpace::kResources, "c", "new");
        batch.Put(KeySpace::kResources, "d", "new");
        EXPECT_TRUE(store().Commit(batch, Durability::kBuffered).ok());
        return true;
      });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_THAT(seen, ElementsAre(Pair("a", "old"), Pair("b", "old"), Pair("c", "old")));
  EXPECT_THAT(Scan(KeySpace::kResources), ElementsAre(Pair("a", "old"), Pair("c", "new"), Pair("d", "new")));
}

TEST_P(StoreContractTest, ScansMayNest) {
  for (const char* key : {"a", "b"}) Put(KeySpace::kResources, key, "");
  size_t visits = 0;
  const absl::Status status = store().Scan(KeySpace::kResources, "", "", [&](std::string_view, std::string_view) {
    visits += Scan(KeySpace::kResources).size();
    EXPECT_EQ(Get(KeySpace::kResources, "b"), "");
    return true;
  });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(visits, 4u);
}

TEST_P(StoreContractTest, DeletesRanges) {
  for (const char* key : {"a", "b", "c", "d", "e"}) Put(KeySpace::kChanges, key, "");
  Put(KeySpace::kResources, "c", "");
  Batch batch;
  batch.DeleteRange(KeySpace::kChanges, "b", "d");
  Commit(batch);
  EXPECT_THAT(Scan(KeySpace::kChanges), ElementsAre(Pair("a", ""), Pair("d", ""), Pair("e", "")));
  EXPECT_EQ(Get(KeySpace::kChanges, "b"), std::nullopt);
  EXPECT_EQ(Get(KeySpace::kChanges, "d"), "");
  EXPECT_EQ(Get(KeySpace::kResources, "c"), "");
  engine_->Reopen();
  EXPECT_THAT(Scan(KeySpace::kChanges), ElementsAre(Pair("a", ""), Pair("d", ""), Pair("e", "")));
}

TEST_P(StoreContractTest, EmptyAndReversedRangesDeleteNothing) {
  for (const char* key : {"a", "b", "c"}) Put(KeySpace::kChanges, key, "");
  Batch batch;
  batch.DeleteRange(KeySpace::kChanges, "b", "b");
  batch.DeleteRange(KeySpace::kChanges, "c", "a");
  batch.DeleteRange(KeySpace::kChanges, "a", "");
  Commit(batch);
  EXPECT_THAT(Scan(KeySpace::kChanges), ElementsAre(Pair("a", ""), Pair("b", ""), Pair("c", "")));
}

TEST_P(StoreContractTest, DeletingWhatIsNotThereIsFine) {
  Batch batch;
  batch.Delete(KeySpace::kResources, "nobody");
  batch.DeleteRange(KeySpace::kResources, "n", "o");
  Commit(batch, Durability::kSynced);
  EXPECT_THAT(Scan(KeySpace::kResources), IsEmpty());
}

TEST_P(StoreContractTest, EmptyBatchesAreFine) {
  Put(KeySpace::kResources, "a", "1");
  Commit(Batch(), Durability::kBuffered);
  Commit(Batch(), Durability::kSynced);
  engine_->Reopen();
  EXPECT_EQ(Get(KeySpace::kResources, "a"), "1");
}

TEST_P(StoreContractTest, ReopenedStoreHasEverything) {
  for (int i = 0; i < 500; ++i) {
    Put(KeySpace::kResources, std::to_string(i), "v" + std::to_string(i),
        i % 100 == 0 ? Durability::kSynced : Durability::kBuffered);
  }
  for (int round = 0; round < 3; ++round) {
    engine_->Reopen();
    EXPECT_EQ(Scan(KeySpace::kResources).size(), 500u);
    EXPECT_EQ(Get(KeySpace::kResources, "499"), "v499");
  }
}

TEST_P(StoreContractTest, RecoverOfAHealthyStoreIsFine) {
  Put(KeySpace::kResources, "a", "1", Durability::kSynced);
  EXPECT_TRUE(store().Recover().ok());
  Put(KeySpace::kResources, "b", "2", Durability::kSynced);
  EXPECT_THAT(Scan(KeySpace::kResources), ElementsAre(Pair("a", "1"), Pair("b", "2")));
}

// Readers on several threads while the writer writes: they see every batch wholly or not, and never go back in time.
// Backups go on beside writers, hold everything from before they began, and are whole; or the engine says that it has
// none.
TEST_P(StoreContractTest, BackupsAreMadeBesideWritersOrNotOffered) {
  TempFolder folder;
  Put(KeySpace::kResources, "before", "1");
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    for (int i = 0; !stop; ++i) {
      Batch batch;
      batch.Put(KeySpace::kResources, "during", std::to_string(i));
      EXPECT_TRUE(store().Commit(batch, Durability::kBuffered).ok());
    }
  });
  const auto first = store().Backup(folder.path(), "first", 2);
  const auto second = store().Backup(folder.path(), "second", 2);
  const auto third = store().Backup(folder.path(), "third", 2);
  stop = true;
  writer.join();
  const auto listed = store().ListBackups(folder.path());
  if (absl::IsUnimplemented(first.status())) {
    for (const auto& answer : {second, third, listed}) {
      EXPECT_EQ(ReasonOf(answer.status()), v1::ERROR_REASON_NOT_OFFERED) << answer.status();
    }
    return;
  }
  for (const auto& answer : {first, second, third, listed}) ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(first->size(), 1u);
  ASSERT_EQ(third->size(), 2u) << "all but the newest two are gone";
  EXPECT_EQ(third->at(0).metadata, "third");
  EXPECT_EQ(third->at(1).metadata, "second");
  EXPECT_GT(third->at(0).id, third->at(1).id);
  EXPECT_GT(third->at(0).size_bytes, 0);
  ASSERT_EQ(listed->size(), 2u);
  EXPECT_EQ(listed->at(0).id, third->at(0).id);
  EXPECT_EQ(Get(KeySpace::kResources, "before"), "1");
  store().StopBackups();
  EXPECT_FALSE(store().Backup(folder.path(), "late", 2).ok());
  Put(KeySpace::kResources, "after", "1");  // which is no matter for the rest
}

TEST_P(StoreContractTest, ConcurrentReadersSeeWholeBatchesInOrder) {
  constexpr int kBatches = 300;
  constexpr int kReaders = 3;
  constexpr int kKeys = 8;
  const auto commit = [&](int value) {
    Batch batch;
    for (int i = 0; i < kKeys; ++i) {
      batch.Put(KeySpace::kResources, "k" + std::to_string(i), std::to_string(value));
    }
    Commit(batch, value % 50 == 0 ? Durability::kSynced : Durability::kBuffered);
  };
  commit(0);
  std::atomic<bool> done{false};
  std::atomic<int> torn{0};
  std::atomic<int> backwards{0};
  std::vector<std::thread> readers;
  for (int r = 0; r < kReaders; ++r) {
    readers.emplace_back([&, r] {
      int last = 0;
      bool again = true;
      while (again) {
        again = !done.load();
        int value = 0;
        if (r == 0) {
          value = std::stoi(Get(KeySpace::kResources, "k3").value_or("-1"));
        } else {
          const Pairs pairs = Scan(KeySpace::kResources);
          value = pairs.empty() ? -1 : std::stoi(pairs.front().second);
          if (pairs.size() != kKeys) ++torn;
          for (const auto& [key, other] : pairs) torn += other != pairs.front().second ? 1 : 0;
        }
        if (value < last) ++backwards;
        last = value;
      }
      if (last != kBatches) ++backwards;
    });
  }
  for (int i = 1; i <= kBatches; ++i) commit(i);
  done = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(torn, 0);
  EXPECT_EQ(backwards, 0);
}

}  // namespace
}  // namespace viommu::server
