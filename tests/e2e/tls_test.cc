// Server, agents and viommuctl with certificates: who gets in, and who does not.

#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/address.h"
#include "common/credentials.h"
#include "common/error.h"
#include "common/grpc_error.h"
#include "common/test_certificates.h"
#include "tests/harness/cluster.h"

namespace viommu::tests {
namespace {

constexpr char kHost[] = "edge-01";

class TlsTest : public testing::Test {
 protected:
  TlsTest()
      : callers_(dir_.path(), "callers"),
        agents_(dir_.path(), "agents"),
        server_files_(callers_.Issue("server", {"server", {"DNS:localhost"}})),
        caller_files_(callers_.Issue("caller", {"caller", {"URI:spiffe://lab/orchestrator"}})) {}

  void StartServer(std::vector<std::string> flags) {
    std::vector<std::string> argv = {Runfile("server/viommu-server"),
                                     "--store=memory",
                                     "--listen=localhost:0",
                                     "--log-format=json",
                                     "--tls-cert=" + server_files_.cert,
                                     "--tls-key=" + server_files_.key,
                                     "--tls-ca=" + callers_.ca_file()};
    argv.insert(argv.end(), flags.begin(), flags.end());
    server_ = std::make_unique<Process>(argv, dir_ / "server.log");
    ASSERT_TRUE(Eventually(30, [this] { return server_->output().find("\"serving\"") != std::string::npos; }))
        << server_->output();
    listen_ = AddressIn("listen");
    agents_listen_ = AddressIn("agents_listen");
  }

  // As the server's log has it, by the name that its certificate is made out to.
  std::string AddressIn(const std::string& field) const {
    const std::string log = server_->output();
    const std::string key = "\"" + field + "\":\"";
    const size_t begin = log.find(key);
    if (begin == std::string::npos) return "";
    const std::string address = log.substr(begin + key.size(), log.find('"', begin + key.size()) - begin - key.size());
    const size_t colon = address.rfind(':');
    return colon == std::string::npos ? "" : "localhost" + address.substr(colon);
  }

  void StartAgent(const std::string& as, const std::string& server, const TlsFiles& files) {
    agent_processes_.push_back(std::make_unique<Process>(
        std::vector<std::string>{Runfile("agent/viommu-agent"), std::string("--host=") + kHost, "--server=" + server,
                                 "--state-dir=" + (dir_ / (as + ".state")),
                                 "--inventory=" + Runfile("deploy/inventory/edge.yaml"),
                                 "--listen=unix:" + (dir_ / (as + ".sock")), "--log-format=json",
                                 "--tls-cert=" + files.cert, "--tls-key=" + files.key, "--tls-ca=" + files.ca},
        dir_ / (as + ".log")));
  }
  bool AgentLogHas(const std::string& as, const std::string& words) const {
    return ReadFile(dir_ / (as + ".log")).find(words) != std::string::npos;
  }

  Finished Ctl(const TlsFiles& files, const std::vector<std::string>& args) const {
    std::vector<std::string> argv = {Runfile("cli/viommuctl"), "--server=" + listen_, "--timeout=5s"};
    if (!files.ca.empty()) argv.push_back("--tls-ca=" + files.ca);
    if (!files.cert.empty()) argv.insert(argv.end(), {"--tls-cert=" + files.cert, "--tls-key=" + files.key});
    argv.insert(argv.end(), args.begin(), args.end());
    return tests::Run(argv);
  }

  // GetServerStatus over a channel with these credentials.
  absl::StatusOr<v1::GetServerStatusResponse> Status(
      const std::shared_ptr<grpc::ChannelCredentials>& credentials) const {
    const auto stub = v1::FleetService::NewStub(grpc::CreateChannel(listen_, credentials));
    v1::GetServerStatusResponse response;
    const grpc::Status status =
        Cluster::Call(*stub, &v1::FleetService::Stub::GetServerStatus, v1::GetServerStatusRequest(), &response, 5);
    if (!status.ok()) return FromGrpcStatus(status);
    return response;
  }

  bool Connected() const {
    const auto credentials = MakeChannelCredentials(ParseAddress(listen_).value(), {caller_files_});
    const auto status = Status(credentials.value());
    return status.ok() && status->connected_hosts() == 1;
  }

