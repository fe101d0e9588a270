// Processes that go away, and come back.

#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/e2e/fleet_fixture.h"

namespace viommu::tests {
namespace {

class OutageTest : public FleetFixture {
 protected:
  // One VM with one device on grace-01, in effect.
  void SetUp() override {
    cluster_.StartServer();
    StartHost(kGrace);
    const auto devices = DevicesBySmmu(kGrace);
    device_ = devices.begin()->second[0];
    CreateStage2("vm-1", kGrace, "vm-1");
    Ok(&Stub::CreateViommu, ViommuRequest("a", devices.begin()->first, "vm-1"));
    Ok(&Stub::SetVdevId, SetRequest("a", device_, 16, v1::WAIT_APPLIED));
    ASSERT_TRUE(Eventually(10, [this] { return AllReady(); }));
  }

  bool AllReady() {
    const auto viommus = Ok(&Stub::ListViommus, v1::ListViommusRequest());
    const auto stage2s = Ok(&Stub::ListStage2Domains, v1::ListStage2DomainsRequest());
    const auto vdevices = Ok(&Stub::ListVdevices, v1::ListVdevicesRequest());
    for (const auto& each : viommus.viommus()) {
      if (each.state() != v1::STATE_READY) return false;
    }
    for (const auto& each : stage2s.stage2_domains()) {
      if (each.state() != v1::STATE_READY) return false;
    }
    for (const auto& each : vdevices.vdevices()) {
      if (each.state() != v1::STATE_READY) return false;
    }
    return true;
  }

  // What an invalidation through the host's own socket gives, with no server in between.
  Finished LocalInvalidate() {
    return viommu::tests::Run({Runfile("cli/viommuctl"), "local", "invalidate", "viommus/a", "tlbi-nh-all", "--socket",
                               cluster_.socket_path(kGrace)});
  }

