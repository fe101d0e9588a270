#include "agent/session/client.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "agent/session/testing.h"
#include "common/error.h"
#include "common/grpc_error.h"

namespace viommu::agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// A server whose sessions run a script.
class FakeServer : public v1::AgentService::Service {
 public:
  using Stream = grpc::ServerReaderWriter<v1::ConnectResponse, v1::ConnectRequest>;
  using Script = std::function<grpc::Status(Stream& stream, int session)>;

  explicit FakeServer(Script script) : script_(std::move(script)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeServer() override { server_->Shutdown(std::chrono::system_clock::now()); }

  grpc::Status Connect(grpc::ServerContext*, Stream* stream) override {
    int session = 0;
    {
      MutexLock lock(mu_);
      session = ++sessions_;
      cv_.NotifyAll();
    }
    return script_(*stream, session);
  }
  // Waits for that many sessions to have begun.
  bool WaitForSessions(int count) {
    MutexLock lock(mu_);
    while (sessions_ < count) {
      if (!cv_.WaitFor(mu_, seconds(20))) return false;
    }
    return true;
  }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

 private:
  const Script script_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  Mutex mu_;
  CondVar cv_;
  int sessions_ ABSL_GUARDED_BY(mu_) = 0;
};

// What a test waits for, said by the server's script.
class Flag {
 public:
  void Set() {
    MutexLock lock(mu_);
    set_ = true;
    cv_.NotifyAll();
  }
  bool Wait() {
    MutexLock lock(mu_);
    while (!set_) {
      if (!cv_.WaitFor(mu_, seconds(20))) return false;
    }
    return true;
  }

