#include "agent/smmuv3/emulator/device_caches.h"

#include <algorithm>
#include <iterator>

namespace viommu::smmuv3 {
namespace {

constexpr uint32_t kPageLog2 = 12;

uint64_t AlignDown(uint64_t address, uint32_t log2) { return log2 >= 64 ? 0 : address >> log2 << log2; }
uint64_t LastByte(uint64_t begin, uint32_t log2) {
  return log2 >= 64 ? ~uint64_t{0} : begin + ((uint64_t{1} << log2) - 1);
}

// An element of a map, chosen by `number`.
template <typename Map>
auto Pick(Map& map, uint64_t number) {
  return std::next(map.begin(), static_cast<ptrdiff_t>(number % map.size()));
}

}  // namespace

void ConfigCache::MakeRoom() {
  if (size_ < capacity_) return;
  if (streams_.empty()) {
    size_ -= static_cast<uint32_t>(ste_l1_.size());
    ste_l1_.clear();
  } else {
    EraseStream(streams_.begin()->first);
  }
}

uint32_t ConfigCache::EraseStream(uint32_t sid) {
  const auto stream = streams_.find(sid);
  if (stream == streams_.end()) return 0;
  const uint32_t removed = stream->second.size();
  size_ -= removed;
  streams_.erase(stream);
  return removed;
}

uint32_t ConfigCache::EraseRange(uint32_t first, uint32_t last) {
  uint32_t removed = 0;
  if (last - first < streams_.size()) {
    for (uint32_t sid = first;; ++sid) {
      removed += EraseStream(sid);
      if (sid == last) return removed;
    }
  }
  for (auto it = streams_.begin(); it != streams_.end();) {
    const auto current = it++;
    if (current->first >= first && current->first <= last) removed += EraseStream(current->first);
  }
  return removed;
}

void ConfigCache::InsertSte(uint32_t sid, const CachedSte& entry) {
  MakeRoom();
  Stream& stream = streams_[sid];
  if (!stream.ste.has_value()) ++size_;
  stream.ste = entry;
}

void ConfigCache::InsertCd(uint32_t sid, uint32_t ssid, const CachedCd& descriptor) {
  MakeRoom();
  if (streams_[sid].cds.insert_or_assign(ssid, descriptor).second) ++size_;
}

void ConfigCache::InsertSteL1(uint32_t sid, uint32_t split, const SteL1& descriptor) {
  MakeRoom();
  if (ste_l1_.insert_or_assign(sid >> split, SteLevel1{split, descriptor}).second) ++size_;
}

void ConfigCache::InsertCdL1(uint32_t sid, uint32_t ssid, uint32_t split, const CdL1& descriptor) {
  MakeRoom();
  if (streams_[sid].l1.insert_or_assign(ssid >> split, Level1{split, descriptor}).second) ++size_;
}

const CachedSte* ConfigCache::LookupSte(uint32_t sid) const {
  const auto stream = streams_.find(sid);
  if (stream == streams_.end() || !stream->second.ste.has_value()) return nullptr;
  return &*stream->second.ste;
}

const CachedCd* ConfigCache::LookupCd(uint32_t sid, uint32_t ssid) const {
  const auto stream = streams_.find(sid);
  if (stream == streams_.end()) return nullptr;
  const auto cd = stream->second.cds.find(ssid);
  return cd == stream->second.cds.end() ? nullptr : &cd->second;
}

std::optional<SteL1> ConfigCache::LookupSteL1(uint32_t sid, uint32_t split) const {
  const auto found = ste_l1_.find(sid >> split);
  if (found == ste_l1_.end() || found->second.split != split) return std::nullopt;
  return found->second.descriptor;
}

std::optional<CdL1> ConfigCache::LookupCdL1(uint32_t sid, uint32_t ssid, uint32_t split) const {
  const auto stream = streams_.find(sid);
  if (stream == streams_.end()) return std::nullopt;
  const auto found = stream->second.l1.find(ssid >> split);
  if (found == stream->second.l1.end() || found->second.split != split) return std::nullopt;
  return found->second.descriptor;
}

uint32_t ConfigCache::Invalidate(const Command& c) {
  uint32_t removed = 0;
  switch (c.opcode) {
    case Opcode::kCfgiSte:
    case Opcode::kCfgiSteRange: {
      // The descriptors found through an entry go with it (4.3.1).
      const bool one = c.opcode == Opcode::kCfgiSte;
      const uint32_t log2 = one ? 0 : c.range + 1u;
      const auto first = static_cast<uint32_t>(AlignDown(c.sid, log2));
      const auto last = static_cast<uint32_t>(LastByte(first, log2));
      removed = EraseRange(first, last);
      if (one && c.leaf) break;
      // Every level-1 descriptor on the way to one of these entries.
      for (auto it = ste_l1_.begin(); it != ste_l1_.end();) {
        const auto current = it++;
        const uint64_t begin = uint64_t{current->first} << current->second.split;
        if (begin > last || LastByte(begin, current->second.split) < first) continue;
        ste_l1_.erase(current);
        --size_;
        ++removed;
      }
      break;
    }
    case Opcode::kCfgiCd:
    case Opcode::kCfgiCdAll: {
      const auto found = streams_.find(c.sid);
      if (found == streams_.end()) break;
      Stream& stream = found->second;
      const uint32_t before = stream.size();
      if (c.opcode == Opcode::kCfgiCdAll) {
        stream.cds.clear();
        stream.l1.clear();
      } else {
        stream.cds.erase(c.ssid);
        if (!c.leaf && !stream.l1.empty()) stream.l1.erase(c.ssid >> stream.l1.begin()->second.split);
      }
      removed = before - stream.size();
      size_ -= removed;
      if (stream.size() == 0) streams_.erase(found);
      break;
    }
    default:
      break;
  }
  return removed;
}

void ConfigCache::Evict(uint64_t number) {
  if (!streams_.empty()) EraseStream(Pick(streams_, number)->first);
}

void AtcCaches::Insert(uint32_t sid, const AtcEntry& entry) {
  std::deque<AtcEntry>& entries = devices_[sid];
  if (entries.size() >= capacity_) {
    entries.pop_front();
    --size_;
  }
  entries.push_back(entry);
  ++size_;
}

std::optional<AtcEntry> AtcCaches::Lookup(uint32_t sid, std::optional<uint32_t> ssid, bool privileged,
                                          uint64_t address) const {
  const auto device = devices_.find(sid);
  if (device == devices_.end()) return std::nullopt;
  for (auto entry = device->second.rbegin(); entry != device->second.rend(); ++entry) {
    if (entry->ssv != ssid.has_value() || (entry->ssv && entry->ssid != *ssid)) continue;
    if (entry->privileged != privileged) continue;
    if (AlignDown(address, entry->span_log2) == AlignDown(entry->address, entry->span_log2)) return *entry;
  }
  return std::nullopt;
}

uint32_t AtcCaches::Invalidate(const Command& c) {
  if (c.opcode != Opcode::kAtcInv) return 0;
  const auto device = devices_.find(c.sid);
  if (device == devices_.end()) return 0;
  const uint32_t log2 = kPageLog2 + c.size;
  const uint64_t first = AlignDown(c.address, log2);
  const uint64_t last = LastByte(first, log2);
  const auto gone = [&](const AtcEntry& entry) {
    // With a PASID the request reaches what was asked for with that one, or by the Global flag with any (4.5.1).
    // Without one it reaches everything in its range: a device has no way to spare what was asked for with a PASID, and
    // Linux counts on it. (PCIe even lets such a request empty all PASIDs at all addresses; a driver may not rely on
    // less.)
    if (c.ssv && (!entry.ssv || (!c.global && entry.ssid != c.ssid))) return false;
    const uint64_t begin = AlignDown(entry.address, entry.span_log2);
    return begin <= last && first <= LastByte(begin, entry.span_log2);
  };
  std::deque<AtcEntry>& entries = device->second;
  const auto kept = std::remove_if(entries.begin(), entries.end(), gone);
  const auto removed = static_cast<uint32_t>(entries.end() - kept);
  entries.erase(kept, entries.end());
  if (entries.empty()) devices_.erase(device);
  size_ -= removed;
  return removed;
}

void AtcCaches::Evict(uint64_t number) {
  if (devices_.empty()) return;
  const auto device = Pick(devices_, number);
  device->second.pop_front();
  --size_;
  if (device->second.empty()) devices_.erase(device);
}

}  // namespace viommu::smmuv3
