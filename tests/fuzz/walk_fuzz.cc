// The way of a transaction through whatever lies in memory: stream table, context descriptors, tables of both stages.
//
// Input: the SMMU's features, registers, the memory's contents as runs of words, then transactions.

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "agent/smmuv3/emulator/caches.h"
#include "agent/smmuv3/emulator/memory.h"
#include "agent/smmuv3/emulator/translate.h"
#include "agent/smmuv3/spec/id_registers.h"
#include "tests/fuzz/input.h"

namespace viommu::smmuv3 {
namespace {

// A page of memory that appears at 64 places, so that most addresses lead somewhere, and often in circles.
class SmallMemory : public Memory {
 public:
  static constexpr uint64_t kWords = 512;
  static constexpr uint64_t kEnd = kWords * 8 * 64;

  bool Read(uint64_t, std::span<std::byte>) override { return false; }
  bool Write(uint64_t, std::span<const std::byte>) override { return false; }
  bool ReadWord(uint64_t address, uint64_t& value) override {
    if (++reads > kMaxReads) fuzz::Fail("a walk ends", __FILE__, __LINE__);
    if (address % 8 != 0) fuzz::Fail("words are aligned", __FILE__, __LINE__);
    if (address >= kEnd) return false;
    value = words[address / 8 % kWords];
    return true;
  }
  bool WriteWord(uint64_t, uint64_t) override { fuzz::Fail("nothing is written", __FILE__, __LINE__); }

  // Two levels of stream table, two of context descriptors, four of stage 1, each through four of stage 2.
  static constexpr uint64_t kMaxReads = 200;
  std::array<uint64_t, kWords> words = {};
  uint64_t reads = 0;
};

Features TakeFeatures(fuzz::Input& input) {
  IdRegisters idr = {};
  for (uint32_t& reg : idr) reg = input.Take<uint32_t>();
  Features features = DecodeIdRegisters(idr);
  // Without these nothing is translated at all.
  features.stage1 = features.stage2 = features.aarch64 = true;
  if (features.oas_bits == 0) features.oas_bits = 48;
  if (features.sid_bits > 32) features.sid_bits = 32;
  if (features.ssid_bits > 20) features.ssid_bits = 20;
  return features;
}

void Check(const Features& features, const TranslateResult& result, Purpose purpose) {
  if (result.kind == TranslateResult::Kind::kDone) {
    FUZZ_CHECK((result.translation.output >> features.oas_bits) == 0);
    FUZZ_CHECK(result.translation.span_log2 >= 12 && result.translation.span_log2 <= 52);
    return;
  }
  FUZZ_CHECK(!(result.record || result.stall) || result.event.has_value());
  if (!result.event.has_value()) return;
  // What is recorded can be taken apart again.
  FUZZ_CHECK(DecodeEvent(EncodeEvent(*result.event)) == *result.event);
  FUZZ_CHECK(purpose == Purpose::kAccess || !result.record || result.event->id == EventId::kFBadAtsTreq);
}

bool Same(const TranslateResult& a, const TranslateResult& b) {
  return a.kind == b.kind && a.translation == b.translation && a.event == b.event && a.record == b.record &&
         a.stall == b.stall && a.raz_wi == b.raz_wi;
}

}  // namespace
}  // namespace viommu::smmuv3

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace viommu::smmuv3;
  viommu::fuzz::Input input(data, size);
  const Features features = TakeFeatures(input);
  TranslationSettings settings;
  settings.enabled = true;
  const auto flags = input.Take<uint8_t>();
  settings.check_ats = (flags & 1) != 0;
  settings.e2h = (flags & 2) != 0;
  settings.record_bad_sid = (flags & 4) != 0;
  settings.stream_table.base = input.Take<uint64_t>() % SmallMemory::kEnd;
  settings.stream_table.cfg = input.Take<uint32_t>();
  SmallMemory memory;
  // Runs: where, how many, the words.
  for (uint8_t runs = input.Take<uint8_t>() % 32; runs > 0 && !input.empty(); --runs) {
    const auto at = input.Take<uint16_t>();
    for (uint8_t words = input.Take<uint8_t>() % 16; words > 0; --words) {
      memory.words[(at + words) % SmallMemory::kWords] = input.Take<uint64_t>();
    }
  }
  for (int i = 0; i < 16 && (i == 0 || !input.empty()); ++i) {
    Transaction transaction;
    transaction.sid = input.Take<uint32_t>();
    const auto kind = input.Take<uint8_t>();
    if ((kind & 1) != 0) transaction.ssid = input.Take<uint32_t>();
    transaction.write = (kind & 2) != 0;
    transaction.privileged = (kind & 4) != 0;
    transaction.instruction = (kind & 8) != 0;
    transaction.translated = (kind & 16) != 0;
    transaction.address = input.Take<uint64_t>();
    const Purpose purpose = (kind & 32) != 0 ? Purpose::kAtsRequest : Purpose::kAccess;
    Caches caches(64, 64, 64, std::nullopt);
    Translator translator(features, &memory, &caches);
    memory.reads = 0;
    const TranslateResult cold = translator.Translate(transaction, purpose, settings);
    Check(features, cold, purpose);
    // What the caches have learnt is what memory said.
    memory.reads = 0;
    const TranslateResult warm = translator.Translate(transaction, purpose, settings);
    FUZZ_CHECK(Same(cold, warm));
    if (cold.kind == TranslateResult::Kind::kDone) FUZZ_CHECK(memory.reads == 0);
  }
  return 0;
}
