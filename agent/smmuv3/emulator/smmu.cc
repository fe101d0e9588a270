#include "agent/smmuv3/emulator/smmu.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "agent/smmuv3/emulator/legality.h"

namespace viommu::smmuv3 {
namespace {

// Commands carried out under one hold of the caches' lock: bounds how long a walk waits for it.
constexpr uint64_t kMaxRun = 64;

// Linux refuses smaller queues, whose entries its 64-entry batches would not fit in.
constexpr uint32_t kMinLog2Size = 7;

uint32_t QueueLog2Size(const Features& features, const SmmuOptions& options) {
  const uint32_t architecture = features.cmdq_log2_size == 0 ? kMaxQueueLog2Size : features.cmdq_log2_size;
  return std::clamp(std::min(options.queue_log2_size, architecture), kMinLog2Size, kMaxQueueLog2Size);
}

}  // namespace

EmulatedSmmu::EmulatedSmmu(std::string name, const Features& features, const SmmuOptions& options,
                           CommandErrorHandler on_error, EventHandler on_event)
    : name_(std::move(name)),
      features_(features),
      on_error_(std::move(on_error)),
      on_event_(std::move(on_event)),
      queue_(QueueLog2Size(features, options)),
      tlb_(std::max(options.tlb_capacity, 1u)),
      config_(std::max(options.config_capacity, 1u)),
      atc_(std::max(options.atc_capacity, 1u)),
      thread_([this] { Run(); }) {}

EmulatedSmmu::~EmulatedSmmu() {
  {
    MutexLock lock(state_mu_);
    stopping_ = true;
    state_changed_.NotifyAll();
  }
  queue_.Wake();
  thread_.join();
}

void EmulatedSmmu::WriteSte(uint32_t sid, const RawSte& entry) {
  MutexLock lock(table_mu_);
  stream_table_[sid] = entry;
}

RawSte EmulatedSmmu::ReadSte(uint32_t sid) const {
  MutexLock lock(table_mu_);
  const auto entry = stream_table_.find(sid);
  return entry == stream_table_.end() ? RawSte{} : entry->second;
}

std::optional<CommandError> EmulatedSmmu::ActiveCommandError() const {
  MutexLock lock(state_mu_);
  return error_;
}

void EmulatedSmmu::AcknowledgeCommandError() {
  MutexLock lock(state_mu_);
  error_.reset();
  state_changed_.NotifyAll();
}

bool EmulatedSmmu::MayFill(uint64_t epoch) {
  if (epoch == epoch_.load(std::memory_order_relaxed)) return true;
  ++fills_dropped_;
  return false;
}

bool EmulatedSmmu::InsertTlb(const TlbEntry& entry, uint64_t epoch) {
  MutexLock lock(cache_mu_);
  if (!MayFill(epoch)) return false;
  tlb_.Insert(entry);
  return true;
}

bool EmulatedSmmu::InsertSte(uint32_t sid, const RawSte& entry, uint64_t epoch) {
  MutexLock lock(cache_mu_);
  if (!MayFill(epoch)) return false;
  config_.InsertSte(sid, entry);
  return true;
}

bool EmulatedSmmu::InsertCd(uint32_t sid, uint32_t ssid, const RawCd& descriptor, uint64_t epoch) {
  MutexLock lock(cache_mu_);
  if (!MayFill(epoch)) return false;
  config_.InsertCd(sid, ssid, descriptor);
  return true;
}

bool EmulatedSmmu::InsertAtc(uint32_t sid, const AtcEntry& entry, uint64_t epoch) {
  MutexLock lock(cache_mu_);
  if (!MayFill(epoch)) return false;
  atc_.Insert(sid, entry);
  return true;
}

std::optional<TlbEntry> EmulatedSmmu::LookupTlb(TlbRegime regime, TlbStage stage, uint16_t vmid, uint16_t asid,
                                                uint64_t address) const {
  MutexLock lock(cache_mu_);
  return tlb_.Lookup(regime, stage, vmid, asid, address);
}

std::optional<TlbEntry> EmulatedSmmu::LookupTlbTable(TlbRegime regime, TlbStage stage, uint16_t vmid, uint16_t asid,
                                                     uint64_t address) const {
  MutexLock lock(cache_mu_);
  return tlb_.LookupTable(regime, stage, vmid, asid, address);
}

std::optional<RawSte> EmulatedSmmu::LookupSte(uint32_t sid) const {
  MutexLock lock(cache_mu_);
  return config_.LookupSte(sid);
}

std::optional<RawCd> EmulatedSmmu::LookupCd(uint32_t sid, uint32_t ssid) const {
  MutexLock lock(cache_mu_);
  return config_.LookupCd(sid, ssid);
}

std::optional<AtcEntry> EmulatedSmmu::LookupAtc(uint32_t sid, std::optional<uint32_t> ssid, uint64_t address) const {
  MutexLock lock(cache_mu_);
  return atc_.Lookup(sid, ssid, address);
}

SmmuCounters EmulatedSmmu::GetCounters() const {
  SmmuCounters counters;
  for (size_t i = 0; i < executed_.size(); ++i) counters.executed[i] = executed_[i].load(std::memory_order_relaxed);
  counters.command_errors = command_errors_.load(std::memory_order_relaxed);
  MutexLock lock(cache_mu_);
  counters.fills_dropped = fills_dropped_;
  counters.tlb_entries = tlb_.size();
  counters.atc_entries = atc_.size();
  counters.config_entries = config_.size();
  return counters;
}

void EmulatedSmmu::Pause() {
  MutexLock lock(state_mu_);
  paused_ = true;
  while (executing_) state_changed_.Wait(state_mu_);
}

void EmulatedSmmu::Resume() {
  MutexLock lock(state_mu_);
  paused_ = false;
  state_changed_.NotifyAll();
}

bool EmulatedSmmu::WaitWhilePaused() {
  MutexLock lock(state_mu_);
  executing_ = false;
  state_changed_.NotifyAll();
  while (paused_ && !stopping_) state_changed_.Wait(state_mu_);
  executing_ = !stopping_;
  return !stopping_;
}

bool EmulatedSmmu::ReportAndWait(const RawCommand& command) {
  command_errors_.fetch_add(1, std::memory_order_relaxed);
  const CommandError error{CommandErrorCode::kIllegal, command};
  {
    MutexLock lock(state_mu_);
    error_ = error;
    // A queue that stands still at an error carries nothing out.
    executing_ = false;
    state_changed_.NotifyAll();
  }
  on_error_(error);
  MutexLock lock(state_mu_);
  while (error_.has_value() && !stopping_) state_changed_.Wait(state_mu_);
  return !stopping_;
}

void EmulatedSmmu::Run() {
  while (true) {
    queue_.WaitForWork(std::chrono::steady_clock::time_point::max());
    if (!WaitWhilePaused()) return;
    const std::span<const RawCommand> run = queue_.Peek(kMaxRun);
    const Progress progress = Execute(run);
    // Outside the lock: who waits for a sync is woken in here.
    if (progress.done != 0) queue_.Pop(progress.done);
    if (!progress.illegal) continue;
    const RawCommand bad = run[progress.done];
    if (!ReportAndWait(bad)) return;
    // In its place there is a CMD_SYNC now, which is complete as everything before it is.
    queue_.Pop(1);
  }
}

EmulatedSmmu::Progress EmulatedSmmu::Execute(std::span<const RawCommand> run) {
  Progress progress;
  MutexLock lock(cache_mu_);
  for (const RawCommand& raw : run) {
    const std::optional<Command> command = DecodeLegal(raw, features_);
    if (!command.has_value()) {
      progress.illegal = true;
      return progress;
    }
    ExecuteOne(*command);
    executed_[OpcodeByte(raw)].fetch_add(1, std::memory_order_relaxed);
    ++progress.done;
    // Who waits for this sync need not wait for what is behind it.
    if (command->opcode == Opcode::kSync) return progress;
  }
  return progress;
}

void EmulatedSmmu::ExecuteOne(const Command& command) {
  switch (command.opcode) {
    case Opcode::kCfgiSte:
    case Opcode::kCfgiSteRange:
    case Opcode::kCfgiCd:
    case Opcode::kCfgiCdAll:
      config_.Invalidate(command);
      break;
    case Opcode::kTlbiNhAll:
    case Opcode::kTlbiNhAsid:
    case Opcode::kTlbiNhVa:
    case Opcode::kTlbiNhVaa:
    case Opcode::kTlbiEl2All:
    case Opcode::kTlbiEl2Asid:
    case Opcode::kTlbiEl2Va:
    case Opcode::kTlbiEl2Vaa:
    case Opcode::kTlbiS12Vmall:
    case Opcode::kTlbiS2Ipa:
    case Opcode::kTlbiNsnhAll:
      tlb_.Invalidate(*TlbScopeOf(command, features_.ds));
      break;
    case Opcode::kAtcInv:
      atc_.Invalidate(command);
      break;
    case Opcode::kPrefetchConfig:
    case Opcode::kPrefetchAddr:
      // Hints, which an SMMU may leave aside (4.2).
      return;
    case Opcode::kPriResp:
    case Opcode::kResume:
    case Opcode::kStallTerm:
      // Answers to nobody: no transaction is waiting (4.7.1, 4.7.2), no page request was sent on.
      return;
    case Opcode::kSync:
      // Commands are complete as soon as they are carried out.
      return;
  }
  epoch_.fetch_add(1, std::memory_order_release);
}

}  // namespace viommu::smmuv3
