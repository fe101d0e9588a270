#include "agent/smmuv3/emulator/device_caches.h"

#include <algorithm>

namespace viommu::smmuv3 {
namespace {

constexpr uint32_t kPageLog2 = 12;

uint64_t AlignDown(uint64_t address, uint32_t log2) { return log2 >= 64 ? 0 : address >> log2 << log2; }
uint64_t LastByte(uint64_t begin, uint32_t log2) {
  return log2 >= 64 ? ~uint64_t{0} : begin + ((uint64_t{1} << log2) - 1);
}

}  // namespace

void ConfigCache::MakeRoom() {
  if (size_ < capacity_ || streams_.empty()) return;
  size_ -= streams_.begin()->second.size();
  streams_.erase(streams_.begin());
}

void ConfigCache::InsertSte(uint32_t sid, const RawSte& entry) {
  if (!LookupSte(sid).has_value()) {
    MakeRoom();
    ++size_;
  }
  streams_[sid].ste = entry;
}

void ConfigCache::InsertCd(uint32_t sid, uint32_t ssid, const RawCd& descriptor) {
  if (!LookupCd(sid, ssid).has_value()) {
    MakeRoom();
    ++size_;
  }
  streams_[sid].cds[ssid] = descriptor;
}

std::optional<RawSte> ConfigCache::LookupSte(uint32_t sid) const {
  const auto stream = streams_.find(sid);
  return stream == streams_.end() ? std::nullopt : stream->second.ste;
}

std::optional<RawCd> ConfigCache::LookupCd(uint32_t sid, uint32_t ssid) const {
  const auto stream = streams_.find(sid);
  if (stream == streams_.end()) return std::nullopt;
  const auto cd = stream->second.cds.find(ssid);
  if (cd == stream->second.cds.end()) return std::nullopt;
  return cd->second;
}

uint32_t ConfigCache::Invalidate(const Command& c) {
  uint32_t removed = 0;
  switch (c.opcode) {
    case Opcode::kCfgiSte:
    case Opcode::kCfgiSteRange: {
      // The descriptors found through an entry go with it (4.3.1).
      const uint32_t log2 = c.opcode == Opcode::kCfgiSte ? 0 : c.range + 1u;
      const auto first = static_cast<uint32_t>(AlignDown(c.sid, log2));
      const auto last = static_cast<uint32_t>(LastByte(first, log2));
      auto it = streams_.lower_bound(first);
      while (it != streams_.end() && it->first <= last) {
        removed += it->second.size();
        it = streams_.erase(it);
      }
      break;
    }
    case Opcode::kCfgiCd:
    case Opcode::kCfgiCdAll: {
      const auto stream = streams_.find(c.sid);
      if (stream == streams_.end()) break;
      auto& cds = stream->second.cds;
      if (c.opcode == Opcode::kCfgiCd) {
        removed = static_cast<uint32_t>(cds.erase(c.ssid));
      } else {
        removed = static_cast<uint32_t>(cds.size());
        cds.clear();
      }
      if (stream->second.size() == 0) streams_.erase(stream);
      break;
    }
    default:
      break;
  }
  size_ -= removed;
  return removed;
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

std::optional<AtcEntry> AtcCaches::Lookup(uint32_t sid, std::optional<uint32_t> ssid, uint64_t address) const {
  const auto device = devices_.find(sid);
  if (device == devices_.end()) return std::nullopt;
  for (const AtcEntry& entry : device->second) {
    if (entry.ssv != ssid.has_value() || (entry.ssv && entry.ssid != *ssid)) continue;
    if (AlignDown(address, entry.span_log2) == AlignDown(entry.address, entry.span_log2)) return entry;
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
    // Without a PASID the request reaches what was cached without one; the Global flag counts only with one (4.5.1).
    if (entry.ssv != c.ssv) return false;
    if (c.ssv && !c.global && entry.ssid != c.ssid) return false;
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

}  // namespace viommu::smmuv3
