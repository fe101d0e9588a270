// The emulated host behind all contexts: its SMMUs, who has which device, and failures that tests ask for.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_HOST_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_HOST_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/smmuv3/vsmmu/host_memory.h"
#include "agent/smmuv3/vsmmu/host_smmu.h"
#include "agent/smmuv3/vsmmu/inventory.h"
#include "common/mutex.h"

namespace viommu::agent {

// Calls of the seam that can be made to fail.
enum class BackendOp : uint8_t {
  kDiscover,
  kOpenContext,
  kBindDevice,
  kUnbindDevice,
  kAllocIoas,
  kMapIoas,
  kUnmapIoas,
  kAllocStage2,  // AllocHwpt() with kHwptNestParent
  kAllocViommu,
  kAllocVdevice,
  kAllocNested,  // AllocHwpt() with data
  kAllocPlain,   // any other AllocHwpt()
  kAttach,
  kDetach,
  kInvalidate,
  kAllocVeventq,
  kReadVeventq,
  kAllocFaultQueue,
  kReadFaults,
  kAnswerFault,
  kAllocHwQueue,
  kMapVintf,
  kGetHwInfo,
  kDestroy,
};

// "VDEVICE_ALLOC" and so on: the kernel's name of the call, for messages.
const char* BackendOpName(BackendOp op);

struct HostGroup;

struct HostDevice {
  EmulatedDevice spec;
  HostSmmu* smmu = nullptr;
  HostGroup* group = nullptr;
};

// An IOMMU group: devices that can only be given away together.
struct HostGroup {
  uint32_t id = 0;
  std::vector<HostDevice*> devices;
};

// Thread-safe. What hangs on a device beyond ownership belongs to the context that owns it.
class Host {
 public:
  // `inventory` is valid (ValidateInventory()). InvalidArgument when a StreamID has no place in a stream table as Linux
  // builds them, ResourceExhausted when there is no memory for the SMMUs' tables.
  static absl::StatusOr<std::unique_ptr<Host>> Create(EmulatedInventory inventory);
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  const EmulatedInventory& inventory() const { return inventory_; }
  const Personality& personality() const { return inventory_.personality; }
  const std::vector<std::unique_ptr<HostSmmu>>& smmus() const { return smmus_; }
  HostMemory& memory() { return memory_; }

  // Null when there is none of this address or name.
  HostDevice* FindDevice(std::string_view pci_address);
  HostSmmu* FindSmmu(std::string_view name);

  // Makes `owner` the owner of the device. EBUSY when the device has an owner, or one of its group has another.
  absl::Status Claim(const HostDevice& device, const void* owner) ABSL_LOCKS_EXCLUDED(mu_);
  void Release(const HostDevice& device) ABSL_LOCKS_EXCLUDED(mu_);

  // The call of `op` after `skip` further ones fails with `error_number`, without having done anything. One at a time
  // per op.
  void FailNext(BackendOp op, int error_number, uint32_t skip) ABSL_LOCKS_EXCLUDED(mu_);
  // To be asked once at the start of each call.
  absl::Status InjectedFailure(BackendOp op) ABSL_LOCKS_EXCLUDED(mu_) {
    // Almost always: nothing was asked for, and the hot path takes no lock to find out.
    return faults_armed_.load(std::memory_order_acquire) == 0 ? absl::OkStatus() : TakeFailure(op);
  }

 private:
  explicit Host(EmulatedInventory inventory);
  // Builds what the inventory says.
  absl::Status Build();

  struct Fault {
    int error_number = 0;
    uint32_t skip = 0;
  };
  absl::Status TakeFailure(BackendOp op) ABSL_LOCKS_EXCLUDED(mu_);

  const EmulatedInventory inventory_;
  HostMemory memory_;
  std::vector<std::unique_ptr<HostSmmu>> smmus_;
  std::map<std::string, std::unique_ptr<HostDevice>, std::less<>> devices_;  // by PCI address
  std::map<uint32_t, HostGroup> groups_;

  Mutex mu_;
  std::map<const HostDevice*, const void*> owners_ ABSL_GUARDED_BY(mu_);
  std::map<BackendOp, Fault> faults_ ABSL_GUARDED_BY(mu_);
  std::atomic<uint32_t> faults_armed_{0};
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_HOST_H_
