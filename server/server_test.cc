#include "server/server.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <regex>
#include <set>
#include <thread>

#include "common/credentials.h"
#include "common/grpc_error.h"
#include "common/test_certificates.h"
#include "server/api/test_service.h"
#include "viommu/v1/agent_service.grpc.pb.h"

namespace viommu::server {
namespace {

using std::chrono::seconds;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;

ServerConfig LocalConfig() {
  ServerConfig config;
  config.listen = {"127.0.0.1:0"};
  config.store = "memory";
  config.cluster_id = "test";
  config.metrics_listen = ParseAddress("127.0.0.1:0").value();
  config.agents_grace = seconds(0);
  config.log_level = LogLevel::kOff;
  return config;
}

class ServerTest : public testing::Test {
 protected:
  void Start(const ServerConfig& config = LocalConfig()) {
    auto store = std::make_unique<MemoryStore>();
    store_ = store.get();
    StartOn(std::move(store), config);
  }
  // Null: on the store that the configuration names.
  void StartOn(std::unique_ptr<Store> store, const ServerConfig& config) {
    auto server = Server::Start(config, std::move(store));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    channel_ = grpc::CreateChannel(server_->addresses()[0].ToString(), grpc::InsecureChannelCredentials());
    fleet_ = v1::FleetService::NewStub(channel_);
  }

  template <typename Request>
  absl::Status Call(const Request& request, typename MethodOf<Request>::Response* response = nullptr) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kPatience);
    typename MethodOf<Request>::Response ignored;
    return FromGrpcStatus(
        MethodOf<Request>::Call(*fleet_, &context, request, response != nullptr ? response : &ignored));
  }

  // Calls a method that we have no stub of.
  grpc::Status CallRaw(const std::string& method, const std::string& request, std::string* response = nullptr) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kPatience);
    const grpc::Slice slice(request);
    const grpc::ByteBuffer in(&slice, 1);
    grpc::ByteBuffer out;
    std::promise<grpc::Status> done;
    stub.UnaryCall(&context, method, grpc::StubOptions(), &in, &out,
                   [&done](const grpc::Status& status) { done.set_value(status); });
    const grpc::Status status = done.get_future().get();
    std::vector<grpc::Slice> slices;
    if (response != nullptr && status.ok() && out.Dump(&slices).ok()) {
      response->clear();
      for (const auto& each : slices) response->append(reinterpret_cast<const char*>(each.begin()), each.size());
    }
    return status;
  }

  // What grpc.health.v1 says: the messages have one field each.
  bool Serving(const std::string& service) {
    std::string response;
    const std::string request =
        service.empty() ? "" : std::string("\x0a") + static_cast<char>(service.size()) + service;
    const grpc::Status status = CallRaw("/grpc.health.v1.Health/Check", request, &response);
    EXPECT_TRUE(status.ok()) << service << ": " << status.error_message();
    return response == std::string("\x08\x01");
  }

  std::string Metrics() {
    const std::string address = server_->metrics_address();
    const size_t colon = address.rfind(':');
    return Shell("bash -c 'exec 3<>/dev/tcp/" + address.substr(0, colon) + "/" + address.substr(colon + 1) +
                 "; printf \"GET /metrics HTTP/1.0\\r\\n\\r\\n\" >&3; cat <&3'")
        .second;
  }

  static std::pair<int, std::string> Shell(const std::string& command) {
    FILE* pipe = popen((command + " 2>&1").c_str(), "r");
    std::string text;
    std::array<char, 4096> buffer;
    while (const size_t n = fread(buffer.data(), 1, buffer.size(), pipe)) text.append(buffer.data(), n);
    const int status = pclose(pipe);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, text};
  }

  MemoryStore* store_ = nullptr;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::FleetService::Stub> fleet_;
};

// An agent as the protocol has it, which says what the test tells it to.
class ScriptedAgent {
 public:
  ScriptedAgent(const std::shared_ptr<grpc::Channel>& channel, v1::Hello hello)
      : stub_(v1::AgentService::NewStub(channel)) {
    context_.set_deadline(std::chrono::system_clock::now() + kPatience);
    stream_ = stub_->Connect(&context_);
    v1::ConnectRequest request;
    *request.mutable_hello() = std::move(hello);
    stream_->Write(request);
  }

