#include "common/credentials.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <fstream>
#include <optional>
#include <string>

#include "common/fake_clock.h"
#include "common/test_certificates.h"

namespace viommu {
namespace {

using testing::HasSubstr;

const Address kNetwork = ParseAddress("10.0.0.5:7070").value();
const Address kLoopback = ParseAddress("127.0.0.1:0").value();
const Address kUnix = ParseAddress("unix:/run/x.sock").value();

std::string Dir() { return testing::TempDir(); }

std::string WriteFile(const std::string& name, const std::string& text) {
  const std::string path = Dir() + "/" + name;
  std::ofstream(path) << text;
  return path;
}

std::string Message(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

TEST(CredentialsTest, PlainTextOnlyNearbyOrByName) {
  EXPECT_TRUE(MakeServerCredentials(kUnix, {}).ok());
  EXPECT_TRUE(MakeServerCredentials(kLoopback, {}).ok());
  EXPECT_TRUE(MakeChannelCredentials(kUnix, {}).ok());
  EXPECT_TRUE(MakeChannelCredentials(kLoopback, {}).ok());
  EXPECT_EQ(Message(MakeServerCredentials(kNetwork, {}).status()),
            "10.0.0.5:7070 can be reached from the network: set tls.cert and tls.key, or ask for plain text with "
            "tls.allow_insecure");
  EXPECT_EQ(Message(MakeChannelCredentials(kNetwork, {}, "server_tls").status()),
            "10.0.0.5:7070 is across the network: set server_tls.ca, or ask for plain text with "
            "server_tls.allow_insecure");
  EXPECT_TRUE(MakeServerCredentials(kNetwork, {{}, true}).ok());
  EXPECT_TRUE(MakeChannelCredentials(kNetwork, {{}, true}).ok());
}

TEST(CredentialsTest, IncompleteFilesAreNamed) {
  EXPECT_EQ(Message(MakeServerCredentials(kNetwork, {{"/c", "", ""}, true}).status()),
            "tls.cert and tls.key go together: set tls.key too");
  EXPECT_EQ(Message(MakeServerCredentials(kNetwork, {{"", "", "/a"}, true}).status()),
            "tls.ca alone does not make a TLS server: set tls.cert and tls.key too");
  EXPECT_EQ(Message(MakeChannelCredentials(kNetwork, {{"/c", "/k", ""}, true}).status()),
            "tls.ca is missing: without it the server's certificate cannot be checked");
}

TEST(CredentialsTest, BadFilesAreNamed) {
  TestAuthority authority(Dir(), "bad-files");
  const TlsFiles good = authority.Issue("good", {"good", {}});
  const TlsFiles other = authority.Issue("other", {"other", {}});
  const std::string junk = WriteFile("junk.pem", "junk");
  const std::string empty = WriteFile("empty.pem", "");
  const auto error = [](const TlsFiles& files) {
    return Message(MakeServerCredentials(kNetwork, {files, false}).status());
  };
  EXPECT_EQ(error({"/nonexistent.pem", good.key, ""}),
            "tls.cert: /nonexistent.pem cannot be read: No such file or directory");
  EXPECT_EQ(error({empty, good.key, ""}), "tls.cert: " + empty + " cannot be read: it is empty");
  EXPECT_EQ(error({junk, good.key, ""}), "tls.cert: " + junk + " holds no certificate in PEM form");
  EXPECT_EQ(error({good.cert, junk, ""}),
            "tls.key: " + junk + " holds no private key in PEM form without a passphrase");
  EXPECT_EQ(error({good.cert, good.key, junk}), "tls.ca: " + junk + " holds no certificate in PEM form");
  EXPECT_EQ(error({good.cert, other.key, ""}),
            "tls.key: " + other.key + " is not the key of the certificate in " + good.cert);
  EXPECT_TRUE(MakeServerCredentials(kNetwork, {good, false}).ok());
}

TEST(CredentialsTest, ExpiredCertificateIsRefused) {
  TestAuthority authority(Dir(), "expired");
  const TlsFiles files = authority.Issue("short", {"short", {}, std::chrono::hours(1)});
  FakeClock clock;
  clock.SetWall(RealClock().Now());
  EXPECT_TRUE(MakeServerCredentials(kNetwork, {files, false}, "tls", clock).ok());
  clock.Advance(std::chrono::hours(2));
  EXPECT_EQ(Message(MakeServerCredentials(kNetwork, {files, false}, "tls", clock).status()),
            "tls.cert: the certificate in " + files.cert + " has expired; renew it");
}

// Answers every call with OK and keeps who called.
class WhoService final : public grpc::CallbackGenericService {
 public:
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
    class Reactor final : public grpc::ServerGenericBidiReactor {
     public:
      Reactor() { Finish(grpc::Status::OK); }
      void OnDone() override { delete this; }
    };
    peer = PeerOf(*context);
    return new Reactor;
  }
  std::optional<PeerIdentity> peer;
};

// One call from a client with `client` files to a server with `server` files over loopback.
grpc::Status Call(const TlsFiles& server_files, const TlsFiles& client_files,
                  std::optional<PeerIdentity>* peer = nullptr) {
  WhoService service;
  grpc::ServerBuilder builder;
  int port = 0;
  const auto server_credentials = MakeServerCredentials(kLoopback, {server_files, false});
  EXPECT_TRUE(server_credentials.ok()) << server_credentials.status();
  builder.AddListeningPort(kLoopback.ToString(), *server_credentials, &port);
  builder.RegisterCallbackGenericService(&service);
  const auto server = builder.BuildAndStart();
  Address target = kLoopback;
  target.port = static_cast<uint16_t>(port);
  const auto client_credentials = MakeChannelCredentials(target, {client_files, false});
  EXPECT_TRUE(client_credentials.ok()) << client_credentials.status();
  grpc::GenericStub stub(grpc::CreateChannel(target.ToString(), *client_credentials));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  grpc::ByteBuffer request;
  grpc::ByteBuffer response;
  grpc::CompletionQueue queue;
  auto call = stub.PrepareUnaryCall(&context, "/any.Service/Call", request, &queue);
  call->StartCall();
  grpc::Status status;
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  server->Shutdown();
  if (peer != nullptr) *peer = service.peer;
  return status;
}

class HandshakeTest : public testing::Test {
 protected:
  TestAuthority authority_{Dir(), "ours"};
  TestAuthority stranger_{Dir(), "strangers"};
  TlsFiles server_ = authority_.Issue("server", {"server", {"IP:127.0.0.1"}});
};

TEST_F(HandshakeTest, MutualTlsTellsWhoCalls) {
  const TlsFiles client =
      authority_.Issue("agent", {"agent-a", {"DNS:host-a.example", "URI:spiffe://lab/agent/host-a"}});
  std::optional<PeerIdentity> peer;
  const grpc::Status status = Call(server_, client, &peer);
  // The generic handler sends no message, which a unary client takes for an internal error: the call has arrived.
  ASSERT_TRUE(peer.has_value()) << status.error_message();
  EXPECT_TRUE(peer->authenticated);
  EXPECT_EQ(peer->common_name, "agent-a");
  EXPECT_THAT(peer->dns_names, testing::ElementsAre("host-a.example"));
  EXPECT_THAT(peer->uris, testing::ElementsAre("spiffe://lab/agent/host-a"));
  EXPECT_TRUE(peer->IsFor("host-a.example"));
  EXPECT_TRUE(peer->IsFor("spiffe://lab/agent/host-a"));
  EXPECT_FALSE(peer->IsFor("agent-a")) << "the common name does not count beside alternative names";
  EXPECT_FALSE(peer->IsFor("host-b.example"));
}

TEST_F(HandshakeTest, ClientsWithoutOurCertificateAreRefused) {
  std::optional<PeerIdentity> peer;
  const TlsFiles only_ca{"", "", authority_.ca_file()};
  EXPECT_EQ(Call(server_, only_ca, &peer).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_FALSE(peer.has_value());
  TlsFiles strange = stranger_.Issue("stranger", {"stranger", {}});
  strange.ca = authority_.ca_file();
  EXPECT_EQ(Call(server_, strange, &peer).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_FALSE(peer.has_value());
}

TEST_F(HandshakeTest, ServersOfOthersAreRefused) {
  std::optional<PeerIdentity> peer;
  TlsFiles client = authority_.Issue("client", {"client", {}});
  client.ca = stranger_.ca_file();
  EXPECT_EQ(Call(server_, client, &peer).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_FALSE(peer.has_value());
}

TEST_F(HandshakeTest, WithoutClientCertificatesNobodyIsAuthenticated) {
  TlsFiles one_way = server_;
  one_way.ca.clear();
  std::optional<PeerIdentity> peer;
  Call(one_way, {"", "", authority_.ca_file()}, &peer);
  ASSERT_TRUE(peer.has_value());
  EXPECT_FALSE(peer->authenticated);
  EXPECT_FALSE(peer->IsFor(""));
}

TEST(PeerIdentityTest, CommonNameCountsAlone) {
  PeerIdentity peer;
  peer.common_name = "host-a";
  EXPECT_FALSE(peer.IsFor("host-a"));
  peer.authenticated = true;
  EXPECT_TRUE(peer.IsFor("host-a"));
  EXPECT_FALSE(peer.IsFor(""));
}

}  // namespace
}  // namespace viommu
