// A guest's memory in a file, with what a guest kernel would build in it: one context descriptor and one tree of
// stage-1 tables (4 KiB granule, 48-bit addresses). For the demonstration and the end-to-end tests, where it stands in
// for a VMM.
//
// The layout, in pages of the file:
//   0         the next free page, as a 64-bit number
//   1         the context descriptor
//   2         the root table
//   3..63     further tables
//   64..      the guest's own
//
// Errors end the process with a message: it is a tool.

#ifndef VIOMMU_TESTS_GUEST_GUEST_RAM_H_
#define VIOMMU_TESTS_GUEST_GUEST_RAM_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "agent/smmuv3/spec/words.h"
#include "common/file_descriptor.h"

namespace viommu::guest {

inline constexpr uint64_t kPageBytes = 4096;
inline constexpr uint64_t kFirstOwnPage = 64;
inline constexpr uint64_t kRamBase = 0x40000000;  // guest-physical
inline constexpr uint16_t kAsid = 5;

class GuestRam {
 public:
  // Makes the file anew, with empty tables.
  static GuestRam Create(const std::string& path, uint64_t bytes);
  static GuestRam Open(const std::string& path);
  ~GuestRam();
  GuestRam(GuestRam&& other) noexcept;
  GuestRam& operator=(GuestRam&&) = delete;

  uint64_t bytes() const { return bytes_; }
  int fd() const { return file_.get(); }
  // What the guest would write in its stream table for these tables.
  smmuv3::RawVste Vste() const;

  // Lets virtual address `va` lead to page `page` of this memory; nothing is invalidated.
  void Map(uint64_t va, uint64_t page);
  void Unmap(uint64_t va);
  // The bytes at the beginning of a page.
  void Put(uint64_t page, std::string_view text);
  std::string Get(uint64_t page, uint64_t length) const;

 private:
  GuestRam(FileDescriptor file, uint64_t bytes);
  uint64_t* Word(uint64_t offset) const;
  void CheckOwn(uint64_t page) const;
  // The descriptor of `va` at level 3.
  uint64_t* Leaf(uint64_t va);

  FileDescriptor file_;
  uint64_t bytes_ = 0;
  void* memory_ = nullptr;
};

}  // namespace viommu::guest

#endif  // VIOMMU_TESTS_GUEST_GUEST_RAM_H_
