// Many callers, one call at a time that does the work of all who wait: flat combining, without a lock.
//
// Where CommandQueue has a consumer of its own, here the callers take turns at being it. A caller that meets nobody
// does its own work at once, on its own thread and out of its own memory. One that meets another at work leaves its
// request and waits; whoever is at work takes all requests that wait, and does them together. So batches grow by
// themselves with the load, and an idle queue costs one compare-exchange and no hand-over to another thread.
//
//   head_   kIdle: nobody. kBusy: somebody is at work and nobody waits. Else: somebody is at work, and this is the last
//           request of those that wait, each naming the one before it.
//
// Promises
//  - Requests are done in the order in which they were left; those of one caller one after the other anyway.
//  - When Run() returns, the request has been done; what was done for it happens before the return.
//  - Whoever is at work goes home after kRounds rounds for others: the first who waits goes on in its place.
//
// Waits spin a little, yield a little, then sleep (Policy). Model checked: combiner_model_test.cc.
//
// `Policy`: agent/smmuv3/queue/atomics.h.

#ifndef VIOMMU_AGENT_SMMUV3_QUEUE_COMBINER_H_
#define VIOMMU_AGENT_SMMUV3_QUEUE_COMBINER_H_

#include <atomic>
#include <chrono>
#include <cstdint>

#include "agent/smmuv3/queue/atomics.h"

namespace viommu::smmuv3 {

// `Request` derives from Combiner::Link. Thread-safe.
template <typename Request, typename Policy = SystemAtomics>
class Combiner {
 public:
  // Rounds that one caller does for others.
  static constexpr uint32_t kRounds = 8;

  // What the combiner keeps in a request. It lives on its caller's stack; once it says kDone, it is gone.
  struct Link {
    Request* next = nullptr;  // for `serve`: the next in the row; null: the last
    typename Policy::template Atomic<uint32_t> word{0};
  };

  // Has `request` done: by `serve(first)`, which does all requests of the row that begins with `first`. Never called
  // beside itself; on the thread of this or of another caller, whose `serve` must do the same.
  template <typename Serve>
  void Run(Request& request, Serve serve) {
    if (!Enter(request)) {
      const uint32_t word = Await(request);
      if ((word & kDone) != 0) return;
    }
    serve(&request);
    Finish(&request, &request);
    for (uint32_t round = 0;; ++round) {
      uint64_t expected = kBusy;
      if (head_.compare_exchange_strong(expected, kIdle, std::memory_order_acq_rel)) return;
      Request* first = TakeWaiting(expected);
      if (round == kRounds) {
        Tell(*first, kLead);
        return;
      }
      serve(first);
      Finish(first, nullptr);
    }
  }

 private:
  static constexpr uint64_t kIdle = 0;
  static constexpr uint64_t kBusy = 1;
  // In Link::word.
  static constexpr uint32_t kSleeps = 1;
  static constexpr uint32_t kDone = 2;
  static constexpr uint32_t kLead = 4;  // the caller is at work now, for the row that begins with its request

  // True: the caller is the one at work, and there are no others. False: its request is in the row.
  bool Enter(Request& request) {
    uint64_t head = head_.load(std::memory_order_relaxed);
    while (true) {
      if (head == kIdle) {
        request.next = nullptr;  // whoever was there a moment ago has gone
        if (head_.compare_exchange_strong(head, kBusy, std::memory_order_acq_rel)) return true;
        continue;
      }
      request.next = head == kBusy ? nullptr : reinterpret_cast<Request*>(head);
      if (head_.compare_exchange_strong(head, reinterpret_cast<uint64_t>(&request), std::memory_order_acq_rel)) {
        return false;
      }
    }
  }

  // Takes all who wait; `head` is what was last seen. In the order in which they came.
  Request* TakeWaiting(uint64_t head) {
    while (!head_.compare_exchange_strong(head, kBusy, std::memory_order_acq_rel)) {
    }
    Request* first = nullptr;
    for (auto* request = reinterpret_cast<Request*>(head); request != nullptr;) {
      Request* before = request->next;
      request->next = first;
      first = request;
      request = before;
    }
    return first;
  }

  // Tells the callers of a row, but for `self`, that they are done.
  void Finish(Request* first, const Request* self) {
    while (first != nullptr) {
      Request* next = first->next;  // told, it is gone
      if (first != self) Tell(*first, kDone);
      first = next;
    }
  }

  void Tell(Request& request, uint32_t what) {
    auto& word = request.word;
    if ((word.fetch_or(what, std::memory_order_acq_rel) & kSleeps) != 0) Policy::WakeAll(word);
  }

  uint32_t Await(Request& request) {
    const auto told = [&] { return request.word.load(std::memory_order_acquire) & (kDone | kLead); };
    for (uint64_t i = 0; i < Policy::kSpins; ++i) {
      if (const uint32_t word = told(); word != 0) return word;
      Policy::Relax();
    }
    for (uint64_t i = 0; i < Policy::kYields; ++i) {
      if (const uint32_t word = told(); word != 0) return word;
      Policy::Yield();
    }
    request.word.fetch_or(kSleeps, std::memory_order_acq_rel);
    while (true) {
      if (const uint32_t word = told(); word != 0) return word;
      Policy::Sleep(request.word, kSleeps, Never());
    }
  }

  static typename Policy::Clock::time_point Never() {
    // Far away, and small enough to be turned into a timeout.
    return Policy::Clock::now() + std::chrono::hours(1);
  }

  static_assert(sizeof(uint64_t) == sizeof(Request*), "requests are told from kIdle and kBusy by their address");

  typename Policy::template Atomic<uint64_t> head_{kIdle};
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_QUEUE_COMBINER_H_
