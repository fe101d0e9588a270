// The whole agent in this process, over its emulated backend, against a server whose sessions run a script.

#include "agent/agent.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "agent/reconcile/testing.h"
#include "common/mutex.h"
#include "common/test_certificates.h"
#include "tests/harness/process.h"
#include "viommu/v1/agent_service.grpc.pb.h"
#include "viommu/v1/local_service.grpc.pb.h"

namespace viommu::agent {
namespace {

using std::chrono::seconds;

constexpr char kInventory[] = R"(
smmus:
  - {name: s0, idr: [0x0d5d17eb, 0x00e64510, 0, 0x00001d14, 0, 0xffff0475]}
devices:
  - {pci: "0000:01:00.0", smmu: s0, stream_id: 0x100, iommu_group: 1}
  - {pci: "0000:01:00.1", smmu: s0, stream_id: 0x101, iommu_group: 2}
)";

// Welcomes every agent, sends what Send() was given, collects results and replies.
class FakeServer : public v1::AgentService::Service {
 public:
  explicit FakeServer(int port = 0) : port_(port) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:" + std::to_string(port), grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeServer() override { server_->Shutdown(std::chrono::system_clock::now()); }

  grpc::Status Connect(grpc::ServerContext*,
                       grpc::ServerReaderWriter<v1::ConnectResponse, v1::ConnectRequest>* stream) override {
    v1::ConnectRequest request;
    if (!stream->Read(&request)) return grpc::Status::OK;
    v1::ConnectResponse welcome;
    welcome.mutable_welcome()->set_cluster_id("cluster");
    welcome.mutable_welcome()->set_store_incarnation("store");
    welcome.mutable_welcome()->set_epoch(1);
    welcome.mutable_welcome()->set_revision(1000);
    welcome.mutable_welcome()->mutable_lease()->set_seconds(60);
    stream->Write(welcome);
    {
      MutexLock lock(mu_);
      hello_ = request.hello();
      ++hellos_;
      stream_ = stream;
      cv_.NotifyAll();
    }
    while (stream->Read(&request)) {
      MutexLock lock(mu_);
      for (const auto& item : request.results().items()) results_[item.uid()] = item;
      if (request.has_invalidate_reply()) reply_ = request.invalidate_reply();
      cv_.NotifyAll();
    }
    MutexLock lock(mu_);
    stream_ = nullptr;
    return grpc::Status::OK;
  }

  void Send(const v1::ConnectResponse& message) {
    MutexLock lock(mu_);
    while (stream_ == nullptr) cv_.Wait(mu_);
    stream_->Write(message);
  }
  void Send(const std::vector<v1::Resource>& items, bool sync_mark = true) {
    v1::ConnectResponse message;
    message.mutable_desired()->set_epoch(1);
    message.mutable_desired()->set_nonce(++nonce_);
    message.mutable_desired()->set_revision(100);
    message.mutable_desired()->set_sync_mark(sync_mark);
    for (const auto& item : items) *message.mutable_desired()->add_items() = item;
    Send(message);
  }
  bool WaitFor(const std::function<bool(const std::map<std::string, v1::ItemResult>&)>& condition) {
    MutexLock lock(mu_);
    while (!condition(results_)) {
      if (!cv_.WaitFor(mu_, seconds(20))) return false;
    }
    return true;
  }
  bool WaitForOutcome(const std::string& uid, v1::Outcome outcome) {
    return WaitFor([&](const auto& results) {
      const auto it = results.find(uid);
      return it != results.end() && it->second.outcome() == outcome;
    });
  }
  v1::InvalidateReply WaitForReply() {
    MutexLock lock(mu_);
    while (reply_.call_id() == 0) {
      if (!cv_.WaitFor(mu_, seconds(20))) break;
    }
    return reply_;
  }
  // Whether an agent said hello, ever.
  bool WaitForHello(std::chrono::milliseconds time) {
    const auto give_up = std::chrono::steady_clock::now() + time;
    MutexLock lock(mu_);
    for (auto now = std::chrono::steady_clock::now(); hellos_ == 0 && now < give_up;
         now = std::chrono::steady_clock::now()) {
      cv_.WaitFor(mu_, give_up - now);
    }
    return hellos_ > 0;
  }
  v1::Hello hello() {
    MutexLock lock(mu_);
    while (stream_ == nullptr) cv_.Wait(mu_);
    return hello_;
  }
  int port() const { return port_; }

