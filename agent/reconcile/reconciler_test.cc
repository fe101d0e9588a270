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

#include "agent/reconcile/fake_backend.h"
#include "agent/reconcile/testing.h"
#include "common/error.h"
#include "common/fake_clock.h"

namespace viommu::agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::IsEmpty;

class ReconcilerTest : public testing::Test {
 protected:
  ReconcilerTest() {
    std::string path = testing::TempDir() + "/reconciler-XXXXXX";
    directory_ = ::mkdtemp(path.data());
    Start();
  }

  // A process begins; the objects of the one before are gone with it.
  void Start() {
    reconciler_.reset();
    journal_.reset();
    targets_ = std::make_unique<Targets>();
    backend_.log.clear();
    auto journal = Journal::Open(PosixFileSystem(), directory_, {});
    ASSERT_TRUE(journal.ok()) << journal.status();
    journal_ = *std::move(journal);
    Reconciler::Options options;
    options.host = "hosts/h1";
    options.boot_id = boot_id_;
    options.clock = &clock_;
    options.random = [] { return 1.0 - 1e-9; };
    auto adopted = AdoptKept(journal_->state(), backend_, boot_id_);
    auto reconciler = Reconciler::Open(*journal_, backend_, *targets_, backend_.Discover().value(), std::move(options),
                                       std::move(adopted));
    ASSERT_TRUE(reconciler.ok()) << reconciler.status();
    reconciler_ = *std::move(reconciler);
  }

  v1::Welcome Welcome(int64_t epoch = 1) {
    v1::Welcome welcome;
    welcome.set_cluster_id("cluster");
    welcome.set_store_incarnation("store");
    welcome.set_epoch(epoch);
    welcome.set_start_id("start-" + std::to_string(epoch));
    welcome.set_revision(1000);
    return welcome;
  }

  // A session that is in sync.
  void Connect(int64_t revision = 1) {
    ASSERT_TRUE(reconciler_->BeginSession(Welcome()).ok());
    nonce_ = 0;
    v1::Desired desired;
    desired.set_sync_mark(true);
    desired.set_revision(revision);
    ASSERT_TRUE(Send(desired).ok());
  }

  absl::Status Send(v1::Desired desired) {
    desired.set_nonce(++nonce_);
    desired.set_epoch(1);
    return reconciler_->Accept(desired);
  }
  absl::Status Send(const std::vector<v1::Resource>& items, const std::vector<std::string>& unknown = {}) {
    v1::Desired desired;
    for (const auto& item : items) *desired.add_items() = item;
    for (const auto& uid : unknown) desired.add_unknown_uids(uid);
    return Send(desired);
  }

  // Works off what is due. "uid@generation OUTCOME [REASON]" of each result.
  std::vector<std::string> Run() {
    next_ = reconciler_->Run(1000);
    return Results();
  }
  std::vector<std::string> Results() {
    v1::Results results;
    std::vector<std::string> lines;
    while (reconciler_->TakeResults(1000, results)) {
      for (const auto& r : results.items()) {
        std::string line = fmt::format("{}@{} {}", r.uid(), r.generation(), v1::Outcome_Name(r.outcome()).substr(8));
        if (!r.reason().reason().empty()) line += " " + r.reason().reason();
        lines.push_back(line);
        last_[r.uid()] = r;
      }
      acknowledged_ = results.nonce();
    }
    return lines;
  }

  // A VM with one device attached to a nested domain.
  void MakeVm() {
    Connect();
    ASSERT_TRUE(
        Send({Vdevice("d", "v", 7, 5, 0, "n"), Nested("n", "v", "n", 4), Viommu("v", "v", 3), Stage2("s", "s2", 2)})
            .ok());
    ASSERT_THAT(Run(), ElementsAre("d@5 APPLIED", "n@4 APPLIED", "s@2 APPLIED", "v@3 APPLIED"));
    backend_.log.clear();
  }