  static std::string HostUri(const std::string& host) { return "URI:viommu://host/" + host; }

  TempDir dir_;
  TestAuthority callers_;
  TestAuthority agents_;
  const TlsFiles server_files_;
  const TlsFiles caller_files_;
  std::unique_ptr<Process> server_;
  std::vector<std::unique_ptr<Process>> agent_processes_;
  std::string listen_;
  std::string agents_listen_;
};

TEST_F(TlsTest, OneListenerForAllLetsInWhoHasTheRightCertificate) {
  StartServer({});
  StartAgent("agent", listen_, callers_.Issue("agent", {"agent", {HostUri(kHost)}}));
  EXPECT_TRUE(Eventually(30, [this] { return Connected(); })) << server_->output();
  const Finished created =
      Ctl(caller_files_, {"create", "stage2domain", "s", "--host", kHost, "--vm", "vm", "--smmu",
                          std::string("hosts/") + kHost + "/smmus/fc900000.iommu", "--wait=applied"});
  EXPECT_EQ(created.status, 0) << created.err;

  // Plain text, and no certificate of one's own.
  EXPECT_EQ(Status(grpc::InsecureChannelCredentials()).status().code(), absl::StatusCode::kUnavailable);
  TlsFiles anonymous;
  anonymous.ca = callers_.ca_file();
  const Finished without = Ctl(anonymous, {"status"});
  EXPECT_NE(without.status, 0) << without.out;
  // One of another authority.
  const TlsFiles foreign = agents_.Issue("foreign", {"caller", {"URI:spiffe://lab/orchestrator"}});
  EXPECT_NE(Ctl({foreign.cert, foreign.key, callers_.ca_file()}, {"status"}).status, 0);
  // A host's own certificate is good for its agent only.
  const TlsFiles host = callers_.Issue("host", {"host", {HostUri(kHost)}});
  const Finished by_host = Ctl(host, {"get", "hosts"});
  EXPECT_NE(by_host.status, 0);
  EXPECT_NE(by_host.err.find("NOT_AUTHORIZED"), std::string::npos) << by_host.err;
  // Another host's agent.
  StartAgent("intruder", listen_, callers_.Issue("other", {"other", {HostUri("other-01")}}));
  EXPECT_TRUE(Eventually(30, [this] { return AgentLogHas("intruder", "NOT_AUTHORIZED"); }))
      << ReadFile(dir_ / "intruder.log");
  EXPECT_TRUE(Connected()) << "the rightful one is not disturbed";
}

TEST_F(TlsTest, TheListenerForAgentsHasAnAuthorityOfItsOwn) {
  const TlsFiles server = agents_.Issue("agents-server", {"server", {"DNS:localhost"}});
  StartServer({"--agents-listen=localhost:0", "--agents-tls-cert=" + server.cert, "--agents-tls-key=" + server.key,
               "--agents-tls-ca=" + agents_.ca_file()});
  ASSERT_NE(agents_listen_, "");
  // Issued by the callers' authority, which counts for nothing there.
  const TlsFiles wrong = callers_.Issue("wrong", {"agent", {HostUri(kHost)}});
  StartAgent("wrong", agents_listen_, {wrong.cert, wrong.key, agents_.ca_file()});
  StartAgent("agent", agents_listen_, agents_.Issue("agent", {"agent", {HostUri(kHost)}}));
  EXPECT_TRUE(Eventually(30, [this] { return Connected(); })) << server_->output();
  EXPECT_TRUE(Eventually(30, [this] { return AgentLogHas("wrong", "session ended"); })) << ReadFile(dir_ / "wrong.log");
  EXPECT_FALSE(AgentLogHas("wrong", "SYNCED"));
  // Nor does an agents' certificate on the callers' listener.
  const TlsFiles agent = agents_.Issue("caller-2", {"agent", {HostUri(kHost)}});
  EXPECT_NE(Ctl({agent.cert, agent.key, callers_.ca_file()}, {"status"}).status, 0);
  EXPECT_EQ(Ctl(caller_files_, {"status"}).status, 0);
}

}  // namespace
}  // namespace viommu::tests
