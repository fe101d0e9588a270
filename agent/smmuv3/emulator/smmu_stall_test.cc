// Transactions that wait for software after a fault (IHI 0070, 3.12.2, 4.7, 5.5).

#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <optional>
#include <thread>
#include <vector>

#include "agent/smmuv3/emulator/test_machine.h"

namespace viommu::smmuv3 {
namespace {

constexpr uint32_t kSid = 7;
constexpr uint16_t kAsid = 5;
constexpr uint64_t kVa = 0x12'3456'7000;
// CMD_RESUME.
constexpr uint8_t kTerminate = 0, kRetry = 1, kAbort = 2;

class StallTest : public testing::Test {
 protected:
  explicit StallTest(const SmmuOptions& options = {})
      : machine_(kFullFeatures, options), tables_(&machine_.host, Granule::k4k, 48) {
    page_ = machine_.host.AllocatePage();
    machine_.host.Write(page_, 0x1111);
    cd_place_ = machine_.host.AllocatePage();
    Cd cd = TestMachine::MakeCd(tables_, kAsid);
    cd.stall = true;
    cd.record = false;  // without effect where faults stall
    machine_.SetCd(machine_.host, cd_place_, cd);
    machine_.SetSte(kSid, TestMachine::Stage1Ste(cd_place_));
  }
  struct Access {
    Outcome outcome;
    uint64_t value = 0;
  };
  // An access on its own thread.
  std::future<Access> Start(uint64_t address = kVa, EmulatedSmmu::TimePoint deadline = kNever) {
    return std::async(std::launch::async, [this, address, deadline] {
      Access access{.value = 0x77};
      access.outcome = machine_.smmu.Read({.sid = kSid, .address = address},
                                          std::as_writable_bytes(std::span(&access.value, 1)), deadline);
      return access;
    });
  }
  // Waits for the record of a stalled transaction.
  Event NextStall() {
    while (true) {
      const std::vector<Event> events = machine_.TakeEvents();
      if (events.empty()) {
        std::this_thread::yield();
        continue;
      }
      EXPECT_EQ(events.size(), 1u);
      EXPECT_TRUE(events[0].stall);
      return events[0];
    }
  }
  void Answer(const Event& event, uint8_t response, std::optional<uint32_t> sid = {}) {
    machine_.Issue(
        {{.opcode = Opcode::kResume, .sid = sid.value_or(event.sid), .response = response, .tag = event.stag}});
  }
  void WaitStalled(uint32_t count) {
    while (machine_.smmu.GetCounters().stalled != count) std::this_thread::yield();
  }

