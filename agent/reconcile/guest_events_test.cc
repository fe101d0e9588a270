#include "agent/reconcile/guest_events.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <thread>
#include <vector>

#include "agent/reconcile/reconciler_fixture.h"
#include "common/log.h"

namespace viommu::agent {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr char kViommu[] = "viommus/v";

Vevent Fault(uint32_t sequence, uint64_t address = 0x1000) {
  smmuv3::Event event;
  event.id = smmuv3::EventId::kFTranslation;
  event.sid = 7;
  event.address = address;
  return {.lost = false, .sequence = sequence, .record = smmuv3::EncodeEvent(event)};
}
Vevent Lost(uint32_t sequence) { return {.lost = true, .sequence = sequence, .record = {}}; }

class GuestEventsTest : public ReconcilerTest {
 protected:
  GuestEventsTest() {
    reads_events_ = true;
    backend_.on_read_events = [this](ObjectId queue, uint32_t max) {
      std::deque<Vevent>& waiting = waiting_[queue];
      std::vector<Vevent> read;
      for (; read.size() < max && !waiting.empty(); waiting.pop_front()) read.push_back(waiting.front());
      return read;
    };
    LogOptions options;
    options.writer = [this](std::string_view line) { lines_.emplace_back(line); };
    InitLogging(options);
    Start();
  }
  ~GuestEventsTest() override { InitLogging({}); }

  // The kernel's id of the event queue of the viommu with this uid.
  ObjectId QueueOf(const std::string& uid) const {
    for (const auto& object : reconciler_->List({}, 100)) {
      if (UidOf(object.resource()) == uid && object.kernel_ids().contains("event_queue")) {
        return object.kernel_ids().at("event_queue");
      }
    }
    return 0;
  }
  GuestEvents::Events Told(const std::string& viommu = kViommu, uint64_t after = 0) const {
    auto events = events_->List(viommu, after);
    EXPECT_TRUE(events.has_value()) << viommu;
    return events.value_or(GuestEvents::Events{});
  }
  static std::vector<uint64_t> Numbers(const GuestEvents::Events& events) {
    std::vector<uint64_t> numbers;
    for (const GuestEvent& event : events.kept) numbers.push_back(event.number);
    return numbers;
  }
  size_t Lines(const std::string& what) const {
    return static_cast<size_t>(std::count_if(
        lines_.begin(), lines_.end(), [&](const std::string& line) { return line.find(what) != std::string::npos; }));
  }

