#include "agent/smmuv3/vsmmu/veventq.h"

#include <utility>

namespace viommu::agent {
namespace {

constexpr uint32_t kSequenceMask = 0x7fffffff;

}  // namespace

void VeventQueue::Push(const smmuv3::RawEvent& record) {
  MutexLock lock(mu_);
  const uint32_t sequence = next_sequence_;
  next_sequence_ = (next_sequence_ + 1) & kSequenceMask;
  if (events_.size() >= depth_) {
    lost_ = true;
    lost_sequence_ = sequence;
    return;
  }
  lost_ = false;
  events_.push_back({.lost = false, .sequence = sequence, .record = record});
}

std::vector<Vevent> VeventQueue::Read(uint32_t max) {
  MutexLock lock(mu_);
  std::vector<Vevent> events;
  while (events.size() < max && !events_.empty()) {
    events.push_back(events_.front());
    events_.pop_front();
  }
  if (events.size() < max && lost_) {
    events.push_back({.lost = true, .sequence = lost_sequence_, .record = {}});
    lost_ = false;
  }
  return events;
}

bool ViommuEvents::Add(VeventqType type, std::shared_ptr<VeventQueue> queue) {
  MutexLock lock(mu_);
  return queues_.emplace(type, std::move(queue)).second;
}

void ViommuEvents::Remove(VeventqType type) {
  MutexLock lock(mu_);
  queues_.erase(type);
}

bool ViommuEvents::Deliver(const smmuv3::RawEvent& record) { return Push(VeventqType::kArmSmmuv3, record); }

void ViommuEvents::DeliverQueueErrors(const std::array<uint64_t, 2>& map) {
  static_cast<void>(Push(VeventqType::kTegra241Cmdqv, {map[0], map[1], 0, 0}));
}

bool ViommuEvents::Push(VeventqType type, const smmuv3::RawEvent& record) {
  MutexLock lock(mu_);
  const auto queue = queues_.find(type);
  if (queue == queues_.end()) return false;
  queue->second->Push(record);
  return true;
}

}  // namespace viommu::agent
