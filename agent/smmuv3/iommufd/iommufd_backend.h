// The real backend: Linux's iommufd and VFIO on this host.
//
// Its inventory is what VFIO has: PCI functions bound to vfio-pci, and the SMMUs in front of them. A function that
// another driver has is none of the agent's business, unless the configuration names it: such ones are bound to
// vfio-pci when the backend is made, and given back when it, or a later one, is destroyed (bindings.h).
//
// Registers, ATS and PASIDs come from GET_HW_INFO, for which a device has to be bound to a context for a moment; that
// is done once for each device. A device that somebody else has in use then cannot be asked, and is left out until the
// next Discover() that can.
//
// With an FdStore, contexts can outlive the process (OpenKeptContext). Devices in them stay with vfio-pci.
//
// StreamIDs are not told by the kernel: they are those of firmware's IORT (iort.h), for functions that no bridge speaks
// for. A device that is not in it has 0, and Capabilities say so ("stream_ids").

#ifndef VIOMMU_AGENT_SMMUV3_IOMMUFD_IOMMUFD_BACKEND_H_
#define VIOMMU_AGENT_SMMUV3_IOMMUFD_IOMMUFD_BACKEND_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "agent/backend.h"
#include "agent/smmuv3/iommufd/bindings.h"
#include "agent/smmuv3/iommufd/host.h"
#include "agent/smmuv3/iommufd/kernel.h"
#include "agent/smmuv3/iommufd/probe.h"
#include "common/mutex.h"

namespace viommu::agent {

class IommufdBackend final : public Backend {
 public:
  struct Options {
    // PCI addresses to bind to vfio-pci.
    std::vector<std::string> bind;
    // Where to write down whose they were, and what changes with every boot (Bindings).
    std::string state_dir = {};
    std::string boot_id = {};
    // Outlives the backend; null: nothing outlives the process.
    FdStore* store = nullptr;
    // A device that was left out of the inventory, and why. Optional.
    std::function<void(const std::string& device, const absl::Status& why)> on_left_out;
  };

  // `kernel` outlives it. Errors: /dev/iommu cannot be opened; a device of `bind` cannot be bound.
  static absl::StatusOr<std::unique_ptr<IommufdBackend>> Create(Kernel* kernel, Options options);
  ~IommufdBackend() override;

  absl::StatusOr<Inventory> Discover() override ABSL_LOCKS_EXCLUDED(mu_);
  Capabilities GetCapabilities() const override ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<std::unique_ptr<Context>> OpenContext() override { return OpenKeptContext(""); }
  bool KeepsContexts() const override { return host_.store() != nullptr; }
  absl::StatusOr<std::unique_ptr<Context>> OpenKeptContext(const std::string& key) override;
  std::vector<absl::StatusOr<std::unique_ptr<Context>>> AdoptContexts(const std::vector<KeptContext>& contexts) override
      ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<SmmuStats> GetStats() const override ABSL_LOCKS_EXCLUDED(mu_);

 private:
  IommufdBackend(Kernel* kernel, Options options);
  // Whether an earlier process has left a device open that nobody has adopted.
  bool IsStored(const std::string& address) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Whether the device is open when this process has ended.
  bool StaysOpen(const std::string& address) const ABSL_LOCKS_EXCLUDED(mu_);

  mutable IommufdHost host_;
  const Options options_;
  Bindings bindings_;
  mutable Mutex mu_;
  // What earlier processes have left and nobody has adopted, by its name in the store.
  std::map<std::string, KernelFile> stored_ ABSL_GUARDED_BY(mu_);
  // By VFIO's name, which a device that is plugged in again does not keep.
  std::map<std::string, ProbedDevice> devices_ ABSL_GUARDED_BY(mu_);
  Inventory inventory_ ABSL_GUARDED_BY(mu_);
  std::string without_stream_id_ ABSL_GUARDED_BY(mu_);  // a device of it; empty: all have theirs
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_IOMMUFD_IOMMUFD_BACKEND_H_
