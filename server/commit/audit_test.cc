#include "server/commit/audit.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "common/error.h"
#include "common/fake_clock.h"
#include "server/commit/codec.h"
#include "server/commit/core.h"
#include "server/commit/test_command.h"
#include "server/store/memory_store.h"

namespace viommu::server {
namespace {

struct Entry {
  int64_t id;
  AuditRecord record;
};

class AuditTest : public testing::Test {
 protected:
  std::unique_ptr<CommitCore> Open(Store& store) {
    CommitCore::Options options = options_;
    options.boot_id = "boot";
    auto core = CommitCore::Open(
        store, clock_, [this] { return "uid-" + std::to_string(++uids_); }, options);
    EXPECT_TRUE(core.ok()) << core.status();
    return *std::move(core);
  }

  absl::Status Put(CommitCore& core, const std::string& host) {
    TestCommand command(PutHost(host, "boot-" + std::to_string(++uids_)));
    command.method = "CordonHost";
    command.caller = "alice";
    command.peer = "ipv4:127.0.0.1:1";
    command.target = host;
    return command.RunOn(core);
  }

  absl::Status Refuse(CommitCore& core) {
    TestCommand command([](const Context&, Draft&) -> absl::Status {
      return Error(absl::StatusCode::kNotFound, v1::ERROR_REASON_HOST_NOT_FOUND).Message("no such host");
    });
    command.method = "CordonHost";
    command.target = "hosts/none";
    return command.RunOn(core);
  }

  // Latest first.
  static std::vector<Entry> Read(const CommitCore& core) {
    std::vector<Entry> entries;
    EXPECT_TRUE(core.audit()
                    .ReadBefore(INT64_MAX,
                                [&](int64_t id, const AuditRecord& record) {
                                  entries.push_back({id, record});
                                  return true;
                                })
                    .ok());
    return entries;
  }

  MemoryStore store_;
  FakeClock clock_;
  CommitCore::Options options_;
  int uids_ = 0;
};

TEST_F(AuditTest, AChangeAndItsEntryAreOneBatch) {
  auto core = Open(store_);
  const auto before = store_.stats();
  ASSERT_TRUE(Put(*core, "hosts/a").ok());
  EXPECT_EQ(store_.stats().commits, before.commits + 1);
  const std::vector<Entry> entries = Read(*core);
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(entries[0].id, 1);
  const AuditRecord& record = entries[0].record;
  EXPECT_EQ(record.time_ns(), clock_.Now().time_since_epoch().count());
  EXPECT_EQ(record.caller(), "alice");
  EXPECT_EQ(record.peer(), "ipv4:127.0.0.1:1");
  EXPECT_EQ(record.method(), "CordonHost");
  EXPECT_EQ(record.target(), "hosts/a");
  EXPECT_EQ(record.code(), 0u);
  EXPECT_EQ(record.revision(), core->revision());
  ASSERT_EQ(record.changes_size(), 1);
  EXPECT_EQ(record.changes(0).name(), "hosts/a");
  EXPECT_EQ(record.changes(0).before(), "");
  EXPECT_NE(record.changes(0).after(), "");
}

TEST_F(AuditTest, HostsThatTheRequestDoesNotNameAreOnlyCounted) {
  auto core = Open(store_);
  TestCommand command([](const Context& context, Draft& draft) {
    for (const char* host : {"hosts/a", "hosts/b"}) VIOMMU_RETURN_IF_ERROR(PutHost(host)(context, draft));
    return absl::OkStatus();
  });
  command.method = "CordonHost";
  command.target = "hosts/b";
  ASSERT_TRUE(command.RunOn(*core).ok());
  const std::vector<Entry> entries = Read(*core);
  ASSERT_EQ(entries.size(), 1u);
  ASSERT_EQ(entries[0].record.changes_size(), 1);
  EXPECT_EQ(entries[0].record.changes(0).name(), "hosts/b");
  EXPECT_EQ(entries[0].record.more_changes(), 1);
}

TEST_F(AuditTest, AnEntryHasALimitedNumberOfRecords) {
  auto core = Open(store_);
  TestCommand command([](const Context& context, Draft& draft) {
    for (int i = 0; i < 20; ++i) {
      v1::Viommu viommu;
      viommu.set_name("viommus/v" + std::to_string(i));
      viommu.set_uid(context.new_uid());
      draft.Put(std::move(viommu));
    }
    return absl::OkStatus();
  });
  command.method = "DeleteStage2Domain";
  ASSERT_TRUE(command.RunOn(*core).ok());
  const std::vector<Entry> entries = Read(*core);
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(entries[0].record.changes_size(), Audit::kMaxChanges);
  EXPECT_EQ(entries[0].record.more_changes(), 20 - Audit::kMaxChanges);
}

TEST_F(AuditTest, ARefusalWaitsForTheNextBatch) {
  auto core = Open(store_);
  const auto before = store_.stats();
  EXPECT_FALSE(Refuse(*core).ok());
  EXPECT_EQ(store_.stats().commits, before.commits);
  EXPECT_TRUE(Read(*core).empty());
  ASSERT_TRUE(Put(*core, "hosts/a").ok());
  const std::vector<Entry> entries = Read(*core);
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[0].record.target(), "hosts/a");
  EXPECT_EQ(entries[1].record.code(), static_cast<uint32_t>(absl::StatusCode::kNotFound));
  EXPECT_EQ(entries[1].record.reason(), static_cast<uint32_t>(v1::ERROR_REASON_HOST_NOT_FOUND));
  EXPECT_EQ(entries[1].record.message(), "no such host");
  EXPECT_EQ(entries[1].record.revision(), 0);
}

TEST_F(AuditTest, ATickRecordsWhatWaitsWithoutASync) {
  auto core = Open(store_);
  EXPECT_FALSE(Refuse(*core).ok());
  const auto before = store_.stats();
  core->Tick();
  EXPECT_EQ(Read(*core).size(), 1u);
  EXPECT_EQ(store_.stats().synced_commits, before.synced_commits);
  core->Tick();
  EXPECT_EQ(Read(*core).size(), 1u) << "once";
}

TEST_F(AuditTest, RefusalsBeyondTheLimitAreCountedAndSaid) {
  auto core = Open(store_);
  for (size_t i = 0; i < Audit::kMaxWaiting + 7; ++i) EXPECT_FALSE(Refuse(*core).ok());
  core->Tick();
  const std::vector<Entry> entries = Read(*core);
  ASSERT_EQ(entries.size(), Audit::kMaxWaiting + 1);
  EXPECT_EQ(entries[0].record.caller(), "server");
  EXPECT_EQ(entries[0].record.message(), "7 calls that changed nothing were left out");
  EXPECT_EQ(core->audit().stats().dropped, 7u);
}

TEST_F(AuditTest, NeitherJudgedOnlyNorAgentsCallsAreAudited) {
  auto core = Open(store_);
  TestCommand judged_only(PutHost("hosts/a"));
  judged_only.method = "CordonHost";
  judged_only.validate_only = true;
  ASSERT_TRUE(judged_only.RunOn(*core).ok());
  TestCommand agents(PutHost("hosts/b"));
  ASSERT_TRUE(agents.RunOn(*core).ok());
  core->Tick();
  EXPECT_TRUE(Read(*core).empty());
}

TEST_F(AuditTest, AStoreThatFailsHasNeitherTheChangeNorItsEntry) {
  auto core = Open(store_);
  EXPECT_FALSE(Refuse(*core).ok());
  store_.FailCommits(absl::UnavailableError("full"));
  EXPECT_FALSE(Put(*core, "hosts/a").ok());
  EXPECT_TRUE(Read(*core).empty());
  store_.AllowRecovery();
  core->Tick();
  ASSERT_TRUE(Put(*core, "hosts/b").ok());
  const std::vector<Entry> entries = Read(*core);
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[0].record.target(), "hosts/b");
  EXPECT_EQ(entries[1].record.target(), "hosts/none") << "what waited still does";
}

