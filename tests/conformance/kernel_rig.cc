// The suite on the running kernel: iommufd, VFIO and the arm-smmu-v3 driver, with QEMU's "edu" devices in front.
//
// As root, on a machine where nobody else wants these devices; the rig gives them to vfio-pci. Options are
// GoogleTest's, and before them --no-canwbs where firmware says that devices can go around the cache, or --no-flaws to
// run, too, what is known to fail on QEMU.

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "agent/smmuv3/iommufd/iommufd_backend.h"
#include "agent/smmuv3/iommufd/kernel.h"
#include "agent/smmuv3/iommufd/sysfs.h"
#include "agent/smmuv3/iommufd/uapi.h"
#include "tests/conformance/rig.h"

namespace viommu::conformance {
namespace {

namespace uapi = agent::uapi;
using agent::Sysfs;

constexpr char kDeviceA0[] = "0000:00:02.0";
constexpr char kDeviceA1[] = "0000:00:03.0";
constexpr char kDeviceGroup0[] = "0000:00:05.0";
constexpr char kDeviceGroup1[] = "0000:00:05.1";
constexpr char kDeviceTwoStreams[] = "0000:02:01.0";  // its bridge speaks for it, too
constexpr const char* kDevices[] = {kDeviceA0, kDeviceA1, kDeviceGroup0, kDeviceGroup1, kDeviceTwoStreams};

// ---- The registers of one edu device --------------------------------------------------------------------------------

// An engine that copies between memory and 4 KiB of the device's own, which nobody but the engine reaches. A transfer
// begins 100 ms after its command (QEMU, docs/specs/edu.rst). What the SMMU refuses reads as zeros and is not written;
// the device does not tell.
class Edu {
 public:
  // Of an opened VFIO device that is bound to an iommufd. Null when its registers cannot be reached.
  static std::unique_ptr<Edu> Open(agent::Kernel& kernel, int device) {
    uapi::VfioRegionInfo bar{.argsz = sizeof(bar), .index = uapi::kVfioPciBar0};
    uapi::VfioRegionInfo config{.argsz = sizeof(config), .index = uapi::kVfioPciConfig};
    if (kernel.Ioctl(device, uapi::kVfioRegionInfo, &bar) < 0) return nullptr;
    if (kernel.Ioctl(device, uapi::kVfioRegionInfo, &config) < 0) return nullptr;
    // PCI_COMMAND: memory and bus master, which VFIO has switched off.
    const auto at = static_cast<off_t>(config.offset) + 4;
    uint16_t command = 0;
    if (::pread(device, &command, sizeof(command), at) != sizeof(command)) return nullptr;
    command |= 6;
    if (::pwrite(device, &command, sizeof(command), at) != sizeof(command)) return nullptr;
    void* registers = nullptr;
    if (kernel.Map(device, bar.offset, bar.size, true, true, &registers) < 0) return nullptr;
    return std::unique_ptr<Edu>(new Edu(&kernel, static_cast<std::byte*>(registers), bar.size));
  }
  ~Edu() { kernel_.Unmap(registers_, bytes_); }
  Edu(const Edu&) = delete;
  Edu& operator=(const Edu&) = delete;

  // From memory at `address` into the buffer at `offset`.
  void Load(uint64_t address, size_t offset, size_t bytes) { Transfer(address, kBuffer + offset, bytes, 0); }
  // The other way.
  void Store(uint64_t address, size_t offset, size_t bytes) { Transfer(kBuffer + offset, address, bytes, 2); }

 private:
  static constexpr uint64_t kBuffer = 0x40000;
  static constexpr size_t kSource = 0x80;
  static constexpr size_t kDestination = 0x88;
  static constexpr size_t kCount = 0x90;
  static constexpr size_t kCommand = 0x98;

  Edu(agent::Kernel* kernel, std::byte* registers, uint64_t bytes)
      : kernel_(*kernel), registers_(registers), bytes_(bytes) {}

  volatile uint64_t& Register(size_t offset) { return *reinterpret_cast<volatile uint64_t*>(registers_ + offset); }

