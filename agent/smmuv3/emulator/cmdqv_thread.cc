// The CMDQV's thread: turns, and sleep.

#include <pthread.h>
#include <sched.h>

#include <array>
#include <atomic>
#include <bit>
#include <memory>
#include <optional>
#include <span>
#include <tuple>

#include "agent/smmuv3/emulator/cmdqv.h"
#include "agent/smmuv3/emulator/wait_any.h"

namespace viommu::smmuv3 {
namespace {

using std::chrono::steady_clock;

// Wakes of one interface in one sleep, after which it is left out: there was nothing to do after all but the last. A
// few happen to honest producers, whose wake is late by a turn.
constexpr uint32_t kMaxWakes = 4;

// Wakes in one sleep of which it cannot be told who they came from, after which nobody is waited for: a producer that
// changes its wake word to and fro can hide for a while.
constexpr uint32_t kMaxUnexplainedWakes = 64;

using Word = std::atomic_ref<uint32_t>;

void Relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

}  // namespace

void Cmdqv::StartThread() {
  MutexLock lock(thread_mu_);
  if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
}

void Cmdqv::WakeThread() {
  Word(attention_).fetch_add(1);
  WakePrivate(&attention_);
}

void Cmdqv::Run() {
  pthread_setname_np(pthread_self(), "viommu-cmdqv");
  int idle = 0;
  while (!stopping_.load()) {
    if (Round()) {
      idle = 0;
    } else if (idle < options_.spins) {
      ++idle;
      Relax();
    } else if (idle < options_.spins + options_.yields) {
      ++idle;
      sched_yield();
    } else {
      Sleep();
      idle = 0;
    }
  }
}

bool Cmdqv::Round() {
  bool worked = false;
  for (uint64_t left = active_.load(); left != 0 && !stopping_.load(std::memory_order_relaxed); left &= left - 1) {
    while (control_calls_.load(std::memory_order_relaxed) != 0) sched_yield();
    worked |= Turn(static_cast<uint32_t>(std::countr_zero(left)));
  }
  return worked;
}

bool Cmdqv::Turn(uint32_t vintf) {
  Vintf& v = *vintfs_[vintf];
  bool worked = false;
  std::optional<LvcmdqErrMap> raised;
  std::shared_ptr<const ErrorHandler> on_error;
  {
    MutexLock lock(v.mu);
    if (!v.enabled) return false;
    Vcmdq::Environment env = {.page = v.page.get(),
                              .id = {.vintf = vintf, .lvcmdq = 0},
                              .filter = &v.filter,
                              .memory = memory_,
                              .executor = &executor_,
                              .counters = &counters_,
                              .run_limit = options_.run_limit};
    for (; env.id.lvcmdq < v.queues.size(); ++env.id.lvcmdq) {
      Vcmdq& queue = v.queues[env.id.lvcmdq];
      if (!queue.assigned()) continue;
      const bool had_error = queue.error_active();
      const Vcmdq::Turn turn = queue.Run(env);
      worked |= turn.worked;
      if (queue.error_active() != had_error) ShowError(v, vintf, env.id.lvcmdq, queue.error_active());
      if (turn.error_raised) {
        raised = ErrMap(vintf);
        on_error = v.on_error;
      }
    }
  }
  // The map as it was: by now the owner may have acknowledged.
  if (raised.has_value()) (*on_error)(*raised);
  return worked;
}

void Cmdqv::CollectSleepers() {
  sleepers_.clear();
  for (uint64_t left = active_.load(); left != 0; left &= left - 1) {
    Vintf& v = *vintfs_[static_cast<size_t>(std::countr_zero(left))];
    MutexLock lock(v.mu);
    if (v.page != nullptr) sleepers_.push_back({v.page});
  }
}

void Cmdqv::Sleep() {
  sleeps_.fetch_add(1, std::memory_order_relaxed);
  const uint32_t seen = Word(attention_).load();
  CollectSleepers();
  // Without queues nothing comes from outside: AssignQueue() wakes.
  const auto deadline = sleepers_.empty() ? steady_clock::time_point::max() : steady_clock::now() + options_.max_sleep;
  for (const Sleeper& sleeper : sleepers_) sleeper.page->Store(cmdqv::kWakeWordOffset, cmdqv::kWakeWordSleeping);
  uint32_t unexplained = 0;
  // The last look comes after the words were set: a producer that did not see them set is seen here.
  while (!stopping_.load() && !Round()) {
    Sleeper* woken = WaitForWake(seen, deadline);
    if (Word(attention_).load() != seen || steady_clock::now() >= deadline) break;
    vain_wakes_.fetch_add(1, std::memory_order_relaxed);
    if (!ArmAgain(woken) && ++unexplained == kMaxUnexplainedWakes) {
      for (Sleeper& sleeper : sleepers_) sleeper.wakes = kMaxWakes;
    }
  }
  for (const Sleeper& sleeper : sleepers_) sleeper.page->Store(cmdqv::kWakeWordOffset, cmdqv::kWakeWordAwake);
  sleepers_.clear();
}

Cmdqv::Sleeper* Cmdqv::WaitForWake(uint32_t seen, steady_clock::time_point deadline) {
  std::array<WaitWord, 1 + cmdqv::kMaxVintfs> words;
  std::array<Sleeper*, 1 + cmdqv::kMaxVintfs> owners = {};
  static_assert(std::tuple_size_v<decltype(words)> <= kMaxWaitWords);
  size_t count = 0;
  words[count++] = {&attention_, seen, /*shared=*/false};
  for (Sleeper& sleeper : sleepers_) {
    if (sleeper.wakes >= kMaxWakes) continue;
    owners[count] = &sleeper;
    words[count++] = {sleeper.page->wake_word(), cmdqv::kWakeWordSleeping, /*shared=*/true};
  }
  const std::optional<size_t> woken = WaitAny(std::span(words).first(count), deadline);
  return woken.has_value() ? owners[*woken] : nullptr;
}

bool Cmdqv::ArmAgain(Sleeper* woken) {
  bool explained = woken != nullptr;
  if (woken != nullptr) ++woken->wakes;
  for (Sleeper& sleeper : sleepers_) {
    if (sleeper.page->Load(cmdqv::kWakeWordOffset) == cmdqv::kWakeWordSleeping) continue;
    explained = true;
    if (&sleeper != woken) ++sleeper.wakes;
    sleeper.page->Store(cmdqv::kWakeWordOffset, cmdqv::kWakeWordSleeping);
  }
  return explained;
}

}  // namespace viommu::smmuv3