 private:
  int port_;
  std::unique_ptr<grpc::Server> server_;
  int64_t nonce_ = 0;
  Mutex mu_;
  CondVar cv_;
  v1::Hello hello_ ABSL_GUARDED_BY(mu_);
  int hellos_ ABSL_GUARDED_BY(mu_) = 0;
  grpc::ServerReaderWriter<v1::ConnectResponse, v1::ConnectRequest>* stream_ ABSL_GUARDED_BY(mu_) = nullptr;
  std::map<std::string, v1::ItemResult> results_ ABSL_GUARDED_BY(mu_);
  v1::InvalidateReply reply_ ABSL_GUARDED_BY(mu_);
};

// The agent's backend, and a way for somebody else to its contexts.
class SharedBackend : public Backend {
 public:
  explicit SharedBackend(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {}

  absl::StatusOr<Inventory> Discover() override { return backend_->Discover(); }
  Capabilities GetCapabilities() const override { return backend_->GetCapabilities(); }
  std::vector<SmmuStats> GetStats() const override { return backend_->GetStats(); }
  absl::StatusOr<std::unique_ptr<Context>> OpenContext() override {
    auto context = backend_->OpenContext();
    if (context.ok()) last_context_ = context->get();
    return context;
  }
  Context& last_context() { return *last_context_; }

 private:
  const std::unique_ptr<Backend> backend_;
  std::atomic<Context*> last_context_ = nullptr;
};

class AgentTest : public testing::Test {
 protected:
  AgentTest() {
    // Short: a socket's path holds 107 bytes.
    std::string path = "/tmp/viommu-XXXXXX";
    directory_ = ::mkdtemp(path.data());
    std::ofstream(directory_ + "/inventory.yaml") << kInventory;
    SetBoot("boot-1");
    config_ = DefaultAgentConfig();
    config_.host = "h1";
    config_.inventory = directory_ + "/inventory.yaml";
    config_.state_dir = directory_ + "/state";
    config_.boot_id_file = directory_ + "/boot_id";
    config_.listen = ParseAddress("unix:" + directory_ + "/agent.sock").value();
    config_.server = ParseAddress("127.0.0.1:1").value();
  }
  ~AgentTest() override { std::filesystem::remove_all(directory_); }

  void SetBoot(const std::string& id) { std::ofstream(directory_ + "/boot_id") << id << "\n"; }
  void Use(const FakeServer& server) {
    config_.server = ParseAddress("127.0.0.1:" + std::to_string(server.port())).value();
  }
  std::unique_ptr<Agent> MustStart() {
    auto agent = Agent::Start(config_);
    EXPECT_TRUE(agent.ok()) << agent.status();
    return *std::move(agent);
  }
  std::unique_ptr<v1::LocalService::Stub> Local() {
    return v1::LocalService::NewStub(
        grpc::CreateChannel(config_.listen.ToString(), grpc::InsecureChannelCredentials()));
  }
  // GET /metrics.
  static std::string Scrape(const std::string& address) {
    const size_t colon = address.rfind(':');
    sockaddr_in peer = {};
    peer.sin_family = AF_INET;
    peer.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(colon + 1))));
    peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&peer), sizeof(peer)), 0);
    const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
    EXPECT_EQ(::write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
    std::string text;
    char buffer[4096];
    for (ssize_t size = 0; (size = ::read(fd, buffer, sizeof(buffer))) > 0;) {
      text.append(buffer, static_cast<size_t>(size));
    }
    ::close(fd);
    return text;
  }
  static std::vector<v1::Resource> Vm() {
    return {Stage2("s", "s2", 2), Viommu("v", "v", 3), Nested("n", "v", "n", 4), Vdevice("d", "v", 7, 5, 0, "n")};
  }

  std::string directory_;
  AgentConfig config_;
};