  void Transfer(uint64_t source, uint64_t destination, uint64_t bytes, uint64_t direction) {
    Register(kSource) = source;
    Register(kDestination) = destination;
    Register(kCount) = bytes;
    std::atomic_thread_fence(std::memory_order_seq_cst);
    Register(kCommand) = 1 | direction;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while ((Register(kCommand) & 1) != 0) {
      if (std::chrono::steady_clock::now() > deadline) {
        std::cerr << "an edu device does not end its transfer" << std::endl;
        std::abort();
      }
      ::usleep(500);
    }
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }

  agent::Kernel& kernel_;
  std::byte* const registers_;
  const uint64_t bytes_;
};

// ---- Which of the backend's files are devices -----------------------------------------------------------------------

// The real kernel; and remembers, for each VFIO device, the file through which the backend has it, with its registers.
class WatchedKernel final : public agent::Kernel {
 public:
  struct Device {
    std::recursive_mutex mu;  // held while the device is at work, and when it goes
    int fd = -1;
    std::unique_ptr<Edu> edu;
  };

  // By VFIO's name.
  Device& Find(const std::string& vfio_name) {
    const std::lock_guard lock(mu_);
    return devices_[vfio_name];
  }

  std::string root() const override { return real_.root(); }
  int Open(const std::string& path) override {
    const int fd = real_.Open(path);
    constexpr std::string_view kFolder = "/dev/vfio/devices/";
    if (fd >= 0 && path.starts_with(kFolder)) {
      const std::lock_guard lock(mu_);
      names_[fd] = path.substr(kFolder.size());
    }
    return fd;
  }
  int Ioctl(int fd, unsigned long request, void* argument) override {
    const int result = real_.Ioctl(fd, request, argument);
    if (result >= 0 && request == uapi::kVfioBindIommufd) {
      if (Device* device = FindByFile(fd)) {
        const std::lock_guard lock(device->mu);
        device->fd = fd;
        device->edu.reset();
      }
    }
    return result;
  }
  void Close(int fd) override {
    Device* device = FindByFile(fd);
    if (device == nullptr) return real_.Close(fd);
    {
      const std::lock_guard lock(device->mu);
      if (device->fd == fd) {
        device->edu.reset();
        device->fd = -1;
      }
    }
    {
      const std::lock_guard lock(mu_);
      names_.erase(fd);
    }
    real_.Close(fd);
  }
  ssize_t Read(int fd, void* buffer, size_t bytes) override { return real_.Read(fd, buffer, bytes); }
  ssize_t Write(int fd, const void* buffer, size_t bytes) override { return real_.Write(fd, buffer, bytes); }
  int Duplicate(int fd) override { return real_.Duplicate(fd); }
  int Map(int fd, uint64_t offset, uint64_t length, bool readable, bool writable, void** address) override {
    return real_.Map(fd, offset, length, readable, writable, address);
  }
  void Unmap(void* address, uint64_t length) override { real_.Unmap(address, length); }

 private:
  Device* FindByFile(int fd) {
    const std::lock_guard lock(mu_);
    const auto name = names_.find(fd);
    return name == names_.end() ? nullptr : &devices_[name->second];
  }

  agent::Kernel& real_ = agent::RealKernel();
  std::mutex mu_;
  std::map<int, std::string> names_;
  std::map<std::string, Device> devices_;
};

// ---- Accesses -------------------------------------------------------------------------------------------------------

// What a device has read, it shows by writing it to the scratch page. What it writes, it fetches from there, and reads
// back. A refused access is one of four bytes, so that it is one fault, whatever bursts QEMU makes of longer ones.
// Memory of zeros cannot be told from memory that is refused: cases keep other things in theirs.
class EduEngine final : public DmaEngine {
 public:
  explicit EduEngine(WatchedKernel* kernel) : kernel_(*kernel) {}

  bool NeedsScratch() const override { return true; }
  void UseScratch(const DmaScratch& scratch) override { scratch_ = scratch; }