  // The next message that is no sign of life.
  std::optional<v1::ConnectResponse> Next() {
    v1::ConnectResponse message;
    while (stream_->Read(&message)) {
      if (!message.has_heartbeat()) return message;
    }
    return std::nullopt;
  }
  // Carries out what is asked for until one resource of that kind is applied.
  void ApplyUntilVdevice() {
    while (const auto message = Next()) {
      v1::ConnectRequest request;
      bool done = false;
      for (const auto& item : message->desired().items()) {
        if (item.has_stage2_domain()) Applied(item.stage2_domain(), request);
        if (item.has_viommu()) Applied(item.viommu(), request);
        if (item.has_vdevice()) Applied(item.vdevice(), request);
        done = done || item.has_vdevice();
      }
      request.mutable_results()->set_nonce(message->desired().nonce());
      if (message->has_desired()) stream_->Write(request);
      if (done) return;
    }
    ADD_FAILURE() << "the stream ended";
  }
  void Leave() { stream_->WritesDone(); }
  absl::Status End() {
    while (Next().has_value()) {
    }
    return FromGrpcStatus(stream_->Finish());
  }

 private:
  template <typename T>
  static void Applied(const T& resource, v1::ConnectRequest& request) {
    *request.mutable_results()->add_items() = ResultFor(resource, v1::OUTCOME_APPLIED);
  }

  std::unique_ptr<v1::AgentService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::ConnectRequest, v1::ConnectResponse>> stream_;
};

TEST_F(ServerTest, TheWholeLine) {
  Start();
  ScriptedAgent agent(channel_, GraceHello());
  ASSERT_TRUE(agent.Next()->has_welcome());
  ASSERT_TRUE(Call(CreateStage2("s", kGrace)).ok());
  ASSERT_TRUE(Call(CreateViommu("v", SmmuOf(kGrace, 0), "s")).ok());
  auto request = SetVdevId("v", DeviceOf(kGrace, 0), 8);
  request.set_wait(v1::WAIT_APPLIED);
  std::thread hand([&] { agent.ApplyUntilVdevice(); });
  v1::SetVdevIdResponse response;
  const absl::Status status = Call(request, &response);
  hand.join();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(response.vdevice().state(), v1::STATE_READY);

  const std::string metrics = Metrics();
  for (const std::string& line :
       {std::string("viommu_server_sessions 1"), std::string("viommu_server_store_writable 1"),
        std::string("viommu_server_resources{kind=\"vdevices\",state=\"ready\"} 1"),
        std::string("viommu_server_smmu_vmids_used{smmu=\"hosts/grace/smmus/smmu0\"} 1"),
        std::string("viommu_server_rpcs_total{code=\"OK\",method=\"viommu.v1.FleetService/SetVdevId\"} 1"),
        "viommu_server_revision " + std::to_string(server_->core().revision())}) {
    EXPECT_THAT(metrics, HasSubstr(line));
  }
}

TEST_F(ServerTest, HealthFollowsTheStore) {
  Start();
  EXPECT_TRUE(Serving(""));
  for (const char* name : {"FleetService", "OperationsService", "AgentService"}) {
    EXPECT_TRUE(Serving(std::string("viommu.v1.") + name)) << name;
  }
  ScriptedAgent agent(channel_, GraceHello());
  ASSERT_TRUE(agent.Next()->has_welcome());
  store_->FailCommits(absl::ResourceExhaustedError("no space left on device"));
  EXPECT_EQ(ReasonOf(Call(CreateStage2("s", kGrace))), v1::ERROR_REASON_STORE_UNAVAILABLE);
  while (Serving("viommu.v1.FleetService") || Serving("viommu.v1.OperationsService")) std::this_thread::yield();
  EXPECT_TRUE(Serving("")) << "reads are served";
  EXPECT_TRUE(Serving("viommu.v1.AgentService"));
  v1::GetServerStatusResponse status;
  ASSERT_TRUE(Call(v1::GetServerStatusRequest(), &status).ok());
  EXPECT_FALSE(status.writable());
  EXPECT_THAT(status.writable_reason(), HasSubstr("no space left"));
  store_->AllowRecovery();
  while (!Serving("viommu.v1.FleetService") || !Serving("viommu.v1.OperationsService")) std::this_thread::yield();
  EXPECT_TRUE(Call(CreateStage2("s", kGrace)).ok());
}

