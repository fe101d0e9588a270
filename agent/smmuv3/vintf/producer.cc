#include "agent/smmuv3/vintf/producer.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <thread>
#include <utility>

#include "agent/smmuv3/spec/command.h"

namespace viommu::smmuv3 {
namespace {

using cmdqv::QueueRegister;

// The hardware is another thread, which may not be running: a moment's spin, some yields, then short sleeps.
constexpr int kSpins = 64;
constexpr int kYields = 32;
constexpr std::chrono::microseconds kPoll{20};

constexpr size_t kMaxEntries = size_t{1} << 19;

uint32_t PositionMask(std::span<std::byte> ring) {
  const size_t entries = ring.size() / sizeof(RawCommand);
  const bool whole = ring.size() % sizeof(RawCommand) == 0 && std::has_single_bit(entries);
  const bool aligned = reinterpret_cast<uintptr_t>(ring.data()) % sizeof(RawCommand) == 0;
  if (!whole || !aligned || entries < 2 || entries > kMaxEntries) std::abort();
  return static_cast<uint32_t>(entries * 2 - 1);
}

void Relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

}  // namespace

VcmdqProducer::VcmdqProducer(std::shared_ptr<VintfPage> page, uint32_t lvcmdq, std::span<std::byte> ring)
    : page_(std::move(page)),
      lvcmdq_(lvcmdq),
      words_(reinterpret_cast<uint64_t*>(ring.data())),
      mask_(PositionMask(ring)) {
  if (lvcmdq >= cmdqv::kMaxLvcmdqsPerVintf) std::abort();
}

uint32_t VcmdqProducer::Cons() const { return page_->Load(lvcmdq_, QueueRegister::kCons) & mask_; }

bool VcmdqProducer::InError() const {
  const uint32_t active = page_->Load(lvcmdq_, QueueRegister::kGerror) ^ page_->Load(lvcmdq_, QueueRegister::kGerrorn);
  return (active & cmdqv::kGerrorCmdqErr.mask()) != 0;
}

uint32_t VcmdqProducer::pending() const { return (prod_ - Cons()) & mask_; }

void VcmdqProducer::Write(uint32_t position, const RawCommand& command) {
  const size_t word = size_t{position & (mask_ >> 1)} * 2;
  std::atomic_ref<uint64_t>(words_[word]).store(command.dw0, std::memory_order_relaxed);
  std::atomic_ref<uint64_t>(words_[word + 1]).store(command.dw1, std::memory_order_relaxed);
}

void VcmdqProducer::Ring(QueueRegister reg, uint32_t value) {
  page_->Store(lvcmdq_, reg, value);
  page_->WakeHardware();
}

template <typename Ready>
bool VcmdqProducer::WaitFor(Ready ready, TimePoint deadline) const {
  for (int i = 0; i < kSpins; ++i) {
    if (ready()) return true;
    Relax();
  }
  for (int i = 0; i < kYields; ++i) {
    if (ready()) return true;
    sched_yield();
  }
  while (!ready()) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= deadline) return false;
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(kPoll, deadline - now));
  }
  return true;
}

bool VcmdqProducer::Disable(TimePoint deadline) {
  Ring(QueueRegister::kConfig, 0);
  return WaitFor([this] { return (page_->Load(lvcmdq_, QueueRegister::kStatus) & 1) == 0; }, deadline);
}

bool VcmdqProducer::Enable(TimePoint deadline) {
  if (!Disable(deadline)) return false;
  prod_ = 0;
  page_->Store(lvcmdq_, QueueRegister::kProd, 0);
  page_->Store(lvcmdq_, QueueRegister::kCons, 0);
  page_->Store(lvcmdq_, QueueRegister::kGerrorn, page_->Load(lvcmdq_, QueueRegister::kGerror));
  Ring(QueueRegister::kConfig, static_cast<uint32_t>(cmdqv::kConfigEn.mask()));
  return WaitFor([this] { return (page_->Load(lvcmdq_, QueueRegister::kStatus) & 1) != 0; }, deadline);
}

VcmdqProducer::SubmitResult VcmdqProducer::Submit(std::span<const RawCommand> commands, TimePoint deadline) {
  SubmitResult submit;
  while (submit.submitted < commands.size()) {
    uint32_t room = 0;
    const bool waited = WaitFor(
        [&] {
          room = capacity() - std::min(pending(), capacity());
          return room != 0 || InError();
        },
        deadline);
    if (room == 0) {
      submit.result = waited ? WaitResult::kError : WaitResult::kTimedOut;
      return submit;
    }
    const auto count = static_cast<uint32_t>(std::min<size_t>(room, commands.size() - submit.submitted));
    for (uint32_t i = 0; i < count; ++i) Write(prod_ + i, commands[submit.submitted + i]);
    prod_ = (prod_ + count) & mask_;
    submit.submitted += count;
    Ring(QueueRegister::kProd, prod_);
  }
  return submit;
}

VcmdqProducer::WaitResult VcmdqProducer::Sync(TimePoint deadline) {
  const RawCommand sync = Encode({.opcode = Opcode::kSync, .cs = kSyncSignalNone});
  if (const SubmitResult submit = Submit({&sync, 1}, deadline); submit.submitted == 0) return submit.result;
  // Nobody else submits: the sync is complete when the queue is empty.
  bool done = false;
  const bool waited = WaitFor([&] { return (done = pending() == 0) || InError(); }, deadline);
  if (done) return WaitResult::kDone;
  return waited ? WaitResult::kError : WaitResult::kTimedOut;
}

std::optional<VcmdqProducer::QueueError> VcmdqProducer::error() const {
  if (!InError()) return std::nullopt;
  // The hardware writes CONS before GERROR.
  const uint32_t cons = page_->Load(lvcmdq_, QueueRegister::kCons);
  const uint32_t index = cons & (mask_ >> 1);
  const auto word = [&](size_t which) {
    return std::atomic_ref<uint64_t>(words_[size_t{index} * 2 + which]).load(std::memory_order_relaxed);
  };
  return QueueError{static_cast<uint32_t>(cmdqv::kConsErr.Get(cons)), index, {word(0), word(1)}};
}

void VcmdqProducer::ReplaceFailed(const RawCommand& command) {
  if (InError()) Write(Cons(), command);
}

void VcmdqProducer::Acknowledge() { Ring(QueueRegister::kGerrorn, page_->Load(lvcmdq_, QueueRegister::kGerror)); }

}  // namespace viommu::smmuv3