  TestMachine machine_;
  TestTables tables_;
  uint64_t page_ = 0;
  uint64_t cd_place_ = 0;
};

TEST_F(StallTest, RetryAfterThePageIsThere) {
  std::future<Access> access = Start();
  const Event event = NextStall();
  EXPECT_EQ(
      event,
      (Event{
          .id = EventId::kFTranslation, .sid = kSid, .stag = event.stag, .stall = true, .read = true, .address = kVa}));
  EXPECT_EQ(machine_.smmu.GetCounters().stalled, 1u);
  tables_.Map(kVa, page_, kUserPage);
  Answer(event, kRetry);
  const Access result = access.get();
  EXPECT_EQ(result.outcome.result, TransactionResult::kDone);
  EXPECT_EQ(result.value, 0x1111u);
  EXPECT_EQ(machine_.smmu.GetCounters().stalled, 0u);
}

TEST_F(StallTest, RetryTooEarlyStallsAgain) {
  std::future<Access> access = Start();
  const Event first = NextStall();
  Answer(first, kRetry);
  const Event second = NextStall();
  EXPECT_NE(first.stag, second.stag);
  Answer(first, kAbort);  // too late, for nobody
  tables_.Map(kVa, page_, kUserPage);
  Answer(second, kRetry);
  EXPECT_EQ(access.get().value, 0x1111u);
}

TEST_F(StallTest, TerminatedWithAndWithoutAnError) {
  std::future<Access> access = Start();
  Answer(NextStall(), kAbort);
  EXPECT_EQ(access.get().outcome.result, TransactionResult::kAborted);
  access = Start();
  Answer(NextStall(), kTerminate);
  const Access result = access.get();
  EXPECT_EQ(result.outcome.result, TransactionResult::kRazWi);
  EXPECT_EQ(result.value, 0u);
}

TEST_F(StallTest, OnlyTheRightStreamAndTagAreAnswered) {
  std::future<Access> access = Start();
  const Event event = NextStall();
  Answer(event, kAbort, kSid + 1);
  Event other = event;
  other.stag = static_cast<uint16_t>(event.stag + 1);
  Answer(other, kAbort);
  EXPECT_EQ(machine_.smmu.GetCounters().stalled, 1u);
  machine_.Issue({{.opcode = Opcode::kStallTerm, .sid = kSid + 1}});
  EXPECT_EQ(machine_.smmu.GetCounters().stalled, 1u);
  machine_.Issue({{.opcode = Opcode::kStallTerm, .sid = kSid}});
  EXPECT_EQ(access.get().outcome.result, TransactionResult::kAborted);
}

TEST_F(StallTest, NobodyAnswers) {
  std::future<Access> access = Start(kVa, std::chrono::steady_clock::now());
  EXPECT_EQ(access.get().outcome.result, TransactionResult::kTimedOut);
  EXPECT_EQ(machine_.smmu.GetCounters().stalled, 0u);
}

// A sync does not wait for what waits for software: else nobody could answer.
TEST_F(StallTest, SyncsCompleteMeanwhile) {
  std::future<Access> access = Start();
  const Event event = NextStall();
  machine_.InvalidateAll();
  Answer(event, kAbort);
  access.wait();
}

TEST_F(StallTest, SwitchingTheSmmuOffTerminates) {
  std::future<Access> access = Start();
  NextStall();
  machine_.smmu.WriteRegister(Register::kCr0, TestMachine::kCr0 & ~uint32_t{1});
  EXPECT_EQ(access.get().outcome.result, TransactionResult::kAborted);
}

// Records of stalled transactions wait for room, and announce no overflow (7.4).
TEST_F(StallTest, AFullQueueKeepsTheRecordBack) {
  constexpr uint32_t kSize = 1 << TestMachine::kLog2Events;
  for (uint32_t i = 0; i < kSize; ++i) EXPECT_FALSE(machine_.Read(50, 0).has_value());
  std::future<Access> access = Start();
  WaitStalled(1);
  EXPECT_EQ(machine_.smmu.ReadRegister(Register::kEventqProd), kSize);
  std::vector<Event> events = machine_.TakeEvents();
  ASSERT_EQ(events.size(), kSize + 1);
  EXPECT_TRUE(events.back().stall);
  Answer(events.back(), kAbort);
  access.wait();
  // One that has ended in the meantime is not heard of any more.
  for (uint32_t i = 0; i < kSize; ++i) EXPECT_FALSE(machine_.Read(50, 0).has_value());
  access = Start();
  WaitStalled(1);
  machine_.Issue({{.opcode = Opcode::kStallTerm, .sid = kSid}});
  access.wait();
  events = machine_.TakeEvents();
  EXPECT_EQ(events.size(), kSize);
}

TEST_F(StallTest, Stage2StallsToo) {
  TestTables stage2(&machine_.host, Granule::k4k, 40, 1, false);
  Ste ste = TestMachine::Stage2Ste(stage2, 3);
  ste.s2_stall = true;
  ste.s2_record = false;
  machine_.SetSte(kSid, ste);
  machine_.InvalidateAll();
  std::future<Access> access = Start(0x5000'0000);
  const Event event = NextStall();
  EXPECT_TRUE(event.stage2);
  EXPECT_EQ(event.ipa, 0x5000'0000u);
  stage2.Map(0x5000'0000, page_, kGuestPage);
  Answer(event, kRetry);
  EXPECT_EQ(access.get().value, 0x1111u);
}

// Configuration errors never stall, nor do aborts of walks.
TEST_F(StallTest, OtherErrorsTerminate) {
  tables_.Put(tables_.Place(kVa, 2), EncodeTable(TestMachine::kHole, Granule::k4k));
  EXPECT_EQ(Start().get().outcome.result, TransactionResult::kAborted);
  EXPECT_FALSE(machine_.TakeEvents().at(0).stall);
}

class FewStallsTest : public StallTest {
 protected:
  FewStallsTest() : StallTest({.max_stalled = 2}) {}
};

TEST_F(FewStallsTest, TooManyAreTerminated) {
  std::future<Access> first = Start();
  Answer(NextStall(), kRetry);
  NextStall();  // only now it has given its place up and taken another one
  std::future<Access> second = Start(kVa + 0x1000);
  NextStall();
  const Outcome third = Start(kVa + 0x2000).get().outcome;
  EXPECT_EQ(third.result, TransactionResult::kAborted);
  const std::vector<Event> events = machine_.TakeEvents();
  EXPECT_FALSE(events.back().stall);
  EXPECT_EQ(events.back().address, kVa + 0x2000);
  machine_.Issue({{.opcode = Opcode::kStallTerm, .sid = kSid}});
  first.wait();
  second.wait();
}

}  // namespace
}  // namespace viommu::smmuv3