  bool Reaches(const std::string& device) const override {
    return std::find(std::begin(kDevices), std::end(kDevices), device) != std::end(kDevices);
  }
  bool HasPasids(const std::string&) const override { return false; }
  bool HasAts(const std::string&) const override { return false; }

  DmaAnswer Read(const DmaAddress& from, std::span<std::byte> out) override {
    return WithDevice(from.device, [&](Edu& edu) { return ReadWith(edu, from.address, out); });
  }
  DmaAnswer Write(const DmaAddress& to, std::span<const std::byte> in) override {
    return WithDevice(to.device, [&](Edu& edu) { return WriteWith(edu, to.address, in); });
  }

 private:
  static constexpr size_t kWord = 4;
  static constexpr std::byte kCanary{0xa5};

  template <typename Access>
  DmaAnswer WithDevice(const std::string& address, Access access) {
    const std::string vfio_name = Sysfs("").Find(address).vfio_name;
    WatchedKernel::Device& device = kernel_.Find(vfio_name);
    const std::lock_guard lock(device.mu);
    if (device.fd < 0) return {false, "the device is not bound"};
    if (device.edu == nullptr) device.edu = Edu::Open(kernel_, device.fd);
    if (device.edu == nullptr) return {false, "the device's registers cannot be reached"};
    // There is one scratch page for all.
    const std::lock_guard scratch_lock(scratch_mu_);
    return access(*device.edu);
  }

  // Shows what is in the device's buffer; false when the scratch page cannot be reached.
  bool Show(Edu& edu, size_t bytes) {
    for (size_t i = 0; i < scratch_.addresses.size(); ++i) {
      const uint64_t address = scratch_.addresses[(way_ + i) % scratch_.addresses.size()];
      std::memset(scratch_.data, static_cast<int>(kCanary), bytes);
      edu.Store(address, 0, bytes);
      for (size_t at = 0; at < bytes; ++at) {
        if (scratch_.data[at] == kCanary) continue;
        way_ = (way_ + i) % scratch_.addresses.size();
        return true;
      }
    }
    return false;
  }

  DmaAnswer ReadWith(Edu& edu, uint64_t address, std::span<std::byte> out) {
    for (size_t done = 0; done < out.size();) {
      // A part that lies in one page.
      const size_t part = std::min<size_t>(out.size() - done, 4096 - (address + done) % 4096);
      const size_t first = std::min(part, kWord);
      edu.Load(address + done, 0, first);
      if (!Show(edu, first)) return {false, "refused, and nothing can be shown"};
      if (IsZero(std::span(scratch_.data, first))) return {false, "refused, or zeros"};
      if (part > first) {
        edu.Load(address + done, 0, part);
        if (!Show(edu, part)) return {false, "refused on the way"};
      }
      std::memcpy(&out[done], scratch_.data, part);
      done += part;
    }
    return {true, "done"};
  }

  DmaAnswer WriteWith(Edu& edu, uint64_t address, std::span<const std::byte> in) {
    const bool reachable = Show(edu, kWord);
    for (size_t done = 0; done < in.size();) {
      const size_t part = std::min<size_t>(in.size() - done, 4096 - (address + done) % 4096);
      const size_t first = std::min(part, kWord);
      if (reachable) {
        std::memcpy(scratch_.data, &in[done], part);
        edu.Load(scratch_.addresses[way_], 0, part);
      }
      edu.Store(address + done, 0, first);
      if (!reachable) return {false, "refused, as the scratch page is"};
      edu.Load(address + done, 0, first);
      if (!Show(edu, first) || std::memcmp(scratch_.data, &in[done], first) != 0) return {false, "refused"};
      if (part > first) edu.Store(address + done + first, first, part - first);
      done += part;
    }
    return {true, "done"};
  }

  static bool IsZero(std::span<const std::byte> bytes) {
    for (const std::byte byte : bytes) {
      if (byte != std::byte{0}) return false;
    }
    return true;
  }

