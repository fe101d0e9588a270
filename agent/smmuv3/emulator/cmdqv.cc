#include "agent/smmuv3/emulator/cmdqv.h"

#include <fcntl.h>

#include <cstdlib>
#include <utility>

namespace viommu::smmuv3 {
namespace {

void Require(bool invariant) {
  if (!invariant) std::abort();
}

constexpr uint64_t Bit(uint32_t number) { return uint64_t{1} << number; }

}  // namespace

// Takes an interface's lock before the thread takes it again: the thread's turns follow each other so closely that
// somebody else would hardly ever get in between.
class ABSL_SCOPED_LOCKABLE Cmdqv::ControlLock {
 public:
  ControlLock(Cmdqv& cmdqv, Mutex& mu) ABSL_EXCLUSIVE_LOCK_FUNCTION(mu) : mu_(mu) {
    cmdqv.control_calls_.fetch_add(1, std::memory_order_relaxed);
    mu_.Lock();
    cmdqv.control_calls_.fetch_sub(1, std::memory_order_relaxed);
  }
  ~ControlLock() ABSL_UNLOCK_FUNCTION() { mu_.Unlock(); }
  ControlLock(const ControlLock&) = delete;
  ControlLock& operator=(const ControlLock&) = delete;

 private:
  Mutex& mu_;
};

Cmdqv::Cmdqv(const CmdqvParameters& parameters, const CmdqvOptions& options, Memory* memory, CommandExecutor executor)
    : parameters_(parameters), options_(options), memory_(memory), executor_(std::move(executor)) {
  Require(parameters.vintfs >= 1 && parameters.vintfs <= cmdqv::kMaxVintfs);
  Require(parameters.queues_per_vintf >= 1 && parameters.queues_per_vintf <= cmdqv::kMaxLvcmdqsPerVintf);
  Require(parameters.sid_slots >= 1 && parameters.sid_slots <= cmdqv::kMaxSidSlots);
  Require(options.run_limit >= 1 && options.max_wake_words <= cmdqv::kMaxVintfs);
  for (uint32_t i = 0; i < parameters.vintfs; ++i) vintfs_.push_back(std::make_unique<Vintf>());
}

Cmdqv::~Cmdqv() {
  stopping_.store(true);
  WakeThread();
  MutexLock lock(thread_mu_);
  if (thread_.joinable()) thread_.join();
}

Cmdqv::Vintf& Cmdqv::At(uint32_t vintf, uint32_t lvcmdq) {
  Require(vintf < parameters_.vintfs && lvcmdq < parameters_.queues_per_vintf);
  return *vintfs_[vintf];
}

Vcmdq& Cmdqv::QueueAt(Vintf& v, uint32_t lvcmdq) {
  Require(v.enabled);
  return v.queues[lvcmdq];
}

bool Cmdqv::EnableVintf(uint32_t vintf, uint16_t vmid, bool hyp_own, ErrorHandler on_error) {
  Vintf& v = At(vintf);
  std::shared_ptr<VintfPage> page = VintfPage::Create();
  if (page == nullptr) return false;
  ControlLock lock(*this, v.mu);
  Require(!v.enabled);
  v.enabled = true;
  v.filter = {.vmid = vmid, .hyp_own = hyp_own, .slots = {}};
  v.page = std::move(page);
  v.on_error = std::make_shared<const ErrorHandler>(std::move(on_error));
  v.queues.assign(parameters_.queues_per_vintf, Vcmdq());
  return true;
}

void Cmdqv::DisableVintf(uint32_t vintf) {
  Vintf& v = At(vintf);
  ControlLock lock(*this, v.mu);
  Require(v.enabled && v.assigned == 0);
  v.enabled = false;
  v.filter = VintfFilter();
  v.page.reset();
  v.on_error.reset();
  v.queues.clear();
}

int Cmdqv::DupPage(uint32_t vintf) {
  Vintf& v = At(vintf);
  ControlLock lock(*this, v.mu);
  Require(v.enabled);
  return fcntl(v.page->fd(), F_DUPFD_CLOEXEC, 0);
}

void Cmdqv::SetSidSlot(uint32_t vintf, uint32_t index, const SidSlot& slot) {
  Require(index < parameters_.sid_slots && slot.virt_sid <= cmdqv::kSidMatchVirtSid.max());
  Vintf& v = At(vintf);
  ControlLock lock(*this, v.mu);
  Require(v.enabled);
  v.filter.slots[index] = slot;
}

void Cmdqv::ClearSidSlot(uint32_t vintf, uint32_t index) {
  Require(index < parameters_.sid_slots);
  Vintf& v = At(vintf);
  ControlLock lock(*this, v.mu);
  Require(v.enabled);
  v.filter.slots[index].reset();
}

LvcmdqErrMap Cmdqv::ErrMap(uint32_t vintf) const {
  Require(vintf < parameters_.vintfs);
  const auto& map = vintfs_[vintf]->err_map;
  return {map[0].load(std::memory_order_acquire), map[1].load(std::memory_order_acquire)};
}

void Cmdqv::ShowError(Vintf& v, uint32_t vintf, uint32_t lvcmdq, bool error) {
  std::atomic<uint64_t>& word = v.err_map[lvcmdq / 64];
  if (error) {
    word.fetch_or(Bit(lvcmdq % 64), std::memory_order_acq_rel);
  } else {
    word.fetch_and(~Bit(lvcmdq % 64), std::memory_order_acq_rel);
  }
  if ((v.err_map[0].load(std::memory_order_relaxed) | v.err_map[1].load(std::memory_order_relaxed)) != 0) {
    vintf_err_map_.fetch_or(Bit(vintf), std::memory_order_acq_rel);
  } else {
    vintf_err_map_.fetch_and(~Bit(vintf), std::memory_order_acq_rel);
  }
}

void Cmdqv::AssignQueue(uint32_t vintf, uint32_t lvcmdq, uint64_t base, uint32_t log2_size) {
  Vintf& v = At(vintf, lvcmdq);
  {
    ControlLock lock(*this, v.mu);
    QueueAt(v, lvcmdq).Assign(*v.page, lvcmdq, base, log2_size);
    ++v.assigned;
  }
  StartThread();
  WakeThread();
}

void Cmdqv::DisableQueue(uint32_t vintf, uint32_t lvcmdq) {
  Vintf& v = At(vintf, lvcmdq);
  {
    ControlLock lock(*this, v.mu);
    Vcmdq& queue = QueueAt(v, lvcmdq);
    Require(queue.assigned());
    queue.Disable(*v.page, lvcmdq);
    --v.assigned;
  }
  WakeThread();
}

void Cmdqv::ReleaseQueue(uint32_t vintf, uint32_t lvcmdq) {
  Vintf& v = At(vintf, lvcmdq);
  ControlLock lock(*this, v.mu);
  QueueAt(v, lvcmdq).Release(*v.page, lvcmdq);
  ShowError(v, vintf, lvcmdq, false);
}

}  // namespace viommu::smmuv3