TEST_F(ServerTest, StopsInTimeWithEverythingOpen) {
  Start();
  ScriptedAgent agent(channel_, GraceHello());
  ASSERT_TRUE(agent.Next()->has_welcome());
  ASSERT_TRUE(Call(CreateStage2("s", kGrace)).ok());
  ASSERT_TRUE(Call(CreateViommu("v", SmmuOf(kGrace, 0), "s")).ok());
  // A watch that is read, one that is not, and a call that waits for a host that never answers.
  grpc::ClientContext read_context;
  auto read = fleet_->Watch(&read_context, v1::WatchRequest());
  grpc::ClientContext stuck_context;
  auto stuck = fleet_->Watch(&stuck_context, v1::WatchRequest());
  v1::WatchResponse message;
  ASSERT_TRUE(read->Read(&message));
  ASSERT_TRUE(stuck->Read(&message));
  absl::Status waited;
  std::thread waiting([&] {
    auto request = SetVdevId("v", DeviceOf(kGrace, 0), 8);
    request.set_wait(v1::WAIT_APPLIED);
    waited = Call(request);
  });
  while (server_->core().Read([](const Tables& tables, int64_t) { return tables.size(Kind::kVdevice); }) == 0) {
    std::this_thread::yield();
  }
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(server_->Shutdown(seconds(10)).ok());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(12));
  waiting.join();
  EXPECT_EQ(ReasonOf(waited), v1::ERROR_REASON_SHUTTING_DOWN) << waited;
  while (read->Read(&message)) {
  }
  EXPECT_EQ(ReasonOf(FromGrpcStatus(read->Finish())), v1::ERROR_REASON_SHUTTING_DOWN);
  EXPECT_EQ(ReasonOf(agent.End()), v1::ERROR_REASON_SHUTTING_DOWN);
}

