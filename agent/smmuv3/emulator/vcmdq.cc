#include "agent/smmuv3/emulator/vcmdq.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <span>

#include "agent/smmuv3/spec/command.h"

namespace viommu::smmuv3 {
namespace {

using cmdqv::QueueRegister;

constexpr uint32_t kCmdqErr = static_cast<uint32_t>(cmdqv::kGerrorCmdqErr.mask());

// Entries that are fetched from memory at a time.
constexpr uint32_t kFetch = 64;

void Add(std::atomic<uint64_t>& counter) { counter.fetch_add(1, std::memory_order_relaxed); }

}  // namespace

void Vcmdq::Assign(VintfPage& page, uint32_t lvcmdq, uint64_t base, uint32_t log2_size) {
  if (assigned_ || log2_size < kMinLog2Size || log2_size > kMaxLog2Size) std::abort();
  const uint64_t bytes = sizeof(RawCommand) << log2_size;
  if ((base & ~cmdqv::kBaseAddr.mask()) != 0 || base % bytes != 0) std::abort();
  *this = Vcmdq();
  for (const QueueRegister reg : {QueueRegister::kConfig, QueueRegister::kStatus, QueueRegister::kProd,
                                  QueueRegister::kCons, QueueRegister::kGerror, QueueRegister::kGerrorn}) {
    page.Store(lvcmdq, reg, 0);
  }
  base_ = base;
  log2_size_ = log2_size;
  assigned_ = true;
}

void Vcmdq::Disable(VintfPage& page, uint32_t lvcmdq) {
  assigned_ = false;
  running_ = false;
  page.Store(lvcmdq, QueueRegister::kConfig, 0);
  page.Store(lvcmdq, QueueRegister::kStatus, 0);
}

void Vcmdq::Release(VintfPage& page, uint32_t lvcmdq) {
  if (assigned_) std::abort();
  *this = Vcmdq();
  for (const QueueRegister reg :
       {QueueRegister::kProd, QueueRegister::kCons, QueueRegister::kGerror, QueueRegister::kGerrorn}) {
    page.Store(lvcmdq, reg, 0);
  }
}

void Vcmdq::PublishCons(const Environment& env) const {
  const uint64_t cons = cmdqv::kConsErr.Set(cons_, static_cast<uint64_t>(error_));
  env.page->StoreRelease(env.id.lvcmdq, QueueRegister::kCons, static_cast<uint32_t>(cons));
}

void Vcmdq::FollowConfig(const Environment& env, bool enable) {
  running_ = enable;
  if (enable) {
    // Writable while the queue was off, as SMMU_CMDQ_CONS is (IHI 0070, 6.3.29).
    cons_ = env.page->Load(env.id.lvcmdq, QueueRegister::kCons) & PositionMask();
    PublishCons(env);
    env.page->Store(env.id.lvcmdq, QueueRegister::kGerror, gerror_);
  }
  env.page->Store(env.id.lvcmdq, QueueRegister::kStatus, enable ? static_cast<uint32_t>(cmdqv::kStatusEnOk.mask()) : 0);
}

Vcmdq::Turn Vcmdq::Run(const Environment& env) {
  Turn turn;
  if (!assigned_) return turn;
  const uint32_t config = env.page->Load(env.id.lvcmdq, QueueRegister::kConfig);
  const bool enable = (config & cmdqv::kConfigEn.mask()) != 0;
  if (enable != running_) {
    FollowConfig(env, enable);
    turn.worked = true;
  }
  // The acknowledgement is taken while the queue is off, too: drivers do that before they switch it on.
  if (error_active()) {
    const uint32_t gerrorn = env.page->Load(env.id.lvcmdq, QueueRegister::kGerrorn);
    if (((gerrorn ^ gerror_) & kCmdqErr) != 0) return turn;
    error_ = CommandErrorCode::kNone;
    if (running_) PublishCons(env);
    turn.worked = true;
  }
  if (!running_) return turn;
  const uint32_t prod = env.page->Load(env.id.lvcmdq, QueueRegister::kProd) & PositionMask();
  const uint32_t pending = (prod - cons_) & PositionMask();
  if (pending == 0) return turn;
  const uint32_t size = uint32_t{1} << log2_size_;
  const uint32_t to_end = size - (cons_ & (size - 1));
  Consume(env, std::min({pending, to_end, env.run_limit}), turn);
  return turn;
}

void Vcmdq::Consume(const Environment& env, uint32_t count, Turn& turn) {
  const uint32_t index_mask = (uint32_t{1} << log2_size_) - 1;
  std::array<RawCommand, kFetch> buffer;
  while (count != 0) {
    uint32_t fetch = std::min(count, kFetch);
    const uint64_t address = base_ + uint64_t{cons_ & index_mask} * sizeof(RawCommand);
    if (!env.memory->Read(address, std::as_writable_bytes(std::span(buffer).first(fetch)))) {
      // Somewhere in there: the first entry by itself says whether it is this one.
      fetch = 1;
      if (!env.memory->Read(address, std::as_writable_bytes(std::span(buffer).first(fetch)))) {
        Add(env.counters->aborted_fetches);
        return Stop(env, CommandErrorCode::kAbort, turn);
      }
    }
    for (uint32_t i = 0; i < fetch; ++i) {
      const RawCommand& raw = buffer[i];
      const std::optional<CommandErrorCode> code = ExecuteOne(env, raw);
      if (!code.has_value()) {
        turn.waiting = true;
        return PublishCons(env);
      }
      turn.worked = true;
      if (*code != CommandErrorCode::kNone) return Stop(env, *code, turn);
      cons_ = (cons_ + 1) & PositionMask();
      // Who waits for this sync need not wait for what is behind it.
      if (OpcodeByte(raw) == static_cast<uint8_t>(Opcode::kSync)) PublishCons(env);
    }
    count -= fetch;
  }
  PublishCons(env);
}

std::optional<CommandErrorCode> Vcmdq::ExecuteOne(const Environment& env, const RawCommand& raw) {
  const std::optional<RawCommand> command = env.filter->Rewrite(raw);
  std::optional<CommandErrorCode> code = CommandErrorCode::kIllegal;
  if (command.has_value()) code = (*env.executor)(*command, env.id);
  if (!code.has_value()) return code;
  const uint8_t opcode = OpcodeByte(raw);
  switch (*code) {
    case CommandErrorCode::kNone:
      Add(env.counters->done[opcode]);
      break;
    case CommandErrorCode::kIllegal:
      Add(env.counters->refused[opcode]);
      break;
    default:
      Add(env.counters->failed[opcode]);
      break;
  }
  return code;
}

void Vcmdq::Stop(const Environment& env, CommandErrorCode code, Turn& turn) {
  turn.worked = true;
  error_ = code;
  // CONS first: who sees the error finds its place and reason.
  PublishCons(env);
  // Active means that the two differ (IHI 0070, 6.3.19): whatever the owner has written there.
  gerror_ = (env.page->Load(env.id.lvcmdq, QueueRegister::kGerrorn) & kCmdqErr) ^ kCmdqErr;
  env.page->Store(env.id.lvcmdq, QueueRegister::kGerror, gerror_);
  turn.error_raised = true;
}

}  // namespace viommu::smmuv3
