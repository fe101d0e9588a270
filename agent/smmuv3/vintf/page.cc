#include "agent/smmuv3/vintf/page.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>

namespace viommu::smmuv3 {
namespace {

using Word = std::atomic_ref<uint32_t>;
static_assert(Word::is_always_lock_free, "another process could not take part otherwise");

// Words of two processes must be the same words: the offset is all that is looked at.
uint32_t Checked(uint32_t offset) {
  if (offset % sizeof(uint32_t) != 0 || offset >= cmdqv::kPageBytes) std::abort();
  return offset / sizeof(uint32_t);
}

// Closes without touching errno.
void CloseQuietly(int fd) {
  const int saved = errno;
  close(fd);
  errno = saved;
}

}  // namespace

VintfPage::VintfPage(int fd, uint32_t* words)
    : fd_(fd),
      words_(words),
      has_wake_word_(fd >= 0 || Word(words[Checked(cmdqv::kWakeMagicOffset)]).load() == cmdqv::kWakeMagicValue) {}

VintfPage::~VintfPage() {
  munmap(words_, cmdqv::kPageBytes);
  if (fd_ >= 0) close(fd_);
}

std::shared_ptr<VintfPage> VintfPage::MapWords(int fd, uint64_t offset, bool keep_fd) {
  void* address = mmap(nullptr, cmdqv::kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(offset));
  if (address == MAP_FAILED) return nullptr;
  return std::shared_ptr<VintfPage>(new VintfPage(keep_fd ? fd : -1, static_cast<uint32_t*>(address)));
}

std::shared_ptr<VintfPage> VintfPage::Create() {
  const int fd = memfd_create("viommu-vintf", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return nullptr;
  std::shared_ptr<VintfPage> page;
  if (ftruncate(fd, cmdqv::kPageBytes) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0) {
    page = MapWords(fd, 0, /*keep_fd=*/true);
  }
  if (page == nullptr) {
    CloseQuietly(fd);
    return nullptr;
  }
  page->Store(cmdqv::kWakeMagicOffset, cmdqv::kWakeMagicValue);
  return page;
}

std::shared_ptr<VintfPage> VintfPage::Map(int fd, uint64_t offset, uint64_t length) {
  if (length != cmdqv::kPageBytes) {
    errno = EINVAL;
    return nullptr;
  }
  return MapWords(fd, offset, /*keep_fd=*/false);
}

uint32_t VintfPage::Load(uint32_t offset) const { return Word(words_[Checked(offset)]).load(); }

void VintfPage::Store(uint32_t offset, uint32_t value) { Word(words_[Checked(offset)]).store(value); }

void VintfPage::StoreRelease(uint32_t lvcmdq, cmdqv::QueueRegister reg, uint32_t value) {
  Word(words_[Checked(cmdqv::Offset(lvcmdq, reg))]).store(value, std::memory_order_release);
}

void VintfPage::WakeHardware() {
  if (!has_wake_word_) return;
  // The load comes after the register's store in the order of sequentially consistent operations, as the hardware's
  // look at the registers comes after its store of this word: one of the two sees the other.
  Word word(*wake_word());
  if (word.load() != cmdqv::kWakeWordSleeping) return;
  if (word.exchange(cmdqv::kWakeWordAwake) != cmdqv::kWakeWordSleeping) return;
  syscall(SYS_futex, wake_word(), FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

}  // namespace viommu::smmuv3
