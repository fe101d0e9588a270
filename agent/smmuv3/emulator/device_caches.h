// The caches of an emulated SMMU that go by StreamID: configuration (IHI 0070, 4.3) and the devices' own translations
// (ATC, 3.9).
//
// Thread-compatible: the SMMU that owns them serialises the calls.

#ifndef VIOMMU_AGENT_SMMUV3_EMULATOR_DEVICE_CACHES_H_
#define VIOMMU_AGENT_SMMUV3_EMULATOR_DEVICE_CACHES_H_

#include <cstdint>
#include <deque>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "agent/smmuv3/spec/cd.h"
#include "agent/smmuv3/spec/command.h"
#include "agent/smmuv3/spec/ste.h"

namespace viommu::smmuv3 {

// What was fetched, taken apart and judged. Unusable ones are cached as well: a change from invalid to valid needs its
// invalidation, too (3.21.3).
struct CachedSte {
  Ste ste;
  bool legal = false;
};
struct CachedCd {
  Cd cd;
  bool legal = false;
};

// Stream table entries, context descriptors, and the first-level descriptors of their tables.
//
// First-level stream table descriptors are cached when there is a table behind them; those of CD tables always, because
// Linux invalidates after it has added a CD table but not after it has added a stream table.
class ConfigCache {
 public:
  // Holds `capacity` (> 0) entries and descriptors; when full, everything of one stream makes room.
  explicit ConfigCache(uint32_t capacity) : capacity_(capacity) {}

  void InsertSte(uint32_t sid, const CachedSte& entry);
  void InsertCd(uint32_t sid, uint32_t ssid, const CachedCd& descriptor);
  // By the StreamID or SubstreamID without the bits that the second level resolves, of which there are `split`.
  void InsertSteL1(uint32_t sid, uint32_t split, const SteL1& descriptor);
  void InsertCdL1(uint32_t sid, uint32_t ssid, uint32_t split, const CdL1& descriptor);

  // Valid until the next call that changes something.
  const CachedSte* LookupSte(uint32_t sid) const;
  const CachedCd* LookupCd(uint32_t sid, uint32_t ssid) const;
  std::optional<SteL1> LookupSteL1(uint32_t sid, uint32_t split) const;
  std::optional<CdL1> LookupCdL1(uint32_t sid, uint32_t ssid, uint32_t split) const;

  // Carries out a CMD_CFGI_*; returns how many entries and descriptors it removed. Other commands remove nothing.
  uint32_t Invalidate(const Command& command);
  // Removes everything of one stream, chosen by `number`.
  void Evict(uint64_t number);

  uint32_t size() const { return size_; }

 private:
  // One place per SubstreamID and, with `l1`, per level-1 index.
  struct Level1 {
    uint32_t split = 0;
    CdL1 descriptor;
  };
  struct Stream {
    std::optional<CachedSte> ste;
    absl::flat_hash_map<uint32_t, CachedCd> cds;
    absl::flat_hash_map<uint32_t, Level1> l1;  // by level-1 index; all of one split
    uint32_t size() const {
      return static_cast<uint32_t>(cds.size()) + static_cast<uint32_t>(l1.size()) + (ste.has_value() ? 1 : 0);
    }
  };
  using Streams = absl::flat_hash_map<uint32_t, Stream>;

  void MakeRoom();
  uint32_t EraseStream(uint32_t sid);
  uint32_t EraseRange(uint32_t first, uint32_t last);

  const uint32_t capacity_;
  uint32_t size_ = 0;
  Streams streams_;
  struct SteLevel1 {
    uint32_t split = 0;
    SteL1 descriptor;
  };
  absl::flat_hash_map<uint32_t, SteLevel1> ste_l1_;  // by level-1 index
};

// A translation that a device got by ATS.
struct AtcEntry {
  bool ssv = false;         // requested with a PASID
  uint32_t ssid = 0;        // the PASID
  bool privileged = false;  // requested for privileged accesses
  uint64_t address = 0;     // low `span_log2` bits are ignored
  uint8_t span_log2 = 12;   // bytes that it covers, 12 to 63
  uint64_t output = 0;      // where the aligned span begins
  bool readable = true;
  bool writable = false;
  bool executable = false;

  friend bool operator==(const AtcEntry&, const AtcEntry&) = default;
};

// The translation caches of all devices behind the SMMU.
class AtcCaches {
 public:
  // Each device holds `capacity` (> 0) translations; a further one replaces its oldest.
  explicit AtcCaches(uint32_t capacity) : capacity_(capacity) {}

  void Insert(uint32_t sid, const AtcEntry& entry);
  // The newest translation that fits.
  std::optional<AtcEntry> Lookup(uint32_t sid, std::optional<uint32_t> ssid, bool privileged, uint64_t address) const;

  // Carries out a CMD_ATC_INV (4.5.1); returns how many translations it removed. Other commands remove nothing.
  uint32_t Invalidate(const Command& command);
  // Removes the oldest translation of one device, chosen by `number`.
  void Evict(uint64_t number);

  uint32_t size() const { return size_; }

 private:
  const uint32_t capacity_;
  uint32_t size_ = 0;
  absl::flat_hash_map<uint32_t, std::deque<AtcEntry>> devices_;
};

}  // namespace viommu::smmuv3

#endif  // VIOMMU_AGENT_SMMUV3_EMULATOR_DEVICE_CACHES_H_
