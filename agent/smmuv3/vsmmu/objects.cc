#include "agent/smmuv3/vsmmu/objects.h"

#include <utility>

namespace viommu::agent {

ObjectId ObjectTable::Add(std::unique_ptr<Object> object) {
  MutexLock lock(mu_);
  if (free_.empty()) {
    objects_.push_back(nullptr);
    free_.push(static_cast<ObjectId>(objects_.size()));
  }
  const ObjectId id = free_.top();
  free_.pop();
  object->id = id;
  objects_[id - 1] = std::move(object);
  return id;
}

Object* ObjectTable::FindAny(ObjectId id) const {
  MutexLock lock(mu_);
  return id == 0 || id > objects_.size() ? nullptr : objects_[id - 1].get();
}

Object* ObjectTable::Pin(ObjectId id) {
  MutexLock lock(mu_);
  Object* object = id == 0 || id > objects_.size() ? nullptr : objects_[id - 1].get();
  if (object != nullptr) object->in_flight.fetch_add(1, std::memory_order_relaxed);
  return object;
}

std::unique_ptr<Object> ObjectTable::Remove(ObjectId id, bool keep_id) {
  MutexLock lock(mu_);
  std::unique_ptr<Object>& place = objects_[id - 1];
  if (place->users != 0 || place->in_flight.load(std::memory_order_acquire) != 0) return nullptr;
  if (!keep_id) free_.push(id);
  return std::move(place);
}

void ObjectTable::ForEach(const std::function<void(Object*)>& visit) const {
  MutexLock lock(mu_);
  for (const auto& object : objects_) {
    if (object != nullptr) visit(object.get());
  }
}

}  // namespace viommu::agent
