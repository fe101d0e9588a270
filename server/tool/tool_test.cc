#include "server/tool/tool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "common/fake_clock.h"
#include "server/commit/backups.h"
#include "server/commit/core.h"
#include "server/commit/test_command.h"
#include "server/fleet/test_fleet.h"
#include "server/store/rocksdb_store.h"
#include "server/store/testing/temp_folder.h"

namespace viommu::server {
namespace {

namespace fs = std::filesystem;

class ToolTest : public testing::Test {
 protected:
  // What a server leaves behind: three hosts, two of them in a backup, each put there by an audited call.
  ToolTest() {
    const auto store = RocksDbStore::Open(path_, {.fsync_probes = 0}).value();
    auto core =
        CommitCore::Open(*store, clock_, [this] { return "uid-" + std::to_string(++uids_); }, {.boot_id = "boot"})
            .value();
    Backups backups(*store, *core, {.folder = backup_});
    for (const char* host : {"hosts/a", "hosts/b"}) Put(*core, host);
    std::atomic<bool> made = false;
    EXPECT_TRUE(backups
                    .Create([&](const absl::StatusOr<Backups::Backup>& backup) {
                      EXPECT_TRUE(backup.ok()) << backup.status();
                      made = true;
                      made.notify_all();
                    })
                    .ok());
    made.wait(false);
    Put(*core, "hosts/c");
    backups.Stop();
    EXPECT_TRUE(core->Close().ok());
  }

  static void Put(CommitCore& core, const std::string& host) {
    TestCommand command(PutHost(host));
    command.method = "CordonHost";
    command.target = host;
    EXPECT_TRUE(command.RunOn(core).ok());
  }

  int Run(std::vector<const char*> words) {
    words.insert(words.begin(), "viommu-server");
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const auto code = RunTool(static_cast<int>(words.size()), words.data());
    fflush(stdout);
    out_ = testing::internal::GetCapturedStdout();
    err_ = testing::internal::GetCapturedStderr();
    return code.value_or(-1);
  }

  std::vector<nlohmann::json> Lines() const {
    std::vector<nlohmann::json> lines;
    std::istringstream in(out_);
    for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  // Alters one byte in the middle of the first file with this ending.
  static void Damage(const std::string& folder, const std::string& ending) {
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      if (!entry.is_regular_file() || entry.path().extension() != ending || entry.file_size() == 0) continue;
      std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
      const auto middle = static_cast<std::streamoff>(entry.file_size() / 2);
      file.seekg(middle);
      const char byte = static_cast<char>(file.get() ^ 0x40);
      file.seekp(middle);
      file.put(byte);
      return;
    }
    ADD_FAILURE() << "no file *" << ending << " in " << folder;
  }