TEST_F(ServerTest, ReflectionCanBeTurnedOff) {
  const std::string method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  const std::string list_services("\x3a\x00", 2);
  Start();
  std::string services;
  const grpc::Status listed = CallRaw(method, list_services, &services);
  EXPECT_TRUE(listed.ok()) << listed.error_message();
  for (const char* name : {"viommu.v1.FleetService", "viommu.v1.OperationsService", "viommu.v1.AgentService"}) {
    EXPECT_THAT(services, HasSubstr(name));
  }
  auto config = LocalConfig();
  config.reflection = false;
  Start(config);
  EXPECT_EQ(CallRaw(method, list_services).error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

// Every metric of the server's page is there, on a real store and with a listener for agents.
TEST_F(ServerTest, ExportsEveryMetricOfItsDocument) {
  auto config = LocalConfig();
  config.agents_listen = {"127.0.0.1:0"};
  const std::string folder = testing::TempDir() + "/metrics-store";
  std::filesystem::remove_all(folder);
  config.store = "rocksdb:" + folder;
  StartOn(nullptr, config);
  const auto agents =
      grpc::CreateChannel(server_->agents_addresses()[0].ToString(), grpc::InsecureChannelCredentials());
  {
    ScriptedAgent gone(agents, SmallHello());
    ASSERT_TRUE(gone.Next()->has_welcome());
    gone.Leave();
  }
  ScriptedAgent agent(agents, GraceHello());
  ASSERT_TRUE(agent.Next()->has_welcome());
  ASSERT_TRUE(Call(CreateStage2("s", kGrace)).ok());
  while (Metrics().find("viommu_server_sessions_ended_total{") == std::string::npos) std::this_thread::yield();
  const std::string metrics = Metrics();

  std::ifstream file("docs/metrics.md");
  std::string page((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  page = page.substr(0, page.find("## viommu-agent"));
  std::set<std::string> documented;
  const std::regex name("`(viommu_server_[a-z_]+)`");
  for (std::sregex_iterator it(page.begin(), page.end(), name), end; it != end; ++it) documented.insert(it->str(1));
  EXPECT_GT(documented.size(), 20u);
  for (const std::string& metric : documented) EXPECT_THAT(metrics, HasSubstr("# TYPE " + metric + " "));
  std::set<std::string> exported;
  const std::regex type("# TYPE (viommu_server_[a-z_]+) ");
  for (std::sregex_iterator it(metrics.begin(), metrics.end(), type), end; it != end; ++it) exported.insert(it->str(1));
  EXPECT_EQ(exported, documented);

  for (const std::string counted :
       {"viommu_server_store_sync_seconds_count", "viommu_server_commit_batch_commands_count",
        "viommu_server_commit_batch_seconds_count", "viommu_server_store_written_bytes_total",
        "viommu_server_rpc_seconds_count{method=\"viommu.v1.FleetService/CreateStage2Domain\"}"}) {
    const size_t at = metrics.find("\n" + counted + " ");
    ASSERT_NE(at, std::string::npos) << counted;
    EXPECT_GE(std::stod(metrics.substr(at + 1 + counted.size())), 1) << counted;
  }
}

// One listener for callers and agents: a host's certificate is good for its agent's stream and for nothing else.
TEST_F(ServerTest, AHostsCertificateDoesNotLetCallTheFleetService) {
  const std::string folder = testing::TempDir() + "/certificates";
  std::filesystem::create_directories(folder);
  TestAuthority authority(folder, "fleet");
  auto config = LocalConfig();
  config.listen = {"localhost:0"};
  config.tls.tls = authority.Issue("server", {"server", {"DNS:localhost"}});
  Start(config);
  const auto connect = [&](const std::string& name, const std::string& uri) {
    const TransportOptions options{authority.Issue(name, {name, {uri}})};
    channel_ = grpc::CreateChannel("localhost:" + std::to_string(server_->addresses()[0].port),
                                   MakeChannelCredentials(server_->addresses()[0], options).value());
    fleet_ = v1::FleetService::NewStub(channel_);
  };
  connect("caller", "URI:spiffe://lab/orchestrator");
  EXPECT_TRUE(Call(v1::GetServerStatusRequest()).ok());
  const absl::Status no_agent = ScriptedAgent(channel_, GraceHello()).End();
  EXPECT_EQ(ReasonOf(no_agent), v1::ERROR_REASON_NOT_AUTHORIZED) << no_agent;

  connect("host", "URI:viommu://host/grace");
  ScriptedAgent agent(channel_, GraceHello());
  ASSERT_TRUE(agent.Next()->has_welcome());
  const int64_t revision = server_->core().revision();
  const auto refused = [&](const absl::Status& status) {
    EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied) << status;
    EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_NOT_AUTHORIZED) << status;
  };
  refused(Call(v1::GetServerStatusRequest()));
  refused(Call(v1::ListHostsRequest()));
  refused(Call(CreateStage2("s", kGrace)));
  refused(Call(v1::InvalidateRequest()));
  refused(Call(v1::CreateHwQueueRequest()));
  grpc::ClientContext context;
  auto watch = fleet_->Watch(&context, v1::WatchRequest());
  v1::WatchResponse message;
  EXPECT_FALSE(watch->Read(&message));
  refused(FromGrpcStatus(watch->Finish()));
  EXPECT_EQ(server_->core().revision(), revision);
}

TEST_F(ServerTest, TooLongRequestsAreToldWhyOnEveryKindOfListener) {
  for (const bool own_listener : {false, true}) {
    auto config = LocalConfig();
    if (own_listener) config.agents_listen = {"127.0.0.1:0"};
    Start(config);
    auto request = SetVdevId("v", DeviceOf(kGrace, 0), 8);
    (*request.mutable_labels())["x"] = std::string(size_t{5} << 20, 'x');
    const absl::Status status = Call(request);
    EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_LIMIT_EXCEEDED) << status;
    EXPECT_NE(MetaOf(status, "limit"), "");
  }
}

TEST_F(ServerTest, AHelloThatIsTooLongIsNotReadOnAnyKindOfListener) {
  for (const bool own_listener : {false, true}) {
    auto config = LocalConfig();
    if (own_listener) config.agents_listen = {"127.0.0.1:0"};
    Start(config);
    v1::Hello hello = GraceHello();
    hello.set_agent_version(std::string(size_t{16} << 20, 'x'));
    const std::string address = (own_listener ? server_->agents_addresses() : server_->addresses())[0].ToString();
    ScriptedAgent agent(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()), hello);
    EXPECT_EQ(agent.End().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(server_->core().Read([](const Tables& tables, int64_t) { return tables.Find<v1::Host>(kGrace); }),
              nullptr);
  }
}

TEST_F(ServerTest, AConnectionHasSoManyCallsAtOnce) {
  auto config = LocalConfig();
  config.limits_streams = 2;
  Start(config);
  std::array<grpc::ClientContext, 2> contexts;
  std::array<std::unique_ptr<grpc::ClientReader<v1::WatchResponse>>, 2> watches;
  for (size_t i = 0; i < watches.size(); ++i) {
    watches[i] = fleet_->Watch(&contexts[i], v1::WatchRequest());
    v1::WatchResponse message;
    ASSERT_TRUE(watches[i]->Read(&message));
  }
  grpc::ClientContext third;
  third.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  v1::GetServerStatusResponse status;
  EXPECT_EQ(fleet_->GetServerStatus(&third, v1::GetServerStatusRequest(), &status).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  contexts[0].TryCancel();
  watches[0]->Finish();
  EXPECT_TRUE(Call(v1::GetServerStatusRequest()).ok());
}

// A channel with a connection of its own, which is tried again at once, and windows that do not grow.
std::shared_ptr<grpc::Channel> OwnChannel(const Address& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 20);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 20);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 20);
  return grpc::CreateCustomChannel(address.ToString(), grpc::InsecureChannelCredentials(), arguments);
}

