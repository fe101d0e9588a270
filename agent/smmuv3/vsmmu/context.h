// One context of the emulated backend: what iommufd and the arm-smmu-v3 driver keep for one opened /dev/iommu.
//
// Control calls hold the control lock from start to end, and wait for the SMMU under it. Invalidate() does without: it
// pins its object and takes, for moments, the locks of the object table and of the viommu's StreamIDs, but none while
// it waits or pushes.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_CONTEXT_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_CONTEXT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/backend.h"
#include "agent/smmuv3/spec/ste.h"
#include "agent/smmuv3/vsmmu/host.h"
#include "agent/smmuv3/vsmmu/objects.h"
#include "common/mutex.h"

namespace viommu::agent {

// Where devices that are attached write their interrupts to (MSI_IOVA_BASE of the driver): not for memory.
inline constexpr uint64_t kMsiWindow = 0x800'0000;
inline constexpr uint64_t kMsiWindowBytes = 0x10'0000;

class EmulatedContext final : public Context {
 public:
  // `host` outlives the context.
  explicit EmulatedContext(Host* host) : host_(host) {}
  ~EmulatedContext() override;

  absl::StatusOr<ObjectId> BindDevice(std::string_view pci_address) override;
  absl::Status UnbindDevice(std::string_view pci_address) override;
  absl::StatusOr<ObjectId> AllocIoas() override;
  absl::Status MapIoas(ObjectId ioas, uint64_t iova, uint64_t length, const MemoryHandle& memory) override;
  absl::StatusOr<uint64_t> UnmapIoas(ObjectId ioas, uint64_t iova, uint64_t length) override;
  absl::StatusOr<ObjectId> AllocHwpt(const HwptAlloc& request) override;
  absl::StatusOr<ViommuHandle> AllocViommu(ObjectId device, ObjectId stage2, ViommuType type) override;
  absl::StatusOr<ObjectId> AllocVdevice(ObjectId viommu, ObjectId device, uint64_t virt_id) override;
  absl::Status Attach(ObjectId device, ObjectId pt) override;
  absl::Status Detach(ObjectId device) override;
  InvalidateResult InvalidateRaw(ObjectId id, const InvalidateArray& array) override;
  absl::StatusOr<ObjectId> AllocVeventq(ObjectId viommu, VeventqType type, uint32_t depth) override;
  absl::StatusOr<std::vector<Vevent>> ReadVeventq(ObjectId veventq, uint32_t max) override;
  absl::StatusOr<ObjectId> AllocFaultQueue() override;
  absl::StatusOr<std::vector<PageFault>> ReadFaults(ObjectId fault_queue, uint32_t max) override;
  absl::Status AnswerFault(ObjectId fault_queue, uint32_t cookie, PageResponseCode code) override;
  absl::StatusOr<ObjectId> AllocHwQueue(ObjectId viommu, HwQueueType type, uint32_t index, uint64_t iova,
                                        uint64_t length) override;
  absl::StatusOr<VintfMapping> MapVintf(ObjectId viommu) override;
  absl::Status UnmapVintf(ObjectId viommu) override;
  absl::StatusOr<HwInfo> GetHwInfo(ObjectId device) override;
  absl::Status Destroy(ObjectId id) override;
  absl::StatusOr<std::vector<ObjectInfo>> Objects() const override;

 private:
  // What a group is attached to: all its devices, also those that are not bound.
  struct Attachment {
    Object* target = nullptr;                             // a paging or nested HWPT
    uint32_t devices = 0;                                 // that asked for it; each is a user of the target
    std::vector<std::shared_ptr<const VmidLease>> vmids;  // that the stream table entries name
  };
  // What an attach would do to one device of the group.
  struct AttachStep {
    HostDevice* device = nullptr;
    smmuv3::RawSte ste;
    std::shared_ptr<const VmidLease> vmid;  // null: the entry names none
    StreamOwner owner;
  };

  // attach.cc
  absl::StatusOr<std::vector<AttachStep>> PlanAttach(const HostGroup& group, Object& target)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);
  absl::StatusOr<AttachStep> PlanNested(HostDevice& device, const NestedObject& nested)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);
  absl::StatusOr<AttachStep> PlanStage1(HostDevice& device, const HwptObject& hwpt)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);
  absl::StatusOr<AttachStep> PlanStage2(HostDevice& device, HwptObject& hwpt)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);
  absl::Status AttachTo(DeviceObject& device, Object& target) ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);
  static void Install(const AttachStep& step);
  void DetachDevice(DeviceObject& device) ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);
  // A group has left `target`, which had `devices` of it as users.
  void LeaveTarget(const HostGroup& group, Object& target, uint32_t devices) ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);
  // The device's object here; null when it is not bound here.
  DeviceObject* BoundDevice(const HostDevice& device) ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);

  // domains.cc
  absl::StatusOr<HwptObject*> AllocPaging(BackendOp op, const HwptAlloc& request, HostSmmu* smmu, IoasObject& ioas)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);
  absl::StatusOr<ObjectId> AllocOverViommu(const HwptAlloc& request, const HostDevice& device, ViommuObject& viommu)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);
  // The fault queue that the request names, if it does.
  absl::StatusOr<FaultQueueObject*> FaultQueueOf(BackendOp op, const HwptAlloc& request)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);

  // memory.cc
  static bool IsMapped(const IoasObject& ioas, uint64_t iova, uint64_t length);
  // Puts everything that is mapped in the IOAS into new tables.
  absl::Status FillTable(BackendOp op, const IoasObject& ioas, PageTable& table)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);
  // Takes a range out of the tables of an HWPT; true when all SMMUs have confirmed that they have forgotten it.
  bool UnmapTable(HwptObject& hwpt, uint64_t begin, uint64_t length) ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);
  bool InvalidateHwpt(const HwptObject& hwpt, uint64_t begin, uint64_t length)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);
  bool InvalidateAtcs(const HwptObject& hwpt, uint64_t begin, uint64_t length)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);
  // Gives back what an HWPT, or an IOAS, holds: the former after its SMMUs have been asked.
  void ReleaseHwpt(HwptObject& hwpt) ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);
  void ReleaseIoas(IoasObject& ioas) ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);

  // hw_queues.cc
  // The mappings that a range of an IOAS lies in, which must be one piece of physical memory, and where that begins.
  static absl::StatusOr<std::vector<IoasMapping*>> MappingsOf(BackendOp op, IoasObject& ioas, uint64_t iova,
                                                              uint64_t length, uint64_t* physical);
  void ReleaseHwQueue(HwQueueObject& queue) ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);

  // list.cc
  ObjectInfo Describe(const Object& object) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);

  // context.cc
  void ForgetVdevice(VdeviceObject& vdevice) ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);
  void ForgetDevice(DeviceObject& device) ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);
  absl::Status DestroyObject(Object& object) ABSL_EXCLUSIVE_LOCKS_REQUIRED(control_mu_);

  // invalidate.cc
  InvalidateResult InvalidateViommu(ViommuObject& viommu, std::span<const smmuv3::RawCommand> commands);

  Host* const host_;
  ObjectTable table_;
  mutable Mutex control_mu_;
  std::map<const HostGroup*, Attachment> attachments_ ABSL_GUARDED_BY(control_mu_);
  std::map<const HostDevice*, DeviceObject*> bound_ ABSL_GUARDED_BY(control_mu_);
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_CONTEXT_H_
