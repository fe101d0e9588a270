// One context of the iommufd backend: an opened /dev/iommu, with the VFIO devices and queues of one VM.
//
// Ids are the kernel's own, and so are the checks: a call is made and its errno handed on. What is kept here is what
// the kernel does not tell again: descriptors, by id, and the SMMU that a viommu or stage 2 is on.
//
// A context that is opened with a key has its descriptors in the host's FdStore, too, named StoredIommufd() and
// StoredDevice(): one for the /dev/iommu, one for each bound device. Its destructor closes the process's own, and no
// more. It stops being kept with the first thing in it that cannot be found again by those: memory that is mapped by
// its address in this process, fault queues, whose descriptors are others, and hardware queues. An event queue is found
// again by its id, without its descriptor: it can be destroyed, and not read.
//
// Where the kernel is not what agent/backend.h says in general: docs/kernel-differences.md.

#ifndef VIOMMU_AGENT_SMMUV3_IOMMUFD_CONTEXT_H_
#define VIOMMU_AGENT_SMMUV3_IOMMUFD_CONTEXT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/backend.h"
#include "agent/smmuv3/iommufd/host.h"
#include "agent/smmuv3/iommufd/invalidations.h"
#include "agent/smmuv3/iommufd/kernel.h"
#include "agent/smmuv3/iommufd/queue_files.h"
#include "common/mutex.h"

namespace viommu::agent {

// Names in the FdStore.
std::string StoredIommufd(const std::string& key);
std::string StoredDevice(const std::string& key, std::string_view pci_address);

class IommufdContext final : public Context {
 public:
  // `host` outlives the context. With a key it is kept, where the host has a store. The error is that of opening
  // /dev/iommu.
  static absl::StatusOr<std::unique_ptr<IommufdContext>> Open(IommufdHost* host, std::string key = "");
  // One that an earlier process has left: `files` are its descriptors, by their names in the store. Each object of
  // `kept` is tried by a call that changes nothing where it is what it should be; the first that is not is the error,
  // and the context is destroyed then.
  static absl::StatusOr<std::unique_ptr<IommufdContext>> Adopt(IommufdHost* host, const KeptContext& kept,
                                                               std::map<std::string, KernelFile> files);
  ~IommufdContext() override;

  absl::StatusOr<ObjectId> BindDevice(std::string_view pci_address) override ABSL_LOCKS_EXCLUDED(control_mu_);
  absl::Status UnbindDevice(std::string_view pci_address) override ABSL_LOCKS_EXCLUDED(control_mu_);
  absl::StatusOr<ObjectId> AllocIoas() override ABSL_LOCKS_EXCLUDED(control_mu_);
  absl::Status MapIoas(ObjectId ioas, uint64_t iova, uint64_t length, const MemoryHandle& memory) override
      ABSL_LOCKS_EXCLUDED(control_mu_);
  absl::StatusOr<uint64_t> UnmapIoas(ObjectId ioas, uint64_t iova, uint64_t length) override
      ABSL_LOCKS_EXCLUDED(control_mu_);
  absl::StatusOr<ObjectId> AllocHwpt(const HwptAlloc& request) override ABSL_LOCKS_EXCLUDED(control_mu_);
  absl::StatusOr<ViommuHandle> AllocViommu(ObjectId device, ObjectId stage2, ViommuType type) override
      ABSL_LOCKS_EXCLUDED(control_mu_);
  absl::StatusOr<ObjectId> AllocVdevice(ObjectId viommu, ObjectId device, uint64_t virt_id) override
      ABSL_LOCKS_EXCLUDED(control_mu_);
  absl::Status Attach(ObjectId device, ObjectId pt) override ABSL_LOCKS_EXCLUDED(control_mu_);
  absl::Status Detach(ObjectId device) override ABSL_LOCKS_EXCLUDED(control_mu_);
  InvalidateResult InvalidateRaw(ObjectId id, const InvalidateArray& array) override ABSL_LOCKS_EXCLUDED(viommus_mu_);
  absl::StatusOr<ObjectId> AllocVeventq(ObjectId viommu, VeventqType type, uint32_t depth) override
      ABSL_LOCKS_EXCLUDED(control_mu_);
  absl::StatusOr<std::vector<Vevent>> ReadVeventq(ObjectId veventq, uint32_t max) override;
  absl::StatusOr<ObjectId> AllocFaultQueue() override ABSL_LOCKS_EXCLUDED(control_mu_);
  absl::StatusOr<std::vector<PageFault>> ReadFaults(ObjectId fault_queue, uint32_t max) override
      ABSL_LOCKS_EXCLUDED(control_mu_);
  absl::Status AnswerFault(ObjectId fault_queue, uint32_t cookie, PageResponseCode code) override
      ABSL_LOCKS_EXCLUDED(control_mu_);
  absl::StatusOr<ObjectId> AllocHwQueue(ObjectId viommu, HwQueueType type, uint32_t index, uint64_t iova,
                                        uint64_t length) override ABSL_LOCKS_EXCLUDED(control_mu_);
  absl::StatusOr<VintfMapping> MapVintf(ObjectId viommu) override ABSL_LOCKS_EXCLUDED(control_mu_);
  absl::Status UnmapVintf(ObjectId viommu) override ABSL_LOCKS_EXCLUDED(control_mu_);
  absl::StatusOr<HwInfo> GetHwInfo(ObjectId device) override;
  absl::Status Destroy(ObjectId id) override ABSL_LOCKS_EXCLUDED(control_mu_);
  void StopKeeping() override ABSL_LOCKS_EXCLUDED(control_mu_);

