// viommuctl audit and backup, against a fake of their service.

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "cli/app_fixture.h"
#include "common/error.h"

namespace viommu::cli {
namespace {

class AppRecordTest : public AppTest {
 protected:
  AppRecordTest() {
    v1::AuditEntry taken;
    taken.set_id(2);
    taken.mutable_time()->set_seconds(1'700'000'000);
    taken.set_caller("alice.example");
    taken.set_method("SetVdevId");
    taken.set_target("viommus/v1");
    taken.set_code("OK");
    taken.set_revision(41);
    taken.add_changes()->set_name("viommus/v1/vdevices/7");
    taken.set_more_changes(1);
    v1::AuditEntry refused = taken;
    refused.set_id(1);
    refused.set_code("NOT_FOUND");
    refused.set_reason("VIOMMU_NOT_FOUND");
    refused.set_message("there is no viommus/v1");
    refused.set_revision(0);
    v1::ListAuditEntriesResponse page;
    *page.add_entries() = taken;
    page.set_next_page_token("next");
    page.set_revision(42);
    operations_.Answer(page);
    *page.mutable_entries(0) = refused;
    page.clear_next_page_token();
    operations_.Answer(page);
    v1::ListBackupsResponse backups;
    v1::Backup& backup = *backups.add_backups();
    backup.set_id(3);
    backup.mutable_create_time()->set_seconds(1'700'000'000);
    backup.set_revision(41);
    backup.set_size_bytes(12345);
    backup.set_store_incarnation("incarnation");
    operations_.Answer(backups);
    v1::CreateBackupResponse made;
    *made.mutable_backup() = backup;
    operations_.Answer(made);
  }
};

TEST_F(AppRecordTest, AuditShowsTheLatestFirst) {
  ASSERT_EQ(Run({"audit"}), 0) << err();
  EXPECT_EQ(out(),
            "TIME                         CALLER         METHOD     TARGET      RESULT            REVISION\n"
            "2023-11-14T22:13:20.000000Z  alice.example  SetVdevId  viommus/v1  OK                      41\n"
            "2023-11-14T22:13:20.000000Z  alice.example  SetVdevId  viommus/v1  VIOMMU_NOT_FOUND         -\n");
}

TEST_F(AppRecordTest, AuditInWideHasWhatChangedAndWhyNot) {
  ASSERT_EQ(Run({"audit", "-o", "wide"}), 0) << err();
  EXPECT_NE(out().find("viommus/v1/vdevices/7, 1 more"), std::string::npos) << out();
  EXPECT_NE(out().find("there is no viommus/v1"), std::string::npos) << out();
}

TEST_F(AppRecordTest, AuditForPrograms) {
  ASSERT_EQ(Run({"audit", "-o", "json"}), 0) << err();
  const auto document = OutJson();
  ASSERT_EQ(document["items"].size(), 2u);
  EXPECT_EQ(document["items"][0]["method"], "SetVdevId");
  EXPECT_EQ(document["items"][0]["changes"][0]["name"], "viommus/v1/vdevices/7");
  EXPECT_EQ(document["revision"], 42);
}

TEST_F(AppRecordTest, AuditHandsItsFiltersOver) {
  const WallTime now = RealClock().Now();
  ASSERT_EQ(Run({"audit", "--resource", "viommus/v1", "--caller", "alice", "--method", "SetVdevId,UnsetVdevId",
                 "--refused", "--since", "1h", "--limit", "1"}),
            0)
      << err();
  const auto request = operations_.All<v1::ListAuditEntriesRequest>().front();
  EXPECT_EQ(request.resource(), "viommus/v1");
  EXPECT_EQ(request.caller(), "alice");
  ASSERT_EQ(request.methods_size(), 2);
  EXPECT_EQ(request.methods(1), "UnsetVdevId");
  EXPECT_TRUE(request.refused());
  EXPECT_NEAR(static_cast<double>(request.start_time().seconds()),
              static_cast<double>(std::chrono::system_clock::to_time_t(
                  std::chrono::time_point_cast<std::chrono::system_clock::duration>(now))) -
                  3600,
              60);
  EXPECT_NE(err().find("only the latest 1 are shown"), std::string::npos) << err();
}

TEST_F(AppRecordTest, AuditRefusesAShortName) {
  EXPECT_EQ(Run({"audit", "--resource", "v1"}), 2) << "nothing is called so, and nothing would be found";
  EXPECT_NE(err().find("\"v1\" is no full name; write it as viommus/v1 or hosts/a/devices/0000:01:00.0"),
            std::string::npos)
      << err();
  EXPECT_TRUE(operations_.All<v1::ListAuditEntriesRequest>().empty());
}

TEST_F(AppRecordTest, AuditRefusesWhatIsNoDuration) {
  EXPECT_EQ(Run({"audit", "--since", "yesterday"}), 2);
  EXPECT_NE(err().find("--since"), std::string::npos) << err();
  EXPECT_EQ(Run({"audit", "--limit", "0"}), 2);
}

TEST_F(AppTest, AuditAndBackupsWithoutEntriesSaySo) {
  EXPECT_EQ(Run({"audit"}), 0);
  EXPECT_EQ(err(), "no entries found\n");
  EXPECT_EQ(Run({"backup", "list"}), 0);
  EXPECT_EQ(err(), "no backups found\n");
}

TEST_F(AppRecordTest, BackupCreate) {
  ASSERT_EQ(Run({"backup", "create"}), 0) << err();
  EXPECT_EQ(out(), "backup 3 made of revision 41: 12345 bytes\n");
  ASSERT_EQ(Run({"backup", "create", "-o", "json"}), 0) << err();
  EXPECT_EQ(OutJson()["id"], "3");
}

TEST_F(AppRecordTest, BackupCreateThatFails) {
  operations_.Fail<v1::CreateBackupRequest>(
      Error(absl::StatusCode::kInternal, v1::ERROR_REASON_BACKUP_FAILED).Message("no room"));
  EXPECT_NE(Run({"backup", "create"}), 0);
  EXPECT_NE(err().find("no room"), std::string::npos) << err();
}

TEST_F(AppRecordTest, BackupList) {
  ASSERT_EQ(Run({"backup", "list"}), 0) << err();
  EXPECT_EQ(out(),
            "ID  CREATED                      REVISION  BYTES  STORE\n"
            " 3  2023-11-14T22:13:20.000000Z        41  12345  incarnation\n");
}

}  // namespace
}  // namespace viommu::cli
