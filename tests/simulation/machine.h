// The SMMUs of a simulated host: the emulated backend (agent/smmuv3/vsmmu), with what the simulation does to it and
// sees of it.
//
// Its SMMUs have no threads: whoever waits for their commands carries them out, so that a run repeats to the bit. It
// outlives the agent's process, whose end closes its contexts as the kernel would; a boot makes a new one.
//
// Two SMMUs, s0 and s1; devices 0000:01:00.0 to .3 behind s0 and 0000:01:01.0 to .3 behind s1.
//
// Not thread-safe.

#ifndef VIOMMU_TESTS_SIMULATION_MACHINE_H_
#define VIOMMU_TESTS_SIMULATION_MACHINE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "agent/backend.h"
#include "agent/smmuv3/spec/words.h"
#include "agent/smmuv3/vsmmu/emulated_backend.h"

namespace viommu::simulation {

class MachineContext;

class Machine final : public agent::Backend {
 public:
  struct Hardware {
    bool linux72 = false;          // it behaves like that kernel (docs/personalities.md)
    bool keeps = false;            // contexts stay when the agent's process ends, for the next one
    uint32_t group_size = 1;       // functions .0 on of a device that are in one IOMMU group
    bool hw_queues = false;        // s0 has interfaces for guests' own command queues
    std::set<std::string> broken;  // PCI addresses of what cannot be bound (EIO)
  };
  explicit Machine(const Hardware& hardware);

  const Hardware& hardware() const { return hardware_; }
  const agent::Inventory& inventory() const { return inventory_; }
  // Of a device that is there.
  uint32_t GroupOf(std::string_view pci) const;

  // ---- The seam: every call goes through to the emulated backend, unless it is to fail.

  absl::StatusOr<agent::Inventory> Discover() override { return emulated_->Discover(); }
  agent::Capabilities GetCapabilities() const override { return emulated_->GetCapabilities(); }
  absl::StatusOr<std::unique_ptr<agent::Context>> OpenContext() override;
  std::vector<agent::SmmuStats> GetStats() const override { return emulated_->GetStats(); }
  bool KeepsContexts() const override { return hardware_.keeps; }
  absl::StatusOr<std::unique_ptr<agent::Context>> OpenKeptContext(const std::string& key) override;
  std::vector<absl::StatusOr<std::unique_ptr<agent::Context>>> AdoptContexts(
      const std::vector<agent::KeptContext>& wanted) override;

  // ---- What goes wrong

  // The next calls of that name ("AllocViommu") fail with these errnos, and do nothing.
  std::map<std::string, std::deque<int>> faults;
  // The allocation of memory for tables after `skip` further ones fails, in the middle of whatever call that is.
  void RunShortOfMemory(uint32_t skip) { emulated_->FailNextAllocation(skip); }
  // From now on nothing goes wrong.
  void Heal();
  // The hardware looks at guests' queues: what is in them is carried out.
  void RunHwQueues() { emulated_->RunHwQueues(); }
  // Nobody will ask for what is kept.
  void DropKept();
  // What happens behind the agent's back: the context that was opened i-th of those that are open.
  agent::Context& OpenedContext(size_t i) const;
  size_t opened() const { return contexts_.size(); }

  // ---- How it is

  // Rises with everything that may have changed what is there.
  uint64_t changes() const { return changes_; }
  // Binds of a device of whose group another context has one.
  int refused_for_group() const { return refused_for_group_; }

  struct HeldDevice {
    const agent::Context* context = nullptr;  // as the agent has it; null: kept, and there is no agent
    agent::ObjectKind attached_to = agent::ObjectKind::kDevice;  // kNested, kHwpt; kDevice: nothing
    agent::ObjectId attached_id = 0;
    smmuv3::RawVste vste = {};        // of the nested HWPT that it is attached to
    std::optional<uint64_t> virt_id;  // of its vdevice, if it has one
    agent::ObjectId viommu = 0;       // likewise
  };
  // What is bound, over all contexts, also those that are kept, by PCI address.
  const std::map<std::string, HeldDevice>& HeldDevices() const;
  // Objects of a kind, over all contexts; in one that is open.
  size_t Count(agent::ObjectKind kind) const;
  static size_t CountIn(const agent::Context& context, agent::ObjectKind kind);

  // A device reads where the guests say who they are (guest.h).
  struct Access {
    std::string vm;       // whose memory it has reached; empty: the SMMU has let it reach nothing
    bool walked = false;  // the TLB did not have it all
  };
  Access Read(const std::string& pci) const;
  // What it is for each device at present, by PCI address, without those that reach nothing.
  const std::map<std::string, std::string>& Reached() const;

  // Commands that the SMMUs were given so far, and translations for which they have walked tables.
  uint64_t commands() const;
  uint64_t walks() const;

  // VMIDs that are taken and that nothing is under, or the other way round; empty: none.
  std::string LostVmids() const;
  // What is there although there is no context, neither open nor kept; empty: nothing.
  std::string Leftovers() const;

 private:
  friend class MachineContext;
  // A context of the emulated backend, which may outlive who has it open.
  struct Content {
    std::unique_ptr<agent::Context> emulated;
    std::map<agent::ObjectId, uint16_t> vmids;  // of viommus, by id
    MachineContext* open = nullptr;
  };
  absl::StatusOr<std::unique_ptr<agent::Context>> Open(const std::string& key);
  // Whether all that an agent believes to be in it is there.
  static bool Has(const Content& content, const agent::KeptContext& wanted);
  absl::Status Fault(const std::string& call);
  // Whether another context than `context` has a device of the group.
  bool AnotherHasOfGroup(const agent::Context* context, std::string_view pci) const;

  const Hardware hardware_;
  const std::unique_ptr<agent::EmulatedBackend> emulated_;
  const agent::Inventory inventory_;
  agent::HostMemoryStats at_boot_;
  std::vector<MachineContext*> contexts_;                 // that are open, in the order of their opening
  std::vector<const Content*> contents_;                  // of all contexts, likewise
  std::map<std::string, std::unique_ptr<Content>> kept_;  // by key: of those that are not open
  uint64_t changes_ = 0;
  int refused_for_group_ = 0;

  // As of some number of changes.
  template <typename T>
  struct AsOf {
    uint64_t changes = UINT64_MAX;
    T value;
  };
  mutable AsOf<std::map<std::string, HeldDevice>> held_;
  mutable AsOf<std::map<std::string, std::string>> reached_;
};

}  // namespace viommu::simulation

#endif  // VIOMMU_TESTS_SIMULATION_MACHINE_H_
