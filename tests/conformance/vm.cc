#include "tests/conformance/vm.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace viommu::conformance {
namespace {

constexpr uint64_t kHugePage = 2 << 20;

}  // namespace

MemoryFile::MemoryFile(uint64_t bytes)
    : bytes_(bytes),
      fd_(memfd_create("conformance", MFD_CLOEXEC | (huge_pages && bytes % kHugePage == 0 ? MFD_HUGETLB : 0))) {
  void* data = MAP_FAILED;
  if (fd_ >= 0 && ftruncate(fd_, static_cast<off_t>(bytes)) == 0) {
    data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
  }
  if (data == MAP_FAILED) std::abort();  // the machine has no memory left
  data_ = static_cast<std::byte*>(data);
}

MemoryFile::~MemoryFile() {
  munmap(data_, bytes_);
  close(fd_);
}

void MemoryFile::Fill(uint64_t word) {
  for (uint64_t at = 0; at < bytes_; at += sizeof(word)) std::memcpy(data_ + at, &word, sizeof(word));
}

ObjectId Vm::ioas() {
  if (ioas_ == 0) {
    ioas_ = Must(context_->AllocIoas());
    EXPECT_OK(context_->MapIoas(ioas_, kMemoryBase, kMemoryBytes, memory_.handle()));
  }
  return ioas_;
}

Function Vm::PlugWithoutVdevice(const std::string& pci, const Function* beside) {
  Function function;
  function.pci = pci;
  function.device = Bind(pci);
  function.stage2 = beside != nullptr ? beside->stage2 : Stage2(function.device);
  function.viommu = beside != nullptr ? beside->viommu : Viommu(function.device, function.stage2);
  return function;
}

Function Vm::Plug(const std::string& pci, uint32_t vsid, const Function* beside) {
  Function function = PlugWithoutVdevice(pci, beside);
  function.vsid = vsid;
  function.vdevice = Vdevice(function.viommu, function.device, vsid);
  return function;
}

}  // namespace viommu::conformance
