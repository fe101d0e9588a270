// More connections than a server takes, and than it has descriptors for.

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <filesystem>
#include <vector>

#include "common/file_descriptor.h"
#include "tests/e2e/fleet_fixture.h"

namespace viommu::tests {
namespace {

class ConnectionsTest : public FleetFixture {
 protected:
  FileDescriptor Connect() const {
    const std::string path = cluster_.server_address().substr(std::string_view("unix:").size());
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    FileDescriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    return socket;
  }
  bool ServerLogHas(const std::string& words) { return cluster_.server().output().find(words) != std::string::npos; }
  bool Answers(Stub& stub) {
    v1::GetServerStatusResponse response;
    return Cluster::Call(stub, &Stub::GetServerStatus, v1::GetServerStatusRequest(), &response, 1).ok();
  }
};

// gRPC by itself would never accept again.
TEST_F(ConnectionsTest, WhoTakesAllDescriptorsOfTheServerDoesNotEndIt) {
  cluster_.StartServer();
  rlimit limit = {};
  const pid_t server = cluster_.server().pid();
  ASSERT_EQ(::prlimit(server, RLIMIT_NOFILE, nullptr, &limit), 0);
  const auto open = std::distance(std::filesystem::directory_iterator("/proc/" + std::to_string(server) + "/fd"),
                                  std::filesystem::directory_iterator());
  rlimit few = limit;
  few.rlim_cur = static_cast<rlim_t>(open) + 5;
  ASSERT_EQ(::prlimit(server, RLIMIT_NOFILE, &few, nullptr), 0);
  std::vector<FileDescriptor> connections(20);
  for (FileDescriptor& each : connections) each = Connect();
  ASSERT_TRUE(Eventually(30, [this] { return ServerLogHas("cannot accept connections"); })) << cluster_.Outputs();

  connections.clear();
  const auto stub = cluster_.NewStub();
  EXPECT_TRUE(Eventually(30, [&] { return Answers(*stub); })) << cluster_.Outputs();
}

TEST_F(ConnectionsTest, BeyondTheLimitTheyAreRefusedAndAgentsComeBack) {
  cluster_.StartServer({"--limits-connections=3"});
  std::vector<FileDescriptor> connections(20);
  for (FileDescriptor& each : connections) each = Connect();
  ASSERT_TRUE(Eventually(30, [this] { return ServerLogHas("connections refused"); })) << cluster_.Outputs();
  cluster_.StartAgent(kEdge, "deploy/inventory/edge.yaml");
  EXPECT_FALSE(Answers(*cluster_.NewStub()));
  connections.clear();
  cluster_.WaitConnected(kEdge);
}

}  // namespace
}  // namespace viommu::tests
