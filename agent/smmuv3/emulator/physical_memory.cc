#include "agent/smmuv3/emulator/physical_memory.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

namespace viommu::smmuv3 {
namespace {

constexpr uint64_t kWord = sizeof(uint64_t);
constexpr uint64_t kHalf = sizeof(uint32_t);

bool IsAligned(const std::byte* place, uint64_t to) { return reinterpret_cast<uintptr_t>(place) % to == 0; }

// Calls unit(offset, T{}) for consecutive units of `length` bytes at `shared`: words where it is aligned to them, else
// halves or bytes.
template <typename Unit>
void ForEachUnit(const std::byte* shared, uint64_t length, Unit unit) {
  uint64_t done = 0;
  while (done < length) {
    if (length - done >= kWord && IsAligned(shared + done, kWord)) {
      unit(done, uint64_t{});
      done += kWord;
    } else if (length - done >= kHalf && IsAligned(shared + done, kHalf)) {
      unit(done, uint32_t{});
      done += kHalf;
    } else {
      unit(done, uint8_t{});
      done += 1;
    }
  }
}

// std::atomic_ref on a buffer of bytes that others access in the same units.
template <typename T>
std::atomic_ref<T> Shared(std::byte* place) {
  return std::atomic_ref<T>(*reinterpret_cast<T*>(place));
}

void CopyOut(std::byte* shared, std::span<std::byte> out) {
  ForEachUnit(shared, out.size(), [&](uint64_t offset, auto unit) {
    unit = Shared<decltype(unit)>(shared + offset).load(std::memory_order_relaxed);
    std::memcpy(out.data() + offset, &unit, sizeof(unit));
  });
}

void CopyIn(std::byte* shared, std::span<const std::byte> in) {
  ForEachUnit(shared, in.size(), [&](uint64_t offset, auto unit) {
    std::memcpy(&unit, in.data() + offset, sizeof(unit));
    Shared<decltype(unit)>(shared + offset).store(unit, std::memory_order_relaxed);
  });
}

}  // namespace

PhysicalMemory::PhysicalMemory() : map_(new Map) {}

PhysicalMemory::~PhysicalMemory() { delete map_.load(std::memory_order_acquire); }

bool PhysicalMemory::Add(uint64_t base, std::span<std::byte> buffer, bool writable) {
  if (buffer.empty() || base + (buffer.size() - 1) < base) return false;
  if (!IsAligned(buffer.data(), kWord) || base % kWord != 0 || buffer.size() % kWord != 0) return false;
  MutexLock lock(mu_);
  auto map = std::make_unique<Map>(*map_.load(std::memory_order_relaxed));
  const auto after = map->lower_bound(base);
  if (after != map->end() && after->first - base < buffer.size()) return false;
  if (after != map->begin()) {
    const auto& [before_base, before] = *std::prev(after);
    if (base - before_base < before.buffer.size()) return false;
  }
  map->emplace(base, Region{buffer, writable});
  Publish(std::move(map));
  return true;
}

bool PhysicalMemory::Remove(uint64_t base) {
  MutexLock lock(mu_);
  auto map = std::make_unique<Map>(*map_.load(std::memory_order_relaxed));
  if (map->erase(base) == 0) return false;
  Publish(std::move(map));
  return true;
}

void PhysicalMemory::Publish(std::unique_ptr<const Map> map) {
  const Map* old = map_.exchange(map.release(), std::memory_order_seq_cst);
  accesses_.Wait();
  delete old;
}

template <typename Move>
bool PhysicalMemory::ForEachPiece(uint64_t address, uint64_t length, bool write, Move move) {
  if (length == 0) return true;
  if (address + (length - 1) < address) return false;
  const InFlight::Section access(accesses_);
  const Map& map = *map_.load(std::memory_order_seq_cst);
  // Twice: nothing is moved unless all of it can be.
  for (const bool dry : {true, false}) {
    auto region = map.upper_bound(address);
    if (region == map.begin()) return false;
    --region;
    for (uint64_t done = 0; done < length; ++region) {
      if (region == map.end() || address + done < region->first) return false;
      const uint64_t offset = address + done - region->first;
      if (offset >= region->second.buffer.size() || (write && !region->second.writable)) return false;
      const uint64_t piece = std::min<uint64_t>(length - done, region->second.buffer.size() - offset);
      if (!dry) move(region->second.buffer.data() + offset, piece, done);
      done += piece;
    }
  }
  return true;
}

bool PhysicalMemory::Read(uint64_t address, std::span<std::byte> out) {
  return ForEachPiece(address, out.size(), false, [&](std::byte* place, uint64_t length, uint64_t done) {
    CopyOut(place, out.subspan(done, length));
  });
}

bool PhysicalMemory::Write(uint64_t address, std::span<const std::byte> in) {
  return ForEachPiece(address, in.size(), true, [&](std::byte* place, uint64_t length, uint64_t done) {
    CopyIn(place, in.subspan(done, length));
  });
}

bool PhysicalMemory::ReadWord(uint64_t address, uint64_t& value) {
  if (address % kWord != 0) return false;
  return ForEachPiece(address, kWord, false, [&](std::byte* place, uint64_t, uint64_t) {
    value = Shared<uint64_t>(place).load(std::memory_order_acquire);
  });
}

bool PhysicalMemory::WriteWord(uint64_t address, uint64_t value) {
  if (address % kWord != 0) return false;
  return ForEachPiece(address, kWord, true, [&](std::byte* place, uint64_t, uint64_t) {
    Shared<uint64_t>(place).store(value, std::memory_order_release);
  });
}

}  // namespace viommu::smmuv3
