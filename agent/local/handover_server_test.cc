#include "agent/local/handover_server.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/error.h"

namespace viommu::agent {
namespace {

FileDescriptor MemoryFile(const std::string& text) {
  FileDescriptor file(::memfd_create("test", MFD_CLOEXEC));
  EXPECT_EQ(::write(file.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  return file;
}

std::string Contents(int fd) {
  std::string text(64, '\0');
  const ssize_t length = ::pread(fd, text.data(), text.size(), 0);
  text.resize(length < 0 ? 0 : static_cast<size_t>(length));
  return text;
}

// Remembers what each connection has mapped.
class FakeHandler : public HandoverHandler {
 public:
  void Opened(Connection, const ucred& peer) override { EXPECT_EQ(peer.pid, ::getpid()); }
  absl::Status Map(Connection connection, const v1::MapMemory& request, FileDescriptor file) override {
    MutexLock lock(mu_);
    mapped_[connection].push_back(request.vm() + ":" + Contents(file.get()));
    return absl::OkStatus();
  }
  absl::StatusOr<uint64_t> Unmap(Connection, const v1::UnmapMemory& request) override {
    if (request.length() != 0) return request.length();
    return Error(absl::StatusCode::kNotFound, v1::ERROR_REASON_MEMORY_NOT_MAPPED).Message("nothing there");
  }
  absl::StatusOr<HwQueue> OpenHwQueue(Connection, const std::string& name) override {
    HwQueue queue;
    queue.handle.set_memory_length(4096);
    queue.registers = MemoryFile("registers of " + name);
    queue.memory = MemoryFile("memory of " + name);
    return queue;
  }
  absl::StatusOr<v1::ListGuestEventsResponse> ListGuestEvents(Connection,
                                                              const v1::ListGuestEventsRequest& request) override {
    v1::ListGuestEventsResponse events;
    events.add_events()->set_text("of " + request.viommu());
    return events;
  }
  void Closed(Connection connection) override {
    MutexLock lock(mu_);
    mapped_.erase(connection);
    ++closed_;
    changed_.NotifyAll();
  }

  std::vector<std::string> Mapped() {
    MutexLock lock(mu_);
    std::vector<std::string> all;
    for (const auto& [connection, ranges] : mapped_) all.insert(all.end(), ranges.begin(), ranges.end());
    return all;
  }
  void WaitForClosed(int count) {
    MutexLock lock(mu_);
    while (closed_ < count) changed_.Wait(mu_);
  }

 private:
  Mutex mu_;
  CondVar changed_;
  std::map<Connection, std::vector<std::string>> mapped_ ABSL_GUARDED_BY(mu_);
  int closed_ ABSL_GUARDED_BY(mu_) = 0;
};

class HandoverServerTest : public testing::Test {
 protected:
  HandoverServerTest() {
    char folder[] = "/tmp/handover-XXXXXX";
    folder_ = ::mkdtemp(folder);
    path_ = folder_ + "/s";
    Start();
  }
  ~HandoverServerTest() override {
    server_.reset();
    ::rmdir(folder_.c_str());
  }
  void Start(HandoverServer::Options options = {}) {
    server_.reset();
    auto server = HandoverServer::Start(path_, handler_, std::move(options));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  HandoverClient Connect() {
    auto client = HandoverClient::Connect(path_);
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }
  static v1::HandoverRequest Map(const std::string& vm) {
    v1::HandoverRequest request;
    request.mutable_map_memory()->set_vm(vm);
    return request;
  }

  absl::Status outcome_;
  std::string folder_;
  std::string path_;
  FakeHandler handler_;
  std::unique_ptr<HandoverServer> server_;
};

// A thread of root's can be somebody else's: the system call, unlike the library's, changes its caller alone.
TEST_F(HandoverServerTest, OnlyAllowedUsersConnect) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can be another user";
  constexpr uid_t kNobody = 65534;
  const auto call_as_nobody = [&] {
    ASSERT_EQ(::chmod(folder_.c_str(), 0711), 0);
    ASSERT_EQ(::chmod(path_.c_str(), 0666), 0);
    std::thread([&] {
      ASSERT_EQ(::syscall(SYS_setresuid, -1, kNobody, -1), 0);
      HandoverClient client = Connect();
      const FileDescriptor file = MemoryFile("ram");
      const int fd = file.get();
      outcome_ = client.Call(Map("vm1"), {&fd, 1}).status();
    }).join();
  };
  call_as_nobody();
  EXPECT_EQ(ReasonOf(outcome_), v1::ERROR_REASON_NOT_AUTHORIZED) << outcome_;
  EXPECT_TRUE(handler_.Mapped().empty());
  Start({.allowed_uids = {kNobody}});
  call_as_nobody();
  EXPECT_TRUE(outcome_.ok()) << outcome_;
}

TEST_F(HandoverServerTest, DescriptorsGoBothWays) {
  HandoverClient client = Connect();
  const FileDescriptor file = MemoryFile("ram");
  const int fd = file.get();
  ASSERT_TRUE(client.Call(Map("vm1"), {&fd, 1}).ok());
  EXPECT_EQ(handler_.Mapped(), std::vector<std::string>{"vm1:ram"});

  v1::HandoverRequest open;
  open.mutable_open_hw_queue()->set_name("q");
  const auto queue = client.Call(open);
  ASSERT_TRUE(queue.ok()) << queue.status();
  EXPECT_EQ(queue->response.hw_queue().memory_length(), 4096U);
  ASSERT_EQ(queue->descriptors.size(), 2U);
  EXPECT_EQ(Contents(queue->descriptors[0].get()), "registers of q");
  EXPECT_EQ(Contents(queue->descriptors[1].get()), "memory of q");

  v1::HandoverRequest list;
  list.mutable_list_guest_events()->set_viommu("v");
  const auto events = client.Call(list);
  ASSERT_TRUE(events.ok()) << events.status();
  EXPECT_EQ(events->response.guest_events().events(0).text(), "of v");
}

TEST_F(HandoverServerTest, ErrorsKeepTheirReasonAndTheConnection) {
  HandoverClient client = Connect();
  v1::HandoverRequest unmap;
  unmap.mutable_unmap_memory();
  EXPECT_EQ(ReasonOf(client.Call(unmap).status()), v1::ERROR_REASON_MEMORY_NOT_MAPPED);
  EXPECT_EQ(ReasonOf(client.Call(Map("vm1")).status()), v1::ERROR_REASON_INVALID_FIELD) << "without a descriptor";
  EXPECT_EQ(ReasonOf(client.Call(v1::HandoverRequest()).status()), v1::ERROR_REASON_INVALID_FIELD);
  const FileDescriptor file = MemoryFile("ram");
  const std::vector<int> three(3, file.get());
  EXPECT_EQ(ReasonOf(client.Call(unmap, three).status()), v1::ERROR_REASON_INVALID_FIELD);
  unmap.mutable_unmap_memory()->set_length(4096);
  const auto unmapped = client.Call(unmap);
  ASSERT_TRUE(unmapped.ok()) << unmapped.status();
  EXPECT_EQ(unmapped->response.unmapped_bytes(), 4096U);
  EXPECT_TRUE(handler_.Mapped().empty());
}

TEST_F(HandoverServerTest, WhatAConnectionHasGoesWithIt) {
  HandoverClient stays = Connect();
  const FileDescriptor file = MemoryFile("ram");
  const int fd = file.get();
  ASSERT_TRUE(stays.Call(Map("stays"), {&fd, 1}).ok());
  {
    HandoverClient goes = Connect();
    ASSERT_TRUE(goes.Call(Map("goes"), {&fd, 1}).ok());
  }
  handler_.WaitForClosed(1);
  EXPECT_EQ(handler_.Mapped(), std::vector<std::string>{"stays:ram"});
  server_.reset();
  handler_.WaitForClosed(2);
  EXPECT_FALSE(stays.Call(Map("late"), {&fd, 1}).ok());
}

// More than fit in a packet, or nothing that is a message, ends nothing and gives no descriptor away.
TEST_F(HandoverServerTest, NonsenseIsAnswered) {
  FileDescriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path_.c_str(), sizeof(address.sun_path) - 1);
  ASSERT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  for (const size_t size : {size_t{3}, kMaxPacketBytes + 1}) {
    const std::string bytes(size, '\xff');
    ASSERT_EQ(::send(socket.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    const auto answer = ReceivePacket(socket.get());
    ASSERT_TRUE(answer.ok() && answer->has_value());
    v1::HandoverResponse response;
    ASSERT_TRUE(response.ParseFromString((*answer)->bytes));
    EXPECT_EQ(response.status().code(), static_cast<int>(absl::StatusCode::kInvalidArgument));
  }
}

TEST_F(HandoverServerTest, APathIsTakenOverFromNobodyWhoListens) {
  const auto second = HandoverServer::Start(path_, handler_, {});
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status())) << second.status();
  Connect();
}

TEST_F(HandoverServerTest, ThereIsALimitOfConnections) {
  std::vector<HandoverClient> clients;
  for (size_t i = 0; i < HandoverServer::kMaxConnections; ++i) {
    clients.push_back(Connect());
    v1::HandoverRequest unmap;
    unmap.mutable_unmap_memory()->set_length(1);
    ASSERT_TRUE(clients.back().Call(unmap).ok()) << i;
  }
  HandoverClient refused = Connect();
  EXPECT_EQ(ReasonOf(refused.Call(Map("x")).status()), v1::ERROR_REASON_OVERLOADED);
}

}  // namespace
}  // namespace viommu::agent