 private:
  Mutex mu_;
  CondVar cv_;
  bool set_ ABSL_GUARDED_BY(mu_) = false;
};

SessionClient::Options OptionsFor(const std::string& address) {
  SessionClient::Options options;
  options.make_channel = [address] { return grpc::CreateChannel(address, grpc::InsecureChannelCredentials()); };
  options.make_hello = [] {
    v1::Hello hello;
    hello.mutable_host()->set_name("hosts/h1");
    return hello;
  };
  options.random = [] { return 0.5; };
  options.first_retry = milliseconds(5);
  options.longest_retry = milliseconds(50);
  options.first_refused_retry = milliseconds(5);
  options.longest_refused_retry = milliseconds(50);
  return options;
}

// Reads until a message of that kind; heartbeats come at any time.
bool ReadKind(FakeServer::Stream& stream, v1::ConnectRequest::KindCase kind, v1::ConnectRequest& message) {
  while (stream.Read(&message)) {
    if (message.kind_case() == kind) return true;
  }
  return false;
}

void Drain(FakeServer::Stream& stream) {
  v1::ConnectRequest message;
  while (stream.Read(&message)) {
  }
}

TEST(SessionClientTest, CarriesASession) {
  FakeWork work;
  FakeCalls calls;
  Flag synced;
  Flag replied;
  v1::ConnectRequest hello;
  v1::ConnectRequest results;
  v1::ConnectRequest heartbeat;
  v1::ConnectRequest reply;
  FakeServer server([&](FakeServer::Stream& stream, int) {
    stream.Read(&hello);
    stream.Write(WelcomeMessage(3000));
    stream.Write(DesiredMessage(3));
    ReadKind(stream, v1::ConnectRequest::kResults, results);
    v1::ConnectResponse call;
    call.mutable_invalidate_call()->set_call_id(9);
    stream.Write(call);
    ReadKind(stream, v1::ConnectRequest::kHeartbeat, heartbeat);
    synced.Set();
    ReadKind(stream, v1::ConnectRequest::kInvalidateReply, reply);
    replied.Set();
    Drain(stream);
    return grpc::Status::OK;
  });
  SessionClient client(OptionsFor(server.address()), work, calls);
  client.Start();
  ASSERT_TRUE(synced.Wait());
  EXPECT_EQ(hello.hello().host().name(), "hosts/h1");
  EXPECT_EQ(results.results().items_size(), 3);
  EXPECT_EQ(results.results().nonce(), 1);
  EXPECT_EQ(heartbeat.heartbeat().epoch(), 3);
  EXPECT_EQ(client.status().state, v1::SESSION_STATE_SYNCED);
  EXPECT_EQ(client.status().sessions, 1u);
  ASSERT_EQ(calls.calls().size(), 1u);
  v1::InvalidateReply answer;
  answer.set_call_id(8);
  client.AddReply(calls.calls()[0].first + 1, answer);  // of a session that is not this one
  answer.set_call_id(9);
  client.AddReply(calls.calls()[0].first, answer);
  ASSERT_TRUE(replied.Wait());
  EXPECT_EQ(reply.invalidate_reply().call_id(), 9);
  client.Stop();
  EXPECT_EQ(work.log(), (std::vector<std::string>{"begin", "end"}));
}

TEST(SessionClientTest, ComesBackAfterTheServerEndsTheSession) {
  FakeWork work;
  FakeCalls calls;
  FakeServer server([](FakeServer::Stream& stream, int session) {
    v1::ConnectRequest hello;
    stream.Read(&hello);
    stream.Write(WelcomeMessage());
    if (session == 1) return ToGrpcStatus(absl::UnavailableError("going away"));
    if (session == 2) return grpc::Status::OK;
    Drain(stream);
    return grpc::Status::OK;
  });
  SessionClient client(OptionsFor(server.address()), work, calls);
  client.Start();
  EXPECT_TRUE(server.WaitForSessions(3));
}

TEST(SessionClientTest, ComesBackAfterSilence) {
  FakeWork work;
  FakeCalls calls;
  Flag second;
  FakeServer server([&](FakeServer::Stream& stream, int session) {
    v1::ConnectRequest hello;
    stream.Read(&hello);
    stream.Write(WelcomeMessage(200));
    if (session == 2) second.Set();
    Drain(stream);  // and never a heartbeat
    return grpc::Status::OK;
  });
  SessionClient client(OptionsFor(server.address()), work, calls);
  client.Start();
  EXPECT_TRUE(second.Wait());
}

TEST(SessionClientTest, ARefusalIsShownAndTriedAgain) {
  FakeWork work;
  FakeCalls calls;
  Flag second;
  FakeServer server([&](FakeServer::Stream& stream, int session) {
    v1::ConnectRequest hello;
    stream.Read(&hello);
    if (session == 2) second.Set();
    return ToGrpcStatus(
        Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_CLUSTER_MISMATCH).Message("another cluster"));
  });
  SessionClient client(OptionsFor(server.address()), work, calls);
  client.Start();
  ASSERT_TRUE(second.Wait());
  EXPECT_EQ(client.status().state, v1::SESSION_STATE_REFUSED);
  EXPECT_EQ(client.status().reason.reason(), "CLUSTER_MISMATCH");
  EXPECT_EQ(client.status().reason.message(), "another cluster");
  EXPECT_TRUE(work.log().empty());
}

// Two agents for one host, or with copies of one state directory, must not throw each other out in turns.
TEST(SessionClientTest, AHostThatAnotherAgentHasIsARefusal) {
  for (const auto& [code, reason] :
       {std::pair(absl::StatusCode::kAlreadyExists, v1::ERROR_REASON_HOST_ALREADY_CONNECTED),
        std::pair(absl::StatusCode::kAborted, v1::ERROR_REASON_HOST_ALREADY_CONNECTED),
        std::pair(absl::StatusCode::kInvalidArgument, v1::ERROR_REASON_LIMIT_EXCEEDED)}) {
    FakeWork work;
    FakeCalls calls;
    Flag second;
    FakeServer server([&, code = code, reason = reason](FakeServer::Stream& stream, int session) {
      v1::ConnectRequest hello;
      stream.Read(&hello);
      if (session == 2) second.Set();
      stream.Write(WelcomeMessage());
      stream.Write(DesiredMessage(0));
      if (session == 2) Drain(stream);
      return ToGrpcStatus(Error(code, reason).Message("another one is here"));
    });
    auto options = OptionsFor(server.address());
    options.first_retry = options.longest_retry = std::chrono::hours(1);  // only a refusal comes back in time
    SessionClient client(std::move(options), work, calls);
    client.Start();
    EXPECT_TRUE(second.Wait()) << ReasonName(reason) << " with " << code;
  }
}

