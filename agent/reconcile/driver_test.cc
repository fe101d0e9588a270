#include "agent/reconcile/driver.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "agent/local/invalidator.h"
#include "agent/reconcile/fake_backend.h"
#include "agent/reconcile/testing.h"
#include "common/file_descriptor.h"

namespace viommu::agent {
namespace {

using std::chrono::seconds;

class DriverTest : public testing::Test {
 protected:
  DriverTest() {
    std::string path = testing::TempDir() + "/driver-XXXXXX";
    journal_ = Journal::Open(PosixFileSystem(), ::mkdtemp(path.data()), {}).value();
    Reconciler::Options options;
    options.host = "hosts/h1";
    options.boot_id = "boot";
    options.random = [] { return 0.5; };
    options.first_retry = std::chrono::milliseconds(1);
    options.on_outcome = [this](ItemKind, v1::Outcome outcome) {
      MutexLock lock(mu_);
      applied_ += outcome == v1::OUTCOME_APPLIED ? 1 : 0;
      cv_.NotifyAll();
    };
    auto reconciler =
        Reconciler::Open(*journal_, backend_, targets_, backend_.Discover().value(), std::move(options)).value();
    driver_ = std::make_unique<Driver>(std::move(reconciler), *journal_, Driver::Options{.portion_changes = 2});
    driver_->OnResults([this] {
      MutexLock lock(mu_);
      cv_.NotifyAll();
    });
    driver_->Start();
    v1::Welcome welcome;
    welcome.set_cluster_id("cluster");
    welcome.set_store_incarnation("store");
    welcome.set_epoch(1);
    EXPECT_TRUE(driver_->BeginSession(welcome).ok());
  }

  void Send(const std::vector<v1::Resource>& items) {
    v1::Desired desired;
    desired.set_epoch(1);
    desired.set_nonce(++nonce_);
    desired.set_sync_mark(true);
    for (const auto& item : items) *desired.add_items() = item;
    EXPECT_TRUE(driver_->Accept(desired).ok());
  }
  // Takes results until there were `count` of that outcome.
  bool WaitFor(v1::Outcome outcome, int count) {
    while (count > 0) {
      v1::Results results;
      while (driver_->TakeResults(100, results)) {
        for (const auto& item : results.items()) count -= item.outcome() == outcome ? 1 : 0;
      }
      if (count <= 0) return true;
      MutexLock lock(mu_);
      if (!cv_.WaitFor(mu_, std::chrono::milliseconds(20)) && ++quiet_ > 1000) return false;
    }
    return true;
  }

  // Without asking the driver for anything.
  bool WaitForApplied(int count) {
    const auto give_up = std::chrono::steady_clock::now() + seconds(20);
    MutexLock lock(mu_);
    while (applied_ < count && std::chrono::steady_clock::now() < give_up) cv_.WaitFor(mu_, seconds(1));
    return applied_ >= count;
  }

  // First, so that they are there as long as the driver's thread.
  Mutex mu_;
  CondVar cv_;
  int applied_ ABSL_GUARDED_BY(mu_) = 0;
  int quiet_ = 0;
  FakeBackend backend_;
  Targets targets_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<Driver> driver_;
  int64_t nonce_ = 0;
};

TEST_F(DriverTest, WorksByItself) {
  Send({Stage2("s", "s2", 2), Viommu("v", "v", 3), Nested("n", "v", "n", 4), Vdevice("d", "v", 7, 5, 0, "n")});
  EXPECT_TRUE(WaitFor(v1::OUTCOME_APPLIED, 4));
  EXPECT_EQ(driver_->Counts()["applied"], 4u);
  EXPECT_GT(driver_->journal_stats().size_bytes, 0u);
}

TEST_F(DriverTest, RetriesByItself) {
  backend_.faults["AllocViommu"] = {EBUSY, EBUSY};
  Send({Stage2("s", "s2", 2), Viommu("v", "v", 3), Vdevice("d", "v", 7, 5)});
  EXPECT_TRUE(WaitFor(v1::OUTCOME_APPLIED, 3));
}

// Local callers that never pause slow the work down, and do not stop it.
TEST_F(DriverTest, BusyCallersDoNotKeepTheWorkFromBeingDone) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> callers;
  for (int i = 0; i < 8; ++i) {
    callers.emplace_back([&] {
      while (!stop.load()) driver_->Counts();
    });
  }
  Send({Stage2("s", "s2", 2), Viommu("v", "v", 3), Nested("n", "v", "n", 4), Vdevice("d", "v", 7, 5, 0, "n")});
  EXPECT_TRUE(WaitForApplied(4)) << "the work stood still while others called";
  stop = true;
  for (auto& caller : callers) caller.join();
}

// Callers from every side while things come and go: no invalidation ever meets an object that is gone, nothing stalls.
TEST_F(DriverTest, InvalidationsAndStatusRunBesideTheWork) {
  Invalidator invalidator(targets_, backend_.capabilities, {});
  std::atomic<bool> stop{false};
  std::atomic<int> carried_out{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      google::protobuf::RepeatedPtrField<v1::Command> commands;
      commands.Add()->mutable_tlbi_nh_all();
      while (!stop.load()) {
        if (invalidator.Invalidate("viommus/v", commands).ok()) ++carried_out;
      }
    });
  }
  threads.emplace_back([&] {
    while (!stop.load()) {
      driver_->Counts();
      driver_->List({}, 10);
      std::this_thread::yield();
    }
  });
  int64_t generation = 1;
  for (int round = 0; round < 30; ++round) {
    const std::string id = std::to_string(round);
    Send({Stage2("s" + id, "s2", generation), Viommu("v" + id, "v", generation + 1),
          Vdevice("d" + id, "v", 7, generation + 2)});
    ASSERT_TRUE(WaitFor(v1::OUTCOME_APPLIED, 3));
    Send({Deleting(Stage2("s" + id, "s2", 0), generation + 3), Deleting(Viommu("v" + id, "v", 0), generation + 4),
          Deleting(Vdevice("d" + id, "v", 7, 0), generation + 5)});
    ASSERT_TRUE(WaitFor(v1::OUTCOME_RELEASED, 3));
    generation += 6;
  }
  stop = true;
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(backend_.contexts, 0);
}

// An agent that ends closes its VMMs' connections. Contexts that outlive it keep their memory.
TEST_F(DriverTest, AfterTheStopNoOwnerIsForgotten) {
  Send({Stage2("s", "s2", 2), Viommu("v", "v", 3), Vdevice("d", "v", 7, 5)});
  ASSERT_TRUE(WaitFor(v1::OUTCOME_APPLIED, 3));
  VmMemory::Range range;
  range.length = 0x1000;
  range.owner = 1;
  range.file = std::make_shared<const FileDescriptor>(::memfd_create("guest", MFD_CLOEXEC));
  ASSERT_TRUE(driver_->MapMemory("vm1", 0x40000000, range).ok());
  driver_->Stop();
  driver_->ForgetOwner(1);
  EXPECT_EQ(backend_.log.back(), "MapIoas 0x40000000");
}

}  // namespace
}  // namespace viommu::agent
