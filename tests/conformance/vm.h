// One VM as its VMM sets it up: a context, guest memory mapped into an IOAS, and what stands on it.

#ifndef VIOMMU_TESTS_CONFORMANCE_VM_H_
#define VIOMMU_TESTS_CONFORMANCE_VM_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/ste.h"
#include "tests/conformance/conformance.h"

namespace viommu::conformance {

// The guest-physical address at which a VM's memory begins: above the window that Linux keeps for MSIs.
inline constexpr uint64_t kMemoryBase = 0x4000'0000;
inline constexpr uint64_t kMemoryBytes = 16 << 20;

// Whether files of whole huge pages (2 MiB) are made of such from now on.
inline bool huge_pages = false;

// A file of zeros for mapping; -1 and a failure when there is none to be had.
class MemoryFile {
 public:
  explicit MemoryFile(uint64_t bytes);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  int fd() const { return fd_; }
  uint64_t bytes() const { return bytes_; }
  MemoryHandle handle(uint64_t offset = 0) const { return {.fd = fd_, .offset = offset}; }
  // The contents; devices see what is written here, and the other way round.
  std::byte* data() const { return data_; }
  // Fills it with this word: not every rig can tell zeros that a device has read from an access that was refused.
  void Fill(uint64_t word);

 private:
  const uint64_t bytes_;
  int fd_ = -1;
  std::byte* data_ = nullptr;
};

// A device, all the way up to a guest's StreamID.
struct Function {
  std::string pci;
  ObjectId device = 0;
  ObjectId stage2 = 0;
  ObjectId viommu = 0;
  ObjectId vdevice = 0;
  uint32_t vsid = 0;
};

// Steps that fail are failures of the case (Must()).
class Vm {
 public:
  explicit Vm(std::unique_ptr<Context> context) : context_(std::move(context)) {}

  Context& context() { return *context_; }
  Context* operator->() { return context_.get(); }
  // Closes the context, with everything in it.
  void Close() { context_.reset(); }

  // An IOAS with memory() mapped at kMemoryBase; made by the first call.
  ObjectId ioas();
  MemoryFile& memory() { return memory_; }

  ObjectId Bind(const std::string& pci) { return Must(context_->BindDevice(pci)); }
  ObjectId Stage2(ObjectId device) { return Must(context_->AllocStage2(device, ioas())); }
  ObjectId Viommu(ObjectId device, ObjectId stage2, ViommuType type = ViommuType::kArmSmmuv3) {
    return Must(context_->AllocViommu(device, stage2, type)).id;
  }
  ObjectId Vdevice(ObjectId viommu, ObjectId device, uint64_t vsid) {
    return Must(context_->AllocVdevice(viommu, device, vsid));
  }
  ObjectId Nested(const Function& function, const RawVste& vste) {
    return Must(context_->AllocNested(function.viommu, function.device, vste));
  }

  // The whole tower for a device; on top of `beside`'s stage 2 and viommu where that is given.
  Function Plug(const std::string& pci, uint32_t vsid, const Function* beside = nullptr);
  // The same without the vdevice.
  Function PlugWithoutVdevice(const std::string& pci, const Function* beside = nullptr);

  // Sends commands to a viommu.
  InvalidateResult Send(ObjectId viommu, std::span<const RawCommand> commands) {
    return context_->Invalidate(viommu, InvalidateDataType::kArmSmmuv3, commands);
  }
  InvalidateResult Send(ObjectId viommu, const RawCommand& command) { return Send(viommu, {&command, 1}); }
  InvalidateResult Send(ObjectId viommu, const smmuv3::Command& command) {
    return Send(viommu, smmuv3::Encode(command));
  }

 private:
  std::unique_ptr<Context> context_;
  MemoryFile memory_{kMemoryBytes};
  ObjectId ioas_ = 0;
};

// A valid vSTE that translates; its context descriptors need not exist as long as no device accesses memory.
inline constexpr RawVste kTranslateVste = {
    smmuv3::ste::kConfig.Set(smmuv3::ste::kValid.mask(), static_cast<uint64_t>(smmuv3::SteConfig::kStage1)) |
        kMemoryBase,
    0};

}  // namespace viommu::conformance

#endif  // VIOMMU_TESTS_CONFORMANCE_VM_H_
