#include "agent/smmuv3/emulator/in_flight.h"

#include <chrono>
#include <thread>

namespace viommu::smmuv3 {
namespace {

constexpr int kYields = 8;
constexpr auto kNap = std::chrono::microseconds(20);

uint32_t ThisThread() {
  static std::atomic<uint32_t> next{0};
  thread_local const uint32_t number = next.fetch_add(1, std::memory_order_relaxed);
  return number;
}

void WaitForZero(const std::atomic<uint32_t>& counter) {
  for (int round = 0; counter.load(std::memory_order_seq_cst) != 0; ++round) {
    if (round < kYields) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(kNap);
    }
  }
}

}  // namespace

InFlight::Section::Section(InFlight& owner) {
  Stripe& stripe = owner.stripes_[ThisThread() % kStripes];
  counter_ = &stripe.sections[owner.side_.load(std::memory_order_seq_cst) & 1];
  counter_->fetch_add(1, std::memory_order_seq_cst);
}

void InFlight::Section::End() {
  if (counter_ == nullptr) return;
  counter_->fetch_sub(1, std::memory_order_seq_cst);
  counter_ = nullptr;
}

void InFlight::Wait() {
  MutexLock lock(waiting_);
  // Twice, because a section may have read the side just before it was turned and count itself in after the old side
  // was found empty. That is harmless for this call, whose doings such a section sees, but would leave it on the side
  // that the next call takes for new.
  for (int turn = 0; turn < 2; ++turn) {
    const uint32_t old = side_.fetch_add(1, std::memory_order_seq_cst) & 1;
    for (const Stripe& stripe : stripes_) WaitForZero(stripe.sections[old]);
  }
}

}  // namespace viommu::smmuv3
