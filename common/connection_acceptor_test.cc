#include "common/connection_acceptor.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netdb.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "common/log.h"
#include "common/sanitizers.h"

namespace viommu {
namespace {

using testing::HasSubstr;

// Plays gRPC: says "x" to whoever it is given, and keeps the connection.
class ConnectionAcceptorTest : public testing::Test {
 protected:
  ~ConnectionAcceptorTest() override { InitLogging({}); }

  Address Listen(ConnectionAcceptor& acceptor, const std::string& address) {
    const auto bound = acceptor.Listen(ParseAddress(address).value(), [this](FileDescriptor connection) {
      MutexLock lock(mu_);
      connections_.push_back(std::move(connection));
      // Who looked whether somebody listens has gone again.
      static_cast<void>(::send(connections_.back().get(), "x", 1, MSG_NOSIGNAL));
    });
    EXPECT_TRUE(bound.ok()) << bound.status();
    return bound.value_or(Address());
  }

  void EndOne() {
    MutexLock lock(mu_);
    connections_.pop_back();
  }

  static FileDescriptor Connect(const Address& address) {
    if (address.reach == AddressReach::kUnix) {
      sockaddr_un path = {};
      path.sun_family = AF_UNIX;
      address.path.copy(path.sun_path, sizeof(path.sun_path) - 1);
      FileDescriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
      return Connected(std::move(socket), reinterpret_cast<const sockaddr*>(&path), sizeof(path));
    }
    addrinfo* found = nullptr;
    addrinfo hints = {};
    hints.ai_socktype = SOCK_STREAM;
    EXPECT_EQ(::getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found), 0);
    const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, ::freeaddrinfo);
    FileDescriptor socket(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    return Connected(std::move(socket), found->ai_addr, found->ai_addrlen);
  }
  static FileDescriptor Connected(FileDescriptor socket, const sockaddr* address, unsigned size) {
    EXPECT_EQ(::connect(socket.get(), address, size), 0) << std::strerror(errno);
    return socket;
  }
  // Waits for what becomes of it.
  static bool Served(const FileDescriptor& client) {
    char byte = 0;
    return ::recv(client.get(), &byte, 1, 0) == 1;
  }

