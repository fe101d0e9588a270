// A disk that fails on demand, under a real program: a library that is loaded before the C library and makes calls on
// files below one folder fail.
//
//   LD_PRELOAD=libfaulty_disk.so VIOMMU_FAULTY_DISK=FOLDER:SWITCH program
//
// SWITCH is a file with one byte, a DiskFault, that may change at any time.

#ifndef VIOMMU_TESTS_HARNESS_FAULTY_DISK_H_
#define VIOMMU_TESTS_HARNESS_FAULTY_DISK_H_

#include <cstdint>

namespace viommu::tests {

enum class DiskFault : uint8_t {
  kNone,
  kFull,       // nothing more can be written: ENOSPC, at times after half of it
  kNotSynced,  // what is written is not made durable: EIO
  kFlaky,      // one call in ten fails: EIO
};

}  // namespace viommu::tests

#endif  // VIOMMU_TESTS_HARNESS_FAULTY_DISK_H_
