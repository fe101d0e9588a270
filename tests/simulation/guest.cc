#include "tests/simulation/guest.h"

#include <fcntl.h>

#include <cstdlib>
#include <map>

#include "agent/smmuv3/vsmmu/test_guest.h"
#include "common/file_descriptor.h"
#include "tests/simulation/scheduler.h"

namespace viommu::simulation {
namespace {

using agent::TestGuest;

constexpr uint64_t kCd = TestGuest::kBase;
constexpr uint64_t kTables = TestGuest::kBase + TestGuest::kPage;
constexpr uint64_t kWhose = TestGuest::kBase + 2 * TestGuest::kPage;

// Of the whole process: nobody changes it.
struct Guest {
  explicit Guest(const std::string& vm) {
    if (memory.NewPage() != kCd || memory.NewPage() != kTables || memory.NewPage() != kWhose) std::abort();
    memory.WriteCd(kCd, kTables, kGuestAsid);
    memory.Map(kTables, kWhose, kWhose);
    memory.Word(kWhose).store(WhoseWord(vm));
    file = std::make_shared<const FileDescriptor>(::fcntl(memory.handle().fd, F_DUPFD_CLOEXEC, 0));
    if (!file->valid()) std::abort();
  }
  TestGuest memory;
  std::shared_ptr<const FileDescriptor> file;
};

const std::map<std::string, Guest>& Guests() {
  static const auto& guests = *[] {
    auto* made = new std::map<std::string, Guest>;
    for (const std::string& vm : Vms()) made->try_emplace(vm, vm);
    return made;
  }();
  return guests;
}

}  // namespace

const uint64_t kWhoseAddress = kWhose;
const uint64_t kGuestMemory = TestGuest::kBase;

const std::vector<std::string>& Vms() {
  static const auto& vms = *new std::vector<std::string>{"vm0", "vm1", "vm2"};
  return vms;
}

uint64_t WhoseWord(const std::string& vm) { return HashOf(vm); }

uint64_t GuestRing(uint64_t i) { return TestGuest::kBase + TestGuest::kBytes / 2 + i * TestGuest::kPage; }

std::string WhoseVm(uint64_t word) {
  for (const std::string& vm : Vms()) {
    if (WhoseWord(vm) == word) return vm;
  }
  return "?";
}

agent::VmMemory::Range GuestMemory(const std::string& vm, agent::VmMemory::Owner owner) {
  agent::VmMemory::Range range;
  range.length = TestGuest::kBytes;
  range.owner = owner;
  range.file = Guests().at(vm).file;
  return range;
}

smmuv3::RawVste TranslatingVste() { return TestGuest::Vste(kCd); }

}  // namespace viommu::simulation
