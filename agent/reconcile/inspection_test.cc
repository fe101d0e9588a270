// Drift, from what is found to what is mended: what happens at the backend behind the agent's back.

#include "agent/reconcile/inspection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "agent/reconcile/reconciler_fixture.h"

namespace viommu::agent {
namespace {

using std::chrono::seconds;
using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;

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

// Nor one of another kind on the same viommu.
TEST_F(DriftTest, AVdeviceInThePlaceOfANestedDomainIsNotOurs) {
  const ObjectId nested = IdOf("n", "nested"), viommu = IdOf("v", "viommu");
  const ObjectId device = context().BindDevice("0000:01:00.1").value();
  ASSERT_TRUE(context().Attach(IdOf("d", "device"), IdOf("s", "stage2")).ok());
  ASSERT_TRUE(context().Destroy(nested).ok());
  ASSERT_EQ(context().AllocVdevice(viommu, device, 9).value(), nested);
  EXPECT_EQ(Inspect().at(1), "n MISSING");
  EXPECT_EQ(reply_.strays_size(), 2);
  Inspect(/*repair=*/true);
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

// Likewise: the one behind the other SMMU has the same stage 2.
TEST_F(DriftTest, AViommuOnAnotherSmmuIsNotOurs) {
  const ObjectId viommu = IdOf("v", "viommu"), device = context().BindDevice("0000:01:01.0").value();
  ASSERT_TRUE(context().Detach(IdOf("d", "device")).ok());
  for (const ObjectId id : {IdOf("d", "vdevice"), IdOf("n", "nested"), viommu}) ASSERT_TRUE(context().Destroy(id).ok());
  ASSERT_EQ(context().AllocViommu(device, IdOf("s", "stage2"), ViommuType::kArmSmmuv3)->id, viommu);
  EXPECT_THAT(Inspect(), Contains("v MISSING"));
  EXPECT_EQ(reply_.strays_size(), 2);
  Inspect(/*repair=*/true);
  ExpectMended();
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
  EXPECT_EQ(Inspect().back(), "stray: no IOAS any more in the context of vm1");
  Inspect(/*repair=*/true);
  Run();
  EXPECT_EQ(reconciler_->CountDrift().missing, 0u);
  ExpectMended();
}

// The simulation has found it: a device reached memory of a VMM that was gone.
TEST_F(DriftTest, WhatAVmmHasLeftDoesNotComeBack) {
  const auto map = [this](VmMemory::Owner owner) {
    VmMemory::Range range;
    range.length = 0x1000;
    range.owner = owner;
    range.file = std::make_shared<const FileDescriptor>(::memfd_create("guest", MFD_CLOEXEC));
    return reconciler_->MapMemory("vm1", 0x40000000, std::move(range));
  };
  ASSERT_TRUE(map(1).ok());
  backend_.faults["UnmapIoas"] = {ENOENT};
  reconciler_->ForgetOwner(1);
  const auto objects = *context().Objects();
  ASSERT_TRUE(context().Detach(IdOf("d", "device")).ok());
  for (const ObjectId id : {IdOf("d", "vdevice"), IdOf("n", "nested"), IdOf("v", "viommu"), IdOf("s", "stage2")}) {
    ASSERT_TRUE(context().Destroy(id).ok());
  }
  const auto ioas = std::find_if(objects.begin(), objects.end(),
                                 [](const ObjectInfo& object) { return object.kind == ObjectKind::kIoas; });
  ASSERT_TRUE(context().Destroy(ioas->id).ok());
  backend_.log.clear();
  Inspect(/*repair=*/true);
  ExpectMended();
  EXPECT_THAT(backend_.log, testing::Not(Contains("MapIoas 0x40000000")));

  // Nor is it in the way of the next one.
  ASSERT_TRUE(map(2).ok());
  backend_.faults["UnmapIoas"] = {EIO};
  reconciler_->ForgetOwner(2);
  backend_.log.clear();
  EXPECT_TRUE(map(3).ok());
  EXPECT_THAT(backend_.log, ElementsAre("UnmapIoas 0x40000000", "MapIoas 0x40000000"));
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

// A journal that says something else than the record, at the generation that the record has. What is in it was made,
// since an agent that restarts goes by its journal.
class OtherJournalTest : public DriftTest {
 protected:
  void Believe(const v1::Resource& item) {
    journal::Record record;
    *record.mutable_intent()->add_items() = item;
    ASSERT_TRUE(journal_->Append(record, Journal::Sync::kYes).ok());
    Start();
    Connect();
    Run();
    ASSERT_EQ(reconciler_->Counts()["applied"], 4u);
  }
  Context& context() { return backend_.OpenedContext(1); }
};

TEST_F(OtherJournalTest, IsNotChangedByARepeatedGenerationAndFollowsALaterOne) {
  Believe(Vdevice("d", "v", 9, 5, 0, "n"));
  ASSERT_EQ(backend_.HeldDevices().at("0000:01:00.0").virt_id, 9u);
  ASSERT_TRUE(Send({Vdevice("d", "v", 7, 5, 0, "n")}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@5 APPLIED"));
  EXPECT_EQ(backend_.HeldDevices().at("0000:01:00.0").virt_id, 9u) << "a repetition is one, whatever it says";
  ASSERT_TRUE(Send({Vdevice("d", "v", 7, 20, 0, "n")}).ok());
  EXPECT_THAT(Run(), ElementsAre("d@20 APPLIED"));
  ExpectMended();
}

TEST_F(OtherJournalTest, WhatCannotChangeIsMadeAnew) {
  v1::Resource other = Nested("n", "v", "n", 4);
  other.mutable_nested_domain()->mutable_config()->mutable_translate()->set_word0(0x1);
  Believe(other);
  EXPECT_THAT(backend_.log, Contains("AllocNested 0x1"));
  backend_.log.clear();
  ASSERT_TRUE(Send({Nested("n", "v", "n", 20)}).ok());
  EXPECT_THAT(Run(), testing::UnorderedElementsAre("d@5 APPLIED", "n@20 APPLIED"));
  EXPECT_THAT(backend_.log, ElementsAre("Detach", "Destroy nested", "AllocNested 0xb", "Attach nested"));
  ExpectMended();
}

TEST_F(OtherJournalTest, WhatStandsOnItIsMadeAnewWithIt) {
  Believe(Stage2("s", "s2", 2, "another"));
  ASSERT_TRUE(Send({Stage2("s", "s2", 20)}).ok());
  EXPECT_THAT(Run(), testing::UnorderedElementsAre("d@5 APPLIED", "n@4 APPLIED", "s@20 APPLIED", "v@3 APPLIED"));
  EXPECT_EQ(backend_.contexts, 1) << "the other VM's is closed";
  EXPECT_THAT(Inspect(), ElementsAre("d AS_BELIEVED", "n AS_BELIEVED", "s AS_BELIEVED", "v AS_BELIEVED"));
}

TEST_F(OtherJournalTest, ADeviceThatItShouldNotHaveIsLetGo) {
  Believe(Vdevice("d", "v", 7, 5, 1, "n"));
  ASSERT_TRUE(backend_.HeldDevices().contains("0000:01:00.1"));
  ASSERT_TRUE(Send({Vdevice("d", "v", 7, 20, 0, "n")}).ok());
  EXPECT_THAT(Run(), Contains("d@20 APPLIED"));
  EXPECT_FALSE(backend_.HeldDevices().contains("0000:01:00.1"));
  ExpectMended();
}

}  // namespace
}  // namespace viommu::agent
