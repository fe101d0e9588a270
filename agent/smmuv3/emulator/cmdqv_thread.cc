// The CMDQV's thread: turns, and sleep.

#include <pthread.h>
#include <sched.h>

#include <algorithm>
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

using cmdqv::QueueRegister;
using std::chrono::steady_clock;

// Wakes of one interface in one sleep, after which it is left out: there was nothing to do after all but the last. A
// few happen to honest producers, whose wake is late by a turn.
constexpr uint32_t kMaxWakes = 4;

// Wakes in one sleep of which it cannot be told who they came from, after which nobody is waited for: a producer that
// changes its wake word to and fro can hide for a while.
constexpr uint32_t kMaxUnexplainedWakes = 64;

// Sleeps in a row through which nothing came, after which the thread takes long ones.
constexpr int kShortSleeps = 16;

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
  if (!options_.own_thread) return;
  MutexLock lock(thread_mu_);
  if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
}

void Cmdqv::WakeThread() {
  Word(attention_).fetch_add(1);
  WakePrivate(&attention_);
}

void Cmdqv::RunTurns() {
  if (options_.own_thread) return;
  while (Round()) {
  }
}

void Cmdqv::Run() {
  pthread_setname_np(pthread_self(), "viommu-cmdqv");
  int idle = 0;
  int silent = 0;  // sleeps, up to kShortSleeps
  while (!stopping_.load()) {
    if (Round()) {
      idle = 0;
      silent = 0;
    } else if (idle < options_.spins) {
      ++idle;
      Relax();
    } else if (idle < options_.spins + options_.yields) {
      ++idle;
      sched_yield();
    } else if (Sleep(silent == kShortSleeps)) {
      silent = std::min(silent + 1, kShortSleeps);
    } else {
      idle = 0;
      silent = 0;
    }
  }
}

bool Cmdqv::Round() {
  if (Word(attention_).load() != watches_of_) CollectWatches();
  bool worked = false;
  for (Watch& watch : watches_) {
    const uint32_t config = watch.page->Load(watch.id.lvcmdq, QueueRegister::kConfig);
    const uint32_t prod = watch.page->Load(watch.id.lvcmdq, QueueRegister::kProd);
    const uint32_t gerrorn = watch.page->Load(watch.id.lvcmdq, QueueRegister::kGerrorn);
    if (watch.idle && config == watch.config && prod == watch.prod && gerrorn == watch.gerrorn) continue;
    if (stopping_.load(std::memory_order_relaxed)) break;
    const Vcmdq::Turn turn = Turn(watch.id);
    // What was seen before the turn: if it has changed since, the next look sees a difference.
    watch.config = config;
    watch.prod = prod;
    watch.gerrorn = gerrorn;
    watch.idle = !turn.worked && !turn.waiting;
    if (!turn.worked) continue;
    worked = true;
    last_work_[watch.id.vintf] = ++turns_;
  }
  return worked;
}

void Cmdqv::CollectWatches() {
  watches_.clear();
  watches_of_ = Word(attention_).load();
  for (uint32_t vintf = 0; vintf < vintfs_.size(); ++vintf) {
    Vintf& v = *vintfs_[vintf];
    MutexLock lock(v.mu);
    for (uint32_t lvcmdq = 0; lvcmdq < v.queues.size(); ++lvcmdq) {
      if (v.queues[lvcmdq].assigned()) watches_.push_back({.page = v.page, .id = {vintf, lvcmdq}});
    }
  }
}

Vcmdq::Turn Cmdqv::Turn(VcmdqId id) {
  Vintf& v = *vintfs_[id.vintf];
  Vcmdq::Turn turn;
  LvcmdqErrMap raised;
  std::shared_ptr<const ErrorHandler> on_error;
  while (control_calls_.load(std::memory_order_relaxed) != 0) sched_yield();
  {
    MutexLock lock(v.mu);
    if (id.lvcmdq >= v.queues.size()) return turn;
    Vcmdq& queue = v.queues[id.lvcmdq];
    const bool had_error = queue.error_active();
    turn = queue.Run({.page = v.page.get(),
                      .id = id,
                      .filter = &v.filter,
                      .memory = memory_,
                      .executor = &executor_,
                      .counters = &counters_,
                      .run_limit = options_.run_limit});
    if (queue.error_active() != had_error) ShowError(v, id.vintf, id.lvcmdq, queue.error_active());
    if (turn.error_raised) {
      raised = ErrMap(id.vintf);
      on_error = v.on_error;
    }
  }
  // The map as it was: by now the owner may have acknowledged.
  if (on_error != nullptr) (*on_error)(raised);
  return turn;
}

void Cmdqv::CollectSleepers(uint32_t most) {
  sleepers_.clear();
  for (const Watch& watch : watches_) {
    if (!sleepers_.empty() && sleepers_.back().page == watch.page) continue;
    sleepers_.push_back({.page = watch.page, .last_work = last_work_[watch.id.vintf]});
  }
  if (sleepers_.size() <= most) return;
  const auto later = [](const Sleeper& a, const Sleeper& b) { return a.last_work > b.last_work; };
  std::nth_element(sleepers_.begin(), sleepers_.begin() + most, sleepers_.end(), later);
  sleepers_.resize(most);
}

bool Cmdqv::Sleep(bool long_one) {
  sleeps_.fetch_add(1, std::memory_order_relaxed);
  if (long_one) long_sleeps_.fetch_add(1, std::memory_order_relaxed);
  const uint32_t seen = watches_of_;
  CollectSleepers(long_one ? cmdqv::kMaxVintfs : options_.max_wake_words);
  // Without queues nothing comes from outside: AssignQueue() wakes.
  const auto deadline = watches_.empty() ? steady_clock::time_point::max()
                                         : steady_clock::now() + (long_one ? options_.long_sleep : options_.max_sleep);
  for (const Sleeper& sleeper : sleepers_) sleeper.page->Store(cmdqv::kWakeWordOffset, cmdqv::kWakeWordSleeping);
  const auto none_waits = [this] { return std::ranges::all_of(watches_, &Watch::idle); };
  bool woken_before = false;
  bool silent = false;
  uint32_t unexplained = 0;
  // The last look comes after the words were set: a producer that did not see them set is seen here.
  while (!stopping_.load() && !Round() && (!long_one || none_waits())) {
    Sleeper* woken = WaitForWake(seen, deadline);
    if (Word(attention_).load() != seen) break;
    if (steady_clock::now() >= deadline) {
      silent = !woken_before && none_waits();
      break;
    }
    woken_before = true;
    vain_wakes_.fetch_add(1, std::memory_order_relaxed);
    if (!ArmAgain(woken) && ++unexplained == kMaxUnexplainedWakes) {
      for (Sleeper& sleeper : sleepers_) sleeper.wakes = kMaxWakes;
    }
  }
  for (const Sleeper& sleeper : sleepers_) sleeper.page->Store(cmdqv::kWakeWordOffset, cmdqv::kWakeWordAwake);
  sleepers_.clear();
  return silent;
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
