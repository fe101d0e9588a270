#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "common/error.h"
#include "server/api/test_service.h"
#include "server/commit/backups.h"
#include "server/store/rocksdb_store.h"
#include "server/store/testing/temp_folder.h"

namespace viommu::server {
namespace {

class NoBackupsTest : public FleetServiceTest {};

TEST_F(NoBackupsTest, WithoutAFolderTheWayOutIsNamed) {
  EXPECT_NE(Refused(v1::CreateBackupRequest(), absl::StatusCode::kUnimplemented, v1::ERROR_REASON_NOT_OFFERED)
                .message()
                .find("backup.folder"),
            std::string::npos);
  Refused(v1::ListBackupsRequest(), absl::StatusCode::kUnimplemented, v1::ERROR_REASON_NOT_OFFERED);
}

struct OnDisk {
  static std::unique_ptr<RocksDbStore> Open(const std::string& path) {
    RocksDbOptions options;
    options.fsync_probes = 0;
    return RocksDbStore::Open(path, options).value();
  }
  TempFolder store_folder;
  TempFolder backup_folder;
  std::unique_ptr<RocksDbStore> disk = Open(store_folder.path());
};

class BackupsTest : private OnDisk, public FleetServiceTest {
 protected:
  BackupsTest() : FleetServiceTest(8, 4, RealClock(), disk.get(), {.folder = backup_folder.path(), .keep = 2}) {}
  ~BackupsTest() override { backups_->Stop(); }
};

TEST_F(BackupsTest, AreMadeListedAndLimitedInNumber) {
  EXPECT_EQ(Do(v1::ListBackupsRequest()).backups_size(), 0);
  for (int64_t id = 1; id <= 3; ++id) {
    const int64_t revision = core_->revision();
    const auto made = Do(v1::CreateBackupRequest()).backup();
    EXPECT_EQ(made.id(), id);
    EXPECT_EQ(made.revision(), revision);
    EXPECT_EQ(made.store_incarnation(), core_->identity().store_incarnation);
    EXPECT_GT(made.size_bytes(), 0);
    EXPECT_GT(made.create_time().seconds(), 0);
  }
  v1::ListBackupsRequest request;
  request.set_page_size(1);
  const auto first = Do(request);
  ASSERT_EQ(first.backups_size(), 1);
  EXPECT_EQ(first.backups(0).id(), 3);
  request.set_page_token(first.next_page_token());
  const auto second = Do(request);
  ASSERT_EQ(second.backups_size(), 1);
  EXPECT_EQ(second.backups(0).id(), 2);
  EXPECT_EQ(second.next_page_token(), "") << "the first is gone";
  request.set_page_size(-1);
  Refused(request, absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_INVALID_FIELD);
}

TEST_F(BackupsTest, AreAudited) {
  Do(v1::CreateBackupRequest());
  MakeViommu();  // an entry of what changed nothing waits for the next batch
  const auto entries = Do(v1::ListAuditEntriesRequest()).entries();
  ASSERT_EQ(entries.size(), 3);
  EXPECT_EQ(entries[2].method(), "CreateBackup");
  EXPECT_EQ(entries[2].target(), "backups/1");
  EXPECT_EQ(entries[2].code(), "OK");
}

}  // namespace
}  // namespace viommu::server