  std::map<ObjectId, std::deque<Vevent>> waiting_;
  std::vector<std::string> lines_;
};

TEST_F(GuestEventsTest, AnEventIsTold) {
  MakeVm();
  waiting_[QueueOf("v")] = {Fault(0, 0x1000), Fault(1, 0x2000)};
  events_->Turn();
  EXPECT_THAT(Numbers(Told()), ElementsAre(1, 2));
  EXPECT_EQ(Told().kept[0].record, Fault(0, 0x1000).record);
  EXPECT_EQ(Told().kept[0].time, clock_.Now());
  EXPECT_EQ(Told().lost, 0u);
  EXPECT_THAT(Numbers(Told(kViommu, 1)), ElementsAre(2));
  EXPECT_THAT(Numbers(Told(kViommu, 2)), IsEmpty());
  EXPECT_THAT(Numbers(Told(kViommu, 3)), ElementsAre(1, 2)) << "no event has that number: it is of an earlier queue";
  EXPECT_FALSE(events_->List("viommus/w", 0).has_value());
  EXPECT_THAT(lines_, Contains(HasSubstr("guest fault vm=vm1 viommu=viommus/v vdev_id=0x7 fault=F_TRANSLATION "
                                         "ssid=none address=0x1000 events=1 lost=0")));
}

TEST_F(GuestEventsTest, WhatIsMissingIsCountedAsLost) {
  uint64_t lost = 0;
  GuestEvents events({.clock = &clock_, .on_event = {}, .on_lost = [&lost](uint64_t count) { lost += count; }});
  MakeVm();
  const ObjectId queue = QueueOf("v");
  events.Add("v", {.viommu = kViommu, .vm = "vm1", .context = &backend_.OpenedContext(0), .id = queue});
  // 1 and 2; 4 and 5, of which a mark tells; 6.
  waiting_[queue] = {Fault(0), Fault(3), Lost(5), Fault(7)};
  events.Turn();
  EXPECT_THAT(Numbers(*events.List(kViommu, 0)), ElementsAre(1, 4, 8));
  EXPECT_EQ(events.List(kViommu, 0)->lost, 5u);
  EXPECT_EQ(events.List(kViommu, 0)->count, 8u);
  EXPECT_EQ(lost, 5u);
  // Numbers of the queue begin again at 2^31.
  waiting_[queue] = {Lost(0x7ffffffe), Fault(0x7fffffff), Fault(0)};
  events.Turn();
  EXPECT_EQ(lost, 5u + 0x7fffffff - 8);
}

// A guest that faults without end: the others' events come through, and memory and log have their limits.
TEST_F(GuestEventsTest, AFloodIsBounded) {
  MakeVm();
  ASSERT_TRUE(Send({Viommu("w", "w", 6, "s2"), Vdevice("e", "w", 9, 7, 1)}).ok());
  Run();
  const ObjectId flooded = QueueOf("v");
  const ObjectId other = QueueOf("w");
  ASSERT_NE(other, 0u);
  uint32_t sequence = 0;
  std::map<ObjectId, uint64_t> read;
  backend_.on_read_events = [&](ObjectId queue, uint32_t max) {
    std::vector<Vevent> events;
    while (queue == flooded && events.size() < max) events.push_back(Fault(sequence++));
    if (queue == other && read[other] == 0) events.push_back(Fault(0));
    read[queue] += events.size();
    return events;
  };
  events_->Turn();
  EXPECT_EQ(read[flooded], GuestEvents::kMaxPerTurn);
  EXPECT_EQ(read[other], 1u);
  for (int i = 0; i < 9; ++i) events_->Turn();
  EXPECT_EQ(read[flooded], 10 * GuestEvents::kMaxPerTurn);
  EXPECT_EQ(Told().kept.size(), GuestEvents::kMaxKept);
  EXPECT_EQ(Told().kept.back().number, 10 * GuestEvents::kMaxPerTurn);
  EXPECT_EQ(Told("viommus/w").kept.size(), 1u);
  EXPECT_EQ(Lines("guest fault"), 2u);
  clock_.Advance(GuestEvents::kLogEvery);
  events_->Turn();
  EXPECT_EQ(Lines("guest fault"), 3u);
  EXPECT_THAT(lines_.back(), HasSubstr(" events=640 "));
}

TEST_F(GuestEventsTest, LinesOfTheLogHaveALimitForAll) {
  MakeVm();
  const ObjectId queue = QueueOf("v");
  Context& context = backend_.OpenedContext(0);
  backend_.on_read_events = [](ObjectId, uint32_t) { return std::vector<Vevent>{Fault(0)}; };
  for (int i = 0; i < 2 * GuestEvents::kMaxLines; ++i) {
    events_->Add(std::to_string(i), {.viommu = std::to_string(i), .vm = "vm1", .context = &context, .id = queue});
  }
  events_->Turn();
  EXPECT_EQ(Lines("guest fault"), static_cast<size_t>(GuestEvents::kMaxLines));
}

TEST_F(GuestEventsTest, AQueueGoesBeforeItsViommuWhateverWaitsInIt) {
  MakeVm();
  waiting_[QueueOf("v")] = {Fault(0), Fault(1)};
  ASSERT_TRUE(Send({Deleting(Vdevice("d", "v", 7, 5), 10), Deleting(Nested("n", "v", "n", 4), 11),
                    Deleting(Viommu("v", "v", 3), 12), Deleting(Stage2("s", "s2", 2), 13)})
                  .ok());
  EXPECT_THAT(Run(), Contains("v@12 RELEASED"));
  const auto& log = backend_.log;
  EXPECT_EQ(std::find(log.begin(), log.end(), "Destroy viommu") - std::find(log.begin(), log.end(), "Destroy veventq"),
            1);
  EXPECT_EQ(events_->queues(), 0u);
  events_->Turn();
  EXPECT_FALSE(events_->List(kViommu, 0).has_value());
}

TEST_F(GuestEventsTest, AViommuThatIsMadeAgainBeginsAnew) {
  MakeVm();
  waiting_[QueueOf("v")] = {Fault(0)};
  events_->Turn();
  ASSERT_TRUE(Send({Deleting(Vdevice("d", "v", 7, 5), 10), Deleting(Nested("n", "v", "n", 4), 11),
                    Deleting(Viommu("v", "v", 3), 12)})
                  .ok());
  Run();
  ASSERT_TRUE(Send({Viommu("v2", "v", 13), Vdevice("d2", "v", 7, 14)}).ok());
  EXPECT_THAT(Run(), Contains("v2@13 APPLIED"));
  EXPECT_EQ(Told().count, 0u);
  waiting_[QueueOf("v2")] = {Fault(0)};
  events_->Turn();
  EXPECT_THAT(Numbers(Told()), ElementsAre(1));
}

TEST_F(GuestEventsTest, AViommuWithoutAQueueServesAndTheLogSaysWhyOnce) {
  backend_.faults["AllocVeventq"] = {EOPNOTSUPP, EOPNOTSUPP};
  MakeVm();
  ASSERT_TRUE(Send({Viommu("w", "w", 6, "s2"), Vdevice("e", "w", 9, 7, 1)}).ok());
  EXPECT_THAT(Run(), Contains("w@6 APPLIED"));
  EXPECT_EQ(events_->queues(), 0u);
  EXPECT_EQ(Lines("guest events stay unknown"), 1u);
}

// For want of memory, say. Each has its turn, and the waits grow.
TEST_F(GuestEventsTest, AQueueThatCouldNotBeMadeIsTriedAgain) {
  backend_.faults["AllocVeventq"] = {ENOMEM, ENOMEM, ENOMEM, ENOMEM};
  MakeVm();
  ASSERT_TRUE(Send({Viommu("w", "w", 6, "s2"), Vdevice("e", "w", 9, 7, 1)}).ok());
  EXPECT_THAT(Run(), Contains("w@6 APPLIED"));
  EXPECT_EQ(events_->queues(), 0u);
  EXPECT_EQ(backend_.faults["AllocVeventq"].size(), 2u) << "nothing is tried again before its time";
  EXPECT_EQ(Lines("guest events unknown for now"), 1u);
  clock_.Advance(std::chrono::milliseconds(500));
  auto next = reconciler_->Run(100);
  EXPECT_EQ(backend_.faults["AllocVeventq"].size(), 1u) << "one fails, and the others wait";
  ASSERT_TRUE(next.has_value());
  EXPECT_GE(*next - clock_.Monotonic(), std::chrono::milliseconds(500));
  EXPECT_LE(*next - clock_.Monotonic(), std::chrono::seconds(1));
  clock_.Advance(std::chrono::seconds(1));
  next = reconciler_->Run(100);
  ASSERT_TRUE(next.has_value());
  EXPECT_EQ(events_->queues(), 0u);
  clock_.Advance(std::chrono::seconds(2));
  EXPECT_FALSE(reconciler_->Run(100).has_value());
  EXPECT_EQ(events_->queues(), 2u);
  EXPECT_EQ(Lines("guest events are known now"), 2u);
  waiting_[QueueOf("w")] = {Fault(0)};
  events_->Turn();
  EXPECT_EQ(Told("viommus/w").count, 1u);
}

TEST_F(GuestEventsTest, AReleasedViommuIsNotTriedAgain) {
  backend_.faults["AllocVeventq"] = {ENOMEM};
  MakeVm();
  ASSERT_TRUE(Send({Deleting(Vdevice("d", "v", 7, 5), 10), Deleting(Nested("n", "v", "n", 4), 11),
                    Deleting(Viommu("v", "v", 3), 12)})
                  .ok());
  EXPECT_THAT(Run(), Contains("v@12 RELEASED"));
  clock_.Advance(std::chrono::minutes(1));
  EXPECT_FALSE(reconciler_->Run(100).has_value());
  EXPECT_EQ(events_->queues(), 0u);
}

// As by an agent of which the journal knows nothing.
TEST_F(GuestEventsTest, AViommuWithAQueueOfSomebodyElseServes) {
  backend_.faults["AllocVeventq"] = {EEXIST};
  MakeVm();
  EXPECT_EQ(Lines("has an event queue that this agent does not know"), 1u);
  clock_.Advance(std::chrono::minutes(1));
  EXPECT_FALSE(reconciler_->Run(100).has_value());
  EXPECT_EQ(events_->queues(), 0u);
}

TEST_F(GuestEventsTest, AQueueThatCannotBeEndedIsSaid) {
  backend_.keeps_contexts = true;
  MakeVm();
  backend_.faults["Destroy"] = {EBUSY};
  Start();
  EXPECT_EQ(Lines("the event queue of an earlier agent cannot be ended"), 1u);
  EXPECT_EQ(events_->queues(), 0u);
  Run();
  EXPECT_EQ(reconciler_->Counts().at("applied"), 4u);
}

TEST_F(GuestEventsTest, WhatCannotBeReadIsSaidOnce) {
  MakeVm();
  events_->Add("x", {.viommu = "viommus/x", .vm = "vm1", .context = &backend_.OpenedContext(0), .id = 99});
  waiting_[QueueOf("v")] = {Fault(0)};
  events_->Turn();
  events_->Turn();
  EXPECT_EQ(Lines("guest events cannot be read"), 1u);
  EXPECT_EQ(Told().count, 1u);
}

TEST_F(GuestEventsTest, AQueueIsNoStray) {
  MakeVm();
  const auto counts = reconciler_->CountDrift();
  EXPECT_EQ(counts.strays, 0u);
  // One that is nobody's is.
  ASSERT_TRUE(Send({Viommu("w", "w", 6, "s2"), Vdevice("e", "w", 9, 7, 1)}).ok());
  backend_.faults["AllocVeventq"] = {EOPNOTSUPP};
  Run();
  ObjectId viommu = 0;
  const std::vector<ObjectInfo> objects = *backend_.OpenedContext(0).Objects();
  for (const ObjectInfo& object : objects) {
    if (object.kind == ObjectKind::kViommu) viommu = std::max(viommu, object.id);
  }
  ASSERT_TRUE(backend_.OpenedContext(0).AllocVeventq(viommu, VeventqType::kArmSmmuv3, 1).ok());
  EXPECT_EQ(reconciler_->CountDrift().strays, 1u);
}

// The descriptor of a queue goes with its process: an adopted context gets another one.
TEST_F(GuestEventsTest, AnAdoptedViommuGetsAnotherQueue) {
  backend_.keeps_contexts = true;
  MakeVm();
  EXPECT_EQ(journal_->state().kept().at("vm1").objects.at("v").event_queue(), QueueOf("v"));
  Start();
  EXPECT_THAT(backend_.log, ElementsAre("AdoptContext", "Destroy veventq", "AllocVeventq"));
  EXPECT_TRUE(journal_->state().kept().at("vm1").changing.empty());
  waiting_[QueueOf("v")] = {Fault(0)};
  events_->Turn();
  EXPECT_EQ(Told().count, 1u);
  // And again, of what the journal says now.
  Start();
  EXPECT_THAT(backend_.log, ElementsAre("AdoptContext", "Destroy veventq", "AllocVeventq"));
  // Also where an earlier version of the agent has made none.
  backend_.faults["AllocVeventq"] = {ENOMEM};
  Start();
  EXPECT_THAT(backend_.log, ElementsAre("AdoptContext", "Destroy veventq"));
  Start();
  EXPECT_THAT(backend_.log, ElementsAre("AdoptContext", "AllocVeventq"));
}

TEST_F(GuestEventsTest, AQueueIsNotTakenAwayWhileItIsRead) {
  MakeVm();
  std::atomic<bool> removing = false;
  std::thread remover;
  int gone = 0;
  backend_.on_read_events = [&](ObjectId, uint32_t) {
    remover = std::thread([&] {
      removing = true;
      events_->Remove("v");
    });
    while (!removing) std::this_thread::yield();
    for (int i = 0; i < 1000; ++i) {
      std::this_thread::yield();
      gone += events_->List(kViommu, 0).has_value() ? 0 : 1;
    }
    return std::vector<Vevent>{Fault(0)};
  };
  events_->Turn();
  remover.join();
  EXPECT_EQ(gone, 0);
  EXPECT_EQ(events_->queues(), 0u);
}

TEST_F(GuestEventsTest, AThreadTakesATurnInEachPeriodHoweverOftenItIsWoken) {
  MakeVm();
  const ObjectId queue = QueueOf("v");
  Context& context = backend_.OpenedContext(0);
  Mutex mu;
  CondVar cv;
  int reads = 0;
  backend_.on_read_events = [&](ObjectId id, uint32_t) {
    MutexLock lock(mu);
    reads += id == queue ? 1 : 0;
    cv.NotifyAll();
    return std::vector<Vevent>();
  };
  const auto wait_for = [&](int count) {
    MutexLock lock(mu);
    while (reads < count) cv.Wait(mu);
  };
  events_->Start();
  wait_for(1);
  for (int turn = 2; turn < 5; ++turn) {
    for (int i = 0; i < 100; ++i) {
      events_->Add("x", {.viommu = "viommus/x", .vm = "vm1", .context = &context, .id = 99});
      std::this_thread::yield();
      events_->Remove("x");
    }
    clock_.Advance(GuestEvents::kTurnEvery);
    wait_for(turn);
  }
  events_->Stop();
  EXPECT_EQ(reads, 4) << "one for each period that has passed";
}

}  // namespace
}  // namespace viommu::agent
