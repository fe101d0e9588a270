#include "agent/local/vmms.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <map>
#include <string>

#include "common/fake_clock.h"

namespace viommu::agent {
namespace {

class VmmsTest : public testing::Test {
 protected:
  v1::VmmStatus Of(const std::string& vm) const {
    for (const v1::VmmStatus& status : vmms_.List()) {
      if (status.vm() == vm) return status;
    }
    return {};
  }

  FakeClock clock_;
  std::map<pid_t, uint64_t> starts_ = {{10, 100}, {11, 110}};
  Vmms vmms_{clock_, [this](pid_t pid) { return starts_[pid]; }};
};

TEST_F(VmmsTest, AVmmIsKnownFromItsFirstMemoryOn) {
  vmms_.Opened(1, 10);
  EXPECT_TRUE(vmms_.List().empty());
  vmms_.Mapped(1, "blue", 0x1000);
  vmms_.Mapped(1, "blue", 0x3000);
  vmms_.Unmapped(1, "blue", 0x1000);
  EXPECT_EQ(Of("blue").state(), v1::VMM_STATE_CONNECTED);
  EXPECT_EQ(Of("blue").pid(), 10);
  EXPECT_EQ(Of("blue").mapped_bytes(), 0x3000u);
  EXPECT_EQ(Of("blue").restarts(), 0u);
  EXPECT_EQ(vmms_.connected(), 1u);
}

TEST_F(VmmsTest, ThatItIsGoneIsSaidWithSinceWhen) {
  vmms_.Opened(1, 10);
  vmms_.Mapped(1, "blue", 0x1000);
  clock_.Advance(std::chrono::seconds(90));
  const auto before = Of("blue").since().seconds();
  vmms_.Closed(1);
  EXPECT_EQ(Of("blue").state(), v1::VMM_STATE_GONE);
  EXPECT_EQ(Of("blue").mapped_bytes(), 0u);
  EXPECT_EQ(Of("blue").since().seconds(), before + 90);
  EXPECT_EQ(vmms_.connected(), 0u);
}

TEST_F(VmmsTest, AnotherProcessIsARestartAndTheSameOneIsNot) {
  vmms_.Opened(1, 10);
  vmms_.Mapped(1, "blue", 0x1000);
  vmms_.Closed(1);
  vmms_.Opened(2, 10);
  vmms_.Mapped(2, "blue", 0x1000);
  EXPECT_EQ(vmms_.restarts(), 0u) << "it has connected again";
  vmms_.Closed(2);
  vmms_.Opened(3, 11);
  vmms_.Mapped(3, "blue", 0x1000);
  EXPECT_EQ(Of("blue").restarts(), 1u);
  EXPECT_EQ(Of("blue").pid(), 11);
  vmms_.Closed(3);
  starts_[11] = 999;  // the pid was given to another process
  vmms_.Opened(4, 11);
  vmms_.Mapped(4, "blue", 0x1000);
  EXPECT_EQ(Of("blue").restarts(), 2u);
  EXPECT_EQ(vmms_.restarts(), 2u);
}

TEST_F(VmmsTest, OneOfTwoProcessesOfAVmEnds) {
  vmms_.Opened(1, 10);
  vmms_.Mapped(1, "blue", 0x1000);
  vmms_.Opened(2, 11);
  vmms_.Mapped(2, "blue", 0x2000);
  EXPECT_EQ(Of("blue").mapped_bytes(), 0x3000u);
  vmms_.Closed(1);
  EXPECT_EQ(Of("blue").state(), v1::VMM_STATE_CONNECTED);
  EXPECT_EQ(Of("blue").mapped_bytes(), 0x2000u);
  EXPECT_EQ(vmms_.restarts(), 0u);
}

TEST_F(VmmsTest, WhoIsGoneLongestIsForgotten) {
  for (uint64_t i = 0; i <= Vmms::kMaxGone; ++i) {
    clock_.Advance(std::chrono::seconds(1));
    vmms_.Opened(i, 10);
    vmms_.Mapped(i, "vm" + std::to_string(i), 0x1000);
    vmms_.Closed(i);
  }
  EXPECT_EQ(vmms_.List().size(), Vmms::kMaxGone);
  EXPECT_EQ(Of("vm0").vm(), "");
  EXPECT_EQ(Of("vm1").vm(), "vm1");
}

TEST(VmmsProcTest, AProcessHasATimeOfItsStart) {
  EXPECT_NE(Vmms::StartFromProc(getpid()), 0u);
  EXPECT_EQ(Vmms::StartFromProc(getpid()), Vmms::StartFromProc(getpid()));
  EXPECT_EQ(Vmms::StartFromProc(-1), 0u);
}

}  // namespace
}  // namespace viommu::agent
