#include "agent/reconcile/reconciler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "agent/reconcile/reconciler_fixture.h"
#include "common/error.h"
#include "common/fake_clock.h"

namespace viommu::agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

TEST_F(ReconcilerTest, MakesThingsInTheOrderOfTheirDependencies) {
  Connect();
  ASSERT_TRUE(
      Send({Vdevice("d", "v", 7, 5, 0, "n"), Nested("n", "v", "n", 4), Viommu("v", "v", 3), Stage2("s", "s2", 2)})
          .ok());
  EXPECT_THAT(Run(), ElementsAre("d@5 APPLIED", "n@4 APPLIED", "s@2 APPLIED", "v@3 APPLIED"));
  EXPECT_THAT(backend_.log, ElementsAre("OpenContext", "BindDevice 0000:01:00.0", "AllocStage2", "AllocViommu s0",
                                        "AllocNested 0xb", "AllocVdevice 7", "Attach nested"));
  EXPECT_EQ(last_["v"].vmid(), 1u);
  EXPECT_EQ(acknowledged_, 2);
  EXPECT_FALSE(next_.has_value());
}

TEST_F(ReconcilerTest, WithoutADeviceThingsAreDormant) {
  Connect();
  ASSERT_TRUE(Send({Stage2("s", "s2", 2), Viommu("v", "v", 3), Nested("n", "v", "n", 4)}).ok());
  EXPECT_THAT(Run(), ElementsAre("n@4 DORMANT", "s@2 DORMANT", "v@3 DORMANT"));
  EXPECT_THAT(backend_.log, IsEmpty());
  EXPECT_EQ(ReasonOf(targets_->Acquire("viommus/v").status()), v1::ERROR_REASON_NOT_REALIZED);
  ASSERT_TRUE(Send({Vdevice("d", "v", 7, 5)}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@5 APPLIED", "n@4 APPLIED", "s@2 APPLIED", "v@3 APPLIED"));
  EXPECT_EQ(backend_.log.back(), "Attach stage2");
  EXPECT_TRUE(targets_->Acquire("viommus/v").ok());
  EXPECT_TRUE(targets_->Acquire("n").ok());
}

TEST_F(ReconcilerTest, OneContextAndStage2ServeTwoSmmus) {
  Connect();
  v1::Resource second = Vdevice("d1", "v1", 7, 6);
  second.mutable_vdevice()->set_device("hosts/h1/devices/0000:01:01.0");
  ASSERT_TRUE(Send({Stage2("s", "s2", 2), Viommu("v0", "v0", 3), Viommu("v1", "v1", 4, "s2", "s1"),
                    Vdevice("d0", "v0", 7, 5), second})
                  .ok());
  Run();
  EXPECT_EQ(backend_.contexts, 1);
  EXPECT_EQ(std::count(backend_.log.begin(), backend_.log.end(), "AllocStage2"), 1);
  EXPECT_EQ(reconciler_->Counts()["applied"], 5u);
}

TEST_F(ReconcilerTest, TearsDownInReverse) {
  MakeVm();
  ASSERT_TRUE(Send({Deleting(Stage2("s", "s2", 0), 10), Deleting(Viommu("v", "v", 0), 11),
                    Deleting(Nested("n", "v", "n", 0), 12), Deleting(Vdevice("d", "v", 7, 0, 0, "n"), 13)})
                  .ok());
  EXPECT_THAT(Run(), ElementsAre("d@13 RELEASED", "n@12 RELEASED", "s@10 RELEASED", "v@11 RELEASED"));
  EXPECT_THAT(backend_.log, ElementsAre("Detach", "Destroy vdevice", "UnbindDevice 0000:01:00.0", "Destroy nested",
                                        "Destroy viommu", "Destroy stage2", "CloseContext"));
  EXPECT_EQ(backend_.contexts, 0);
  EXPECT_TRUE(reconciler_->held().items().empty());
  EXPECT_EQ(ReasonOf(targets_->Acquire("viommus/v").status()), v1::ERROR_REASON_VIOMMU_NOT_FOUND);
}

TEST_F(ReconcilerTest, NothingGoesBeforeWhatStandsOnIt) {
  MakeVm();
  ASSERT_TRUE(Send({Deleting(Viommu("v", "v", 0), 10), Deleting(Stage2("s", "s2", 0), 11)}).ok());
  EXPECT_THAT(Run(), IsEmpty());
  EXPECT_THAT(backend_.log, IsEmpty());
  EXPECT_TRUE(targets_->Acquire("v").ok()) << "its devices still need their invalidations";
  ASSERT_TRUE(Send({Deleting(Vdevice("d", "v", 7, 0), 12), Deleting(Nested("n", "v", "n", 0), 13)}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@12 RELEASED", "n@13 RELEASED", "s@11 RELEASED", "v@10 RELEASED"));
}

TEST_F(ReconcilerTest, WhatStandsBelowStaysWithoutDevices) {
  MakeVm();
  ASSERT_TRUE(Send({Deleting(Vdevice("d", "v", 7, 0, 0, "n"), 10)}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@10 RELEASED"));
  EXPECT_THAT(backend_.log, ElementsAre("Detach", "Destroy vdevice", "UnbindDevice 0000:01:00.0"));
  EXPECT_EQ(backend_.vmids_in_use.size(), 1u);
  ASSERT_TRUE(Send({Nested("n2", "v", "n2", 11)}).ok());
  EXPECT_THAT(Run(), ElementsAre("n2@11 DORMANT"));
  ASSERT_TRUE(Send({Vdevice("e", "v", 7, 12, 0, "n2")}).ok());
  EXPECT_THAT(Run(), ElementsAre("e@12 APPLIED", "n2@11 APPLIED"));
}

TEST_F(ReconcilerTest, ARebindGoesAwayBeforeItComesBack) {
  MakeVm();
  ASSERT_TRUE(Send({Vdevice("d", "v", 9, 20, 0, "n")}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@20 APPLIED"));
  EXPECT_THAT(backend_.log, ElementsAre("Detach", "Destroy vdevice", "AllocVdevice 9", "Attach nested"));
}

TEST_F(ReconcilerTest, AFailedRebindIsToldAndTriedAgain) {
  MakeVm();
  backend_.faults["AllocVdevice"] = {EEXIST, EEXIST};
  ASSERT_TRUE(Send({Vdevice("d", "v", 9, 20, 0, "n")}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@20 FAILED BACKEND_FAILED"));
  EXPECT_EQ(last_["d"].reason().error_number(), EEXIST);
  EXPECT_THAT(backend_.log, ElementsAre("Detach", "Destroy vdevice"));
  clock_.Advance(milliseconds(500));
  EXPECT_THAT(Run(), IsEmpty()) << "the same failure is not told twice";
  clock_.Advance(seconds(1));
  EXPECT_THAT(Run(), ElementsAre("d@20 APPLIED"));
}

TEST_F(ReconcilerTest, TwoVdevicesCanSwapTheirVdevIds) {
  MakeVm();
  ASSERT_TRUE(Send({Vdevice("e", "v", 8, 6, 1)}).ok());
  Run();
  ASSERT_TRUE(Send({Vdevice("d", "v", 8, 20, 0, "n"), Vdevice("e", "v", 7, 21, 1)}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@20 APPLIED", "e@21 APPLIED"));
}

TEST_F(ReconcilerTest, AttachesToAnotherNestedDomainAndToNone) {
  MakeVm();
  ASSERT_TRUE(
      Send({Nested("n2", "v", "n2", 20), Vdevice("d", "v", 7, 21, 0, "n2"), Deleting(Nested("n", "v", "n", 0), 22)})
          .ok());
  EXPECT_THAT(Run(), ElementsAre("d@21 APPLIED", "n@22 RELEASED", "n2@20 APPLIED"));
  EXPECT_THAT(backend_.log, ElementsAre("AllocNested 0xb", "Attach nested", "Destroy nested"));
  backend_.log.clear();
  ASSERT_TRUE(Send({Vdevice("d", "v", 7, 23)}).ok());
  Run();
  EXPECT_THAT(backend_.log, ElementsAre("Attach stage2"));
}

TEST_F(ReconcilerTest, LateCommandsBringNothingBack) {
  MakeVm();
  ASSERT_TRUE(Send({Deleting(Vdevice("d", "v", 7, 0), 10)}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@10 RELEASED"));
  backend_.log.clear();
  // Late, for the same uid and for an older bearer of the name; a repeated deletion.
  ASSERT_TRUE(Send({Vdevice("d", "v", 7, 5, 0, "n"), Vdevice("old", "v", 7, 9)}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@5 FAILED BEING_DELETED", "old@9 FAILED BEING_DELETED"));
  ASSERT_TRUE(Send({Deleting(Vdevice("d", "v", 7, 0), 10)}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@10 RELEASED"));
  EXPECT_THAT(backend_.log, IsEmpty());
  // The name again, later.
  ASSERT_TRUE(Send({Vdevice("new", "v", 7, 11)}).ok());
  EXPECT_THAT(Run(), ElementsAre("new@11 APPLIED"));
  // Still so after a restart.
  Start();
  Connect();
  ASSERT_TRUE(Send({Vdevice("d", "v", 7, 5)}).ok());
  EXPECT_THAT(Results(), ElementsAre("d@5 FAILED BEING_DELETED"));
}

TEST_F(ReconcilerTest, ReorderedCommandsDoNotGoBack) {
  MakeVm();
  ASSERT_TRUE(Send({Vdevice("d", "v", 9, 20, 0, "n"), Vdevice("d", "v", 8, 19, 0, "n")}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@20 APPLIED"));
  ASSERT_TRUE(Send({Vdevice("d", "v", 8, 19, 0, "n")}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@20 APPLIED")) << "answered with what stands";
  EXPECT_EQ(reconciler_->held().Find("d")->resource.vdevice().vdev_id(), 9u);
}

TEST_F(ReconcilerTest, ARepeatedCommandIsAnsweredAgain) {
  MakeVm();
  ASSERT_TRUE(Send({Viommu("v", "v", 3)}).ok());
  EXPECT_THAT(Run(), ElementsAre("v@3 APPLIED"));
  EXPECT_EQ(acknowledged_, 3);
  EXPECT_THAT(backend_.log, IsEmpty());
}

TEST_F(ReconcilerTest, AnUnheldReleaseLeavesATombstone) {
  Connect();
  ASSERT_TRUE(Send({Deleting(Viommu("v", "v", 0), 9)}).ok());
  EXPECT_THAT(Run(), ElementsAre("v@9 RELEASED"));
  ASSERT_TRUE(Send({Viommu("v", "v", 8)}).ok());
  EXPECT_THAT(Run(), ElementsAre("v@8 FAILED BEING_DELETED"));
}

TEST_F(ReconcilerTest, RetriesWithGrowingBoundedWaits) {
  Connect();
  backend_.faults["BindDevice"] = std::deque<int>(20, EBUSY);
  ASSERT_TRUE(Send({Stage2("s", "s2", 2), Viommu("v", "v", 3), Vdevice("d", "v", 7, 5)}).ok());
  Run();
  std::vector<int64_t> waits_ms;
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(next_.has_value());
    const auto wait = *next_ - clock_.Monotonic();
    waits_ms.push_back(std::chrono::round<milliseconds>(wait).count());
    clock_.Advance(wait - std::chrono::nanoseconds(1));
    const auto left = backend_.faults["BindDevice"].size();
    Run();
    EXPECT_EQ(backend_.faults["BindDevice"].size(), left) << "not before its time";
    clock_.Advance(std::chrono::nanoseconds(1));
    Run();
    EXPECT_EQ(backend_.faults["BindDevice"].size(), left - 1);
  }
  EXPECT_THAT(waits_ms, ElementsAre(500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000, 30000));
  EXPECT_EQ(last_["d"].reason().error_number(), EBUSY);
  // A new generation does not wait.
  backend_.faults.clear();
  ASSERT_TRUE(Send({Vdevice("d", "v", 8, 6)}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@6 APPLIED", "s@2 APPLIED", "v@3 APPLIED"));
}

TEST_F(ReconcilerTest, ADeviceThatIsBoundElsewhereIsTakenOnceItIsFree) {
  Connect();
  // As Linux says it, which has the same number for arguments that will never do.
  backend_.faults["BindDevice"] = {EINVAL, EINVAL};
  ASSERT_TRUE(Send({Stage2("s", "s2", 2), Viommu("v", "v", 3), Vdevice("d", "v", 7, 5)}).ok());
  Run();
  EXPECT_EQ(last_["d"].outcome(), v1::OUTCOME_FAILED);
  EXPECT_EQ(last_["d"].reason().error_number(), EINVAL);
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(next_.has_value()) << "nobody would try again";
    clock_.Advance(*next_ - clock_.Monotonic());
    Run();
  }
  EXPECT_EQ(last_["d"].outcome(), v1::OUTCOME_APPLIED);
  EXPECT_EQ(last_["v"].outcome(), v1::OUTCOME_APPLIED);
}

TEST_F(ReconcilerTest, DependentsOfAFailureSaySoAndGoOnByThemselves) {
  Connect();
  backend_.vmids = 0;
  ASSERT_TRUE(
      Send({Stage2("s", "s2", 2), Viommu("v", "v", 3), Nested("n", "v", "n", 4), Vdevice("d", "v", 7, 5, 0, "n")})
          .ok());
  EXPECT_THAT(Run(), ElementsAre("d@5 FAILED DEPENDENCY_NOT_READY", "n@4 FAILED DEPENDENCY_NOT_READY", "s@2 APPLIED",
                                 "v@3 FAILED VMID_EXHAUSTED"));
  EXPECT_EQ(last_["v"].reason().error_number(), ENOSPC);
  backend_.vmids = 1;
  clock_.Advance(seconds(1));
  EXPECT_THAT(Run(), ElementsAre("d@5 APPLIED", "n@4 APPLIED", "v@3 APPLIED"));
}

TEST_F(ReconcilerTest, WhatIsNotThereYetIsWaitedForInSilence) {
  Connect();
  ASSERT_TRUE(Send({Vdevice("d", "v", 7, 5)}).ok());
  EXPECT_THAT(Run(), IsEmpty());
  EXPECT_EQ(reconciler_->Counts()["waiting"], 1u);
  ASSERT_TRUE(Send({Stage2("s", "s2", 2)}).ok());
  EXPECT_THAT(Run(), ElementsAre("s@2 DORMANT"));
  EXPECT_EQ(acknowledged_, 1) << "the vdevice's message has not been answered";
  ASSERT_TRUE(Send({Viommu("v", "v", 3)}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@5 APPLIED", "s@2 APPLIED", "v@3 APPLIED"));
  EXPECT_EQ(acknowledged_, 4);
}

TEST_F(ReconcilerTest, ADeviceIsHandedOverOnlyAfterItsRelease) {
  MakeVm();
  backend_.faults["UnbindDevice"] = {EIO};
  ASSERT_TRUE(Send({Deleting(Vdevice("d", "v", 7, 0, 0, "n"), 10), Stage2("s9", "s9", 11, "vm9"),
                    Viommu("v9", "v9", 12, "s9"), Vdevice("e", "v9", 7, 13)})
                  .ok());
  EXPECT_THAT(Run(), ElementsAre("d@10 FAILED BACKEND_FAILED", "e@13 FAILED DEPENDENCY_NOT_READY", "s9@11 DORMANT",
                                 "v9@12 DORMANT"));
  clock_.Advance(seconds(1));
  EXPECT_THAT(Run(), ElementsAre("d@10 RELEASED", "e@13 APPLIED", "s9@11 APPLIED", "v9@12 APPLIED"));
  EXPECT_EQ(backend_.contexts, 2);
}

TEST_F(ReconcilerTest, AFailedReleaseIsNeverToldAsReleased) {
  MakeVm();
  backend_.faults["Destroy"] = {EBUSY, EBUSY};
  ASSERT_TRUE(Send({Deleting(Vdevice("d", "v", 7, 0, 0, "n"), 10)}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@10 FAILED BACKEND_FAILED"));
  EXPECT_EQ(reconciler_->Counts()["releasing"], 1u);
  clock_.Advance(milliseconds(500));
  EXPECT_THAT(Run(), IsEmpty());
  EXPECT_NE(reconciler_->held().Find("d"), nullptr);
  clock_.Advance(seconds(1));
  EXPECT_THAT(Run(), ElementsAre("d@10 RELEASED"));
  EXPECT_EQ(std::count(backend_.log.begin(), backend_.log.end(), "Detach"), 1);
}

TEST_F(ReconcilerTest, OrphansAreTornDownFromTheJournal) {
  MakeVm();
  ASSERT_TRUE(Send({}, {"d", "n", "v", "s", "never-held"}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@5 RELEASED", "n@4 RELEASED", "s@2 RELEASED", "v@3 RELEASED"));
  EXPECT_EQ(backend_.contexts, 0);
}

TEST_F(ReconcilerTest, ARestartAppliesFromTheJournalWithoutAServer) {
  MakeVm();
  Start();
  EXPECT_TRUE(reconciler_->believes());
  EXPECT_THAT(Run(), IsEmpty()) << "there is no session to tell";
  EXPECT_EQ(reconciler_->Counts()["applied"], 4u);
  EXPECT_THAT(backend_.log, ElementsAre("OpenContext", "BindDevice 0000:01:00.0", "AllocStage2", "AllocViommu s0",
                                        "AllocNested 0xb", "AllocVdevice 7", "Attach nested"));
  v1::Hello hello;
  reconciler_->FillHello(hello);
  ASSERT_EQ(hello.held_size(), 4);
  EXPECT_TRUE(hello.held(0).settled());
  EXPECT_EQ(hello.cluster_id(), "cluster");
  // Everything is told again: the server may have lost it.
  ASSERT_TRUE(reconciler_->BeginSession(Welcome()).ok());
  EXPECT_THAT(Results(), ElementsAre("d@5 APPLIED", "n@4 APPLIED", "s@2 APPLIED", "v@3 APPLIED"));
}

TEST_F(ReconcilerTest, AReleaseThatARestartInterruptedIsToldLater) {
  MakeVm();
  ASSERT_TRUE(Send({Deleting(Vdevice("d", "v", 7, 0, 0, "n"), 10)}).ok());
  Start();
  Run();
  Connect();
  ASSERT_TRUE(Send({Deleting(Vdevice("d", "v", 7, 0, 0, "n"), 10)}).ok());
  EXPECT_THAT(Results(), testing::Contains("d@10 RELEASED"));
}

TEST_F(ReconcilerTest, AfterARebootNothingOldIsBelieved) {
  MakeVm();
  boot_id_ = "boot-2";
  Start();
  EXPECT_FALSE(reconciler_->believes());
  Run();
  EXPECT_THAT(backend_.log, IsEmpty());
  v1::Hello hello;
  reconciler_->FillHello(hello);
  for (const auto& held : hello.held()) EXPECT_FALSE(held.settled());
  // Also not after another start without a server.
  Start();
  Run();
  EXPECT_THAT(backend_.log, IsEmpty());
  // The server takes the device back before the mark.
  ASSERT_TRUE(reconciler_->BeginSession(Welcome()).ok());
  nonce_ = 0;
  ASSERT_TRUE(Send({Deleting(Vdevice("d", "v", 7, 0, 0, "n"), 30)}).ok());
  EXPECT_THAT(Run(), IsEmpty());
  EXPECT_THAT(backend_.log, IsEmpty());
  v1::Desired mark;
  mark.set_sync_mark(true);
  mark.set_revision(30);
  ASSERT_TRUE(Send(mark).ok());
  EXPECT_THAT(Run(), ElementsAre("d@30 RELEASED", "n@4 DORMANT", "s@2 DORMANT", "v@3 DORMANT"));
  EXPECT_THAT(backend_.log, IsEmpty()) << "nothing of the old boot was touched or made again";
}

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

// With a backend that keeps contexts.
class KeptContextTest : public ReconcilerTest {
 protected:
  KeptContextTest() {
    backend_.keeps_contexts = true;
    MakeVm();
  }

  VmMemory::Range Memory(uint64_t length = 0x10000) {
    VmMemory::Range range;
    range.length = length;
    range.owner = 1;
    range.file = file_;
    return range;
  }
  ObjectId IdOf(const std::string& uid) const {
    return static_cast<ObjectId>(journal_->state().kept().at("vm1").objects.at(uid).id());
  }

  std::shared_ptr<const FileDescriptor> file_ =
      std::make_shared<const FileDescriptor>(::memfd_create("guest", MFD_CLOEXEC));
};

TEST_F(KeptContextTest, ARestartFindsEverythingAsItWas) {
  const ObjectId viommu = IdOf("v");
  Start();
  EXPECT_THAT(backend_.log, ElementsAre("AdoptContext"));
  EXPECT_EQ(targets_->Acquire("v")->object().id, viommu) << "invalidations need not wait for anything";
  EXPECT_TRUE(targets_->HasVdevId("v", 7));
  Connect(5);
  Run();
  EXPECT_EQ(last_["d"].outcome(), v1::OUTCOME_APPLIED);
  EXPECT_THAT(backend_.log, ElementsAre("AdoptContext")) << "nothing is made anew";
  // And it is the VM's as before: what changes, and what goes.
  ASSERT_TRUE(Send({Vdevice("d", "v", 8, 6, 0, "n")}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@6 APPLIED"));
  EXPECT_THAT(backend_.log,
              ElementsAre("AdoptContext", "Detach", "Destroy vdevice", "AllocVdevice 8", "Attach nested"));
  backend_.log.clear();
  Start();
  EXPECT_THAT(backend_.log, ElementsAre("AdoptContext"));
  Connect(6);
  ASSERT_TRUE(Send({Deleting(Vdevice("d", "v", 8, 6), 7), Deleting(Nested("n", "v", "n", 4), 8),
                    Deleting(Viommu("v", "v", 3), 9), Deleting(Stage2("s", "s2", 2), 10)})
                  .ok());
  Run();
  EXPECT_EQ(backend_.contexts, 0);
  EXPECT_TRUE(journal_->state().kept().empty());
  Start();
  EXPECT_THAT(backend_.log, IsEmpty());
}

TEST_F(KeptContextTest, WhatAChangeWasUnderWayInIsMadeAnew) {
  journal::Record record;
  record.mutable_kept()->set_vm("vm1");
  record.mutable_kept()->set_changing("ATTACH_IOMMUFD_PT");
  ASSERT_TRUE(journal_->Append(record, Journal::Sync::kNo).ok());
  Start();
  EXPECT_THAT(backend_.log, ElementsAre("CloseContext"));
  EXPECT_FALSE(targets_->Acquire("v").ok());
  Run();
  EXPECT_TRUE(targets_->Acquire("v").ok());
  EXPECT_EQ(journal_->state().kept().at("vm1").objects.size(), 4u);
}

TEST_F(KeptContextTest, WhatIsNotThereIsMadeAnew) {
  reconciler_.reset();
  ASSERT_EQ(backend_.left.size(), 1u);
  backend_.left.begin()->second.objects_.erase(IdOf("n"));
  Start();
  EXPECT_THAT(backend_.log, ElementsAre("CloseContext"));
  Run();
  EXPECT_EQ(backend_.contexts, 1);
  reconciler_.reset();
  backend_.left.clear();
  backend_.bound.clear();
  Start();
  EXPECT_THAT(backend_.log, IsEmpty());
  Run();
  EXPECT_TRUE(targets_->Acquire("v").ok());
}

TEST_F(KeptContextTest, AFailedChangeLeavesNoDoubt) {
  backend_.faults["Attach"] = {EIO};
  ASSERT_TRUE(Send({Vdevice("d", "v", 7, 6)}).ok());
  Run();
  EXPECT_EQ(last_["d"].outcome(), v1::OUTCOME_FAILED);
  Start();
  EXPECT_THAT(backend_.log, ElementsAre("AdoptContext"));
}

TEST_F(KeptContextTest, NothingOfAnotherBootIsBelieved) {
  reconciler_.reset();
  boot_id_ = "boot-2";
  Start();
  EXPECT_THAT(backend_.log, ElementsAre("CloseContext"));
  EXPECT_TRUE(journal_->state().kept().empty());
}

TEST_F(KeptContextTest, MemoryStaysMappedUntilItsOwnerIsBack) {
  ASSERT_TRUE(reconciler_->MapMemory("vm1", 0x40000000, Memory()).ok());
  ASSERT_TRUE(reconciler_->MapMemory("vm1", 0x50000000, Memory()).ok());
  EXPECT_THAT(reconciler_->UnclaimedBytes(), IsEmpty());
  Start();
  EXPECT_THAT(reconciler_->UnclaimedBytes(), ElementsAre(Pair("vm1", 0x20000)));
  ASSERT_TRUE(reconciler_->MapMemory("vm1", 0x40000000, Memory()).ok());
  EXPECT_THAT(backend_.log, ElementsAre("AdoptContext")) << "the same memory is not mapped again";
  EXPECT_THAT(reconciler_->UnclaimedBytes(), ElementsAre(Pair("vm1", 0x10000)));
  // Something else where memory was: of another VMM, say.
  file_ = std::make_shared<const FileDescriptor>(::memfd_create("other", MFD_CLOEXEC));
  ASSERT_TRUE(reconciler_->MapMemory("vm1", 0x50001000, Memory(0x1000)).ok());
  EXPECT_THAT(backend_.log, ElementsAre("AdoptContext", "UnmapIoas 0x50000000", "MapIoas 0x50001000"));
  EXPECT_THAT(reconciler_->UnclaimedBytes(), IsEmpty());
  // What was handed over again is its new owner's, and goes with him.
  backend_.log.clear();
  reconciler_->ForgetOwner(1);
  EXPECT_THAT(backend_.log, ElementsAre("UnmapIoas 0x40000000", "UnmapIoas 0x50001000"));
  EXPECT_TRUE(journal_->state().kept().at("vm1").ranges.empty());
}

TEST_F(ReconcilerTest, ObeysOneClusterStoreAndRisingEpochs) {
  ASSERT_TRUE(reconciler_->BeginSession(Welcome(5)).ok());
  Start();
  EXPECT_EQ(ReasonOf(reconciler_->BeginSession(Welcome(4))), v1::ERROR_REASON_STALE_EPOCH);
  v1::Welcome welcome = Welcome(6);
  welcome.set_cluster_id("other");
  EXPECT_EQ(ReasonOf(reconciler_->BeginSession(welcome)), v1::ERROR_REASON_CLUSTER_MISMATCH);
  welcome = Welcome(6);
  welcome.set_store_incarnation("restored");
  EXPECT_EQ(ReasonOf(reconciler_->BeginSession(welcome)), v1::ERROR_REASON_STORE_INCARNATION_MISMATCH);
  EXPECT_FALSE(Send({Viommu("v", "v", 3)}).ok()) << "a refused server is not obeyed";
  ASSERT_TRUE(reconciler_->BeginSession(Welcome(6)).ok());
  v1::Desired desired;
  desired.set_epoch(5);
  EXPECT_EQ(ReasonOf(reconciler_->Accept(desired)), v1::ERROR_REASON_STALE_EPOCH);
}

// The server runs on an older copy of its store: what it does not know it would have torn down.
TEST_F(ReconcilerTest, DoesNotObeyAServerThatKnowsLessThanItHasSaid) {
  Connect(200);
  v1::Hello hello;
  reconciler_->FillHello(hello);
  EXPECT_EQ(hello.revision(), 200);
  EXPECT_EQ(hello.start_id(), "start-1");
  Start();
  v1::Welcome welcome = Welcome(2);
  welcome.set_revision(199);
  EXPECT_EQ(ReasonOf(reconciler_->BeginSession(welcome)), v1::ERROR_REASON_STORE_OUT_OF_DATE);
  hello.Clear();
  reconciler_->FillHello(hello);
  EXPECT_EQ(hello.epoch(), 1) << "it was not obeyed";
  EXPECT_EQ(hello.start_id(), "start-1");
  welcome.set_revision(200);
  EXPECT_TRUE(reconciler_->BeginSession(welcome).ok());
}

// What it was told last may be a release: once that is done nothing of it is held, and it is proof all the same.
TEST_F(ReconcilerTest, AReleaseProvesAnOlderCopyToo) {
  Connect(10);
  ASSERT_TRUE(Send({Stage2("s", "s2", 5)}).ok());
  Run();
  ASSERT_TRUE(Send({Deleting(Stage2("s", "s2", 5), 300)}).ok());
  EXPECT_THAT(Run(), ElementsAre("s@300 RELEASED"));
  Start();
  v1::Hello hello;
  reconciler_->FillHello(hello);
  EXPECT_EQ(hello.revision(), 300);
  EXPECT_EQ(hello.released_generation(), 300);
  EXPECT_EQ(hello.held_size(), 0);
  v1::Welcome welcome = Welcome(2);
  welcome.set_revision(299);
  EXPECT_EQ(ReasonOf(reconciler_->BeginSession(welcome)), v1::ERROR_REASON_STORE_OUT_OF_DATE);
}

TEST_F(ReconcilerTest, RefusesAnotherHostsJournal) {
  Reconciler::Options options;
  options.host = "hosts/h2";
  const auto other = Reconciler::Open(*journal_, backend_, *targets_, {}, options);
  EXPECT_EQ(other.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(other.status().message().find("--host h1"), std::string::npos) << other.status();
}

TEST_F(ReconcilerTest, RefusesWhatCanNotBe) {
  MakeVm();
  EXPECT_EQ(ReasonOf(Send({Viommu("", "v", 3)})), v1::ERROR_REASON_PROTOCOL_VIOLATION);
  EXPECT_EQ(ReasonOf(Send({Viommu("x", "x", 0)})), v1::ERROR_REASON_PROTOCOL_VIOLATION);
  v1::Resource host;
  host.mutable_host()->set_uid("h");
  EXPECT_EQ(ReasonOf(Send({host})), v1::ERROR_REASON_PROTOCOL_VIOLATION);
  ASSERT_TRUE(Send({Viommu("v", "w", 30)}).ok());
  EXPECT_THAT(Run(), ElementsAre("v@30 FAILED PROTOCOL_VIOLATION"));
  ASSERT_TRUE(Send({Nested("v", "v", "v", 31)}).ok());
  EXPECT_THAT(Run(), ElementsAre("v@31 FAILED PROTOCOL_VIOLATION"));
  EXPECT_EQ(reconciler_->held().Find("v")->generation(), 3);
}

TEST_F(ReconcilerTest, WorksInBoundedPortions) {
  Connect();
  ASSERT_TRUE(Send({Stage2("s", "s2", 2), Viommu("v", "v", 3), Vdevice("d0", "v", 1, 5, 0), Vdevice("d1", "v", 2, 6, 1),
                    Vdevice("d2", "v", 3, 7, 2)})
                  .ok());
  int portions = 1;
  for (; reconciler_->Run(2) == clock_.Monotonic(); ++portions)
    ASSERT_LE(backend_.log.size(), 4u * static_cast<size_t>(portions));
  EXPECT_GT(portions, 3);
  EXPECT_EQ(reconciler_->Counts()["applied"], 5u);
}

TEST_F(ReconcilerTest, ListsByNameInPages) {
  MakeVm();
  const auto first = reconciler_->List({}, 3);
  ASSERT_EQ(first.size(), 3u);
  EXPECT_EQ(first[0].resource().stage2_domain().name(), "stage2Domains/s2");
  EXPECT_EQ(first[1].resource().viommu().name(), "viommus/v");
  EXPECT_EQ(first[2].resource().nested_domain().name(), "viommus/v/nestedDomains/n");
  const auto rest = reconciler_->List({"viommus/v/nestedDomains/n", "n"}, 3);
  ASSERT_EQ(rest.size(), 1u);
  EXPECT_EQ(rest[0].outcome(), v1::HeldObject::OUTCOME_APPLIED);
  EXPECT_TRUE(rest[0].kernel_ids().contains("vdevice"));
}

// Whatever fails, wherever: in the end everything is as it should be, and then everything is gone.
TEST_F(ReconcilerTest, EveryFaultIsSurvived) {
  for (const char* call : {"OpenContext", "BindDevice", "AllocIoas", "AllocStage2", "AllocViommu", "AllocVdevice",
                           "AllocNested", "Attach", "Detach", "Destroy", "UnbindDevice"}) {
    for (int nth = 0; nth < 4; ++nth) {
      SCOPED_TRACE(fmt::format("{} {}", call, nth));
      std::string path = testing::TempDir() + "/reconciler-XXXXXX";
      directory_ = ::mkdtemp(path.data());
      Start();
      Connect();
      backend_.faults = {{call, std::deque<int>(static_cast<size_t>(nth), 0)}};
      backend_.faults[call].push_back(EIO);
      ASSERT_TRUE(Send({Vdevice("d", "v", 7, 5, 0, "n"), Vdevice("e", "v", 8, 6, 1), Nested("n", "v", "n", 4),
                        Viommu("v", "v", 3), Stage2("s", "s2", 2)})
                      .ok());
      Run();
      clock_.Advance(seconds(60));
      Run();
      EXPECT_EQ(reconciler_->Counts()["applied"], 5u);
      ASSERT_TRUE(Send({Deleting(Stage2("s", "s2", 0), 10), Deleting(Viommu("v", "v", 0), 11),
                        Deleting(Nested("n", "v", "n", 0), 12), Deleting(Vdevice("d", "v", 7, 0, 0, "n"), 13),
                        Deleting(Vdevice("e", "v", 8, 0, 1), 14)})
                      .ok());
      Run();
      clock_.Advance(seconds(60));
      Run();
      EXPECT_TRUE(reconciler_->held().items().empty());
      EXPECT_EQ(backend_.contexts, 0);
      EXPECT_TRUE(backend_.bound.empty());
      EXPECT_TRUE(backend_.vmids_in_use.empty());
    }
  }
}

// The work for a host grows with what it holds, not with its square; and a portion is short whatever there is to do.
TEST_F(ReconcilerTest, TheWorkForManyIsTheirNumber) {
  constexpr int kVdevices = 16384;  // docs/limits.md
  constexpr int kPerViommu = 16;
  constexpr int kPortion = 64;
  const auto work_off = [&] {
    uint64_t longest = 0;
    for (bool more = true; more;) {
      const uint64_t before = reconciler_->looks();
      more = reconciler_->Run(kPortion) == clock_.Monotonic();
      longest = std::max(longest, reconciler_->looks() - before);
    }
    EXPECT_LE(longest, kPortion * Reconciler::kLooksPerChange);
  };
  backend_.vmids = 65535;
  Connect();
  std::vector<v1::Resource> items;
  int64_t generation = 1;
  items.push_back(Stage2("s", "s2", ++generation));
  for (int i = 0; i < kVdevices; ++i) {
    const std::string viommu = fmt::format("v{}", i / kPerViommu);
    if (i % kPerViommu == 0) items.push_back(Viommu(viommu, viommu, ++generation));
    items.push_back(Vdevice(fmt::format("d{}", i), viommu, static_cast<uint64_t>(i), ++generation, i));
  }
  ASSERT_TRUE(Send(items).ok());
  work_off();
  EXPECT_EQ(reconciler_->Counts().at("applied"), items.size());
  EXPECT_LE(reconciler_->looks(), 8u * items.size());

  std::vector<v1::Resource> gone;
  for (const auto& item : items) gone.push_back(Deleting(item, ++generation));
  ASSERT_TRUE(Send(gone).ok());
  const uint64_t before = reconciler_->looks();
  work_off();
  EXPECT_TRUE(reconciler_->held().items().empty());
  EXPECT_LE(reconciler_->looks() - before, 8u * items.size());
  EXPECT_TRUE(backend_.bound.empty());
}

// A backend that refuses everything does not keep callers waiting for one long portion of failures.
TEST_F(ReconcilerTest, FailuresEndAPortion) {
  constexpr int kVdevices = 200;
  Connect();
  std::vector<v1::Resource> items = {Stage2("s", "s2", 2), Viommu("v", "v", 3)};
  for (int i = 0; i < kVdevices; ++i) {
    items.push_back(Vdevice(fmt::format("d{}", i), "v", static_cast<uint64_t>(i), 4 + i, i));
  }
  backend_.faults["BindDevice"] = std::deque<int>(kVdevices, EBUSY);
  backend_.faults["BindDevice"][0] = 0;  // with it the VM's context is open
  ASSERT_TRUE(Send(items).ok());
  EXPECT_EQ(reconciler_->Run(10), clock_.Monotonic()) << "there is more to do";
  EXPECT_EQ(backend_.faults["BindDevice"].size(), kVdevices - 1 - 10 * Reconciler::kAttemptsPerChange);
  EXPECT_EQ(reconciler_->Run(10), clock_.Monotonic());
  EXPECT_EQ(backend_.faults["BindDevice"].size(), kVdevices - 1 - 20 * Reconciler::kAttemptsPerChange)
      << "it goes on where it was";
}

// Commands that come between any two portions do not keep what comes last from being done.
TEST_F(ReconcilerTest, CommandsWithoutEndDoNotKeepTheLastFromBeingDone) {
  constexpr int kWaiting = 200;
  MakeVm();
  std::vector<v1::Resource> items;
  for (int i = 0; i < kWaiting; ++i) items.push_back(Vdevice(fmt::format("w{}", i), "nowhere", 1000 + i, 100 + i, i));
  items.push_back(Nested("n2", "v", "n2", 90));
  ASSERT_TRUE(Send(items).ok());
  int64_t generation = 1000;
  const auto is_made = [&] {
    for (const auto& object : reconciler_->List({}, 1000)) {
      if (object.resource().nested_domain().uid() == "n2") return object.outcome() == v1::HeldObject::OUTCOME_APPLIED;
    }
    return false;
  };
  int portions = 0;
  for (; !is_made() && portions < 100; ++portions) {
    reconciler_->Run(1);
    ASSERT_TRUE(Send({Vdevice(fmt::format("w{}", portions), "nowhere", 5000 + portions, ++generation, portions)}).ok());
  }
  EXPECT_LT(portions, 100);
}

// As the kernel would: it attaches whole groups.
TEST_F(ReconcilerTest, DevicesOfOneGroupAreAttachedToOneThing) {
  backend_.group_size = 2;
  Start();
  MakeVm(Bypassing(Nested("n", "v", "n", 4)));
  ASSERT_TRUE(Send({Vdevice("e", "v", 8, 10, 1)}).ok());
  EXPECT_THAT(Run(), ElementsAre("e@10 FAILED DEPENDENCY_NOT_READY")) << "it is to be on the stage 2, d is nested";
  EXPECT_NE(last_["e"].reason().message().find("viommus/v/vdevices/7"), std::string::npos);
  EXPECT_EQ(backend_.HeldDevices().at("0000:01:00.0").attached_to, "nested");

  // One after the other, as calls come: the first one waits for the second.
  ASSERT_TRUE(Send({Vdevice("e", "v", 8, 11, 1, "n")}).ok());
  EXPECT_THAT(Run(), ElementsAre("e@11 APPLIED"));
  ASSERT_TRUE(Send({Vdevice("d", "v", 7, 12)}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@12 FAILED DEPENDENCY_NOT_READY"));
  ASSERT_TRUE(Send({Vdevice("e", "v", 8, 13, 1)}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@12 APPLIED", "e@13 APPLIED"));

  // What is on its way out has no say.
  ASSERT_TRUE(Send({Deleting(Vdevice("e", "v", 8, 13, 1), 14), Vdevice("d", "v", 7, 15, 0, "n")}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@15 APPLIED", "e@14 RELEASED"));

  // In another viommu there is the stage 2 for both of them, if it is one for both.
  ASSERT_TRUE(Send({Viommu("w", "w", 16), Vdevice("f", "w", 9, 17, 1)}).ok());
  EXPECT_THAT(Run(), ElementsAre("f@17 FAILED DEPENDENCY_NOT_READY", "w@16 APPLIED"));
  EXPECT_NE(last_["f"].reason().message().find("set both in one"), std::string::npos);
  ASSERT_TRUE(Send({Vdevice("d", "v", 7, 18)}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@18 APPLIED", "f@17 APPLIED"));
}

TEST_F(ReconcilerTest, AGuestsStage1NeedsAVdeviceOfEachDeviceOfAGroup) {
  backend_.group_size = 2;
  Start();
  Connect();
  ASSERT_TRUE(
      Send({Vdevice("d", "v", 7, 5, 0, "n"), Nested("n", "v", "n", 4), Viommu("v", "v", 3), Stage2("s", "s2", 2)})
          .ok());
  EXPECT_THAT(Run(), Contains("d@5 FAILED DEPENDENCY_NOT_READY"));
  EXPECT_NE(last_["d"].reason().message().find("set one of 0000:01:00.1 in viommus/v"), std::string::npos);
  ASSERT_TRUE(Send({Vdevice("e", "v", 8, 10, 1, "n")}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@5 APPLIED", "e@10 APPLIED"));
  EXPECT_EQ(backend_.HeldDevices().at("0000:01:00.0").attached_to, "nested");

  // Whichever comes first after a restart waits for the other one, and nobody hears of it.
  Start();
  Connect();
  EXPECT_THAT(Run(), testing::Not(Contains(testing::HasSubstr("FAILED"))));
  EXPECT_EQ(backend_.HeldDevices().at("0000:01:00.0").attached_to, "nested");
  EXPECT_EQ(backend_.HeldDevices().at("0000:01:00.1").attached_to, "nested");
}

// A host that was declared dead comes back with the VM that had the group before.
TEST_F(ReconcilerTest, AGroupGoesToAnotherVmWhenTheFirstHasLetGo) {
  backend_.group_size = 2;
  Start();
  MakeVm(Bypassing(Nested("n", "v", "n", 4)));
  v1::Resource other = Stage2("t", "t2", 10);
  other.mutable_stage2_domain()->set_vm("vm2");
  backend_.faults["UnbindDevice"] = {EIO};
  ASSERT_TRUE(Send({Deleting(Vdevice("d", "v", 7, 0, 0, "n"), 9), other, Viommu("w", "w", 11, "t2"),
                    Vdevice("e", "w", 8, 12, 1)})
                  .ok());
  EXPECT_THAT(Run(), Contains("e@12 FAILED DEPENDENCY_NOT_READY"));
  EXPECT_EQ(backend_.refused_for_group, 0);
  clock_.Advance(seconds(60));
  EXPECT_THAT(Run(), Contains("e@12 APPLIED"));
}

TEST_F(ReconcilerTest, DevicesOfOneGroupAreNotAttachedToTwoStage2s) {
  backend_.group_size = 2;
  Start();
  Connect();
  ASSERT_TRUE(Send({Stage2("s", "s2", 2), Viommu("v", "v", 3), Vdevice("d", "v", 7, 4), Stage2("t", "t2", 5),
                    Viommu("w", "w", 6, "t2")})
                  .ok());
  Run();
  ASSERT_TRUE(Send({Vdevice("e", "w", 8, 7, 1)}).ok());
  EXPECT_THAT(Run(), Contains("e@7 FAILED DEPENDENCY_NOT_READY"));
}

}  // namespace
}  // namespace viommu::agent
