// Which stream table entries and context descriptors are ILLEGAL (IHI 0070, 5.2.2 and 5.4.2), and what the legal ones
// say about tables.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_CONFIG_CHECKS_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_CONFIG_CHECKS_H_

#include <cstdint>
#include <optional>

#include "agent/smmuv3/emulator/walk.h"
#include "agent/smmuv3/spec/cd.h"
#include "agent/smmuv3/spec/id_registers.h"
#include "agent/smmuv3/spec/ste.h"

namespace viommu::smmuv3 {

// Why one is not usable; nullptr when it is. The text names the field, for people.
using Illegality = const char*;

// Where the architecture lets an SMMU choose, this one is an SMMUv3.1: values out of range are ILLEGAL. EATS 2
// (split-stage ATS) is always, as with IDR0.NS1ATS = 1.
Illegality CheckSte(const Ste& ste, const Features& features);
// `ste` is the legal entry that leads to the descriptor; `e2h` is CR2.E2H.
Illegality CheckCd(const Cd& cd, const Ste& ste, bool e2h, const Features& features);

constexpr bool HasStage1(const Ste& ste) {
  return ste.config == SteConfig::kStage1 || ste.config == SteConfig::kNested;
}
constexpr bool HasStage2(const Ste& ste) {
  return ste.config == SteConfig::kStage2 || ste.config == SteConfig::kNested;
}
// Whether transactions may have a SubstreamID (5.2, S1CDMax).
constexpr bool HasSubstreams(const Ste& ste, const Features& features) {
  return HasStage1(ste) && ste.s1_cd_max != 0 && features.ssid_bits != 0;
}
// The effective STE.EATS: only 1 lets anything through.
constexpr bool AllowsAts(const Ste& ste, const Features& features) {
  return features.ats && (HasStage1(ste) || HasStage2(ste)) && ste.eats == kEatsTranslate;
}

// The regime that stage 1 belongs to (3.3.4, 5.2 STRW).
enum class StreamWorld : uint8_t { kNsEl1, kEl2, kEl2E2h };
StreamWorld StreamWorldOf(const Ste& ste, bool e2h, const Features& features);

// Width of an address that IDR5.OAS, STE.S2PS or CD.IPS code, no more than what the SMMU has.
uint32_t OutputBits(uint8_t coded, const Features& features);

// The trees of a legal entry or descriptor.
TableTree Stage2Tree(const Ste& ste, const Features& features);
TableTree Stage1Tree(const CdTable& table, const Cd& cd, const Features& features);

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_CONFIG_CHECKS_H_
