#include "agent/local/handover.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "agent/local/vmms.h"
#include "agent/reconcile/fake_backend.h"
#include "agent/reconcile/testing.h"
#include "common/error.h"
#include "common/fake_clock.h"

namespace viommu::agent {
namespace {

constexpr HandoverHandler::Connection kOne = 1;  // of user 1001
constexpr HandoverHandler::Connection kTwo = 2;  // of user 1002
constexpr HandoverHandler::Connection kRoot = 3;

// A host that holds VM "vm1" with a hardware queue.
class HandoverTest : public testing::Test {
 protected:
  HandoverTest() {
    std::string path = testing::TempDir() + "/handover-XXXXXX";
    journal_ = Journal::Open(PosixFileSystem(), ::mkdtemp(path.data()), {}).value();
    Reconciler::Options options;
    options.host = "hosts/h1";
    options.boot_id = "boot";
    options.random = [] { return 0.5; };
    options.events = &events_;
    auto reconciler =
        Reconciler::Open(*journal_, backend_, targets_, backend_.Discover().value(), std::move(options)).value();
    driver_ = std::make_unique<Driver>(std::move(reconciler), *journal_, Driver::Options{});
    driver_->OnResults([this] {
      MutexLock lock(mu_);
      results_ = true;
      cv_.NotifyAll();
    });
    driver_->Start();
    handover_ = std::make_unique<Handover>(*driver_, vmms_, lister_);
    handover_->Opened(kOne, {.pid = 1, .uid = 1001, .gid = 0});
    handover_->Opened(kTwo, {.pid = 2, .uid = 1002, .gid = 0});
    handover_->Opened(kRoot, {.pid = 3, .uid = 0, .gid = 0});
  }

  void MakeTheQueue() {
    v1::Welcome welcome;
    welcome.set_cluster_id("cluster");
    welcome.set_store_incarnation("store");
    welcome.set_epoch(1);
    ASSERT_TRUE(driver_->BeginSession(welcome).ok());
    v1::Desired desired;
    desired.set_epoch(1);
    desired.set_nonce(1);
    desired.set_sync_mark(true);
    for (const auto& item :
         {Stage2("s", "s2", 2), Viommu("v", "v", 3), Vdevice("d", "v", 7, 4), HwQueue("q", "v", 5)}) {
      *desired.add_items() = item;
    }
    ASSERT_TRUE(driver_->Accept(desired).ok());
    int applied = 0;
    while (applied < 4) {
      v1::Results results;
      while (driver_->TakeResults(100, results)) {
        for (const auto& item : results.items()) {
          ASSERT_EQ(item.outcome(), v1::OUTCOME_APPLIED) << item.DebugString();
          ++applied;
        }
      }
      MutexLock lock(mu_);
      while (applied < 4 && !results_) cv_.Wait(mu_);
      results_ = false;
    }
  }

  absl::Status Map(HandoverHandler::Connection connection, uint64_t iova) {
    v1::MapMemory request;
    request.set_vm("vm1");
    request.set_iova(iova);
    request.set_length(0x1000);
    request.set_readable(true);
    request.set_writable(true);
    return handover_->Map(connection, request, FileDescriptor(::memfd_create("guest", MFD_CLOEXEC)));
  }
  absl::Status OpenTheQueue(HandoverHandler::Connection connection) {
    return handover_->OpenHwQueue(connection, "viommus/v/hwQueues/0").status();
  }

