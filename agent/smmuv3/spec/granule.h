// Translation granules and the four ways in which the architecture writes them down.

#ifndef VIOMMU_AGENT_SMMUV3_SPEC_GRANULE_H_
#define VIOMMU_AGENT_SMMUV3_SPEC_GRANULE_H_

#include <cstdint>

namespace viommu::smmuv3 {

// The value is log2 of its bytes.
enum class Granule : uint8_t { kReserved = 0, k4k = 12, k16k = 14, k64k = 16 };

constexpr const char* ToString(Granule granule) {
  switch (granule) {
    case Granule::k4k:
      return "4K";
    case Granule::k16k:
      return "16K";
    case Granule::k64k:
      return "64K";
    case Granule::kReserved:
      break;
  }
  return "reserved";
}

// CD.TG0 and STE.S2TG (IHI 0070, 5.4 and 5.2; VMSAv8-64's TCR.TG0): 0 is 4K, 1 is 64K, 2 is 16K, 3 reserved.
struct Tg0Codec {
  static constexpr Granule Decode(uint64_t bits) {
    return bits == 0 ? Granule::k4k : bits == 1 ? Granule::k64k : bits == 2 ? Granule::k16k : Granule::kReserved;
  }
  static constexpr uint64_t Encode(Granule granule) {
    return granule == Granule::k4k ? 0 : granule == Granule::k64k ? 1 : granule == Granule::k16k ? 2 : 3;
  }
};

// CD.TG1: 0 reserved, 1 is 16K, 2 is 4K, 3 is 64K.
struct Tg1Codec {
  static constexpr Granule Decode(uint64_t bits) {
    return bits == 1 ? Granule::k16k : bits == 2 ? Granule::k4k : bits == 3 ? Granule::k64k : Granule::kReserved;
  }
  static constexpr uint64_t Encode(Granule granule) {
    return granule == Granule::k16k ? 1 : granule == Granule::k4k ? 2 : granule == Granule::k64k ? 3 : 0;
  }
};

// TG of CMD_TLBI_* (4.4.1.1): 0 says nothing (kReserved here), 1 is 4K, 2 is 16K, 3 is 64K.
struct CommandTgCodec {
  static constexpr Granule Decode(uint64_t bits) {
    return bits == 1 ? Granule::k4k : bits == 2 ? Granule::k16k : bits == 3 ? Granule::k64k : Granule::kReserved;
  }
  static constexpr uint64_t Encode(Granule granule) {
    return granule == Granule::k4k ? 1 : granule == Granule::k16k ? 2 : granule == Granule::k64k ? 3 : 0;
  }
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_SPEC_GRANULE_H_
