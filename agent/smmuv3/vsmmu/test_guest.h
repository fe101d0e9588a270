// A guest for tests: memory in a file, in which it keeps context descriptors and stage-1 tables.

#ifndef VIOMMU_AGENT_SMMUV3_VSMMU_TEST_GUEST_H_
#define VIOMMU_AGENT_SMMUV3_VSMMU_TEST_GUEST_H_

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "agent/backend.h"
#include "agent/smmuv3/spec/cd.h"
#include "agent/smmuv3/spec/descriptor.h"
#include "agent/smmuv3/spec/ste.h"

namespace viommu::agent {

// Guest-physical memory from kBase on. Tables have 4 KiB pages and addresses of 39 bits: three levels, from 1 on.
class TestGuest {
 public:
  static constexpr uint64_t kBase = uint64_t{1} << 31;
  static constexpr uint64_t kBytes = uint64_t{4} << 20;
  static constexpr uint64_t kPage = 4096;

  TestGuest() : fd_(memfd_create("guest", MFD_CLOEXEC)) {
    if (fd_ < 0 || ftruncate(fd_, static_cast<off_t>(kBytes)) != 0) std::abort();
    void* data = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    if (data == MAP_FAILED) std::abort();
    words_ = static_cast<uint64_t*>(data);
  }
  ~TestGuest() {
    munmap(words_, kBytes);
    close(fd_);
  }
  TestGuest(const TestGuest&) = delete;
  TestGuest& operator=(const TestGuest&) = delete;

  MemoryHandle handle(uint64_t offset = 0) const { return {.fd = fd_, .offset = offset}; }

  std::atomic_ref<uint64_t> Word(uint64_t address) const { return std::atomic_ref(words_[(address - kBase) / 8]); }

  // A page that nobody has, zeroed.
  uint64_t NewPage() {
    if (next_ == kBase + kBytes) std::abort();
    const uint64_t page = next_;
    next_ += kPage;
    return page;
  }

  // Maps a page in the tables at `ttb`, making tables as needed.
  void Map(uint64_t ttb, uint64_t input, uint64_t output, bool writable = true) {
    uint64_t table = ttb;
    for (uint32_t level = 1; level < smmuv3::kLastLevel; ++level) {
      const auto word = Word(Slot(table, level, input));
      if (word.load() == 0) word.store(smmuv3::EncodeTable(NewPage(), smmuv3::Granule::k4k));
      table = smmuv3::NextTableOf(word.load(), smmuv3::Granule::k4k);
    }
    const smmuv3::Stage1Leaf leaf = {
        .ap = static_cast<uint8_t>(smmuv3::kApUnprivileged | (writable ? 0 : smmuv3::kApReadOnly)),
        .sh = 3,
        .af = true,
        .ng = true};
    Word(Slot(table, smmuv3::kLastLevel, input))
        .store(smmuv3::EncodeStage1Leaf(leaf, output, smmuv3::Granule::k4k, smmuv3::kLastLevel));
  }
  void Unmap(uint64_t ttb, uint64_t input) {
    uint64_t table = ttb;
    for (uint32_t level = 1; level < smmuv3::kLastLevel; ++level) {
      table = smmuv3::NextTableOf(Word(Slot(table, level, input)).load(), smmuv3::Granule::k4k);
    }
    Word(Slot(table, smmuv3::kLastLevel, input)).store(0);
  }

  // Writes the context descriptor at `address`.
  void WriteCd(uint64_t address, uint64_t ttb, uint16_t asid, bool stall = false) {
    smmuv3::Cd cd;
    cd.valid = true;
    cd.ttb0.tsz = 25;
    cd.ttb0.granule = smmuv3::Granule::k4k;
    cd.ttb0.ttb = ttb;
    cd.ttb1.disabled = true;
    cd.ips = 5;
    cd.aa64 = true;
    cd.record = true;
    cd.abort = true;
    cd.stall = stall;
    cd.asid = asid;
    cd.mair = 0xff;
    const smmuv3::RawCd raw = smmuv3::EncodeCd(cd);
    for (size_t i = 0; i < raw.size(); ++i) Word(address + 8 * i).store(raw[i]);
  }

  // A vSTE that translates by the descriptor at `cd`.
  static smmuv3::RawVste Vste(uint64_t cd, bool ats = false) {
    return {1 | uint64_t{5} << 1 | cd, ats ? smmuv3::ste::kEats.Set(0, smmuv3::kEatsTranslate) : 0};
  }

 private:
  static uint64_t Slot(uint64_t table, uint32_t level, uint64_t input) {
    return table + 8 * ((input >> smmuv3::LevelShift(smmuv3::Granule::k4k, level)) & 511);
  }

  const int fd_;
  uint64_t* words_ = nullptr;
  uint64_t next_ = kBase;
};

}  // namespace viommu::agent

#endif  // VIOMMU_AGENT_SMMUV3_VSMMU_TEST_GUEST_H_
