#include "agent/smmuv3/emulator/translation_run.h"

#include "agent/smmuv3/spec/cd.h"
#include "agent/smmuv3/spec/ste.h"

namespace viommu::smmuv3 {
namespace {

// STE.PRIVCFG and STE.INSTCFG.
constexpr uint8_t kOverrideOff = 2;  // unprivileged, data
constexpr uint8_t kOverrideOn = 3;   // privileged, instruction

bool Overridden(uint8_t cfg, bool incoming) { return cfg == kOverrideOn || (cfg != kOverrideOff && incoming); }

}  // namespace

TranslateResult Translator::Translate(const Transaction& transaction, Purpose purpose,
                                      const TranslationSettings& settings) {
  return TranslationRun(*this, transaction, purpose, settings).Run();
}

std::optional<Ste> Translator::FindSte(uint32_t sid, const TranslationSettings& settings) {
  if (!settings.enabled) return std::nullopt;
  const Transaction transaction{.sid = sid};
  return TranslationRun(*this, transaction, Purpose::kAtsRequest, settings).FindSte();
}

TranslationRun::TranslationRun(Translator& translator, const Transaction& transaction, Purpose purpose,
                               const TranslationSettings& settings)
    : translator_(translator),
      features_(translator.features_),
      caches_(*translator.caches_),
      transaction_(transaction),
      purpose_(purpose),
      settings_(settings),
      privileged_(transaction.privileged),
      // Writes are data, whatever the device says (13.1.2).
      instruction_(transaction.instruction && !transaction.write) {}

TranslateResult TranslationRun::Run() {
  if (transaction_.translated && purpose_ == Purpose::kAccess) return RunTranslated();
  if (!settings_.enabled) return RunWhileDisabled();
  ConsultCaches();
  if (!GetSte()) return result_;
  const Ste& ste = ste_->ste;
  const bool ats = purpose_ == Purpose::kAtsRequest;
  route_ = RouteOf(ste);
  if (ste.config != SteConfig::kBypass && !HasStage1(ste) && !HasStage2(ste)) {
    Abort(std::nullopt);
    if (ats) result_.kind = TranslateResult::Kind::kAtsDisabled;
    return result_;
  }
  if (ats && !AllowsAts(ste, features_)) {
    Abort(MakeEvent(EventId::kFBadAtsTreq));
    result_.kind = TranslateResult::Kind::kAtsDisabled;
    return result_;
  }
  ApplyOverrides();
  if (route_.error.has_value()) {
    Abort(MakeEvent(*route_.error));
    return result_;
  }
  if (route_.stage1) {
    if (!GetCd()) return result_;
    ConsultTlbLate();
    TranslateBothStages();
    return result_;
  }
  // Stage 1 is passed by; what comes out of it is as wide as a physical address (3.4).
  if (features_.oas_bits < 64 && (transaction_.address >> features_.oas_bits) != 0) {
    Abort(MakeEvent(EventId::kFAddrSize));
    if (ats) result_.kind = TranslateResult::Kind::kTranslationFault;
    return result_;
  }
  if (route_.stage2) {
    ConsultTlbLate();
    TranslateStage2Only();
    return result_;
  }
  result_.translation = {.output = transaction_.address, .bypassed = true};
  return result_;
}

TranslateResult TranslationRun::RunWhileDisabled() {
  if (purpose_ == Purpose::kAtsRequest) {
    Abort(MakeEvent(EventId::kFBadAtsTreq));
    result_.kind = TranslateResult::Kind::kAtsDisabled;
  } else if (settings_.abort_disabled || (transaction_.address >> features_.oas_bits) != 0) {
    Abort(std::nullopt);
  } else {
    result_.translation = {.output = transaction_.address, .bypassed = true};
  }
  return result_;
}

// 3.9.1.3. Events of broken configuration are not recorded for these, for CR2.REC_CFG_ATS is not there.
TranslateResult TranslationRun::RunTranslated() {
  if (!features_.ats) {
    Abort(std::nullopt);
    return result_;
  }
  if (!settings_.enabled) {
    Abort(MakeEvent(EventId::kFTranslForbidden));
    return result_;
  }
  if (settings_.check_ats) {
    ConsultCaches();
    if (!GetSte()) {
      result_.record = false;
      return result_;
    }
    const Ste& ste = ste_->ste;
    if (ste.config != SteConfig::kBypass && !HasStage1(ste) && !HasStage2(ste)) {
      Abort(std::nullopt);
      return result_;
    }
    if (!AllowsAts(ste, features_)) {
      Abort(MakeEvent(EventId::kFTranslForbidden));
      return result_;
    }
  }
  if ((transaction_.address >> features_.oas_bits) != 0) {
    Abort(std::nullopt);
    return result_;
  }
  result_.translation = {.output = transaction_.address, .bypassed = true};
  return result_;
}

std::optional<Ste> TranslationRun::FindSte() {
  ConsultCaches();
  if (!GetSte()) return std::nullopt;
  return ste_->ste;
}

TranslationRun::Route TranslationRun::RouteOf(const Ste& ste) const {
  Route route;
  route.stage1 = HasStage1(ste);
  route.stage2 = HasStage2(ste);
  const bool substreams = HasSubstreams(ste, features_);
  if (transaction_.ssid.has_value()) {
    const uint32_t ssid = *transaction_.ssid;
    if (!substreams || (uint64_t{ssid} >> ste.s1_cd_max) != 0) {
      route.error = EventId::kCBadSubstreamId;
    } else if (ssid == 0 && ste.s1_dss == S1Dss::kSsid0) {
      route.error = EventId::kFStreamDisabled;
    }
    route.cd_index = ssid;
  } else if (substreams) {
    if (ste.s1_dss == S1Dss::kBypass) {
      route.stage1 = false;
    } else if (ste.s1_dss != S1Dss::kSsid0) {
      route.error = EventId::kFStreamDisabled;
    }
  }
  return route;
}

TlbTag TranslationRun::TagOf(TlbStage stage, const Ste& ste, const Cd* cd) const {
  TlbTag tag{.stage = stage};
  const StreamWorld world = StreamWorldOf(ste, settings_.e2h, features_);
  if (stage == TlbStage::kStage1 && world != StreamWorld::kNsEl1) {
    tag.regime = TlbRegime::kNsEl2;
  } else if (features_.stage2) {
    // Stage 1 alone is tagged by VMID, too (5.2, S2VMID).
    tag.vmid = ste.s2_vmid;
  }
  if (stage == TlbStage::kStage1 && world != StreamWorld::kEl2 && cd != nullptr) {
    tag.asid = cd->asid;
    tag.aset = cd->aset;
  }
  return tag;
}

void TranslationRun::ConsultCaches() {
  MutexLock lock(caches_.mu());
  epoch_ = result_.epoch = caches_.epoch();
  caches_.MaybeEvict();
  const CachedSte* ste = caches_.config().LookupSte(transaction_.sid);
  if (ste == nullptr) return;
  ste_ = *ste;
  if (!ste->legal) return;
  const Route route = RouteOf(ste->ste);
  if (route.error.has_value()) return;
  if (route.stage1) {
    const CachedCd* cd = caches_.config().LookupCd(transaction_.sid, route.cd_index);
    if (cd == nullptr) return;
    cd_ = *cd;
    if (!cd->legal) return;
  }
  ConsultTlb(route);
}

// Configuration had to be read from memory: only now it is clear what to look for.
void TranslationRun::ConsultTlbLate() {
  if (tlb_consulted_) return;
  MutexLock lock(caches_.mu());
  ConsultTlb(route_);
}

void TranslationRun::ConsultTlb(const Route& route) {
  tlb_consulted_ = true;
  const TlbEntry* entry = nullptr;
  if (route.stage1) {
    const TlbTag tag = TagOf(TlbStage::kStage1, ste_->ste, &cd_->cd);
    entry = caches_.tlb().Lookup(tag, WithoutTopByte(transaction_.address));
  } else if (route.stage2) {
    entry = caches_.tlb().Lookup(TagOf(TlbStage::kStage2Only, ste_->ste, nullptr), transaction_.address);
  }
  if (entry != nullptr) hit_ = *entry;
}

bool TranslationRun::GetSte() {
  // Ahead of the caches: the table may have become smaller.
  if (!IsInStreamTable(settings_.stream_table, features_, transaction_.sid)) {
    return Abort(MakeEvent(EventId::kCBadStreamId), settings_.record_bad_sid);
  }
  if (!ste_.has_value()) {
    const auto lookup = [&](uint32_t sid, uint32_t split) {
      MutexLock lock(caches_.mu());
      return caches_.config().LookupSteL1(sid, split);
    };
    const auto insert = [&](uint32_t sid, uint32_t split, const SteL1& descriptor) {
      MutexLock lock(caches_.mu());
      if (caches_.MayFill(epoch_)) caches_.config().InsertSteL1(sid, split, descriptor);
    };
    const auto read = [&](uint64_t address, std::span<uint64_t> words) {
      return ReadPhysical(address, words) ? ReadResult::kDone : ReadResult::kAbort;
    };
    const Fetched<RawSte> fetched =
        FetchSte(settings_.stream_table, features_, transaction_.sid, {lookup, insert}, read);
    if (fetched.error == FetchError::kOutOfRange) {
      return Abort(MakeEvent(EventId::kCBadStreamId), settings_.record_bad_sid);
    }
    if (fetched.error != FetchError::kNone) {
      Event event = MakeEvent(EventId::kFSteFetch);
      event.fetch_address = fetched.address;
      return Abort(event);
    }
    CachedSte& ste = ste_.emplace();
    ste.ste = DecodeSte(fetched.raw);
    ste.legal = CheckSte(ste.ste, features_) == nullptr;
    MutexLock lock(caches_.mu());
    if (caches_.MayFill(epoch_)) caches_.config().InsertSte(transaction_.sid, ste);
  }
  return ste_->legal || Abort(MakeEvent(EventId::kCBadSte));
}

void TranslationRun::ApplyOverrides() {
  if (!features_.override_perms) return;
  privileged_ = Overridden(ste_->ste.priv_cfg, privileged_);
  instruction_ = !transaction_.write && Overridden(ste_->ste.inst_cfg, instruction_);
}

bool TranslationRun::GetCd() {
  const Ste& ste = ste_->ste;
  if (!cd_.has_value()) {
    const auto lookup = [&](uint32_t ssid, uint32_t split) {
      MutexLock lock(caches_.mu());
      return caches_.config().LookupCdL1(transaction_.sid, ssid, split);
    };
    const auto insert = [&](uint32_t ssid, uint32_t split, const CdL1& descriptor) {
      MutexLock lock(caches_.mu());
      if (caches_.MayFill(epoch_)) caches_.config().InsertCdL1(transaction_.sid, ssid, split, descriptor);
    };
    uint64_t physical = 0;
    const auto read = [&](uint64_t address, std::span<uint64_t> words) {
      return ReadWords(address, EventClass::kCd, words, physical);
    };
    const Fetched<RawCd> fetched = FetchCd(ste, features_, route_.cd_index, {lookup, insert}, read);
    switch (fetched.error) {
      case FetchError::kNone:
        break;
      case FetchError::kFault:
        return false;
      case FetchError::kOutOfRange: {
        Event event = MakeEvent(EventId::kCBadSubstreamId);
        event.ssid = route_.cd_index;
        return Abort(event);
      }
      case FetchError::kAbort: {
        Event event = MakeEvent(EventId::kFCdFetch);
        event.fetch_address = physical;
        return Abort(event);
      }
    }
    CachedCd& cd = cd_.emplace();
    cd.cd = DecodeCd(fetched.raw);
    cd.legal = CheckCd(cd.cd, ste, settings_.e2h, features_) == nullptr;
    MutexLock lock(caches_.mu());
    if (caches_.MayFill(epoch_)) caches_.config().InsertCd(transaction_.sid, route_.cd_index, cd);
  }
  return cd_->legal || Abort(MakeEvent(EventId::kCBadCd));
}

// ---- Ends ---------------------------------------------------------------------------------------------------------

Event TranslationRun::MakeEvent(EventId id) const {
  Event event;
  event.id = id;
  event.sid = transaction_.sid;
  event.ssv = transaction_.ssid.has_value();
  event.ssid = transaction_.ssid.value_or(0);
  event.privileged = privileged_;
  event.instruction = instruction_;
  event.read = !transaction_.write;
  event.address = transaction_.address;
  return event;
}

bool TranslationRun::Abort(std::optional<Event> event, bool record) {
  result_.kind = TranslateResult::Kind::kAborted;
  // ATS requests record that they are forbidden, and nothing else (3.9.1.2).
  const bool recorded = purpose_ == Purpose::kAccess || (event.has_value() && event->id == EventId::kFBadAtsTreq);
  result_.record = record && recorded && event.has_value();
  // As software will see it: with the fields that such an event has.
  if (event.has_value()) result_.event = DecodeEvent(EncodeEvent(*event));
  return false;
}

bool TranslationRun::FailStage1(EventId id) {
  Abort(MakeEvent(id));
  result_.kind = TranslateResult::Kind::kTranslationFault;
  const Cd& cd = cd_->cd;
  // STALL_MODEL is in CD.S already: CheckCd().
  result_.stall = cd.stall && purpose_ == Purpose::kAccess;
  result_.record = result_.record && cd.record;
  result_.raz_wi = !cd.abort;
  return false;
}

bool TranslationRun::FailStage2(EventId id, EventClass cls, uint64_t ipa) {
  Event event = MakeEvent(id);
  event.stage2 = true;
  event.cls = cls;
  event.ipa = ipa & event::kIpa.mask();
  event.tt_read = cls == EventClass::kTable;  // there are no updates of descriptors
  Abort(event);
  result_.kind = TranslateResult::Kind::kTranslationFault;
  const Ste& ste = ste_->ste;
  result_.stall = ste.s2_stall && purpose_ == Purpose::kAccess;
  result_.record = result_.record && ste.s2_record;
  return false;
}

bool TranslationRun::FailWalk(const WalkFault& fault, bool stage2, EventClass cls, uint64_t ipa) {
  EventId id = EventId::kFTranslation;
  switch (fault.error) {
    case WalkError::kNestedFault:
      return false;  // has said so itself
    case WalkError::kAbort: {
      Event event = MakeEvent(EventId::kFWalkEabt);
      event.stage2 = stage2;
      // 7.3.12: stage 1 blames the fetch of its table.
      event.cls = stage2 ? cls : EventClass::kTable;
      event.fetch_address = fault.address;
      return Abort(event);
    }
    case WalkError::kTranslation:
      break;
    case WalkError::kAddressSize:
      id = EventId::kFAddrSize;
      break;
    case WalkError::kAccessFlag:
      id = EventId::kFAccess;
      break;
  }
  return stage2 ? FailStage2(id, cls, ipa) : FailStage1(id);
}

}  // namespace viommu::smmuv3
