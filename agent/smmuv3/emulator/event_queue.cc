#include "agent/smmuv3/emulator/event_queue.h"

#include <algorithm>

#include "agent/smmuv3/spec/registers.h"

namespace viommu::smmuv3 {

EventQueue::EventQueue(Memory* memory, uint32_t max_log2_size, Interrupts* interrupts)
    : interrupts_(interrupts), ring_(memory, sizeof(RawEvent), max_log2_size) {}

bool EventQueue::Append(const Event& event, Consequences& consequences) {
  if (!enabled_ || consequences.aborted || interrupts_->IsActive(gerror::kEventqAbt)) return false;
  const RawEvent raw = EncodeEvent(event);
  switch (ring_.Append(raw)) {
    case RecordRing::Put::kDoneFirst:
      consequences.interrupt = true;
      [[fallthrough]];
    case RecordRing::Put::kDone:
      ++recorded_;
      return true;
    case RecordRing::Put::kFull:
      return false;
    case RecordRing::Put::kAborted:
      break;
  }
  consequences.aborted = true;
  return false;
}

void EventQueue::Flush(Consequences& consequences) {
  while (!waiting_.empty() && Append(waiting_.front(), consequences)) waiting_.pop_front();
}

void EventQueue::Act(const Consequences& consequences) {
  if (consequences.aborted) interrupts_->RaiseError(gerror::kEventqAbt);
  if (consequences.interrupt) interrupts_->Raise(Interrupt::kEventq);
}

EventQueue::Consequences EventQueue::Record(const Event& event) {
  Consequences consequences;
  MutexLock lock(mu_);
  Flush(consequences);
  if (Append(event, consequences)) return consequences;
  if (event.stall) {
    waiting_.push_back(event);
    return consequences;
  }
  ++lost_;
  // Only records that a full queue has no room for are announced as lost (7.4).
  if (enabled_ && ring_.IsFull() && ring_.Overflow()) consequences.interrupt = true;
  return consequences;
}

void EventQueue::DropStall(uint16_t stag) {
  MutexLock lock(mu_);
  std::erase_if(waiting_, [&](const Event& event) { return event.stag == stag; });
}

void EventQueue::Retry() {
  Consequences consequences;
  {
    MutexLock lock(mu_);
    Flush(consequences);
  }
  Act(consequences);
}

void EventQueue::SetEnabled(bool enabled) {
  {
    MutexLock lock(mu_);
    enabled_ = enabled;
  }
  Retry();
}

uint64_t EventQueue::base() const {
  MutexLock lock(mu_);
  return ring_.base();
}

uint32_t EventQueue::prod() const {
  MutexLock lock(mu_);
  return ring_.prod();
}

uint32_t EventQueue::cons() const {
  MutexLock lock(mu_);
  return ring_.cons();
}

void EventQueue::WriteBase(uint64_t value) {
  MutexLock lock(mu_);
  if (!enabled_) ring_.SetBase(value);
}

void EventQueue::WriteProd(uint32_t value) {
  MutexLock lock(mu_);
  if (!enabled_) ring_.SetProd(value);
}

void EventQueue::WriteCons(uint32_t value) {
  {
    MutexLock lock(mu_);
    ring_.SetCons(value);
  }
  Retry();
}

uint64_t EventQueue::recorded() const {
  MutexLock lock(mu_);
  return recorded_;
}

uint64_t EventQueue::lost() const {
  MutexLock lock(mu_);
  return lost_;
}

}  // namespace viommu::smmuv3
