#include "agent/systemd_fd_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "common/file_descriptor.h"

namespace viommu::agent {
namespace {

struct Message {
  std::string text;
  std::vector<FileDescriptor> descriptors;
};

// Plays systemd.
class SystemdFdStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    socket_ = FileDescriptor(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    ASSERT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t)), 0);
    socklen_t size = sizeof(address);
    ASSERT_EQ(::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    const std::string name(address.sun_path + 1, size - sizeof(sa_family_t) - 1);
    ::setenv("NOTIFY_SOCKET", ("@" + name).c_str(), 1);
  }
  void TearDown() override {
    for (const char* name : {"NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}) ::unsetenv(name);
  }

  Message Receive() const {
    std::array<char, 512> text = {};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(4 * sizeof(int))> control = {};
    iovec part{text.data(), text.size()};
    msghdr header = {};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    const ssize_t bytes = ::recvmsg(socket_.get(), &header, MSG_CMSG_CLOEXEC);
    Message message{.text = std::string(text.data(), bytes < 0 ? 0 : static_cast<size_t>(bytes)), .descriptors = {}};
    for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
      if (c->cmsg_type != SCM_RIGHTS) continue;
      for (size_t at = 0; CMSG_LEN(at) < c->cmsg_len; at += sizeof(int)) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(c) + at, sizeof(fd));
        message.descriptors.emplace_back(fd);
      }
    }
    return message;
  }

  FileDescriptor socket_;
};

TEST_F(SystemdFdStoreTest, KeepsAFileUnderItsName) {
  const auto store = OpenSystemdFdStore();
  ASSERT_NE(store, nullptr);
  std::array<int, 2> pipe = {};
  ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
  const FileDescriptor in(pipe[0]);
  FileDescriptor out(pipe[1]);
  store->Add("iommufd.k", out.get());
  const Message message = Receive();
  EXPECT_EQ(message.text, "FDSTORE=1\nFDNAME=iommufd.k\nFDPOLL=0");
  ASSERT_EQ(message.descriptors.size(), 1u);
  out = FileDescriptor();
  EXPECT_EQ(::write(message.descriptors[0].get(), "x", 1), 1) << "the same file";
}

TEST_F(SystemdFdStoreTest, RemovingWaitsUntilItIsDone) {
  const auto store = OpenSystemdFdStore();
  std::thread systemd([this] {
    EXPECT_EQ(Receive().text, "FDSTOREREMOVE=1\nFDNAME=vfio.k.0000-01-00.0");
    const Message barrier = Receive();
    EXPECT_EQ(barrier.text, "BARRIER=1");
    EXPECT_EQ(barrier.descriptors.size(), 1u);  // closed here, which ends the wait
  });
  store->Remove("vfio.k.0000-01-00.0");
  systemd.join();
}

TEST_F(SystemdFdStoreTest, WithoutSystemdThereIsNone) {
  ::unsetenv("NOTIFY_SOCKET");
  EXPECT_EQ(OpenSystemdFdStore(), nullptr);
}

TEST_F(SystemdFdStoreTest, NothingWasLeft) { EXPECT_TRUE(OpenSystemdFdStore()->Take().empty()); }

}  // namespace
}  // namespace viommu::agent
