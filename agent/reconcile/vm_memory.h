// The memory of one VM that devices shall reach: ranges of files, by guest-physical address, with who handed each over.
//
// It is kept apart from the VM's context, which comes and goes with the VM's devices: what is handed over before there
// is a context, or before it is made anew, is mapped when there is one.
//
// Pure but for holding descriptors; not thread-safe.

#ifndef VIOMMU_AGENT_RECONCILE_VM_MEMORY_H_
#define VIOMMU_AGENT_RECONCILE_VM_MEMORY_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/backend.h"
#include "common/file_descriptor.h"

namespace viommu::agent {

class VmMemory {
 public:
  // Who handed a range over. kAgent is the agent itself.
  using Owner = uint64_t;
  static constexpr Owner kAgent = 0;
  static constexpr size_t kMaxRanges = 4096;  // of one VM
  static constexpr uint64_t kPageBytes = 4096;

  // Whose process an owner is. None: root's or the agent's own user's, who may do everything.
  using User = std::optional<uid_t>;

  struct Range {
    uint64_t length = 0;  // bytes
    uint64_t offset = 0;  // in the file, bytes
    bool readable = true;
    bool writable = true;
    Owner owner = kAgent;
    User user;
    std::shared_ptr<const FileDescriptor> file;
    bool leaving = false;  // its owner is gone, and the backend would not let go of it yet

    MemoryHandle handle() const { return {file->get(), offset, readable, writable}; }
  };

  // Whether processes of `user` may have to do with the VM: users cannot reach each other's guests, so all that was
  // handed over must be theirs.
  //   PERMISSION_DENIED  NOT_AUTHORIZED
  absl::Status CheckUser(User user) const;
  // Whether they may get at the guest's memory: they must have handed some of it over, too.
  absl::Status CheckReader(User user) const;

  // Checks a range before it is mapped.
  //   PERMISSION_DENIED    NOT_AUTHORIZED: see CheckUser()
  //   INVALID_ARGUMENT     INVALID_FIELD: not of whole pages, empty, beyond the end, neither readable nor writable
  //   ALREADY_EXISTS       MEMORY_TAKEN: overlaps another range
  //   RESOURCE_EXHAUSTED   LIMIT_EXCEEDED
  absl::Status Check(uint64_t iova, const Range& range) const;
  // Of a range that Check() likes.
  void Add(uint64_t iova, Range range) { ranges_.emplace(iova, std::move(range)); }

  // The ranges of `owner` inside [iova, iova + length), which must lie wholly inside.
  //   INVALID_ARGUMENT  INVALID_FIELD: the range is empty or goes beyond the end
  //   NOT_FOUND         MEMORY_NOT_MAPPED: there are none
  //   FAILED_PRECONDITION  MEMORY_NOT_MAPPED: one lies only partly inside
  absl::StatusOr<std::vector<uint64_t>> Inside(Owner owner, uint64_t iova, uint64_t length) const;
  // All ranges of `owner`; those that are leaving.
  std::vector<uint64_t> Of(Owner owner) const;
  std::vector<uint64_t> Leaving() const;
  void SetLeaving(uint64_t iova) { ranges_.at(iova).leaving = true; }
  void Erase(uint64_t iova) { ranges_.erase(iova); }

  // The range that covers [iova, iova + length) wholly; null when there is none.
  const Range* Covering(uint64_t iova, uint64_t length, uint64_t& start) const;
  // Whether somebody has handed some of it over, and is there or has not left it quite.
  bool HandedOver() const;
  // Whether nothing of [iova, iova + length) is covered.
  bool IsFree(uint64_t iova, uint64_t length) const;

  const std::map<uint64_t, Range>& ranges() const { return ranges_; }

 private:
  // The first range that ends behind `iova`.
  std::map<uint64_t, Range>::const_iterator FirstBehind(uint64_t iova) const;

  std::map<uint64_t, Range> ranges_;  // by guest-physical address
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_RECONCILE_VM_MEMORY_H_