TEST_F(AgentTest, TheWholeLine) {
  FakeServer server;
  Use(server);
  const auto agent = MustStart();
  EXPECT_EQ(server.hello().host().name(), "hosts/h1");
  EXPECT_EQ(server.hello().devices_size(), 2);
  server.Send(Vm());
  for (const char* uid : {"s", "v", "n", "d"}) EXPECT_TRUE(server.WaitForOutcome(uid, v1::OUTCOME_APPLIED)) << uid;

  const auto local = Local();
  {
    v1::LocalInvalidateRequest request;
    request.set_target("viommus/v");
    request.add_commands()->mutable_tlbi_nh_all();
    request.add_commands()->mutable_cfgi_cd_all()->set_vdev_id(7);
    request.add_commands()->mutable_cfgi_cd_all()->set_vdev_id(8);
    v1::LocalInvalidateResponse response;
    grpc::ClientContext context;
    ASSERT_TRUE(local->LocalInvalidate(&context, request, &response).ok());
    EXPECT_EQ(response.result().stop().reason(), "UNKNOWN_VDEV_ID") << response.DebugString();
  }
  {
    v1::ConnectResponse call;
    call.mutable_invalidate_call()->set_call_id(4);
    call.mutable_invalidate_call()->set_target_uid("n");
    call.mutable_invalidate_call()->add_commands()->mutable_tlbi_nsnh_all();
    server.Send(call);
    const auto reply = server.WaitForReply();
    EXPECT_EQ(reply.call_id(), 4);
    EXPECT_EQ(reply.result().handled(), 1u) << reply.DebugString();
  }
  {
    v1::GetAgentStatusResponse status;
    grpc::ClientContext context;
    ASSERT_TRUE(local->GetAgentStatus(&context, {}, &status).ok());
    EXPECT_EQ(status.session_state(), v1::SESSION_STATE_SYNCED);
    EXPECT_EQ(status.cluster_id(), "cluster");
    EXPECT_EQ(status.boot_id(), "boot-1");
    EXPECT_EQ(status.held().at("applied"), 4u);
    ASSERT_EQ(status.smmus_size(), 1);
    EXPECT_EQ(status.smmus(0).vmids_used(), 1u);
    EXPECT_GT(status.smmus(0).syncs(), 0u);
  }
  server.Send({Deleting(Vdevice("d", "v", 7, 0, 0, "n"), 10), Deleting(Nested("n", "v", "n", 0), 11),
               Deleting(Viommu("v", "v", 0), 12), Deleting(Stage2("s", "s2", 0), 13)});
  for (const char* uid : {"s", "v", "n", "d"}) EXPECT_TRUE(server.WaitForOutcome(uid, v1::OUTCOME_RELEASED)) << uid;
}

TEST_F(AgentTest, GoesOnWithoutAServer) {
  {
    FakeServer server;
    Use(server);
    const auto agent = MustStart();
    server.Send(Vm());
    ASSERT_TRUE(server.WaitForOutcome("d", v1::OUTCOME_APPLIED));
  }
  // No server, a new process of the same boot.
  const auto agent = MustStart();
  const auto local = Local();
  v1::LocalInvalidateRequest request;
  request.set_target("viommus/v");
  request.add_commands()->mutable_cfgi_cd_all()->set_vdev_id(7);
  // The journal is worked off in the background; each look at the counts lets a portion of it pass.
  const auto give_up = std::chrono::steady_clock::now() + seconds(20);
  while (agent->driver().Counts().at("applied") < 4 && std::chrono::steady_clock::now() < give_up) {
    std::this_thread::yield();
  }
  v1::LocalInvalidateResponse response;
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  const auto status = local->LocalInvalidate(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.result().handled(), 1u) << response.DebugString();
}

