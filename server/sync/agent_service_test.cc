// Sessions over real gRPC streams, with the real writer and all its threads.

#include "server/sync/agent_service.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/credentials.h"
#include "common/error.h"
#include "common/grpc_error.h"
#include "common/test_certificates.h"
#include "common/uuid.h"
#include "server/commit/committer.h"
#include "server/commit/test_command.h"
#include "server/fleet/test_fleet.h"
#include "server/store/memory_store.h"

namespace viommu::server {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds kPatience{60};

// Lets a test wait for what is recorded.
class RecordWatch final : public Listener {
 public:
  explicit RecordWatch(const CommitCore& core) : core_(core) {}

  void OnCommit(const std::vector<ChangeSetPtr>&) override {
    MutexLock lock(mu_);
    changed_.NotifyAll();
  }

  bool WaitUntil(const std::function<bool(const Tables&)>& holds) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    MutexLock lock(mu_);
    for (;;) {
      if (core_.Read([&](const Tables& tables, int64_t) { return holds(tables); })) return true;
      if (std::chrono::steady_clock::now() >= deadline) return false;
      changed_.WaitFor(mu_, seconds(1));
    }
  }

 private:
  const CommitCore& core_;
  Mutex mu_;
  CondVar changed_;
};

// An agent over gRPC, with blocking calls.
class GrpcAgent {
 public:
  explicit GrpcAgent(const std::string& address,
                     const std::shared_ptr<grpc::ChannelCredentials>& credentials = grpc::InsecureChannelCredentials())
      : stub_(v1::AgentService::NewStub(grpc::CreateChannel(address, credentials))),
        stream_(stub_->Connect(&context_)) {}
  ~GrpcAgent() { context_.TryCancel(); }

  bool Hello(const v1::Hello& hello) {
    v1::ConnectRequest message;
    *message.mutable_hello() = hello;
    return stream_->Write(message);
  }
  bool Read(v1::ConnectResponse* message) { return stream_->Read(message); }
  bool Write(const v1::ConnectRequest& message) { return stream_->Write(message); }
  // Reads up to the sync mark.
  bool ReadUntilSynced() {
    v1::ConnectResponse message;
    while (Read(&message)) {
      if (message.desired().sync_mark()) return true;
    }
    return false;
  }
  void WritesDone() { stream_->WritesDone(); }
  void Cancel() { context_.TryCancel(); }
  // Reads to the end.
  absl::Status Finish() {
    v1::ConnectResponse message;
    while (Read(&message)) {
    }
    return FromGrpcStatus(stream_->Finish());
  }
  // Carries out everything that it is sent and says so, until the stream ends.
  void Obey() {
    v1::ConnectResponse message;
    while (Read(&message)) {
      if (message.has_invalidate_call()) {
        v1::ConnectRequest reply;
        reply.mutable_invalidate_reply()->set_call_id(message.invalidate_call().call_id());
        reply.mutable_invalidate_reply()->mutable_result()->set_handled(
            static_cast<uint32_t>(message.invalidate_call().commands_size()));
        Write(reply);
      }
      if (!message.has_desired()) continue;
      v1::ConnectRequest answer;
      answer.mutable_results()->set_nonce(message.desired().nonce());
      for (const v1::Resource& item : message.desired().items()) {
        const auto add = [&](const auto& resource) {
          *answer.mutable_results()->add_items() =
              ResultFor(resource, resource.state() == v1::STATE_DELETING ? v1::OUTCOME_RELEASED : v1::OUTCOME_APPLIED);
        };
        if (item.has_stage2_domain()) add(item.stage2_domain());
        if (item.has_viommu()) add(item.viommu());
        if (item.has_vdevice()) add(item.vdevice());
        if (item.has_nested_domain()) add(item.nested_domain());
      }
      if (!Write(answer)) return;
    }
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<v1::AgentService::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::ConnectRequest, v1::ConnectResponse>> stream_;
};

class AgentServiceTest : public testing::Test {
 protected:
  AgentServiceTest() {
    auto core = CommitCore::Open(store_, RealClock(), NewUuid, {.boot_id = "boot"});
    EXPECT_TRUE(core.ok()) << core.status();
    core_ = *std::move(core);
    watch_ = std::make_unique<RecordWatch>(*core_);
    committer_ = std::make_unique<Committer>(*core_, Committer::Options());
    AgentSessions::Options options;
    options.tick_interval = milliseconds(10);
    sessions_ = std::make_unique<AgentSessions>(
        *core_, [this](Command* command) { return committer_->Submit(command); }, RealClock(), options);
    core_->AddListener(sessions_.get());
    core_->AddListener(watch_.get());
    sessions_->Start();
    service_ = std::make_unique<AgentService>(*sessions_);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.SetMaxReceiveMessageSize(kMaxAgentMessageBytes);
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    address_ = "127.0.0.1:" + std::to_string(port);
  }
  ~AgentServiceTest() override {
    sessions_->Shutdown(seconds(5));
    server_->Shutdown();
    committer_->Stop();
  }