  Mutex mu_;
  CondVar changed_;
  std::vector<FileDescriptor> connections_ ABSL_GUARDED_BY(mu_);
  std::string log_ ABSL_GUARDED_BY(mu_);
};

TEST_F(ConnectionAcceptorTest, BeyondTheLimitConnectionsAreClosedUntilOneEnds) {
  ConnectionAcceptor acceptor(2);
  const Address address = Listen(acceptor, "127.0.0.1:0");
  const FileDescriptor before = Connect(address);  // waits for the start
  acceptor.Start();
  EXPECT_TRUE(Served(before));
  const FileDescriptor second = Connect(address);
  EXPECT_TRUE(Served(second));
  EXPECT_EQ(acceptor.connections(), 2U);
  EXPECT_FALSE(Served(Connect(address)));
  EXPECT_EQ(acceptor.refused(), 1U);

  EndOne();
  EXPECT_EQ(acceptor.connections(), 1U);
  FileDescriptor next;
  do {
    next = Connect(address);
  } while (!Served(next));
  EXPECT_FALSE(Served(Connect(address)));
}

TEST_F(ConnectionAcceptorTest, OneThatEndsUnderAttackMakesRoom) {
  ConnectionAcceptor acceptor(1);
  const Address address = Listen(acceptor, "127.0.0.1:0");
  acceptor.Start();
  EXPECT_TRUE(Served(Connect(address)));
  EXPECT_FALSE(Served(Connect(address)));
  EndOne();
  // Nobody asks how many there are.
  FileDescriptor next;
  do {
    next = Connect(address);
  } while (!Served(next));
}

TEST_F(ConnectionAcceptorTest, ADescriptorThatIsSomethingElseNowIsNoConnection) {
  ConnectionAcceptor acceptor(2);
  const Address address = Listen(acceptor, "127.0.0.1:0");
  acceptor.Start();
  const FileDescriptor client = Connect(address);
  EXPECT_TRUE(Served(client));
  const FileDescriptor other(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  {
    MutexLock lock(mu_);
    ASSERT_GE(::dup2(other.get(), connections_.back().get()), 0);
  }
  EXPECT_EQ(acceptor.connections(), 0U);
}

TEST_F(ConnectionAcceptorTest, WithoutFreeDescriptorsItWaitsAndGoesOn) {
#ifdef VIOMMU_ADDRESS_SANITIZER
  GTEST_SKIP()
      << "the sanitizer for undefined behaviour looks at memory through a pipe, and takes it for bad without one";
#endif
  InitLogging({.writer = [this](std::string_view line) {
    MutexLock lock(mu_);
    log_ += line;
    changed_.NotifyAll();
  }});
  ConnectionAcceptor acceptor(10);
  const Address address = Listen(acceptor, "127.0.0.1:0");
  acceptor.Start();
  const FileDescriptor client = Connect(address);
  EXPECT_TRUE(Served(client));

  FileDescriptor waiting(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage server = {};
  socklen_t size = sizeof(server);
  ASSERT_EQ(::getpeername(client.get(), reinterpret_cast<sockaddr*>(&server), &size), 0);
  rlimit limit = {};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  rlimit none = limit;
  none.rlim_cur = static_cast<rlim_t>(FileDescriptor(::dup(client.get())).get());  // the lowest that is free
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  waiting = Connected(std::move(waiting), reinterpret_cast<const sockaddr*>(&server), size);
  {
    MutexLock lock(mu_);
    while (log_.find("cannot accept connections") == std::string::npos) changed_.Wait(mu_);
    EXPECT_THAT(log_, HasSubstr(address.ToString()));
  }
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_TRUE(Served(waiting));
  EXPECT_EQ(acceptor.connections(), 2U);
}

TEST_F(ConnectionAcceptorTest, EveryFormOfAddress) {
  ConnectionAcceptor acceptor(10);
  const Address name = Listen(acceptor, "localhost:0");
  const Address everywhere = Listen(acceptor, "0.0.0.0:0");
  acceptor.Start();
  for (const auto& [host, port] : {std::pair("localhost", name.port), std::pair("127.0.0.1", everywhere.port)}) {
    const Address address = ParseAddress(fmt::format("{}:{}", host, port)).value();
    EXPECT_TRUE(Served(Connect(address))) << address.ToString();
  }
  if (FileDescriptor(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0)).valid()) {
    EXPECT_TRUE(Served(Connect(ParseAddress(fmt::format("[::1]:{}", everywhere.port)).value())));
  }
}

TEST_F(ConnectionAcceptorTest, AnAddressThatIsTakenIsNamed) {
  ConnectionAcceptor acceptor(10);
  const Address address = Listen(acceptor, "127.0.0.1:0");
  ConnectionAcceptor other(10);
  const absl::Status status = other.Listen(address, nullptr).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(address.ToString()));
  EXPECT_TRUE(absl::IsUnavailable(other.Listen(ParseAddress("nowhere.invalid:0").value(), nullptr).status()));
}

TEST_F(ConnectionAcceptorTest, AUnixSocketIsTakenFromNobodyAndGoesAtTheEnd) {
  // Short: a socket's path holds 107 bytes.
  std::string folder = "/tmp/viommu-XXXXXX";
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  const std::string path = folder + "/socket";
  {
    ConnectionAcceptor acceptor(10);
    const Address address = Listen(acceptor, "unix:" + path);
    acceptor.Start();
    EXPECT_TRUE(Served(Connect(address)));
    ConnectionAcceptor other(10);
    EXPECT_TRUE(absl::IsFailedPrecondition(other.Listen(address, nullptr).status()));
    EXPECT_TRUE(Served(Connect(address)));
    acceptor.Stop();
    EXPECT_FALSE(std::filesystem::exists(path));
    EXPECT_TRUE(other.Listen(address, nullptr).ok());
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace viommu