TEST_F(AgentTest, ANewBootWaitsForTheServer) {
  {
    FakeServer server;
    Use(server);
    const auto agent = MustStart();
    server.Send(Vm());
    ASSERT_TRUE(server.WaitForOutcome("d", v1::OUTCOME_APPLIED));
  }
  SetBoot("boot-2");
  FakeServer server;
  Use(server);
  const auto agent = MustStart();
  const v1::Hello hello = server.hello();
  EXPECT_EQ(hello.held_size(), 4);
  for (const auto& held : hello.held()) EXPECT_FALSE(held.settled());
  EXPECT_EQ(agent->driver().Counts().at("waiting"), 4u);
  server.Send(Vm(), /*sync_mark=*/false);
  server.Send(std::vector<v1::Resource>{});
  EXPECT_TRUE(server.WaitForOutcome("d", v1::OUTCOME_APPLIED));
}

TEST_F(AgentTest, AnAgentThatCannotServeTellsTheServerNothing) {
  FakeServer server;
  Use(server);
  // Somebody listens on the agent's socket and takes no more connections: whether one is there takes long to find out.
  const int listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  config_.listen.path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(::listen(listener, 0), 0);
  const int first = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_EQ(::connect(first, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);

  absl::Status started;
  std::thread start([&] { started = Agent::Start(config_).status(); });
  EXPECT_FALSE(server.WaitForHello(std::chrono::milliseconds(500))) << "it claims the host before it can serve";
  ::close(::accept(listener, nullptr, nullptr));
  start.join();
  EXPECT_NE(started.message().find("another process listens"), std::string::npos) << started;
  EXPECT_FALSE(server.WaitForHello(std::chrono::milliseconds(0)));
  ::close(first);
  ::close(listener);
}

// What is counted is exported, and docs/metrics.md says so.
TEST_F(AgentTest, Metrics) {
  FakeServer server;
  Use(server);
  config_.metrics_listen = ParseAddress("127.0.0.1:0").value();
  const auto agent = MustStart();
  server.Send(Vm());
  for (const char* uid : {"s", "v", "n", "d"}) EXPECT_TRUE(server.WaitForOutcome(uid, v1::OUTCOME_APPLIED)) << uid;
  v1::Resource elsewhere = Vdevice("d2", "v", 8, 6, 7);
  server.Send({elsewhere});
  EXPECT_TRUE(server.WaitForOutcome("d2", v1::OUTCOME_FAILED)) << "there is no such device";
  const auto local = Local();
  for (const uint32_t vdev_id : {7u, 8u}) {
    v1::LocalInvalidateRequest request;
    request.set_target("viommus/v");
    request.add_commands()->mutable_cfgi_cd_all()->set_vdev_id(vdev_id);
    v1::LocalInvalidateResponse response;
    grpc::ClientContext context;
    ASSERT_TRUE(local->LocalInvalidate(&context, request, &response).ok());
  }

  const std::string text = Scrape(agent->metrics_address());
  const auto value = [&text](const std::string& sample) {
    const size_t at = text.find("\n" + sample + " ");
    return at == std::string::npos ? -1.0 : std::stod(text.substr(at + sample.size() + 2));
  };
  // Applied and failed by kind.
  for (const char* kind : {"stage2", "viommu", "nested", "vdevice"}) {
    EXPECT_EQ(value("viommu_agent_items_total{kind=\"" + std::string(kind) + "\",outcome=\"applied\"}"), 1) << kind;
  }
  EXPECT_GE(value("viommu_agent_items_total{kind=\"vdevice\",outcome=\"failed\"}"), 1);
  EXPECT_EQ(value("viommu_agent_held_items{state=\"applied\"}"), 4);
  // Reconcile time.
  EXPECT_GT(value("viommu_agent_reconcile_seconds_count"), 0);
  EXPECT_GT(value("viommu_agent_journal_sync_seconds_count"), 0);
  // Invalidations by opcode and outcome.
  const std::string invalidations = "viommu_agent_invalidations_total{opcode=\"CMD_CFGI_CD_ALL\",outcome=\"";
  EXPECT_EQ(value(invalidations + "done\",smmu=\"s0\"}"), 1);
  EXPECT_EQ(value(invalidations + "refused\",smmu=\"s0\"}"), 1);
  EXPECT_EQ(value("viommu_agent_invalidate_requests_total{stop=\"none\"}"), 1);
  EXPECT_EQ(value("viommu_agent_invalidate_requests_total{stop=\"unknown_vdev_id\"}"), 1);
  // Queue depth and latency.
  EXPECT_EQ(value("viommu_agent_queue_depth{smmu=\"s0\"}"), 0);
  EXPECT_GT(value("viommu_agent_queue_capacity{smmu=\"s0\"}"), 0);
  EXPECT_EQ(value("viommu_agent_queue_stalled_seconds{smmu=\"s0\"}"), 0);
  EXPECT_GT(value("viommu_agent_sync_seconds_count{smmu=\"s0\"}"), 0);
  EXPECT_GT(value("viommu_agent_sync_seconds_sum{smmu=\"s0\"}"), 0);
  EXPECT_EQ(value("viommu_agent_sync_seconds_bucket{smmu=\"s0\",le=\"+Inf\"}"),
            value("viommu_agent_sync_seconds_count{smmu=\"s0\"}"));
  EXPECT_EQ(value("# TYPE viommu_agent_sync_seconds_count counter"), -1) << "one family";
  EXPECT_NE(text.find("\n# TYPE viommu_agent_sync_seconds histogram\n"), std::string::npos);
  EXPECT_EQ(value("viommu_agent_sync_timeouts_total{smmu=\"s0\"}"), 0);
  EXPECT_EQ(value("viommu_agent_vmids_used{smmu=\"s0\"}"), 1);
  // Session state.
  EXPECT_EQ(value("viommu_agent_session_state{state=\"synced\"}"), 1);
  EXPECT_EQ(value("viommu_agent_session_state{state=\"connecting\"}"), 0);
  EXPECT_EQ(value("viommu_agent_sessions_total"), 1);

  std::set<std::string> exported;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("# TYPE viommu_agent_", 0) == 0) exported.insert(line.substr(7, line.find(' ', 7) - 7));
  }
  std::set<std::string> documented;
  std::ifstream doc("docs/metrics.md");
  for (std::string line; std::getline(doc, line);) {
    if (line.rfind("| `viommu_agent_", 0) == 0) documented.insert(line.substr(3, line.find('`', 3) - 3));
  }
  EXPECT_EQ(exported, documented);
}