  WatchedKernel& kernel_;
  std::mutex scratch_mu_;
  DmaScratch scratch_;
  size_t way_ = 0;  // the address by which the scratch page was reached last
};

// ---- The rig --------------------------------------------------------------------------------------------------------

// What fails on QEMU 10.0 and is taken for its SMMU's doing, by a part of the case's name (docs/kernel-differences.md).
struct HardwareFlaw {
  std::string_view part;
  const char* reason;
};
constexpr HardwareFlaw kQemuFlaws[] = {
    {"DmaStage1.TableThatForbidsWritingAfterARead", "QEMU's TLB keeps what a page allows, and not what its table does"},
    {"GlobalByNhVaOtherAsid", "QEMU's TLB gives global entries an ASID"},
    {"DmaUnmap.OfTheGuestsTables", "QEMU's SMMU walks through a stage-2 entry after its TLBI_S2_IPA"},
};

// Cases of stage-1 pages and blocks that are larger than 4 KiB, which QEMU translates and invalidates as it should only
// where stage 2 is no finer: by parts of their names.
constexpr std::string_view kLargePages[] = {"DmaLevel.", "DmaTlbMore.BlockSplitIntoPages",
                                            "DmaTlbMore.AnyAddressOfABlockReachesIt"};

class KernelRig final : public Rig {
 public:
  struct Options {
    bool around_cache = false;
    bool flaws = true;  // what fails on QEMU is left out
  };
  KernelRig(agent::Backend* backend, WatchedKernel* kernel, Options options)
      : backend_(*backend), dma_(kernel), options_(options) {}

  agent::Backend& backend() override { return backend_; }
  const Expectations& expectations() const override { return kLinux72; }
  DmaEngine* dma() override { return &dma_; }
  std::string Flaw(std::string_view name) const override {
    if (!options_.flaws) return "";
    for (const HardwareFlaw& flaw : kQemuFlaws) {
      if (name.find(flaw.part) != std::string_view::npos) return flaw.reason;
    }
    return "";
  }
  bool WantsHugePages(std::string_view name) const override {
    return std::any_of(std::begin(kLargePages), std::end(kLargePages),
                       [name](std::string_view part) { return name.find(part) != std::string_view::npos; });
  }
  // An access takes half a second.
  int Rounds(int wanted) const override { return std::max(3, wanted / 20); }
  std::string Device(Role role) const override {
    switch (role) {
      case Role::kA0:
        return kDeviceA0;
      case Role::kA1:
        return kDeviceA1;
      case Role::kGroup0:
        return kDeviceGroup0;
      case Role::kGroup1:
        return kDeviceGroup1;
      case Role::kTwoStreams:
        return kDeviceTwoStreams;
      case Role::kAroundCache:
        return options_.around_cache ? kDeviceA0 : "";
      default:
        return "";
    }
  }

 private:
  agent::Backend& backend_;
  EduEngine dma_;
  const Options options_;
};

int Main(int argc, char** argv) {
  static WatchedKernel kernel;
  agent::IommufdBackend::Options options;
  options.bind.assign(std::begin(kDevices), std::end(kDevices));
  options.on_left_out = [](const std::string& device, const absl::Status& why) {
    std::cerr << device << " is left out: " << why << std::endl;
  };
  // One for all cases: they share the machine anyway.
  auto backend = agent::IommufdBackend::Create(&kernel, std::move(options));
  if (!backend.ok()) {
    std::cerr << backend.status() << std::endl;
    return EXIT_FAILURE;
  }
  for (const agent::Capability& ability : (*backend)->GetCapabilities().others) {
    std::printf("%-24s %-3s %s\n", ability.name.c_str(), ability.available ? "yes" : "no", ability.reason.c_str());
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const std::string_view option = argc > 1 ? argv[1] : "";
  const KernelRig::Options rig_options{.around_cache = option == "--no-canwbs", .flaws = option != "--no-flaws"};
  RegisterRig({"iommufd", [&backend, rig_options](const RigRequest&) -> std::unique_ptr<Rig> {
                 return std::make_unique<KernelRig>(backend->get(), &kernel, rig_options);
               }});
  return RunSuite(argc, argv);
}

}  // namespace
}  // namespace viommu::conformance

int main(int argc, char** argv) { return viommu::conformance::Main(argc, argv); }
