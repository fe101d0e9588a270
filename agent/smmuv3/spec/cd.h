// Context descriptors (IHI 0070, 5.4) and the level-1 entries of two-level CD tables (5.4.1).

#ifndef VIOMMU_AGENT_SMMUV3_SPEC_CD_H_
#define VIOMMU_AGENT_SMMUV3_SPEC_CD_H_

#include <array>
#include <cstdint>
#include <string>

#include "agent/smmuv3/spec/bits.h"
#include "agent/smmuv3/spec/granule.h"

namespace viommu::smmuv3 {

// A context descriptor as it lies in memory: 64 bytes.
using RawCd = std::array<uint64_t, 8>;

inline constexpr uint32_t kCdBytes = 64;
inline constexpr uint32_t kCdL1Bytes = 8;           // a level-1 entry
inline constexpr uint32_t kCdsPerLeaf4kLog2 = 6;    // S1Fmt 1: level-2 tables of 4 KiB
inline constexpr uint32_t kCdsPerLeaf64kLog2 = 10;  // S1Fmt 2: level-2 tables of 64 KiB

namespace cd {
// First word.
inline constexpr BitField kT0Sz{5, 0};
inline constexpr BitField kTg0{7, 6};
inline constexpr BitField kIr0{9, 8};
inline constexpr BitField kOr0{11, 10};
inline constexpr BitField kSh0{13, 12};
inline constexpr BitField kEpd0{14, 14};
inline constexpr BitField kEndi{15, 15};
inline constexpr BitField kT1Sz{21, 16};
inline constexpr BitField kTg1{23, 22};
inline constexpr BitField kIr1{25, 24};
inline constexpr BitField kOr1{27, 26};
inline constexpr BitField kSh1{29, 28};
inline constexpr BitField kEpd1{30, 30};
inline constexpr BitField kValid{31, 31};
inline constexpr BitField kIps{34, 32};
inline constexpr BitField kAffd{35, 35};
inline constexpr BitField kWxn{36, 36};
inline constexpr BitField kUwxn{37, 37};
inline constexpr BitField kTbi0{38, 38};
inline constexpr BitField kTbi1{39, 39};
inline constexpr BitField kPan{40, 40};
inline constexpr BitField kAa64{41, 41};
inline constexpr BitField kHd{42, 42};
inline constexpr BitField kHa{43, 43};
inline constexpr BitField kS{44, 44};
inline constexpr BitField kR{45, 45};
inline constexpr BitField kA{46, 46};
inline constexpr BitField kAset{47, 47};
inline constexpr BitField kAsid{63, 48};
// Second word: TTB0; third word: TTB1. Both have
inline constexpr BitField kHad{1, 1};
inline constexpr BitField kTtb{51, 4};  // in place: the address without its low 4 bits
// Fourth word.
inline constexpr BitField kMair{63, 0};
}  // namespace cd

// One of the two translation tables of a context.
struct CdTable {
  uint8_t tsz = 0;  // TxSZ: the input has 64 - TxSZ bits
  Granule granule = Granule::k4k;
  uint8_t ir = 0, orgn = 0, sh = 0;
  bool disabled = false;  // EPDx: no walks
  bool tbi = false;       // TBIx: the top byte of an address is ignored
  bool had = false;       // HADx: no hierarchical attributes in table descriptors
  uint64_t ttb = 0;       // address of the first table

  friend bool operator==(const CdTable&, const CdTable&) = default;
};

// A context descriptor taken apart.
struct Cd {
  bool valid = false;
  CdTable ttb0;
  CdTable ttb1;
  bool big_endian = false;  // ENDI: table descriptors are big-endian
  uint8_t ips = 0;          // width of what comes out, coded as IDR5.OAS
  bool affd = false;        // access-flag faults disabled
  bool wxn = false, uwxn = false, pan = false;
  bool aa64 = false;  // the only table format modelled
  bool hd = false, ha = false;
  bool stall = false;   // S: faulting transactions wait for software, where the STE lets them
  bool record = false;  // R: faults are recorded
  bool abort = false;   // A: terminated transactions are reported to the device as aborted, not RAZ/WI
  bool aset = false;    // ASET: not part of the shared ASID set
  uint16_t asid = 0;
  uint64_t mair = 0;

  friend bool operator==(const Cd&, const Cd&) = default;
};

// Never fails: what a value means is the reader's business (CheckCd() in agent/smmuv3/emulator/config.h).
Cd DecodeCd(const RawCd& raw);
RawCd EncodeCd(const Cd& descriptor);
// The bits that are a field of Cd. All others are reserved, or belong to what is not modelled (NSCFG, E0PD, PIE...).
RawCd CdDefinedBits();
// "CD{V T0SZ=0x10 TG0=4K ... ASID=5 TTB0=0x1000}", for people.
std::string ToString(const Cd& descriptor);

// A level-1 entry: the address of a level-2 table, when valid.
namespace cd_l1 {
inline constexpr BitField kValid{0, 0};
inline constexpr BitField kL2Ptr{51, 12};  // in place
}  // namespace cd_l1

struct CdL1 {
  bool valid = false;
  uint64_t l2_ptr = 0;  // 4 KiB aligned; an IPA where there is a stage 2

  friend bool operator==(const CdL1&, const CdL1&) = default;
};

constexpr CdL1 DecodeCdL1(uint64_t raw) { return {cd_l1::kValid.Get(raw) != 0, raw & cd_l1::kL2Ptr.mask()}; }
constexpr uint64_t EncodeCdL1(const CdL1& entry) {
  return cd_l1::kValid.Set(entry.l2_ptr & cd_l1::kL2Ptr.mask(), entry.valid);
}

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_SPEC_CD_H_