  std::string directory_;
  std::string boot_id_ = "boot-1";
  FakeClock clock_;
  FakeBackend backend_;
  std::unique_ptr<Targets> targets_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<Reconciler> reconciler_;
  std::optional<MonotonicTime> next_;
  std::map<std::string, v1::ItemResult> last_;
  int64_t nonce_ = 0;
  int64_t acknowledged_ = 0;
};

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
  Start();
  ASSERT_TRUE(reconciler_->MapMemory("vm1", 0x40000000, Memory()).ok());
  EXPECT_THAT(backend_.log, ElementsAre("AdoptContext")) << "the same memory is not mapped again";
  // Something else where memory was: of another VMM, say.
  file_ = std::make_shared<const FileDescriptor>(::memfd_create("other", MFD_CLOEXEC));
  ASSERT_TRUE(reconciler_->MapMemory("vm1", 0x50001000, Memory(0x1000)).ok());
  EXPECT_THAT(backend_.log, ElementsAre("AdoptContext", "UnmapIoas 0x50000000", "MapIoas 0x50001000"));
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
  ASSERT_TRUE(Send({Viommu("v", "v", 30, "s2", "s1")}).ok());
  EXPECT_THAT(Run(), ElementsAre("v@30 FAILED PROTOCOL_VIOLATION"));
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

// The backend attaches whole groups, as the kernel does.
TEST_F(ReconcilerTest, DevicesOfOneGroupAreAttachedToOneThing) {
  backend_.one_group = true;
  Start();
  MakeVm();
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
}

// ---- Drift: what happens at the backend behind the agent's back.

class DriftTest : public ReconcilerTest {
 protected:
  DriftTest() { MakeVm(); }

  // "uid PRESENCE [field=actual]" of each, and "stray: …".
  std::vector<std::string> Inspect(bool repair = false, const std::string& after = "", int max = 1000) {
    v1::InspectCall call;
    call.set_call_id(9);
    call.set_after_uid(after);
    call.set_max_items(max);
    call.set_repair(repair);
    reply_.Clear();
    reconciler_->Inspect(call, reply_);
    EXPECT_EQ(reply_.call_id(), 9);
    std::vector<std::string> lines;
    for (const auto& item : reply_.items()) {
      std::string line = UidOf(item.believed()) + " " + v1::Presence_Name(item.presence()).substr(9);
      for (const auto& [field, actual] : item.actual()) line += fmt::format(" {}={}", field, actual);
      lines.push_back(line);
    }
    for (const auto& stray : reply_.strays()) lines.push_back("stray: " + stray);
    return lines;
  }
  // Of a resource's own object, or of a vdevice's device.
  ObjectId IdOf(const std::string& uid, const std::string& kind) {
    for (const auto& object : reconciler_->List({}, 1000)) {
      if (UidOf(object.resource()) == uid) return object.kernel_ids().at(kind);
    }
    ADD_FAILURE() << uid << " is not held";
    return 0;
  }
  Context& context() { return backend_.OpenedContext(0); }
  std::vector<std::string> AsBelieved() { return {"d AS_BELIEVED", "n AS_BELIEVED", "s AS_BELIEVED", "v AS_BELIEVED"}; }
  void ExpectMended() {
    Run();
    EXPECT_EQ(Inspect(), AsBelieved());
    EXPECT_EQ(reconciler_->Counts()["applied"], 4u);
    const auto held = backend_.HeldDevices();
    ASSERT_TRUE(held.contains("0000:01:00.0"));
    EXPECT_EQ(held.at("0000:01:00.0").attached_to, "nested");
    EXPECT_EQ(held.at("0000:01:00.0").virt_id, 7u);
    for (const std::string kind : {"stage2", "viommu", "nested", "vdevice"})
      EXPECT_EQ(backend_.Count(kind), 1u) << kind;
    EXPECT_TRUE(targets_->Acquire("viommus/v").ok());
    EXPECT_TRUE(targets_->HasVdevId("v", 7));
  }

  v1::InspectReply reply_;
};

TEST_F(DriftTest, ThereIsNoneWhereNothingHasHappened) {
  EXPECT_EQ(Inspect(), AsBelieved());
  EXPECT_EQ(reply_.items(0).outcome(), v1::OUTCOME_APPLIED);
  EXPECT_FALSE(reply_.more());
  const auto counts = reconciler_->CountDrift();
  EXPECT_EQ(counts.missing + counts.different + counts.strays + counts.unknown, 0u);
  backend_.log.clear();
  EXPECT_EQ(Inspect(/*repair=*/true), AsBelieved());
  EXPECT_THAT(Run(), IsEmpty());
  EXPECT_THAT(backend_.log, IsEmpty()) << "a repair of what is right changes nothing";
}

TEST_F(DriftTest, PagesGoByUid) {
  EXPECT_THAT(Inspect(false, "", 3), ElementsAre("d AS_BELIEVED", "n AS_BELIEVED", "s AS_BELIEVED"));
  EXPECT_TRUE(reply_.more());
  EXPECT_THAT(Inspect(false, "s", 3), ElementsAre("v AS_BELIEVED"));
  EXPECT_FALSE(reply_.more());
  EXPECT_THAT(Inspect(false, "", 0), ElementsAre("d AS_BELIEVED")) << "at least one, or nobody gets on";
}

