#include "agent/smmuv3/vintf/page.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

namespace viommu::smmuv3 {
namespace {

using cmdqv::QueueRegister;

TEST(VintfPageTest, BothSidesSeeTheSameWords) {
  const std::shared_ptr<VintfPage> hardware = VintfPage::Create();
  ASSERT_NE(hardware, nullptr);
  const std::shared_ptr<VintfPage> producer = VintfPage::Map(hardware->fd(), 0, cmdqv::kPageBytes);
  ASSERT_NE(producer, nullptr);
  EXPECT_EQ(producer->fd(), -1);
  producer->Store(1, QueueRegister::kProd, 5);
  EXPECT_EQ(hardware->Load(0x84), 5u);
  hardware->StoreRelease(127, QueueRegister::kCons, 7);
  EXPECT_EQ(producer->Load(127 * 0x80), 7u);
  EXPECT_EQ(producer->Load(0, QueueRegister::kProd), 0u);
}

TEST(VintfPageTest, OutlivesTheDescriptorThatItWasMappedFrom) {
  std::shared_ptr<VintfPage> hardware = VintfPage::Create();
  const std::shared_ptr<VintfPage> producer = VintfPage::Map(hardware->fd(), 0, cmdqv::kPageBytes);
  producer->Store(0, QueueRegister::kProd, 3);
  hardware.reset();
  EXPECT_EQ(producer->Load(0, QueueRegister::kProd), 3u);
}

TEST(VintfPageTest, MapsNothingButAPage) {
  const std::shared_ptr<VintfPage> hardware = VintfPage::Create();
  EXPECT_EQ(VintfPage::Map(hardware->fd(), 0, 2 * cmdqv::kPageBytes), nullptr);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(VintfPage::Map(-1, 0, cmdqv::kPageBytes), nullptr);
  EXPECT_EQ(errno, EBADF);
}

TEST(VintfPageTest, ItsSizeIsSealed) {
  const std::shared_ptr<VintfPage> hardware = VintfPage::Create();
  EXPECT_EQ(ftruncate(hardware->fd(), 0), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(fcntl(hardware->fd(), F_ADD_SEALS, F_SEAL_WRITE), -1);
  EXPECT_EQ(errno, EPERM);
}

TEST(VintfPageTest, WakesWhoSleepsOnTheWakeWord) {
  const std::shared_ptr<VintfPage> hardware = VintfPage::Create();
  const std::shared_ptr<VintfPage> producer = VintfPage::Map(hardware->fd(), 0, cmdqv::kPageBytes);
  hardware->Store(cmdqv::kWakeWordOffset, cmdqv::kWakeWordSleeping);
  std::thread sleeper([&] {
    while (hardware->Load(cmdqv::kWakeWordOffset) == cmdqv::kWakeWordSleeping) {
      syscall(SYS_futex, hardware->wake_word(), FUTEX_WAIT, cmdqv::kWakeWordSleeping, nullptr, nullptr, 0);
    }
  });
  producer->WakeHardware();
  sleeper.join();
  EXPECT_EQ(hardware->Load(cmdqv::kWakeWordOffset), cmdqv::kWakeWordAwake);
  // Nobody sleeps: nothing changes.
  producer->WakeHardware();
  EXPECT_EQ(hardware->Load(cmdqv::kWakeWordOffset), cmdqv::kWakeWordAwake);
}

TEST(VintfPageTest, LeavesRealHardwareAlone) {
  // A page without the magic, where the wake word would be something else.
  const int fd = memfd_create("page", MFD_CLOEXEC);
  ASSERT_EQ(ftruncate(fd, cmdqv::kPageBytes), 0);
  const std::shared_ptr<VintfPage> page = VintfPage::Map(fd, 0, cmdqv::kPageBytes);
  close(fd);
  page->Store(cmdqv::kWakeWordOffset, cmdqv::kWakeWordSleeping);
  page->WakeHardware();
  EXPECT_EQ(page->Load(cmdqv::kWakeWordOffset), cmdqv::kWakeWordSleeping);
}

TEST(VintfPageDeathTest, KnowsItsWords) {
  const std::shared_ptr<VintfPage> page = VintfPage::Create();
  EXPECT_DEATH(page->Store(2, 1), "");
  EXPECT_DEATH(static_cast<void>(page->Load(cmdqv::kPageBytes)), "");
}

}  // namespace
}  // namespace viommu::smmuv3
