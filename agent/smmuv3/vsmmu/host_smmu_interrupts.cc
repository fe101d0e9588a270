// What the host's driver does when the SMMU calls: errors of commands, events, page requests.

#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/event.h"
#include "agent/smmuv3/vsmmu/host_smmu.h"
#include "common/log.h"

namespace viommu::agent {
namespace {

using smmuv3::CommandErrorCode;
using smmuv3::Opcode;
using smmuv3::RawCommand;
using smmuv3::Register;

// CMD_RESUME: Ac, Ab (IHI 0070, 4.7.1).
constexpr uint8_t kResumeRetry = 1;
constexpr uint8_t kResumeAbort = 2;

RawCommand ResumeCommand(const StallTag& tag, PageResponseCode code) {
  return smmuv3::Encode({.opcode = Opcode::kResume,
                         .sid = tag.sid,
                         .response = code == PageResponseCode::kSuccess ? kResumeRetry : kResumeAbort,
                         .tag = tag.stag});
}

}  // namespace

void HostSmmu::LogOften(std::atomic<uint64_t>& count, const char* event, const std::string& details) {
  const uint64_t times = count.fetch_add(1, std::memory_order_relaxed) + 1;
  if (!std::has_single_bit(times)) return;
  VIOMMU_LOG(kWarning, event, {{"smmu", info_.name}, {"what", details}, {"times", times}});
}

// ---- Global errors ----

void HostSmmu::OnGlobalError() {
  errors_.Kick([this] { HandleGlobalErrors(); });
}

void HostSmmu::HandleGlobalErrors() {
  while (true) {
    const uint64_t gerror = hardware_.ReadRegister(Register::kGerror);
    const uint64_t active = gerror ^ hardware_.ReadRegister(Register::kGerrorn);
    if (active == 0) return;
    if ((active & smmuv3::gerror::kCmdq.mask()) != 0) OnCommandError();
    const uint64_t others = active & ~smmuv3::gerror::kCmdq.mask();
    if (others != 0) LogOften(other_errors_, "SMMU reports an error", absl::StrCat("GERROR ", absl::Hex(others)));
    hardware_.WriteRegister(Register::kGerrorn, gerror);
  }
}

void HostSmmu::OnCommandError() {
  const auto code =
      static_cast<CommandErrorCode>(smmuv3::cmdq_cons::kErr.Get(hardware_.ReadRegister(Register::kCmdqCons)));
  switch (code) {
    case CommandErrorCode::kNone:
    case CommandErrorCode::kAbort:
      // The SMMU fetches again once the error is acknowledged.
      return;
    case CommandErrorCode::kAtcInvSync:
      // It carries the sync out again, and no longer waits for the device.
      LogOften(atc_timeouts_, "a device does not answer ATC invalidations", "CERROR_ATC_INV_SYNC");
      return;
    case CommandErrorCode::kIllegal:
    case CommandErrorCode::kIllegalAccess:
      break;
  }
  // Who sent it is not told: the queue is everybody's. A sync takes its place, which does no harm.
  const auto failed = hardware_.failed_command();
  LogOften(illegal_commands_, "SMMU refuses a command",
           failed.has_value() ? smmuv3::OpcodeName(smmuv3::OpcodeByte(failed->command)) : "");
  hardware_.ReplaceFailedCommand(smmuv3::Encode({.opcode = Opcode::kSync, .cs = smmuv3::kSyncSignalSev}));
}

// ---- Rings ----

void HostSmmu::Drain(Ring& ring, absl::FunctionRef<void(const uint64_t* record)> handle) {
  const uint32_t wrap_mask = (uint32_t{2} << ring.log2_size) - 1;
  const uint32_t index_mask = (uint32_t{1} << ring.log2_size) - 1;
  const uint64_t* words = ring.pages.words();
  while (true) {
    const auto prod = static_cast<uint32_t>(hardware_.ReadRegister(ring.prod));
    const auto cons = static_cast<uint32_t>(hardware_.ReadRegister(ring.cons));
    const bool overflow = ((prod ^ cons) & smmuv3::kQueueOverflow.mask()) != 0;
    if (((prod ^ cons) & wrap_mask) == 0 && !overflow) return;
    uint32_t position = cons & wrap_mask;
    for (; position != (prod & wrap_mask); position = (position + 1) & wrap_mask) {
      std::array<uint64_t, std::tuple_size_v<smmuv3::RawEvent>> record = {};
      for (uint32_t i = 0; i < ring.record_words; ++i) {
        const uint64_t& word = words[size_t{position & index_mask} * ring.record_words + i];
        record[i] = std::atomic_ref<uint64_t>(const_cast<uint64_t&>(word)).load(std::memory_order_acquire);
      }
      handle(record.data());
    }
    // The overflow flag is copied: that acknowledges it.
    hardware_.WriteRegister(ring.cons, position | (prod & smmuv3::kQueueOverflow.mask()));
  }
}

void HostSmmu::OnEvent() {
  events_.kicks.Kick([this] {
    Drain(events_, [this](const uint64_t* record) { HandleEvent({record[0], record[1], record[2], record[3]}); });
  });
}

void HostSmmu::HandleEvent(const smmuv3::RawEvent& record) {
  const smmuv3::Event event = smmuv3::DecodeEvent(record);
  StreamOwner owner;
  {
    MutexLock lock(owners_mu_);
    const auto found = owners_.find(event.sid);
    if (found != owners_.end()) owner = found->second;
  }
  if (event.stall) {
    const StallTag tag{this, event.sid, event.stag};
    const PageFault fault{.device = owner.device,
                          .pasid_valid = event.ssv,
                          .last_page = true,
                          .pasid = event.ssid,
                          .group = event.stag,
                          .read = event.read,
                          .write = !event.read,
                          .execute = event.instruction,
                          .privileged = event.privileged,
                          .address = event.address};
    if (owner.faults == nullptr || !owner.faults->Push(fault, tag)) {
      IssueLater(ResumeCommand(tag, PageResponseCode::kInvalid));
      return;
    }
    // Whoever has taken the stream over meanwhile has looked for what waits already.
    MutexLock lock(owners_mu_);
    const auto now = owners_.find(event.sid);
    if (now != owners_.end() && now->second.faults == owner.faults) return;
    for (const StallTag& left : owner.faults->TakeStream(this, event.sid)) {
      IssueLater(ResumeCommand(left, PageResponseCode::kInvalid));
    }
    return;
  }
  if (owner.events != nullptr && smmuv3::IsForGuest(record) &&
      owner.events->Deliver(smmuv3::WithSid(record, owner.virt_id))) {
    return;
  }
  LogOften(host_events_, "SMMU event", smmuv3::ToString(event));
}

void HostSmmu::Resume(const StallTag& tag, PageResponseCode code) {
  // No sync: a resumed transaction is not what a CMD_SYNC waits for.
  const RawCommand command = ResumeCommand(tag, code);
  const auto deadline = std::chrono::steady_clock::now() + sync_timeout_;
  if (!hardware_.queue().Push({&command, 1}, deadline).has_value()) IssueLater(command);
}

// ---- Page requests ----

void HostSmmu::OnPageRequest() {
  page_requests_.kicks.Kick([this] {
    Drain(page_requests_, [this](const uint64_t* record) { HandlePageRequest({record[0], record[1]}); });
  });
}

void HostSmmu::HandlePageRequest(const smmuv3::RawPageRequest& record) {
  // Linux 7.2 has nobody who could answer.
  const smmuv3::PageRequest request = smmuv3::DecodePageRequest(record);
  LogOften(unexpected_page_requests_, "unexpected page request", smmuv3::ToString(request));
  if (!request.last) return;
  IssueLater(smmuv3::Encode({.opcode = Opcode::kPriResp,
                             .sid = request.sid,
                             .ssid = request.ssid,
                             .ssv = request.ssv,
                             .response = smmuv3::kPageResponseFailure,
                             .tag = request.group}));
}

}  // namespace viommu::agent