TEST_F(DriftTest, WhatWaitsIsNotExpected) {
  ASSERT_TRUE(Send({Viommu("w", "w", 9, "s2", "s1"), Vdevice("x", "gone", 3, 10, 1)}).ok());
  Run();
  EXPECT_THAT(Inspect(), testing::IsSupersetOf({"w NOT_EXPECTED", "x NOT_EXPECTED"}));
}

TEST_F(DriftTest, ADetachedDeviceIsAttachedAgain) {
  ASSERT_TRUE(context().Detach(IdOf("d", "device")).ok());
  EXPECT_THAT(Inspect(),
              ElementsAre("d DIFFERENT nested_domain=nothing", "n AS_BELIEVED", "s AS_BELIEVED", "v AS_BELIEVED"));
  EXPECT_EQ(reconciler_->CountDrift().different, 1u);
  Run();
  EXPECT_EQ(reconciler_->CountDrift().different, 1u) << "nothing is mended unasked";
  Inspect(/*repair=*/true);
  ExpectMended();
}

TEST_F(DriftTest, ADeviceAttachedElsewhereIsSaidToBe) {
  ASSERT_TRUE(context().Attach(IdOf("d", "device"), IdOf("s", "stage2")).ok());
  EXPECT_EQ(Inspect(/*repair=*/true).front(), "d DIFFERENT nested_domain=stage2Domains/s2");
  ExpectMended();
}

TEST_F(DriftTest, AMissingVdeviceIsMadeAnew) {
  ASSERT_TRUE(context().Detach(IdOf("d", "device")).ok());
  ASSERT_TRUE(context().Destroy(IdOf("d", "vdevice")).ok());
  EXPECT_THAT(Inspect(/*repair=*/true), ElementsAre("d MISSING", "n AS_BELIEVED", "s AS_BELIEVED", "v AS_BELIEVED"));
  ExpectMended();
}

TEST_F(DriftTest, EverythingOfAVmIsMadeAnew) {
  const ObjectId stage2 = IdOf("s", "stage2"), viommu = IdOf("v", "viommu"), nested = IdOf("n", "nested");
  const ObjectId vdevice = IdOf("d", "vdevice");
  ASSERT_TRUE(context().Detach(IdOf("d", "device")).ok());
  for (const ObjectId id : {vdevice, nested, viommu, stage2}) ASSERT_TRUE(context().Destroy(id).ok());
  ASSERT_TRUE(context().UnbindDevice("0000:01:00.0").ok());
  EXPECT_EQ(reconciler_->CountDrift().missing, 4u);
  // Item by item, as a server with small pages asks.
  EXPECT_THAT(Inspect(true, "", 1), ElementsAre("d MISSING"));
  Run();
  Inspect(true, "d", 1);
  Run();
  Inspect(true, "n", 1);
  Run();
  Inspect(true, "s");
  clock_.Advance(seconds(60));  // the vdevice has failed on the way, for want of its viommu
  ExpectMended();
}

TEST_F(DriftTest, AnotherObjectUnderAKnownIdIsNotOurs) {
  const ObjectId nested = IdOf("n", "nested");
  ASSERT_TRUE(context().Attach(IdOf("d", "device"), IdOf("s", "stage2")).ok());
  ASSERT_TRUE(context().Destroy(nested).ok());
  ASSERT_EQ(context().AllocIoas().value(), nested) << "the lowest free id is used again";
  EXPECT_THAT(Inspect(/*repair=*/true),
              ElementsAre("d DIFFERENT nested_domain=stage2Domains/s2", "n MISSING", "s AS_BELIEVED", "v AS_BELIEVED",
                          fmt::format("stray: IOAS {} in the context of vm1", nested)));
  ExpectMended();
}

