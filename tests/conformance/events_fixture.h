// A guest with an event queue.

#ifndef VIOMMU_TESTS_CONFORMANCE_EVENTS_FIXTURE_H_
#define VIOMMU_TESTS_CONFORMANCE_EVENTS_FIXTURE_H_

#include <chrono>
#include <thread>
#include <vector>

#include "agent/smmuv3/spec/event.h"
#include "tests/conformance/guest.h"

namespace viommu::conformance {

// How long an event or a fault may take to come.
inline constexpr auto kEventLimit = std::chrono::seconds(10);

class EventsFixture : public DmaSuite {
 protected:
  // Starts a guest with a page at kVa and an event queue.
  void Start(uint32_t depth = 64) {
    guest().tables().Map(kVa, memory().Filled(kOld));
    guest().Start();
    queue_ = Must(vm()->AllocVeventq(guest().function().viommu, VeventqType::kArmSmmuv3, depth));
  }

  // An access to a page that is not there: an event that is for the guest.
  void Fault(uint64_t page = 0) { EXPECT_EQ(Read(FaultAddress(page)), kRefused); }
  static uint64_t FaultAddress(uint64_t page) { return kVa + (16 + page) * 4096; }

  // Waits until `count` records have been read. Fails when they do not come.
  std::vector<Vevent> Take(size_t count, ObjectId queue) {
    std::vector<Vevent> events;
    const auto deadline = std::chrono::steady_clock::now() + kEventLimit;
    while (events.size() < count && std::chrono::steady_clock::now() < deadline) {
      for (const Vevent& event : Must(vm()->ReadVeventq(queue, static_cast<uint32_t>(count - events.size())))) {
        events.push_back(event);
      }
      std::this_thread::yield();
    }
    EXPECT_EQ(events.size(), count);
    events.resize(count);
    return events;
  }
  std::vector<Vevent> Take(size_t count) { return Take(count, queue_); }
  // The one event that there is.
  smmuv3::Event TakeOne() { return smmuv3::DecodeEvent(Take(1)[0].record); }
  // Nothing came before a fault that is reported for sure.
  void ExpectNothingReported() {
    const RawVste vste = guest().cds().Vste();
    guest().cds().Set(0, MakeCd(kAsid, guest().tables(), Ips()));
    guest().Attach(vste);
    // An entry that is the same as before is not read anew, nor what hangs on it.
    guest().Send(CfgiCdAll(guest().vsid()));
    guest().Send(NhAll());
    EXPECT_EQ(Read(FaultAddress(9)), kRefused);
    EXPECT_EQ(TakeOne().address, FaultAddress(9));
  }

  ObjectId queue_ = 0;
};

}  // namespace viommu::conformance

#endif  // VIOMMU_TESTS_CONFORMANCE_EVENTS_FIXTURE_H_