TEST_F(ServerTest, ThereAreSoManyConnectionsAtOnce) {
  auto config = LocalConfig();
  config.limits_connections = 2;
  Start(config);
  EXPECT_TRUE(Call(v1::GetServerStatusRequest()).ok());
  auto second = std::make_unique<ScriptedAgent>(OwnChannel(server_->addresses()[0]), GraceHello());
  ASSERT_TRUE(second->Next()->has_welcome());

  const auto first = std::exchange(channel_, OwnChannel(server_->addresses()[0]));
  fleet_ = v1::FleetService::NewStub(channel_);
  EXPECT_EQ(Call(v1::GetServerStatusRequest()).code(), absl::StatusCode::kUnavailable);
  const std::string full = Metrics();
  EXPECT_THAT(full, HasSubstr("viommu_server_connections 2\n"));
  EXPECT_THAT(full, testing::ContainsRegex("viommu_server_connections_refused_total [1-9]"));

  second->Leave();
  EXPECT_TRUE(second->End().ok());
  second.reset();
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!Call(v1::GetServerStatusRequest()).ok() && std::chrono::steady_clock::now() < end) {
  }
  EXPECT_TRUE(Call(v1::GetServerStatusRequest()).ok());
}

// Asks and takes nothing of the answer: beyond the stream's window it stays with the server.
class IdleReader {
 public:
  IdleReader(const std::shared_ptr<grpc::Channel>& channel, const std::string& method) : stub_(channel) {
    call_ = stub_.PrepareCall(&context_, method, &queue_);
    Do([this] { call_->StartCall(nullptr); });
    Do([this] { call_->WriteLast(grpc::ByteBuffer(&empty_, 1), grpc::WriteOptions(), nullptr); });
  }
  ~IdleReader() {
    context_.TryCancel();
    grpc::Status status;
    Do([&] { call_->Finish(&status, nullptr); });
  }

 private:
  void Do(const std::function<void()>& start) {
    start();
    void* tag = nullptr;
    bool ok = false;
    queue_.Next(&tag, &ok);
  }

  grpc::GenericStub stub_;
  const grpc::Slice empty_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
};

