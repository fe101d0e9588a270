// What may be done to a page: the permissions of both stages together (DDI 0487, D8.4; IHI 0070, 3.3.4, 5.4).

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_PERMISSIONS_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_PERMISSIONS_H_

#include <cstdint>

#include "agent/smmuv3/spec/descriptor.h"

namespace viommu::smmuv3 {

// What the descriptors said, as a TLB entry keeps it: the reader's own settings (PAN, WXN) are not in it. A stage that
// does not translate forbids nothing.
struct PagePermissions {
  // Stage 1, table limits included.
  bool unprivileged = true;
  bool read_only = false;
  bool pxn = false;
  bool uxn = false;
  // Stage 2.
  bool s2_read = true;
  bool s2_write = true;
  uint8_t s2_xn = kS2XnNone;
  bool s2_device = false;  // Device memory

  friend bool operator==(const PagePermissions&, const PagePermissions&) = default;
};

// How stage 1 is read.
struct Stage1Reading {
  bool two_privileges = true;  // EL1&0 and EL2&0 have an unprivileged side, EL2 has not
  bool wxn = false;            // CD.WXN
  bool pan = false;            // CD.PAN
};

struct Rights {
  bool read = true;
  bool write = true;
  bool execute = true;

  friend bool operator==(const Rights&, const Rights&) = default;
  bool any() const { return read || write || execute; }
};

constexpr Rights operator&(const Rights& a, const Rights& b) {
  return {a.read && b.read, a.write && b.write, a.execute && b.execute};
}

constexpr void SetStage1(const Stage1Leaf& leaf, const TableLimits& limits, PagePermissions& page) {
  page.unprivileged = (leaf.ap & kApUnprivileged) != 0 && (limits.ap_table & kApTableNoUnprivileged) == 0;
  page.read_only = (leaf.ap & kApReadOnly) != 0 || (limits.ap_table & kApTableReadOnly) != 0;
  page.pxn = leaf.pxn || limits.pxn_table;
  page.uxn = leaf.uxn || limits.uxn_table;
}

// `xnx` is IDR3.XNX: without it only the higher bit of XN counts. `fwb` is STE.S2FWB, which gives the memory type
// another coding.
constexpr void SetStage2(const Stage2Leaf& leaf, bool xnx, bool fwb, PagePermissions& page) {
  page.s2_device = fwb ? (leaf.mem_attr & 4) == 0 : (leaf.mem_attr & 0xc) == 0;
  page.s2_read = (leaf.s2ap & kS2ApRead) != 0;
  page.s2_write = (leaf.s2ap & kS2ApWrite) != 0;
  page.s2_xn = xnx ? leaf.xn : leaf.xn & kS2XnAll;
}

constexpr Rights Stage1Rights(const PagePermissions& page, const Stage1Reading& how, bool privileged) {
  Rights rights;
  if (!how.two_privileges) {
    rights.write = !page.read_only;
    rights.execute = !page.uxn && !(how.wxn && rights.write);
    return rights;
  }
  if (privileged) {
    rights.write = !page.read_only;
    // What the unprivileged side can write, the privileged side does not execute.
    const bool user_writable = page.unprivileged && !page.read_only;
    rights.execute = !page.pxn && !user_writable && !(how.wxn && rights.write);
    if (how.pan && page.unprivileged) rights.read = rights.write = false;
    return rights;
  }
  rights.read = page.unprivileged;
  rights.write = page.unprivileged && !page.read_only;
  rights.execute = !page.uxn && !(how.wxn && rights.write);
  return rights;
}

constexpr Rights Stage2Rights(const PagePermissions& page, bool privileged) {
  const bool never = page.s2_xn == kS2XnAll || page.s2_xn == (privileged ? kS2XnUnprivileged : kS2XnPrivileged);
  return {page.s2_read, page.s2_write, !never};
}

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_PERMISSIONS_H_
