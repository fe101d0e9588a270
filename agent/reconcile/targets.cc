#include "agent/reconcile/targets.h"

#include "common/error.h"

namespace viommu::agent {

Targets::Lease::~Lease() {
  if (entry_ == nullptr) return;
  MutexLock lock(targets_->mu_);
  if (--entry_->leases == 0) targets_->idle_.NotifyAll();
}

absl::StatusOr<Targets::Lease> Targets::Acquire(std::string_view name_or_uid) {
  MutexLock lock(mu_);
  auto it = by_uid_.find(std::string(name_or_uid));
  if (it == by_uid_.end()) {
    it = by_name_.find(std::string(name_or_uid));
    if (it == by_name_.end()) {
      const bool nested = name_or_uid.find("/nestedDomains/") != std::string_view::npos;
      return Error(absl::StatusCode::kNotFound,
                   nested ? v1::ERROR_REASON_NESTED_DOMAIN_NOT_FOUND : v1::ERROR_REASON_VIOMMU_NOT_FOUND)
          .Message("this host holds no viommu or nested domain {}; `viommuctl get viommus` tells where each one is",
                   name_or_uid)
          .Meta("target", name_or_uid);
    }
  }
  const std::shared_ptr<Entry>& entry = it->second;
  if (entry->object.id == 0) {
    return Error(absl::StatusCode::kFailedPrecondition, v1::ERROR_REASON_NOT_REALIZED)
        .Message(
            "{} has no kernel object at the moment: it is made along with the first vdevice, so there is nothing "
            "to invalidate, and no event",
            entry->name)
        .Meta("target", entry->name);
  }
  ++entry->leases;
  Lease lease(this, entry);
  lease.object_ = entry->object;
  return lease;
}

void Targets::Declare(const std::string& uid, const std::string& name) {
  MutexLock lock(mu_);
  auto& entry = by_uid_[uid];
  if (entry == nullptr) entry = std::make_shared<Entry>();
  entry->uid = uid;
  entry->name = name;
  by_name_[name] = entry;
}

void Targets::Publish(const std::string& uid, const TargetObject& object) {
  MutexLock lock(mu_);
  const auto it = by_uid_.find(uid);
  if (it != by_uid_.end()) it->second->object = object;
}

void Targets::Withdraw(const std::string& uid) {
  MutexLock lock(mu_);
  const auto it = by_uid_.find(uid);
  if (it == by_uid_.end()) return;
  const std::shared_ptr<Entry> entry = it->second;
  entry->object = {};
  while (entry->leases > 0) idle_.Wait(mu_);
}

void Targets::AddVdevId(const std::string& viommu_uid, uint64_t vdev_id) {
  MutexLock lock(mu_);
  vdev_ids_[viommu_uid].insert(vdev_id);
}

void Targets::RemoveVdevId(const std::string& viommu_uid, uint64_t vdev_id) {
  MutexLock lock(mu_);
  const auto it = vdev_ids_.find(viommu_uid);
  if (it == vdev_ids_.end()) return;
  it->second.erase(vdev_id);
  if (it->second.empty()) vdev_ids_.erase(it);
}

bool Targets::HasVdevId(const std::string& viommu_uid, uint64_t vdev_id) {
  MutexLock lock(mu_);
  const auto it = vdev_ids_.find(viommu_uid);
  return it != vdev_ids_.end() && it->second.contains(vdev_id);
}

void Targets::Forget(const std::string& uid) {
  MutexLock lock(mu_);
  const auto it = by_uid_.find(uid);
  if (it == by_uid_.end()) return;
  const auto named = by_name_.find(it->second->name);
  if (named != by_name_.end() && named->second == it->second) by_name_.erase(named);
  by_uid_.erase(it);
}

}  // namespace viommu::agent
