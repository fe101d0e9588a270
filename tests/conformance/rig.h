// What the conformance suite runs on: a backend with devices, and what the surroundings can do beyond the seam.
//
// The suite needs nothing else: agent/backend.h, agent/errno_status.h, the data of agent/smmuv3/spec, GoogleTest and
// the C++ library. A program that wants to run it says which rigs there are (RegisterRig()) and calls RunSuite().

#ifndef VIOMMU_TESTS_CONFORMANCE_RIG_H_
#define VIOMMU_TESTS_CONFORMANCE_RIG_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "agent/backend.h"
#include "tests/conformance/expectations.h"

namespace viommu::conformance {

// What a device is there for. One device may play several parts, but kA0, kA1 and kB0 are three devices in groups of
// their own.
enum class Role : uint8_t {
  kA0,           // behind SMMU A, which has two stages; every rig has this one
  kA1,           // likewise
  kB0,           // behind another SMMU, which has two stages as well
  kAts,          // behind SMMU A, ATS works
  kPasid,        // behind SMMU A, has PASIDs
  kTwoStreams,   // behind SMMU A, two StreamIDs
  kGroup0,       // behind SMMU A, shares its IOMMU group with
  kGroup1,       // this one
  kIncoherent,   // its DMA is not cache coherent
  kOneStage,     // behind an SMMU with one stage
  kAroundCache,  // behind an SMMU where guests could make accesses go around the cache
  kQueue0,       // behind an SMMU with hardware queues
  kQueue1,       // behind the same one
};

// "a second device behind SMMU A", for the reason why a case is skipped.
const char* RoleName(Role role);

// How a device's access went.
struct DmaAnswer {
  bool ok = false;
  std::string detail;  // for people
};

// Who accesses which address.
struct DmaAddress {
  std::string device;  // PCI address
  uint64_t address = 0;
  std::optional<uint32_t> pasid;
  bool use_ats = false;  // through the device's own cache of translations
};

// A page of a VM's memory that its devices reach by one of these addresses, whatever a case does to other pages: for
// devices that cannot show what they have read but by writing it elsewhere.
struct DmaScratch {
  std::vector<uint64_t> addresses;
  std::byte* data = nullptr;
  size_t bytes = 0;
};

// Makes devices access memory. A call returns when the access has ended.
class DmaEngine {
 public:
  virtual ~DmaEngine() = default;
  // Whether it needs one, to be given before any access of a case.
  virtual bool NeedsScratch() const { return false; }
  virtual void UseScratch(const DmaScratch&) {}
  // Whether the device can be made to access memory at all, with a PASID, through its own cache.
  virtual bool Reaches(const std::string& device) const = 0;
  virtual bool HasPasids(const std::string& device) const = 0;
  virtual bool HasAts(const std::string& device) const = 0;
  // At most 4096 bytes, which may cross a page.
  virtual DmaAnswer Read(const DmaAddress& from, std::span<std::byte> out) = 0;
  virtual DmaAnswer Write(const DmaAddress& to, std::span<const std::byte> in) = 0;
};

// What only emulated hardware can be asked. SMMUs go by SmmuInfo::name.
class EmulationHooks {
 public:
  virtual ~EmulationHooks() = default;
  // Between the two the SMMU carries out no commands.
  virtual void Pause(const std::string& smmu) = 0;
  virtual void Resume(const std::string& smmu) = 0;
  // Whether the device answers invalidations of its cache.
  virtual void SetResponding(const std::string& device, bool responding) = 0;
  // Commands with this opcode byte that the SMMU has carried out.
  virtual uint64_t Executed(const std::string& smmu, uint8_t opcode) = 0;
};

// One backend in one personality, fresh for each case.
class Rig {
 public:
  virtual ~Rig() = default;
  virtual agent::Backend& backend() = 0;
  virtual const Expectations& expectations() const = 0;
  // PCI address; empty when the rig has no such device.
  virtual std::string Device(Role role) const = 0;
  // Null where devices cannot be made to access memory.
  virtual DmaEngine* dma() { return nullptr; }
  // Null with real hardware.
  virtual EmulationHooks* hooks() { return nullptr; }
  // Why the rig's hardware is known to fail a case, by the end of its name with all rows; empty: it is not. Such a case
  // says nothing about the backend, and is skipped.
  virtual std::string Flaw(std::string_view) const { return ""; }
  // Whether the case, named likewise, wants VMs' memory to be of huge pages, so that stage 2 is of blocks.
  virtual bool WantsHugePages(std::string_view) const { return false; }
  // How often a case shall do what it would do `wanted` times with devices that are fast.
  virtual int Rounds(int wanted) const { return wanted; }
  // Whether what the SMMU and its devices have cached stays until it is invalidated. Hardware may forget at any time;
  // then nothing can be said about an access after a mapping has changed and before its invalidation.
  virtual bool keeps_stale_entries() const { return false; }
};

// What a case wants of its rig.
struct RigRequest {
  // A sync counts as failed after milliseconds instead of after a second.
  bool short_sync_timeout = false;
};

struct RigFactory {
  // Backend and personality, the last part of the names of cases: "emulated_linux72".
  std::string name;
  std::function<std::unique_ptr<Rig>(const RigRequest&)> make;
};

// Before RunSuite().
void RegisterRig(RigFactory factory);
const std::vector<RigFactory>& Rigs();

// Runs all cases on all rigs; prints how many there are, and the skipped ones by reason. Returns what main() returns.
int RunSuite(int argc, char** argv);

// An engine over Backend::device_dma().
std::unique_ptr<DmaEngine> MakeBackendDma(agent::Backend& backend);

}  // namespace viommu::conformance

#endif  // VIOMMU_TESTS_CONFORMANCE_RIG_H_
