// The caches of an emulated SMMU that go by StreamID: configuration (IHI 0070, 4.3) and the devices' own translations
// (ATC, 3.9).
//
// Thread-compatible: the SMMU that owns them serialises the calls.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_DEVICE_CACHES_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_DEVICE_CACHES_H_

#include <cstdint>
#include <deque>
#include <map>
#include <optional>

#include "agent/smmuv3/spec/cd.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/ste.h"

namespace viommu::smmuv3 {

// Stream table entries and context descriptors. First-level descriptors of either are not cached, hence the Leaf bit of
// the commands changes nothing here.
class ConfigCache {
 public:
  // Holds `capacity` (> 0) entries and descriptors; when full, everything of one stream makes room.
  explicit ConfigCache(uint32_t capacity) : capacity_(capacity) {}

  void InsertSte(uint32_t sid, const RawSte& entry);
  void InsertCd(uint32_t sid, uint32_t ssid, const RawCd& descriptor);
  std::optional<RawSte> LookupSte(uint32_t sid) const;
  std::optional<RawCd> LookupCd(uint32_t sid, uint32_t ssid) const;

  // Carries out a CMD_CFGI_*; returns how many entries and descriptors it removed. Other commands remove nothing.
  uint32_t Invalidate(const Command& command);

  uint32_t size() const { return size_; }

 private:
  struct Stream {
    std::optional<RawSte> ste;
    std::map<uint32_t, RawCd> cds;  // by SubstreamID
    uint32_t size() const { return static_cast<uint32_t>(cds.size()) + (ste.has_value() ? 1 : 0); }
  };
  void MakeRoom();

  const uint32_t capacity_;
  uint32_t size_ = 0;
  std::map<uint32_t, Stream> streams_;  // ordered: ranges of StreamIDs are invalidated together
};

// A translation that a device got by ATS.
struct AtcEntry {
  bool ssv = false;        // requested with a PASID
  uint32_t ssid = 0;       // the PASID
  uint64_t address = 0;    // low `span_log2` bits are ignored
  uint8_t span_log2 = 12;  // bytes that it covers, 12 to 63
  uint64_t output = 0;
  bool writable = false;

  friend bool operator==(const AtcEntry&, const AtcEntry&) = default;
};

// The translation caches of all devices behind the SMMU.
class AtcCaches {
 public:
  // Each device holds `capacity` (> 0) translations; a further one replaces its oldest.
  explicit AtcCaches(uint32_t capacity) : capacity_(capacity) {}

  void Insert(uint32_t sid, const AtcEntry& entry);
  std::optional<AtcEntry> Lookup(uint32_t sid, std::optional<uint32_t> ssid, uint64_t address) const;

  // Carries out a CMD_ATC_INV (4.5.1); returns how many translations it removed. Other commands remove nothing.
  uint32_t Invalidate(const Command& command);

  uint32_t size() const { return size_; }

 private:
  const uint32_t capacity_;
  uint32_t size_ = 0;
  std::map<uint32_t, std::deque<AtcEntry>> devices_;
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_DEVICE_CACHES_H_
