// Makes QEMU's "edu" device access memory (docs/specs/edu.rst there), whoever has it bound: its registers are reached
// through sysfs. For the testbed's guest, as root.
//
//   viommu-edu DEVICE copy FROM TO BYTES
//       what lies at device address FROM goes to TO; at most 4096 bytes
//   viommu-edu DEVICE loop FROM TO FILE FROM_PAGE TO_PAGE
//       over and over, until SIGTERM, with a new number in the source each time; the addresses lead to these pages of
//       FILE, a guest's memory. Says "copying" when the first has arrived, and at the end how often, and how often
//       something else did: "copies 17, wrong 0".
//
// Bus mastering is switched on once, at the beginning: a device that is reset meanwhile copies nothing any more.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "common/file_descriptor.h"

namespace viommu::kernel {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kRegisterBytes = 1 << 20;
constexpr uint64_t kBuffer = 0x40000;  // the device's own, as its engine sees it
constexpr size_t kSource = 0x80;
constexpr size_t kDestination = 0x88;
constexpr size_t kCount = 0x90;
constexpr size_t kCommand = 0x98;
constexpr uint64_t kStart = 1;
constexpr uint64_t kToMemory = 2;
constexpr off_t kPciCommand = 4;
constexpr uint16_t kMemoryAndMaster = 6;

[[noreturn]] void Die(const std::string& what) {
  std::perror(what.c_str());
  std::exit(EXIT_FAILURE);
}

// A file, mapped as long as the process lives.
std::byte* Map(const std::string& path, size_t bytes, size_t offset = 0) {
  const FileDescriptor file(::open(path.c_str(), O_RDWR | O_SYNC | O_CLOEXEC));
  if (!file.valid()) Die(path);
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), static_cast<off_t>(offset));
  if (memory == MAP_FAILED) Die(path);
  return static_cast<std::byte*>(memory);
}

class Edu {
 public:
  explicit Edu(const std::string& device) {
    const std::string folder = "/sys/bus/pci/devices/" + device;
    const FileDescriptor config(::open((folder + "/config").c_str(), O_RDWR | O_CLOEXEC));
    uint16_t command = 0;
    if (::pread(config.get(), &command, sizeof(command), kPciCommand) != sizeof(command)) Die(folder);
    command |= kMemoryAndMaster;
    if (::pwrite(config.get(), &command, sizeof(command), kPciCommand) != sizeof(command)) Die(folder);
    registers_ = Map(folder + "/resource0", kRegisterBytes);
  }

  // False when the device does not come to an end.
  bool Copy(uint64_t from, uint64_t to, uint64_t bytes) {
    return Transfer(from, kBuffer, bytes, 0) && Transfer(kBuffer, to, bytes, kToMemory);
  }

 private:
  volatile uint64_t& Register(size_t offset) { return *reinterpret_cast<volatile uint64_t*>(registers_ + offset); }

  bool Transfer(uint64_t source, uint64_t destination, uint64_t bytes, uint64_t direction) {
    Register(kSource) = source;
    Register(kDestination) = destination;
    Register(kCount) = bytes;
    std::atomic_thread_fence(std::memory_order_seq_cst);
    Register(kCommand) = kStart | direction;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    while ((Register(kCommand) & kStart) != 0) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      ::usleep(500);
    }
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return true;
  }

  std::byte* registers_ = nullptr;
};

volatile std::sig_atomic_t stop = 0;

void Loop(Edu& edu, uint64_t from, uint64_t to, const std::string& file, size_t from_page, size_t to_page) {
  std::signal(SIGTERM, [](int) { stop = 1; });
  auto* source = reinterpret_cast<volatile uint64_t*>(Map(file, kPage, from_page * kPage));
  auto* destination = reinterpret_cast<volatile uint64_t*>(Map(file, kPage, to_page * kPage));
  uint64_t copies = 0, wrong = 0;
  while (stop == 0) {
    *source = ++copies;
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (!edu.Copy(from, to, sizeof(copies)) || *destination != copies) ++wrong;
    if (copies == 1 && wrong == 0) {
      std::puts("copying");
      std::fflush(stdout);
    }
  }
  std::printf("copies %llu, wrong %llu\n", static_cast<unsigned long long>(copies),
              static_cast<unsigned long long>(wrong));
}

int Main(int argc, char** argv) {
  const std::string_view command = argc > 2 ? argv[2] : "";
  const auto number = [argv](int i) { return std::strtoull(argv[i], nullptr, 0); };
  if (command == "copy" && argc == 6) {
    Edu edu(argv[1]);
    return edu.Copy(number(3), number(4), number(5)) ? EXIT_SUCCESS : EXIT_FAILURE;
  }
  if (command == "loop" && argc == 8) {
    Edu edu(argv[1]);
    Loop(edu, number(3), number(4), argv[5], number(6), number(7));
    return EXIT_SUCCESS;
  }
  std::fprintf(stderr, "usage: viommu-edu DEVICE copy FROM TO BYTES | loop FROM TO FILE FROM_PAGE TO_PAGE\n");
  return 2;
}

}  // namespace
}  // namespace viommu::kernel

int main(int argc, char** argv) { return viommu::kernel::Main(argc, argv); }
