#include <algorithm>
#include <chrono>

#include "agent/smmuv3/emulator/legality.h"
#include "agent/smmuv3/emulator/smmu.h"

namespace viommu::smmuv3 {
namespace {

// Commands that are looked at in one go: bounds how long an access waits for the lock of the caches.
constexpr uint64_t kMaxRun = 64;

// CMD_RESUME: Ac and Ab (4.7.1).
constexpr uint8_t kResumeRetry = 1;
constexpr uint8_t kResumeAbort = 2;

bool IsInvalidation(Opcode opcode) {
  switch (opcode) {
    case Opcode::kCfgiSte:
    case Opcode::kCfgiSteRange:
    case Opcode::kCfgiCd:
    case Opcode::kCfgiCdAll:
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
      return true;
    default:
      return false;
  }
}

}  // namespace

std::optional<EmulatedSmmu::FailedCommand> EmulatedSmmu::failed_command() const {
  if (!interrupts_.IsActive(gerror::kCmdq)) return std::nullopt;
  MutexLock lock(state_mu_);
  return failed_;
}

void EmulatedSmmu::ReplaceFailedCommand(const RawCommand& command) {
  if (!interrupts_.IsActive(gerror::kCmdq)) return;
  MutexLock lock(state_mu_);
  failed_.command = command;
  replacement_ = command;
}

std::optional<RawCommand> EmulatedSmmu::TakeReplacement() {
  MutexLock lock(state_mu_);
  std::optional<RawCommand> taken = replacement_;
  replacement_.reset();
  return taken;
}

void EmulatedSmmu::ReportError(CommandErrorCode code, const RawCommand& command) {
  command_errors_.fetch_add(1, std::memory_order_relaxed);
  {
    MutexLock lock(state_mu_);
    failed_ = {code, command};
    // What stands in the queue stays there, also when it stands there in place of another.
    replacement_ = command;
    // A queue that stands still at an error carries nothing out.
    executing_ = false;
    state_changed_.NotifyAll();
  }
  interrupts_.RaiseError(gerror::kCmdq);
}

bool EmulatedSmmu::WaitWhileHalted() {
  MutexLock lock(state_mu_);
  executing_ = false;
  state_changed_.NotifyAll();
  while (!stopping_ && Halted()) state_changed_.Wait(state_mu_);
  executing_ = !stopping_;
  return !stopping_;
}

bool EmulatedSmmu::Halted() const { return paused_ || !IsEnabled(cr0::kCmdqEn) || interrupts_.IsActive(gerror::kCmdq); }

void EmulatedSmmu::Run() {
  while (true) {
    queue_.WaitForWork(std::chrono::steady_clock::time_point::max());
    // Closing alone would have it carry out what is left; whoever still waits for that need not.
    if (!WaitWhileHalted()) return queue_.Abandon();
    static_cast<void>(CarryOut());
  }
}

bool EmulatedSmmu::CarryOut() {
  std::span<const RawCommand> run = queue_.Peek(kMaxRun);
  if (run.empty()) return false;
  const std::optional<RawCommand> replacement = TakeReplacement();
  if (replacement.has_value()) run = {&*replacement, 1};
  if (fail_next_fetch_.exchange(false, std::memory_order_acq_rel)) {
    ReportError(CommandErrorCode::kAbort, run.front());
    return true;
  }
  const Progress progress = ExecuteRun(run);
  // Who waits for a sync is woken in here.
  if (progress.done != 0) queue_.Pop(progress.done);
  if (progress.error != CommandErrorCode::kNone) ReportError(progress.error, run[progress.done]);
  return true;
}

bool EmulatedSmmu::Complete(QueuePosition end, TimePoint deadline) {
  if (own_thread_) return queue_.WaitConsumed(end, deadline);
  const auto halted = [this] {
    MutexLock lock(state_mu_);
    return Halted();
  };
  while (!halted() && CarryOut()) {
  }
  const QueueStats left = queue_.GetStats();
  return left.pushed - left.depth >= end;
}

EmulatedSmmu::Progress EmulatedSmmu::ExecuteRun(std::span<const RawCommand> run) {
  Progress progress;
  while (progress.done < run.size()) {
    // Invalidations in a row share one hold of the lock.
    {
      MutexLock lock(caches_.mu());
      while (progress.done < run.size()) {
        const RawCommand& raw = run[progress.done];
        const std::optional<Command> command = DecodeLegal(raw, features_);
        if (!command.has_value() || !IsInvalidation(command->opcode)) break;
        caches_.Invalidate(*command, features_.ds);
        Count(raw);
        ++progress.done;
      }
    }
    if (progress.done == run.size()) break;
    const RawCommand& raw = run[progress.done];
    progress.error = ExecuteOne(raw, own_outstanding_);
    if (progress.error != CommandErrorCode::kNone) break;
    ++progress.done;
    // Who waits for this sync need not wait for what is behind it.
    if (OpcodeOf(raw) == Opcode::kSync) break;
  }
  return progress;
}

CommandErrorCode EmulatedSmmu::Execute(const RawCommand& command, AtcInvalidations::Outstanding* outstanding) {
  return ExecuteOne(command, outstanding == nullptr ? shared_outstanding_ : *outstanding);
}

std::optional<CommandErrorCode> EmulatedSmmu::TryExecute(const RawCommand& command,
                                                         AtcInvalidations::Outstanding& outstanding) {
  if (OpcodeOf(command) == Opcode::kSync) {
    const std::optional<bool> answered = atc_invalidations_.TryWait(outstanding);
    if (!answered.has_value()) return std::nullopt;
    if (!*answered) return CommandErrorCode::kAtcInvSync;
  }
  return ExecuteOne(command, outstanding);
}

CommandErrorCode EmulatedSmmu::ExecuteOne(const RawCommand& raw, AtcInvalidations::Outstanding& outstanding) {
  const std::optional<Command> command = DecodeLegal(raw, features_);
  if (!command.has_value()) return CommandErrorCode::kIllegal;
  switch (command->opcode) {
    case Opcode::kAtcInv:
      // Without translation there are no devices with translations (4.5.1).
      if (IsEnabled(cr0::kSmmuEn) && atc_invalidations_.Issue(*command, outstanding)) {
        MutexLock lock(caches_.mu());
        caches_.Invalidate(*command, features_.ds);
      }
      break;
    case Opcode::kPriResp:
      if (IsEnabled(cr0::kSmmuEn)) {
        page_requests_.Respond(
            {command->sid, command->ssv, command->ssv ? command->ssid : 0, command->tag, command->response});
      }
      break;
    case Opcode::kResume: {
      StallAnswer answer = StallAnswer::kRazWi;
      if ((command->response & kResumeRetry) != 0) {
        answer = StallAnswer::kRetry;
      } else if ((command->response & kResumeAbort) != 0 || features_.terminate_aborts) {
        answer = StallAnswer::kAbort;
      }
      stalls_.Resume(command->sid, command->tag, answer);
      break;
    }
    case Opcode::kStallTerm:
      stalls_.Terminate(command->sid);
      break;
    case Opcode::kSync: {
      const CommandErrorCode error = Sync(*command, outstanding);
      if (error != CommandErrorCode::kNone) return error;
      break;
    }
    case Opcode::kPrefetchConfig:
    case Opcode::kPrefetchAddr:
      // Hints, which an SMMU may leave aside (4.2).
      break;
    default: {
      MutexLock lock(caches_.mu());
      caches_.Invalidate(*command, features_.ds);
      break;
    }
  }
  Count(raw);
  return CommandErrorCode::kNone;
}

CommandErrorCode EmulatedSmmu::Sync(const Command& command, AtcInvalidations::Outstanding& outstanding) {
  if (!atc_invalidations_.Wait(outstanding)) return CommandErrorCode::kAtcInvSync;
  in_flight_.Wait();
  // SIG_SEV wakes CPUs that wait for events; who waits here waits on the queue.
  if (command.cs == kSyncSignalIrq) interrupts_.SignalSync(command.address, command.msi_data);
  return CommandErrorCode::kNone;
}

}  // namespace viommu::smmuv3
