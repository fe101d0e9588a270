// One transaction under way; an implementation detail of agent/smmuv3/emulator/translate.h.
//
// translation_run.cc has the way through the configuration, translation_stages.cc the two stages.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_TRANSLATION_RUN_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_TRANSLATION_RUN_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "agent/smmuv3/emulator/caches.h"
#include "agent/smmuv3/emulator/config_checks.h"
#include "agent/smmuv3/emulator/translate.h"
#include "agent/smmuv3/emulator/walk.h"

namespace viommu::smmuv3 {

// Steps return false when they have ended the transaction; result_ then says how.
class TranslationRun {
 public:
  TranslationRun(Translator& translator, const Transaction& transaction, Purpose purpose,
                 const TranslationSettings& settings);

  TranslateResult Run();
  std::optional<Ste> FindSte();

 private:
  // Where the configuration sends a transaction (5.2: Config, S1CDMax, S1DSS).
  struct Route {
    std::optional<EventId> error;
    bool stage1 = false;
    bool stage2 = false;
    uint32_t cd_index = 0;
  };

  // A translation by stage 2.
  struct Stage2Page {
    uint64_t output = 0;      // of the address itself
    uint32_t span_log2 = 12;  // of the block around it
    PagePermissions permissions;
  };

  // ---- Configuration (translation_run.cc) ----
  TranslateResult RunTranslated();
  TranslateResult RunWhileDisabled();
  // Looks everything up that the caches may know, under one lock.
  void ConsultCaches();
  void ConsultTlb(const Route& route) ABSL_EXCLUSIVE_LOCKS_REQUIRED(caches_.mu());
  void ConsultTlbLate();
  bool GetSte();
  bool GetCd();
  void ApplyOverrides();
  Route RouteOf(const Ste& ste) const;
  // The tag of this transaction's translations.
  TlbTag TagOf(TlbStage stage, const Ste& ste, const Cd* cd) const;

  // ---- Stages (translation_stages.cc) ----
  // The table that the address selects (5.4, TBI); null where there is none for it.
  const CdTable* SelectTable(const Cd& cd, StreamWorld world) const;
  bool TranslateBothStages();
  bool TranslateStage2Only();
  // Walks stage 1, and stage 2 for what comes out of it.
  bool WalkStage1(const CdTable& table, StreamWorld world, TlbEntry& entry);
  // Translates an IPA on behalf of `cls`, and judges it unless that is kInput.
  bool TranslateIpa(uint64_t ipa, EventClass cls, Stage2Page& page);
  bool WalkStage2(uint64_t ipa, EventClass cls, const TlbTag& tag, TlbEntry& entry);
  // Reads words of configuration or of stage-1 tables, at an IPA where there is a stage 2; `physical` becomes where
  // that leads.
  ReadResult ReadWords(uint64_t address, EventClass cls, std::span<uint64_t> words, uint64_t& physical);
  bool ReadPhysical(uint64_t address, std::span<uint64_t> words);
  void Fill(const TlbEntry& leaf, const std::vector<TlbEntry>& tables);
  bool Grant(const TlbEntry& entry, const Rights& stage1, const Rights& stage2);
  bool Allows(const Rights& rights) const;
  Rights Asked(const Rights& rights) const;
  Stage1Reading Stage1ReadingOf(StreamWorld world) const;

  // ---- Ends ----
  Event MakeEvent(EventId id) const;
  bool Abort(std::optional<Event> event, bool record = true);
  bool FailStage1(EventId id);
  bool FailStage2(EventId id, EventClass cls, uint64_t ipa);
  bool FailWalk(const WalkFault& fault, bool stage2, EventClass cls, uint64_t ipa);

  Translator& translator_;
  const Features& features_;
  Caches& caches_;
  const Transaction& transaction_;
  const Purpose purpose_;
  const TranslationSettings& settings_;
  CacheEpoch epoch_;
  bool privileged_;   // with STE.PRIVCFG
  bool instruction_;  // with STE.INSTCFG

  std::optional<CachedSte> ste_;
  std::optional<CachedCd> cd_;
  bool tlb_consulted_ = false;
  std::optional<TlbEntry> hit_;
  Route route_;
  TranslateResult result_;
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_TRANSLATION_RUN_H_
