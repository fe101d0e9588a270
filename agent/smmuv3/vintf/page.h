// Page 0 of a CMDQV's virtual interface (agent/smmuv3/spec/cmdqv.h) as memory that the emulated hardware and a guest's
// producer share: 64 KiB that either side reads and writes without a system call.
//
// Neither side trusts what it reads here: the other one may write any word at any time.
//
// Threads. All methods from any thread; each word is single-copy atomic.

#ifndef VIOMMU_AGENT_SMMUV3_VINTF_PAGE_H_
#define VIOMMU_AGENT_SMMUV3_VINTF_PAGE_H_

#include <cstdint>
#include <memory>

#include "agent/smmuv3/spec/cmdqv.h"

namespace viommu::smmuv3 {

class VintfPage {
 public:
  // The hardware's side: a new page of zeros with the wake word's magic in it, in a memfd whose size nobody can change
  // (whoever shrank it would end this process by SIGBUS). Null with errno set when the system gives none.
  static std::shared_ptr<VintfPage> Create();

  // The producer's side: maps what VintfMapping in agent/backend.h describes. The caller keeps `fd` and may close it.
  // Null with errno set; EINVAL when `length` is not that of a page.
  static std::shared_ptr<VintfPage> Map(int fd, uint64_t offset, uint64_t length);

  ~VintfPage();
  VintfPage(const VintfPage&) = delete;
  VintfPage& operator=(const VintfPage&) = delete;

  // The memfd, as long as this lives; -1 on the producer's side.
  int fd() const { return fd_; }

  // `offset`: bytes, a multiple of 4 below kPageBytes. Sequentially consistent.
  uint32_t Load(uint32_t offset) const;
  void Store(uint32_t offset, uint32_t value);
  uint32_t Load(uint32_t lvcmdq, cmdqv::QueueRegister reg) const { return Load(cmdqv::Offset(lvcmdq, reg)); }
  void Store(uint32_t lvcmdq, cmdqv::QueueRegister reg, uint32_t value) { Store(cmdqv::Offset(lvcmdq, reg), value); }
  // A store that releases, and orders nothing behind it: for what the other side polls.
  void StoreRelease(uint32_t lvcmdq, cmdqv::QueueRegister reg, uint32_t value);

  // The word to sleep on (spec/cmdqv.h).
  uint32_t* wake_word() const { return words_ + cmdqv::kWakeWordOffset / sizeof(uint32_t); }
  // After a register was written: wakes the hardware if it sleeps. A system call only then.
  void WakeHardware();

 private:
  VintfPage(int fd, uint32_t* words);
  static std::shared_ptr<VintfPage> MapWords(int fd, uint64_t offset, bool keep_fd);

  const int fd_;
  uint32_t* const words_;
  const bool has_wake_word_;
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_VINTF_PAGE_H_