  template <typename Request>
  absl::Status Do(const Request& request) {
    TestCommand command([&](const Context& context, Draft& draft) { return Judge(request, context, draft).status(); });
    if (absl::Status status = committer_->Submit(&command); !status.ok()) return status;
    command.done.wait(false);
    return command.status;
  }
  bool WaitForState(const std::string& host, v1::HostState state) {
    return watch_->WaitUntil([&](const Tables& tables) {
      const auto record = tables.Find<v1::Host>(host);
      return record != nullptr && record->state() == state;
    });
  }

  MemoryStore store_;
  std::unique_ptr<CommitCore> core_;
  std::unique_ptr<RecordWatch> watch_;
  std::unique_ptr<Committer> committer_;
  std::unique_ptr<AgentSessions> sessions_;
  std::unique_ptr<AgentService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

TEST_F(AgentServiceTest, AnAgentComesIsToldAndGoes) {
  GrpcAgent agent(address_);
  ASSERT_TRUE(agent.Hello(GraceHello()));
  v1::ConnectResponse message;
  ASSERT_TRUE(agent.Read(&message));
  EXPECT_EQ(message.welcome().cluster_id(), core_->identity().cluster_id);
  ASSERT_TRUE(agent.Read(&message));
  EXPECT_TRUE(message.desired().sync_mark());
  EXPECT_TRUE(Do(CreateStage2("s", kGrace)).ok());
  ASSERT_TRUE(agent.Read(&message));
  ASSERT_EQ(message.desired().items_size(), 1);
  EXPECT_EQ(message.desired().items(0).stage2_domain().name(), "stage2Domains/s");
  agent.WritesDone();
  EXPECT_TRUE(agent.Finish().ok());
  EXPECT_TRUE(WaitForState(kGrace, v1::HOST_STATE_DISCONNECTED));
}

TEST_F(AgentServiceTest, ABrokenStreamDisconnectsTheHost) {
  GrpcAgent agent(address_);
  ASSERT_TRUE(agent.Hello(GraceHello()));
  ASSERT_TRUE(agent.ReadUntilSynced());
  EXPECT_TRUE(WaitForState(kGrace, v1::HOST_STATE_CONNECTED));
  agent.Cancel();
  EXPECT_TRUE(WaitForState(kGrace, v1::HOST_STATE_DISCONNECTED));
}

TEST_F(AgentServiceTest, RefusalsReachTheAgentWithReasonAndMetadata) {
  GrpcAgent first(address_);
  ASSERT_TRUE(first.Hello(GraceHello()));
  ASSERT_TRUE(first.ReadUntilSynced());
  GrpcAgent second(address_);
  v1::Hello hello = GraceHello();
  hello.set_agent_id("another");
  ASSERT_TRUE(second.Hello(hello));
  const absl::Status status = second.Finish();
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_HOST_ALREADY_CONNECTED);
  EXPECT_EQ(MetaOf(status, "peer").substr(0, 15), "ipv4:127.0.0.1:");
  EXPECT_FALSE(MetaOf(status, "since").empty());
}

TEST_F(AgentServiceTest, AShutdownTellsTheAgents) {
  GrpcAgent agent(address_);
  ASSERT_TRUE(agent.Hello(GraceHello()));
  ASSERT_TRUE(agent.ReadUntilSynced());
  std::thread stopper([this] { sessions_->Shutdown(seconds(10)); });
  const absl::Status status = agent.Finish();
  stopper.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_SHUTTING_DOWN);
  EXPECT_EQ(sessions_->stats().streams, 0);
  EXPECT_TRUE(WaitForState(kGrace, v1::HOST_STATE_CONNECTED)) << "the next start gives the agent time to come back";
}

TEST_F(AgentServiceTest, AShutdownDoesNotHangOnAnAgentThatDoesNotRead) {
  GrpcAgent agent(address_);
  ASSERT_TRUE(agent.Hello(GraceHello()));
  ASSERT_TRUE(agent.ReadUntilSynced());
  // Far more than a stream's flow control lets through unread, so that a write is under way.
  ASSERT_TRUE(Do(CreateStage2("s", kGrace)).ok());
  for (int i = 0; i < 60; ++i) {
    v1::Command command;
    command.set_raw(std::string(16, 'x'));
    sessions_->Invalidate(kGrace, "target", std::vector<v1::Command>(5000, command),
                          std::chrono::system_clock::now() + seconds(30),
                          [](absl::StatusOr<v1::InvalidationResult>) {});
  }
  const auto start = std::chrono::steady_clock::now();
  sessions_->Shutdown(milliseconds(200));
  EXPECT_LT(std::chrono::steady_clock::now() - start, seconds(10));
  EXPECT_EQ(sessions_->stats().streams, 0);
}

