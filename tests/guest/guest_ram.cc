#include "tests/guest/guest_ram.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "agent/smmuv3/spec/cd.h"
#include "agent/smmuv3/spec/descriptor.h"
#include "agent/smmuv3/spec/ste.h"

namespace viommu::guest {
namespace {

using smmuv3::Granule;

constexpr uint64_t kCdPage = 1;
constexpr uint64_t kRootPage = 2;
constexpr uint64_t kFirstTablePage = 3;
constexpr uint32_t kInputBits = 48;
constexpr uint8_t kIps40Bits = 2;
constexpr uint64_t kReadWriteUnprivileged = 1;  // AP

[[noreturn]] void Die(std::string_view what, std::string_view which) {
  std::fprintf(stderr, "viommu-guest: %.*s: %.*s\n", static_cast<int>(which.size()), which.data(),
               static_cast<int>(what.size()), what.data());
  std::exit(1);
}

// What the SMMU reads at the same time is written as one word, after what it leads to.
void Store(uint64_t* word, uint64_t value) { std::atomic_ref(*word).store(value, std::memory_order_release); }

}  // namespace

GuestRam::GuestRam(FileDescriptor file, uint64_t bytes) : file_(std::move(file)), bytes_(bytes) {
  memory_ = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0);
  if (memory_ == MAP_FAILED) Die(std::strerror(errno), "mmap");
}

GuestRam::GuestRam(GuestRam&& other) noexcept
    : file_(std::move(other.file_)), bytes_(other.bytes_), memory_(std::exchange(other.memory_, nullptr)) {}

GuestRam::~GuestRam() {
  if (memory_ != nullptr) ::munmap(memory_, bytes_);
}

GuestRam GuestRam::Create(const std::string& path, uint64_t bytes) {
  FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!file.valid()) Die(std::strerror(errno), path);
  if (bytes % kPageBytes != 0 || bytes <= kFirstOwnPage * kPageBytes)
    Die("the size must be whole pages, at least 65", path);
  if (::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) Die(std::strerror(errno), path);
  GuestRam ram(std::move(file), bytes);
  *ram.Word(0) = kFirstTablePage;
  smmuv3::Cd cd;
  cd.valid = true;
  cd.aa64 = true;
  cd.ips = kIps40Bits;
  cd.record = true;
  cd.abort = true;
  cd.asid = kAsid;
  cd.mair = 0xff;  // attribute 0: normal memory, write-back
  cd.ttb0.tsz = 64 - kInputBits;
  cd.ttb0.granule = Granule::k4k;
  cd.ttb0.ttb = kRamBase + kRootPage * kPageBytes;
  cd.ttb1.disabled = true;
  cd.ttb1.tsz = 64 - kInputBits;
  const smmuv3::RawCd raw = smmuv3::EncodeCd(cd);
  std::memcpy(ram.Word(kCdPage * kPageBytes), raw.data(), sizeof(raw));
  return ram;
}

GuestRam GuestRam::Open(const std::string& path) {
  FileDescriptor file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  struct stat status = {};
  if (!file.valid() || ::fstat(file.get(), &status) != 0) Die(std::strerror(errno), path);
  return {std::move(file), static_cast<uint64_t>(status.st_size)};
}

smmuv3::RawVste GuestRam::Vste() const {
  smmuv3::Ste ste;
  ste.valid = true;
  ste.config = smmuv3::SteConfig::kStage1;
  ste.s1_context_ptr = kRamBase + kCdPage * kPageBytes;
  ste.eats = smmuv3::kEatsTranslate;
  const smmuv3::RawSte raw = smmuv3::EncodeSte(ste);
  return {raw.dw[0], raw.dw[1]};
}

uint64_t* GuestRam::Word(uint64_t offset) const {
  if (offset > bytes_ - sizeof(uint64_t)) Die("beyond the end", "guest memory");
  return reinterpret_cast<uint64_t*>(static_cast<char*>(memory_) + offset);
}

void GuestRam::CheckOwn(uint64_t page) const {
  if (page < kFirstOwnPage || page >= bytes_ / kPageBytes) Die("pages of the guest's own begin at 64", "page");
}

uint64_t* GuestRam::Leaf(uint64_t va) {
  uint64_t table = kRootPage * kPageBytes;
  for (uint32_t level = 0;; ++level) {
    const uint64_t index = (va >> smmuv3::LevelShift(Granule::k4k, level)) & 511;
    uint64_t* entry = Word(table + index * smmuv3::kDescriptorBytes);
    if (level == smmuv3::kLastLevel) return entry;
    if ((*entry & 1) == 0) {
      const uint64_t page = (*Word(0))++;
      if (page >= kFirstOwnPage) Die("there is no page left for tables", "guest memory");
      Store(entry, smmuv3::PutDescriptorAddress(kRamBase + page * kPageBytes, Granule::k4k, 12) |
                       smmuv3::descriptor::kValid.mask() | smmuv3::descriptor::kTable.mask());
    }
    table = smmuv3::NextTableOf(*entry, Granule::k4k) - kRamBase;
  }
}

void GuestRam::Map(uint64_t va, uint64_t page) {
  CheckOwn(page);
  using namespace smmuv3::descriptor;
  Store(Leaf(va), smmuv3::PutDescriptorAddress(kRamBase + page * kPageBytes, Granule::k4k, 12) | kValid.mask() |
                      kTable.mask() | kAf.mask() | kNg.mask() | kAp.Set(0, kReadWriteUnprivileged) | kSh.Set(0, 3));
}

void GuestRam::Unmap(uint64_t va) { Store(Leaf(va), 0); }

void GuestRam::Put(uint64_t page, std::string_view text) {
  CheckOwn(page);
  std::memcpy(Word(page * kPageBytes), text.data(), std::min<uint64_t>(text.size(), kPageBytes));
}

std::string GuestRam::Get(uint64_t page, uint64_t length) const {
  CheckOwn(page);
  return {reinterpret_cast<const char*>(Word(page * kPageBytes)), std::min(length, kPageBytes)};
}

}  // namespace viommu::guest