TEST_F(AuditTest, SurvivesAReopen) {
  {
    auto core = Open(store_);
    ASSERT_TRUE(Put(*core, "hosts/a").ok());
    EXPECT_FALSE(Refuse(*core).ok());
    ASSERT_TRUE(core->Close().ok());
  }
  auto core = Open(store_);
  ASSERT_TRUE(Put(*core, "hosts/b").ok());
  const std::vector<Entry> entries = Read(*core);
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[0].id, 3);
  EXPECT_EQ(entries[0].record.target(), "hosts/b");
  EXPECT_EQ(entries[1].record.target(), "hosts/none");
  EXPECT_EQ(entries[2].record.target(), "hosts/a");
}

TEST_F(AuditTest, SurvivesLossOfPowerWithItsChange) {
  auto core = Open(store_);
  ASSERT_TRUE(Put(*core, "hosts/a").ok());
  const auto after = store_.AfterPowerLoss(0);
  EXPECT_EQ(Read(*Open(*after)).size(), 1u);
}

TEST_F(AuditTest, TheOldestGoByAge) {
  auto core = Open(store_);
  for (int64_t i = 0; i < Audit::kSegmentEntries; ++i) ASSERT_TRUE(Put(*core, "hosts/a").ok());
  clock_.Advance(std::chrono::hours(24));
  ASSERT_TRUE(Put(*core, "hosts/b").ok());
  const WallTime second_day = clock_.Now();
  core->Tick();
  EXPECT_EQ(Read(*core).size(), static_cast<size_t>(Audit::kSegmentEntries) + 1);
  clock_.Advance(std::chrono::hours(24 * 90) + std::chrono::seconds(1));
  core->Tick();
  const std::vector<Entry> entries = Read(*core);
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(entries[0].id, Audit::kSegmentEntries + 1);
  EXPECT_EQ(core->audit().oldest_time(), second_day);
}

TEST_F(AuditTest, TheOldestGoByBytes) {
  options_.audit.max_bytes = 1;
  auto core = Open(store_);
  for (int64_t i = 0; i < 2 * Audit::kSegmentEntries + 5; ++i) ASSERT_TRUE(Put(*core, "hosts/a").ok());
  core->Tick();
  EXPECT_EQ(Read(*core).size(), 5u) << "the newest segment grows on";
  EXPECT_EQ(Read(*Open(store_)).size(), 5u);
}

TEST_F(AuditTest, CanBeSwitchedOff) {
  options_.audit.max_bytes = 0;
  auto core = Open(store_);
  ASSERT_TRUE(Put(*core, "hosts/a").ok());
  EXPECT_FALSE(Refuse(*core).ok());
  core->Tick();
  EXPECT_TRUE(Read(*core).empty());
}

TEST_F(AuditTest, AnEntryThatCannotBeReadIsDamage) {
  Batch batch;
  batch.Put(KeySpace::kAudit, EncodeNumber(1), "no record");
  { auto core = Open(store_); }
  ASSERT_TRUE(store_.Commit(batch, Durability::kSynced).ok());
  CommitCore::Options options;
  options.boot_id = "boot";
  const auto core = CommitCore::Open(
      store_, clock_, [] { return "uid"; }, options);
  EXPECT_EQ(ReasonOf(core.status()), v1::ERROR_REASON_STORE_DAMAGED);
}

}  // namespace
}  // namespace viommu::server