TEST_F(AgentServiceTest, WithClientCertificatesAnAgentIsItsOwnHostOnly) {
  TestAuthority authority(testing::TempDir(), "authority");
  const TlsFiles own = authority.Issue("server", {"server", {"IP:127.0.0.1"}});
  const auto credentials_of = [](const TlsFiles& files) {
    auto made = MakeChannelCredentials({AddressReach::kLoopback, "127.0.0.1", 1, ""}, {files});
    EXPECT_TRUE(made.ok()) << made.status();
    return *made;
  };
  auto listener = MakeServerCredentials({AddressReach::kLoopback, "127.0.0.1", 0, ""}, {own});
  ASSERT_TRUE(listener.ok()) << listener.status();
  AgentService service(*sessions_);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", *listener, &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  const std::string address = "127.0.0.1:" + std::to_string(port);

  GrpcAgent other(address, credentials_of(authority.Issue("other", {"grace", {"DNS:other", "URI:viommu://host/b"}})));
  ASSERT_TRUE(other.Hello(GraceHello()));
  EXPECT_EQ(ReasonOf(other.Finish()), v1::ERROR_REASON_NOT_AUTHORIZED);
  for (const char* name : {"DNS:grace", "URI:viommu://host/grace"}) {
    GrpcAgent agent(address, credentials_of(authority.Issue("agent", {"agent", {name}})));
    ASSERT_TRUE(agent.Hello(GraceHello()));
    EXPECT_TRUE(agent.ReadUntilSynced()) << name;
  }
  sessions_->Shutdown(seconds(5));
  server->Shutdown();
}

// Everything at once: agents that come and go, changes, invalidations; in the end everything is in place.
TEST_F(AgentServiceTest, ManyAgentsConvergeWhileStreamsBreak) {
  constexpr int kHosts = 6;
  constexpr int kRounds = 4;
  constexpr uint64_t kVdevices = 2;
  std::vector<std::string> hosts;
  for (int i = 0; i < kHosts; ++i) hosts.push_back("hosts/h" + std::to_string(i));
  std::vector<std::thread> agents;
  std::atomic<bool> stop{false};
  for (const std::string& host : hosts) {
    agents.emplace_back([&, host] {
      for (int round = 0; !stop; ++round) {
        GrpcAgent agent(address_);
        if (!agent.Hello(HelloOf(host, v1::STAGE2_SHARING_SHARED, 16))) continue;
        if (round < kRounds) {
          if (!agent.ReadUntilSynced()) continue;
          agent.Cancel();
        }
        agent.Obey();
      }
    });
  }
  for (const std::string& host : hosts) ASSERT_TRUE(WaitForState(host, v1::HOST_STATE_CONNECTED));
  std::vector<std::thread> callers;
  for (int i = 0; i < kHosts; ++i) {
    callers.emplace_back([&, i] {
      const std::string id = "h" + std::to_string(i);
      EXPECT_TRUE(Do(CreateStage2(id, hosts[i])).ok());
      EXPECT_TRUE(Do(CreateViommu(id, SmmuOf(hosts[i], 0), id)).ok());
      for (uint64_t vdev = 0; vdev < kVdevices; ++vdev) {
        EXPECT_TRUE(Do(SetVdevId(id, DeviceOf(hosts[i], static_cast<int>(vdev)), vdev)).ok());
        v1::Command command;
        command.mutable_tlbi_nh_all();
        sessions_->Invalidate(hosts[i], "target", {command}, std::chrono::system_clock::now() + seconds(1),
                              [](absl::StatusOr<v1::InvalidationResult>) {});
        EXPECT_TRUE(Do(RebindVdevId(id, vdev, vdev + 100)).ok());
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_TRUE(watch_->WaitUntil([&](const Tables& tables) {
    for (int i = 0; i < kHosts; ++i) {
      for (uint64_t vdev = 0; vdev < kVdevices; ++vdev) {
        const auto vdevice = tables.Find<v1::Vdevice>(VdeviceName(ViommuName("h" + std::to_string(i)), vdev + 100));
        if (vdevice == nullptr || vdevice->state() != v1::STATE_READY || vdevice->has_previous_vdev_id()) return false;
      }
    }
    return true;
  }));
  EXPECT_TRUE(core_->Read([](const Tables& tables, int64_t) { return CheckInvariants(tables); }).ok());
  stop = true;
  sessions_->Shutdown(seconds(10));
  for (std::thread& agent : agents) agent.join();
}

}  // namespace
}  // namespace viommu::server
