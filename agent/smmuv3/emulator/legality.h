// Which commands an SMMU cannot carry out (CERROR_ILL; IHI 0070, 4.1.3 and 7.1).

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_LEGALITY_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_LEGALITY_H_

#include <optional>

#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/id_registers.h"

namespace viommu::smmuv3 {

// The command, or nothing when an SMMU with `features` stops at it. Where the architecture lets an SMMU choose, this
// one is strict: reserved bits that are set and sizes that mean nothing are errors.
std::optional<Command> DecodeLegal(const RawCommand& raw, const Features& features);

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_LEGALITY_H_
