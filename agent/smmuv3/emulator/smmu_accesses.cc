#include <algorithm>

#include "agent/smmuv3/emulator/smmu.h"

namespace viommu::smmuv3 {
namespace {

// How often a device looks again for a translation that it has just been given and has lost at once to an invalidation,
// before it does without.
constexpr int kAtcAttempts = 8;

constexpr uint64_t LowBits(uint32_t count) { return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1; }

AtcEntry NewAtcEntry(const Transaction& transaction, const Translation& translation) {
  AtcEntry entry;
  entry.ssv = transaction.ssid.has_value();
  entry.ssid = transaction.ssid.value_or(0);
  entry.privileged = transaction.privileged;
  entry.address = transaction.address & ~LowBits(translation.span_log2);
  entry.span_log2 = translation.span_log2;
  entry.output = translation.output & ~LowBits(translation.span_log2);
  entry.readable = translation.readable;
  entry.writable = translation.writable;
  entry.executable = translation.executable;
  return entry;
}

bool Allows(const AtcEntry& entry, const Transaction& transaction) {
  if (transaction.write) return entry.writable;
  return transaction.instruction ? entry.executable : entry.readable;
}

}  // namespace

Outcome EmulatedSmmu::Attempt(const Transaction& transaction, TimePoint stall_deadline, PhysicalUse use) {
  transactions_.fetch_add(1, std::memory_order_relaxed);
  while (true) {
    TranslateResult result;
    std::optional<uint16_t> stag;
    EventQueue::Consequences consequences;
    {
      // A CMD_SYNC waits until this is over: for what is done with the translation, and for the record of what is not.
      const InFlight::Section section(in_flight_);
      result = translator_.Translate(transaction, Purpose::kAccess, Settings());
      if (result.kind == TranslateResult::Kind::kDone) {
        const bool done = use(result.translation);
        return {done ? TransactionResult::kDone : TransactionResult::kNoResponse, result.translation, std::nullopt};
      }
      if (result.stall) stag = stalls_.Begin(transaction.sid);
      if (stag.has_value()) {
        result.event->stall = true;
        result.event->stag = *stag;
      }
      // Faults that were to stall are recorded whatever CD.R and STE.S2R say (5.5).
      if (result.record || result.stall) consequences = events_.Record(*result.event);
    }
    events_.Act(consequences);
    StallAnswer answer = result.raz_wi ? StallAnswer::kRazWi : StallAnswer::kAbort;
    if (stag.has_value()) {
      answer = stalls_.Wait(*stag, stall_deadline);
      events_.DropStall(*stag);
    }
    switch (answer) {
      case StallAnswer::kRetry:
        continue;
      case StallAnswer::kAbort:
        return {TransactionResult::kAborted, {}, result.event};
      case StallAnswer::kRazWi:
        return {TransactionResult::kRazWi, {}, result.event};
      case StallAnswer::kTimeout:
        return {TransactionResult::kTimedOut, {}, result.event};
    }
  }
}

// Nothing: the device is to do without ATS.
std::optional<Outcome> EmulatedSmmu::AttemptThroughAtc(const Transaction& transaction, TimePoint stall_deadline,
                                                       PhysicalUse use) {
  for (int attempt = 0; attempt < kAtcAttempts; ++attempt) {
    {
      // An invalidation of the device's cache is answered when accesses that used it are over, too.
      const InFlight::Section section(in_flight_);
      std::optional<AtcEntry> entry;
      {
        MutexLock lock(caches_.mu());
        caches_.MaybeEvict();
        entry = caches_.atc().Lookup(transaction.sid, transaction.ssid, transaction.privileged, transaction.address);
      }
      if (entry.has_value() && Allows(*entry, transaction)) {
        Transaction translated = transaction;
        translated.translated = true;
        translated.address = entry->output | (transaction.address & LowBits(entry->span_log2));
        const auto use_span = [&](Translation translation) {
          translation.span_log2 = entry->span_log2;
          return use(translation);
        };
        return Attempt(translated, stall_deadline, use_span);
      }
    }
    const AtsCompletion completion = RequestTranslation(transaction);
    if (completion.status == AtsStatus::kUnsupportedRequest) return std::nullopt;
    const AtcEntry granted = NewAtcEntry(transaction, completion.translation);
    if (completion.status != AtsStatus::kSuccess || !Allows(granted, transaction)) {
      return Outcome{TransactionResult::kAborted, {}, std::nullopt};
    }
  }
  return std::nullopt;
}

AtsCompletion EmulatedSmmu::RequestTranslation(const Transaction& transaction) {
  transactions_.fetch_add(1, std::memory_order_relaxed);
  const Translation none{.readable = false, .writable = false, .executable = false};
  TranslateResult result;
  EventQueue::Consequences consequences;
  AtsCompletion completion{AtsStatus::kSuccess, none};
  {
    const InFlight::Section section(in_flight_);
    result = translator_.Translate(transaction, Purpose::kAtsRequest, Settings());
    if (result.kind == TranslateResult::Kind::kDone) {
      completion.translation = result.translation;
      // Answers never say that a translation is global (3.9.1).
      completion.translation.global = false;
      MutexLock lock(caches_.mu());
      if (caches_.MayFillAtc(result.epoch)) {
        caches_.atc().Insert(transaction.sid, NewAtcEntry(transaction, completion.translation));
      }
    }
    if (result.record) consequences = events_.Record(*result.event);
  }
  events_.Act(consequences);
  if (result.kind == TranslateResult::Kind::kAtsDisabled) completion.status = AtsStatus::kUnsupportedRequest;
  if (result.kind == TranslateResult::Kind::kAborted) completion.status = AtsStatus::kCompleterAbort;
  return completion;
}

Outcome EmulatedSmmu::Transfer(Transaction transaction, uint64_t length, bool use_atc, TimePoint stall_deadline,
                               Move move) {
  const uint64_t begin = transaction.address;
  if (length != 0 && begin + (length - 1) < begin) {
    // No bus carries an access that wraps around the end of the address space.
    Event event{.id = EventId::kFUut,
                .sid = transaction.sid,
                .ssv = transaction.ssid.has_value(),
                .ssid = transaction.ssid.value_or(0),
                .privileged = transaction.privileged,
                .instruction = transaction.instruction && !transaction.write,
                .read = !transaction.write,
                .address = begin};
    events_.Act(events_.Record(event));
    return {TransactionResult::kAborted, {}, event};
  }
  Outcome first;
  uint64_t offset = 0;
  do {
    transaction.address = begin + offset;
    uint64_t piece = 0;
    const auto use = [&](const Translation& translation) {
      const uint64_t in_span = LowBits(translation.span_log2) - (transaction.address & LowBits(translation.span_log2));
      piece = std::min(length - offset, in_span == ~uint64_t{0} ? in_span : in_span + 1);
      return piece == 0 || move(translation.output, offset, piece);
    };
    std::optional<Outcome> outcome;
    if (use_atc) outcome = AttemptThroughAtc(transaction, stall_deadline, use);
    if (!outcome.has_value()) outcome = Attempt(transaction, stall_deadline, use);
    if (outcome->result != TransactionResult::kDone) return *outcome;
    if (offset == 0) first = *outcome;
    offset += piece;
  } while (offset < length);
  return first;
}

Outcome EmulatedSmmu::ReadBytes(Transaction transaction, std::span<std::byte> out, bool use_atc,
                                TimePoint stall_deadline) {
  transaction.write = false;
  uint64_t done = 0;
  const auto move = [&](uint64_t physical, uint64_t offset, uint64_t length) {
    if (!memory_->Read(physical, out.subspan(offset, length))) return false;
    done = offset + length;
    return true;
  };
  const Outcome outcome = Transfer(transaction, out.size(), use_atc, stall_deadline, move);
  if (outcome.result == TransactionResult::kRazWi) std::ranges::fill(out.subspan(done), std::byte{0});
  return outcome;
}

Outcome EmulatedSmmu::WriteBytes(Transaction transaction, std::span<const std::byte> in, bool use_atc,
                                 TimePoint stall_deadline) {
  transaction.write = true;
  const auto move = [&](uint64_t physical, uint64_t offset, uint64_t length) {
    return memory_->Write(physical, in.subspan(offset, length));
  };
  return Transfer(transaction, in.size(), use_atc, stall_deadline, move);
}

Outcome EmulatedSmmu::Translate(const Transaction& transaction, TimePoint stall_deadline) {
  return Attempt(transaction, stall_deadline, [](const Translation&) { return true; });
}

Outcome EmulatedSmmu::Read(Transaction transaction, std::span<std::byte> out, TimePoint stall_deadline) {
  return ReadBytes(transaction, out, false, stall_deadline);
}

Outcome EmulatedSmmu::Write(Transaction transaction, std::span<const std::byte> in, TimePoint stall_deadline) {
  return WriteBytes(transaction, in, false, stall_deadline);
}

Outcome EmulatedSmmu::ReadThroughAtc(Transaction transaction, std::span<std::byte> out, TimePoint stall_deadline) {
  return ReadBytes(transaction, out, true, stall_deadline);
}

Outcome EmulatedSmmu::WriteThroughAtc(Transaction transaction, std::span<const std::byte> in,
                                      TimePoint stall_deadline) {
  return WriteBytes(transaction, in, true, stall_deadline);
}

bool EmulatedSmmu::RequestPage(const PageRequest& request) {
  const auto ppar = [&] {
    const InFlight::Section section(in_flight_);
    const std::optional<Ste> ste = translator_.FindSte(request.sid, Settings());
    if (!ste.has_value()) return PageRequests::Ppar::kUnknown;
    return ste->ppar && features_.ssid_bits != 0 ? PageRequests::Ppar::kYes : PageRequests::Ppar::kNo;
  };
  return page_requests_.Request(request, ppar);
}

std::vector<PageResponse> EmulatedSmmu::TakePageResponses(uint32_t sid) { return page_requests_.TakeResponses(sid); }

void EmulatedSmmu::SetDeviceResponding(uint32_t sid, bool responding) {
  if (!responding) {
    atc_invalidations_.Silence(sid);
    return;
  }
  atc_invalidations_.Wake(sid, [this](const Command& command) {
    MutexLock lock(caches_.mu());
    caches_.Invalidate(command, features_.ds);
  });
}

}  // namespace viommu::smmuv3