  std::string device_;
};

TEST_F(OutageTest, AKilledServerComesBackWithTheSameRevisionAndEpochPlusOne) {
  // Without its agent, whose hello and results would be changes of their own.
  cluster_.agent(kGrace).Kill();
  cluster_.WaitDisconnected(kGrace);
  const auto before = Ok(&Stub::GetServerStatus, v1::GetServerStatusRequest());
  cluster_.server().Kill();
  cluster_.StartServer();
  const auto after = Ok(&Stub::GetServerStatus, v1::GetServerStatusRequest());
  EXPECT_EQ(after.cluster_id(), before.cluster_id());
  EXPECT_EQ(after.store_incarnation(), before.store_incarnation());
  EXPECT_EQ(after.epoch(), before.epoch() + 1);
  EXPECT_EQ(after.revision(), before.revision());
  EXPECT_EQ(Vdevice("viommus/a/vdevices/16").state(), v1::STATE_READY);
  StartHost(kGrace);
  EXPECT_TRUE(Eventually(20, [this] { return AllReady(); }));
}

// Promise 10: the server's absence disturbs nothing that runs.
TEST_F(OutageTest, TheHostWorksOnWithoutTheServer) {
  cluster_.server().Kill();
  const Finished done = LocalInvalidate();
  EXPECT_EQ(done.status, 0) << done.err;
  // Even a restarted agent has everything in effect, from its journal alone.
  cluster_.agent(kGrace).Kill();
  cluster_.StartAgent(kGrace, "deploy/inventory/grace.yaml");
  EXPECT_TRUE(Eventually(20, [this] { return LocalInvalidate().status == 0; })) << cluster_.Outputs();
}

TEST_F(OutageTest, AKilledAgentConvergesAgain) {
  cluster_.agent(kGrace).Kill();
  cluster_.StartAgent(kGrace, "deploy/inventory/grace.yaml");
  EXPECT_TRUE(Eventually(20, [this] { return LocalInvalidate().status == 0; })) << cluster_.Outputs();
  cluster_.WaitConnected(kGrace);
  EXPECT_TRUE(Eventually(20, [this] { return AllReady(); }));
}

TEST_F(OutageTest, SignalsEndBothInGoodOrder) {
  // With a stream open, which must not hold up the end.
  grpc::ClientContext context;
  auto watch = cluster_.stub().Watch(&context, v1::WatchRequest());
  v1::WatchResponse response;
  ASSERT_TRUE(watch->Read(&response));
  cluster_.agent(kGrace).Signal(SIGTERM);
  EXPECT_EQ(cluster_.agent(kGrace).WaitFor(20), 0) << cluster_.Outputs();
  cluster_.server().Signal(SIGTERM);
  EXPECT_EQ(cluster_.server().WaitFor(20), 0) << cluster_.Outputs();
  while (watch->Read(&response)) {
  }
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(OutageTest, AServerWithAWipedStoreIsNotObeyed) {
  cluster_.server().Kill();
  std::filesystem::remove_all(cluster_.store_path());
  cluster_.StartServer();
  EXPECT_TRUE(Eventually(20, [this] {
    const std::string output = cluster_.agent(kGrace).output();
    return output.find("CLUSTER_MISMATCH") != std::string::npos ||
           output.find("STORE_INCARNATION_MISMATCH") != std::string::npos;
  })) << cluster_.Outputs();
  const Finished done = LocalInvalidate();
  EXPECT_EQ(done.status, 0) << "what runs goes on running: " << done.err;
  EXPECT_EQ(Ok(&Stub::ListHosts, v1::ListHostsRequest()).hosts_size(), 0);
}

// Promise 9: a copy of the store from before what the agent was told has the right cluster and the right incarnation.
// What the copy does not know would be torn down.
TEST_F(OutageTest, AServerWithARestoredOlderStoreIsNotObeyed) {
  const auto stop = [this] {
    cluster_.server().Signal(SIGTERM);
    ASSERT_EQ(cluster_.server().WaitFor(20), 0) << cluster_.Outputs();
  };
  stop();
  const std::string backup = cluster_.dir() / "backup";
  std::filesystem::copy(cluster_.store_path(), backup);
  cluster_.StartServer();
  cluster_.WaitConnected(kGrace);
  Ok(&Stub::SetVdevId, SetRequest("a", DevicesBySmmu(kGrace).begin()->second[1], 17, v1::WAIT_APPLIED), 30);
  const int64_t told = Revision();
  stop();
  std::filesystem::remove_all(cluster_.store_path());
  std::filesystem::copy(backup, cluster_.store_path());
  cluster_.StartServer();

  const auto refusals = [this] {
    const std::string output = cluster_.agent(kGrace).output();
    int count = 0;
    for (size_t at = output.find("STORE_OUT_OF_DATE"); at != std::string::npos;
         at = output.find("STORE_OUT_OF_DATE", at + 1)) {
      ++count;
    }
    return count;
  };
  ASSERT_TRUE(Eventually(30, [&] { return refusals() > 0; })) << cluster_.Outputs();
  EXPECT_NE(cluster_.server().output().find("this server's store is an older copy"), std::string::npos);
  Finished done = LocalInvalidate();
  EXPECT_EQ(done.status, 0) << "what runs goes on running: " << done.err;

  // However far the copy gets, and however often it is started.
  for (int i = 0; Revision() <= told; ++i) {
    CreateStage2("more-" + std::to_string(i), kGrace, "more");
  }
  stop();
  cluster_.StartServer();
  cluster_.agent(kGrace).Kill();
  const int before = refusals();
  cluster_.StartAgent(kGrace, "deploy/inventory/grace.yaml");
  ASSERT_TRUE(Eventually(30, [&] { return refusals() > before; })) << cluster_.Outputs();
  EXPECT_EQ(Ok(&Stub::GetServerStatus, v1::GetServerStatusRequest()).connected_hosts(), 0);
  EXPECT_TRUE(Eventually(20, [&] { return LocalInvalidate().status == 0; })) << cluster_.Outputs();
}

// What systemd hears of the programs: ready, alive, stopping.
TEST_F(OutageTest, SystemdIsToldHowTheProgramsAre) {
  cluster_.server().Kill();
  cluster_.agent(kGrace).Kill();
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  ASSERT_GE(fd, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::string path = cluster_.dir() / "notify.sock";
  ASSERT_LT(path.size(), sizeof(address.sun_path));
  path.copy(address.sun_path, path.size());
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const timeval patience = {30, 0};
  ASSERT_EQ(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
  // Reads until one of the messages has the line.
  const auto heard = [fd](const std::string& line) {
    char buffer[1024];
    for (ssize_t size; (size = recv(fd, buffer, sizeof(buffer), 0)) >= 0;) {
      if (("\n" + std::string(buffer, static_cast<size_t>(size)) + "\n").find("\n" + line + "\n") !=
          std::string::npos) {
        return true;
      }
    }
    return false;
  };
  setenv("NOTIFY_SOCKET", path.c_str(), 1);
  setenv("WATCHDOG_USEC", "200000", 1);
  cluster_.LaunchServer();
  EXPECT_TRUE(heard("READY=1")) << cluster_.Outputs();
  EXPECT_TRUE(heard("WATCHDOG=1"));
  cluster_.server().Signal(SIGTERM);
  EXPECT_TRUE(heard("STOPPING=1"));
  EXPECT_EQ(cluster_.server().WaitFor(20), 0);
  cluster_.StartAgent(kGrace, "deploy/inventory/grace.yaml");
  EXPECT_TRUE(heard("READY=1")) << cluster_.Outputs();
  EXPECT_TRUE(heard("WATCHDOG=1"));
  cluster_.agent(kGrace).Signal(SIGTERM);
  EXPECT_TRUE(heard("STOPPING=1"));
  EXPECT_EQ(cluster_.agent(kGrace).WaitFor(20), 0);
  unsetenv("NOTIFY_SOCKET");
  unsetenv("WATCHDOG_USEC");
  close(fd);
}

TEST_F(OutageTest, ADamagedStoreIsRefusedAndLeftAlone) {
  cluster_.server().Signal(SIGTERM);
  ASSERT_EQ(cluster_.server().WaitFor(20), 0);
  const std::string manifest_pointer = cluster_.store_path() + "/CURRENT";
  ASSERT_TRUE(std::filesystem::exists(manifest_pointer));
  WriteFile(manifest_pointer, "garbage\n");
  cluster_.LaunchServer();
  const auto status = cluster_.server().WaitFor(20);
  ASSERT_TRUE(status.has_value()) << "it started on a damaged store";
  EXPECT_NE(*status, 0);
  EXPECT_NE(cluster_.server().output().find(cluster_.store_path()), std::string::npos) << cluster_.server().output();
  EXPECT_EQ(ReadFile(manifest_pointer), "garbage\n");
}

TEST_F(OutageTest, TwoServersOnOneStoreAreRefused) {
  const std::string log = cluster_.dir() / "second.log";
  Process second({Runfile("server/viommu-server"), "--store=rocksdb:" + cluster_.store_path(),
                  "--listen=unix:" + (cluster_.dir() / "second.sock")},
                 log);
  const auto status = second.WaitFor(20);
  ASSERT_TRUE(status.has_value());
  EXPECT_NE(*status, 0);
  EXPECT_NE(ReadFile(log).find(cluster_.store_path()), std::string::npos) << ReadFile(log);
  EXPECT_EQ(Vdevice("viommus/a/vdevices/16").state(), v1::STATE_READY) << "the first one goes on";
}

}  // namespace
}  // namespace viommu::tests
