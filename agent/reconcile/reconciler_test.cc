#include "agent/reconcile/reconciler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <deque>
#include <string>
#include <vector>

#include "agent/reconcile/reconciler_fixture.h"
#include "common/error.h"

namespace viommu::agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;

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
