// The way of one transaction: stream table entry, context descriptor, stage 1, stage 2 (IHI 0070, 3.3), through the
// caches and, where those do not know, through memory.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_TRANSLATE_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_TRANSLATE_H_

#include <atomic>
#include <cstdint>
#include <optional>

#include "agent/smmuv3/emulator/caches.h"
#include "agent/smmuv3/emulator/config_fetch.h"
#include "agent/smmuv3/emulator/memory.h"
#include "agent/smmuv3/emulator/transaction.h"
#include "agent/smmuv3/spec/event.h"
#include "agent/smmuv3/spec/id_registers.h"

namespace viommu::smmuv3 {

// What the registers say, at one moment.
struct TranslationSettings {
  bool enabled = false;         // CR0.SMMUEN
  bool check_ats = false;       // CR0.ATSCHK
  bool e2h = false;             // CR2.E2H
  bool record_bad_sid = false;  // CR2.RECINVSID
  bool abort_disabled = true;   // GBPA.ABORT: while not enabled
  StreamTable stream_table;
};

enum class Purpose : uint8_t {
  kAccess,      // read, write or fetch
  kAtsRequest,  // an ATS translation request: `write` is whether it asks for write permission
};

struct TranslateResult {
  enum class Kind : uint8_t {
    kDone,
    kAborted,           // a configuration error, a forbidden access, an external abort
    kTranslationFault,  // F_TRANSLATION, F_ADDR_SIZE, F_ACCESS, F_PERMISSION: configured faults (5.5)
    kAtsDisabled,       // ATS is not on for the stream
  };
  Kind kind = Kind::kDone;
  Translation translation;     // kDone
  std::optional<Event> event;  // otherwise, when there is one for it
  bool record = false;         // the event is to be recorded, should the transaction be terminated
  bool stall = false;          // the transaction is to wait for software
  bool raz_wi = false;         // terminated, it shall look completed to the device
  CacheEpoch epoch;            // when it began
};

// Thread-safe. `memory` and `caches` outlive it.
class Translator {
 public:
  Translator(const Features& features, Memory* memory, Caches* caches)
      : features_(features), memory_(memory), caches_(caches) {}

  // Takes the lock of the caches once when they know everything, and never while memory is read.
  TranslateResult Translate(const Transaction& transaction, Purpose purpose, const TranslationSettings& settings);

  // The stream's entry by cache or memory, without recording anything; nothing when there is no legal one.
  std::optional<Ste> FindSte(uint32_t sid, const TranslationSettings& settings);

  // Translations that were not in the TLB.
  uint64_t walks() const { return walks_.load(std::memory_order_relaxed); }

 private:
  friend class TranslationRun;

  const Features features_;
  Memory* const memory_;
  Caches* const caches_;
  std::atomic<uint64_t> walks_{0};
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_TRANSLATE_H_
