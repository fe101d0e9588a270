// Cases that not every side can have, and why.

#ifndef VIOMMU_TESTS_CONFORMANCE_ONE_SIDED_H_
#define VIOMMU_TESTS_CONFORMANCE_ONE_SIDED_H_

#include <array>
#include <cstdint>

namespace viommu::conformance {

enum class Side : uint8_t {
  kEmulation,  // needs EmulationHooks
  kKernel,     // needs what is not emulated
};

struct OneSided {
  const char* name;  // Suite.Case
  Side side;
  const char* reason;
};

inline constexpr const char* kPaused = "holds the SMMU up, which only emulated hardware lets one do";
inline constexpr const char* kCounted = "counts the commands that the SMMU carries out, which hardware does not tell";
inline constexpr const char* kSilent = "needs a device that does not answer invalidations of its cache";

inline constexpr std::array kOneSided = {
    OneSided{"Batch.A6_GroupsOf63", Side::kEmulation, kCounted},
    OneSided{"Batch.A7_BadAt70IssuesTheFirstGroupAlone", Side::kEmulation, kCounted},
    OneSided{"Batch.BadAtZeroIssuesNothing", Side::kEmulation, kCounted},
    OneSided{"Batch.BadAt63IssuesTheFirstGroup", Side::kEmulation, kCounted},
    OneSided{"Batch.BadAt62IssuesNothing", Side::kEmulation, kCounted},
    OneSided{"Batch.A3_NsnhAllIsIssuedAsNhAll", Side::kEmulation, kCounted},
    OneSided{"Batch.EveryCallEndsWithASync", Side::kEmulation, kCounted},
    OneSided{"Timeout.OfTheOnlyGroup", Side::kEmulation, kPaused},
    OneSided{"Timeout.OfAFullGroup", Side::kEmulation, kPaused},
    OneSided{"Timeout.IsCounted", Side::kEmulation, kPaused},
    OneSided{"Timeout.RepeatingWorksOnceTheSmmuGoesOn", Side::kEmulation, kPaused},
    OneSided{"Timeout.BadCommandsAreFoundWithoutTheSmmu", Side::kEmulation, kPaused},
    OneSided{"Timeout.OtherSmmusGoOn", Side::kEmulation, kPaused},
    OneSided{"Timeout.SilentDevice", Side::kEmulation, kSilent},
};

}  // namespace viommu::conformance

#endif  // VIOMMU_TESTS_CONFORMANCE_ONE_SIDED_H_
