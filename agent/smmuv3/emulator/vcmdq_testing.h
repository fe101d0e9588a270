// What tests of the CMDQV put around it: guest memory that other processes can map, and a recorder in the SMMU's place.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_VCMDQ_TESTING_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_VCMDQ_TESTING_H_

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "agent/smmuv3/emulator/memory.h"
#include "agent/smmuv3/emulator/vcmdq.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/registers.h"
#include "agent/smmuv3/spec/words.h"
#include "common/mutex.h"

namespace viommu::smmuv3 {

// A memfd at physical address kBase, mapped twice: once for the hardware, once for producers. Accesses of both sides
// are word by word.
class SharedTestMemory final : public Memory {
 public:
  static constexpr uint64_t kBase = 0x40000000;

  explicit SharedTestMemory(uint64_t bytes) : bytes_(bytes), fd_(memfd_create("test-memory", MFD_CLOEXEC)) {
    if (fd_ < 0 || ftruncate(fd_, static_cast<off_t>(bytes)) != 0) std::abort();
    hardware_ = Map();
    producer_ = Map();
  }
  ~SharedTestMemory() override {
    munmap(hardware_, bytes_);
    munmap(producer_, bytes_);
    close(fd_);
  }

  bool Read(uint64_t address, std::span<std::byte> out) override {
    uint64_t value = 0;
    for (size_t i = 0; i < out.size(); i += sizeof(value)) {
      if (!ReadWord(address + i, value)) return false;
      std::memcpy(out.data() + i, &value, sizeof(value));
    }
    return true;
  }
  bool Write(uint64_t, std::span<const std::byte>) override { return false; }
  bool ReadWord(uint64_t address, uint64_t& value) override {
    if (address % 8 != 0 || address < kBase || address - kBase >= bytes_) return false;
    if (address / 16 * 16 == failing_.load(std::memory_order_relaxed)) return false;
    value = std::atomic_ref<uint64_t>(hardware_[(address - kBase) / 8]).load(std::memory_order_acquire);
    return true;
  }
  bool WriteWord(uint64_t, uint64_t) override { return false; }

  // A producer's view of `bytes` from `offset` on.
  std::span<std::byte> At(uint64_t offset, uint64_t bytes) {
    if (offset + bytes > bytes_) std::abort();
    return {reinterpret_cast<std::byte*>(producer_) + offset, bytes};
  }
  void Put(uint64_t offset, const RawCommand& command) {
    std::atomic_ref<uint64_t>(producer_[offset / 8]).store(command.dw0);
    std::atomic_ref<uint64_t>(producer_[offset / 8 + 1]).store(command.dw1);
  }
  // Fetches of this 16-byte entry abort; 0: of none.
  void FailAt(uint64_t address) { failing_.store(address); }

 private:
  uint64_t* Map() const {
    void* address = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    if (address == MAP_FAILED) std::abort();
    return static_cast<uint64_t*>(address);
  }

  const uint64_t bytes_;
  const int fd_;
  uint64_t* hardware_ = nullptr;
  uint64_t* producer_ = nullptr;
  std::atomic<uint64_t> failing_{0};
};

// Remembers the commands that reached the SMMU, CMD_SYNC left out.
class CommandRecorder {
 public:
  std::optional<CommandErrorCode> Execute(const RawCommand& raw) {
    if (!complete_.load()) return std::nullopt;
    const CommandErrorCode answer = answer_.load();
    if (answer != CommandErrorCode::kNone) return answer;
    if (OpcodeByte(raw) == static_cast<uint8_t>(Opcode::kSync)) {
      syncs_.fetch_add(1);
      return answer;
    }
    MutexLock lock(mu_);
    commands_.push_back(raw);
    return answer;
  }
  CommandExecutor executor() {
    return [this](const RawCommand& raw, VcmdqId) { return Execute(raw); };
  }
  // What every further command is answered with.
  void Answer(CommandErrorCode code) { answer_.store(code); }
  // Whether commands are complete at once, or never.
  void SetComplete(bool complete) { complete_.store(complete); }
  std::vector<RawCommand> Take() {
    MutexLock lock(mu_);
    return std::exchange(commands_, {});
  }
  uint64_t syncs() const { return syncs_.load(); }

 private:
  Mutex mu_;
  std::vector<RawCommand> commands_ ABSL_GUARDED_BY(mu_);
  std::atomic<CommandErrorCode> answer_{CommandErrorCode::kNone};
  std::atomic<bool> complete_{true};
  std::atomic<uint64_t> syncs_{0};
};

inline RawCommand InvalidateAsid(uint16_t asid, uint16_t vmid = 0) {
  return Encode({.opcode = Opcode::kTlbiNhAsid, .vmid = vmid, .asid = asid});
}
inline RawCommand InvalidateAtc(uint32_t sid) {
  return Encode({.opcode = Opcode::kAtcInv, .sid = sid, .size = kAtcSizeAll});
}
inline RawCommand SyncCommand() { return Encode({.opcode = Opcode::kSync}); }

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_VCMDQ_TESTING_H_
