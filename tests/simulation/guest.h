// The guests of the simulated fleet: what a VM has in its memory, by which one can tell whose memory a device reaches.
//
// All are alike but for one word: the same guest-physical addresses, the same tables and the same ASID in the same
// places, so that a translation that is found under another VM's tag leads to another VM's word.

#ifndef VIOMMU_TESTS_SIMULATION_GUEST_H_
#define VIOMMU_TESTS_SIMULATION_GUEST_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "agent/reconcile/vm_memory.h"
#include "agent/smmuv3/spec/words.h"

namespace viommu::simulation {

// Names of VMs. Each has its memory on every host: a name is one VM on one host at a time.
const std::vector<std::string>& Vms();

// Guests know their devices by the StreamIDs below this.
inline constexpr uint32_t kVdevIds = 6;

// Where the word is that tells whose memory it is. The guest's stage 1 leads there from the same address.
extern const uint64_t kWhoseAddress;
// What it says of `vm`.
uint64_t WhoseWord(const std::string& vm);
// The VM of which it says so; "?": of none.
std::string WhoseVm(uint64_t word);

// All of the VM's memory, and where the guest has it.
extern const uint64_t kGuestMemory;
agent::VmMemory::Range GuestMemory(const std::string& vm, agent::VmMemory::Owner owner);

// Pages of it in which guests have their own command queues: none of what is above lies there.
inline constexpr uint64_t kGuestRings = 4;
inline constexpr uint64_t kGuestPage = 4096;
uint64_t GuestRing(uint64_t i);
// The ASID that is in each guest's descriptor.
inline constexpr uint16_t kGuestAsid = 1;

// What a guest writes in its stream table: translate, by the descriptor and tables in its memory.
smmuv3::RawVste TranslatingVste();

}  // namespace viommu::simulation

#endif  // VIOMMU_TESTS_SIMULATION_GUEST_H_