  TempFolder folder_;
  const std::string path_ = folder_.path();
  const std::string backup_ = folder_.root() + "/backup";
  const std::string store_ = "rocksdb:" + path_;
  const std::string target_ = folder_.root() + "/restored";
  const std::string target_store_ = "rocksdb:" + target_;
  FakeClock clock_;
  int uids_ = 0;
  std::string out_;
  std::string err_;
};

TEST_F(ToolTest, LeavesServingToOthers) {
  EXPECT_EQ(Run({}), -1);
  EXPECT_EQ(Run({"--store", "memory"}), -1);
}

TEST_F(ToolTest, VerifyTellsWhatWasChecked) {
  ASSERT_EQ(Run({"verify", "--store", store_.c_str()}), 0) << err_;
  EXPECT_NE(out_.find("no damage found"), std::string::npos) << out_;
  EXPECT_NE(out_.find("revision       3"), std::string::npos) << out_;
  EXPECT_NE(out_.find("audit entries  3"), std::string::npos) << out_;
}

TEST_F(ToolTest, VerifyFindsADamagedFile) {
  Damage(path_, ".log");
  EXPECT_EQ(Run({"verify", "--store", store_.c_str()}), 1);
  EXPECT_NE(err_.find("damaged"), std::string::npos) << err_;
}

TEST_F(ToolTest, VerifyFindsWhatNoChecksumShows) {
  {
    const auto store = RocksDbStore::Open(path_, {.fsync_probes = 0}).value();
    Batch batch;
    batch.Put(KeySpace::kAudit, "no number", "");
    ASSERT_TRUE(store->Commit(batch, Durability::kSynced).ok());
  }
  EXPECT_EQ(Run({"verify", "--store", store_.c_str()}), 1);
  EXPECT_NE(err_.find("audit log"), std::string::npos) << err_;
}

TEST_F(ToolTest, AStoreInUseIsLeftAlone) {
  const auto store = RocksDbStore::Open(path_, {.fsync_probes = 0}).value();
  EXPECT_EQ(Run({"verify", "--store", store_.c_str()}), 1);
  EXPECT_NE(err_.find("in use by"), std::string::npos) << err_;
  EXPECT_EQ(Run({"inspect", "--store", store_.c_str()}), 1);
  EXPECT_NE(err_.find("in use by"), std::string::npos) << err_;
}

TEST_F(ToolTest, NothingIsMadeWhereThereIsNoStore) {
  EXPECT_EQ(Run({"verify", "--store", target_store_.c_str()}), 1);
  EXPECT_NE(err_.find("there is no store"), std::string::npos) << err_;
  EXPECT_FALSE(fs::exists(target_));
}

TEST_F(ToolTest, WrongCommandLines) {
  EXPECT_EQ(Run({"verify"}), 2);
  EXPECT_EQ(Run({"verify", "--store", "memory"}), 2);
  EXPECT_EQ(Run({"restore", "--store", store_.c_str()}), 2);
  EXPECT_EQ(Run({"inspect", "--store", store_.c_str(), "--limit", "0"}), 2);
}

TEST_F(ToolTest, InspectPrintsRecords) {
  ASSERT_EQ(Run({"inspect", "--store", store_.c_str()}), 0) << err_;
  EXPECT_EQ(Lines().size(), 3u);
  ASSERT_EQ(Run({"inspect", "--store", store_.c_str(), "hosts", "--limit", "2"}), 0) << err_;
  EXPECT_EQ(Lines().size(), 2u);
  EXPECT_NE(err_.find("1 more"), std::string::npos) << err_;
  ASSERT_EQ(Run({"inspect", "--store", store_.c_str(), "viommus"}), 0) << err_;
  EXPECT_EQ(Lines().size(), 0u);
  ASSERT_EQ(Run({"inspect", "--store", store_.c_str(), "hosts/b"}), 0) << err_;
  EXPECT_EQ(Lines().at(0)["name"], "hosts/b");
  EXPECT_EQ(Run({"inspect", "--store", store_.c_str(), "hosts/d"}), 1);
  EXPECT_EQ(Run({"inspect", "--store", store_.c_str(), "nonsense"}), 1);
}

TEST_F(ToolTest, InspectPrintsLogsAndFacts) {
  ASSERT_EQ(Run({"inspect", "--store", store_.c_str(), "meta"}), 0) << err_;
  EXPECT_EQ(Lines().at(0)["revision"], 3);
  EXPECT_EQ(Lines().at(0)["format_version"], "2");
  ASSERT_EQ(Run({"inspect", "--store", store_.c_str(), "changes", "--limit", "2"}), 0) << err_;
  ASSERT_EQ(Lines().size(), 2u);
  EXPECT_EQ(Lines()[1]["revision"], 3);
  EXPECT_EQ(Lines()[1]["changes"][0]["resource"]["name"], "hosts/c");
  ASSERT_EQ(Run({"inspect", "--store", store_.c_str(), "audit"}), 0) << err_;
  ASSERT_EQ(Lines().size(), 3u);
  EXPECT_EQ(Lines()[0]["method"], "CordonHost");
  EXPECT_EQ(Lines()[0]["code"], "OK");
}

TEST_F(ToolTest, RestorePutsABackupBack) {
  ASSERT_EQ(Run({"restore", "--from", backup_.c_str(), "--store", target_store_.c_str()}), 0) << err_;
  EXPECT_NE(out_.find("revision 2"), std::string::npos) << out_;
  ASSERT_EQ(Run({"inspect", "--store", target_store_.c_str(), "hosts"}), 0) << err_;
  EXPECT_EQ(Lines().size(), 2u);
  // It is a store that a server goes on with.
  const auto store = RocksDbStore::Open(target_, {.fsync_probes = 0}).value();
  auto core =
      CommitCore::Open(*store, clock_, [this] { return "uid-" + std::to_string(++uids_); }, {.boot_id = "boot"});
  ASSERT_TRUE(core.ok()) << core.status();
  EXPECT_EQ((*core)->revision(), 2);
}

TEST_F(ToolTest, RestoreOverwritesNothing) {
  EXPECT_EQ(Run({"restore", "--from", backup_.c_str(), "--store", store_.c_str()}), 1);
  EXPECT_NE(err_.find("not empty"), std::string::npos) << err_;
  ASSERT_EQ(Run({"inspect", "--store", store_.c_str(), "hosts"}), 0) << err_;
  EXPECT_EQ(Lines().size(), 3u);
}

TEST_F(ToolTest, RestoreRefusesADamagedBackup) {
  Damage(backup_, ".log");
  EXPECT_EQ(Run({"restore", "--from", backup_.c_str(), "--store", target_store_.c_str()}), 1);
  EXPECT_NE(err_.find("damaged"), std::string::npos) << err_;
  EXPECT_FALSE(fs::exists(target_));
}

TEST_F(ToolTest, RestoreOfABackupThatThereIsNot) {
  EXPECT_EQ(Run({"restore", "--from", backup_.c_str(), "--backup", "7", "--store", target_store_.c_str()}), 1);
  EXPECT_NE(err_.find("no backup 7"), std::string::npos) << err_;
  EXPECT_EQ(Run({"restore", "--from", path_.c_str(), "--store", target_store_.c_str()}), 1);
}

// testdata/format-1 was written by the last version of that format, before there was an audit log, in two starts: two
// hosts, a VM on one of them with a nested domain, a device that is attached to it and one that is being released, each
// under a request_id. That version's successor goes on with it.
TEST_F(ToolTest, AStoreOfTheFormatBeforeIsGoneOnWith) {
  fs::copy("server/tool/testdata/format-1", target_);
  ASSERT_EQ(Run({"verify", "--store", target_store_.c_str()}), 0) << err_;
  {
    const auto store = RocksDbStore::Open(target_, {.fsync_probes = 0}).value();
    auto core =
        CommitCore::Open(*store, clock_, [this] { return "uid-" + std::to_string(++uids_); }, {.boot_id = "boot"});
    ASSERT_TRUE(core.ok()) << core.status();
    EXPECT_EQ((*core)->revision(), 10);
    EXPECT_EQ((*core)->identity().epoch, 3);
    (*core)->Read([](const Tables& tables, int64_t) {
      EXPECT_TRUE(CheckInvariants(tables).ok()) << CheckInvariants(tables);
      EXPECT_EQ(tables.Find<v1::Vdevice>("viommus/v/vdevices/5")->state(), v1::STATE_READY);
      EXPECT_EQ(tables.Find<v1::Vdevice>("viommus/v/vdevices/5")->nested_domain(), "viommus/v/nestedDomains/n");
      EXPECT_EQ(tables.Find<v1::Vdevice>("viommus/v/vdevices/6")->state(), v1::STATE_DELETING);
      EXPECT_EQ(tables.Find<v1::Device>(DeviceOf(kGrace, 1))->state(), v1::DEVICE_STATE_RELEASING);
    });
    TestCommand repeated([](const Context&, Draft&) { return absl::InternalError("carried out twice"); });
    repeated.request_id = "00000000-0000-4000-9000-000100000002";
    repeated.fingerprint = "fingerprint";
    EXPECT_TRUE(repeated.RunOn(**core).ok());
    EXPECT_EQ(repeated.response, "answer 2");
    TestCommand change(
        [](const Context& context, Draft& draft) { return Judge(UnsetVdevId("v", 5), context, draft).status(); });
    change.method = "UnsetVdevId";
    change.target = "viommus/v/vdevices/5";
    EXPECT_TRUE(change.RunOn(**core).ok());
    EXPECT_TRUE((*core)->Close().ok());
  }
  ASSERT_EQ(Run({"verify", "--store", target_store_.c_str()}), 0) << err_;
  EXPECT_NE(out_.find("revision       11"), std::string::npos) << out_;
  EXPECT_NE(out_.find("audit entries  1"), std::string::npos) << out_;
  ASSERT_EQ(Run({"inspect", "--store", target_store_.c_str(), "audit"}), 0) << err_;
  EXPECT_EQ(Lines().at(0)["target"], "viommus/v/vdevices/5");
}

}  // namespace
}  // namespace viommu::server