// The simulation has found it: two viommus on one stage 2, and the one was given the id of the other.
TEST_F(DriftTest, AnIdIsWhoseItWasGivenToLast) {
  backend_.faults["AllocViommu"] = {EIO};
  ASSERT_TRUE(Send({Viommu("w", "w", 9), Vdevice("e", "w", 8, 10, 1)}).ok());
  Run();
  const ObjectId viommu = IdOf("v", "viommu");
  ASSERT_TRUE(context().Detach(IdOf("d", "device")).ok());
  for (const ObjectId id : {IdOf("d", "vdevice"), IdOf("n", "nested"), viommu}) ASSERT_TRUE(context().Destroy(id).ok());
  clock_.Advance(seconds(60));
  Run();
  ASSERT_EQ(IdOf("w", "viommu"), viommu);
  EXPECT_THAT(Inspect(/*repair=*/true),
              ElementsAre("d MISSING", "e AS_BELIEVED", "n MISSING", "s AS_BELIEVED", "v MISSING", "w AS_BELIEVED"));
  Run();
  EXPECT_THAT(Inspect(), ElementsAre("d AS_BELIEVED", "e AS_BELIEVED", "n AS_BELIEVED", "s AS_BELIEVED",
                                     "v AS_BELIEVED", "w AS_BELIEVED"));
  EXPECT_EQ(backend_.Count("viommu"), 2u);
}

// No resource is an IOAS, and what failed for want of it is mended all the same.
TEST_F(DriftTest, AMissingIoasIsMadeAnew) {
  const ObjectId stage2 = IdOf("s", "stage2");
  ASSERT_TRUE(context().Detach(IdOf("d", "device")).ok());
  for (const ObjectId id : {IdOf("d", "vdevice"), IdOf("n", "nested"), IdOf("v", "viommu"), stage2}) {
    ASSERT_TRUE(context().Destroy(id).ok());
  }
  Inspect(/*repair=*/true);
  const auto objects = *context().Objects();
  const auto ioas = std::find_if(objects.begin(), objects.end(),
                                 [](const ObjectInfo& object) { return object.kind == ObjectKind::kIoas; });
  ASSERT_NE(ioas, objects.end());
  ASSERT_TRUE(context().Destroy(ioas->id).ok());
  Run();
  EXPECT_EQ(reconciler_->CountDrift().missing, 1u);
  EXPECT_EQ(last_["s"].outcome(), v1::OUTCOME_FAILED);
  Inspect(/*repair=*/true);
  Run();
  EXPECT_EQ(reconciler_->CountDrift().missing, 0u);
  ExpectMended();
}

TEST_F(DriftTest, StraysAreEndedFromTheTopDown) {
  auto device = context().BindDevice("0000:01:00.1");
  ASSERT_TRUE(device.ok());
  const ObjectId vdevice = context().AllocVdevice(IdOf("v", "viommu"), *device, 9).value();
  ASSERT_TRUE(context().Attach(*device, IdOf("n", "nested")).ok());
  EXPECT_EQ(Inspect().size(), 6u);
  EXPECT_EQ(reconciler_->CountDrift().strays, 2u);
  EXPECT_EQ(backend_.Count("vdevice"), 2u) << "a look changes nothing";
  EXPECT_THAT(Inspect(/*repair=*/true),
              testing::IsSupersetOf(
                  {fmt::format("stray: device {} (0000:01:00.1, attached to {}) in the context of vm1", *device,
                               IdOf("n", "nested")),
                   fmt::format("stray: vdevice {} (on viommu {}, device {}, StreamID 0x9) in the context of vm1",
                               vdevice, IdOf("v", "viommu"), *device)}));
  ExpectMended();
}

TEST_F(DriftTest, WhatHasFailedIsTriedAtOnce) {
  backend_.faults["BindDevice"] = {EIO};
  ASSERT_TRUE(Send({Vdevice("e", "v", 8, 10, 1)}).ok());
  EXPECT_THAT(Run(), ElementsAre("e@10 FAILED BACKEND_FAILED"));
  EXPECT_THAT(Run(), IsEmpty()) << "its time has not come";
  EXPECT_EQ(Inspect(/*repair=*/true).at(1), "e NOT_EXPECTED");
  EXPECT_EQ(reply_.items(1).reason().reason(), "BACKEND_FAILED");
  EXPECT_THAT(Run(), ElementsAre("e@10 APPLIED"));
}

TEST_F(DriftTest, ABackendThatCannotTellIsNotMended) {
  backend_.lists_objects = false;
  ASSERT_TRUE(context().Detach(IdOf("d", "device")).ok());
  EXPECT_THAT(Inspect(/*repair=*/true), ElementsAre("d UNKNOWN", "n UNKNOWN", "s UNKNOWN", "v UNKNOWN"));
  EXPECT_EQ(reconciler_->CountDrift().unknown, 4u);
  backend_.log.clear();
  EXPECT_THAT(Run(), IsEmpty());
  EXPECT_THAT(backend_.log, IsEmpty());
}

}  // namespace
}  // namespace viommu::agent