TEST_F(ServerTest, WhoTakesNoAnswersDoesNotFillTheMemory) {
  auto config = LocalConfig();
  config.limits_memory_bytes = uint64_t{16} << 20;
  Start(config);
  ScriptedAgent agent(OwnChannel(server_->addresses()[0]), GraceHello());
  ASSERT_TRUE(agent.Next()->has_welcome());
  for (int i = 0; i < 60; ++i) {
    auto request = CreateStage2("s" + std::to_string(i), kGrace);
    for (int j = 0; j < 64; ++j) {
      (*request.mutable_stage2_domain()->mutable_labels())["k" + std::to_string(j)] = std::string(255, 'x');
    }
    const absl::Status created = Call(request);
    ASSERT_TRUE(created.ok()) << created;
  }
  const auto unsent = [this] {
    const std::string metrics = Metrics();
    const std::string name = "\nviommu_server_rpc_unsent_bytes ";
    return std::stod(metrics.substr(metrics.find(name) + name.size()));
  };
  v1::ListStage2DomainsResponse page;
  ASSERT_TRUE(Call(v1::ListStage2DomainsRequest(), &page).ok());
  const auto length = static_cast<double>(page.ByteSizeLong());
  EXPECT_GT(length, 900'000);

  // What is there afterwards is about the limit, however many ask. (Nobody else asks meanwhile: what an answer on its
  // way takes would have readers refused that were to fill the rest.)
  const auto idle = OwnChannel(server_->addresses()[0]);
  std::vector<std::unique_ptr<IdleReader>> readers;
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (unsent() < 16 << 20 && std::chrono::steady_clock::now() < end) {
    readers.push_back(std::make_unique<IdleReader>(idle, "/viommu.v1.FleetService/ListStage2Domains"));
  }
  const absl::Status refused = Call(v1::ListStage2DomainsRequest());
  for (int i = 0; i < 50; ++i) {
    readers.push_back(std::make_unique<IdleReader>(idle, "/viommu.v1.FleetService/ListStage2Domains"));
  }
  EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_OVERLOADED) << refused;
  EXPECT_LT(unsent(), (16 << 20) + 16 * length);
  EXPECT_TRUE(Call(CreateViommu("v", SmmuOf(kGrace, 0), "s0")).ok()) << "changes go on";

  readers.clear();
  absl::Status taken = refused;
  while (!taken.ok() && std::chrono::steady_clock::now() < end) taken = Call(v1::ListStage2DomainsRequest());
  EXPECT_TRUE(taken.ok()) << taken;
}

