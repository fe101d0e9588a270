// What invalidations can be sent to: the host's viommus and nested domains, by uid and by name, with the kernel objects
// behind them.
//
// This is all that the way of an invalidation shares with the reconciler, so that an invalidation never waits for work
// on other objects. One rule keeps the two apart: kernel ids are handed out again as soon as an object is gone, so an
// object may only be destroyed after Withdraw() has returned, and an invalidation uses an id only while it holds a
// Lease. Withdraw() lets no new lease begin and waits for those that exist; each lasts for one Context::Invalidate() of
// a bounded number of commands.
//
// Thread-safe. Only the reconciler changes it.

#ifndef VIOMMU_AGENT_RECONCILE_TARGETS_H_
#define VIOMMU_AGENT_RECONCILE_TARGETS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "agent/backend.h"
#include "agent/reconcile/resource.h"
#include "agent/smmuv3/spec/id_registers.h"
#include "common/mutex.h"

namespace viommu::agent {

// A kernel object that invalidations can name.
struct TargetObject {
  Context* context = nullptr;
  ObjectId id = 0;
  ItemKind kind = ItemKind::kViommu;
  std::string viommu;         // uid: its own, or that of the viommu that a nested domain belongs to
  smmuv3::Features features;  // of its SMMU
};

class Targets {
 private:
  struct Entry;

 public:
  // The right to use a target's object. Not to be kept longer than one call of the backend.
  class Lease {
   public:
    Lease(Targets* targets, std::shared_ptr<Entry> entry) : targets_(targets), entry_(std::move(entry)) {}
    Lease(Lease&& other) = default;
    Lease& operator=(Lease&&) = delete;
    ~Lease();
    const TargetObject& object() const { return object_; }

   private:
    friend class Targets;
    Targets* targets_;
    std::shared_ptr<Entry> entry_;  // null after a move
    TargetObject object_;
  };

  // `name_or_uid`: of a viommu or nested domain.
  //   NOT_FOUND            VIOMMU_NOT_FOUND, NESTED_DOMAIN_NOT_FOUND: not held here
  //   FAILED_PRECONDITION  NOT_REALIZED: held, and its kernel object does not exist (yet)
  absl::StatusOr<Lease> Acquire(std::string_view name_or_uid);

  // The resource is held; it has no object yet.
  void Declare(const std::string& uid, const std::string& name);
  // Its object exists.
  void Publish(const std::string& uid, const TargetObject& object);
  // Its object is about to be destroyed. Returns when nobody uses it any more.
  void Withdraw(const std::string& uid);
  // The StreamIDs that the guest of a viommu can name at the moment. For telling why a command was refused: by the time
  // of the question it may have changed.
  void AddVdevId(const std::string& viommu_uid, uint64_t vdev_id);
  void RemoveVdevId(const std::string& viommu_uid, uint64_t vdev_id);
  bool HasVdevId(const std::string& viommu_uid, uint64_t vdev_id);

  // The resource is no longer held. Its object must have been withdrawn.
  void Forget(const std::string& uid);

 private:
  struct Entry {
    std::string uid;
    std::string name;
    TargetObject object;
    int leases = 0;
  };

  Mutex mu_;
  CondVar idle_;  // the leases of some entry have ended
  absl::flat_hash_map<std::string, std::shared_ptr<Entry>> by_uid_ ABSL_GUARDED_BY(mu_);
  // The last one declared, where a name is used again while its former bearer is on its way out.
  absl::flat_hash_map<std::string, std::shared_ptr<Entry>> by_name_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<std::string, absl::flat_hash_set<uint64_t>> vdev_ids_ ABSL_GUARDED_BY(mu_);  // by viommu uid
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_RECONCILE_TARGETS_H_
