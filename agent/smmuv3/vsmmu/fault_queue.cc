#include "agent/smmuv3/vsmmu/fault_queue.h"

namespace viommu::agent {

bool FaultQueue::Push(const PageFault& fault, const StallTag& tag) {
  MutexLock lock(mu_);
  if (closed_ || unread_.size() + waiting_.size() >= kMaxWaiting) return false;
  unread_.emplace_back(fault, tag);
  return true;
}

std::vector<PageFault> FaultQueue::Read(uint32_t max) {
  MutexLock lock(mu_);
  std::vector<PageFault> faults;
  auto taken = waiting_.begin();
  uint32_t cookie = 0;
  while (faults.size() < max && !unread_.empty()) {
    for (; taken != waiting_.end() && taken->first == cookie; ++taken) ++cookie;
    auto& [fault, tag] = unread_.front();
    fault.cookie = cookie;
    faults.push_back(fault);
    waiting_.emplace_hint(taken, cookie++, tag);
    unread_.pop_front();
  }
  return faults;
}

std::optional<StallTag> FaultQueue::Take(uint32_t cookie) {
  MutexLock lock(mu_);
  const auto found = waiting_.find(cookie);
  if (found == waiting_.end()) return std::nullopt;
  const StallTag tag = found->second;
  waiting_.erase(found);
  return tag;
}

std::vector<StallTag> FaultQueue::TakeStream(const HostSmmu* smmu, uint32_t sid) {
  const auto matches = [&](const StallTag& tag) { return tag.smmu == smmu && tag.sid == sid; };
  MutexLock lock(mu_);
  std::vector<StallTag> tags;
  for (const auto& [cookie, tag] : waiting_) {
    if (matches(tag)) tags.push_back(tag);
  }
  for (const auto& [fault, tag] : unread_) {
    if (matches(tag)) tags.push_back(tag);
  }
  std::erase_if(waiting_, [&](const auto& entry) { return matches(entry.second); });
  std::erase_if(unread_, [&](const auto& entry) { return matches(entry.second); });
  return tags;
}

std::vector<StallTag> FaultQueue::Close() {
  MutexLock lock(mu_);
  closed_ = true;
  std::vector<StallTag> tags;
  for (const auto& [cookie, tag] : waiting_) tags.push_back(tag);
  for (const auto& [fault, tag] : unread_) tags.push_back(tag);
  waiting_.clear();
  unread_.clear();
  return tags;
}

}  // namespace viommu::agent
