// The record is lost and restored from a backup that was made while the server ran.

#include <signal.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/e2e/fleet_fixture.h"

namespace viommu::tests {
namespace {

class BackupTest : public FleetFixture {
 protected:
  std::string folder() const { return cluster_.dir() / "backups"; }
  void StartServer() { cluster_.StartServer({"--backup-folder=" + folder()}); }

  Finished Tool(std::vector<std::string> words) {
    words.insert(words.begin(), Runfile("server/viommu-server"));
    words.push_back("--store=rocksdb:" + cluster_.store_path());
    return viommu::tests::Run(words);
  }
};

TEST_F(BackupTest, ABackupIsMadeRestoredVerifiedAndServedAgain) {
  StartServer();
  StartHost(kGrace);
  StartHost(kAmpere);
  const auto devices = DevicesBySmmu(kGrace);
  CreateStage2("vm-1", kGrace, "vm-1");
  Ok(&Stub::CreateViommu, ViommuRequest("a", devices.begin()->first, "vm-1"));
  Ok(&Stub::SetVdevId, SetRequest("a", devices.begin()->second[0], 16, v1::WAIT_APPLIED), 30);

  Finished done = cluster_.Ctl({"backup", "create"});
  ASSERT_EQ(done.status, 0) << done.err << cluster_.Outputs();
  EXPECT_NE(done.out.find("backup 1 made"), std::string::npos) << done.out;

  // Grace is told of what the backup does not have.
  Ok(&Stub::SetVdevId, SetRequest("a", devices.begin()->second[1], 17, v1::WAIT_APPLIED), 30);

  // A store in use is left alone.
  done = Tool({"verify"});
  EXPECT_EQ(done.status, 1);
  EXPECT_NE(done.err.find("in use by another server (process"), std::string::npos) << done.err;
  done = Tool({"restore", "--from", folder()});
  EXPECT_EQ(done.status, 1) << done.out;

  cluster_.server().Kill();
  std::filesystem::remove_all(cluster_.store_path());
  done = Tool({"restore", "--from", folder()});
  ASSERT_EQ(done.status, 0) << done.err;
  EXPECT_NE(done.out.find("no damage found"), std::string::npos) << done.out;
  done = Tool({"verify"});
  EXPECT_EQ(done.status, 0) << done.err;
  done = Tool({"inspect", "audit"});
  ASSERT_EQ(done.status, 0) << done.err;
  EXPECT_NE(done.out.find("\"method\":\"SetVdevId\""), std::string::npos) << done.out;

  StartServer();
  EXPECT_EQ(Vdevice("viommus/a/vdevices/16").device(), devices.begin()->second[0]);
  done = cluster_.Ctl({"audit", "--resource", "viommus/a"});
  EXPECT_EQ(done.status, 0) << done.err;
  EXPECT_NE(done.out.find("CreateViommu"), std::string::npos) << done.out;
  done = cluster_.Ctl({"backup", "list"});
  EXPECT_NE(done.out.find("REVISION"), std::string::npos) << done.out;

  // Grace knows better and refuses.
  EXPECT_TRUE(Eventually(30, [this] {
    return cluster_.agent(kGrace).output().find("STORE_OUT_OF_DATE") != std::string::npos;
  })) << cluster_.Outputs();
  EXPECT_EQ(viommu::tests::Run({Runfile("cli/viommuctl"), "local", "invalidate", "viommus/a", "tlbi-nh-all", "--socket",
                                cluster_.socket_path(kGrace)})
                .status,
            0)
      << "what runs goes on running";

  // Settled by hand, as documented: it comes back as a new agent, and gets the record anew.
  cluster_.agent(kGrace).Signal(SIGTERM);
  cluster_.agent(kGrace).WaitFor(20);
  std::filesystem::rename(cluster_.dir() / (std::string(kGrace) + ".state"), cluster_.dir() / "grace-before");
  StartHost(kGrace);
  EXPECT_TRUE(Eventually(30, [this] { return Vdevice("viommus/a/vdevices/16").state() == v1::STATE_READY; }))
      << cluster_.Outputs();
}

}  // namespace
}  // namespace viommu::tests
