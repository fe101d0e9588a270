// Readers beside the writer: what they see is one revision, whole, and never an earlier one than before.

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/clock.h"
#include "common/error.h"
#include "server/commit/core.h"
#include "server/commit/test_command.h"
#include "server/store/memory_store.h"

namespace viommu::server {
namespace {

constexpr int kBatches = 200;
constexpr int kReaders = 2;

// Both hosts get the batch's number as their boot id in one change.
TestCommand::Body PutBoth(const std::string& number) {
  return [number](const Context& context, Draft& draft) {
    VIOMMU_RETURN_IF_ERROR(PutHost("hosts/a", number)(context, draft));
    return PutHost("hosts/b", number)(context, draft);
  };
}

TEST(CoreConcurrentTest, ReadersSeeWholeRevisionsInOrder) {
  MemoryStore store;
  CommitCore::Options options;
  options.boot_id = "boot";
  // Few in memory and in the store: readers meet the log's compaction and its way back to the store.
  options.change_log.max_memory_sets = 8;
  options.change_log.max_bytes = 16384;
  std::atomic<int> uids = 0;
  auto core = CommitCore::Open(
                  store, RealClock(), [&uids] { return "uid-" + std::to_string(++uids); }, options)
                  .value();

  std::atomic<bool> stop = false;
  std::vector<std::thread> readers;
  for (int i = 0; i < kReaders; ++i) {
    readers.emplace_back([&] {
      int64_t seen = 0;
      int64_t followed = 0;
      while (!stop) {
        core->Read([&](const Tables& tables, int64_t revision) {
          EXPECT_GE(revision, seen);
          seen = revision;
          const auto a = tables.Find<v1::Host>("hosts/a");
          const auto b = tables.Find<v1::Host>("hosts/b");
          ASSERT_EQ(a == nullptr, b == nullptr);
          if (a == nullptr) return;
          EXPECT_EQ(a->boot_id(), b->boot_id());
          EXPECT_EQ(a->revision(), revision);
        });
        const auto sets = core->log().ReadAfter(followed, 4);
        if (!sets.ok()) {
          EXPECT_EQ(ReasonOf(sets.status()), v1::ERROR_REASON_REVISION_COMPACTED) << sets.status();
          followed = core->log().oldest();
          continue;
        }
        for (const ChangeSetPtr& set : *sets) {
          EXPECT_EQ(set->revision, followed + 1);
          EXPECT_EQ(set->changes.size(), 2u);
          followed = set->revision;
        }
        static_cast<void>(core->stats());
        static_cast<void>(core->writable());
      }
    });
  }
  for (int i = 1; i <= kBatches; ++i) {
    TestCommand first(PutBoth(std::to_string(2 * i)));
    TestCommand second(PutBoth(std::to_string(2 * i + 1)));
    std::vector<Command*> batch = {&first, &second};
    for (const auto& outcome : core->Run(batch)) EXPECT_TRUE(outcome.status.ok()) << outcome.status;
    if (i % 16 == 0) core->Tick();
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(core->revision(), 2 * kBatches);
}

}  // namespace
}  // namespace viommu::server