// Somebody else takes a device away from a VM: it is counted, on request it is mended, and nothing is counted any more.
TEST_F(AgentTest, DriftIsCountedUntilItIsMended) {
  FakeServer server;
  Use(server);
  config_.metrics_listen = ParseAddress("127.0.0.1:0").value();
  SharedBackend* backend = nullptr;
  const auto agent = Agent::Start(config_, [&](std::unique_ptr<Backend> own) {
    auto shared = std::make_unique<SharedBackend>(std::move(own));
    backend = shared.get();
    return shared;
  });
  ASSERT_TRUE(agent.ok()) << agent.status();
  server.Send(Vm());
  ASSERT_TRUE(server.WaitForOutcome("d", v1::OUTCOME_APPLIED));
  // missing, different, strays, unknown
  const auto drift = [&] {
    std::vector<std::string> counts;
    std::istringstream lines(Scrape((*agent)->metrics_address()));
    for (std::string line; std::getline(lines, line);) {
      if (line.rfind("viommu_agent_drift_objects{", 0) == 0) counts.push_back(line.substr(line.rfind(' ') + 1));
    }
    return counts;
  };
  const std::vector<std::string> none = {"0", "0", "0", "0"};
  EXPECT_EQ(drift(), none);

  ASSERT_TRUE(backend->last_context().UnbindDevice("0000:01:00.0").ok());
  EXPECT_EQ(drift(), (std::vector<std::string>{"1", "0", "0", "0"}));

  v1::ConnectResponse call;
  call.mutable_inspect_call()->set_call_id(5);
  call.mutable_inspect_call()->set_repair(true);
  server.Send(call);
  const auto give_up = std::chrono::steady_clock::now() + seconds(20);
  while (drift() != none && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
  EXPECT_EQ(drift(), none);
  v1::LocalInvalidateRequest request;
  request.set_target("viommus/v");
  request.add_commands()->mutable_cfgi_cd_all()->set_vdev_id(7);
  v1::LocalInvalidateResponse response;
  grpc::ClientContext context;
  ASSERT_TRUE(Local()->LocalInvalidate(&context, request, &response).ok());
  EXPECT_EQ(response.result().handled(), 1u) << "the device is there again: " << response.DebugString();
}

TEST_F(AgentTest, WhatStandsInTheWayIsSaid) {
  const auto agent = MustStart();
  AgentConfig other = config_;
  other.listen = ParseAddress("unix:" + directory_ + "/other.sock").value();
  const auto same_state = Agent::Start(other);
  EXPECT_NE(same_state.status().message().find("--state-dir"), std::string::npos) << same_state.status();
  other = config_;
  other.state_dir = directory_ + "/state2";
  const auto same_socket = Agent::Start(other);
  EXPECT_NE(same_socket.status().message().find("--listen"), std::string::npos) << same_socket.status();
  other.personality = "windows";
  EXPECT_NE(Agent::Start(other).status().message().find("personality"), std::string::npos);
  other.boot_id_file = directory_ + "/missing";
  EXPECT_NE(Agent::Start(other).status().message().find("boot id"), std::string::npos);
}

// What --check-config lets pass is not refused at the start, which would then be tried again for ever.
TEST_F(AgentTest, TheProgramChecksItsConfigurationBeforehand) {
  TestAuthority authority(directory_, "fleet");
  const TlsFiles tls = authority.Issue("host", {"host", {"URI:viommu://host/h1"}});
  const auto run = [&](std::vector<std::string> flags) {
    flags.insert(flags.begin(), {"agent/viommu-agent", "--host", "h1", "--inventory", config_.inventory, "--state-dir",
                                 config_.state_dir, "--listen", config_.listen.ToString()});
    return tests::Run(flags);
  };
  struct Case {
    std::vector<std::string> flags;
    std::string says;
  };
  for (const Case& bad : {
           Case{{"--server", "192.0.2.1:7070"}, "tls.allow_insecure"},
           Case{{"--tls-cert", tls.cert, "--tls-key", tls.key}, "tls.ca is missing"},
           Case{{"--tls-ca", tls.ca, "--tls-cert", "/nowhere.pem", "--tls-key", tls.key}, "/nowhere.pem"},
           Case{{"--tls-ca", tls.ca, "--tls-cert", tls.cert}, "tls.key"},
           Case{{"--metrics-listen", "0.0.0.0:0"}, "metrics.allow_insecure"},
       }) {
    const tests::Finished started = run(bad.flags);
    EXPECT_EQ(started.status, kExitBadConfig) << bad.says << ": " << started.err;
    EXPECT_NE(started.err.find(bad.says), std::string::npos) << started.err;
    std::vector<std::string> flags = bad.flags;
    flags.push_back("--check-config");
    const tests::Finished checked = run(flags);
    EXPECT_EQ(checked.status, 1) << bad.says;
    EXPECT_EQ(checked.err, started.err);
  }
  EXPECT_EQ(run({"--check-config", "--server", "192.0.2.1:7070", "--tls-ca", tls.ca, "--tls-cert", tls.cert,
                 "--tls-key", tls.key})
                .status,
            0);
}

}  // namespace
}  // namespace viommu::agent
