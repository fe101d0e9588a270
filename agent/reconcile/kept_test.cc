#include "agent/reconcile/kept.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <memory>
#include <string>

#include "agent/reconcile/reconciler_fixture.h"
#include "agent/reconcile/vm_memory.h"
#include "common/file_descriptor.h"

namespace viommu::agent {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

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

// The simulation has found it: the process ended between the records of a new IOAS. The next one made another IOAS, and
// took for mapped in there what was mapped in the first.
TEST_F(KeptContextTest, AnIoasThatIsNotKnownLeavesDoubt) {
  const auto append = [this](auto fill) {
    journal::Record record;
    record.mutable_kept()->set_vm("vm1");
    fill(*record.mutable_kept());
    ASSERT_TRUE(journal_->Append(record, Journal::Sync::kNo).ok());
  };
  append([](journal::Kept& k) { k.set_ioas(0); });
  append([](journal::Kept& k) { k.set_changing("IOAS_ALLOC"); });
  append([](journal::Kept& k) { k.mutable_mapped()->set_iova(0x40000000); });
  Start();
  EXPECT_THAT(backend_.log, ElementsAre("CloseContext"));
}

// What was mapped in an IOAS that was lost is not in the one that comes after it.
TEST_F(KeptContextTest, NothingIsMappedInAnotherIoas) {
  ASSERT_TRUE(reconciler_->MapMemory("vm1", 0x40000000, Memory()).ok());
  Start();
  Connect(5);
  Run();
  // Before its owner is back: somebody takes everything away but the device, and it is mended.
  Context& context = backend_.OpenedContext(0);
  const std::vector<ObjectInfo> objects = *context.Objects();
  for (const ObjectInfo& object : objects) {
    if (object.kind == ObjectKind::kDevice) ASSERT_TRUE(context.Detach(object.id).ok());
  }
  for (const ObjectKind kind :
       {ObjectKind::kVdevice, ObjectKind::kNested, ObjectKind::kViommu, ObjectKind::kHwpt, ObjectKind::kIoas}) {
    for (const ObjectInfo& object : objects) {
      if (object.kind == kind) ASSERT_TRUE(context.Destroy(object.id).ok());
    }
  }
  v1::InspectCall call;
  call.set_repair(true);
  call.set_max_items(100);
  v1::InspectReply reply;
  reconciler_->Inspect(call, reply);
  Run();
  EXPECT_EQ(reconciler_->CountDrift().missing, 0u);
  Start();
  EXPECT_THAT(reconciler_->UnclaimedBytes(), IsEmpty());
  ASSERT_TRUE(reconciler_->MapMemory("vm1", 0x40000000, Memory()).ok());
  EXPECT_THAT(backend_.log, ElementsAre("AdoptContext", "MapIoas 0x40000000"));
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

}  // namespace
}  // namespace viommu::agent