  // First, so that they are there as long as the driver's thread.
  Mutex mu_;
  CondVar cv_;
  bool results_ ABSL_GUARDED_BY(mu_) = false;
  FakeBackend backend_;
  Targets targets_;
  FakeClock clock_;
  GuestEvents events_{{.clock = &clock_}};
  EventLister lister_{events_, targets_};
  Vmms vmms_{clock_, [](pid_t) { return uint64_t{1}; }};
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<Driver> driver_;
  std::unique_ptr<Handover> handover_;
};

TEST_F(HandoverTest, AVmsMemoryIsHandedOverByOneUser) {
  ASSERT_TRUE(Map(kOne, 0x4000'0000).ok());
  EXPECT_EQ(ReasonOf(Map(kTwo, 0x5000'0000)), v1::ERROR_REASON_NOT_AUTHORIZED);
  EXPECT_TRUE(Map(kRoot, 0x6000'0000).ok());
  // Now not all of it is the first one's.
  EXPECT_EQ(ReasonOf(Map(kOne, 0x7000'0000)), v1::ERROR_REASON_NOT_AUTHORIZED);
  // Whoever comes when all of it is gone is free to.
  handover_->Closed(kOne);
  handover_->Closed(kRoot);
  EXPECT_TRUE(Map(kTwo, 0x5000'0000).ok());
}

TEST_F(HandoverTest, AQueueIsOpenedByTheUserWhoseGuestItIsOf) {
  ASSERT_TRUE(Map(kOne, 0x4000'0000).ok());
  MakeTheQueue();
  EXPECT_EQ(ReasonOf(OpenTheQueue(kTwo)), v1::ERROR_REASON_NOT_AUTHORIZED);
  EXPECT_TRUE(OpenTheQueue(kOne).ok());
  EXPECT_TRUE(OpenTheQueue(kRoot).ok());
}

TEST_F(HandoverTest, EventsAreForTheUserWhoseGuestTheyAreOf) {
  v1::ListGuestEventsRequest request;
  request.set_viommu("viommus/v");
  EXPECT_EQ(ReasonOf(handover_->ListGuestEvents(kRoot, request).status()), v1::ERROR_REASON_VIOMMU_NOT_FOUND);
  smmuv3::Event fault;
  fault.id = smmuv3::EventId::kFTranslation;
  fault.sid = 7;
  fault.address = 0x1000;
  backend_.on_read_events = [&fault](ObjectId, uint32_t) {
    return std::vector<Vevent>{{.lost = false, .sequence = 0, .record = smmuv3::EncodeEvent(fault)}};
  };
  MakeTheQueue();
  events_.Turn();
  EXPECT_EQ(ReasonOf(handover_->ListGuestEvents(kOne, request).status()), v1::ERROR_REASON_NOT_AUTHORIZED);
  ASSERT_TRUE(Map(kOne, 0x5000'0000).ok());
  const auto told = handover_->ListGuestEvents(kOne, request);
  ASSERT_TRUE(told.ok()) << told.status();
  ASSERT_EQ(told->events_size(), 1);
  const v1::GuestEvent& event = told->events(0);
  EXPECT_EQ(event.event(), "F_TRANSLATION");
  EXPECT_EQ(event.vdev_id(), 7u);
  EXPECT_EQ(event.address(), 0x1000u);
  EXPECT_FALSE(event.has_ssid());
  ASSERT_EQ(event.record_size(), 4);
  EXPECT_EQ(event.record(2), 0x1000u);
  EXPECT_TRUE(handover_->ListGuestEvents(kRoot, request).ok());
  EXPECT_EQ(ReasonOf(handover_->ListGuestEvents(kTwo, request).status()), v1::ERROR_REASON_NOT_AUTHORIZED);
}

TEST_F(HandoverTest, AViommuWithoutAQueueHasNoEvents) {
  backend_.faults["AllocVeventq"] = {EOPNOTSUPP};
  MakeTheQueue();
  v1::ListGuestEventsRequest request;
  request.set_viommu("viommus/v");
  EXPECT_EQ(ReasonOf(handover_->ListGuestEvents(kRoot, request).status()), v1::ERROR_REASON_NOT_OFFERED);
}

// The agent makes a queue's memory where nobody has handed any over: that makes the guest nobody's.
TEST_F(HandoverTest, AQueueInTheAgentsMemoryIsOpenedByWhoHasHandedMemoryOver) {
  MakeTheQueue();
  EXPECT_EQ(ReasonOf(OpenTheQueue(kTwo)), v1::ERROR_REASON_NOT_AUTHORIZED);
  EXPECT_TRUE(OpenTheQueue(kRoot).ok());
  ASSERT_TRUE(Map(kOne, 0x5000'0000).ok());
  EXPECT_TRUE(OpenTheQueue(kOne).ok());
  EXPECT_EQ(ReasonOf(OpenTheQueue(kTwo)), v1::ERROR_REASON_NOT_AUTHORIZED);
}

}  // namespace
}  // namespace viommu::agent
