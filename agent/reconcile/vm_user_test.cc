// Whose a VM is: who may hand over memory of it, open its queues and read what its guest does.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <memory>
#include <optional>
#include <utility>

#include "agent/reconcile/reconciler_fixture.h"
#include "agent/reconcile/vm_memory.h"
#include "common/error.h"
#include "common/file_descriptor.h"

namespace viommu::agent {
namespace {

using testing::ElementsAre;

class VmUserTest : public ReconcilerTest {
 protected:
  static constexpr uid_t kFirst = 1001;
  static constexpr uid_t kOther = 1002;
  static constexpr VmMemory::User kRoot = std::nullopt;

  VmUserTest() {
    MakeVm();
    EXPECT_TRUE(Send({HwQueue("q", "v", 6)}).ok());
    EXPECT_THAT(Run(), ElementsAre("q@6 APPLIED"));
  }

  // Somebody's connection hands over a page that no other has.
  absl::Status Map(VmMemory::User user, VmMemory::Owner owner) {
    VmMemory::Range range;
    range.length = 0x1000;
    range.owner = owner;
    range.user = user;
    range.file = std::make_shared<const FileDescriptor>(::memfd_create("guest", MFD_CLOEXEC));
    return reconciler_->MapMemory("vm1", 0x50000000 + owner * 0x1000, std::move(range));
  }
  absl::Status OpenTheQueue(VmMemory::User user) {
    return reconciler_->OpenHwQueue(9, user, "viommus/v/hwQueues/0").status();
  }
  static v1::ErrorReason NotAuthorized() { return v1::ERROR_REASON_NOT_AUTHORIZED; }
};

TEST_F(VmUserTest, AVmIsItsUsersAcrossRestarts) {
  ASSERT_TRUE(Map(kFirst, 1).ok());
  for (int restart = 0; restart < 2; ++restart) {
    Start();
    Run();
    EXPECT_EQ(ReasonOf(Map(kOther, 2)), NotAuthorized());
    EXPECT_EQ(ReasonOf(OpenTheQueue(kOther)), NotAuthorized());
    EXPECT_EQ(ReasonOf(reconciler_->CheckReader(kOther, "viommus/v")), NotAuthorized());
    EXPECT_TRUE(OpenTheQueue(kRoot).ok());
    Connect();  // the journal is written anew
  }
  // Somebody trusted, who comes and goes, changes nothing.
  ASSERT_TRUE(Map(kRoot, 3).ok());
  reconciler_->ForgetOwner(3);
  EXPECT_EQ(ReasonOf(Map(kOther, 2)), NotAuthorized());
  ASSERT_TRUE(Map(kFirst, 1).ok());
  EXPECT_TRUE(OpenTheQueue(kFirst).ok());
  EXPECT_TRUE(reconciler_->CheckReader(kFirst, "viommus/v").ok());
  // It goes before the agent's eyes.
  reconciler_->ForgetOwner(1);
  EXPECT_TRUE(journal_->state().vm_users().empty());
  EXPECT_TRUE(Map(kOther, 2).ok());
  EXPECT_TRUE(OpenTheQueue(kOther).ok());
}

TEST_F(VmUserTest, WhatRootHasHandedOverIsNobodyElses) {
  ASSERT_TRUE(Map(kRoot, 1).ok());
  Start();
  EXPECT_EQ(ReasonOf(Map(kFirst, 2)), NotAuthorized());
  EXPECT_TRUE(Map(kRoot, 1).ok());
}

TEST_F(VmUserTest, AVmThatIsGoneIsNobodys) {
  ASSERT_TRUE(Map(kFirst, 1).ok());
  Start();
  Run();
  Connect(6);
  ASSERT_TRUE(Send({Deleting(HwQueue("q", "v", 6), 7), Deleting(Vdevice("d", "v", 7, 5), 8),
                    Deleting(Nested("n", "v", "n", 4), 9), Deleting(Viommu("v", "v", 3), 10)})
                  .ok());
  Run();
  EXPECT_EQ(last_["v"].outcome(), v1::OUTCOME_RELEASED);
  EXPECT_EQ(ReasonOf(Map(kOther, 2)), NotAuthorized()) << "its stage 2 is still to be";
  ASSERT_TRUE(Send({Deleting(Stage2("s", "s2", 2), 11)}).ok());
  Run();
  EXPECT_EQ(last_["s"].outcome(), v1::OUTCOME_RELEASED);
  EXPECT_EQ(backend_.contexts, 0);
  EXPECT_TRUE(journal_->state().vm_users().empty());
  EXPECT_TRUE(Map(kOther, 2).ok());
}

// A device that cannot be bound: nothing of the VM is there for a while.
TEST_F(VmUserTest, AVmThatCannotBeMadeIsStillItsUsers) {
  ASSERT_TRUE(Map(kFirst, 1).ok());
  Start();
  backend_.faults["BindDevice"] = {EBUSY};
  Run();
  EXPECT_EQ(backend_.contexts, 0);
  EXPECT_EQ(ReasonOf(Map(kOther, 2)), NotAuthorized());
}

TEST_F(VmUserTest, AnotherBootKnowsNoUsers) {
  ASSERT_TRUE(Map(kFirst, 1).ok());
  boot_id_ = "boot-2";
  Start();
  EXPECT_TRUE(journal_->state().vm_users().empty());
  EXPECT_TRUE(Map(kOther, 2).ok());
}

}  // namespace
}  // namespace viommu::agent