TEST(SessionClientTest, IsNotBackBeforeTheServerAskedForIt) {
  FakeWork work;
  FakeCalls calls;
  Flag second;
  MonotonicTime first_end;
  MonotonicTime second_begin;
  FakeServer server([&](FakeServer::Stream& stream, int session) {
    v1::ConnectRequest hello;
    stream.Read(&hello);
    if (session == 2) {
      second_begin = RealClock().Monotonic();
      second.Set();
      Drain(stream);
      return grpc::Status::OK;
    }
    first_end = RealClock().Monotonic();
    return ToGrpcStatus(Error(absl::StatusCode::kResourceExhausted, v1::ERROR_REASON_OVERLOADED)
                            .Message("full")
                            .RetryAfter(milliseconds(400)));
  });
  SessionClient client(OptionsFor(server.address()), work, calls);
  client.Start();
  ASSERT_TRUE(second.Wait());
  EXPECT_GE(second_begin - first_end, milliseconds(400));
}

TEST(SessionClientTest, SessionsThatEndAtOnceAreTriedEverMoreSlowly) {
  constexpr int kSessions = 7;
  FakeWork work;
  FakeCalls calls;
  FakeServer server([](FakeServer::Stream& stream, int) {
    v1::ConnectRequest hello;
    stream.Read(&hello);
    stream.Write(WelcomeMessage());
    stream.Write(DesiredMessage(1));
    v1::ConnectRequest results;
    ReadKind(stream, v1::ConnectRequest::kResults, results);
    return ToGrpcStatus(absl::UnavailableError("going away"));
  });
  auto options = OptionsFor(server.address());
  options.longest_retry = seconds(10);
  const MonotonicTime begin = RealClock().Monotonic();
  SessionClient client(std::move(options), work, calls);
  client.Start();
  ASSERT_TRUE(server.WaitForSessions(kSessions));
  // Three quarters of 5, 10, … 160 ms: random is 0.5 here.
  EXPECT_GE(RealClock().Monotonic() - begin, milliseconds(236));
}

TEST(SessionClientTest, AServerThatIsNotToBeObeyedIsLeft) {
  FakeWork work;
  FakeCalls calls;
  Flag second;
  FakeServer server([&](FakeServer::Stream& stream, int session) {
    v1::ConnectRequest hello;
    stream.Read(&hello);
    if (session == 2) second.Set();
    v1::ConnectResponse welcome = WelcomeMessage();
    welcome.mutable_welcome()->set_cluster_id("other");
    stream.Write(welcome);
    stream.Write(DesiredMessage(1));
    Drain(stream);
    return grpc::Status::OK;
  });
  SessionClient client(OptionsFor(server.address()), work, calls);
  client.Start();
  ASSERT_TRUE(second.Wait());
  EXPECT_EQ(client.status().state, v1::SESSION_STATE_REFUSED);
  EXPECT_TRUE(work.log().empty());
}

TEST(SessionClientTest, StopsWhileNobodyAnswers) {
  FakeWork work;
  FakeCalls calls;
  Flag connected;
  FakeServer server([&](FakeServer::Stream& stream, int) {
    connected.Set();
    Drain(stream);
    return grpc::Status::OK;
  });
  SessionClient silent(OptionsFor(server.address()), work, calls);
  silent.Start();
  ASSERT_TRUE(connected.Wait());
  silent.Stop();
  SessionClient unreachable(OptionsFor("127.0.0.1:1"), work, calls);
  unreachable.Start();
  unreachable.Stop();
}

}  // namespace
}  // namespace viommu::agent