  // The device's VFIO file, for whoever makes it access memory in a test; -1 when it is not bound here. It stays this
  // context's.
  int DeviceFile(std::string_view pci_address) const ABSL_LOCKS_EXCLUDED(control_mu_);

  // Guest StreamIDs and tests aside: which queues of which SMMU the device has. Nothing when it has none.
  std::optional<HwQueueInventory> GetHwQueues(ObjectId device);

 private:
  struct Device {
    KernelFile file;
    std::string address;
    std::string smmu;
  };
  struct Viommu {
    std::unique_ptr<Invalidations> invalidations;
    uint64_t vintf_offset = 0;  // for mmap() of the iommufd
    uint64_t vintf_length = 0;  // 0: has no hardware queues
    // The kernel counts mappings as users. These stand for those that were handed out.
    std::vector<void*> vintf_mappings;
  };
  // Memory that the kernel takes by its address here (IOAS_MAP).
  struct MappedFile {
    void* address = nullptr;
    uint64_t length = 0;
  };

  IommufdContext(IommufdHost* host, KernelFile iommufd, std::string key)
      : host_(*host),
        iommufd_(std::move(iommufd)),
        key_(std::move(key)),
        fault_queues_(&host->kernel()),
        event_queues_(&host->kernel()) {}

  Kernel& kernel() { return host_.kernel(); }
  template <typename Request>
  int Call(unsigned long number, Request& request) {
    return CallKernel(kernel(), iommufd_.get(), number, request);
  }
  // The SMMU of a device bound here; empty when there is none of this id.
  std::string SmmuOf(ObjectId device) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);
  absl::Status MapByAddress(ObjectId ioas, uint64_t iova, uint64_t length, const MemoryHandle& memory, uint32_t flags)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);
  // Gives back what MapByAddress() has kept of the range.
  void ForgetMapped(ObjectId ioas, uint64_t iova, uint64_t length) ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);
  void UnmapVintfs(Viommu& viommu);
  void StopKeepingLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);
  // Before its file is closed.
  void StopKeepingDevice(const Device& device) ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);
  // What HWPT_INVALIDATE says to a harmless command.
  int TryInvalidate(ObjectId id, const smmuv3::RawCommand& command);
  // Whether what was adopted is what it should be; a part of Adopt().
  absl::Status Verify(const KeptContext& kept) ABSL_LOCKS_EXCLUDED(control_mu_);
  void Forget(ObjectId id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);

  IommufdHost& host_;
  const KernelFile iommufd_;
  mutable Mutex control_mu_;
  std::string key_ ABSL_GUARDED_BY(control_mu_);  // empty: it is not kept
  std::map<ObjectId, Device> devices_ ABSL_GUARDED_BY(control_mu_);
  FaultQueues fault_queues_ ABSL_GUARDED_BY(control_mu_);
  std::map<ObjectId, std::string> smmu_of_stage2_ ABSL_GUARDED_BY(control_mu_);
  std::map<std::pair<ObjectId, uint64_t>, MappedFile> mapped_ ABSL_GUARDED_BY(control_mu_);  // by IOAS and address

  EventQueues event_queues_;  // changed under the lock of control calls, too

  // Changed under both locks, so that Invalidate() does not wait for control calls.
  mutable SharedMutex viommus_mu_;
  absl::flat_hash_map<ObjectId, std::shared_ptr<Viommu>> viommus_ ABSL_GUARDED_BY(viommus_mu_);
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_IOMMUFD_CONTEXT_H_
