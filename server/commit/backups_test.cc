#include "server/commit/backups.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/error.h"
#include "server/commit/core.h"
#include "server/commit/test_command.h"
#include "server/store/memory_store.h"

namespace viommu::server {
namespace {

// A store in memory that can be backed up, as slowly as a test likes.
class BackedUpStore final : public Store {
 public:
  absl::Status Commit(const Batch& batch, Durability durability) override { return memory_.Commit(batch, durability); }
  absl::Status Recover() override { return memory_.Recover(); }
  absl::StatusOr<std::optional<std::string>> Get(KeySpace space, std::string_view key) const override {
    return memory_.Get(space, key);
  }
  absl::Status Scan(KeySpace space, std::string_view begin, std::string_view end,
                    absl::FunctionRef<bool(std::string_view, std::string_view)> visit) const override {
    return memory_.Scan(space, begin, end, visit);
  }
  absl::StatusOr<std::vector<BackupInfo>> Backup(const std::string&, const std::string& metadata, size_t) override {
    while (held && !stopped) std::this_thread::yield();
    if (stopped) return absl::InternalError("stopped");
    if (!failure.ok()) return failure;
    const auto id = static_cast<int64_t>(backups.size()) + 1;
    backups.insert(backups.begin(), {id, /*time_s=*/100, /*size_bytes=*/10, metadata});
    return backups;
  }
  void StopBackups() override { stopped = true; }
  absl::StatusOr<std::vector<BackupInfo>> ListBackups(const std::string&) const override { return backups; }
  std::string Describe() const override { return "test"; }

  std::vector<BackupInfo> backups;
  absl::Status failure;
  std::atomic<bool> held = false;
  std::atomic<bool> stopped = false;

 private:
  MemoryStore memory_;
};

class BackupsTest : public testing::Test {
 protected:
  using Made = absl::StatusOr<Backups::Backup>;

  std::future<Made> Create(Backups& backups) {
    auto promise = std::make_shared<std::promise<Made>>();
    const absl::Status begun = backups.Create([promise](Made made) { promise->set_value(std::move(made)); });
    EXPECT_TRUE(begun.ok()) << begun;
    return promise->get_future();
  }

  BackedUpStore store_;
  std::unique_ptr<CommitCore> core_ =
      CommitCore::Open(store_, RealClock(), [] { return "uid"; }, {.boot_id = "boot"}).value();
  const Backups::Options options_{.folder = "folder"};
};

TEST_F(BackupsTest, SayWhatTheyHold) {
  TestCommand command(PutHost("hosts/a"));
  ASSERT_TRUE(command.RunOn(*core_).ok());
  Backups backups(store_, *core_, options_);
  EXPECT_TRUE(backups.List()->empty());
  const Made made = Create(backups).get();
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->revision, 1);
  EXPECT_EQ(made->store_incarnation, core_->identity().store_incarnation);
  ASSERT_TRUE(Create(backups).get().ok());
  ASSERT_EQ(backups.List()->size(), 2u);
  EXPECT_EQ(backups.List()->front().id, 2);
  EXPECT_EQ(backups.stats().made, 2u);
  EXPECT_EQ(Backups(store_, *core_, options_).List()->size(), 2u) << "found at the start";
}

TEST_F(BackupsTest, OneAtATime) {
  Backups backups(store_, *core_, options_);
  store_.held = true;
  auto first = Create(backups);
  const absl::Status second = backups.Create([](const Made&) { FAIL(); });
  EXPECT_EQ(second.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(second), v1::ERROR_REASON_BACKUP_FAILED);
  store_.held = false;
  EXPECT_TRUE(first.get().ok());
}

TEST_F(BackupsTest, AFailureIsToldAndCounted) {
  Backups backups(store_, *core_, options_);
  store_.failure = Error(absl::StatusCode::kInternal, v1::ERROR_REASON_BACKUP_FAILED).Message("no room");
  EXPECT_EQ(ReasonOf(Create(backups).get().status()), v1::ERROR_REASON_BACKUP_FAILED);
  EXPECT_EQ(backups.stats().failed, 1u);
  store_.failure = absl::OkStatus();
  EXPECT_TRUE(Create(backups).get().ok());
}

TEST_F(BackupsTest, StopEndsOneThatIsUnderWay) {
  Backups backups(store_, *core_, options_);
  store_.held = true;
  auto made = Create(backups);
  backups.Stop();
  EXPECT_FALSE(made.get().ok());
  EXPECT_EQ(backups.Create([](const Made&) { FAIL(); }).code(), absl::StatusCode::kUnavailable);
}

TEST_F(BackupsTest, WithoutAFolderThereAreNone) {
  Backups backups(store_, *core_, {});
  EXPECT_EQ(ReasonOf(backups.Create([](const Made&) { FAIL(); })), v1::ERROR_REASON_NOT_OFFERED);
  EXPECT_EQ(ReasonOf(backups.List().status()), v1::ERROR_REASON_NOT_OFFERED);
}

}  // namespace
}  // namespace viommu::server
