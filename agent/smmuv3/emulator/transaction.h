// What a device does on the bus, and what comes back.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_TRANSACTION_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_TRANSACTION_H_

#include <cstdint>
#include <optional>

#include "agent/smmuv3/spec/event.h"

namespace viommu::smmuv3 {

// Who accesses which address, and how.
struct Transaction {
  uint32_t sid = 0;
  std::optional<uint32_t> ssid;  // SubstreamID (PASID), when the transaction has one
  uint64_t address = 0;
  bool write = false;
  bool privileged = false;
  bool instruction = false;
  // The address comes out of the device's own cache (PCIe AT = translated, IHI 0070, 3.9).
  bool translated = false;
};

// Where an address leads.
struct Translation {
  uint64_t output = 0;     // physical address of the transaction's own address
  uint8_t span_log2 = 12;  // the translation holds for the aligned block of this size around it
  bool readable = true;
  bool writable = true;
  bool executable = true;
  bool global = false;    // holds for every ASID
  bool bypassed = false;  // there was nothing to translate: output is the address itself

  friend bool operator==(const Translation&, const Translation&) = default;
};

enum class TransactionResult : uint8_t {
  kDone,
  kAborted,     // the device gets a bus error
  kRazWi,       // terminated, but the device is told nothing: reads give 0, writes are ignored (CD.A = 0)
  kTimedOut,    // it stalled, and nobody answered within the caller's limit; the SMMU has terminated it
  kNoResponse,  // the memory behind the translation aborted the access
};

// The outcome of one transaction.
struct Outcome {
  TransactionResult result = TransactionResult::kDone;
  Translation translation;     // kDone
  std::optional<Event> event;  // what was (or, for events that the configuration suppresses, would have been) recorded
};

// ---- ATS (IHI 0070, 3.9.1) ----------------------------------------------------------------------------------------

enum class AtsStatus : uint8_t {
  kSuccess,             // with a translation; readable and writable both false: no access there
  kUnsupportedRequest,  // ATS is not on for this stream: the device gives up ATS
  kCompleterAbort,      // a configuration error
};

struct AtsCompletion {
  AtsStatus status = AtsStatus::kSuccess;
  Translation translation;
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_TRANSACTION_H_
