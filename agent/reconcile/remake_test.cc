// What is recorded otherwise in a way that no object can be changed to: what is there ends step by step, and is made
// anew.

#include <fmt/format.h>
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
#include "agent/reconcile/vm_memory.h"
#include "common/file_descriptor.h"

namespace viommu::agent {
namespace {

using std::chrono::seconds;
using testing::Contains;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr const char* kCalls[] = {"OpenContext",  "BindDevice",  "AllocIoas", "AllocStage2", "AllocViommu",
                                  "AllocVdevice", "AllocNested", "Attach",    "Detach",      "Destroy",
                                  "UnbindDevice", "MapIoas",     "UnmapIoas"};

// Device "0000:01:01.0", which is behind the other SMMU.
v1::Resource Elsewhere(v1::Resource vdevice) {
  vdevice.mutable_vdevice()->set_device("hosts/h1/devices/0000:01:01.0");
  return vdevice;
}

// What a VM can become that its objects cannot.
struct Change {
  const char* what;
  std::vector<v1::Resource> items;
  std::string vm = "vm1";
  std::string pci_address = "0000:01:00.0";
  bool translates = true;
};

std::vector<Change> Changes() {
  return {
      {.what = "the VM of a stage 2", .items = {Stage2("s", "s2", 20, "vm9")}, .vm = "vm9"},
      {.what = "the SMMU of a viommu",
       .items = {Viommu("v", "v", 20, "s2", "s1"), Elsewhere(Vdevice("d", "v", 7, 21, 0, "n"))},
       .pci_address = "0000:01:01.0"},
      {.what = "the config of a nested domain", .items = {Bypassing(Nested("n", "v", "n", 20))}, .translates = false},
      {.what = "the device of a vdevice", .items = {Vdevice("d", "v", 7, 20, 1, "n")}, .pci_address = "0000:01:00.1"},
  };
}

class RemakeTest : public ReconcilerTest {
 protected:
  void StartAfresh(bool keeps_contexts) {
    std::string path = testing::TempDir() + "/remake-XXXXXX";
    directory_ = ::mkdtemp(path.data());
    backend_.keeps_contexts = keeps_contexts;
    Start();
    MakeVm();
  }
  // Everything is there as it was recorded last.
  void ExpectMade(const Change& change) {
    EXPECT_EQ(reconciler_->Counts()["applied"], 4u);
    v1::InspectCall call;
    call.set_max_items(1000);
    v1::InspectReply reply;
    reconciler_->Inspect(call, reply);
    for (const auto& item : reply.items())
      EXPECT_EQ(item.presence(), v1::PRESENCE_AS_BELIEVED) << NameOf(item.believed());
    EXPECT_THAT(reply.strays(), IsEmpty());
    const auto devices = backend_.HeldDevices();
    ASSERT_THAT(devices, ElementsAre(testing::Key(change.pci_address)));
    EXPECT_EQ(devices.at(change.pci_address).attached_to, "nested");
    EXPECT_EQ(devices.at(change.pci_address).translates, change.translates);
    EXPECT_EQ(devices.at(change.pci_address).virt_id, 7u);
    EXPECT_EQ(backend_.contexts, 1);
    for (const char* kind : {"stage2", "viommu", "nested", "vdevice"}) EXPECT_EQ(backend_.Count(kind), 1u) << kind;
    EXPECT_TRUE(targets_->Acquire("viommus/v").ok());
    EXPECT_TRUE(targets_->HasVdevId("v", 7));
    backend_.log.clear();
    EXPECT_TRUE(Map(change.vm).ok());
    EXPECT_THAT(backend_.log, ElementsAre("MapIoas 0x40000000")) << "it is the context of " << change.vm;
  }
  absl::Status Map(const std::string& vm) {
    VmMemory::Range range;
    range.length = 0x1000;
    range.owner = 1;
    range.file = std::make_shared<const FileDescriptor>(::memfd_create("guest", MFD_CLOEXEC));
    return reconciler_->MapMemory(vm, 0x4000'0000, std::move(range));
  }
};

TEST_F(RemakeTest, TheBackendIsLeftAloneUntilThereIsWork) {
  for (const Change& change : Changes()) {
    SCOPED_TRACE(change.what);
    StartAfresh(false);
    for (const char* call : kCalls) backend_.faults[call] = {EIO};
    ASSERT_TRUE(Send(change.items).ok());
    for (const char* call : kCalls) EXPECT_EQ(backend_.faults[call].size(), 1u) << call;
    EXPECT_THAT(backend_.log, IsEmpty());
    EXPECT_EQ(backend_.HeldDevices().at("0000:01:00.0").attached_to, "nested");
    EXPECT_TRUE(targets_->Acquire("viommus/v").ok()) << "invalidations go on";
    EXPECT_EQ(reconciler_->held().Find(UidOf(change.items[0]))->generation(), 20) << "it is noted";
    backend_.faults.clear();
    EXPECT_THAT(Run(), Not(Contains(HasSubstr("FAILED"))));
    ExpectMade(change);
  }
}

// Whatever fails, wherever.
TEST_F(RemakeTest, EveryFaultIsSurvived) {
  for (const Change& change : Changes()) {
    for (const char* call : kCalls) {
      for (size_t nth = 0; nth < 4; ++nth) {
        SCOPED_TRACE(fmt::format("{}, {} {}", change.what, call, nth));
        StartAfresh(false);
        backend_.faults = {{call, std::deque<int>(nth, 0)}};
        backend_.faults[call].push_back(EIO);
        ASSERT_TRUE(Send(change.items).ok());
        Run();
        clock_.Advance(seconds(60));
        Run();
        backend_.faults.clear();
        ExpectMade(change);
      }
    }
  }
}

// A process ends after each of the steps, and what comes next goes on by the journal.
TEST_F(RemakeTest, ARestartInTheMiddleConverges) {
  for (const bool keeps_contexts : {false, true}) {
    for (const Change& change : Changes()) {
      bool over = false;
      for (int steps = 0; !over; ++steps) {
        SCOPED_TRACE(fmt::format("{} after {} steps, contexts kept: {}", change.what, steps, keeps_contexts));
        ASSERT_LT(steps, 100);
        StartAfresh(keeps_contexts);
        ASSERT_TRUE(Send(change.items).ok());
        for (int step = 0; step < steps; ++step) over = reconciler_->Run(1) != clock_.Monotonic();
        Start();
        Run();
        Connect();
        EXPECT_THAT(Run(), Not(Contains(HasSubstr("FAILED"))));
        ExpectMade(change);
      }
    }
  }
}

// The same where it had got stuck, half way through what was there of one item.
TEST_F(RemakeTest, ARestartAfterAFaultConverges) {
  for (const bool keeps_contexts : {false, true}) {
    for (const Change& change : Changes()) {
      for (const char* call : {"Destroy", "UnbindDevice", "Attach"}) {
        for (size_t nth = 0; nth < 3; ++nth) {
          SCOPED_TRACE(fmt::format("{}, {} {}, contexts kept: {}", change.what, call, nth, keeps_contexts));
          StartAfresh(keeps_contexts);
          backend_.faults = {{call, std::deque<int>(nth, 0)}};
          backend_.faults[call].push_back(EIO);
          ASSERT_TRUE(Send(change.items).ok());
          Run();
          backend_.faults.clear();
          Start();
          Connect();
          EXPECT_THAT(Run(), Not(Contains(HasSubstr("FAILED"))));
          ExpectMade(change);
        }
      }
    }
  }
}

// What needs not go with it stays where it is over the restart.
TEST_F(RemakeTest, AKeptContextIsNotGivenUpForANestedDomain) {
  StartAfresh(true);
  ASSERT_TRUE(Send({Bypassing(Nested("n", "v", "n", 20))}).ok());
  Start();
  EXPECT_THAT(backend_.log, ElementsAre("AdoptContext"));
  EXPECT_TRUE(targets_->Acquire("viommus/v").ok());
  Run();
  EXPECT_THAT(backend_.log,
              ElementsAre("AdoptContext", "Detach", "Destroy nested", "AllocNested 0x9", "Attach nested"));
  EXPECT_FALSE(journal_->state().kept().at("vm1").objects.at("n").outdated());
}

TEST_F(RemakeTest, AKeptContextIsInDoubtWhenNobodyKnowsTheSmmu) {
  StartAfresh(true);
  ASSERT_TRUE(Send({Viommu("v", "v", 20, "s2", "s1")}).ok());
  Start();
  EXPECT_THAT(backend_.log, ElementsAre("CloseContext"));
}

TEST_F(RemakeTest, EndsFromTheTopDownInPortions) {
  constexpr int kDevices = 300;
  constexpr int kPortion = 10;
  MakeVm();
  std::vector<v1::Resource> items;
  for (int i = 1; i <= kDevices; ++i) {
    items.push_back(
        Vdevice(fmt::format("d{}", i), "v", static_cast<uint64_t>(100 + i), 10 + i, i, i % 2 == 0 ? "n" : ""));
  }
  ASSERT_TRUE(Send(items).ok());
  Run();
  ASSERT_EQ(reconciler_->Counts()["applied"], kDevices + 4u);
  backend_.log.clear();
  const uint64_t looks = reconciler_->looks();
  ASSERT_TRUE(Send({Stage2("s", "s2", 1000, "vm9")}).ok());
  EXPECT_THAT(backend_.log, IsEmpty());
  size_t portions = 0;
  for (bool more = true; more; ++portions) {
    const size_t before = backend_.log.size();
    more = reconciler_->Run(kPortion) == clock_.Monotonic();
    // A step is three changes at most: detach, destroy, unbind.
    EXPECT_LE(backend_.log.size() - before, kPortion + 3u);
  }
  EXPECT_GT(portions, static_cast<size_t>(kDevices / kPortion));
  EXPECT_LE(reconciler_->looks() - looks, 8u * (kDevices + 4));
  EXPECT_EQ(reconciler_->Counts()["applied"], kDevices + 4u);
  const auto& log = backend_.log;
  const auto at = [&log](const std::string& call) { return std::find(log.begin(), log.end(), call) - log.begin(); };
  EXPECT_EQ(std::count(log.begin(), log.begin() + at("Destroy nested"), "Destroy vdevice"), kDevices + 1);
  EXPECT_LT(at("Destroy nested"), at("Destroy viommu"));
  EXPECT_LT(at("Destroy viommu"), at("Destroy stage2"));
  EXPECT_LT(at("Destroy stage2"), at("CloseContext"));
  EXPECT_LT(at("CloseContext"), at("OpenContext"));
}

TEST_F(RemakeTest, WhatCannotBeEndedIsToldAndTriedAgain) {
  MakeVm();
  backend_.faults["Destroy"] = {EBUSY, EBUSY};
  ASSERT_TRUE(Send({Bypassing(Nested("n", "v", "n", 20))}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@5 FAILED DEPENDENCY_NOT_READY", "n@20 FAILED BACKEND_FAILED"));
  EXPECT_EQ(backend_.HeldDevices().at("0000:01:00.0").attached_to, "") << "and nobody attaches it to what is to go";
  clock_.Advance(std::chrono::milliseconds(500));
  EXPECT_THAT(Run(), IsEmpty()) << "it is known";
  EXPECT_THAT(backend_.log, ElementsAre("Detach"));
  clock_.Advance(seconds(1));
  EXPECT_THAT(Run(), ElementsAre("d@5 APPLIED", "n@20 APPLIED"));
  ExpectMade(Changes()[2]);
}

TEST_F(RemakeTest, WhatStandsOnItAndCannotBeEndedIsNamed) {
  MakeVm();
  backend_.faults["UnbindDevice"] = {EBUSY};
  ASSERT_TRUE(Send({Stage2("s", "s2", 20, "vm9")}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@5 FAILED BACKEND_FAILED", "n@4 FAILED DEPENDENCY_NOT_READY",
                                 "s@20 FAILED DEPENDENCY_NOT_READY", "v@3 FAILED DEPENDENCY_NOT_READY"));
  EXPECT_THAT(last_["v"].reason().message(), HasSubstr("viommus/v/vdevices/7"));
  clock_.Advance(seconds(1));
  Run();
  ExpectMade(Changes()[0]);
}

// What comes meanwhile waits, or it would keep the old one there.
TEST_F(RemakeTest, NothingNewIsPutOnWhatIsToGo) {
  MakeVm();
  backend_.faults["Destroy"] = {0, EBUSY};  // the nested domain
  ASSERT_TRUE(Send({Viommu("v", "v", 20, "s2", "s1")}).ok());
  Run();
  backend_.log.clear();
  ASSERT_TRUE(Send({Vdevice("e", "v", 8, 21, 1), Elsewhere(Vdevice("d", "v", 7, 22, 0, "n")), HwQueue("q", "v", 23),
                    Nested("m", "v", "m", 24)})
                  .ok());
  Run();
  EXPECT_THAT(backend_.log, IsEmpty());
  ASSERT_TRUE(Send({Deleting(Vdevice("e", "v", 8, 21, 1), 25), Deleting(HwQueue("q", "v", 23), 26),
                    Deleting(Nested("m", "v", "m", 24), 27)})
                  .ok());
  clock_.Advance(seconds(1));
  Run();
  ExpectMade(Changes()[1]);
}

TEST_F(RemakeTest, WhatIsDeletedMeanwhileGoes) {
  for (const Change& change : Changes()) {
    for (int steps = 0; steps < 8; ++steps) {
      SCOPED_TRACE(fmt::format("{} after {} steps", change.what, steps));
      StartAfresh(false);
      ASSERT_TRUE(Send(change.items).ok());
      for (int step = 0; step < steps; ++step) reconciler_->Run(1);
      ASSERT_TRUE(Send({Deleting(Stage2("s", "s2", 0), 30), Deleting(Viommu("v", "v", 0), 31),
                        Deleting(Nested("n", "v", "n", 0), 32), Deleting(Vdevice("d", "v", 7, 0, 0, "n"), 33)})
                      .ok());
      Run();
      EXPECT_TRUE(reconciler_->held().items().empty());
      EXPECT_EQ(backend_.contexts, 0);
      EXPECT_THAT(backend_.bound, IsEmpty());
    }
  }
}

// Which device is bound where nothing is made on it yet.
TEST_F(RemakeTest, ADeviceThatWaitsForItsViommuMovesAlong) {
  for (const char* call : {"AllocViommu", "AllocStage2"}) {
    for (const bool unbinds : {true, false}) {
      SCOPED_TRACE(fmt::format("{} {}", call, unbinds));
      StartAfresh(false);
      ASSERT_TRUE(Send({Deleting(Vdevice("d", "v", 7, 0, 0, "n"), 10), Deleting(Nested("n", "v", "n", 0), 11),
                        Deleting(Viommu("v", "v", 0), 12), Deleting(Stage2("s", "s2", 0), 13)})
                      .ok());
      Run();
      backend_.faults[call] = {EIO};
      if (!unbinds) backend_.faults["UnbindDevice"] = {EIO};
      ASSERT_TRUE(Send({Stage2("s3", "s3", 14), Viommu("w", "w", 15, "s3"), Vdevice("e", "w", 7, 16)}).ok());
      Run();
      ASSERT_TRUE(Send({Stage2("s3", "s3", 20, "vm9")}).ok());
      Run();
      clock_.Advance(seconds(60));
      Run();
      EXPECT_EQ(reconciler_->Counts()["applied"], 3u);
      ASSERT_TRUE(Send({Stage2("s4", "s4", 21), Viommu("w", "w", 22, "s4")}).ok());
      Run();
      EXPECT_EQ(reconciler_->Counts()["applied"], 4u) << "of the old stage 2 there is no more to say";
      EXPECT_EQ(backend_.contexts, 2);
    }
  }
}

TEST_F(RemakeTest, AHardwareQueueGoesFirst) {
  MakeVm();
  ASSERT_TRUE(Send({HwQueue("q", "v", 6)}).ok());
  ASSERT_THAT(Run(), ElementsAre("q@6 APPLIED"));
  backend_.log.clear();
  ASSERT_TRUE(Send({Viommu("v", "v", 20, "s2", "s1"), Elsewhere(Vdevice("d", "v", 7, 21, 0, "n"))}).ok());
  Run();
  ASSERT_FALSE(backend_.log.empty());
  EXPECT_EQ(backend_.log.front(), "Destroy hw_queue");
  EXPECT_EQ(reconciler_->Counts()["applied"], 5u);
  v1::Resource longer = HwQueue("q", "v", 30);
  longer.mutable_hw_queue()->set_length_bytes(0x2000);
  backend_.log.clear();
  ASSERT_TRUE(Send({longer}).ok());
  EXPECT_THAT(backend_.log, IsEmpty());
  EXPECT_THAT(Run(), ElementsAre("q@30 APPLIED"));
  EXPECT_THAT(backend_.log, ElementsAre("Destroy hw_queue", "UnmapIoas 0x40000000", "MapIoas 0x40000000"));
  EXPECT_EQ(backend_.Count("hw_queue"), 1u);
}

// It is as believed: the old one, until it goes.
TEST_F(RemakeTest, WhatIsToGoIsNoDrift) {
  MakeVm();
  backend_.faults["Destroy"] = {EBUSY, EBUSY, EBUSY};
  ASSERT_TRUE(Send({Viommu("v", "v", 20, "s2", "s1")}).ok());
  EXPECT_EQ(reconciler_->CountDrift().missing, 0u);
  EXPECT_EQ(reconciler_->CountDrift().strays, 0u);
  v1::InspectCall call;
  call.set_max_items(1000);
  call.set_repair(true);
  v1::InspectReply reply;
  reconciler_->Inspect(call, reply);
  EXPECT_EQ(backend_.Count("viommu"), 1u) << "a repair ends nothing of it in its own way";
  ASSERT_TRUE(Send({Elsewhere(Vdevice("d", "v", 7, 21, 0, "n"))}).ok());
  for (int i = 0; i < 4; ++i) {
    Run();
    clock_.Advance(seconds(60));
  }
  ExpectMade(Changes()[1]);
}

}  // namespace
}  // namespace viommu::agent