TEST_F(ServerTest, ThereAreNoMoreConnectionsThanOpenFilesLeaveRoomFor) {
  auto config = LocalConfig();
  config.limits_connections = 1000;
  EXPECT_EQ(LimitConnections(config, 100'000)->listen, 1000U);
  EXPECT_EQ(LimitConnections(config, 1024)->listen, 512U);
  EXPECT_TRUE(LimitConnections(config, 513).ok());
  config.agents_listen = {"127.0.0.1:0"};
  EXPECT_EQ(LimitConnections(config, 100'000)->agents_listen, 1000U);
  EXPECT_EQ(LimitConnections(config, 512 + 1100)->agents_listen, 963U);
  EXPECT_EQ(LimitConnections(config, 512 + 1100)->listen, 137U);
  EXPECT_EQ(LimitConnections(config, 512 + 1200)->listen, 200U) << "what agents cannot use";
  EXPECT_EQ(LimitConnections(config, 514)->listen, 1U);
  EXPECT_THAT(std::string(LimitConnections(config, 513).status().message()), HasSubstr("LimitNOFILE"));
}

TEST_F(ServerTest, ConnectionsWithoutCallsAreClosed) {
  auto config = LocalConfig();
  config.keepalive_max_idle = seconds(1);
  Start(config);
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
  ScriptedAgent agent(
      grpc::CreateCustomChannel(server_->addresses()[0].ToString(), grpc::InsecureChannelCredentials(), arguments),
      GraceHello());
  ASSERT_TRUE(agent.Next()->has_welcome());
  EXPECT_TRUE(Call(v1::GetServerStatusRequest()).ok());
  EXPECT_TRUE(channel_->WaitForStateChange(GRPC_CHANNEL_READY, std::chrono::system_clock::now() + kPatience));
  EXPECT_TRUE(Call(v1::GetServerStatusRequest()).ok()) << "and opened again when there is a call";
  EXPECT_EQ(server_->core().Read([](const Tables& tables, int64_t) { return tables.Find<v1::Host>(kGrace)->state(); }),
            v1::HOST_STATE_CONNECTED)
      << "a stream is a call";
}

TEST_F(ServerTest, AgentsCanHaveAListenerOfTheirOwn) {
  auto config = LocalConfig();
  config.agents_listen = {"127.0.0.1:0"};
  Start(config);
  ASSERT_EQ(server_->agents_addresses().size(), 1U);
  const auto agents =
      grpc::CreateChannel(server_->agents_addresses()[0].ToString(), grpc::InsecureChannelCredentials());
  ScriptedAgent agent(agents, GraceHello());
  EXPECT_TRUE(agent.Next()->has_welcome());
  EXPECT_EQ(ScriptedAgent(channel_, GraceHello()).End().code(), absl::StatusCode::kUnimplemented);
}

TEST_F(ServerTest, AnAddressThatIsTakenIsNamed) {
  Start();
  auto config = LocalConfig();
  config.listen = {server_->addresses()[0].ToString()};
  const absl::Status status = Server::Start(config).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr(config.listen[0]));
}

TEST_F(ServerTest, AnotherClustersStoreIsRefused) {
  Start();
  auto store = store_->AfterKill();
  auto config = LocalConfig();
  config.cluster_id = "other";
  const absl::Status status = Server::Start(config, std::move(store)).status();
  EXPECT_EQ(ReasonOf(status), v1::ERROR_REASON_CLUSTER_MISMATCH) << status;
}

TEST_F(ServerTest, TheProgramRefusesABadStoreInOneLine) {
  const std::string path = testing::TempDir() + "/no-store";
  std::ofstream(path) << "not a folder";
  const auto [code, text] = Shell("server/viommu-server --listen 127.0.0.1:0 --log-level off --store rocksdb:" + path);
  EXPECT_EQ(code, 1);
  EXPECT_THAT(text, MatchesRegex("viommu-server: cannot start: [^\n]*no-store[^\n]*\n"));
  EXPECT_EQ(Shell("server/viommu-server --check-config --store memory").first, 0);
  EXPECT_THAT(Shell("server/viommu-server --help").second, HasSubstr("viommu-server restore --help")) << "and so on";
  const auto [bad, why] = Shell("server/viommu-server --store nowhere");
  EXPECT_NE(bad, 0);
  EXPECT_THAT(why, HasSubstr("rocksdb:PATH"));
}

// What --check-config lets pass is not refused at the start.
TEST_F(ServerTest, TheProgramChecksItsConfigurationBeforehand) {
  struct Case {
    std::string flags;
    std::string says;
  };
  for (const Case& bad : {
           Case{"--listen 0.0.0.0:0", "tls.allow_insecure"},
           Case{"--listen 127.0.0.1:0 --agents-listen 0.0.0.0:0", "tls.allow_insecure"},
           Case{"--listen 127.0.0.1:0 --tls-cert /nowhere.pem --tls-key /nowhere.key", "/nowhere.pem"},
           Case{"--listen 127.0.0.1:0 --agents-listen 127.0.0.1:0 --agents-tls-cert /nowhere.pem", "agents_tls.key"},
           Case{"--listen 127.0.0.1:0 --agents-tls-allow-insecure", "agents.listen"},
           Case{"--listen 127.0.0.1:0 --metrics-listen unix:/tmp/metrics.sock", "metrics.listen"},
           Case{"--listen 127.0.0.1:0 --metrics-listen 0.0.0.0:0", "metrics.allow_insecure"},
       }) {
    const std::string program = "server/viommu-server --store memory --log-level off " + bad.flags;
    const auto [checked, why] = Shell(program + " --check-config");
    EXPECT_EQ(checked, 1) << bad.flags;
    EXPECT_THAT(why, HasSubstr(bad.says)) << bad.flags;
    const auto [started, also_why] = Shell(program);
    EXPECT_EQ(started, 78) << bad.flags << ": " << also_why;
    EXPECT_THAT(also_why, HasSubstr(bad.says));
  }
  EXPECT_EQ(Shell("server/viommu-server --store memory --check-config --listen 0.0.0.0:0 --tls-allow-insecure "
                  "--metrics-listen 0.0.0.0:0 --metrics-allow-insecure")
                .first,
            0);
}

}  // namespace
}  // namespace viommu::server
