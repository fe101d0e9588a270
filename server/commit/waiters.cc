#include "server/commit/waiters.h"

#include <algorithm>
#include <utility>

#include "common/mutation.h"

namespace viommu::server {
namespace {

template <typename T>
bool Answered(const T& resource, int64_t generation) {
  return resource.observed_generation() >= generation && resource.state() != v1::STATE_PENDING &&
         resource.state() != v1::STATE_DELETING;
}

// Whether the host has answered about `generation`.
bool Settled(Kind kind, const google::protobuf::Message& record, int64_t generation) {
  switch (kind) {
    case Kind::kStage2Domain:
      return Answered(static_cast<const v1::Stage2Domain&>(record), generation);
    case Kind::kViommu:
      return Answered(static_cast<const v1::Viommu&>(record), generation);
    case Kind::kVdevice:
      return Answered(static_cast<const v1::Vdevice&>(record), generation);
    case Kind::kNestedDomain:
      return Answered(static_cast<const v1::NestedDomain&>(record), generation);
    case Kind::kHwQueue:
      return Answered(static_cast<const v1::HwQueue&>(record), generation);
    case Kind::kHost:
    case Kind::kDevice:
    case Kind::kQuota:
      return true;  // nothing is asked of the host
  }
  return true;
}

// The resource that has the uid of `seen` now; null when it is gone. Rebinds may have changed its name: its device
// knows the present one.
RecordPtr Present(const View& view, Kind kind, const RecordPtr& seen) {
  const std::string& uid = UidOf(kind, *seen);
  const std::string& name = NameOf(kind, *seen);
  RecordPtr record = view.FindRecord(kind, name);
  if (record != nullptr && UidOf(kind, *record) == uid) return record;
  if (kind != Kind::kVdevice) return nullptr;
  const auto device = view.Find<v1::Device>(static_cast<const v1::Vdevice&>(*seen).device());
  if (device == nullptr || device->owner().empty()) return nullptr;
  record = view.FindRecord(kind, device->owner());
  return record != nullptr && UidOf(kind, *record) == uid ? record : nullptr;
}

}  // namespace

int64_t Waiters::Add(Kind kind, const RecordPtr& seen, Callback callback) {
  const std::string uid = UidOf(kind, *seen);
  const int64_t generation = GenerationOf(kind, *seen);
  int64_t id = 0;
  {
    // Registered first and looked up second, so that an answer between the two is not missed.
    MutexLock lock(mu_);
    id = next_id_++;
    by_uid_[uid].push_back({id, generation, callback});
    uid_of_.emplace(id, uid);
  }
  auto [present, revision] =
      core_.Read([&](const Tables& tables, int64_t at) { return std::make_pair(Present(tables, kind, seen), at); });
  if (present == nullptr || Settled(kind, *present, generation)) {
    if (Cancel(id)) callback(present != nullptr ? present : seen, revision);
  }
  return id;
}

bool Waiters::Cancel(int64_t id) {
  MutexLock lock(mu_);
  const auto found = uid_of_.find(id);
  if (found == uid_of_.end()) return false;
  const auto waiters = by_uid_.find(found->second);
  std::erase_if(waiters->second, [id](const Waiter& waiter) { return waiter.id == id; });
  if (waiters->second.empty()) by_uid_.erase(waiters);
  uid_of_.erase(found);
  return true;
}

void Waiters::OnCommit(const std::vector<ChangeSetPtr>& sets) {
  struct Call {
    Callback callback;
    RecordPtr resource;
    int64_t revision;
  };
  std::vector<Call> calls;
  {
    MutexLock lock(mu_);
    if (by_uid_.empty()) return;
    for (const ChangeSetPtr& set : sets) {
      for (const Change& change : set->changes) {
        const RecordPtr& record = change.after != nullptr ? change.after : change.before;
        const auto found = by_uid_.find(UidOf(change.kind, *record));
        if (found == by_uid_.end()) continue;
        // A rebind takes the record away under its old name and puts it under the new one in the same set.
        const bool renamed =
            change.after == nullptr && std::any_of(set->changes.begin(), set->changes.end(), [&](const Change& other) {
              return other.after != nullptr && UidOf(other.kind, *other.after) == found->first;
            });
        if (renamed) continue;
        std::vector<Waiter>& waiters = found->second;
        for (auto it = waiters.begin(); it != waiters.end();) {
          const bool gone = change.after == nullptr && !Mutated(Mutation::kForgetGoneWaiter);
          if (gone || Settled(change.kind, *record, it->generation)) {
            uid_of_.erase(it->id);
            calls.push_back({std::move(it->callback), record, set->revision});
            it = waiters.erase(it);
          } else {
            ++it;
          }
        }
        if (waiters.empty()) by_uid_.erase(found);
      }
    }
  }
  for (Call& call : calls) call.callback(call.resource, call.revision);
}

int64_t Waiters::count() const {
  MutexLock lock(mu_);
  return static_cast<int64_t>(uid_of_.size());
}

}  // namespace viommu::server
