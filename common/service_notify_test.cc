#include "common/service_notify.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace viommu {
namespace {

// Plays systemd: the socket that NOTIFY_SOCKET names (an abstract one: paths of tests may be too long for a sockaddr).
class ServiceNotifyTest : public testing::Test {
 protected:
  void SetUp() override {
    fd_ = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ASSERT_GE(fd_, 0);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    ASSERT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t)), 0);  // the kernel picks a name
    socklen_t size = sizeof(address);
    ASSERT_EQ(getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    const std::string name(address.sun_path + 1, size - sizeof(sa_family_t) - 1);
    setenv("NOTIFY_SOCKET", ("@" + name).c_str(), 1);
  }
  void TearDown() override {
    for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) unsetenv(name);
    close(fd_);
  }
  std::string Receive() const {
    char buffer[512];
    const ssize_t size = recv(fd_, buffer, sizeof(buffer), MSG_DONTWAIT);
    return size < 0 ? "nothing" : std::string(buffer, static_cast<size_t>(size));
  }

  int fd_ = -1;
};

TEST_F(ServiceNotifyTest, SpeaksTheProtocol) {
  NotifyReady("serving");
  EXPECT_EQ(Receive(), "READY=1\nSTATUS=serving");
  NotifyStatus("3 agents");
  EXPECT_EQ(Receive(), "STATUS=3 agents");
  NotifyWatchdog();
  EXPECT_EQ(Receive(), "WATCHDOG=1");
  NotifyStopping("draining");
  EXPECT_EQ(Receive(), "STOPPING=1\nSTATUS=draining");
}

TEST_F(ServiceNotifyTest, TextCannotSmuggleKeys) {
  NotifyStatus("error\nMAINPID=1");
  EXPECT_EQ(Receive(), "STATUS=error MAINPID=1");
}

TEST_F(ServiceNotifyTest, SilentWithoutSystemd) {
  unsetenv("NOTIFY_SOCKET");
  NotifyReady("serving");
  EXPECT_EQ(Receive(), "nothing");
}

TEST_F(ServiceNotifyTest, WatchdogIsForThisProcessOnly) {
  EXPECT_FALSE(WatchdogInterval().has_value());
  setenv("WATCHDOG_USEC", "30000000", 1);
  EXPECT_EQ(WatchdogInterval(), std::chrono::seconds(15));
  setenv("WATCHDOG_PID", "1", 1);
  EXPECT_FALSE(WatchdogInterval().has_value());
}

}  // namespace
}  // namespace viommu
