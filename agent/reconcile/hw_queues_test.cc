// Where hardware queues lie when VMMs come and go.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
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

class HwQueuesTest : public ReconcilerTest {
 protected:
  // The queue lies in its first page.
  static constexpr uint64_t kMemory = 0x4000'0000;

  HwQueuesTest() { MakeVm(); }

  void MakeQueue() {
    ASSERT_TRUE(Send({HwQueue("q", "v", 6)}).ok());
    ASSERT_THAT(Run(), ElementsAre("q@6 APPLIED"));
    backend_.log.clear();
  }

  // A VMM hands over two pages.
  absl::Status Map(VmMemory::Owner owner, VmMemory::User user = std::nullopt) {
    VmMemory::Range range;
    range.length = 0x2000;
    range.owner = owner;
    range.user = user;
    range.file = file_ = std::make_shared<const FileDescriptor>(::memfd_create("guest", MFD_CLOEXEC));
    return reconciler_->MapMemory("vm1", kMemory, std::move(range));
  }

  // Whether the queue lies in what was handed over last.
  bool LiesInTheGuest() {
    const auto opened = reconciler_->OpenHwQueue(9, std::nullopt, "viommus/v/hwQueues/0");
    if (!opened.ok()) return false;
    struct stat queue = {}, guest = {};
    EXPECT_EQ(::fstat(opened->memory.get(), &queue), 0);
    EXPECT_EQ(::fstat(file_->get(), &guest), 0);
    return queue.st_ino == guest.st_ino;
  }

  std::shared_ptr<const FileDescriptor> file_;
};

// The simulation has found it: after a restart of the agent, which has made the queue in memory of its own by then, the
// VMM's memory was refused for as long as the queue was there.
TEST_F(HwQueuesTest, GoIntoMemoryThatComesLater) {
  MakeQueue();
  ASSERT_TRUE(Map(1).ok());
  EXPECT_THAT(Run(), ElementsAre("q@6 APPLIED"));
  EXPECT_TRUE(LiesInTheGuest());
  // The queue has gone before its memory has.
  EXPECT_THAT(backend_.log, ElementsAre("Destroy hw_queue", "UnmapIoas 0x40000000", "MapIoas 0x40000000"));
}

// Likewise for a VMM that has gone while its queue keeps its memory.
TEST_F(HwQueuesTest, LetGoOfMemoryOfOneWhoHasLeft) {
  ASSERT_TRUE(Map(1).ok());
  MakeQueue();
  backend_.faults["UnmapIoas"] = {EBUSY, EBUSY};
  reconciler_->ForgetOwner(1);
  ASSERT_TRUE(Map(2).ok());
  EXPECT_THAT(Run(), ElementsAre("q@6 APPLIED"));
  EXPECT_TRUE(LiesInTheGuest());
}

TEST_F(HwQueuesTest, StayWhereSomebodyIsThere) {
  ASSERT_TRUE(Map(1).ok());
  MakeQueue();
  EXPECT_EQ(ReasonOf(Map(2)), v1::ERROR_REASON_MEMORY_TAKEN);
  EXPECT_THAT(backend_.log, ElementsAre());
}

TEST_F(HwQueuesTest, StayWhereTheMemoryIsRefused) {
  ASSERT_TRUE(Map(1, 1001).ok());
  MakeQueue();
  backend_.faults["UnmapIoas"] = {EBUSY, EBUSY, EBUSY};
  reconciler_->ForgetOwner(1);
  EXPECT_EQ(ReasonOf(Map(2, 1002)), v1::ERROR_REASON_NOT_AUTHORIZED);
  EXPECT_THAT(backend_.log, ElementsAre());
}

}  // namespace
}  // namespace viommu::agent
